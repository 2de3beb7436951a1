"""What the master waits for: descriptors, each with what is called when it is ready; and times."""

from __future__ import annotations

import select
from time import monotonic

from .. import waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    #: Called with the descriptor and the flags of epoll(7).
    Handler = Callable[[int, int], None]

#: For one who may send something or go away: told of each change once.
CHANGES = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
#: There is nothing left of the connection.
GONE = select.EPOLLHUP | select.EPOLLERR
#: The other side has sent its last byte, at least.
ENDED = GONE | select.EPOLLRDHUP
#: So many are looked at between two looks at the clock.
_MOST = 64


class Events:
    """Descriptors that are waited for, and when something is due (`wake`, monotonic seconds).

    A descriptor that is closed, or passed on to another process, must be removed before:
    epoll looks at what is open, and that may live on elsewhere.
    """

    __slots__ = ("wake", "_epoll", "_handlers", "_last")

    def __init__(self) -> None:
        self.wake = 0.0
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._last: set[int] = set()

    def by(self, time: float) -> None:
        """Something is due then; who is asked for all that is due may find nothing yet."""
        if time < self.wake:
            self.wake = time

    def add(
        self, fd: int, handler: Handler, flags: int = select.EPOLLIN, last: bool = False
    ) -> None:
        """Wait for this one, too; `last`: it is called after those that are ready beside it."""
        self._epoll.register(fd, flags)
        self._handlers[fd] = handler
        if last:
            self._last.add(fd)

    def remove(self, fd: int) -> None:
        """Wait for it no longer."""
        del self._handlers[fd]
        self._last.discard(fd)
        self._epoll.unregister(fd)

    def descriptors(self) -> list[int]:
        """Those that are waited for, and our own."""
        return [self._epoll.fileno(), *self._handlers]

    def wait(self, deadline: float) -> bool:
        """Wait once, until `deadline` (monotonic seconds), and call; was one ready?"""
        left = deadline - monotonic()
        if not 0.0 <= left <= waits.LONGEST:
            left = waits.LONGEST if left > 0 else 0.0
        ready = self._epoll.poll(left, _MOST)
        handlers, last, later = self._handlers, self._last, None
        for fd, flags in ready:
            if fd in last:
                later = [(fd, flags)] if later is None else [*later, (fd, flags)]
                continue
            handler = handlers.get(fd)
            if handler is not None:  # one that was called before may have closed it
                handler(fd, flags)
        for fd, flags in later or ():
            handler = handlers.get(fd)
            if handler is not None:
                handler(fd, flags)
        return bool(ready)
