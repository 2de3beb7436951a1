"""The transport of a server's own sockets: the kernel looks at the clock while we wait.

A socket that qsmtpd-server has accepted belongs to one process, so it may block:
each read and each write is one system call.  SO_RCVTIMEO and SO_SNDTIMEO bound it
(socket(7)): a socket has them from the one that was listened on (see patient()),
and others only where a deadline is nearer.
"""

from __future__ import annotations

import _socket as socket
import os
import select
import sys
from time import monotonic

from .. import waits
from .descriptors import CHUNK, Gone, Timeout
from .drain import drain

#: How long a system call waits where nothing says less (seconds): a request to end
#: that came at the very moment at which it began is noticed when it is over.
PATIENCE = 30.0
_LONG = (sys.maxsize.bit_length() + 1) // 8  # bytes of a long, of which timeval has two
_LEAST = 0.001  # 0 would be: without end


class SocketTransport:
    """A connected socket, which a listener made patient() has accepted."""

    __slots__ = ("_fd", "_patience")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        #: option -> its value (seconds)
        self._patience = {socket.SO_RCVTIMEO: PATIENCE, socket.SO_SNDTIMEO: PATIENCE}
        waits.on_request(self._interrupt)

    def read(self, deadline: float) -> bytes:
        """Up to CHUNK bytes, b"" at the end.  Raises Gone, Timeout or Shutdown."""
        late = False
        while True:
            self._limit(socket.SO_RCVTIMEO, deadline)
            waits.check()  # not before: _interrupt() may have been called meanwhile
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                if late:
                    raise Timeout from None
                late = monotonic() >= deadline  # what came just now is still taken
            except OSError as error:
                raise Gone from error

    def write(self, data: bytes, deadline: float) -> None:
        """Write all of it.  Raises Gone or Timeout."""
        view = memoryview(data)
        while True:
            self._limit(socket.SO_SNDTIMEO, waits.shorter(deadline))
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise Gone from error
            if not view:
                return
            if monotonic() >= waits.shorter(deadline):
                raise Timeout

    def close(self, deadline: float) -> None:
        """Whoever has the descriptor closes it."""

    def drain(self, wait: bool, rate: int) -> None:
        """Write no more, and throw away what still comes: see drain.py.  Raises nothing."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if wait or poll.poll(0):
            drain(self._fd, self._fd, rate)

    def _limit(self, option: int, deadline: float) -> None:
        """Let the next system call wait no longer than to this deadline."""
        left = deadline - monotonic()
        now = self._patience[option]
        if now <= left and (now == PATIENCE or left < 2 * now):
            return
        self._set(option, min(max(left, _LEAST), PATIENCE))

    def _interrupt(self) -> None:
        """In a signal handler: let the system call under way, which is made again, return."""
        for option in self._patience:
            self._set(option, _LEAST)

    def _set(self, option: int, seconds: float) -> None:
        self._patience[option] = seconds
        try:
            connection = socket.socket(fileno=self._fd)
        except OSError:
            return  # it has gone: the next read or write says so
        try:
            connection.setsockopt(socket.SOL_SOCKET, option, _timeval(seconds))
        finally:
            connection.detach()


def patient(connection: socket.socket) -> None:
    """Let it wait for so long; what is accepted of one that listens inherits that."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, _timeval(PATIENCE))


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    numbers = whole, int((seconds - whole) * 1_000_000)
    return b"".join(number.to_bytes(_LONG, sys.byteorder) for number in numbers)
