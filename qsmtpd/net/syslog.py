"""The log by syslog, for where descriptor 2 is the client's socket.

As libc's syslog() does it (RFC 3164): `<PRIORITY>TIME NAME[PID]: LINE`, one
datagram for each line, or with a NUL behind it where /dev/log is a stream.
"""

from __future__ import annotations

import posix as os
from time import strftime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket

PATH = "/dev/log"
PRIORITY = 2 * 8 + 6  # facility mail, severity info


class Syslog:
    """Where whole lines go without waiting, as log.Descriptor.

    One that cannot be sent is lost, and the next one tries anew: a syslogd that
    was restarted listens at another socket of the same name.
    """

    __slots__ = ("_path", "_socket", "_stream")

    def __init__(self, path: str | None = None) -> None:
        self._path = path or PATH
        self._socket: Socket | None = None
        self._stream = False

    def write(self, line: bytes) -> bool:
        """Send one line, given without its LF; False where that cannot be."""
        again = self._socket is not None
        if self._send(line):
            return True
        return again and self._socket is None and self._send(line)

    def problem(self) -> str | None:
        """Why nothing can be sent; None where it can."""
        try:
            self._connect()
        except OSError as error:
            return error.strerror or "cannot be used"
        except ImportError:
            return "Python has no sockets"
        return None

    def _send(self, line: bytes) -> bool:
        try:
            connection = self._socket or self._connect()
            head = f"<{PRIORITY}>{strftime('%b %e %H:%M:%S')} qsmtpd[{os.getpid()}]: "
            text = head.encode("ascii") + line + (b"\0" if self._stream else b"")
            if connection.send(text) == len(text):
                return True
        except BlockingIOError:  # it does not keep up
            return False
        except (OSError, ImportError):
            pass
        # Also after half a line in a stream: the next one is not to be glued to that.
        self._close()
        return False

    def _connect(self) -> Socket:
        """Raises OSError or ImportError."""
        import _socket  # socket.py costs several milliseconds

        for kind in (_socket.SOCK_DGRAM, _socket.SOCK_STREAM):
            connection = _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_NONBLOCK)
            try:
                connection.connect(self._path)
            except OSError as error:
                connection.close()
                import errno

                if error.errno != errno.EPROTOTYPE or kind == _socket.SOCK_STREAM:
                    raise
            else:
                self._socket, self._stream = connection, kind == _socket.SOCK_STREAM
                return connection
        raise AssertionError

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
