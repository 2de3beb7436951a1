"""The time limit of plugin code.

An interval timer is armed while a plugin runs, and only then.  When it fires,
Overdue is raised inside the plugin.  A plugin that swallows that, and is still
running GRACE seconds later, cannot be stopped from within: `escape` then ends
the session.  One that hangs in C hears no signal at all; for those there is a
second process (see policy/guardian.py).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any, Protocol

    class Watcher(Protocol):
        """Who looks at the time from outside: a Guardian."""

        def expect(self, who: tuple[str, str], seconds: float) -> None: ...
        def relax(self) -> None: ...
        def hush(self) -> None: ...
        def stop(self) -> None: ...

else:
    import _signal as signal  # signal.py imports enum, which costs a cold start 4 ms

GRACE = 2.0  # seconds


class Overdue(BaseException):
    """A plugin has had its time.  No Exception, so that `except Exception` lets it pass."""


class Guard:
    """Calls plugin code.  `escape(plugin, stage)` must not return."""

    __slots__ = ("escape", "escaped", "guardian", "_who", "_running", "_fired")

    def __init__(self) -> None:
        self.escape: Callable[[str, str], object] | None = None
        self.escaped = False  # that did not end the process, but raised
        self.guardian: Watcher | None = None
        self._who = ("", "")
        self._running = False
        self._fired = 0

    def call(
        self, who: tuple[str, str], seconds: float, function: Callable[..., Any], *facts: object
    ) -> Any:
        """function(*facts), within so many seconds; else Overdue.

        `who` are the names of plugin and stage.
        """
        if self.guardian is not None:
            self.guardian.expect(who, seconds)
        self._who = who
        self._fired = 0
        try:
            self._running = True
            signal.signal(signal.SIGALRM, self._fire)
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds, GRACE)
                found = function(*facts)
            finally:
                self._running = False
        finally:
            # Once more: the timer may have fired in the `finally` above.
            self._running = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # somebody else's alarm ends us
            if self.guardian is not None:
                self.guardian.relax()
        if self._fired:  # it has swallowed that, and come back all the same
            raise Overdue
        return found

    def suspended(self, function: Callable[[float], Any], seconds: float) -> Any:
        """function(seconds), which a plugin has asked for: that is not the plugin's time."""
        if not self._running:
            return function(seconds)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        self._running = False
        if self.guardian is not None:
            self.guardian.relax()
        try:
            return function(seconds)
        finally:
            if self.guardian is not None:
                self.guardian.expect(self._who, left)
            self._running = True
            signal.setitimer(signal.ITIMER_REAL, left or GRACE, GRACE)

    def hush(self) -> None:
        """From here on no other process may speak to the client, which understands no plain text.

        Or has heard the last reply.
        """
        if self.guardian is not None:
            self.guardian.hush()

    def stop(self) -> None:
        """There will be no more calls."""
        if self.guardian is not None:
            self.guardian.stop()
            self.guardian = None

    def _fire(self, number: int, frame: object) -> None:
        if not self._running:
            return
        self._fired += 1
        if self._fired == 1:
            raise Overdue
        if self.escape is not None:
            self._running = False  # to say goodbye may take longer than until the next alarm
            self.escaped = True
            try:
                self.escape(*self._who)
            finally:
                self._running = True
