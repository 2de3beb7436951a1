"""What goes wrong with TLS, and how it is said."""

from __future__ import annotations

from ..facts import TLS_FAILED, Lost


class Unavailable(Exception):
    """TLS cannot be had, although it is configured: the reason.  Plain mail goes on."""


class HandshakeFailed(Lost):
    """There is no TLS, and no way back to plain text: the reason."""

    end = TLS_FAILED


class NeverSpoke(HandshakeFailed):
    """The client has gone before its first byte."""


class WithoutText(Lost):
    """The client sends TLS records without text, and no end of them."""

    end = "tls-without-text"


def explain(error: Exception) -> str:
    """One line: pyOpenSSL's errors hold a list of (library, function, reason)."""
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(reason[-1]) for reason in reasons) or str(error) or type(error).__name__
