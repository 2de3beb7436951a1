"""IP addresses as text, and whether one of them is ours."""

from __future__ import annotations

# ipaddress.py and socket.py cost a session several milliseconds, and a server half a megabyte.
import _socket as socket

from ..smtp.address import split_literal

_MAPPED = b"\0" * 10 + b"\xff\xff"
_ALLOWED = frozenset(b"0123456789abcdefABCDEF:.")


def canonical(text: bytes) -> bytes | None:
    """An IPv4 or IPv6 address in its one canonical spelling, or None.

    An IPv4-mapped address (`::ffff:192.0.2.1`) becomes the IPv4 address that
    it is.  There are no brackets and no zone (`%eth0`).
    """
    packed = packed_of(text)
    return None if packed is None else text_of(packed)


def text_of(packed: bytes) -> bytes:
    """An address of 4 or 16 bytes as text (RFC 5952)."""
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    text = socket.inet_ntop(family, packed).encode("ascii")
    if len(packed) == 16 and b"." in text and not packed.startswith(_MAPPED):
        # An old form of ::102:304 (RFC 4291, 2.5.5.1) that some C libraries still write.
        return b"::%x:%x" % tuple(int.from_bytes(packed[at : at + 2], "big") for at in (12, 14))
    return text


def packed_of(text: bytes) -> bytes | None:
    """The same address as 4 or 16 bytes in network order, or None."""
    if not _ALLOWED.issuperset(text):
        return None
    family = socket.AF_INET6 if b":" in text else socket.AF_INET
    try:
        packed = socket.inet_pton(family, text.decode("ascii"))
    except OSError:
        return None
    return packed[12:] if len(packed) == 16 and packed.startswith(_MAPPED) else packed


def is_literal(domain: bytes) -> bool:
    """Is it an address in brackets, as stands for a domain (RFC 5321, 4.1.3)?"""
    split = split_literal(b"@" + domain)
    return split is not None and canonical(split[1]) is not None


def is_local(text: bytes) -> bool:
    """Does this address belong to this machine?

    The kernel knows: a datagram socket connected to one of its own addresses
    has that address itself.  Nothing is sent.  0.0.0.0 counts, as in qmail.
    """
    packed = packed_of(text)
    if packed is None:
        return False
    if not any(packed):
        return True
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    name = socket.inet_ntop(family, packed)
    places: list[tuple[str | int, ...]] = [(name, 9)]
    if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80:  # link-local: RFC 4291, 2.5.6
        # It is an address of one interface, and a literal does not say of which.
        places = [(name, 9, 0, index) for index, _ in socket.if_nameindex()]
    return any(_own_end(family, place) == packed for place in places)


def _own_end(family: int, place: tuple[str | int, ...]) -> bytes | None:
    """The address of ours from which a datagram would go there, or None."""
    try:
        probe = socket.socket(family, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        probe.connect(place)
        own: str = probe.getsockname()[0]
    except OSError:
        return None
    finally:
        probe.close()
    return packed_of(own.partition("%")[0].encode("ascii"))
