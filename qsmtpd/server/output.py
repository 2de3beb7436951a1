"""The log of qsmtpd-server and its processes: one system call a line, and never a wait."""

from __future__ import annotations

import os
from stat import S_ISFIFO, S_ISREG

from ..log import Descriptor, redirect


class Unblocked(Descriptor):
    """Lines go to a descriptor that cannot block: nobody needs to look whether it is writable."""

    def _is_writable(self) -> bool:
        return True


def unblock() -> None:
    """Have the log of this process, on descriptor 2, go the short way, where there is one.

    A file never lets one wait.  Of a pipe, as to multilog, the server opens a
    description of its own, which does not block (proc(5)): others share the first.
    """
    mode = os.fstat(2).st_mode
    if S_ISREG(mode):
        redirect(Unblocked(2))
    elif S_ISFIFO(mode):
        try:
            fd = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # no /proc, or another user's
            return
        redirect(Unblocked(fd))
