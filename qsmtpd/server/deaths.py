"""Workers that end while a plugin from elsewhere is running: the log line that names it.

A plugin may end the process, and one that never returns from C code is ended
together with its process by a watchdog (see policy/timelimit.py).  In neither
case can that process say which plugin it was.  So it writes into a page of
memory, shared with the master, which plugin is running at which hook.
"""

from __future__ import annotations

import mmap
from time import monotonic

from ..log import Log
from ..policy.running import Running

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
        return mmap.mmap(-1, Running.SIZE)
    return None


def log_death(page: mmap.mmap, code: int, pid: int, ip: bytes) -> None:
    """Log that a worker has ended, with wait status `code`, if that was within a plugin.

    `ip` is the client's.
    """
    found = Running.read(page)
    if found is None:
        return
    plugin, hook, deadline = found
    hangs = code == _WATCHDOG and monotonic() >= deadline
    error, reason, end = _HANG if hangs else _EXIT
    log = Log(2, pid=pid, ip=ip)
    log.line("trouble", error=error, reason=reason, plugin=plugin, hook=hook)
    log.line("session", end=end)
