"""DATA: from 354 to the verdict of the back end (RFC 5321, 4.1.1.4)."""

from __future__ import annotations

from time import time

from ..child.queue import CannotExec, CannotStart
from ..decision import DROP, REFUSALS
from ..smtp import replies
from ..smtp.decoder import Decoder
from ..smtp.received import clean, date, received
from ..smtp.submission import HeaderFiller
from .ending import Hangup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..child.queue import Verdict
    from ..config.session import DataSettings
    from ..facts import Client, Envelope, Ruling
    from ..net.channel import Channel
    from ..policy.hooks import Hooks

    Report = dict[str, int | str | bytes]


def receive(
    channel: Channel,
    client: Client,
    envelope: Envelope,
    hooks: Hooks,
    limits: DataSettings,
    hide: bool,
    report: Report,
) -> tuple[bytes, Ruling | None]:
    """Take one message and hand it to the back end; (the reply, a plugin's ruling if one decided).

    The back end is started before 354 is said, so that one that cannot be is
    known in time.  `hide`: an authenticated client's address is not shown in
    the message.  `report` is filled with what the log should know, also
    where this raises: BareLF, Hangup, or what the channel raises, with nothing
    queued.
    """
    ruling = hooks.ask("data", client, envelope)
    if ruling.decision.verdict in REFUSALS:
        return _refused(ruling), ruling
    try:
        queue = hooks.back_end(client, envelope)
    except CannotStart as error:
        report["exit"] = str(error)
        return replies.QUEUE_PIPES, None
    except CannotExec as error:
        report["exit"] = str(error)
        return replies.QUEUE_EXEC, None
    if queue is None:
        return replies.PLUGIN_TROUBLE, None
    report["qp"] = queue.pid
    decoder = Decoder(normalize=limits.bare_lf == "normalize")
    inspection = None
    try:
        filler = _filler(client, queue.pid) if limits.fill_header else None
        ours = received(client, time(), hide=hide and client.auth is not None)
        if hooks.has("header", "body", "data_post"):
            from .message import Inspection

            try:
                inspection = Inspection(hooks, client, envelope, ours)
            except OSError as error:  # no room for a spool, or no place
                hooks.log_trouble(error)
                return replies.SPOOL_TROUBLE, None
        channel.write(replies.GO_AHEAD + b"\r\n")
        if inspection is None:
            queue.feed(ours + hooks.header_lines())
        channel.start_data(limits.min_rate)
        while not decoder.ended:
            text = decoder.feed(channel.chunk())
            if limits.databytes and decoder.size > limits.databytes:
                queue.abort()  # the rest is read, to stay in step, and goes nowhere
                if inspection is not None:
                    inspection.end()
            if filler is not None:
                text = filler.feed(text, last=decoder.ended)
            if inspection is not None:
                text = inspection.feed(text, decoder.ended)
                if inspection.refusal is not None:
                    queue.abort()
                    _refused(inspection.refusal)
            queue.feed(text)
        channel.unread(decoder.rest)
        if decoder.hops >= limits.max_hops:
            return replies.TOO_MANY_HOPS, None
        if limits.databytes and decoder.size > limits.databytes:
            return limits.too_big, None
        if inspection is not None:
            ruling = inspection.judge(decoder.size, decoder.hops)
            if ruling.decision.verdict in REFUSALS:
                return _refused(ruling), ruling
            try:
                inspection.hand_over(queue)
            except OSError as error:
                hooks.log_trouble(error)
                return replies.SPOOL_TROUBLE, None
        return _reply(queue.commit(envelope.sender, envelope.recipients), queue.pid, report), None
    finally:
        report["size"] = decoder.size
        report["hops"] = decoder.hops
        if inspection is not None:
            inspection.end()
        queue.abort()


def _refused(ruling: Ruling) -> bytes:
    """The reply of a refusal; one that ends the session is raised."""
    if ruling.decision.verdict == DROP:
        raise Hangup("dropped-by-" + ruling.plugin, ruling.reply, ruling=ruling)
    return ruling.reply


def _filler(client: Client, pid: int) -> HeaderFiller | None:
    """What adds the lines that a submitted message lacks; None for mail from elsewhere."""
    if client.relay is None:
        return None
    now = time()
    host = clean(client.peer.local_host)
    return HeaderFiller(
        {
            b"date": b"Date: %b\n" % date(now),
            b"message-id": b"Message-ID: <%d.%d@%b>\n" % (now * 1_000_000, pid, host),
        }
    )


def _reply(verdict: Verdict, pid: int, report: Report) -> bytes:
    report["exit"] = verdict.exit
    if verdict.accepted:
        return b"250 ok %d qp %d" % (time(), pid)
    if verdict.ambiguous:
        report["ambiguous"] = "may be queued all the same"
    return (b"554 " if verdict.permanent else b"451 ") + verdict.text
