"""REPLY_ variables: what an administrator adds to a refusal, and nothing else.

What a client then hears is in transcripts/filters-wording.txt.
"""

from __future__ import annotations

import pytest

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import EXTRA_TEXT_LIMIT as LIMIT
from qsmtpd.config.settings import Settings
from qsmtpd.facts import ControlError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, b"sorry"),
        (b"", b"sorry"),
        (b"ask me", b"sorry ask me"),
        (b"x" * LIMIT, b"sorry " + b"x" * LIMIT),
        (b"x" * (LIMIT + 1), None),
        (b"a\r\n250 ok", None),
        (b"a\tb", None),
        (b"caf\xe9", None),
        (b"\x7f", None),
    ],
)
def test_worded(value: bytes | None, text: bytes | None) -> None:
    environ = {} if value is None else {b"REPLY_X": value}
    settings = Settings(ControlFiles(b"/nonexistent"), environ)
    if text is not None:
        assert settings.worded(b"sorry", "REPLY_X") == text
        return
    with pytest.raises(ControlError) as caught:
        settings.worded(b"sorry", "REPLY_X")
    assert caught.value.name == "REPLY_X"
