"""Which descriptors of the master a new process keeps.

All that are open, but for what is the master's alone: listening sockets, clients, the
control sockets of other processes.  A session that outlives the master must not hold its
port; and if one worker held the master's end of another's control socket, that other one
would not notice the master's death.  There may be ten thousand of those; so what is kept
is looked for once, and anew when more was opened that a process wants.
"""

from __future__ import annotations

import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .configuration import Configuration

#: The descriptors that are looked at where there is no /proc.
_MOST = 65536


class Kept:
    """What new processes keep; own() are the master's descriptors."""

    __slots__ = ("_own", "_found", "_when")

    def __init__(self, own: Callable[[], Iterable[int]]) -> None:
        self._own = own
        self._found: list[int] = []
        self._when: object = None

    def by(self, configuration: Configuration, client: int = -1) -> list[int]:
        """By one with this configuration; `client`, which is on its way to it, does not count."""
        opened = 0 if configuration.rules is None else configuration.rules.opened
        now = configuration, configuration.made, opened
        if now != self._when:
            own = set(self._own())
            self._found = [fd for fd in _opened() if fd not in own and fd != client]
            self._when = now
        return self._found


def close_all_but(kept: Iterable[int]) -> None:
    """Close all descriptors from 3 on but these, in a few system calls (close_range(2))."""
    first = 3
    for fd in sorted(kept):
        if fd >= first:
            os.closerange(first, fd)
            first = fd + 1
    os.closerange(first, max(first, _highest()))


def _highest() -> int:
    """One more than any descriptor of the master."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else soft


def _opened() -> list[int]:
    try:
        candidates = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        candidates = list(range(_highest()))
    return [fd for fd in candidates if _is_open(fd)]  # the listing's own is closed by now


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
