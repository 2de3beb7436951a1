"""A message: from DATA or the first BDAT to the verdict of the back end (RFC 5321, 4.1.1.4).

The way of a byte: channel, decoder (receive() for DATA, chunks.py for BDAT), message
stream; then the hop count, the missing header lines, the plugins, the back end.
"""

from __future__ import annotations

from time import monotonic, time

from .. import waits
from ..child.queue import CannotExec, CannotStart
from ..decision import REFUSALS
from ..facts import Reply
from ..policy import stages
from ..smtp import replies
from ..smtp.decoder import Decoder
from ..smtp.header import add_missing, count_hops
from ..smtp.received import clean, date, received
from .message import BODY, END, HEADER, MessageStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import SessionSettings
    from ..facts import Client, Envelope
    from ..net.channel import Channel
    from ..policy.backend import BackEnd
    from ..policy.hooks import Hooks
    from ..smtp.asciiheader import AsciiHeader
    from .inspection import Inspection

    Fields = dict[str, int | str | bytes]

# glibc gives memory back to the kernel where 128 KB at the end of its heap are
# free, so that each chunk of a message can cost it as much again: a quarter of
# the throughput.  To free a large block lifts that bound to twice its size, once
# for all (mallopt(3), M_TRIM_THRESHOLD).
bytes(1 << 20)


def receive(channel: Channel, transfer: Transfer, settings: SessionSettings) -> Reply:
    """DATA: say 354, read the message to its end, and commit it; the reply.

    Raises BareLF, or what the channel raises, with nothing queued.
    """
    refusal = transfer.start()
    if refusal is not None:
        return refusal
    channel.write(replies.GO_AHEAD.wire() + b"\r\n")
    channel.start_data(settings.data.min_rate)
    decoder = Decoder(normalize=settings.data.bare_lf == "normalize")
    while True:
        text = decoder.feed(channel.chunk())
        transfer.feed(text, decoder.ended)
        if decoder.ended:
            channel.unread(decoder.rest)
            return transfer.finish()
        if transfer.refusal is not None and transfer.refusal.end is not None:
            return transfer.refusal


class Transfer:
    """One message on its way to the back end.

    start(), then feed() until the last of it, then finish(); close() in any case, or use it as
    a context manager: what was not committed is then aborted.  `fields` is what
    the log should know, complete once it is closed; `refusal`, what there is
    against the message so far: what then comes of it goes nowhere.
    """

    __slots__ = (
        "fields",
        "refusal",
        "started",
        "_client",
        "_envelope",
        "_hooks",
        "_settings",
        "_back_end",
        "_stream",
        "_first",
        "_parts",
        "_missing",
        "_filled",
        "_inspection",
        "_ascii",
        "_size",
        "_hops",
    )

    def __init__(
        self, client: Client, envelope: Envelope, hooks: Hooks, settings: SessionSettings
    ) -> None:
        self.fields: Fields = {"rcpts": len(envelope.recipients)}
        self.refusal: Reply | None = None
        self.started = monotonic()
        self._client = client
        self._envelope = envelope
        self._hooks = hooks
        self._settings = settings
        self._back_end: BackEnd | None = None
        self._stream = MessageStream()
        self._first = b""  # our Received, which stands in front of the message
        self._parts: list[bytes] = []  # for the back end, in one piece: so it wakes up once
        self._missing: dict[bytes, bytes] = {}
        self._filled = b""  # the missing lines that the message was given
        self._inspection: Inspection | None = None
        self._ascii: AsciiHeader | None = None  # where the header has to be that
        self._size = 0
        self._hops = 0

    def start(self) -> Reply | None:
        """Ask the plugins, and start the back end; a refusal, or None.

        Before the client is asked for the message: that a back end cannot be
        started is known in time.
        """
        self.refusal = self._start()
        return self.refusal

    def _start(self) -> Reply | None:
        client, envelope, hooks = self._client, self._envelope, self._hooks
        ruling = hooks.ask(stages.DATA, client, envelope)
        if ruling.decision.verdict in REFUSALS:
            return stages.reply_to(ruling)
        try:
            back_end = hooks.back_end(client, envelope)
        except CannotExec as error:
            self.fields["exit"] = str(error)
            return replies.QUEUE_PIPES if isinstance(error, CannotStart) else replies.QUEUE_EXEC
        if back_end is None:
            return replies.PLUGIN_TROUBLE
        self._back_end = back_end
        self.fields["qp"] = back_end.pid
        if self._settings.data.fill_header:
            self._missing = _missing_lines(client, back_end.pid)
        hide = self._settings.auth.hide and client.auth is not None
        # To some patched qmail-remotes the keyword says that SMTPUTF8 is needed.
        self._first = received(client, time(), hide, envelope.needs_utf8)
        if envelope.leaves:
            from ..smtp.asciiheader import AsciiHeader

            self._ascii = AsciiHeader()
        if hooks.has(stages.HEADER, stages.BODY, stages.DATA_POST):
            from .inspection import Inspection

            try:
                self._inspection = Inspection(hooks, client, envelope, back_end, self._first)
            except OSError as error:  # no room for a file, or no place
                hooks.log_trouble(error)
                return replies.SPOOL_TROUBLE
        return None

    def feed(self, text: bytes, last: bool) -> None:
        """More of the message, decoded; `last`: this is the end of it."""
        self._size += len(text)
        limits = self._settings.data
        if limits.databytes and self._size > limits.databytes:
            self.refuse(limits.too_big)
        for event, part in self._stream.feed(text, last):
            if event is HEADER:
                self._header(part)
            elif event is BODY:
                self._body(part)
            elif event is END:
                self._end()
        if self._parts:
            if self.refusal is None and self._back_end is not None:
                self._back_end.feed(b"".join(self._parts))
            self._parts = []

    def refuse(self, reply: Reply) -> None:
        """Nothing of it is wanted.  What is refused for good is so, whatever was said before."""
        said = self.refusal
        if said is None or (said.temporary and said.end is None and not reply.temporary):
            self.refusal = reply
        if self._back_end is not None:
            self._back_end.abort()
        if self._inspection is not None:
            self._inspection.close()

    def finish(self) -> Reply:
        """All of it has come: the refusal, or the verdict of the back end."""
        return self.refusal or self._discard() or self._commit()

    def close(self) -> None:
        """The end of it, committed or not."""
        if self._back_end is not None:
            self._back_end.__exit__()
            self.fields["size"] = self._size
            self.fields["hops"] = self._hops
        if self._inspection is not None:
            self._inspection.close()

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- inside ------------------------------------------------------------

    def _header(self, header: bytes) -> None:
        self._hops = count_hops(header)
        if self.refusal is not None:
            return
        whole = self._stream.whole
        is_ascii = self._ascii is None or self._ascii.header(header, whole)
        if self._missing and whole:
            length = len(header)
            header = add_missing(header, self._missing)
            self._filled = header[length:]
        if self._inspection is not None:
            self._inspection.header(header, whole)
            self._look()
        else:
            self._parts = [self._hooks.with_lines(self._first), header]
        if self._hops >= self._settings.data.max_hops:
            self.refuse(replies.TOO_MANY_HOPS)
        # What cannot be passed on with UTF-8 in it, can be without (RFC 6531, 3.6).
        if not is_ascii:
            self.refuse(replies.UTF8_HEADER)

    def _body(self, text: bytes) -> None:
        if self._ascii is not None and not self._ascii.body(text):
            self.refuse(replies.UTF8_HEADER)
        if self.refusal is not None:
            return
        if self._inspection is not None:
            self._inspection.body(text)
            self._look()
        else:
            self._parts.append(text)

    def _end(self) -> None:
        if self.refusal is None and self._inspection is not None:
            self._inspection.judge(self._size, self._hops)
            self._look()

    def _look(self) -> None:
        """Has a plugin refused what it was shown?"""
        if self._inspection is not None and self._inspection.refusal is not None:
            self.refuse(self._inspection.refusal)

    def _discard(self) -> Reply | None:
        """The reply to what goes nowhere, which is that to a message that is queued."""
        ruling = None if self._inspection is None else self._inspection.discarded
        if ruling is None or self._back_end is None:
            return None
        self._back_end.abort()
        self.fields["reason"] = ruling.decision.text
        return _taken(self._back_end.pid).of(ruling)

    def _commit(self) -> Reply:
        """The last question, and then the back end's verdict."""
        hooks, client, envelope = self._hooks, self._client, self._envelope
        if not hooks.has(stages.QUEUE_PRE, stages.QUEUE_FAILED):
            return self._hand_over()
        queued = False
        try:
            ruling = hooks.ask(stages.QUEUE_PRE, client, envelope)
            if ruling.decision.verdict in REFUSALS:
                self.refuse(stages.reply_to(ruling))
            reply = self.refusal or self._hand_over()
            queued = not reply.refused
        finally:
            if not queued:
                hooks.notify(stages.QUEUE_FAILED, client, envelope)
        return reply

    def _hand_over(self) -> Reply:
        assert self._back_end is not None
        waits.check()  # from here on nothing is cut short: it may be queued
        pid = self._back_end.pid
        verdict = self._back_end.commit(self._envelope.sender, self._envelope.recipients)
        self.fields["exit"] = verdict.exit
        self.fields.update(verdict.more)
        if verdict.accepted:
            if added := self._hooks.with_lines(b"") + self._filled:
                starts = (line for line in added.split(b"\n") if line[:1] not in b" \t")
                self.fields["added"] = b",".join(line.partition(b":")[0] for line in starts)
            return _taken(pid)
        if verdict.ambiguous:
            self.fields["ambiguous"] = "may be queued all the same"
        return replies.with_status(554 if verdict.permanent else 451, verdict.text)


def _taken(pid: int) -> Reply:
    return Reply(250, b"", b"ok %d qp %d" % (time(), pid))


def _missing_lines(client: Client, pid: int) -> dict[bytes, bytes]:
    """The lines that a submitted message gets where it lacks them; none for mail from elsewhere."""
    if client.relay is None:
        return {}
    now = time()
    host = clean(client.peer.local_host)
    return {
        b"date": b"Date: %b\n" % date(now),
        b"message-id": b"Message-ID: <%d.%d@%b>\n" % (now * 1_000_000, pid, host),
    }
