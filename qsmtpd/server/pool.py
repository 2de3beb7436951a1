"""The pool: the worker processes, from fork to wait().

Each connection of a process is counted when it is assigned, and no longer when it is seen
that the process is done, or has ended in whatever way.
"""

from __future__ import annotations

import os
import sys
from _socket import SCM_RIGHTS, SOL_SOCKET
from time import monotonic

from .. import waits
from . import status
from .board import Board
from .deaths import log_death
from .fork import Worker, fork
from .options import ERRORS, STATUS
from .worker import DONE, PACKED_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

    from .accepted import Client, Connections
    from .configuration import Configuration
    from .events import Events
    from .kept import Kept
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
#: How long it may be unknown that a process is done, where nobody waits for it (seconds).
LOOK = 1.0


class Pool:
    """The worker processes.

    `kept` are the descriptors that each new process keeps; `connections`
    counts also those that are served here.
    """

    def __init__(
        self,
        configuration: Configuration,
        events: Events,
        connections: Connections,
        kept: Kept,
    ) -> None:
        self.configuration = configuration
        #: What the processes that there are have, if not more: see Configuration.
        self._imported = configuration.imported
        #: How many connections are being served.
        self.busy = 0
        self._options = configuration.options
        self._events = events
        self._connections = connections
        self._kept = kept
        self._workers: dict[int, Worker] = {}
        self._controls: dict[int, Worker] = {}  # by the descriptor of the control socket
        most = self._options.limit + self._options.spare
        self._board = Board(2 * most + 64)  # after a HUP there are old ones, too
        self._places: dict[int, Worker] = {}
        self._told = self._options.verbose >= STATUS  # is the end of each to be told at once?
        self._board.awaited = self._told
        #: When to look who is done, at the latest (monotonic seconds).
        self._look_at = waits.NEVER
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
        if self.busy >= self._options.limit:
            self.look()
        return self.busy < self._options.limit

    def hand_out(self, client: Client, longest: float) -> bool:
        """Give a connection to an idle worker, the latest used first; else to a new one.

        It takes at most `longest` seconds.  False where no process is to be had.
        """
        if self._told:
            self.say_status(1)  # first, as in tcpserver's log: the worker says the rest
        if self._imported != self.configuration.imported:
            self.replace(self.configuration)  # a rule is new: no process is to import for it
        if not self._idle:
            self.look()
        worker = self._send(client) if self._idle else None
        if worker is None:
            worker = self._fork(client)
            if worker is None:
                self.say_status()
                return False
        deadline = client.since + longest
        worker.assign(client, deadline)
        self.busy += 1
        self._wait = FIRST_WAIT
        if deadline < self._overdue_at:
            self._overdue_at = deadline
            self._events.by(deadline)
        if self._look_at == waits.NEVER:
            self._look_at = monotonic() + LOOK
            self._events.by(self._look_at)
        return True

    def _send(self, client: Client) -> Worker | None:
        """Send a connection to an idle worker; None where there is none, or cannot be."""
        packed = client.pack()
        if len(packed) > PACKED_LIMIT:
            return None  # a new process has it without being sent it
        descriptor = client.fd.to_bytes(4, sys.byteorder)
        while self._idle:
            worker = self._idle.pop()
            assert worker.control is not None
            try:
                worker.control.sendmsg([packed], [(SOL_SOCKET, SCM_RIGHTS, descriptor)])
            except OSError:  # it has just died
                continue
            if self._options.sessions == 1:
                self._dismiss(worker)
            return worker
        return None

    def look(self) -> None:
        """See which workers are done by now."""
        for place, code in self._board.done():
            worker = self._places[place]
            if not worker.busy:
                continue
            self._release(worker)
            if worker.control is not None:
                self._idle.append(worker)
                self._events.by(worker.idle_since + IDLE)
            if self._told:
                self._say_end(worker.pid, code << 8)

    def await_one(self, wanted: bool) -> None:
        """Is the master to be woken as soon as a worker is done?"""
        wanted = wanted or self._told
        if wanted != self._board.awaited:
            self._board.awaited = wanted
        if wanted:
            self.look()  # one may have been done before it could know

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
        self.look()
        if said.strip(DONE) or not said:
            self._lose(worker)  # it has ended, or what it says makes no sense

    def check(self, now: float) -> None:
        """See who is done; dismiss those that were idle for long; kill those that hang."""
        self.look()
        self._look_at = now + LOOK if self.busy else waits.NEVER
        if now >= self._overdue_at:
            self._kill_overdue(now)
        for worker in self._surplus():
            if now < worker.idle_since + IDLE:
                break
            self._dismiss(worker)

    def _kill_overdue(self, now: float) -> None:
        """Kill the workers whose sessions should have been over long ago."""
        for worker in self._workers.values():
            if now >= worker.deadline:
                worker.hangs, worker.deadline = True, waits.NEVER
                os.kill(worker.pid, signal.SIGKILL)
        self._overdue_at = min((w.deadline for w in self._workers.values()), default=waits.NEVER)

    def is_short(self, now: float) -> bool:
        """Are spare ones to be forked?"""
        if not self._options.spare or now < self._resume_at:
            return False
        if not self._idle:
            self.look()
        return not self._idle

    def top_up(self, now: float) -> None:
        """Fork the spare ones."""
        # All at once: what the master writes to between two forks is copied,
        # and these share one copy.
        for _ in range(self._options.spare):
            fresh = self._fork()
            if fresh is None:
                self._resume_at = now + PAUSE
                self._events.by(self._resume_at)
                break
            self._idle.insert(0, fresh)

    def times(self) -> Iterator[float]:
        """When check() or top_up() may have something to do (monotonic seconds)."""
        yield self._overdue_at
        yield self._look_at
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

    def descriptors(self) -> list[int]:
        """Those to workers that are left alone, which nobody waits for."""
        left = (worker.left for worker in self._workers.values())
        return [control.fileno() for control in left if control is not None]

    def __len__(self) -> int:
        """How many worker processes have not been reaped."""
        return len(self._workers)

    def _fork(self, client: Client | None = None) -> Worker | None:
        """A new worker, for this connection or to be idle.  None where that cannot be."""
        try:
            kept = self._kept.by(self.configuration, -1 if client is None else client.fd)
            worker = fork(self.configuration, client, kept, self._board)
        except OSError as error:
            if self._options.verbose >= ERRORS:
                status.say(f"warning: cannot fork: {error.strerror}")
            return None
        self._workers[worker.pid] = worker
        if worker.place:
            self._places[worker.place] = worker
        if worker.control is not None:
            self._controls[worker.control.fileno()] = worker
            self._events.add(worker.control.fileno(), self._hear)
        return worker

    def reap(self, pid: int, code: int) -> None:
        """A child process has ended with this wait status; it may be none of the workers."""
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        self.look()
        self._lose(worker)
        worker.close()
        if worker.place:
            del self._places[worker.place]
            self._board.free(worker.place)
        if worker.busy:
            protocol = self.configuration.protocol.name
            log_death(worker.page, code, pid, worker.ip, protocol, worker.hangs)
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
            self._events.by(self._resume_at)
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
            worker.leave()

    def _dismiss(self, worker: Worker) -> None:
        """Let it end: at once if it is idle, else after the session that it serves."""
        worker.dismissed = True
        self._close_control(worker)

    def replace(self, configuration: Configuration) -> None:
        """Dismiss all workers; new ones have this configuration."""
        self.configuration = configuration
        self._imported = configuration.imported
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
