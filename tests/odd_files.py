"""What can be there in place of a file: a FIFO, a link that leads nowhere, one without rights."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What stands for a regular file, and is none that can be read.
KINDS = ("fifo", "dangling", "loop", "directory", "socket", "device", "unreadable")
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_VERSION_3 = 0x20080522


def make(kind: str, path: Path) -> None:
    """Put such a thing there, in place of what is there."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)  # bind() takes no path of more than 107 bytes
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"")
        path.chmod(0)


@contextmanager
def bound_by_rights() -> Iterator[None]:
    """Here the rights of files bind root as well, in this thread and what it starts by fork()."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    effective = data[0]
    data[0] = effective & ~(1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        data[0] = effective
        libc.capset(header, data)
