"""A message and its envelope, handed to one of the hubs by QMQP.

The next hub is tried only while nothing of the message was sent: what was sent may be queued
there, whatever we hear of it.
"""

from __future__ import annotations

import errno

from .. import waits
from ..smtp.netstring import encode
from . import qmqp
from .daemon import TIMEOUT, Daemon, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    #: Told of the hub, what is the matter with it, and what it has said.
    Log = Callable[[bytes, str, bytes], object]

    class Text(Protocol):
        """A text that waits: see qsmtpd.policy.held."""

        def write(self, text: bytes) -> None: ...
        def chunks(self) -> Iterator[bytes]: ...


#: How it ended, as qmail-qmqpc exits.
TAKEN = 0
REJECTED = 31
NO_NETWORK = 56
PUT_OFF = 71
CONNECT_TIMEOUT = 72
CONNECT_REJECTED = 73
COMMUNICATION_FAILED = 74

_ANSWERED = {qmqp.TAKEN: TAKEN, qmqp.REJECTED: REJECTED, qmqp.PUT_OFF: PUT_OFF}
#: Of more than this, sender and recipients are written at once (bytes).
_CHUNK = 65536


class Request:
    """What a hub is sent: the message, sender and recipients, each as a netstring, all in one.

    The lengths stand in front, so all has to be there before: `held` keeps it.  First message(),
    until its end, then envelope().  Methods raise OSError.
    """

    __slots__ = ("_held", "_size", "_message_size")

    def __init__(self, held: Text) -> None:
        self._held = held
        self._size = 0
        self._message_size = 0

    def message(self, text: bytes) -> None:
        """More of the message."""
        self._held.write(text)
        self._size += len(text)

    def envelope(self, addresses: Iterable[bytes]) -> None:
        """The sender, and then each recipient."""
        self._message_size = self._size
        found = bytearray(b",")
        for address in addresses:
            found += encode(address)
            if len(found) > _CHUNK:
                self.message(bytes(found))
                found.clear()
        self._held.write(bytes(found) + b",")  # of the last comma no length tells
        self._size += len(found)

    @property
    def size(self) -> int:
        """How many bytes are sent."""
        return len(self._start()) + self._size + 1

    def parts(self) -> Iterator[bytes]:
        """All that is sent."""
        part = self._start()
        left = self._size + 1
        for chunk in self._held.chunks():
            left -= len(chunk)
            if left >= 0:
                yield part + chunk
            part = b""
        if left:  # of a file: a disk that has forgotten some of it, say
            raise OSError(errno.EIO, "the file of the message is not what it was")

    def _start(self) -> bytes:
        inner = b"%d:" % self._message_size
        return b"%d:%b" % (len(inner) + self._size, inner)


class Outcome:
    """How it ended.

    `code` is TAKEN, or as qmail-qmqpc exits.  `hub` is who has answered, or failed, last, and
    `text` what it has said.  `ambiguous`: it was sent all of it, and may have it all the same.
    """

    __slots__ = ("code", "hub", "text", "ambiguous")

    def __init__(
        self, code: int, hub: bytes = b"", text: bytes = b"", ambiguous: bool = False
    ) -> None:
        self.code = code
        self.hub = hub
        self.text = text
        self.ambiguous = ambiguous


def hand_over(request: Request, settings: qmqp.HubSettings, log: Log) -> Outcome:
    """Hand it to one of the hubs.  `log` is told of each that fails.

    Raises OSError where the request cannot be read, and Shutdown as long as there is no hub
    that could have it.
    """
    deadline = qmqp.Deadline(settings)
    failed = Outcome(CONNECT_TIMEOUT)
    for hub in qmqp.in_order(settings.hubs, settings.order):
        waits.check()  # a name is looked up where no request to end is heard
        if not deadline.left():
            return Outcome(CONNECT_TIMEOUT, failed.hub)
        try:
            places = hub.addresses(deadline.to_connect())
        except NoAnswer as error:
            log(hub.text, f"is not found: {error}", b"")
            failed = Outcome(NO_NETWORK, hub.text)
            continue
        for place in places:
            if not deadline.left():
                return Outcome(CONNECT_TIMEOUT, failed.hub)
            try:
                daemon = Daemon(place, deadline.to_connect(), qmqp.ANSWER_LIMIT)
            except NoAnswer as error:
                log(place.text, f"cannot be reached: {error}", b"")
                failed = _not_reached(place.text, error)
                continue
            try:
                daemon.renew(deadline.left(), qmqp.ANSWER_LIMIT)
                daemon.commit()
                is_sent = daemon.offer(request.parts())
                if not is_sent:  # nor does the hub wait for the rest
                    daemon.end_input()
                verdict, text = qmqp.read_answer(daemon.exactly)
            except NoAnswer as error:
                if daemon.sent:
                    log(place.text, f"fails after {daemon.sent} bytes: {error}", b"")
                    ambiguous = daemon.sent == request.size
                    return Outcome(COMMUNICATION_FAILED, place.text, b"", ambiguous)
                log(place.text, f"fails before anything was sent: {error}", b"")
                failed = _not_reached(place.text, error)
                continue
            finally:
                daemon.close()
            if verdict == qmqp.TAKEN and not is_sent:  # so it has not all of it
                log(place.text, "says that it has the message, before it was sent", b"")
                return Outcome(COMMUNICATION_FAILED, place.text)
            return Outcome(_ANSWERED[verdict], place.text, text)
    return failed


def _not_reached(hub: bytes, error: NoAnswer) -> Outcome:
    return Outcome(CONNECT_TIMEOUT if str(error) == TIMEOUT else CONNECT_REJECTED, hub)
