"""The listener: accepts connections and applies the rules and limits.

It waits for nothing.  What it does not accept yet waits in the kernel's backlog.
"""

from __future__ import annotations

import errno
import os
import socket
from _socket import socket as Socket
from time import monotonic

from .. import waits
from ..facts import ControlError
from ..session.plan import Plan
from . import rules, status
from .accepted import LOOPBACK, Accepted, Client, network, plain, variables
from .options import ERRORS, STATUS
from .pool import PAUSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .accepted import Connections
    from .events import Events
    from .held import Held
    from .options import Options
    from .pool import Pool
    from .rules import Rules

_ANY = ("0.0.0.0", "::")
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
#: After these accept() would fail again at once.  EINVAL: another process that
#: shares the socket has shut it down.
_LASTING = (*_NO_DESCRIPTOR, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL)


class Listener:
    """Accepts from the listening `sockets`, and passes on to `held`.

    catch_up() hears what processes have said and who has ended, by now.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        options: Options,
        client_rules: Rules | None,
        events: Events,
        pool: Pool,
        held: Held,
        connections: Connections,
        catch_up: Callable[[str], None],
    ) -> None:
        self.sockets = sockets
        self._options = options
        self._rules = client_rules
        self._events = events
        self._pool = pool
        self._held = held
        self._connections = connections
        self._catch_up = catch_up
        self._listens = False
        self._by_fd = {each.fileno(): each for each in sockets}
        #: Where a socket has one address, its connections have that.
        names = {each.fileno(): each.getsockname() for each in sockets}
        self._local = {fd: name for fd, name in names.items() if name[0] not in _ANY}
        #: Nothing is accepted before this time (monotonic seconds).
        self.resume_at = 0.0
        if options.no_delay:  # accepted connections have it from here
            for each in sockets:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def check(self, now: float) -> None:
        """Wait for connections as long as one more can come."""
        wanted = now >= self.resume_at and self._held.has_room()
        if wanted != self._listens:
            self._listens = wanted
            for fd in self._by_fd:
                if wanted:
                    self._events.add(fd, self._accept, last=True)
                else:
                    self._events.remove(fd)

    def pause(self) -> None:
        """Accept nothing for a while."""
        self.resume_at = monotonic() + PAUSE

    def next_time(self) -> float:
        """When check() has something to do (monotonic seconds)."""
        return waits.NEVER if self._listens or not self._held.has_room() else self.resume_at

    def close(self) -> None:
        """Listen no longer."""
        if self._listens:
            for fd in self._by_fd:
                self._events.remove(fd)
        for listening in self.sockets:
            listening.close()

    def _accept(self, fd: int, flags: int) -> None:
        """Accept one connection."""
        if not self._held.has_room():
            return
        listening = self._by_fd[fd]
        try:
            number, remote = listening._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:
            if self._options.verbose >= ERRORS:
                status.say(f"warning: cannot accept: {error.strerror}")
            if error.errno in _NO_DESCRIPTOR and self._held.make_room():
                return
            if error.errno in _LASTING:  # any other concerns this one connection
                self.pause()
            return
        connection = Socket(listening.family, listening.type, listening.proto, number)
        try:
            self._admit(connection, remote, listening)
        except ControlError as error:
            rules.report(error)
            connection.close()
        except OSError:
            connection.close()  # the client has gone

    def _admit(self, connection: Socket, remote: tuple[str, int], listening: socket.socket) -> None:
        """Apply rules and limits, and pass it on.

        Raises ControlError where the rules cannot be read, OSError where the
        client has gone.
        """
        options = self._options
        ip, port = plain(remote[0]), remote[1]
        local = self._local.get(listening.fileno()) or connection.getsockname()
        if options.kill_ip_options and ":" not in ip:  # IPv4, be it on a socket for both
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
        facts = variables(ip, port, local)
        rule: bytes | None = b""
        named = not options.remote_names
        if self._rules is not None:
            if named or not self._rules.by_name():
                rule = self._rules.find(ip.encode(), None)
            else:
                rule = None
        if rule and rules.denies(rule):
            if options.verbose >= STATUS:
                if options.local_name is not None:
                    facts[b"TCPLOCALHOST"] = os.fsencode(options.local_name)
                status.verdict("deny", os.getpid(), {**facts, **rules.variables(rule)})
            connection.close()
            return
        configuration = self._pool.configuration
        plan = None if rule is None else configuration.plan(rule)
        client = network(ip)
        accepted = Accepted(connection.fileno(), client, facts, rule, monotonic())
        guest = Client(accepted, connection, plan)
        guest.over = self._has_too_many(client, ip, plan)
        self._connections.add(client)
        if isinstance(plan, Plan):
            guest.silence = plan.hold(
                lambda: configuration.environ_of(plan, rule or b"", facts), named
            )
        self._held.take(guest)

    def _has_too_many(self, client: str, ip: str, plan: object) -> bool:
        most = self._options.client_limit
        if not most or self._connections.of(client) < most or ip.startswith(LOOPBACK):
            return False
        if isinstance(plan, Plan) and b"RELAYCLIENT" in plan.environ:
            return False
        self._catch_up(client)
        return self._connections.of(client) >= most
