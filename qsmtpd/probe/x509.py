"""What a certificate says: names and days.  Needs the package cryptography."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime

from cryptography import x509

from .evidence import printable


def describe(encoded: bytes, host: str) -> tuple[str, list[str]]:
    """(the certificate in a few words, what is wrong with it for this host).

    `encoded` is DER.  A certificate that cannot be read is a fault like others.
    """
    try:
        certificate = x509.load_der_x509_certificate(encoded)
        names, addresses = _names(certificate)
        first, last = _days(certificate)
        own = certificate.issuer == certificate.subject
    except Exception as error:
        # What OpenSSL can read and cryptography cannot fails in many ways: ValueError,
        # TypeError, KeyError, x509.InvalidVersion ...
        reason = _plain(f"{type(error).__name__}: {error}")
        return "a certificate that cannot be read", [reason]
    shown = ", ".join(_plain(name) for name in [*names, *map(str, addresses)]) or "no name"
    text = f"for {shown}, until {last:%Y-%m-%d}{', self-signed' if own else ''}"
    faults = []
    if not _matches(host, names, addresses):
        faults.append(f"not for {host}")
    now = datetime.now(UTC)
    if now > last:
        faults.append("expired")
    if now < first:
        faults.append("not yet valid")
    return text, faults


def _days(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """From when, and until when it is valid."""
    if hasattr(certificate, "not_valid_after_utc"):  # since cryptography 42
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    first, last = certificate.not_valid_before, certificate.not_valid_after
    return first.replace(tzinfo=UTC), last.replace(tzinfo=UTC)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _names(certificate: x509.Certificate) -> tuple[list[str], list[_Address]]:
    """DNS names and addresses; the subject's common name counts no more (RFC 9525, 2)."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return [], []
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return extension.value.get_values_for_type(x509.DNSName), [
        address
        for address in addresses
        if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address)
    ]


def _matches(host: str, names: list[str], addresses: list[_Address]) -> bool:
    try:
        return ipaddress.ip_address(host) in addresses
    except ValueError:
        pass
    wanted = host.rstrip(".").lower()
    # RFC 9525, 6.3: a wildcard stands for exactly the first label.
    wild = "*." + wanted.partition(".")[2]
    return any(name.rstrip(".").lower() in (wanted, wild) for name in names)


def _plain(text: str) -> str:
    return printable(text.encode("utf-8", "backslashreplace"))
