"""Cannot say whether a header field is to go."""

from __future__ import annotations

from qsmtpd.decision import decline


def header(client, envelope, message):
    return decline(remove={b"X-Note": _fail})


def _fail(value):
    raise RuntimeError("on purpose")
