"""clientlist: clients that a control file names, by address or by name.

An entry is an address, the beginning of one that ends in `.` or `:`, or a `.` and the end of
the client's name (TCPREMOTEHOST), as in control/immune.
"""

from __future__ import annotations

from ..net.prefixes import is_address, prefixes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Peer


class Clients:
    """The entries; find() says which of them names a client."""

    __slots__ = ("_addresses", "_names")

    def __init__(self) -> None:
        self._addresses: set[bytes] = set()
        self._names: list[bytes] = []

    def add(self, entry: bytes) -> str:
        """One more, in any case; what is wrong with it, or "" ."""
        entry = entry.lower()
        if entry.startswith(b"."):
            from ..net.dns.message import host_domain

            name = host_domain(entry[1:])
            if name is None:
                return "is no end of a client's name"
            self._names.append(b"." + name)
        elif is_address(entry):
            self._addresses.add(entry)
        else:
            return "is no address, beginning of one, or end of a name"
        return ""

    def find(self, peer: Peer) -> bytes:
        """The entry that names this client, or b""."""
        if peer.anonymous:
            return b""
        if self._addresses:
            for text in (peer.ip, *prefixes(peer.ip)):
                if text in self._addresses:
                    return text
        if not self._names:
            return b""
        host = peer.host.lower()
        return next((name for name in self._names if host.endswith(name)), b"")
