"""What plugins see of a message, and what they add to it, while it passes.

The header is held back until its end, or until it is longer than anybody's, so
that plugins can refuse there and add lines in front of it.  Where a plugin asks
for the whole message in a file, all of it is held back, in that file; not a
byte then goes to the back end before every plugin has agreed.
"""

from __future__ import annotations

from ..decision import REFUSALS, defer
from ..facts import Message, Ruling
from ..smtp import replies
from ..smtp.header import LINE_LIMIT, split_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ..facts import Client, Envelope
    from ..policy.backend import BackEnd
    from ..policy.hooks import Hooks

#: A longer header is shown as far as this (bytes).
HEADER_LIMIT = 256 * 1024
CHUNK = 65536


class Inspection:
    """Feed it the decoded text; `refusal` is then what a plugin had against it, or None.

    `first` stands in front of the message, before what plugins add.
    """

    __slots__ = (
        "refusal",
        "_hooks",
        "_client",
        "_envelope",
        "_first",
        "_head",
        "_message",
        "_spool",
        "_ended",
    )

    def __init__(self, hooks: Hooks, client: Client, envelope: Envelope, first: bytes) -> None:
        self.refusal: Ruling | None = None
        self._hooks = hooks
        self._client = client
        self._envelope = envelope
        self._first = first
        self._head: bytearray | None = bytearray(b"\n")  # the header so far, behind a line end
        self._message = Message()
        self._spool = Spool() if hooks.spools else None
        self._ended = False

    def feed(self, text: bytes, last: bool) -> bytes:
        """The text to pass on now; `last`: no more will come."""
        if self._ended or self.refusal is not None:
            return b""
        body = text
        if self._head is not None:
            searched = len(self._head) - 1
            self._head += text
            end = self._head.find(b"\n\n", searched)
            if end < 0 and not last and len(self._head) <= HEADER_LIMIT:
                return b""
            whole = bytes(self._head[1:])
            self._head = None
            limit = end if end >= 0 else HEADER_LIMIT
            lines = whole.count(b"\n", 0, limit)
            self._message.whole_header = (end >= 0 or last) and lines < LINE_LIMIT
            self._message.header, length = split_header(whole[:limit])
            # What is not shown as header is shown as body, without the empty line between.
            body = whole[length:] if length < limit else whole[limit:].removeprefix(b"\n")
            if self._refuses(
                self._hooks.ask("header", self._client, self._envelope, self._message)
            ):
                return b""
            text = whole
            if self._spool is None:
                text = self._first + self._hooks.header_lines() + whole
        if body and self._refuses(self._hooks.body(self._client, self._envelope, body)):
            return b""
        if self._spool is None:
            return text
        try:
            self._spool.write(text)
        except OSError as error:  # no space left, say
            self._hooks.log_trouble(error)
            decision = defer(b"trouble with the spool", status=b"4.3.0")
            self.refusal = Ruling("data_post", "", decision, reply=replies.SPOOL_TROUBLE)
        return b""

    def judge(self, size: int, hops: int) -> Ruling:
        """The whole message has been seen: what do the plugins say?  Raises OSError."""
        if self.refusal is not None:
            return self.refusal
        self._message.size = size
        self._message.hops = hops
        if self._spool is not None:
            self._message.file = self._spool.reader()
        return self._hooks.ask("data_post", self._client, self._envelope, self._message)

    def hand_over(self, back_end: BackEnd) -> None:
        """Give the back end what was held back for the plugins."""
        if self._spool is not None:
            back_end.feed(self._first + self._hooks.header_lines())
            for chunk in self._spool.chunks():
                back_end.feed(chunk)

    def end(self) -> None:
        """Nothing of it is wanted any more."""
        self._ended = True
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _refuses(self, ruling: Ruling | None) -> bool:
        if ruling is None or ruling.decision.verdict not in REFUSALS:
            return False
        self.refusal = ruling
        return True


class Spool:
    """A file without a name, in TMPDIR or /tmp.  Every method raises OSError."""

    __slots__ = ("_writer", "_reader")

    def __init__(self) -> None:
        import os
        import tempfile

        fd, path = tempfile.mkstemp(prefix="qsmtpd-")
        self._writer = open(fd, "r+b", buffering=0)
        # Another open file: a plugin can read it, and seek in it, and not change it.
        self._reader = open(path, "rb", buffering=0)
        os.unlink(path)

    def write(self, text: bytes) -> None:
        """Append."""
        view = memoryview(text)
        while view:
            view = view[self._writer.write(view) :]

    def reader(self) -> BinaryIO:
        """The file for plugins, at its beginning."""
        self._reader.seek(0)
        return self._reader

    def chunks(self) -> Iterator[bytes]:
        """All of it, whatever the plugins have done with their file."""
        import os

        place = 0
        while chunk := os.pread(self._writer.fileno(), CHUNK, place):
            place += len(chunk)
            yield chunk

    def close(self) -> None:
        """Give the space back."""
        self._writer.close()
        self._reader.close()
