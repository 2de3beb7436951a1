"""What a TLS front end says, in its environment or over the control descriptor.

Two dialects are in use: that of sslserver (ucspi-ssl), after Apache's mod_ssl,
and that of s6-networking.  They differ in how they name a client certificate,
so a session speaks one of them and the other's names mean nothing: sslserver
copies a certified name byte for byte, and one with a NUL in it can forge
entries.  For the same reason a name that is said twice voids the identity, and
so does a report that goes on behind its end (see ucspitls.py).
"""

from __future__ import annotations

from ..facts import Tls
from .clients import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

VALUE_LIMIT = 8192  # bytes; a larger value is as good as none
_NAME = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:")
_SSLSERVER = b"SSL_CLIENT_CERT"
_S6 = b"SSL_PEER_CERT_HASH"
_IDENTITY = (b"SSL_VERSION_INTERFACE", _SSLSERVER, _S6)


def describe(entries: Iterable[tuple[bytes, bytes | None]]) -> Tls:
    """(name, value or None) pairs -> what they say.  Never fails.

    A None is s6's way to say that there is none.
    """
    said: dict[bytes, bytes | None] = {}
    twice = set()
    for name, value in entries:
        if not name.startswith(b"SSL_") or len(name) > 68 or not _NAME.issuperset(name):
            continue
        if name in said:
            twice.add(name)
        said[name] = None if value is None or len(value) > VALUE_LIMIT else value
    identified = not twice.intersection(_IDENTITY)
    return Tls(
        protocol=said.get(b"SSL_PROTOCOL") or None,
        cipher=said.get(b"SSL_CIPHER") or None,
        sni=said.get(b"SSL_TLS_SNI_SERVERNAME") or None,
        fingerprint=_fingerprint(said) if identified else None,
    )


def _fingerprint(said: dict[bytes, bytes | None]) -> bytes | None:
    if b"SSL_VERSION_INTERFACE" in said:
        # s6 always names the hash; where both are named, one is forged.
        if said[b"SSL_VERSION_INTERFACE"] != b"ucspi-ssl" or _S6 in said:
            return None
        return _of_pem(said.get(_SSLSERVER))
    kind, _, digest = (said.get(_S6) or b"").partition(b":")
    return fingerprint(digest) if kind == b"SHA256" else None


def _of_pem(pem: bytes | None) -> bytes | None:
    """The SHA-256 of the one certificate in a PEM text, in hex."""
    import binascii
    import hashlib

    begin, end = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----"
    text = (pem or b"").rstrip(b"\n")
    if not (text.startswith(begin) and text.endswith(end)):
        return None
    try:
        der = binascii.a2b_base64(
            text[len(begin) : -len(end)].replace(b"\n", b""), strict_mode=True
        )
    except binascii.Error:
        return None
    if not _is_one_sequence(der):
        return None
    return hashlib.sha256(der).hexdigest().encode("ascii")


def _is_one_sequence(der: bytes) -> bool:
    """Has it the form of a certificate, one SEQUENCE in DER from the first byte to the last?

    Its length is in one or two bytes behind their number (X.690, 8.1.3.5): fewer
    than 128 bytes have no room for a key, more than VALUE_LIMIT are not taken.
    """
    return any(
        der[:2] == b"\x30" + bytes((0x80 + size,))
        and int.from_bytes(der[2 : 2 + size], "big") == len(der) - 2 - size
        for size in (1, 2)
    )
