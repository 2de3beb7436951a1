"""The state of this process that a plugin's code may change, and how it is put back.

That code runs in the master, when plugins are loaded, and in workers, which have
another session afterwards.  What is here is cheap to look at and would harm who
comes next.  What a plugin changes in modules of Python is its own affair.
"""

from __future__ import annotations

import _locale
import _socket
import _thread
import gc
import os
import resource
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Container, Sequence
    from typing import Any

    #: Its name, what asks for it, and what sets it, if that can be.
    Attribute = tuple[str, Callable[[], Any], Callable[[Any], object] | None]
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call

_NUMBERS = range(1, signal.NSIG)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: Those that end or hinder a session.
_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_STACK,
)
_STANDARD = (0, 1, 2)
_A_FILE = 0, 0
_STREAMS = ("stdin", "stdout", "stderr")
#: The variables as bytes: os.environb would decode and encode each.
_VARIABLES: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]


class ProcessState:
    """These attributes as they are now."""

    __slots__ = ("_attributes", "_before")

    def __init__(self, attributes: Sequence[Attribute]) -> None:
        self._attributes = attributes
        self._before = [get() for _, get, _ in attributes]

    def restore(self) -> list[str]:
        """Put them back; the names of those for which that cannot be."""
        left = []
        for before, (name, get, put) in zip(self._before, self._attributes, strict=True):
            if get() == before:
                continue
            try:
                if put is not None:
                    put(before)
            except Exception:  # as where it was set by a program in C, or is not allowed
                pass
            if get() != before:
                left.append(name)
        return left


class Standard:
    """Descriptors 0, 1 and 2, which a plugin in the master may close or replace."""

    __slots__ = ("_before", "_copies")

    def __init__(self) -> None:
        self._before = [(identity(fd), os.get_blocking(fd)) for fd in _STANDARD]
        self._copies = [os.dup(fd) for fd in _STANDARD]

    def restore(self) -> None:
        """Put them back, and let go of the copies."""
        for fd, copy, (before, blocking) in zip(_STANDARD, self._copies, self._before, strict=True):
            if identity(fd) != before:
                os.dup2(copy, fd)
            if os.get_blocking(fd) != blocking:
                os.set_blocking(fd, blocking)
            os.close(copy)


def identity(fd: int) -> tuple[int, int]:
    """(device, inode), or zeros where it is not open."""
    try:
        found = os.fstat(fd)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def descriptors(files: int = 0, others: Container[int] = ()) -> list[tuple[int, int]]:
    """What is open, but for so many files and for these others, in an order of its own.

    Nothing without /proc.

    Regular files count as one another: a cdb that has changed is opened anew.
    """
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        names = []
    found: list[tuple[int, int]] = []
    for name in names:
        if int(name) in others:
            continue
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # it was the listing's own
        is_file = stat.S_ISREG(status.st_mode)
        found.append(_A_FILE if is_file else (status.st_dev, status.st_ino))
    for _ in range(files if found else 0):
        found.remove(_A_FILE)
    return sorted(found)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _set_environment(before: dict[bytes, bytes]) -> None:
    os.environb.clear()
    os.environb.update(before)
    time.tzset()


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _NUMBERS]


def _set_handlers(before: list[Any]) -> None:
    for number, handler in zip(_NUMBERS, before, strict=True):
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _wakeup() -> int:
    fd = signal.set_wakeup_fd(-1)
    _set_wakeup(fd)
    return fd


def _set_wakeup(fd: int) -> None:
    signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def _running() -> list[bool]:
    return [any(signal.getitimer(which)) for which in _TIMERS]


def _stop_timers(_: list[bool]) -> None:
    for which in _TIMERS:
        signal.setitimer(which, 0)


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(limit) for limit in _LIMITS]


def _set_limits(before: list[tuple[int, int]]) -> None:
    for limit, value in zip(_LIMITS, before, strict=True):
        if resource.getrlimit(limit) != value:
            resource.setrlimit(limit, value)


def _set_locale(before: str) -> None:
    _locale.setlocale(_locale.LC_ALL, before)


def _collector() -> tuple[bool, tuple[int, ...], int]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug()


def _set_collector(before: tuple[bool, tuple[int, ...], int]) -> None:
    enabled, thresholds, flags = before
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*thresholds)
    gc.set_debug(flags)


def _streams() -> list[object]:
    return [getattr(sys, name, None) for name in _STREAMS]


def _set_streams(before: list[object]) -> None:
    for name, stream in zip(_STREAMS, before, strict=True):
        setattr(sys, name, stream)


#: What holds for the whole process, whoever's code runs in it.
PROCESS: tuple[Attribute, ...] = (
    ("descriptors 0, 1 and 2", lambda: [identity(fd) for fd in _STANDARD], None),
    ("umask", _umask, os.umask),
    ("working directory", os.getcwdb, os.chdir),
    ("signal handlers", _handlers, _set_handlers),
    (
        "signal mask",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        lambda mask: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
    ),
    ("wakeup descriptor of signals", _wakeup, _set_wakeup),
    ("timers", _running, _stop_timers),
    (
        "nice",
        lambda: os.getpriority(os.PRIO_PROCESS, 0),
        lambda nice: os.setpriority(os.PRIO_PROCESS, 0, nice),
    ),
    ("limits (setrlimit)", _limits, _set_limits),
    ("user or groups", lambda: (os.getresuid(), os.getresgid(), os.getgroups()), None),
    ("threads", _thread._count, None),
)
#: What a plugin may want for itself, from when it is loaded.
INTERPRETER: tuple[Attribute, ...] = (
    ("environment", _VARIABLES.copy, _set_environment),
    ("locale", lambda: _locale.setlocale(_locale.LC_ALL, None), _set_locale),
    ("time limit of sockets", _socket.getdefaulttimeout, _socket.setdefaulttimeout),
    ("garbage collector", _collector, _set_collector),
    ("standard streams", _streams, _set_streams),
    ("trace function", sys.gettrace, sys.settrace),
    ("profile function", sys.getprofile, sys.setprofile),
)
