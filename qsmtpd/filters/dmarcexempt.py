"""dmarcexempt: whose mail the filter dmarc refuses never, whatever the result.

An entry is a client or a domain.  A client: its address, the beginning of one that ends in
`.` or `:`, or a `.` and the end of its name (TCPREMOTEHOST), as in control/immune.  A domain:
`@lists.example.org`, or `@.example.org` for all below it; its mail is that of an author there,
and that for which SPF or DKIM has authenticated it, as of a list that signs what it sends.
"""

from __future__ import annotations

from .clientlist import Clients

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config.settings import Settings
    from ..facts import Peer

FILE = "dmarcexempt"


class Exempt:
    """The entries.  Raises ControlError."""

    __slots__ = ("_clients", "_domains")

    def __init__(self, settings: Settings) -> None:
        self._clients = Clients()
        self._domains: set[bytes] = set()
        for line in settings.lines(FILE) or ():
            if line.startswith(b"@"):
                name = _domain(line[1:].lower())
                if name is None:
                    raise settings.bad_entry(FILE, line, "is no domain, as @example.org is one")
                self._domains.add(name)
            elif problem := self._clients.add(line):
                raise settings.bad_entry(FILE, line, problem + ", nor @domain")

    def client(self, peer: Peer) -> bytes:
        """The entry that names this client, or b""."""
        return self._clients.find(peer)

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
