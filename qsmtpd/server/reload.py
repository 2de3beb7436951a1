"""HUP: a trial of what is to be read anew, in a process of its own; then the new configuration.

All or nothing: where something is wrong that was not before, or a plugin's module
hangs or ends the process when it is loaded, which it does in the trial, the server
goes on with all that it has, certificates and keys included.  It says so at once,
and every hour until a HUP has succeeded.
"""

from __future__ import annotations

import os
from time import monotonic

from ..policy import load as plugins
from . import status
from .heap import freeze, thaw
from .kept import close_all_but
from .options import ERRORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

    from .configuration import Configuration
    from .kept import Kept
    from .pool import Pool
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call

#: The trial has to end within this time (seconds): a plugin may take 30.
TRIAL_WAIT = 60.0
#: How often it is said that the server goes on with what is old (seconds).
REMINDER = 3600.0
#: Bytes of what a trial says is wrong; so many are written to a pipe at once (pipe(7)).
REPORT_LIMIT = 4096


class Reload:
    """Gives the pool a new configuration from load(), if a trial of that succeeds.

    `current` is the one that it has.  `kept` are the descriptors that the trial
    process keeps.
    """

    def __init__(
        self,
        load: Callable[[], Configuration],
        current: Configuration,
        pool: Pool,
        verbose: int,
        kept: Kept,
    ) -> None:
        self._load = load
        self._current = current
        self._pool = pool
        self._verbose = verbose
        self._kept = kept
        #: The trial process, or None while there is none.
        self.pid: int | None = None
        #: Where it says what is wrong; the master's alone.
        self._report: int | None = None
        self._deadline = 0.0
        self._refusal = ""
        #: When that is to be said again (monotonic seconds), or None.
        self._remind_at: float | None = None

    @property
    def descriptors(self) -> list[int]:
        """What only the master may have open."""
        return [] if self._report is None else [self._report]

    def start(self) -> None:
        """Start the trial."""
        kept = self._kept.by(self._current)
        try:
            self._report, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            status.say(f"warning: cannot read anew: {error.strerror}")
            return
        try:
            pid = os.fork()
        except OSError as error:
            os.close(report)
            self._close_report()
            if self._verbose >= ERRORS:
                status.say(f"warning: cannot fork to read anew: {error.strerror}")
            return
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                close_all_but([*kept, report])
                os.dup2(0, 2)  # what it logs will be logged again if all is well
                wrong = "; ".join(self._load().worse_than(self._current))
                os.write(report, wrong.encode("ascii", "backslashreplace")[:REPORT_LIMIT])
                os._exit(0)
            finally:
                os._exit(111)
        os.close(report)
        self.pid = pid
        self._deadline = monotonic() + TRIAL_WAIT

    def finish(self, code: int) -> None:
        """The trial has ended with this wait status: 0 and nothing wrong, and it is loaded."""
        self.pid = None
        wrong = self._read_report()
        if code != 0:
            self._refuse(f"what was to be read anew ends a process: status {code}")
        elif wrong:
            self._refuse(wrong)
        else:
            self._replace()

    def _read_report(self) -> str:
        assert self._report is not None
        try:
            return os.read(self._report, REPORT_LIMIT).decode("ascii")
        except BlockingIOError:  # a process that it has started has the pipe, and it said nothing
            return ""
        finally:
            self._close_report()

    def _close_report(self) -> None:
        if self._report is not None:
            os.close(self._report)
            self._report = None

    def _replace(self) -> None:
        status.say("reading controls, plugins and certificates anew")
        thaw()
        wrong = self._load_anew()
        freeze()  # now that nothing refers any more to what is not used
        if wrong:
            self._refuse("; ".join(wrong))
        else:
            self._remind_at = None

    def _load_anew(self) -> list[str]:
        """Have the new configuration, or go on with what there is, and say what is wrong."""
        before = plugins.forget()
        configuration = self._load()
        wrong = configuration.worse_than(self._current)  # since the trial
        if wrong:
            plugins.remember(before)
        else:
            self._current = configuration
            self._pool.replace(configuration)
        return wrong

    def _refuse(self, reason: str) -> None:
        """Go on with what there is, and say why, now and every hour."""
        self._refusal = reason
        self._remind()

    def _remind(self) -> None:
        kept = self._current.preloaded
        end = "" if kept.expires is None else f"; its first certificate to expire: {kept.expires}"
        status.say(
            f"warning: not read anew: {self._refusal}; all is as read on {kept.read}{end}; "
            "mend it and send HUP"
        )
        self._remind_at = monotonic() + REMINDER

    def check(self, now: float) -> None:
        """Kill a trial that has taken too long; say again what is due."""
        if self.pid is not None and now >= self._deadline:
            status.say("warning: what was to be read anew hangs")
            os.kill(self.pid, signal.SIGKILL)
            self._deadline = now + TRIAL_WAIT
        if self._remind_at is not None and now >= self._remind_at:
            self._remind()

    def cancel(self) -> None:
        """Kill the trial, if there is one: nothing will be loaded."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def times(self) -> Iterator[float]:
        """When check() may have something to do (monotonic seconds)."""
        if self.pid is not None:
            yield self._deadline
        if self._remind_at is not None:
            yield self._remind_at
