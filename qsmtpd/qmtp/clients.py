"""The clients of the QMQP server: who is one of them may send to anybody, and nobody else at all.

control/qmqpclients has one a line: an address, a network as 192.0.2.0/24 or 2001:db8::/32, or
the beginning of addresses, with a dot or a colon at its end, as in the rules of tcpserver.
The variable QMQPCLIENT, set and not `0`, makes every client one, so it is for a rule.
"""

from __future__ import annotations

from ..net.prefixes import is_address, prefixes
from ..net.ucspi import is_ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..session.protocol import Report

FILE, VARIABLE = "qmqpclients", "QMQPCLIENT"


class QmqpClients:
    """Those that are listed.  Raises ControlError."""

    __slots__ = ("everybody", "listed", "_names", "_networks")

    def __init__(self, settings: Settings) -> None:
        self.everybody = settings.flag(VARIABLE)
        #: The entries, or None where there is no file.
        self.listed = settings.lines(FILE)
        self._names: set[bytes] = set()
        #: (its first bits, how many there are behind them, and in all)
        self._networks: list[tuple[int, int, int]] = []
        for entry in self.listed or ():
            if not self._add(entry):
                raise settings.bad_entry(FILE, entry, "is no address and no network")

    def _add(self, entry: bytes) -> bool:
        """Take an entry; False for one that makes no sense."""
        address, slash, bits = entry.partition(b"/")
        if slash:
            network = _network(address, bits)
            if network is None:
                return False
            self._networks.append(network)
            return True
        found: bytes | None = entry
        if entry.endswith((b".", b":")):
            found = entry.lower() if is_address(entry.lower()) else None
        elif not is_ipv4(entry):
            from ..net.ip import canonical

            found = canonical(entry)
        if found is None:
            return False
        self._names.add(found)
        return True

    def has_all(self) -> bool:
        """Is all of IPv4 or IPv6 listed?"""
        return any(shift == size for _, shift, size in self._networks)

    def __contains__(self, ip: bytes) -> bool:
        """Is this address, in its canonical spelling, one of theirs?"""
        if self.everybody or ip in self._names:
            return True
        if any(prefix in self._names for prefix in prefixes(ip)):
            return True
        if not self._networks:
            return False
        number, size = _number(ip)
        return any(
            its_size == size and number >> shift == start
            for start, shift, its_size in self._networks
        )


def check_clients(report: Report, clients: QmqpClients) -> None:
    """Is there anybody?"""
    if clients.everybody:
        report.warn(VARIABLE, "is set: who is served may send to anybody, so it is for a rule")
    elif not clients.listed:
        what = "is missing" if clients.listed is None else "has no entry"
        report.wrong("control/" + FILE, f"{what}, so every client is refused")
    elif clients.has_all():
        report.warn(
            "control/" + FILE, "has a network of all addresses: anybody may send to anybody"
        )


def _network(address: bytes, bits: bytes) -> tuple[int, int, int] | None:
    """`192.0.2.0`, `24` -> (the first 24 bits, 8, 32); None where that is no network."""
    number, size = _number(address)
    if not size or not (0 < len(bits) <= 3 and bits.isdigit()) or (bits[0] == 0x30 and bits[1:]):
        return None
    shift = size - int(bits)
    if shift < 0 or number != number >> shift << shift:
        return None
    return number >> shift, shift, size


def _number(ip: bytes) -> tuple[int, int]:
    """(an address as a number, how many bits it has); (0, 0) for what is none."""
    if is_ipv4(ip):
        return int.from_bytes(bytes(map(int, ip.split(b"."))), "big"), 32
    if b":" not in ip or b"%" in ip:
        return 0, 0
    from _socket import AF_INET6, inet_pton  # socket.py costs several milliseconds

    try:
        return int.from_bytes(inet_pton(AF_INET6, ip.decode("ascii")), "big"), 128
    except (OSError, ValueError):
        return 0, 0
