"""IP addresses as text, and whether one of them is ours.

Imported where an address is not plain IPv4, or an address literal occurs: both
libraries used here would cost a plain session several milliseconds.
"""

from __future__ import annotations

import ipaddress

from ..smtp.address import split_literal


def canonical(text: bytes) -> bytes | None:
    """An IPv4 or IPv6 address in its one canonical spelling, or None.

    An IPv4-mapped address (`::ffff:192.0.2.1`) becomes the IPv4 address that
    it is.  There are no brackets and no zone (`%eth0`).
    """
    if b"%" in text:
        return None
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address).encode("ascii")


def is_literal(domain: bytes) -> bool:
    """Is it an address in brackets, as stands for a domain (RFC 5321, 4.1.3)?"""
    split = split_literal(b"@" + domain)
    return split is not None and canonical(split[1]) is not None


def is_local(text: bytes) -> bool:
    """Does this address belong to this machine?

    The kernel knows: a datagram socket connected to one of its own addresses
    has that address itself.  Nothing is sent.  0.0.0.0 counts, as in qmail.
    """
    import socket

    address = canonical(text)
    if address is None:
        return False
    if address in (b"0.0.0.0", b"::"):
        return True
    name = address.decode("ascii")
    family = socket.AF_INET6 if b":" in address else socket.AF_INET
    places: list[tuple[str | int, ...]] = [(name, 9)]
    if family == socket.AF_INET6 and ipaddress.IPv6Address(name).is_link_local:
        # It is an address of one interface, and a literal does not say of which.
        places = [(name, 9, 0, index) for index, _ in socket.if_nameindex()]
    for place in places:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(place)
                own: str = probe.getsockname()[0]
        except OSError:
            continue
        if canonical(own.partition("%")[0].encode("ascii")) == address:
            return True
    return False
