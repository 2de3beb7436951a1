"""A new worker process, and what the master knows of it."""

from __future__ import annotations

import _socket as socket
import os
from time import monotonic

from .. import waits
from ..log import Log, log_trouble
from ..net.sockets import patient
from . import limits
from .deaths import new_page
from .kept import close_all_but
from .worker import work

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import signal

    from .accepted import Client
    from .board import Board
    from .configuration import Configuration
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call


#: What a new process must not miss before it handles it itself.
_SIGNALS = (*waits.SIGNALS, waits.FINISH)


class Worker:
    """What the master knows of a worker process.

    It is busy or idle.  `network` and `ip` are those of the client that it
    serves; `network` is None while it is idle.  `deadline` is when that session
    must be over (monotonic seconds), `hangs`, whether it was not.  `used`: it has
    had a client.  `dismissed`: the master has told it to end.  `control` is the
    socket to it, None when nothing more is sent or received there.  `page` is the
    memory that it shares with the master, if any (see deaths.py); `place` is its
    place on the board, 0 for none.
    """

    __slots__ = (
        "pid",
        "control",
        "left",
        "page",
        "place",
        "network",
        "ip",
        "deadline",
        "hangs",
        "used",
        "idle_since",
        "dismissed",
    )

    def __init__(
        self, pid: int, control: socket.socket | None, page: mmap.mmap | None, place: int
    ) -> None:
        self.pid = pid
        self.control = control
        self.left: socket.socket | None = None  # what was the control, until it has ended
        self.page = page
        self.place = place
        self.network: str | None = None
        self.ip = b""
        self.deadline = waits.NEVER
        self.hangs = False
        self.used = False
        self.idle_since = monotonic()
        self.dismissed = False

    @property
    def busy(self) -> bool:
        """Does it serve a client?"""
        return self.network is not None

    def assign(self, client: Client, deadline: float) -> None:
        """It serves this client from now on."""
        self.network = client.network
        self.ip = client.facts[b"TCPREMOTEIP"]
        self.deadline = deadline
        self.used = True

    def release(self) -> None:
        """It has served its client, and is idle from now on."""
        self.network = None
        self.deadline = waits.NEVER
        self.idle_since = monotonic()

    def leave(self) -> None:
        """Neither send it anything more nor listen to it; it finds the end behind what it was sent.

        The socket is open until it has ended: closed with something unread in it, as a word of the
        worker's that comes just now, it would take from the worker what that has not read yet.
        """
        if self.control is not None:
            self.left, self.control = self.control, None
            try:
                self.left.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended

    def close(self) -> None:
        """It has ended."""
        if self.left is not None:
            self.left.close()
            self.left = None


def fork(
    configuration: Configuration, client: Client | None, kept: list[int], board: Board
) -> Worker:
    """A new worker, for this connection or to be idle.  Raises OSError.

    The new process keeps these descriptors, and what it is given here (see kept.py).
    """
    place = 0
    ours: socket.socket | None = None
    theirs: socket.socket | None = None
    try:
        page = new_page(configuration)
        if configuration.options.sessions > 1:
            place = board.take()
        if client is None or configuration.options.sessions > 1:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            patient(theirs)
        # Until the new process handles them itself, the master's handlers would
        # swallow what is sent to it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for end in (ours, theirs):
            if end is not None:
                end.close()
        if place:
            board.free(place)
        raise
    if pid == 0:
        try:
            own = [] if theirs is None else [theirs.fileno()]
            close_all_but([*kept, *own, *([] if client is None else [client.fd])])
            limits.restore_limit()
            os._exit(work(configuration, client, theirs, page, board, place))
        except Exception as error:
            log_trouble(Log(2, pid=os.getpid()), error)
        finally:
            os._exit(111)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if theirs is not None:
        theirs.close()
    return Worker(pid, ours, page, place)
