"""What `qsmtpd --check` says of control/tlsserverciphers: names that no client can ever use."""

from __future__ import annotations

from OpenSSL import SSL, crypto

from ..tls import ciphers
from ..tls.pairs import Pair
from ..tls.settings import OLD_VERSIONS, TlsSettings
from .report import Report

_WHERE = "tlsserverciphers"
_RSA = (6, 912)  # OpenSSL's numbers (NIDs) of RSA keys and of RSA-PSS
_UNKNOWN = "OpenSSL does not know them, or takes them for unsafe"
_OPERATORS = b"!-+@"


def check_ciphers(report: Report, tls: TlsSettings, pairs: list[Pair]) -> None:
    """Warn of those of the list that cannot be used with any of these certificates."""
    new, old = ciphers.split(tls.ciphers or b"")
    level = [name for name in old if name.startswith(b"@")]
    if tls.minimum in OLD_VERSIONS:
        level = [b"@SECLEVEL=0"]
    kinds = {_kind(pair) for pair in pairs}
    found: dict[str, list[bytes]] = {}
    for name in old:
        if name[:1] not in _OPERATORS:
            reason = _why_never(name, level, kinds, tls.minimum)
            if reason is not None:
                found.setdefault(reason, []).append(name)
    for name in new:
        if not _is_known_to_tls13(name):
            found.setdefault(_UNKNOWN, []).append(name)
    for reason, names in found.items():
        shown = b", ".join(names).decode("ascii", "backslashreplace")
        report.warn(_WHERE, f"never used: {shown} ({reason})")


def _why_never(name: bytes, level: list[bytes], kinds: set[str], minimum: str) -> str | None:
    known = _of(b":".join((name, *level)))
    if not known:
        return _UNKNOWN
    if minimum == "TLSv1.3":
        return "they are for older versions than tlsminimum"
    if name.decode("ascii", "replace") not in known:
        return None  # a word for several, as HIGH
    if b"PSK" in name or b"SRP" in name:
        return "there are no shared secrets"
    if name.startswith((b"DHE-", b"EDH-", b"ADH-", b"DH-")):
        return "there are no parameters for DHE; ECDHE does the same"
    wanted = "ECDSA" if b"ECDSA" in name else "" if name.startswith(b"AECDH-") else "RSA"
    if wanted and wanted not in kinds:
        return f"there is no certificate with a key for {wanted}"
    return None


def _of(text: bytes) -> list[str]:
    """The ciphers that a list stands for, without those of TLS 1.3, which are always there."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    try:
        context.set_cipher_list(text)
    except SSL.Error:
        return []
    names = SSL.Connection(context, None).get_cipher_list()
    return [name for name in names if not name.startswith("TLS_")]


def _is_known_to_tls13(name: bytes) -> bool:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    if not hasattr(context, "set_tls13_ciphersuites"):
        return True  # it cannot choose them, which is said of them all
    try:
        context.set_tls13_ciphersuites(name)
    except SSL.Error:
        return False
    return name.decode("ascii", "replace") in SSL.Connection(context, None).get_cipher_list()


def _kind(pair: Pair) -> str:
    """Which ciphers before TLS 1.3 a certificate is for: RSA or ECDSA."""
    with open(pair.certificate, "rb") as stream:
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, stream.read())
    return "RSA" if certificate.get_pubkey().type() in _RSA else "ECDSA"
