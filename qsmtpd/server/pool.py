"""The pool: the worker processes, from fork to wait().

Each connection of a process is counted when it is assigned, and no longer when
the process says that it is done, or has ended in whatever way.
"""

from __future__ import annotations

import os
import socket
from time import monotonic

from .. import waits
from . import status
from .deaths import log_death
from .fork import Worker, fork
from .options import ERRORS, STATUS
from .worker import DONE, PACKED_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

    from .accepted import Accepted, Connections
    from .configuration import Configuration
    from .events import Events
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call

#: How long nothing is accepted, nor forked ahead of need, where no process,
#: descriptor or memory is to be had (seconds).
PAUSE = 1.0
#: How long none is forked ahead after one has died unused: the first time, and
#: at most; it doubles each time (seconds).
FIRST_WAIT, LONGEST_WAIT = 0.1, 30.0
#: How long a worker for several connections may be idle before it is dismissed (seconds).
IDLE = 60.0


class Pool:
    """The worker processes.

    descriptors() are those that each new process has to close; `connections`
    counts also those that are served here.
    """

    def __init__(
        self,
        configuration: Configuration,
        events: Events,
        connections: Connections,
        descriptors: Callable[[], list[int]],
    ) -> None:
        self.configuration = configuration
        #: How many connections are being served.
        self.busy = 0
        self._options = configuration.options
        self._events = events
        self._connections = connections
        self._descriptors = descriptors
        self._workers: dict[int, Worker] = {}
        self._controls: dict[int, Worker] = {}  # by the descriptor of the control socket
        #: Those that are free: the unused ones, then the used ones, the latest last.
        self._idle: list[Worker] = []
        #: No session has to be over before this time (monotonic seconds).
        self._overdue_at = waits.NEVER
        #: None is forked ahead before this time (monotonic seconds).
        self._resume_at = 0.0
        self._wait = FIRST_WAIT

    # -- for the listener --------------------------------------------------

    def has_room(self) -> bool:
        """May one more connection be served?"""
        return self.busy < self._options.limit

    def hand_out(self, accepted: Accepted, longest: float) -> bool:
        """Give a connection to an idle worker, the latest used first; else to a new one.

        It takes at most `longest` seconds.  False where no process is to be had.
        """
        self.say_status(1)  # first, as in tcpserver's log: the worker says the rest
        worker = self._send(accepted) if self._idle else None
        if worker is None:
            worker = self._fork(accepted)
            if worker is None:
                self.say_status()
                return False
        deadline = accepted.since + longest
        worker.assign(accepted, deadline)
        self.busy += 1
        self._overdue_at = min(self._overdue_at, deadline)
        self._wait = FIRST_WAIT
        return True

    def _send(self, accepted: Accepted) -> Worker | None:
        """Send a connection to an idle worker; None where there is none, or cannot be."""
        packed = accepted.pack()
        if len(packed) > PACKED_LIMIT:
            return None  # a new process has it without being sent it
        while self._idle:
            worker = self._idle.pop()
            assert worker.control is not None
            try:
                socket.send_fds(worker.control, [packed], [accepted.fd])
            except OSError:  # it has just died
                continue
            if self._options.sessions == 1:
                self._dismiss(worker)
            return worker
        return None

    def catch_up(self, network: str) -> None:
        """Hear what the workers of this network have said by now."""
        for worker in [w for w in self._controls.values() if w.network == network]:
            assert worker.control is not None
            self._hear(worker.control.fileno())

    # -- for the master's loop ---------------------------------------------

    def _hear(self, fd: int, flags: int = 0) -> None:
        """Read what the worker behind this descriptor says."""
        worker = self._controls[fd]
        assert worker.control is not None
        try:
            said = worker.control.recv(16)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if worker.busy and said.startswith(DONE) and said[1:].isdigit():
            self._release(worker)
            self._idle.append(worker)
            if self._options.verbose >= STATUS:
                self._say_end(worker.pid, int(said[1:]) << 8)
        else:
            self._lose(worker)  # it has ended, or what it says makes no sense

    def check(self, now: float) -> None:
        """Kill the workers whose sessions should have been over long ago."""
        if now < self._overdue_at:
            return
        for worker in self._workers.values():
            if now >= worker.deadline:
                worker.hangs, worker.deadline = True, waits.NEVER
                os.kill(worker.pid, signal.SIGKILL)
        self._overdue_at = min((w.deadline for w in self._workers.values()), default=waits.NEVER)

    def top_up(self, now: float) -> bool:
        """Dismiss workers that were idle for long, and fork the spare ones; any change?"""
        changed = False
        for worker in self._surplus():
            if now < worker.idle_since + IDLE:
                break
            self._dismiss(worker)
            changed = True
        if now >= self._resume_at and not self._idle:
            # All at once: what the master writes to between two forks is copied,
            # and these share one copy.
            for _ in range(self._options.spare):
                fresh = self._fork()
                if fresh is None:
                    self._resume_at = now + PAUSE
                    break
                self._idle.insert(0, fresh)
                changed = True
        return changed

    def times(self) -> Iterator[float]:
        """When check() or top_up() may have something to do (monotonic seconds)."""
        yield self._overdue_at
        if self._options.spare and not self._idle:
            yield self._resume_at
        for worker in self._surplus()[:1]:
            yield worker.idle_since + IDLE

    def _surplus(self) -> list[Worker]:
        """The used ones among the idle, but for as many as are kept spare; the oldest first."""
        unused = 0
        while unused < len(self._idle) and not self._idle[unused].used:
            unused += 1
        kept = max(0, self._options.spare - unused)
        return self._idle[unused : len(self._idle) - kept]

    # -- processes ---------------------------------------------------------

    def __len__(self) -> int:
        """How many worker processes have not been reaped."""
        return len(self._workers)

    def _fork(self, accepted: Accepted | None = None) -> Worker | None:
        """A new worker, for this connection or to be idle.  None where that cannot be."""
        try:
            worker = fork(self.configuration, accepted, self._descriptors())
        except OSError as error:
            if self._options.verbose >= ERRORS:
                status.say(f"warning: cannot fork: {error.strerror}")
            return None
        self._workers[worker.pid] = worker
        if worker.control is not None:
            self._controls[worker.control.fileno()] = worker
            self._events.add(worker.control.fileno(), self._hear)
        return worker

    def reap(self, pid: int, code: int) -> None:
        """A child process has ended with this wait status; it may be none of the workers."""
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        self._lose(worker)
        if worker.busy:
            log_death(worker.page, code, pid, worker.ip, worker.hangs)
            self._release(worker)
            if self._options.verbose >= STATUS:
                self._say_end(pid, code)
        elif not worker.used and not worker.dismissed:
            status.say(f"warning: process {pid} died unused: status {code}")

    def reap_lost(self) -> None:
        """Those that have ended and cannot be waited for any more.

        A plugin that was being loaded may have waited for all processes, or ignored SIGCHLD.
        """
        for pid in list(self._workers):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                self.reap(pid, 0)

    def _release(self, worker: Worker) -> None:
        assert worker.network is not None
        self._connections.remove(worker.network)
        self.busy -= 1
        worker.release()

    def _lose(self, worker: Worker) -> None:
        """It is at its end, though perhaps it cannot be reaped yet (as under a debugger)."""
        if worker.control is not None and not worker.used:
            # It died before it had anything to do, and the next one might, too.
            self._resume_at = monotonic() + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._close_control(worker)  # else it would be readable until then

    def _close_control(self, worker: Worker) -> None:
        """Neither send it anything more nor listen to it."""
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.control is not None:
            fd = worker.control.fileno()
            self._events.remove(fd)
            del self._controls[fd]
            worker.control.close()
            worker.control = None

    def _dismiss(self, worker: Worker) -> None:
        """Let it end: at once if it is idle, else after the session that it serves."""
        worker.dismissed = True
        self._close_control(worker)

    def replace(self, configuration: Configuration) -> None:
        """Dismiss all workers; new ones have this configuration."""
        self.configuration = configuration
        self.dismiss()

    def dismiss(self) -> None:
        """Dismiss all workers."""
        for worker in self._workers.values():
            self._dismiss(worker)

    def kill(self, number: int) -> None:
        """Send this signal to all workers."""
        for pid in self._workers:
            os.kill(pid, number)

    # -- status lines ------------------------------------------------------

    def say_status(self, more: int = 0) -> None:
        """How many connections are being served, and `more`."""
        if self._options.verbose >= STATUS:
            status.say(f"status: {self.busy + more}/{self._options.limit}")

    def _say_end(self, pid: int, code: int) -> None:
        status.say(f"end {pid} status {code}")
        self.say_status()
