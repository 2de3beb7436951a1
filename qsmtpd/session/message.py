"""A message as a stream: decoded text goes in; its header, its body and its end come out.

This is the one place that finds the end of a header, and its limit is the only
one.  Where the text comes from (DATA) and who looks at the parts is for
data.py.
"""

from __future__ import annotations

from ..smtp.header import HEADER_LIMIT as HEADER_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER, BODY, END = "header", "body", "end"


class MessageStream:
    """One message.

    `whole`: all of the header was found; False where it is longer than
    HEADER_LIMIT.
    """

    __slots__ = ("whole", "_held")

    def __init__(self) -> None:
        self.whole = False
        self._held: bytearray | None = bytearray(b"\n")  # the header so far, behind a line end

    def feed(self, text: bytes, last: bool) -> Iterator[tuple[str, bytes]]:
        """Yield the parts that are complete with this text: (HEADER, BODY or END, bytes).

        There is one HEADER, its lines with their LF (it may be empty), then
        BODY as it comes, of which the first begins with the empty line, and,
        with `last`, one END.
        """
        if self._held is None:
            if text:
                yield BODY, text
        else:
            searched = len(self._held) - 1
            self._held += text
            end = self._held.find(b"\n\n", searched, HEADER_LIMIT + 2)
            size = len(self._held) - 1
            if end < 0 and not last and size <= HEADER_LIMIT:
                return
            self.whole = end >= 0 or size <= HEADER_LIMIT
            if end < 0:
                end = min(size, HEADER_LIMIT)
            header, body = bytes(self._held[1 : end + 1]), bytes(self._held[end + 1 :])
            self._held = None
            yield HEADER, header
            if body:
                yield BODY, body
        if last:
            yield END, b""
