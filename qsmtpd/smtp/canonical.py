"""The canonical forms of a message that a signature is over (RFC 6376, 3.4), as it streams by.

A message has LF line ends here, and a signature is over one with CRLF.  A CR without an LF
is text like any other.
"""

from __future__ import annotations

from hashlib import sha256

from .header import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_WSP = b" \t"
_LINES = 4096  # empty lines that are hashed at once


def fields(header: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a header, with LF line ends: (name in lower case, all of it).

    Lines are those that header.split_header() takes for a header, without a line of mbox.
    """
    found: list[tuple[bytes, bytes]] = []
    start = 0
    while start < len(header):
        end = header.find(b"\n", start) + 1 or len(header)
        while header[end : end + 1] in (b" ", b"\t"):
            end = header.find(b"\n", end) + 1 or len(header)
        field = header[start:end]
        name, colon, _ = field.partition(b":")
        if colon and is_name(name.rstrip(_WSP)):
            found.append((name.rstrip(_WSP).lower(), field))
        start = end
    return found


def simple_field(field: bytes) -> bytes:
    """A field, with its last line end or without, as it is."""
    return field.replace(b"\n", b"\r\n")


def relaxed_field(field: bytes) -> bytes:
    """A field in one line, with its line end; its name in lower case, and single blanks."""
    name, _, value = field.partition(b":")
    value = _single_blanks(value.replace(b"\n", b"")).strip(b" ")
    return name.rstrip(_WSP).lower() + b":" + value + b"\r\n"


def _single_blanks(text: bytes) -> bytes:
    text = text.replace(b"\t", b" ")
    while b"  " in text:  # it is halved each time
        text = text.replace(b"  ", b" ")
    return text


class BodyHash:
    """The hash (SHA-256) of a body, canonical; and those of its beginnings of some lengths.

    feed() it in pieces with LF line ends, then ask for digest().  `size` is how many bytes
    it has in that form.
    """

    __slots__ = ("size", "_relaxed", "_hashes", "_lines", "_blank")

    def __init__(self, relaxed: bool, lengths: Iterable[int | None] = (None,)) -> None:
        self.size = 0
        self._relaxed = relaxed
        self._hashes = {length: sha256() for length in lengths}
        self._lines = 0  # line ends that count if text follows
        self._blank = False  # so does a blank

    def feed(self, text: bytes) -> None:
        """More of the body."""
        if self._relaxed:
            if self._blank:
                text = b" " + text
            text = _single_blanks(text).replace(b" \n", b"\n")
            self._blank = text.endswith(b" ")
            text = text.removesuffix(b" ")
        kept = text.rstrip(b"\n")
        if kept:
            self._end_lines()
            self._hash(kept.replace(b"\n", b"\r\n"))
        self._lines += len(text) - len(kept)

    def digest(self, length: int | None = None) -> bytes:
        """The hash of all of it, or of so much; there is no more of the body."""
        # The last line ends with one CRLF; without a line, that is all in the simple form.
        if (self.size or not self._relaxed) and self._lines >= 0:
            self._hash(b"\r\n")
        self._lines = -1
        return self._hashes[length].digest()

    def _end_lines(self) -> None:
        while self._lines:
            count = min(self._lines, _LINES)
            self._hash(b"\r\n" * count)
            self._lines -= count

    def _hash(self, text: bytes) -> None:
        for length, found in self._hashes.items():
            found.update(text if length is None else text[: max(0, length - self.size)])
        self.size += len(text)
