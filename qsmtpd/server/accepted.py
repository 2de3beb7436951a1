"""One accepted connection: its addresses, and the environment that tcpserver sets for it."""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MAPPED = "::ffff:"
#: What an earlier server in the chain may have left; each connection has its own or none.
NAMES = (b"TCPREMOTEHOST", b"TCPREMOTEINFO", b"TCPLOCALHOST")


class Accepted:
    """An accepted connection: its descriptor, and what distinguishes its environment.

    `network` is what counts as one client (see network()).  `needs_rule`: the
    rule has still to be found, because it may depend on the client's name.
    """

    __slots__ = ("fd", "network", "environ", "needs_rule")

    def __init__(
        self, fd: int, network: str, environ: dict[bytes, bytes], needs_rule: bool
    ) -> None:
        self.fd = fd
        self.network = network
        self.environ = environ
        self.needs_rule = needs_rule

    def pack(self) -> bytes:
        """All but the descriptor, as bytes for another process; unpack() reads them."""
        entries = [name + b"=" + value for name, value in self.environ.items()]
        return b"\0".join([b"?" if self.needs_rule else b"", self.network.encode(), *entries])


def unpack(fd: int, packed: bytes) -> Accepted:
    """The connection that pack() has packed, with its descriptor in this process."""
    needs_rule, network, *entries = packed.split(b"\0")
    pairs = [entry.partition(b"=") for entry in entries]
    environ = {name: value for name, _, value in pairs}
    return Accepted(fd, network.decode(), environ, bool(needs_rule))


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
