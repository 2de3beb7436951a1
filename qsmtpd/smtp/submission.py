"""What a submission server adds to a message: Date and Message-ID (RFC 6409, 8).

The message passes through as it comes; only the end of its header is looked
for.  A header that has the lines is never changed.
"""

from __future__ import annotations

#: A longer header is left alone.
HEADER_LIMIT = 256 * 1024


class HeaderFiller:
    """Feed it the decoded message; it adds what the header lacks where that ends.

    `missing` maps the name of a line, in lower case, to the whole line, with
    its LF.
    """

    __slots__ = ("_missing", "_seen", "_done")

    def __init__(self, missing: dict[bytes, bytes]) -> None:
        self._missing = missing
        self._seen = bytearray(b"\n")  # the header so far, behind a line end
        self._done = False

    def feed(self, text: bytes, last: bool = False) -> bytes:
        """The text to pass on now.  `last`: no more will come."""
        if self._done:
            return text
        searched = len(self._seen) - 1
        self._seen += text
        end = self._seen.find(b"\n\n", searched)
        if end < 0 and not last and len(self._seen) <= HEADER_LIMIT:
            return b""
        self._done = True
        whole = bytes(self._seen[1:])
        self._seen.clear()
        if end < 0 and not last:
            return whole
        if end < 0:
            end = len(whole)
        header = whole[:end]
        if header and not _is_header(header):
            return whole
        names = {line.partition(b":")[0].rstrip(b" \t").lower() for line in header.split(b"\n")}
        lines = [line for name, line in self._missing.items() if name not in names]
        gap = b"\n" if header and not header.endswith(b"\n") else b""
        return header + gap + b"".join(lines) + whole[end:]


def _is_header(text: bytes) -> bool:
    """Does it begin with a header line, `name:`?"""
    name, colon, _ = text.partition(b"\n")[0].partition(b":")
    return bool(colon) and bool(name) and all(33 <= byte <= 126 for byte in name.rstrip(b" \t"))
