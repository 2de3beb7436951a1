"""What plugins see of a message, and what they add to it, while it passes.

Where a plugin asks for the whole message in a file, all of it is held back, in
that file: not a byte then goes to the back end before every plugin has agreed.
"""

from __future__ import annotations

from ..decision import REFUSALS
from ..facts import Message
from ..policy import stages
from ..smtp import replies
from ..smtp.header import LINE_LIMIT, split_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ..facts import Client, Envelope, Reply, Ruling
    from ..policy.backend import BackEnd
    from ..policy.hooks import Hooks

CHUNK = 65536


class Inspection:
    """Shows a message to the plugins, and passes on to the back end what they let pass.

    `first` is our Received, which stands in front of the message, with what plugins
    add above and below it.  `refusal` is what a plugin has against it; nothing is
    then passed on any more.
    Raises OSError where there is no place for a file that a plugin wants.
    """

    __slots__ = (
        "refusal",
        "_hooks",
        "_client",
        "_envelope",
        "_back_end",
        "_first",
        "_message",
        "_spool",
        "_gap",
    )

    def __init__(
        self, hooks: Hooks, client: Client, envelope: Envelope, back_end: BackEnd, first: bytes
    ) -> None:
        self.refusal: Reply | None = None
        self._hooks = hooks
        self._client = client
        self._envelope = envelope
        self._back_end = back_end
        self._first = first
        self._message = Message()
        self._spool = Spool() if hooks.order.spools else None
        self._gap = b"\n"  # the empty line between header and body is not shown

    @property
    def ends_session(self) -> bool:
        """Is there a refusal with which the session ends?"""
        return self.refusal is not None and self.refusal.end is not None

    def header(self, text: bytes, whole: bool) -> None:
        """The header; `whole`: no more of it will come as body."""
        self._message.header, length = split_header(text)
        self._message.whole_header = whole and text.count(b"\n") < LINE_LIMIT
        ruling = self._hooks.ask(stages.HEADER, self._client, self._envelope, self._message)
        if self._refuses(ruling):
            return
        if length < len(text):  # what is no header line ends the header, and is body
            self._gap = b""
            self._show(text[length:])
        if self._spool is None:
            text = self._hooks.with_lines(self._first) + text
        self._pass_on(text)

    def body(self, text: bytes) -> None:
        """More of the body; the first time, behind the empty line."""
        shown = text.removeprefix(self._gap)
        self._gap = b""
        if shown:
            self._show(shown)
        self._pass_on(text)

    def judge(self, size: int, hops: int) -> None:
        """The whole message has been seen: ask the plugins; `size` is in bytes.

        Where none refuses, the back end has been given all of it.
        """
        if self.refusal is not None:
            return
        self._message.size = size
        self._message.hops = hops
        try:
            if self._spool is not None:
                self._message.file = self._spool.reader()
            ruling = self._hooks.ask(stages.DATA_POST, self._client, self._envelope, self._message)
            if not self._refuses(ruling) and self._spool is not None:
                self._back_end.feed(self._hooks.with_lines(self._first))
                for chunk in self._spool.chunks():
                    self._back_end.feed(chunk)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Nothing of it is wanted any more."""
        if self._spool is not None:
            self._spool.close()

    def _show(self, text: bytes) -> None:
        if self.refusal is None:
            self._refuses(self._hooks.body(self._client, self._envelope, text))

    def _pass_on(self, text: bytes) -> None:
        if self.refusal is not None:
            return
        if self._spool is None:
            self._back_end.feed(text)
            return
        try:
            self._spool.write(text)
        except OSError as error:  # no space left, say
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._hooks.log_trouble(error)
        self.refusal = replies.SPOOL_TROUBLE

    def _refuses(self, ruling: Ruling | None) -> bool:
        if ruling is None or ruling.decision.verdict not in REFUSALS:
            return False
        self.refusal = stages.reply_to(ruling)
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
