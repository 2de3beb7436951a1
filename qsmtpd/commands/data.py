"""DATA: from 354 to the verdict of the queue program (RFC 5321, 4.1.1.4)."""

from __future__ import annotations

from time import time

from ..queue import CannotExec, CannotStart, Queue
from ..received import clean, received
from ..smtp import replies
from ..smtp.data import Decoder

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

    __slots__ = ("databytes", "max_hops", "min_rate", "bare_lf")

    def __init__(self, settings: Settings) -> None:
        self.databytes = settings.number("databytes", "DATABYTES", 0)
        self.max_hops = settings.number("maxhops", "MAXHOPS", 100, least=1)
        self.min_rate = settings.number("mindatarate", "MINDATARATE", 500)
        self.bare_lf = settings.choice("barelf", "BARELF", ("reject", "reject-all", "normalize"))


def receive(
    channel: Channel,
    client: Client,
    envelope: Envelope,
    limits: DataSettings,
    queue_settings: QueueSettings,
    report: dict[str, int | str],
) -> bytes:
    """Take one message and hand it to the queue program; return the reply.

    The program is started before 354 is said, so that one that cannot be is
    known in time.  `report` is filled with what the log should know, also
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
        channel.write(replies.GO_AHEAD + b"\r\n")
        queue.feed(received(client, time()))
        channel.start_data(limits.min_rate)
        while not decoder.ended:
            text = decoder.feed(channel.chunk())
            if limits.databytes and decoder.size > limits.databytes:
                queue.abort()  # the rest is read, to stay in step, and goes nowhere
            queue.feed(text)
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


def _reply(verdict: Verdict, pid: int, report: dict[str, int | str]) -> bytes:
    report["exit"] = verdict.exit
    if verdict.accepted:
        return b"250 ok %d qp %d" % (time(), pid)
    if verdict.ambiguous:
        report["ambiguous"] = "may be queued all the same"
    return (b"554 " if verdict.permanent else b"451 ") + verdict.text


def _announced(client: Client, envelope: Envelope, settings: QueueSettings) -> dict[bytes, bytes]:
    """The variables that SPAMCONTROL's wrappers read, where they are wanted.

    Only qmail's safe bytes: no value can be more than a word to a shell.
    """
    if settings.announce != "spamcontrol":
        return {}
    recipients = b" ".join(clean(recipient) for recipient in envelope.recipients)
    if len(recipients) > RCPTTO_LIMIT:
        recipients = recipients[:RCPTTO_LIMIT].rpartition(b" ")[0]
    return {
        b"HELOHOST": clean(client.helo or b""),
        b"MAILFROM": clean(envelope.sender),
        b"RCPTTO": recipients,
    }
