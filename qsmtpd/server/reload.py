"""HUP: a trial of what is to be read anew, in a process of its own; then the new configuration.

A plugin's module that hangs or ends the process when it is loaded does that in
the trial, and the server goes on with what it has.
"""

from __future__ import annotations

import os
from time import monotonic

from . import status
from .heap import freeze, thaw
from .options import ERRORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

    from .configuration import Configuration
    from .pool import Pool
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call

#: The trial has to end within this time (seconds): a plugin may take 30.
TRIAL_WAIT = 60.0


class Reload:
    """Gives the pool a new configuration from load(), if a trial of that succeeds.

    descriptors() are those that the trial process has to close.
    """

    def __init__(
        self,
        load: Callable[[], Configuration],
        pool: Pool,
        verbose: int,
        descriptors: Callable[[], list[int]],
    ) -> None:
        self._load = load
        self._pool = pool
        self._verbose = verbose
        self._descriptors = descriptors
        #: The trial process, or None while there is none.
        self.pid: int | None = None
        self._deadline = 0.0

    def start(self) -> None:
        """Start the trial."""
        descriptors = self._descriptors()
        try:
            pid = os.fork()
        except OSError as error:
            if self._verbose >= ERRORS:
                status.say(f"warning: cannot fork to read anew: {error.strerror}")
            return
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                for descriptor in descriptors:
                    os.close(descriptor)
                os.dup2(0, 2)  # what it logs will be logged again if all is well
                self._load()
                os._exit(0)
            finally:
                os._exit(111)
        self.pid = pid
        self._deadline = monotonic() + TRIAL_WAIT

    def finish(self, code: int) -> None:
        """The trial has ended with this wait status: 0, and the configuration is loaded."""
        self.pid = None
        if code != 0:
            status.say(f"warning: what was to be read anew ends a process: status {code}")
            return
        status.say("reading controls, plugins and certificates anew")
        thaw()
        configuration = self._load()
        freeze()
        self._pool.replace(configuration)

    def check(self, now: float) -> None:
        """Kill a trial that has taken too long."""
        if self.pid is not None and now >= self._deadline:
            status.say("warning: what was to be read anew hangs")
            os.kill(self.pid, signal.SIGKILL)
            self._deadline = now + TRIAL_WAIT

    def cancel(self) -> None:
        """Kill the trial, if there is one: nothing will be loaded."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def times(self) -> Iterator[float]:
        """When check() may have something to do (monotonic seconds)."""
        if self.pid is not None:
            yield self._deadline
