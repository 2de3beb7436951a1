"""The time limit of plugins from elsewhere.

1. At its limit, Overdue is raised inside the plugin, by an interval timer (SIGALRM).
2. One that swallows that, and is still running GRACE seconds later, cannot be
   stopped from within: `escape` then ends the session with a last reply.
3. Code that never comes back to Python runs no signal handler.  For that there
   is a watchdog, a thread in C (faulthandler): it writes where the code was, and
   ends the process.  Nothing is queued then, and the client hears nothing.

To arm both takes a few system calls and a thread, so it is not done for each
call: a timer that goes off too early for the call under way is armed for what
is left, and the watchdog has twice the time, so that a call that begins just
before the timer goes off has still all of its own.
"""

from __future__ import annotations

from time import monotonic

from ..waits import NEVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any, Protocol

    class Running(Protocol):
        """Where it is noted for another process which plugin runs."""

        def begin(self, plugin: str, hook: str, deadline: float) -> None: ...
        def end(self) -> None: ...

else:
    import _signal as signal  # signal.py imports enum, which costs a cold start 4 ms

GRACE = 2.0  # seconds
#: Of the watchdog's thread (bytes): the usual 8 MB would count as address space.
STACK = 128 * 1024


class Overdue(BaseException):
    """A plugin has had its time.  No Exception, so that `except Exception` lets it pass."""


class TimeLimit:
    """Calls plugin code.  `escape(plugin, hook)` must not return.

    `traceback` is the descriptor that the watchdog writes to before it ends
    the process; with None there is no watchdog, as in a dry run.
    """

    __slots__ = (
        "escape",
        "escaped",
        "_traceback",
        "_noted",
        "_who",
        "_seconds",
        "_deadline",
        "_running",
        "_fired",
        "_alarm",
        "_watchdog",
    )

    def __init__(self, traceback: int | None = None, noted: Running | None = None) -> None:
        self.escape: Callable[[str, str], object] | None = None
        self.escaped = False  # that did not end the process, but raised
        self._traceback = traceback
        self._noted = noted
        self._who = ("", "")
        self._seconds = 0.0
        self._deadline = NEVER  # of the call under way
        self._running = False
        self._fired = 0
        self._alarm = NEVER  # when the timer goes off
        self._watchdog = 0.0  # when it goes off

    def call(
        self, who: tuple[str, str], seconds: float, function: Callable[..., Any], *facts: object
    ) -> Any:
        """function(*facts), within this time (seconds); else Overdue.

        `who` are the names of plugin and hook.
        """
        self._who = who
        self._seconds = seconds
        self._fired = 0
        try:
            self._begin(seconds)
            try:
                found = function(*facts)
            finally:
                self._running = False
        finally:
            # Once more: the timer may have gone off in the `finally` above.
            self._end()
        if self._fired:  # it has swallowed that, and come back all the same
            raise Overdue(f"took more than {seconds:g} seconds")
        return found

    def suspended(self, function: Callable[[float], Any], seconds: float) -> Any:
        """function(seconds), which a plugin has asked for: that is not the plugin's time."""
        if not self._running:
            return function(seconds)
        left = max(0.0, self._deadline - monotonic())
        self._end()
        try:
            return function(seconds)
        finally:
            self._begin(left)

    def stop(self) -> None:
        """There will be no more calls."""
        if self._noted is not None:
            self._noted.end()  # `escape` is called while a plugin runs
        if self._alarm != NEVER:
            self._disarm()

    def _disarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # somebody else's alarm ends us
        if self._traceback is not None:
            import faulthandler

            faulthandler.cancel_dump_traceback_later()
        self._alarm, self._watchdog = NEVER, 0.0

    def _begin(self, seconds: float) -> None:
        now = monotonic()
        self._deadline = now + seconds
        self._running = True  # first: an alarm that comes now must not disarm both
        if self._alarm > self._deadline or self._watchdog < self._deadline + 2 * GRACE:
            self._arm(now, seconds)
        if self._noted is not None:
            self._noted.begin(*self._who, self._deadline)

    def _end(self) -> None:
        self._running = False
        if self._noted is not None:
            self._noted.end()
        # A plugin may have used the alarm for something else, and left one behind.
        if signal.getsignal(signal.SIGALRM) != self._on_alarm or not any(
            signal.getitimer(signal.ITIMER_REAL)
        ):
            self._disarm()

    def _arm(self, now: float, seconds: float) -> None:
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6), GRACE)
        self._alarm = now + seconds
        whole = 2 * seconds + 2 * GRACE
        if self._traceback is not None:
            _start_watchdog(whole, self._traceback)
        self._watchdog = now + whole

    def _on_alarm(self, number: int, frame: object) -> None:
        if self.escaped:
            return  # the watchdog is what ends a goodbye that takes too long
        if not self._running:
            self.stop()
            return
        now = monotonic()
        if now < self._deadline and not self._fired:
            self._arm(now, self._deadline - now)
            return
        self._fired += 1
        if self._fired == 1:
            raise Overdue(f"took more than {self._seconds:g} seconds")
        if self.escape is not None:
            self.escaped = True
            self.escape(*self._who)


def _start_watchdog(seconds: float, traceback: int) -> None:
    """In place of the one before."""
    import _thread
    import faulthandler

    before = _thread.stack_size(STACK)
    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=traceback)
    finally:
        _thread.stack_size(before)
