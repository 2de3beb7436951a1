"""Which addresses send a PROXY header, and how it is taken (see proxy.py).

Who is named has to send one, as its first bytes; from nobody else is one taken.
"""

from __future__ import annotations

from ..config.settings import shown
from ..facts import ControlError
from .prefixes import is_address, prefixes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings

    #: 4 or 6, the number that an address in it begins with, and how many bits follow.
    Network = tuple[int, int, int]

FILE, VARIABLE = "proxyhosts", "PROXYHOSTS"
_WHAT = "is no address, beginning of one, or network as 192.0.2.0/24"


class ProxySettings:
    """The settings.  Raises ControlError.

    The whole header has to come within `timeout` seconds.  `rules` is the path of the
    cdb in which a cold child finds the client's rule, as it is set, or None.  `tls`: what
    the header says of TLS between the client and who sends it counts.  `everybody`: some
    entry names all addresses of a kind; `count`: so many entries there are.
    """

    __slots__ = ("timeout", "rules", "tls", "everybody", "count", "_named", "_networks")

    def __init__(self, settings: Settings) -> None:
        self._named: set[bytes] = set()  # addresses, and beginnings of some
        self._networks: list[Network] = []
        self.everybody = False
        self._read(settings)
        self.count = len(self._named) + len(self._networks)
        self.timeout = settings.number("proxytimeout", "PROXYTIMEOUT", 5, least=1, most=60)
        self.tls = settings.choice("proxytls", "PROXYTLS", ("off", "on")) == "on"
        self.rules = settings.line(None, "PROXYRULES") or None
        if self.rules is not None:
            settings.expect_cdb("PROXYRULES", self.rules)

    def names(self, ip: bytes) -> bool:
        """Does this address, in canonical form, send a header?"""
        if ip in self._named or any(text in self._named for text in prefixes(ip)):
            return True
        if not self._networks or not (b"." in ip or b":" in ip):
            return False
        version, number = _number(ip)
        return any(version == v and number >> bits == start for v, start, bits in self._networks)

    def _read(self, settings: Settings) -> None:
        listed = settings.line(None, VARIABLE)
        if listed is not None:
            for entry in filter(None, listed.replace(b",", b" ").split(b" ")):
                if not self._add(entry.lower()):
                    raise ControlError(VARIABLE, f"has {shown(entry)}, which {_WHAT}")
            return
        for line in settings.lines(FILE) or ():
            if not self._add(line.lower()):
                raise settings.bad_entry(FILE, line, _WHAT)

    def _add(self, entry: bytes) -> bool:
        """Have this entry; False where it is none."""
        if b"/" in entry:
            network = _network(entry)
            if network is None:
                return False
            self._networks.append(network)
            self.everybody = self.everybody or network[1:] == (0, 128 if network[0] == 6 else 32)
        elif is_address(entry):
            self._named.add(entry)
        else:
            return False
        return True


def _network(entry: bytes) -> Network | None:
    """A network as 192.0.2.0/24, or None; its address has no bits beyond that length."""
    from .ip import canonical

    address, _, length = entry.partition(b"/")
    if canonical(address) != address or not (0 < len(length) <= 3 and length.isdigit()):
        return None
    version, number = _number(address)
    bits = (128 if version == 6 else 32) - int(length)
    if bits < 0 or (length[0] == 0x30 and len(length) > 1) or number & ((1 << bits) - 1):
        return None
    return version, number >> bits, bits


def _number(ip: bytes) -> tuple[int, int]:
    """The version of an address that is one, and its number."""
    import ipaddress

    address = ipaddress.ip_address(ip.decode("ascii"))
    return address.version, int(address)
