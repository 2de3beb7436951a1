"""The beginnings of an address, by which rules name networks.

By itself, for ip.py costs milliseconds.
"""

from __future__ import annotations

from .ucspi import is_ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def prefixes(ip: bytes) -> Iterator[bytes]:
    """Those of an address that end in a dot or a colon, without the address itself.

    The longest comes first.  Of IPv6 it is the address as written, canonical
    (RFC 5952), as the usual patches for tcpserver have it: `2001:db8::1` begins
    with `2001:db8::`, `2001:db8:` and `2001:`.
    """
    for end in range(len(ip) - 1, 0, -1):
        if ip[end - 1] in b".:":
            yield ip[:end]


def is_address(entry: bytes) -> bool:
    """Is it an address in canonical text, or the beginning of one?"""
    if is_ipv4(entry):
        return True
    if entry.endswith(b"."):
        return is_ipv4(entry + b".".join([b"0"] * (4 - entry.count(b"."))))
    if b":" not in entry:
        return False
    from .ip import canonical

    addresses = [entry]
    if entry.endswith(b":"):  # 2001:db8: and 2001:db8::
        addresses += [entry + b":".join([b"1"] * (8 - entry.count(b":"))), entry + b"1"]
    return any(canonical(address) == address for address in addresses)
