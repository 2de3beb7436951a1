"""One accepted connection: its addresses, and the environment that tcpserver sets for it."""

from __future__ import annotations

import _socket as socket
import marshal
from _socket import SHUT_WR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Mapping

    from ..facts import Reply
    from ..session.plan import NoPlan, Plan

_MAPPED = "::ffff:"
#: What an earlier server in the chain may have left; each connection has its own or none.
NAMES = (b"TCPREMOTEHOST", b"TCPREMOTEINFO", b"TCPLOCALHOST", b"PROXYHEADER", b"PROXYREMOTEIP")
#: Of what has come unread so many bytes are thrown away at the end.
LEFT = 65536
#: How the addresses of this machine's own clients begin.
LOOPBACK: tuple[str, ...] = ("127.", "::1")


class Accepted:
    """An accepted connection: its descriptor, and what distinguishes it from others.

    `facts` are variables of its environment that say who is there.  `rule` are the
    instructions for this client; None: they have still to be found, because they may
    depend on its name.  `since` is when it came (monotonic seconds), `greeted`,
    whether it has been.
    """

    __slots__ = ("fd", "facts", "rule", "since", "greeted")

    def __init__(
        self,
        fd: int,
        facts: dict[bytes, bytes],
        rule: bytes | None,
        since: float,
        greeted: bool = False,
    ) -> None:
        self.fd = fd
        self.facts = facts
        self.rule = rule
        self.since = since
        self.greeted = greeted

    def pack(self) -> bytes:
        """All but the descriptor, as bytes for another process; unpack() reads them."""
        return marshal.dumps((self.facts, self.rule, self.since, self.greeted))


def unpack(fd: int, packed: bytes) -> Accepted:
    """The connection that pack() has packed, with its descriptor in this process."""
    return Accepted(fd, *marshal.loads(packed))


class Client(Accepted):
    """One that has no process yet.

    `network` is what counts as one client (see network()).  Its `plan`, if that is
    known by now.  `line`: so many bytes are a line, too.  `waiting`: it is to have a
    process.  `over`: its address has too many connections.  `ends` is what it hears at
    its time limit.
    """

    __slots__ = (
        *("connection", "network", "plan", "line", "waiting", "silence", "over"),
        *("bytes_in", "bytes_out", "ends"),
    )

    def __init__(
        self,
        connection: Socket,
        network: str,
        facts: dict[bytes, bytes],
        rule: bytes | None,
        since: float,
        plan: Plan | NoPlan | None,
    ) -> None:
        super().__init__(connection.fileno(), facts, rule, since)
        self.connection = connection
        self.network = network
        self.plan = plan
        self.line = 1  # before the greeting, any byte
        self.waiting = False
        self.silence: float | None = None  # see Held.take()
        self.over = False
        self.bytes_in = self.bytes_out = 0
        self.ends: Reply | None = None


class Connections:
    """How many connections each network has."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def of(self, network: str) -> int:
        """How many this one has."""
        return self._counts.get(network, 0)

    def add(self, network: str) -> None:
        """One more."""
        self._counts[network] = self._counts.get(network, 0) + 1

    def remove(self, network: str) -> None:
        """One less."""
        left = self._counts[network] - 1
        if left:
            self._counts[network] = left
        else:
            del self._counts[network]


def own(local: tuple[str, int]) -> dict[bytes, bytes]:
    """What tcpserver says of our end of a connection, without having looked up its name."""
    return {
        b"PROTO": b"TCP",
        b"TCPLOCALIP": plain(local[0]).encode(),
        b"TCPLOCALPORT": b"%d" % local[1],
    }


def plain(ip: str) -> str:
    """An address without its zone; an IPv4-mapped IPv6 address as IPv4."""
    if ":" not in ip:
        return ip
    ip = ip.partition("%")[0]
    if ip.startswith(_MAPPED) and "." in ip:
        return ip[len(_MAPPED) :]
    return ip


def network(ip: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in ip:
        return ip
    return socket.inet_pton(socket.AF_INET6, ip)[:8].hex()


def part(connection: Socket, words: bytes) -> None:
    """Send these last words, if that needs no waiting, and close.

    Nor is the client let come to its end, as after a session: only what it has
    sent already is read, for closing with that unread would reset the connection.
    """
    try:
        connection.setblocking(False)
        if words:
            connection.send(words)
        connection.shutdown(SHUT_WR)
        connection.recv(LEFT)
    except OSError:
        pass
    connection.close()


def without_names(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """An environment without the variables that each connection sets anew."""
    return {name: value for name, value in environ.items() if name not in NAMES}
