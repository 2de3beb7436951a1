"""The master: one loop that waits for connections, workers and signals; then the drain.

It waits nowhere but in its poll(), and it serves no client itself.  A
connection goes one way: listener, pool, worker.
"""

from __future__ import annotations

import os
import select
from time import monotonic

from .. import waits
from .heap import freeze
from .listener import Listener
from .pool import Pool
from .reload import Reload
from .signals import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import Callable

    from .configuration import Configuration
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call

#: After the drain, how long processes may take from TERM to their end (seconds).
GRACE = 5.0


class Master:
    """Serves the listening sockets until TERM.

    load() makes what new processes take along; it is called again on HUP.
    """

    def __init__(self, sockets: list[socket.socket], load: Callable[[], Configuration]) -> None:
        configuration = load()
        self._options = configuration.options
        self._signals = Signals()
        self._pool = Pool(configuration, self._descriptors)
        self._listener = Listener(sockets, self._options, configuration.rules, self._pool)
        verbose = self._options.verbose
        self._reload = Reload(load, configuration, self._pool, verbose, self._descriptors)

    def run(self) -> None:
        """Serve until TERM, then wait for the running sessions."""
        freeze()
        self._pool.say_status()
        while not self._signals.terminations:
            self._turn()
        self._drain()

    def _descriptors(self) -> list[int]:
        """What only the master may have open: each new process closes them.

        A session that outlives the master must not hold its port; and if one
        worker held the master's end of another's control socket, that other one
        would not notice the master's death.
        """
        shared = [*self._listener.sockets, *self._pool.controls()]
        own = [*self._signals.descriptors, *self._reload.descriptors]
        return [*own, *(each.fileno() for each in shared)]

    def _turn(self) -> None:
        """Wait for something, and do it."""
        now = monotonic()
        self._reload.check(now)
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        for readable in (*self._listener.wanted(now), *self._pool.controls()):
            poll.register(readable, select.POLLIN)
        ready: set[int] = set()
        if self._options.spare:  # clients who wait go before processes for those who may come
            ready = set(waits.wait(poll, now))
        if not ready:
            if self._pool.top_up(now):
                return
            ready = set(waits.wait(poll, self._next_time(now)))
        if self._signals.fd in ready:
            self._handle_signals()
        self._pool.hear(ready)
        if not self._signals.terminations:
            self._listener.accept(ready)

    def _next_time(self, now: float) -> float:
        """When there is something to do by the clock (monotonic seconds)."""
        times = [self._listener.resume_at, *self._pool.times(), *self._reload.times()]
        return min([time for time in times if time > now], default=waits.NEVER)

    def _handle_signals(self) -> None:
        self._signals.clear()
        self._reap()
        if self._signals.hangup and self._reload.pid is None and not self._signals.terminations:
            self._signals.hangup = False
            self._reload.start()

    def _reap(self) -> None:
        while len(self._pool) or self._reload.pid is not None:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._pool.reap_lost()
                return
            if pid == 0:
                return
            if pid != self._reload.pid:
                self._pool.reap(pid, code)
            elif not self._signals.terminations:
                self._reload.finish(code)
                self._pool.reap_lost()
            else:
                self._reload.pid = None

    def _drain(self) -> None:
        """No more clients: let mail transactions end, for a while, then end them."""
        self._listener.close()
        self._pool.dismiss()
        self._pool.kill(waits.FINISH)
        self._reload.cancel()
        self._wait(self._options.drain, lambda: self._signals.terminations > 1)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._pool.kill(number)
            self._wait(GRACE, lambda: False)

    def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Until every worker has ended, `seconds` are over, or enough() is true."""
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        end = monotonic() + seconds
        self._handle_signals()
        while len(self._pool) and not enough() and monotonic() < end:
            waits.wait(poll, end)
            self._handle_signals()
