"""The trace header (RFC 5321, 4.4), in qmail-smtpd's form."""

from __future__ import annotations

from time import gmtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .facts import Client, Tls

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
    if not client.esmtp:
        return b"SMTP"
    return b"ESMTPS" if client.tls is not None else b"ESMTP"


def _cipher(name: bytes) -> bytes:
    return b"_".join(_field(part) for part in name.split(b"_")[:8])


def _encryption(tls: Tls) -> bytes:
    """The clause of RFC 8314 (7.4) where the cipher's name is IANA's, and a comment."""
    clause = b""
    words = [_field(tls.protocol or b"TLS")]
    if tls.cipher is not None and tls.cipher.startswith(b"TLS_"):
        clause = b" tls " + _cipher(tls.cipher)
    elif tls.cipher is not None:
        words.append(_cipher(tls.cipher))
    if tls.sni is not None:
        words.append(b"sni=" + _field(tls.sni))
    if tls.fingerprint is not None:
        words.append(b"client=sha256:" + _field(tls.fingerprint))
    return clause + b"\n  (" + b" ".join(words) + b")"


def received(client: Client, now: float) -> bytes:
    """The Received lines for a message taken at `now` (seconds since 1970), with LF ends."""
    peer = client.peer
    helo = b""
    if client.helo is not None and client.helo.lower() != peer.host.lower():
        helo = b" (HELO " + _field(client.helo) + b")"
    info = _field(peer.info) + b"@" if peer.info is not None else b""
    date = gmtime(now)
    encryption = _encryption(client.tls) if client.tls is not None else b""
    return b"Received: from %b%b (%b%b)\n  by %b with %b%b; %d %b %d %02d:%02d:%02d -0000\n" % (
        _field(peer.host),
        helo,
        info,
        _field(peer.ip),
        _field(peer.local_host),
        protocol(client),
        encryption,
        date.tm_mday,
        _MONTHS[date.tm_mon - 1],
        date.tm_year,
        date.tm_hour,
        date.tm_min,
        date.tm_sec,
    )
