"""The pool: the worker processes, from fork to wait().

What is counted here is counted from the list of living processes, so a process
that is killed cannot leave a wrong number behind.
"""

from __future__ import annotations

import os
import socket
from time import monotonic

from . import status
from .deaths import log_death
from .fork import Worker, fork
from .options import ERRORS, STATUS
from .worker import DONE, PACKED_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .accepted import Accepted
    from .configuration import Configuration

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

    descriptors() are those that each new process has to close.
    """

    def __init__(self, configuration: Configuration, descriptors: Callable[[], list[int]]) -> None:
        self._configuration = configuration
        self._options = configuration.options
        self._descriptors = descriptors
        self._workers: dict[int, Worker] = {}
        #: None is forked ahead before this time (monotonic seconds).
        self._resume_at = 0.0
        self._wait = FIRST_WAIT

    # -- for the listener --------------------------------------------------

    def busy(self) -> int:
        """How many connections are being served."""
        return sum(worker.busy for worker in self._workers.values())

    def connections(self, network: str) -> int:
        """How many of them are from this network."""
        return sum(worker.network == network for worker in self._workers.values())

    def hand_out(self, accepted: Accepted) -> bool:
        """Give a connection to an idle worker, the latest used first; else to a new one.

        False where no process is to be had.
        """
        self.say_status(1)  # first, as in tcpserver's log: the worker says the rest
        for worker in sorted(self._idle(), key=lambda w: (w.used, w.idle_since), reverse=True):
            if self._send(worker, accepted):
                worker.assign(accepted)
                break
        else:
            if not self._fork(accepted):
                self.say_status()
                return False
        self._wait = FIRST_WAIT
        return True

    def _send(self, worker: Worker, accepted: Accepted) -> bool:
        assert worker.control is not None
        packed = accepted.pack()
        if len(packed) > PACKED_LIMIT:
            return False  # a new process has it without being sent it
        try:
            socket.send_fds(worker.control, [packed], [accepted.fd])
        except OSError:  # it has just died
            return False
        if self._options.sessions == 1:
            worker.dismiss()
        return True

    # -- for the master's loop ---------------------------------------------

    def controls(self) -> list[socket.socket]:
        """The sockets where workers may say something."""
        return [w.control for w in self._workers.values() if w.control is not None]

    def hear(self, ready: set[int]) -> None:
        """Read what the workers behind these descriptors say."""
        for worker in list(self._workers.values()):
            if worker.control is not None and worker.control.fileno() in ready:
                self._hear(worker, worker.control)

    def _hear(self, worker: Worker, control: socket.socket) -> None:
        try:
            said = control.recv(16)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said.startswith(DONE) and said[1:].isdigit():
            worker.release()
            self._say_end(worker.pid, int(said[1:]) << 8)
        else:
            self._lose(worker)  # it has ended, or what it says makes no sense

    def top_up(self, now: float) -> bool:
        """Dismiss workers that were idle for long, and fork the spare ones; any change?"""
        changed = False
        for worker in self._surplus():
            if now >= worker.idle_since + IDLE:
                worker.dismiss()
                changed = True
        if now >= self._resume_at and not self._idle():
            # All at once: what the master writes to between two forks is copied,
            # and these share one copy.
            for _ in range(self._options.spare):
                if not self._fork():
                    self._resume_at = now + PAUSE
                    break
                changed = True
        return changed

    def times(self) -> Iterator[float]:
        """When top_up() may have something to do (monotonic seconds)."""
        yield self._resume_at
        for worker in self._surplus():
            yield worker.idle_since + IDLE

    def _idle(self) -> list[Worker]:
        return [w for w in self._workers.values() if not w.busy and w.control is not None]

    def _surplus(self) -> list[Worker]:
        """The used ones among the idle, but for as many as are kept spare."""
        # What is kept is the unused ones, then the latest used.
        idle = sorted(self._idle(), key=lambda w: (not w.used, w.idle_since), reverse=True)
        return [worker for worker in idle[self._options.spare :] if worker.used]

    # -- processes ---------------------------------------------------------

    def __len__(self) -> int:
        """How many worker processes have not been reaped."""
        return len(self._workers)

    def _fork(self, accepted: Accepted | None = None) -> bool:
        """A new worker, for this connection or to be idle.  False where that cannot be."""
        try:
            worker = fork(self._configuration, accepted, self._descriptors())
        except OSError as error:
            if self._options.verbose >= ERRORS:
                status.say(f"warning: cannot fork: {error.strerror}")
            return False
        self._workers[worker.pid] = worker
        return True

    def reap(self, pid: int, code: int) -> None:
        """A child process has ended with this wait status; it may be none of the workers."""
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        self._lose(worker)
        if worker.busy:
            if worker.page is not None:
                log_death(worker.page, code, pid, worker.ip)
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

    def _lose(self, worker: Worker) -> None:
        """It is at its end, though perhaps it cannot be reaped yet (as under a debugger)."""
        if worker.control is not None and not worker.used:
            # It died before it had anything to do, and the next one might, too.
            self._resume_at = monotonic() + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        worker.close_control()  # else poll() would return at once until then

    def replace(self, configuration: Configuration) -> None:
        """Dismiss all workers; new ones have this configuration."""
        self._configuration = configuration
        self.dismiss()

    def dismiss(self) -> None:
        """Dismiss all workers."""
        for worker in self._workers.values():
            worker.dismiss()

    def kill(self, number: int) -> None:
        """Send this signal to all workers."""
        for pid in self._workers:
            os.kill(pid, number)

    # -- status lines ------------------------------------------------------

    def say_status(self, more: int = 0) -> None:
        """How many connections are being served, and `more`."""
        if self._options.verbose >= STATUS:
            status.say(f"status: {self.busy() + more}/{self._options.limit}")

    def _say_end(self, pid: int, code: int) -> None:
        if self._options.verbose >= STATUS:
            status.say(f"end {pid} status {code}")
        self.say_status()
