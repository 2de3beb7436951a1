"""The listener: accepts connections and applies the rules and limits.

It waits for nothing.  What it does not accept yet waits in the kernel's backlog.
"""

from __future__ import annotations

import _socket as socket
import errno
import os
from _socket import socket as Socket
from time import monotonic

from .. import waits
from ..facts import ControlError
from ..session.plan import Plan
from . import limits, rules, status
from .accepted import LOOPBACK, Client, network, own, plain
from .options import ERRORS, STATUS
from .pool import PAUSE
from .proxied import Proxied

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
#: Of so many addresses of our own it is remembered what is said of them.
_OWN_LIMIT = 100
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
        catch_up: Callable[[], None],
    ) -> None:
        self.sockets = sockets
        self._options = options
        self._rules = client_rules
        self._events = events
        self._pool = pool
        self._held = held
        self._connections = connections
        self._catch_up = catch_up
        self._proxied = Proxied(limits.headers(options), events, pool, self._admit)
        #: Does it wait for connections now?
        self.listens = False
        self._by_fd = {each.fileno(): each for each in sockets}
        #: What its connections are: `family` of a socket makes an enum at each call.
        self._kinds = {fd: (int(each.family), int(each.type)) for fd, each in self._by_fd.items()}
        #: Where a socket has one address, its connections have that.
        names = {each.fileno(): each.getsockname() for each in sockets}
        self._local = {fd: own(name) for fd, name in names.items() if name[0] not in _ANY}
        self._own: dict[tuple[str, int], dict[bytes, bytes]] = {}
        #: Nothing is accepted before this time (monotonic seconds).
        self.resume_at = 0.0
        if options.no_delay:  # accepted connections have it from here
            for each in sockets:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def check(self, now: float) -> None:
        """Wait for connections as long as one more can come, and for headers as long as is set."""
        self._proxied.expire(now)
        wanted = now >= self.resume_at and self._held.has_room()
        if wanted != self.listens:
            self.listens = wanted
            for fd in self._by_fd:
                if wanted:
                    self._events.add(fd, self._accept, last=True)
                else:
                    self._events.remove(fd)

    def pause(self) -> None:
        """Accept nothing for a while."""
        self.resume_at = monotonic() + PAUSE
        self._events.by(0)

    def next_time(self) -> float:
        """When check() has something to do (monotonic seconds)."""
        idle = self.listens or not self._held.has_room()
        return min(waits.NEVER if idle else self.resume_at, self._proxied.next_time())

    def close(self) -> None:
        """Listen no longer, nor wait for headers."""
        self._proxied.end_all()
        if self.listens:
            for fd in self._by_fd:
                self._events.remove(fd)
        for listening in self.sockets:
            listening.close()

    def _accept(self, fd: int, flags: int) -> None:
        """Accept one connection."""
        if not self._held.has_room():
            self.check(0)
            return
        listening = self._by_fd[fd]
        try:
            number, remote = listening._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:
            if self._options.verbose >= ERRORS:
                status.say(f"warning: cannot accept: {error.strerror}")
            full = error.errno in _NO_DESCRIPTOR
            if full and (self._proxied.make_room() or self._held.make_room()):
                return
            if error.errno in _LASTING:  # any other concerns this one connection
                self.pause()
            return
        connection = Socket(*self._kinds[fd], 0, number)
        try:
            facts = self._facts(connection, remote, fd)
        except OSError:
            connection.close()  # the client has gone
            return
        if not self._proxied.take(connection, facts):
            self._admit(connection, facts, monotonic())

    def _facts(
        self, connection: Socket, remote: tuple[str, int], listening: int
    ) -> dict[bytes, bytes]:
        """Who is there; `listening` is where it was accepted.  Raises OSError where it has gone."""
        ip = plain(remote[0])
        facts = {**self._own_end(connection, listening)}
        facts[b"TCPREMOTEIP"] = ip.encode()
        facts[b"TCPREMOTEPORT"] = b"%d" % remote[1]
        if self._options.kill_ip_options and ":" not in ip:  # IPv4, be it on a socket for both
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
        return facts

    def _admit(self, connection: Socket, facts: dict[bytes, bytes], since: float) -> None:
        """Apply rules and limits to who is there since then, and pass it on."""
        try:
            self._apply(connection, facts, since)
        except ControlError as error:
            rules.report(error)
            connection.close()
        except OSError:
            connection.close()  # the client has gone

    def _apply(self, connection: Socket, facts: dict[bytes, bytes], since: float) -> None:
        """The same.  Raises ControlError where rules cannot be read, OSError where it has gone."""
        options = self._options
        address = facts[b"TCPREMOTEIP"]
        ip = address.decode("ascii")
        rule: bytes | None = b""
        named = not options.remote_names
        if self._rules is not None:
            by_name = not named and self._rules.by_name()
            rule = None if by_name else self._rules.find(address, None)
        if rule is not None and b"PROXYHEADER" in facts:
            rule = rules.rule_of(rule, facts)
        if rule and rules.denies(rule):
            if options.verbose >= STATUS:
                if options.local_name is not None:
                    facts[b"TCPLOCALHOST"] = os.fsencode(options.local_name)
                status.verdict("deny", os.getpid(), {**facts, **rules.variables(rule)})
            connection.close()
            return
        configuration = self._pool.configuration
        plan = None if rule is None else configuration.plan(rule)
        client = Client(connection, network(ip), facts, rule, since, plan)
        client.over = self._has_too_many(client.network, ip, plan)
        self._connections.add(client.network)
        if isinstance(plan, Plan):
            client.silence = plan.hold(
                lambda: configuration.environ_of(plan, rule or b"", facts), named
            )
        self._held.take(client)

    def _own_end(self, connection: Socket, listening: int) -> dict[bytes, bytes]:
        """The facts of our end of this connection, which is of that listening socket."""
        facts = self._local.get(listening)
        if facts is None:
            local = connection.getsockname()[:2]
            facts = self._own.get(local)
            if facts is None:
                facts = own(local)
                if len(self._own) < _OWN_LIMIT:
                    self._own[local] = facts
        return facts

    def _has_too_many(self, client: str, ip: str, plan: object) -> bool:
        most = self._options.client_limit
        if not most or self._connections.of(client) < most or ip.startswith(LOOPBACK):
            return False
        if isinstance(plan, Plan) and plan.trusts(ip.encode()):
            return False
        self._catch_up()
        return self._connections.of(client) >= most
