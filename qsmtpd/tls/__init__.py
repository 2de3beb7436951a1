"""TLS in one of three ways.

1. In this process, with pyOpenSSL: STARTTLS, or before the greeting (openssl.py).
2. UCSPI-TLS: a helper of the UCSPI server does it when we ask (ucspitls.py).
3. In front of us: the server or a proxy has done it (external.py reads what it says).

provider.py decides which.  Nothing here knows SMTP, and nothing but openssl.py,
context.py and authorities.py imports pyOpenSSL, which costs more than all the
rest of a session.
"""

from __future__ import annotations

from ..facts import Lost


class Unavailable(Exception):
    """TLS cannot be had, although it is configured: the reason.  Plain mail goes on."""


class HandshakeFailed(Exception):
    """There is no TLS, and no way back to plain text: the reason."""


class WithoutText(Lost):
    """The client sends TLS records without text, and no end of them."""


def explain(error: Exception) -> str:
    """One line: pyOpenSSL's errors hold a list of (library, function, reason)."""
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(reason[-1]) for reason in reasons) or str(error) or type(error).__name__
