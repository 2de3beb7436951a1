"""DATA: from 354 to the verdict of the back end (RFC 5321, 4.1.1.4).

The way of a byte: channel, decoder, message stream; then the hop count, the
missing header lines, the plugins, the back end.
"""

from __future__ import annotations

from time import time

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
    from .inspection import Inspection

    Fields = dict[str, int | str | bytes]

# glibc gives memory back to the kernel where 128 KB at the end of its heap are
# free, so that each chunk of a message can cost it as much again: a quarter of
# the throughput.  To free a large block lifts that bound to twice its size, once
# for all (mallopt(3), M_TRIM_THRESHOLD).
bytes(1 << 20)


def receive(
    channel: Channel,
    client: Client,
    envelope: Envelope,
    hooks: Hooks,
    settings: SessionSettings,
    fields: Fields,
) -> Reply:
    """Take one message and hand it to the back end; the reply.

    The back end is started before 354 is said, so that one that cannot be is
    known in time.  `fields` is filled with what the log should know, also
    where this raises: BareLF, or what the channel raises, with nothing queued.
    """
    ruling = hooks.ask(stages.DATA, client, envelope)
    if ruling.decision.verdict in REFUSALS:
        return stages.reply_to(ruling)
    try:
        back_end = hooks.back_end(client, envelope)
    except CannotExec as error:
        fields["exit"] = str(error)
        return replies.QUEUE_PIPES if isinstance(error, CannotStart) else replies.QUEUE_EXEC
    if back_end is None:
        return replies.PLUGIN_TROUBLE
    fields["qp"] = back_end.pid
    with back_end:
        transfer = _Transfer(channel, client, envelope, hooks, settings, back_end)
        try:
            return transfer.run(fields)
        finally:
            fields["size"] = transfer.decoder.size
            fields["hops"] = transfer.hops
            transfer.close()


class _Transfer:
    """One message on its way to the back end."""

    __slots__ = (
        "decoder",
        "hops",
        "_channel",
        "_client",
        "_envelope",
        "_hooks",
        "_settings",
        "_back_end",
        "_first",
        "_missing",
        "_inspection",
        "_stopped",
    )

    def __init__(
        self,
        channel: Channel,
        client: Client,
        envelope: Envelope,
        hooks: Hooks,
        settings: SessionSettings,
        back_end: BackEnd,
    ) -> None:
        self.decoder = Decoder(normalize=settings.data.bare_lf == "normalize")
        self.hops = 0
        self._channel = channel
        self._client = client
        self._envelope = envelope
        self._hooks = hooks
        self._settings = settings
        self._back_end = back_end
        self._missing = _missing_lines(client, back_end.pid) if settings.data.fill_header else {}
        hide = settings.auth.hide and client.auth is not None
        self._first = received(client, time(), hide=hide)  # stands in front of the message
        self._inspection: Inspection | None = None
        self._stopped = False

    def run(self, fields: Fields) -> Reply:
        """Say 354, read the message to its end, and commit it."""
        if self._hooks.has(stages.HEADER, stages.BODY, stages.DATA_POST):
            from .inspection import Inspection

            try:
                self._inspection = Inspection(
                    self._hooks, self._client, self._envelope, self._back_end, self._first
                )
            except OSError as error:  # no room for a file, or no place
                self._hooks.log_trouble(error)
                return replies.SPOOL_TROUBLE
        self._channel.write(replies.GO_AHEAD.wire() + b"\r\n")
        self._channel.start_data(self._settings.data.min_rate)
        decoder, message = self.decoder, MessageStream()
        databytes = self._settings.data.databytes
        while True:
            text = decoder.feed(self._channel.chunk())
            if databytes and decoder.size > databytes:
                self._stop()
            for event, part in message.feed(text, decoder.ended):
                if event is HEADER:
                    self._header(part, message.whole)
                elif event is BODY:
                    self._body(part)
                elif event is END:
                    self._channel.unread(decoder.rest)
                    return self._refusal() or self._commit(fields)
            if self._inspection is not None and self._inspection.refusal is not None:
                self._stop()
                if self._inspection.ends_session:
                    return self._inspection.refusal

    def close(self) -> None:
        """Nothing of it is wanted any more."""
        if self._inspection is not None:
            self._inspection.close()

    def _stop(self) -> None:
        """The rest is read, to stay in step, and goes nowhere."""
        if not self._stopped:
            self._stopped = True
            self._back_end.abort()
            self.close()

    def _header(self, header: bytes, whole: bool) -> None:
        self.hops = count_hops(header)
        if self._stopped:
            return
        if self._missing and whole:
            header = add_missing(header, self._missing)
        if self._inspection is not None:
            self._inspection.header(header, whole)
        else:
            self._back_end.feed(self._first + self._hooks.header_lines() + header)

    def _body(self, text: bytes) -> None:
        if self._stopped:
            return
        if self._inspection is not None:
            self._inspection.body(text)
        else:
            self._back_end.feed(text)

    def _refusal(self) -> Reply | None:
        """What there is against the whole message, or None."""
        limits = self._settings.data
        if self._inspection is not None and self._inspection.ends_session:
            return self._inspection.refusal
        if self.hops >= limits.max_hops:
            return replies.TOO_MANY_HOPS
        if limits.databytes and self.decoder.size > limits.databytes:
            return limits.too_big
        if self._inspection is None:
            return None
        self._inspection.judge(self.decoder.size, self.hops)
        return self._inspection.refusal

    def _commit(self, fields: Fields) -> Reply:
        pid = self._back_end.pid
        verdict = self._back_end.commit(self._envelope.sender, self._envelope.recipients)
        fields["exit"] = verdict.exit
        if verdict.accepted:
            return Reply(250, b"", b"ok %d qp %d" % (time(), pid))
        if verdict.ambiguous:
            fields["ambiguous"] = "may be queued all the same"
        return replies.with_status(554 if verdict.permanent else 451, verdict.text)


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
