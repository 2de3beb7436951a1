"""One line of the log a minute, from all processes together.

What they share is the time of a file: beside the store, or where that cannot be, in the
folder of temporary files, where a name that somebody else has taken is not used.
"""

from __future__ import annotations

import os
import stat
from time import monotonic
from zlib import crc32

from ...config.files import temporary

INTERVAL = 60  # seconds
_last: dict[tuple[bytes, str], float] = {}


def is_due(path: bytes, who: str, now: float) -> bool:
    """Has nobody said anything of the store at `path`, for `who`, within a minute?

    Who is told so, says it.  `now` is the time of day.
    """
    said = _last.get((path, who))
    if said is not None and monotonic() - said < INTERVAL:
        return False
    _last[path, who] = monotonic()
    user = b"%d" % os.geteuid()
    name = b"qsmtpd-%b-%08x-%b" % (user, crc32(path), who.encode("ascii", "replace"))
    name = name.replace(b"/", b"_")
    for stamp in (path + b"-said-" + who.encode("ascii", "replace"), temporary() + b"/" + name):
        due = _is_due(stamp, now)
        if due is not None:
            return due
    return True


def _is_due(stamp: bytes, now: float) -> bool | None:
    """By the time of this file, which becomes now; None where it cannot be had."""
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    made = False
    try:
        try:
            fd = os.open(stamp, flags | os.O_EXCL, 0o600)
            made = True
        except FileExistsError:
            fd = os.open(stamp, flags & ~os.O_CREAT)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # another one is about to say it
        if not made and abs(now - os.fstat(fd).st_mtime) < INTERVAL:
            return False
        os.utime(fd, (now, now))
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
