"""What a client of QMTP or QMQP sends in one piece: a message, a sender, recipients.

The message comes first, so it has to wait until it is known for whom it is: a short one in
memory, another one in a file.  Nothing of it is looked at before all of the package has come.
"""

from __future__ import annotations

from time import monotonic

from ..net.descriptors import CHUNK
from ..policy.held import Held
from ..smtp import replies
from ..smtp.command import BareLF
from ..smtp.decoder import ChunkDecoder
from ..smtp.netstring import Malformed, TooLong, head_limit, parse_head, split
from .verdict import BAD_MESSAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..config.session import SessionSettings
    from ..facts import Reply
    from ..net.channel import Channel

#: A longer message is not read at all: the connection ends (bytes).
MESSAGE_LIMIT = 1 << 30
#: The same of all recipients together, or what those take that there may be, if that is more.
RECIPIENTS_LIMIT = 1 << 20
#: Around an address stand its length, a colon and a comma.
AROUND = 8
#: Of a sender this much is read; one that is longer than addresses may be is refused (bytes).
SENDER_LIMIT = 65536
_LF, _CR = b"\n", b"\r"


class Package:
    """One of them; `refusal` is what there is against the message, which then is not kept.

    `started` is when its first byte came (monotonic seconds).  log(error) is told of a file
    that has no place.  A context manager: the message is gone when it is left.
    """

    __slots__ = ("message", "refusal", "sender", "recipients", "started", "_log", "_size")

    def __init__(self, log: Callable[[Exception], object]) -> None:
        self.message = Held()
        self.refusal: Reply | None = None
        self.sender = b""
        self.recipients: list[bytes] = []
        self.started = monotonic()
        self._log = log
        self._size = 0

    def add(self, text: bytes, settings: SessionSettings) -> None:
        """More of the message."""
        self._size += len(text)
        limits = settings.data
        if limits.databytes and self._size > limits.databytes:
            self.refuse(limits.too_big)
        if self.refusal is not None:
            return
        try:
            self.message.write(text)
        except OSError as error:  # no space left, say
            self._log(error)
            self.refuse(replies.SPOOL_TROUBLE)

    def refuse(self, reply: Reply) -> None:
        """Nothing of the message is wanted.  What is refused for good is so, also afterwards."""
        if self.refusal is None or not reply.temporary:
            self.refusal = reply
        self.message.close()

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *error: object) -> None:
        self.message.close()


class Reader:
    """Reads packages.  Methods raise Malformed, or what the channel raises."""

    __slots__ = ("_channel", "_settings", "_log", "_recipients_limit")

    def __init__(
        self, channel: Channel, settings: SessionSettings, log: Callable[[Exception], object]
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._log = log
        limits = settings.limits
        most = limits.recipients * (limits.address + AROUND)
        self._recipients_limit = max(RECIPIENTS_LIMIT, most)

    def qmtp(self) -> Package:
        """The next one of QMTP: its three netstrings."""
        package = Package(self._log)
        try:
            length = self._head(MESSAGE_LIMIT)[0]
            self._encoded(package, length)
            self._comma()
            package.sender = self._text(self._head(SENDER_LIMIT)[0])
            self._comma()
            recipients = self._text(self._head(self._recipients_limit)[0])
            self._comma()
            package.recipients = list(split(recipients))
        except BaseException:
            package.message.close()
            raise
        return package

    def qmqp(self) -> Package:
        """The one of QMQP: a netstring of netstrings."""
        package = Package(self._log)
        try:
            envelope_limit = SENDER_LIMIT + self._recipients_limit
            left = self._head(MESSAGE_LIMIT + envelope_limit)[0]
            length, used = self._head(MESSAGE_LIMIT)
            left -= used + length + 1
            if left < 0:
                raise Malformed  # it is longer than what it is in
            if left > envelope_limit:
                raise TooLong
            for chunk in self._chunks(length):
                package.add(chunk, self._settings)
            self._comma()
            addresses = list(split(self._text(left)))
            self._comma()
            if not addresses:
                raise Malformed
            package.sender, *package.recipients = addresses
        except BaseException:
            package.message.close()
            raise
        return package

    def _encoded(self, package: Package, length: int) -> None:
        """A message, of which the first byte says how its lines end."""
        kind = self._channel.chunk(1) if length else b""
        decoder = None
        if kind == _CR:
            decoder = ChunkDecoder(normalize=self._settings.data.bare_lf == "normalize")
        elif kind != _LF:
            package.refuse(BAD_MESSAGE)
        for chunk in self._chunks(length - len(kind)):
            if decoder is not None and package.refusal is None:
                try:
                    chunk = decoder.feed(chunk)
                except BareLF:
                    package.refuse(replies.BARE_LF_IN_CHUNK)
            package.add(chunk, self._settings)
        if decoder is not None:
            package.add(decoder.rest(), self._settings)

    # -- netstrings --------------------------------------------------------

    def _head(self, most: int) -> tuple[int, int]:
        """The length of the next text, at most so many bytes, and how many stand before it."""
        head = b""
        while True:
            head += self._channel.chunk(head_limit(most) - len(head))
            found = parse_head(head, most)
            if found is not None:
                self._channel.unread(head[found[1] :])
                return found

    def _chunks(self, length: int) -> Iterator[bytes]:
        """The next bytes, as they come."""
        while length:
            chunk = self._channel.chunk(min(length, CHUNK))
            length -= len(chunk)
            yield chunk

    def _text(self, length: int) -> bytes:
        return b"".join(self._chunks(length))

    def _comma(self) -> None:
        if self._channel.chunk(1) != b",":
            raise Malformed
