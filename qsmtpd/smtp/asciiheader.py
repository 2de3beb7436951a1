"""Is the header of a message ASCII?  A host without SMTPUTF8 takes no other (RFC 6531, 3.6)."""

from __future__ import annotations

from .header import is_name


class AsciiHeader:
    """Looks at a message as it passes: header() once, then body() for each part.

    Each says whether the header is ASCII so far.  What is no header line ends
    it, and of one that is cut the rest is looked for in the body.
    """

    __slots__ = ("_last", "_open")

    def __init__(self) -> None:
        self._last = b""
        self._open = False

    def header(self, text: bytes, whole: bool) -> bool:
        """`whole`: this is all of it."""
        if whole and text.isascii():
            return True
        end = _end(text)
        self._open = not whole and end > text.rfind(b"\n")  # the last line may have been cut
        self._last = text[-1:]
        return (text if self._open else text[:end]).isascii()

    def body(self, text: bytes) -> bool:
        """What follows: to an empty line it may be header."""
        if not self._open:
            return True
        more = self._last + text
        end = more.find(b"\n\n")
        self._open = end < 0
        self._last = more[-1:]
        return (more if end < 0 else more[:end]).isascii()


def _end(text: bytes) -> int:
    """Where the header lines end, however many there are."""
    size = 0
    for number, line in enumerate(text.split(b"\n")):
        name, colon, _ = line.partition(b":")
        is_line = bool(colon) and is_name(name.rstrip(b" \t"))
        is_mbox = number == 0 and line.startswith((b"From ", b">From "))
        if not (is_line or is_mbox or (size and line.startswith((b" ", b"\t")))):
            break
        size += len(line) + 1
    return min(size, len(text))
