"""The beginnings of an address, by which rules name networks.

By itself, for ip.py costs milliseconds.
"""

from __future__ import annotations

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
