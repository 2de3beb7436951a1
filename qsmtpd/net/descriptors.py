"""The plain transport: the client's descriptors, read and written with a deadline.

They may be one socket, two pipes, files or a terminal, blocking or not: this
file only polls, reads and writes.  They may be shared with other processes, so
their flags are never changed.
"""

from __future__ import annotations

import posix as os
import select
from time import monotonic

from .. import waits
from ..facts import Lost

CHUNK = 65536  # bytes per read
#: poll() promises room for this much without blocking (POSIX: PIPE_BUF), even
#: on a descriptor in blocking mode.
SAFE_WRITE = 4096


class Gone(Lost):
    """The client closed the connection, or the connection failed."""

    end = "client-gone"


class Timeout(Lost):
    """The client took too long."""


class Descriptors:
    """The plain transport: a descriptor to read and one to write."""

    __slots__ = ("_input", "_output", "_most", "_readable", "_writable")

    def __init__(self, input: int, output: int) -> None:
        self._input = input
        self._output = output
        # Of a terminal poll() promises room for no more than this.
        self._most = 1 if os.isatty(output) else SAFE_WRITE
        self._readable = select.poll()
        self._readable.register(input, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(output, select.POLLOUT)

    def read(self, deadline: float) -> bytes:
        """Up to CHUNK bytes, b"" at the end.  Raises Gone, Timeout or Shutdown."""
        again = False
        while True:
            waits.check()
            _wait(self._readable, deadline, again, reading=True)
            try:
                return os.read(self._input, CHUNK)
            except BlockingIOError:
                again = True  # a shared non-blocking descriptor: somebody else was faster
            except OSError as error:
                raise Gone from error

    def write(self, data: bytes, deadline: float) -> None:
        """Write all of it.  Raises Gone or Timeout."""
        view = memoryview(data)
        again = False
        while view:
            deadline = waits.shorter(deadline)
            _wait(self._writable, deadline, again)
            again = True
            try:
                view = view[os.write(self._output, view[: self._most]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Gone from error

    def close(self, deadline: float) -> None:
        """The end of the process closes them."""

    def drain(self, wait: bool, rate: int) -> None:
        """Write no more, and throw away what still comes: see drain.py.  Raises nothing.

        `wait`: also where nothing has come yet.
        """
        try:
            if wait or any(event & select.POLLIN for _, event in self._readable.poll(0)):
                from .drain import drain

                drain(self._input, self._output, rate)
        except (OSError, ImportError, MemoryError):
            pass


def _wait(poll: select.poll, deadline: float, again: bool, reading: bool = False) -> None:
    if again and monotonic() >= deadline:
        raise Timeout  # who is always ready must not evade it
    # A deadline that has passed still takes what is there already.
    while not waits.wait(poll, deadline):
        if reading:
            waits.check()
        deadline = waits.shorter(deadline)
        if monotonic() >= deadline:
            raise Timeout
