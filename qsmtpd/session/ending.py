"""The end of a session: why it ends, the goodbye, and its line in the log."""

from __future__ import annotations

from time import monotonic

from .. import waits
from ..config.session import QUIT
from ..facts import TLS_FAILED, ControlError, Lost, Shutdown
from ..log import log_trouble
from ..net.channel import SessionOver
from ..net.descriptors import Gone, Timeout
from ..smtp import replies
from ..smtp.command import BareLF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..facts import Counters, Peer, Reply
    from ..log import Log
    from ..net.channel import Channel

    class Traffic(Protocol):
        """How many bytes have come and gone, as a channel counts them."""

        bytes_in: int
        bytes_out: int


_NUMBERS = b" seconds=%.3f bytes_in=%d bytes_out=%d commands=%d messages=%d refused=%d errors=%d"
SHUTDOWN = "shutdown"

#: What is raised, the more special before the more general, and how it ends the
#: session: the last reply.  Where nothing is said, it is Lost.end.
_ENDS: tuple[tuple[type[Exception], Reply], ...] = (
    (Shutdown, replies.SHUTDOWN),
    (SessionOver, replies.SESSION_OVER),
    (Timeout, replies.TIMEOUT),
    (BareLF, replies.BARE_LF),
    (ControlError, replies.NO_CONTROLS),
    (MemoryError, replies.OUT_OF_MEMORY),
)


class Ending:
    """Why a session ends: a word for the log, and the last reply if there is one."""

    __slots__ = ("word", "reply")

    def __init__(self, word: str, reply: Reply | None = None) -> None:
        self.word = word
        self.reply = reply

    @classmethod
    def by(cls, reply: Reply) -> Ending:
        """The end that comes with a last reply."""
        assert reply.end is not None
        return cls(reply.end, reply)

    @property
    def status(self) -> int:
        """The exit status of the process."""
        return 0 if self.word == QUIT else 1


def ending_of(error: Exception, log: Log) -> Ending:
    """How a session ends in which this was raised."""
    if isinstance(error, ControlError):
        log.line("control", name=error.name, reason=error.reason)
    if isinstance(error, Lost) and error.end:
        cut_short = error.end == TLS_FAILED and waits.requested()
        return Ending(SHUTDOWN if cut_short else error.end)
    for kind, reply in _ENDS:
        if isinstance(error, kind):
            return Ending.by(reply)
    log_trouble(log, error)
    return Ending.by(replies.TROUBLE)


def say_goodbye(channel: Channel, ending: Ending, words: bytes) -> None:
    """Send the last `words`, and end what is below the protocol.  Raises nothing."""
    waits.end_session()
    try:
        if words:
            channel.write(words)
        if ending.word != TLS_FAILED:  # then not another plain byte
            channel.close()
    except (Gone, Timeout):
        pass


def log_session(
    log: Log,
    channel: Traffic,
    peer: Peer,
    counters: Counters,
    word: str,
    reply: bytes | None,
    protocol: bytes,
) -> None:
    """The line event=session; `word` is that of its Ending, `reply` what is said last."""
    end = b" end=%b" % log.quoted(word.encode("ascii", "backslashreplace"))
    if reply is not None:
        end += b" reply=%b" % log.quoted(reply)
    if protocol != b"SMTP":
        end += b" proto=%b" % protocol
    numbers = _NUMBERS % (
        monotonic() - counters.start,
        channel.bytes_in,
        channel.bytes_out,
        counters.commands,
        counters.messages,
        counters.refused,
        counters.errors,
    )
    if peer.proxy is not None:
        end += b" proxy=%b" % log.quoted(peer.proxy)
    log.line("session", end + _ports(peer) + numbers)


def _ports(peer: Peer) -> bytes:
    """What is known of the connection beside the client's address: nothing that needs quotes."""
    if peer.port and peer.local_ip and peer.local_port:
        return b" port=%b local_ip=%b local_port=%b" % (peer.port, peer.local_ip, peer.local_port)
    known = {b"port": peer.port, b"local_ip": peer.local_ip, b"local_port": peer.local_port}
    return b"".join(b" %b=%b" % (key, text) for key, text in known.items() if text is not None)
