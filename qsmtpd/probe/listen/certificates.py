"""Throw-away certificates: a good one, and three that a client should not trust."""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .kinds import EXPIRED, GOOD, SELF_SIGNED, WRONG_NAME

_OTHER_NAME = "another-name.invalid"
_DAY = timedelta(days=1)
#: OpenSSL's default level wants nothing more than P-256, and it is made in a moment.
_CURVE = ec.SECP256R1()
#: RFC 5280, 4.2.1.3: an authority has one; clients in Python from 3.13 on insist.
_AUTHORITY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Certificates:
    """The authority's certificate in PEM, and a server's TLS settings for each kind."""

    authority: bytes
    contexts: dict[str, ssl.SSLContext]


def make(names: list[str]) -> Certificates:
    """New certificates; the good ones are for these names or addresses."""
    today = datetime.now(UTC)
    valid = (today - _DAY, today + 7 * _DAY)
    past = (today - 30 * _DAY, today - _DAY)
    authority_key = ec.generate_private_key(_CURVE)
    authority = _certificate([], "starttls-probe test authority", authority_key, valid)
    issuer = (authority.subject, authority_key)
    kinds = {
        GOOD: (names, valid, issuer),
        WRONG_NAME: ([_OTHER_NAME], valid, issuer),
        EXPIRED: (names, past, issuer),
        SELF_SIGNED: (names, valid, None),
    }
    contexts = {}
    for kind, (subject, days, signer) in kinds.items():
        key = ec.generate_private_key(_CURVE)
        certificate = _certificate(subject, subject[0], key, days, signer)
        contexts[kind] = _context(certificate, key)
    return Certificates(_pem(authority), contexts)


def _certificate(
    names: list[str],
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    days: tuple[datetime, datetime],
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
) -> x509.Certificate:
    """A certificate for these names; without names an authority's; without issuer self-signed."""
    # RFC 5280, A.1: a common name has at most 64 characters.
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name[:64])])
    issuer_name, issuer_key = issuer or (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(days[0])
        .not_valid_after(days[1])
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if names:
        alternatives = x509.SubjectAlternativeName(list(map(_general_name, names)))
        builder = builder.add_extension(alternatives, critical=False)
    else:
        builder = builder.add_extension(_AUTHORITY, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _context(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # The ssl module loads keys from files only.
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "pem")
        with open(path, "wb") as file:
            file.write(private + _pem(certificate))
        result.load_cert_chain(path)
    return result


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
