"""dmarcexempt: whose mail the filter dmarc refuses never, whatever the result.

An entry is a client or a domain.  A client: its address, the beginning of one that ends in
`.` or `:`, or a `.` and the end of its name (TCPREMOTEHOST), as in control/immune.  A domain:
`@lists.example.org`, or `@.example.org` for all below it; its mail is that of an author there,
and that for which SPF or DKIM has authenticated it, as of a list that signs what it sends.
"""

from __future__ import annotations

from ..net.prefixes import prefixes
from ..net.ucspi import is_ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config.settings import Settings
    from ..facts import Peer

FILE = "dmarcexempt"


class Exempt:
    """The entries.  Raises ControlError."""

    __slots__ = ("_clients", "_names", "_domains")

    def __init__(self, settings: Settings) -> None:
        self._clients: set[bytes] = set()
        self._names: list[bytes] = []
        self._domains: set[bytes] = set()
        for line in settings.lines(FILE) or ():
            entry = line.lower()
            if entry.startswith(b"@"):
                name = _domain(entry[1:])
                if name is None:
                    raise settings.bad_entry(FILE, line, "is no domain, as @example.org is one")
                self._domains.add(name)
            elif entry.startswith(b"."):
                if _domain(entry) is None:
                    raise settings.bad_entry(FILE, line, "is no end of a client's name")
                self._names.append(entry)
            elif _is_address(entry):
                self._clients.add(entry)
            else:
                what = "is no address, beginning of one, end of a name, or @domain"
                raise settings.bad_entry(FILE, line, what)

    def client(self, peer: Peer) -> bytes:
        """The entry that names this client, or b""."""
        for text in (peer.ip, *prefixes(peer.ip)):
            if text in self._clients:
                return text
        host = peer.host.lower()
        return next((name for name in self._names if host.endswith(name)), b"")

    def domain(self, names: Iterable[bytes]) -> bytes:
        """The entry that names one of these domains, which are in lower case, or b""."""
        for name in names:
            labels = name.split(b".")
            above = (b"." + b".".join(labels[place:]) for place in range(1, len(labels)))
            for text in (name, *above):
                if text in self._domains:
                    return b"@" + text
        return b""


def _domain(text: bytes) -> bytes | None:
    """A domain with A-labels, or with a dot before it; None of what is none."""
    from ..net.dns.message import host_domain

    name = host_domain(text.removeprefix(b"."))
    if name is None:
        return None
    return b"." + name if text.startswith(b".") else name


def _is_address(entry: bytes) -> bool:
    """Is it an address in canonical text, or the beginning of one?"""
    if is_ipv4(entry):
        return True
    if entry.endswith(b"."):
        return is_ipv4(entry + b".".join([b"0"] * (4 - entry.count(b"."))))
    if b":" not in entry:
        return False
    from ..net.ip import canonical

    addresses = [entry]
    if entry.endswith(b":"):  # 2001:db8: and 2001:db8::
        addresses = [entry + b":".join([b"1"] * (8 - entry.count(b":"))), entry + b"1"]
    return any(canonical(address) == address for address in addresses)
