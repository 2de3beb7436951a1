"""The listener: accepts connections, applies the rules and limits, and passes on to the pool.

What it does not accept yet waits in the kernel's backlog.
"""

from __future__ import annotations

import errno
import os
import socket
from time import monotonic

from ..facts import ControlError
from ..log import Log
from . import rules, status
from .accepted import Accepted, network, plain, variables
from .options import ERRORS, STATUS
from .pool import PAUSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import Options
    from .pool import Pool
    from .rules import Rules

NO_PROCESS = b"421 no process for you now, try again later (#4.3.2)"
TOO_MANY = b"421 too many connections from your address (#4.7.0)"
READ_AHEAD = 65536  # bytes
#: After these accept() would fail again at once.  EINVAL: another process that
#: shares the socket has shut it down.
_LASTING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL)


class Listener:
    """Accepts from the listening `sockets` for the pool."""

    def __init__(
        self, sockets: list[socket.socket], options: Options, rules: Rules | None, pool: Pool
    ) -> None:
        self.sockets = sockets
        self._options = options
        self._rules = rules
        self._pool = pool
        #: Nothing is accepted before this time (monotonic seconds).
        self.resume_at = 0.0

    def wanted(self, now: float) -> list[socket.socket]:
        """The sockets from which a connection would be accepted now."""
        if now < self.resume_at or self._is_full():
            return []
        return self.sockets

    def accept(self, ready: set[int]) -> None:
        """Accept one connection from each listening socket among these descriptors."""
        for listening in self.sockets:
            if listening.fileno() in ready and not self._is_full():
                self._accept(listening)

    def close(self) -> None:
        """Listen no longer."""
        for listening in self.sockets:
            listening.close()

    def _is_full(self) -> bool:
        return self._pool.busy() >= self._options.limit

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, remote = listening.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:
            if self._options.verbose >= ERRORS:
                status.say(f"warning: cannot accept: {error.strerror}")
            if error.errno in _LASTING:  # any other concerns this one connection
                self.resume_at = monotonic() + PAUSE
            return
        with connection:
            ip, port = plain(remote[0]), remote[1]
            client = network(ip)
            most = self._options.client_limit
            if most and self._pool.connections(client) >= most:
                _reject(connection, ip, port, TOO_MANY, "too-many-connections")
                return
            try:
                accepted = self._examine(connection, ip, port, client)
            except ControlError as error:
                rules.report(error)
            except OSError:
                pass  # the client has gone
            else:
                if accepted is not None and not self._pool.hand_out(accepted):
                    self.resume_at = monotonic() + PAUSE
                    _reject(connection, ip, port, NO_PROCESS, "no-process")

    def _examine(
        self, connection: socket.socket, ip: str, port: int, client: str
    ) -> Accepted | None:
        """The connection with its environment, or None where a rule refuses it.

        Raises ControlError where the rules cannot be read, OSError where the
        client has gone.
        """
        options = self._options
        if options.no_delay:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local = connection.getsockname()
        if options.kill_ip_options and ":" not in ip:  # IPv4, be it on a socket for both
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
        facts = variables(ip, port, local)
        if options.local_name is not None:
            facts[b"TCPLOCALHOST"] = os.fsencode(options.local_name)
        rule: bytes | None = b""
        if self._rules is not None and options.remote_names:
            rule = None
        elif self._rules is not None:
            rule = self._rules.find(ip.encode(), None)
            if rules.denies(rule):
                if options.verbose >= STATUS:
                    status.verdict("deny", os.getpid(), {**facts, **rules.variables(rule)})
                return None
        return Accepted(connection.fileno(), client, facts, rule)


def _reject(connection: socket.socket, ip: str, port: int, reply: bytes, end: str) -> None:
    """Send a 421, if that needs no waiting, and log the end of the session.

    Nor is the client let come to its end, as after a session: only what it has
    sent already is read, for closing with that unread would reset the connection.
    """
    try:
        connection.setblocking(False)
        connection.send(reply + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(READ_AHEAD)
    except OSError:
        pass
    Log(2, pid=os.getpid(), ip=ip).line("session", end=end, reply=reply, port=port)
