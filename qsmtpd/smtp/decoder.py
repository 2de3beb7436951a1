"""The decoders: what arrives behind 354, or in chunks -> what the queue is given.

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


class Decoder:
    """Feed it chunks until `ended`; `rest` is then what came after the end.

    With `normalize`, a bare LF is a line end of the text (but never part of the end of data,
    and no dot is removed behind it); without, it raises BareLF.
    """

    __slots__ = (
        "ended",
        "rest",
        "_normalize",
        "_held",
        "_first",
    )

    def __init__(self, normalize: bool = False) -> None:
        self.ended = False
        self.rest = b""
        self._normalize = normalize
        self._held = b"\r\n"  # the end of the DATA command's own line
        self._first = True

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
        decoded = self._decode(text, dots)
        if self._first:
            decoded = decoded[1:]  # the LF of the DATA command's line
            self._first = False
        return decoded

    def _decode(self, text: bytes, dots: bool) -> bytes:
        """The text with LF line ends and without dot-stuffing.  Raises BareLF.

        `dots`: some line begins with one.
        """
        lines = _line_ends(text)
        if lines is not None:
            return _remove_dots(lines, b"\n") if dots else lines
        if not self._normalize:
            raise BareLF
        return _remove_dots(text, b"\r\n").replace(b"\r\n", b"\n")


class ChunkDecoder:
    """Feed it the bytes of BDAT's chunks, however they are cut, and then end() (RFC 3030, 2).

    Nothing in them means anything but CRLF, which becomes LF.  With `normalize`,
    a bare LF is a line end as well; without, it raises BareLF.
    """

    __slots__ = ("_normalize", "_held", "_last")

    def __init__(self, normalize: bool = False) -> None:
        self._normalize = normalize
        self._held = b""  # a CR: half of a line end, perhaps
        self._last = b"\n"  # the last byte of the text so far

    def feed(self, chunk: bytes) -> bytes:
        """Decode the next bytes; return text with LF line ends."""
        text = self._held + chunk
        self._held = b""
        if text.endswith(b"\r"):
            self._held = b"\r"
            text = text[:-1]
        if not text:
            return b""
        lines = _line_ends(text)
        if lines is None:
            if not self._normalize:
                raise BareLF
            lines = text.replace(b"\r\n", b"\n")
        self._last = lines[-1:]
        return lines

    def end(self) -> bytes:
        """The end of the text: that of its last line, where it has none."""
        rest = self.rest()
        if rest or self._last != b"\n":
            rest += b"\n"
        return rest

    def rest(self) -> bytes:
        """The end of the text, where its last line need not end: what still waits for an LF."""
        rest, self._held = self._held, b""
        return rest


def _line_ends(text: bytes) -> bytes | None:
    """The text with LF for each CRLF; None where it has a bare LF.  A lone CR passes."""
    lines = text.replace(b"\r", b"")
    # Where that can be undone, each CR and each LF was half of a CRLF.
    if lines.replace(b"\n", b"\r\n") != text:
        lines = text.replace(b"\r\n", b"\n")
        if lines.count(b"\n") != len(text) - len(lines):
            return None
    return lines


def _remove_dots(text: bytes, line_end: bytes) -> bytes:
    """Remove the leading dot of every line (RFC 5321, 4.5.2).

    Like qmail-smtpd, not where a lone CR follows it: no conforming client
    sends that, and the byte pair has to arrive as it was sent.
    """
    text = text.replace(line_end + b".\r", line_end + b"..\r")
    return text.replace(line_end + b".", line_end)
