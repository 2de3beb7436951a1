"""The DATA decoder: what arrives after 354 -> what the queue is given.

Only CRLF . CRLF ends a message (RFC 5321, 4.1.1.4); the CRLF of the DATA
command itself counts as the first one.  Every other sequence that some server
somewhere takes for an end is text, or is refused: a bare LF makes two servers
disagree on where a message ends (SMTP smuggling), so by default it is an error.

The work is done on whole chunks, with find and replace; no line is ever looked
at by itself, and at most four bytes wait for the next chunk.  What is usual is
done by what is quick: to replace one byte takes a tenth of the time that it
takes to replace two, and rfind is quicker than find.
"""

from __future__ import annotations

from .command import BareLF

_END = b"\r\n.\r\n"
_DOT = b"\r\n."
#: The longest first: what could still become _END.
_PARTS = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")

#: Only so much of a header is searched for hops.  Each host puts its Received
#: line on top, so a loop shows there.
HEADER_LIMIT = 256 * 1024

_RECEIVED = b"\nreceived"
_DELIVERED = b"\ndelivered"


class Decoder:
    """Feed it chunks until `ended`; `rest` is then what came after the end.

    `size` counts the decoded bytes, `hops` the Received and Delivered lines of
    the header.  With `normalize`, a bare LF is a line end of the text (but
    never part of the end of data, and no dot is removed behind it); without,
    it raises BareLF.
    """

    __slots__ = (
        "ended",
        "rest",
        "size",
        "hops",
        "_normalize",
        "_held",
        "_first",
        "_header",
        "_tail",
    )

    def __init__(self, normalize: bool = False) -> None:
        self.ended = False
        self.rest = b""
        self.size = 0
        self.hops = 0
        self._normalize = normalize
        self._held = b"\r\n"  # the end of the DATA command's own line
        self._first = True
        self._header = HEADER_LIMIT  # bytes of header that may still be searched
        self._tail = b"\n"  # the end of the header seen so far: it may begin a hop line

    def feed(self, chunk: bytes) -> bytes:
        """Decode the next bytes; return text with LF line ends and without dot-stuffing."""
        text = self._held + chunk if self._held else chunk
        dots = text.rfind(_DOT) >= 0
        end = text.find(_END) if dots else -1
        if end >= 0:
            self.ended = True
            self.rest = text[end + len(_END) :]
            text = text[: end + 2]
            self._held = b""
        else:
            self._held = b""
            for part in _PARTS:
                if text.endswith(part):
                    self._held = part
                    text = text[: -len(part)]
                    break
        if not text:
            return b""
        lines, decoded = self._decode(text, dots)
        if self._first:
            decoded = decoded[1:]  # the LF of the DATA command's line
            lines = lines[1:]
            self._first = False
        self.size += len(decoded)
        if self._header > 0:
            self._count_hops(lines)
        return decoded

    def _decode(self, text: bytes, dots: bool) -> tuple[bytes, bytes]:
        """(the text with LF line ends, the same without dot-stuffing).  Raises BareLF.

        `dots`: some line begins with one.
        """
        lines = text.replace(b"\r", b"")
        # Where that can be undone, each CR and each LF was half of a CRLF.
        if lines.replace(b"\n", b"\r\n") != text:
            lines = text.replace(b"\r\n", b"\n")  # a lone CR passes
            if lines.count(b"\n") != len(text) - len(lines):
                if not self._normalize:
                    raise BareLF
                return lines, _remove_dots(text, b"\r\n").replace(b"\r\n", b"\n")
        return lines, _remove_dots(lines, b"\n") if dots else lines

    def _count_hops(self, lines: bytes) -> None:
        # As they were sent: with its dot, a stuffed line is no hop (qmail-smtpd).
        header = self._tail + lines[: self._header].lower()
        self._header -= len(lines)
        end = header.find(b"\n\n")
        if end >= 0:
            header = header[:end]
            self._header = 0
        self.hops += header.count(_RECEIVED) + header.count(_DELIVERED)
        # Keep an unfinished line start, unless it has been counted already.
        start = header.rfind(b"\n")
        self._tail = header[start:] if start >= 0 and len(header) - start < len(_DELIVERED) else b""
        if self._tail.startswith(_RECEIVED):
            self._tail = b""


def _remove_dots(text: bytes, line_end: bytes) -> bytes:
    """Remove the leading dot of every line (RFC 5321, 4.5.2).

    Like qmail-smtpd, not where a lone CR follows it: no conforming client
    sends that, and the byte pair has to arrive as it was sent.
    """
    text = text.replace(line_end + b".\r", line_end + b"..\r")
    return text.replace(line_end + b".", line_end)
