"""The master: one loop that waits for connections, clients, workers and signals; then the end.

It waits nowhere but in its epoll, and it serves no client itself.  A connection
goes one way: listener, held clients, pool, worker.
"""

from __future__ import annotations

import os
from time import monotonic

from .. import waits
from ..smtp.replies import SHUTDOWN
from .accepted import Connections
from .events import Events
from .heap import freeze
from .held import Held
from .kept import Kept
from .listener import Listener
from .pool import Pool
from .reload import Reload
from .signals import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    import signal
    from collections.abc import Callable

    from .configuration import Configuration
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call

#: After the drain, how long processes may take from TERM to their end (seconds).
GRACE = 2.0
#: How often they are asked to finish: one that is about to read may miss it (seconds).
AGAIN = 1.0


class Master:
    """Serves the listening sockets until TERM.

    load() makes what new processes take along; it is called again on HUP.
    """

    def __init__(self, sockets: list[socket.socket], load: Callable[[], Configuration]) -> None:
        configuration = load()
        options = configuration.options
        self._options = options
        self._signals = Signals()
        self._events = Events()
        connections = Connections()
        kept = Kept(self._descriptors)
        self._pool = Pool(configuration, self._events, connections, kept)
        self._held = Held(options, self._events, self._pool, connections, self._pause)
        self._listener = Listener(
            sockets,
            options,
            configuration.rules,
            self._events,
            self._pool,
            self._held,
            connections,
            self._catch_up,
        )
        self._reload = Reload(load, configuration, self._pool, options.verbose, kept)
        self._events.add(self._signals.fd, self._handle_signals)

    def run(self) -> None:
        """Serve until TERM, then let transactions end as long as --drain says."""
        freeze()
        self._pool.say_status()
        while not self._signals.terminations:
            self._turn()
        self._stop()

    def _descriptors(self) -> list[int]:
        """What only the master may have open."""
        own = [*self._signals.descriptors, *self._reload.descriptors]
        sockets = [each.fileno() for each in self._listener.sockets]
        return list({*self._events.descriptors(), *self._pool.descriptors(), *own, *sockets})

    def _turn(self) -> None:
        """Wait for something, and do it."""
        now = monotonic()
        if now >= self._events.wake:
            self._check(now)
        # While clients wait for a process, or for being accepted, the end of a session is news.
        short_of_room = self._held.awaits or not self._listener.listens
        self._pool.await_one(short_of_room)
        if short_of_room:
            self._held.serve()
            self._listener.check(now)
        if not self._pool.is_short(now):
            self._events.wait(self._events.wake)
        elif not self._events.wait(now):  # clients who wait go before processes for others
            self._pool.top_up(now)

    def _check(self, now: float) -> None:
        """Do what is due."""
        self._reload.check(now)
        self._pool.check(now)
        self._held.expire(now)
        self._listener.check(now)
        self._events.wake = self._next_time()

    def _next_time(self) -> float:
        """When there is something to do by the clock (monotonic seconds)."""
        times = [
            self._listener.next_time(),
            self._held.next_time(),
            *self._pool.times(),
            *self._reload.times(),
        ]
        return min(times)

    def _pause(self) -> None:
        self._listener.pause()

    def _handle_signals(self, fd: int, flags: int) -> None:
        self._signals.clear()
        self._events.by(0)  # a trial of what is to be read anew has a time limit
        self._reap()
        if self._signals.hangup and self._reload.pid is None and not self._signals.terminations:
            self._signals.hangup = False
            self._reload.start()

    def _catch_up(self) -> None:
        """Hear of the sessions that have ended by now."""
        self._pool.look()
        self._reap()

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

    # -- the end -----------------------------------------------------------

    def _stop(self) -> None:
        """No more clients; who is in no mail transaction is told now, as by its process."""
        self._listener.close()
        self._held.end_all(SHUTDOWN)
        self._pool.dismiss()
        self._reload.cancel()
        self._pool.kill(waits.FINISH)
        if not self._options.drain:
            return
        end = monotonic() + self._options.drain
        while self._wait(min(end, monotonic() + AGAIN), lambda: self._signals.terminations > 1):
            if monotonic() >= end or self._signals.terminations > 1:
                break
            self._pool.kill(waits.FINISH)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._pool.kill(number)
            self._wait(max(end, monotonic()) + GRACE, lambda: False)

    def _wait(self, end: float, enough: Callable[[], bool]) -> bool:
        """Until every worker has ended, at `end`, or when enough() is true; are some left?"""
        self._reap()
        while len(self._pool) and not enough() and monotonic() < end:
            self._events.wait(end)
        return len(self._pool) > 0
