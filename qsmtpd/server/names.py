"""Host names of addresses, from the system's resolver.

Workers call this, so only the client itself waits, and no longer than
resolv.conf(5) allows.
"""

from __future__ import annotations

import _socket as socket

ALLOWED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")


#: Of so many addresses of our own a process remembers the names.
LOCAL_LIMIT = 100
_local: dict[str, bytes] = {}


def local_name_of(ip: str) -> bytes | None:
    """The same of an address of our own, which is asked for once in a process."""
    name = _local.get(ip) or name_of(ip)
    if name is not None and len(_local) < LOCAL_LIMIT:
        _local[ip] = name
    return name


def name_of(ip: str, paranoid: bool = False) -> bytes | None:
    """The host name of an address, or None.

    With `paranoid`, only a name that has this address.  The owner of the
    address chooses the name, so one with a byte that no host name has counts
    as none.
    """
    try:
        # Of the port no name is wanted: it would be looked for in the whole of services(5).
        name = socket.getnameinfo((ip, 0), socket.NI_NAMEREQD | socket.NI_NUMERICSERV)[0]
        if paranoid and all(
            found[4][0] != ip
            for found in socket.getaddrinfo(name.encode(), None, 0, socket.SOCK_STREAM)
        ):
            return None
    except (OSError, UnicodeError):
        return None
    raw = name.rstrip(".").encode("ascii", "replace")
    return raw if 0 < len(raw) <= 255 and ALLOWED.issuperset(raw) else None
