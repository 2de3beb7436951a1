"""said: what somebody else says, for a reply."""

from __future__ import annotations

LIMIT = 200  # bytes
PRINTABLE = bytes(byte if 32 <= byte < 127 else 0x3F for byte in range(256))


def said(text: bytes, limit: int = LIMIT) -> bytes:
    """So much of it, printable, and without what would be taken for the status of the reply."""
    return text[:limit].translate(PRINTABLE).replace(b"(#", b"( #")
