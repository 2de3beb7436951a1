"""Lists of addresses and networks: who may do something because of where it is."""

from __future__ import annotations

from .prefixes import is_address, prefixes
from .ucspi import is_ipv4

#: What is wrong with an entry that is none.
WHAT = "is no address, beginning of one, or network as 192.0.2.0/24"


class AddressList:
    """Addresses, their beginnings up to a dot or a colon, and networks as 192.0.2.0/24.

    `everybody`: one of these is all of IPv4 or IPv6.
    """

    __slots__ = ("everybody", "_named", "_networks")

    def __init__(self) -> None:
        self.everybody = False
        self._named: set[bytes] = set()
        #: (the first bits of a network, how many bits are behind them, and in all)
        self._networks: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        return len(self._named) + len(self._networks)

    def add(self, entry: bytes) -> bool:
        """One more, in any case; False where it is none.  An address has its canonical spelling."""
        entry = entry.lower()
        address, slash, length = entry.partition(b"/")
        if not slash:
            if not is_address(entry):
                return False
            self._named.add(entry)
            return True
        number, size = _number(address)
        if not size or not is_address(address):
            return False
        if not (0 < len(length) <= 3 and length.isdigit()) or (length[0] == 0x30 and length[1:]):
            return False
        behind = size - int(length)
        if behind < 0 or number & ((1 << behind) - 1):
            return False
        self._networks.append((number >> behind, behind, size))
        self.everybody = self.everybody or behind == size
        return True

    def __contains__(self, ip: bytes, /) -> bool:
        """Is this address, in its canonical spelling, in the list?"""
        if ip in self._named or any(text in self._named for text in prefixes(ip)):
            return True
        if not self._networks:
            return False
        number, size = _number(ip)
        return any(
            its_size == size and number >> behind == start
            for start, behind, its_size in self._networks
        )


def _number(ip: bytes) -> tuple[int, int]:
    """(an address as a number, how many bits it has); (0, 0) for what is none."""
    if is_ipv4(ip):
        return int.from_bytes(bytes(map(int, ip.split(b"."))), "big"), 32
    if b":" not in ip:
        return 0, 0
    from _socket import AF_INET6, inet_pton  # ipaddress costs several milliseconds

    try:
        return int.from_bytes(inet_pton(AF_INET6, ip.decode("ascii")), "big"), 128
    except (OSError, ValueError):
        return 0, 0
