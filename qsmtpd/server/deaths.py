"""Workers that end with a client in hand: the log lines of that session.

A plugin from elsewhere may end the process, and one that never returns from C
code is ended together with its process by a watchdog (see policy/timelimit.py).
In neither case can that process say which plugin it was.  So it writes into a
page of memory, shared with the master, which plugin is running at which hook.
"""

from __future__ import annotations

import mmap
import os
from time import monotonic

from ..log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .configuration import Configuration

#: The wait status of a process that the watchdog, faulthandler, has ended by _exit(1).
_WATCHDOG = 1 << 8
#: For the log: error, reason, and the end of the session.
_HANG = ("Hang", "killed", "plugin-hangs")
_EXIT = ("Exit", "the process has ended within the plugin", "plugin-exits")


def new_page(configuration: Configuration) -> mmap.mmap | None:
    """A page to share with the next process, or None where no plugin could need it.

    Raises OSError where there is no memory.
    """
    # A rule may set QSMTPD_PLUGINS for a client.
    if configuration.external_plugins or configuration.rules is not None:
        from ..policy.running import Running

        return mmap.mmap(-1, Running.SIZE)
    return None


def log_death(
    page: mmap.mmap | None, code: int, pid: int, ip: bytes, protocol: bytes, hung: bool = False
) -> None:
    """Log that a worker has ended, with wait status `code`, while it served this client.

    `protocol` is what was spoken.  `hung`: the master has killed it, for its session should
    have been over.  Nothing is logged of a process that has ended by itself, and in no
    plugin: it has done that.
    """
    log = Log(2, pid=pid, ip=ip)
    proto = None if protocol == b"SMTP" else protocol
    found = None
    if page is not None:
        from ..policy.running import Running

        found = Running.read(page)
    if found is not None:
        plugin, hook, deadline = found
        hangs = hung or (code == _WATCHDOG and monotonic() >= deadline)
        error, reason, end = _HANG if hangs else _EXIT
        log.line("trouble", error=error, reason=reason, plugin=plugin, hook=hook)
        log.line("session", end=end, proto=proto)
    elif os.WIFSIGNALED(code):
        end = "process-hangs" if hung else "process-killed"
        log.line("session", end=end, proto=proto, signal=os.WTERMSIG(code))
