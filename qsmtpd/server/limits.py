"""How many descriptors the master may have: one for each client that is held, and more."""

from __future__ import annotations

import resource

from . import status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import Options

#: For what is no client and no process.
_OTHERS = 64
#: So many PROXY headers are awaited at once, and this is the least where there is no room.
MOST_HEADERS, LEAST_HEADERS = 250, 10
_before: tuple[int, int] | None = None


def wanted(options: Options) -> int:
    """How many descriptors the master may come to have, without awaited headers."""
    return options.hold + options.limit + options.spare + _OTHERS


def raise_limit(options: Options) -> None:
    """Let this process have so many; where that cannot be, hold less, and say so."""
    global _before
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted(options) + MOST_HEADERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    problem = too_few(options)
    if problem is not None:
        options.hold = max(0, hard - wanted(options) + options.hold)
        status.say(f"warning: {problem}: {options.hold} are held at most")
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    _before = soft, hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def too_few(options: Options) -> str | None:
    """What is wrong with the limit that the system sets, or None."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= wanted(options):
        return None
    return f"the limit of {hard} descriptors is too low for --hold {options.hold}"


def headers(options: Options) -> int:
    """How many PROXY headers can be awaited at once: not at the cost of clients and processes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_HEADERS
    return max(LEAST_HEADERS, min(MOST_HEADERS, soft - wanted(options)))


def restore_limit() -> None:
    """In a process that serves: as it was, for its programs."""
    if _before is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, _before)
