"""SPAMCONTROL's REPLY_ variables: what an administrator adds to a refusal."""

from __future__ import annotations

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings

#: So that no reply grows beyond what RFC 5321, 4.5.3.1.5 allows (512 bytes).
LIMIT = 300


def worded(settings: Settings, text: bytes, variable: str) -> bytes:
    """The text, with what the variable adds behind it.  Raises ControlError."""
    extra = settings.line(None, variable)
    if not extra:
        return text
    if len(extra) > LIMIT or not all(32 <= byte < 127 for byte in extra):
        raise ControlError(variable, f"is no text of at most {LIMIT} printable characters")
    return text + b" " + extra
