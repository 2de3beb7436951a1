"""BDAT: a message in chunks, between which the client may say something else (RFC 3030, 2).

The bytes of a chunk are read to the last one, whatever becomes of them, before
there is a reply: what follows is the next command, and nothing else is.
"""

from __future__ import annotations

from ..facts import Reply
from ..smtp import replies
from ..smtp.command import BareLF
from ..smtp.decoder import ChunkDecoder
from .data import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import SessionSettings
    from ..facts import Client, Envelope
    from ..net.channel import Channel
    from ..policy.hooks import Hooks

#: Of a chunk that nobody wants so many bytes are read (RFC 3030 wants all of them), or four times
#: databytes, where that is less; with more of it, the connection ends.
DISCARD_LIMIT = 1 << 30
DATABYTES_TIMES = 4


def too_large(size: int, settings: SessionSettings) -> Reply | None:
    """The last reply to a chunk that cannot be wanted, before a byte of it is read; or None."""
    data = settings.data
    if data.databytes and size > DATABYTES_TIMES * data.databytes:
        return ending(data.too_big)
    return None


def ending(reply: Reply) -> Reply:
    """This refusal as the last reply, for the rest of the chunk is not waited for."""
    return Reply(reply.code, reply.status, reply.text, end="bdat-size", ruling=reply.ruling)


def discard(channel: Channel, size: int, refusal: Reply, settings: SessionSettings) -> Reply:
    """Read a chunk of so many bytes that is not allowed now; the reply to it.

    Raises what the channel raises.
    """
    if size > DISCARD_LIMIT:
        return ending(settings.data.too_big)
    channel.start_data(settings.data.min_rate)
    while size:
        size -= len(channel.chunk(size))
    channel.end_data()
    return refusal


class ChunkedTransfer(Transfer):
    """A message that comes in chunks."""

    __slots__ = ("_channel", "_decoder", "_chunks", "_bare_lf")

    def __init__(
        self,
        channel: Channel,
        client: Client,
        envelope: Envelope,
        hooks: Hooks,
        settings: SessionSettings,
    ) -> None:
        super().__init__(client, envelope, hooks, settings)
        self._channel = channel
        self._decoder = ChunkDecoder(normalize=settings.data.bare_lf == "normalize")
        self._chunks = 0
        self._bare_lf = False

    def take(self, size: int, last: bool) -> Reply:
        """Read a chunk of so many bytes; the reply.  Raises what the channel raises."""
        if not self._chunks:
            self.start()  # there is no 354: what it says against the message is said now
            self._channel.start_data(self._settings.data.min_rate)
        self._chunks += 1
        self.fields["chunks"] = self._chunks
        while size:
            if self.refusal is not None and size > DISCARD_LIMIT:
                return ending(self.refusal)
            chunk = self._channel.chunk(size)
            size -= len(chunk)
            self._feed(chunk)
        if self.refusal is not None:
            return self.refusal
        if not last:
            return replies.OK
        self.feed(self._decoder.end(), True)
        return self.finish()

    def _feed(self, chunk: bytes) -> None:
        """Also of what is refused: there may be more against it, and the log has its size."""
        if self._bare_lf:
            return
        try:
            self.feed(self._decoder.feed(chunk), False)
        except BareLF:
            self._bare_lf = True
            self.refuse(replies.BARE_LF_IN_CHUNK)
