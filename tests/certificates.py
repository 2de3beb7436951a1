"""Throw-away certificates."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Certificate:
    """A throw-away certificate and its key, signed by `issuer` or by itself."""

    def __init__(
        self,
        name: str,
        kind: str = "ec",
        issuer: Certificate | None = None,
        address: str | None = None,
        days: int = 1,
        common: bool = False,  # is its name the common name alone?
    ) -> None:
        self.certificate: x509.Certificate
        if kind == "ec":
            self.key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
            self.key = ec.generate_private_key(ec.SECP256R1())
        else:
            self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternative: list[x509.GeneralName] = [x509.DNSName(name)]
        if name[0].isdigit():
            alternative = [x509.IPAddress(ipaddress.ip_address(name))]
        if address is not None:
            alternative.append(x509.RFC822Name(address))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + days * DAY - datetime.timedelta(seconds=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        )
        if not common:
            names = x509.SubjectAlternativeName(alternative)
            builder = builder.add_extension(names, critical=False)
        self.certificate = builder.sign(issuer.key if issuer else self.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def revocation_list(self, *revoked: Certificate, days: int = 1) -> bytes:
        """A CRL of this authority's, valid for so many days from now on."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - DAY)
            .next_update(now + days * DAY - datetime.timedelta(seconds=1))
        )
        for other in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(other.certificate.serial_number)
                .revocation_date(now)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def save(self, path: Path) -> Path:
        """Write certificate and key into one file."""
        path.write_bytes(self.pem + self.key_pem)
        return path
