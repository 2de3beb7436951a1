"""The trace header (RFC 5321, 4.4), in qmail-smtpd's form."""

from __future__ import annotations

from time import gmtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Client, Tls

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


def protocol(client: Client, utf8: bool = False) -> bytes:
    """The keyword of RFC 3848 for this session; `utf8`: of RFC 6531 (4.3), for a transaction."""
    if not client.esmtp and not utf8:
        return client.protocol
    tls = b"S" if client.tls is not None else b""
    auth = b"A" if client.auth is not None else b""
    return (b"UTF8SMTP" if utf8 else b"ESMTP") + tls + auth


def date(now: float) -> bytes:
    """The time in qmail's form of RFC 5322, 3.3: no day of the week, and always UTC."""
    parts = gmtime(now)
    return b"%d %b %d %02d:%02d:%02d -0000" % (
        parts.tm_mday,
        _MONTHS[parts.tm_mon - 1],
        parts.tm_year,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec,
    )


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
    if tls.group is not None:
        words.append(b"group=" + _field(tls.group))
    if tls.sni is not None:
        words.append(b"sni=" + _field(tls.sni))
    if tls.fingerprint is not None:
        words.append(b"client=sha256:" + _field(tls.fingerprint))
    return clause + b"\n  (" + b" ".join(words) + b")"


def received(client: Client, now: float, hide: bool = False, utf8: bool = False) -> bytes:
    """The Received lines for a message taken at `now` (seconds since 1970), with LF ends.

    The name of an authenticated client stands where ident's answer would.
    `hide` leaves out where it is and what it calls itself; `utf8` is the envelope's.
    """
    peer = client.peer
    host, address = (b"unknown", b"unknown") if hide else (peer.host, peer.ip)
    helo = b""
    if client.helo is not None and not hide and client.helo.lower() != peer.host.lower():
        helo = b" (HELO " + _field(client.helo) + b")"
    user = peer.info if client.auth is None else client.auth.user
    info = _field(user) + b"@" if user is not None else b""
    encryption = _encryption(client.tls) if client.tls is not None else b""
    return b"Received: from %b%b (%b%b)\n  by %b with %b%b; %b\n" % (
        _field(host),
        helo,
        info,
        _field(address),
        _field(peer.local_host),
        protocol(client, utf8),
        encryption,
        date(now),
    )
