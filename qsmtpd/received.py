"""The trace header (RFC 5321, 4.4), in qmail-smtpd's form."""

from __future__ import annotations

from time import gmtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .facts import Client

#: A domain name is no longer (RFC 5321, 4.5.3.1.2); neither is a field here.
FIELD_LIMIT = 255

_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.@%+/=:-[]"
_CLEAN = bytes(byte if byte in _SAFE else 0x3F for byte in range(256))
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def clean(text: bytes) -> bytes:
    """Everything outside qmail's safe set becomes `?`: nothing can leave its place."""
    return text.translate(_CLEAN)


def _field(text: bytes) -> bytes:
    return clean(text[:FIELD_LIMIT])


def protocol(client: Client) -> bytes:
    """The keyword of RFC 3848 for this session."""
    return b"ESMTP" if client.esmtp else b"SMTP"


def received(client: Client, now: float) -> bytes:
    """The Received lines for a message taken at `now` (seconds since 1970), with LF ends."""
    peer = client.peer
    helo = b""
    if client.helo is not None and client.helo.lower() != peer.host.lower():
        helo = b" (HELO " + _field(client.helo) + b")"
    info = _field(peer.info) + b"@" if peer.info is not None else b""
    date = gmtime(now)
    return b"Received: from %b%b (%b%b)\n  by %b with %b; %d %b %d %02d:%02d:%02d -0000\n" % (
        _field(peer.host),
        helo,
        info,
        _field(peer.ip),
        _field(peer.local_host),
        protocol(client),
        date.tm_mday,
        _MONTHS[date.tm_mon - 1],
        date.tm_year,
        date.tm_hour,
        date.tm_min,
        date.tm_sec,
    )
