"""DATA: from 354 to the verdict of the queue program (RFC 5321, 4.1.1.4)."""

from __future__ import annotations

from time import time

from ..queue import CannotExec, CannotStart, Queue
from ..received import clean, date, received
from ..smtp import replies
from ..smtp.data import Decoder
from ..smtp.submission import HeaderFiller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..channel import Channel
    from ..control import Settings
    from ..facts import Client, Envelope
    from ..queue import QueueSettings, Verdict

#: A RCPTTO for the wrappers of SPAMCONTROL ends before this many bytes: Linux
#: takes no string of more than 128 KB into an environment.
RCPTTO_LIMIT = 100_000


class DataSettings:
    """The limits of a message.  Raises ControlError."""

    __slots__ = ("databytes", "max_hops", "min_rate", "bare_lf", "fill_header")

    def __init__(self, settings: Settings) -> None:
        self.databytes = settings.number("databytes", "DATABYTES", 0)
        self.max_hops = settings.number("maxhops", "MAXHOPS", 100, least=1)
        self.min_rate = settings.number("mindatarate", "MINDATARATE", 500)
        fill = settings.choice("submissionheader", "SUBMISSIONHEADER", ("leave", "fill"))
        self.fill_header = fill == "fill"
        self.bare_lf = settings.choice("barelf", "BARELF", ("reject", "reject-all", "normalize"))


def receive(
    channel: Channel,
    client: Client,
    envelope: Envelope,
    limits: DataSettings,
    queue_settings: QueueSettings,
    hide: bool,
    report: dict[str, int | str],
) -> bytes:
    """Take one message and hand it to the queue program; return the reply.

    The program is started before 354 is said, so that one that cannot be is
    known in time.  `hide`: an authenticated client's address is not shown in
    the message.  `report` is filled with what the log should know, also
    where this raises: BareLF, or what the channel raises, with nothing queued.
    """
    try:
        queue = Queue(queue_settings, _announced(client, envelope, queue_settings))
    except CannotStart as error:
        report["exit"] = str(error)
        return replies.QUEUE_PIPES
    except CannotExec as error:
        report["exit"] = str(error)
        return replies.QUEUE_EXEC
    report["qp"] = queue.pid
    decoder = Decoder(normalize=limits.bare_lf == "normalize")
    try:
        filler = _filler(client, queue.pid) if limits.fill_header else None
        channel.write(replies.GO_AHEAD + b"\r\n")
        queue.feed(received(client, time(), hide=hide and client.auth is not None))
        channel.start_data(limits.min_rate)
        while not decoder.ended:
            text = decoder.feed(channel.chunk())
            if limits.databytes and decoder.size > limits.databytes:
                queue.abort()  # the rest is read, to stay in step, and goes nowhere
            queue.feed(text if filler is None else filler.feed(text, last=decoder.ended))
        channel.unread(decoder.rest)
        if decoder.hops >= limits.max_hops:
            return replies.TOO_MANY_HOPS
        if limits.databytes and decoder.size > limits.databytes:
            return replies.TOO_BIG
        return _reply(queue.commit(envelope.sender, envelope.recipients), queue.pid, report)
    finally:
        report["size"] = decoder.size
        report["hops"] = decoder.hops
        queue.abort()


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


def _reply(verdict: Verdict, pid: int, report: dict[str, int | str]) -> bytes:
    report["exit"] = verdict.exit
    if verdict.accepted:
        return b"250 ok %d qp %d" % (time(), pid)
    if verdict.ambiguous:
        report["ambiguous"] = "may be queued all the same"
    return (b"554 " if verdict.permanent else b"451 ") + verdict.text


def _announced(client: Client, envelope: Envelope, settings: QueueSettings) -> dict[bytes, bytes]:
    """Who the user is, and where they are wanted the variables of SPAMCONTROL's wrappers.

    Only qmail's safe bytes and, between recipients, spaces: nothing that a
    shell would execute.
    """
    found = {}
    if client.auth is not None:
        # As in the field: to the queue program the user is what ident was.
        found[b"TCPREMOTEINFO"] = clean(client.auth.user)
        found[b"AUTHUSER"] = found[b"TCPREMOTEINFO"]
        found[b"AUTHPROTOCOL"] = clean(client.auth.mechanism)
    if settings.announce != "spamcontrol":
        return found
    recipients = b" ".join(clean(recipient) for recipient in envelope.recipients)
    if len(recipients) > RCPTTO_LIMIT:
        recipients = recipients[:RCPTTO_LIMIT].rpartition(b" ")[0]
    found[b"HELOHOST"] = clean(client.helo or b"")
    found[b"MAILFROM"] = clean(envelope.sender)
    found[b"RCPTTO"] = recipients
    return found
