"""What plugins see of a message, and what they add to it, while it passes.

Where a plugin asks for the whole message in a file, all of it is held back, in
that file: not a byte then goes to the back end before every plugin has agreed.
"""

from __future__ import annotations

from ..decision import DISCARD, REFUSALS
from ..facts import Message
from ..policy import stages
from ..smtp import replies
from ..smtp.header import LINE_LIMIT, split_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Client, Envelope, Reply, Ruling
    from ..policy.backend import BackEnd
    from ..policy.hooks import Hooks
    from ..policy.spool import SpooledMessage
    from .removals import Removals


class Inspection:
    """Shows a message to the plugins, and passes on to the back end what they let pass.

    `first` is our Received, which stands in front of the message, with what plugins
    add above and below it.  `refusal` is what a plugin has against it; nothing is
    then passed on any more.  `discarded` is whose word it is that it is taken, and
    goes nowhere.
    Raises OSError where there is no place for a file that a plugin wants.
    """

    __slots__ = (
        "refusal",
        "discarded",
        "_hooks",
        "_client",
        "_envelope",
        "_back_end",
        "_first",
        "_message",
        "_spooled",
        "_gap",
        "_removals",
    )

    def __init__(
        self, hooks: Hooks, client: Client, envelope: Envelope, back_end: BackEnd, first: bytes
    ) -> None:
        self.refusal: Reply | None = None
        self.discarded: Ruling | None = None
        self._hooks = hooks
        self._client = client
        self._envelope = envelope
        self._back_end = back_end
        self._first = first
        self._message = Message()
        self._spooled: SpooledMessage | None = None  # the same, where it is held back
        if hooks.order.spools(client):
            from ..policy.spool import SpooledMessage

            self._message = self._spooled = SpooledMessage()
        self._gap = b"\n"  # the empty line between header and body is not shown
        self._removals: Removals | None = None

    def header(self, text: bytes, whole: bool) -> None:
        """The header; `whole`: no more of it will come as body."""
        self._message.header, length = split_header(text)
        self._message.whole_header = whole and text.count(b"\n") < LINE_LIMIT
        self._message.broken_header = length < len(text)
        ruling = self._hooks.ask(stages.HEADER, self._client, self._envelope, self._message)
        if self._refuses(ruling):
            return
        if self._hooks.removals:
            text, length = self._without_removed(text, whole)
        if length < len(text):  # what is no header line ends the header, and is body
            self._gap = b""
            self._show(text[length:])
        if self._spooled is None:
            text = self._hooks.with_lines(self._first) + text
        self._pass_on(text)

    def body(self, text: bytes) -> None:
        """More of the body; the first time, behind the empty line."""
        self._seen(text if self._removals is None else self._remove(text, False))

    def _seen(self, text: bytes) -> None:
        shown = text.removeprefix(self._gap)
        self._gap = b""
        if shown:
            self._show(shown)
        self._pass_on(text)

    def judge(self, size: int, hops: int) -> None:
        """The whole message has been seen: ask the plugins; `size` is in bytes.

        Where none refuses, the back end has been given all of it.
        """
        if self._removals is not None:
            self._seen(self._remove(b"", True))
        if self.refusal is not None:
            return
        self._message.size = size
        self._message.hops = hops
        try:
            if self._spooled is not None:
                self._message.file = self._spooled.spool.reader()
                self._message.first = self._hooks.with_lines(self._first)
            ruling = self._hooks.ask(stages.DATA_POST, self._client, self._envelope, self._message)
            if self._refuses(ruling):
                return
            if ruling.decision.verdict == DISCARD:
                self.discarded = ruling
            elif self._spooled is not None:
                self._back_end.feed(self._hooks.with_lines(self._first))
                for chunk in self._spooled.spool.chunks():  # it may be another one now
                    self._back_end.feed(chunk)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Nothing of it is wanted any more."""
        if self._spooled is not None:
            self._spooled.close()

    def _without_removed(self, text: bytes, whole: bool) -> tuple[bytes, int]:
        """The header without the fields that are to go, and how much of it is header lines."""
        from .removals import Removals

        self._removals = Removals(self._hooks)
        text = self._remove(text, whole)
        self._message.header, length = split_header(text)
        return text, length

    def _remove(self, text: bytes, last: bool) -> bytes:
        """This part of the message without the fields that are to go."""
        assert self._removals is not None
        text = self._removals.feed(text, last)
        if self._removals.failed and self.refusal is None:
            self.refusal = replies.PLUGIN_TROUBLE
        return text

    def _show(self, text: bytes) -> None:
        if self.refusal is None:
            self._refuses(self._hooks.body(self._client, self._envelope, text))

    def _pass_on(self, text: bytes) -> None:
        if self.refusal is not None:
            return
        if self._spooled is None:
            self._back_end.feed(text)
            return
        try:
            self._spooled.spool.write(text)
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
