"""One accepted connection: its addresses, and the environment that tcpserver sets for it."""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MAPPED = "::ffff:"
#: What somebody up the chain may have left; each connection has its own or none.
NAMES = (b"TCPREMOTEHOST", b"TCPREMOTEINFO", b"TCPLOCALHOST")


class Client:
    """An accepted connection: its descriptor, and what distinguishes its environment.

    `unruled`: the rule has still to be found, because it may depend on the
    client's name.
    """

    __slots__ = ("fd", "environ", "unruled")

    def __init__(self, fd: int, environ: dict[bytes, bytes], unruled: bool) -> None:
        self.fd = fd
        self.environ = environ
        self.unruled = unruled

    def pack(self) -> bytes:
        """All but the descriptor, as bytes for another process."""
        entries = [name + b"=" + value for name, value in self.environ.items()]
        return b"\0".join([b"?" if self.unruled else b"", *entries])


def unpack(fd: int, packed: bytes) -> Client:
    """What pack() has packed."""
    unruled, *entries = packed.split(b"\0")
    pairs = [entry.partition(b"=") for entry in entries]
    return Client(fd, {name: value for name, _, value in pairs}, bool(unruled))


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
    """An address without a zone; a mapped IPv4 address as what it is."""
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
    """An environment without what is said of each connection anew."""
    return {name: value for name, value in environ.items() if name not in NAMES}
