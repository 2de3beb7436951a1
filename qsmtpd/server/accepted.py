"""One accepted connection: its addresses, and the environment that tcpserver sets for it."""

from __future__ import annotations

import marshal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MAPPED = "::ffff:"
#: What an earlier server in the chain may have left; each connection has its own or none.
NAMES = (b"TCPREMOTEHOST", b"TCPREMOTEINFO", b"TCPLOCALHOST")


class Accepted:
    """An accepted connection: its descriptor, and what distinguishes it from others.

    `network` is what counts as one client (see network()).  `facts` are variables
    of its environment that say who is there.  `rule` are the instructions for this
    client; None: they have still to be found, because they may depend on its name.
    """

    __slots__ = ("fd", "network", "facts", "rule")

    def __init__(
        self, fd: int, network: str, facts: dict[bytes, bytes], rule: bytes | None
    ) -> None:
        self.fd = fd
        self.network = network
        self.facts = facts
        self.rule = rule

    def pack(self) -> bytes:
        """All but the descriptor, as bytes for another process; unpack() reads them."""
        return marshal.dumps((self.network, self.facts, self.rule))


def unpack(fd: int, packed: bytes) -> Accepted:
    """The connection that pack() has packed, with its descriptor in this process."""
    return Accepted(fd, *marshal.loads(packed))


def variables(ip: str, port: int, local: tuple[str, int]) -> dict[bytes, bytes]:
    """What tcpserver says of a connection without having looked up names."""
    return {
        b"PROTO": b"TCP",
        b"TCPLOCALIP": plain(local[0]).encode(),
        b"TCPLOCALPORT": b"%d" % local[1],
        b"TCPREMOTEIP": ip.encode(),
        b"TCPREMOTEPORT": b"%d" % port,
    }


def plain(ip: str) -> str:
    """An address without its zone; an IPv4-mapped IPv6 address as IPv4."""
    ip = ip.partition("%")[0]
    if ip.startswith(_MAPPED) and "." in ip:
        return ip[len(_MAPPED) :]
    return ip


def network(ip: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in ip:
        return ip
    return socket.inet_pton(socket.AF_INET6, ip)[:8].hex()


def without_names(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """An environment without the variables that each connection sets anew."""
    return {name: value for name, value in environ.items() if name not in NAMES}
