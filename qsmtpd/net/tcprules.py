"""Rules per client, in the cdb that tcprules makes: what is looked for, and what is found.

The data of a key are instructions, each with a NUL behind it: `D`, to refuse
the client, and `+NAME=value`, for its environment.
"""

from __future__ import annotations

from .prefixes import prefixes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.cdb import Cdb

#: What no rule can set, for it holds before there is one.  QMAILHOME would be another
#: one for programs than for the session: the control files have been read by then.
BEFORE = (b"QMAILHOME", b"PROXYHOSTS", b"PROXYTIMEOUT", b"PROXYTLS", b"PROXYRULES")
#: What a rule gives an address, and nobody has that is not known by its own.
RIGHTS = (b"RELAYCLIENT", b"IMMUNE", b"QMQPCLIENT")

#: tcpserver's exit status for a client that the rules refuse, and the word in the log.
DENIED, DENIED_END = 100, "denied"


def find(cdb: Cdb, ip: bytes, host: bytes | None) -> bytes:
    """The instructions for a client, b"" if there are none.  Raises ControlError.

    An ident name is never known here.
    """
    for key in keys(ip, host):
        data = cdb.get(key)
        if data is not None:
            return data
    return b""


def keys(ip: bytes, host: bytes | None) -> Iterator[bytes]:
    """The keys at which a client's rule is looked for, in tcpserver's order."""
    yield ip
    if host is not None:
        yield b"=" + host
    yield from prefixes(ip)
    if host is not None:
        for start in range(1, len(host)):
            if host[start] == 0x2E:
                yield b"=" + host[start:]
        yield b"="
    yield b""


def denies(data: bytes) -> bool:
    """Do these instructions refuse the client?"""
    return any(entry.startswith(b"D") for entry in data.split(b"\0"))


def variables(data: bytes) -> dict[bytes, bytes]:
    """What these instructions set in the environment of a connection."""
    found = {}
    for entry in data.split(b"\0"):
        name, equals, value = entry[1:].partition(b"=")
        if entry.startswith(b"+") and equals and name and name not in BEFORE:
            found[name] = value
    return found


def without_rights(data: bytes) -> bytes:
    """The instructions but for those that give RIGHTS."""
    taken = tuple(b"+" + name + b"=" for name in RIGHTS)
    entries = [entry for entry in data.split(b"\0") if entry and not entry.startswith(taken)]
    return b"".join(entry + b"\0" for entry in entries)
