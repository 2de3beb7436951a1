"""A new worker process, and what the master knows of it."""

from __future__ import annotations

import os
import socket
from time import monotonic

from .. import waits
from ..log import Log, log_trouble
from . import limits
from .deaths import new_page
from .worker import work

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import signal

    from .accepted import Accepted
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
    memory that it shares with the master, if any (see deaths.py).
    """

    __slots__ = (
        "pid",
        "control",
        "page",
        "network",
        "ip",
        "deadline",
        "hangs",
        "used",
        "idle_since",
        "dismissed",
    )

    def __init__(self, pid: int, control: socket.socket | None, page: mmap.mmap | None) -> None:
        self.pid = pid
        self.control = control
        self.page = page
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

    def assign(self, accepted: Accepted, deadline: float) -> None:
        """It serves this client from now on."""
        self.network = accepted.network
        self.ip = accepted.facts[b"TCPREMOTEIP"]
        self.deadline = deadline
        self.used = True

    def release(self) -> None:
        """It has served its client, and is idle from now on."""
        self.network = None
        self.deadline = waits.NEVER
        self.idle_since = monotonic()

    def close_control(self) -> None:
        """Neither send it anything more nor listen to it."""
        if self.control is not None:
            self.control.close()
            self.control = None


def fork(configuration: Configuration, accepted: Accepted | None, descriptors: list[int]) -> Worker:
    """A new worker, for this connection or to be idle.  Raises OSError.

    The new process closes these descriptors, which are the master's.
    """
    ours: socket.socket | None = None
    theirs: socket.socket | None = None
    try:
        page = new_page(configuration)
        if accepted is None or configuration.options.sessions > 1:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
        # Until the new process handles them itself, the master's handlers would
        # swallow what is sent to it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for end in (ours, theirs):
            if end is not None:
                end.close()
        raise
    if pid == 0:
        try:
            close(descriptors)
            limits.restore_limit()
            if ours is not None:
                os.close(ours.fileno())
            os._exit(work(configuration, accepted, theirs, page))
        except Exception as error:
            log_trouble(Log(2, pid=os.getpid()), error)
        finally:
            os._exit(111)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if theirs is not None:
        theirs.close()
    return Worker(pid, ours, page)


def close(descriptors: list[int]) -> None:
    """Close all of these: with few system calls, for there may be thousands."""
    runs: list[list[int]] = []
    for fd in sorted(descriptors):
        if runs and fd <= runs[-1][1]:
            runs[-1][1] = fd + 1
        else:
            runs.append([fd, fd + 1])
    for first, end in runs:
        os.closerange(first, end)
