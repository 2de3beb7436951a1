"""What `qsmtpd --check` says of clientca.pem and clientcrl.pem: whose clients are not verified."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509

from ..facts import ControlError
from ..tls.authorities import CERTIFICATE, CRL, parts
from ..tls.settings import TlsSettings
from .report import Report

_CA, _CRL = "clientca.pem", "clientcrl.pem"
_NOBODY = "so none of its clients is verified"


def check_authorities(report: Report, tls: TlsSettings) -> None:
    """Warn of authorities and revocation lists that are there, and of no use."""
    if tls.client_ca is None:
        if tls.client_crl is not None:
            report.warn(_CRL, "is not read: there is no clientca.pem")
        return
    try:
        authorities = [
            x509.load_pem_x509_certificate(part) for part in parts(_CA, tls.client_ca, CERTIFICATE)
        ]
        lists = []
        if tls.client_crl is not None:
            lists = [x509.load_pem_x509_crl(part) for part in parts(_CRL, tls.client_crl, CRL)]
    except (ControlError, ValueError):
        return  # which has been said
    now = datetime.now(UTC)
    for authority in authorities:
        name = authority.subject.rfc4514_string()
        if now > _time(authority, "not_valid_after"):
            report.warn(_CA, f"{name} has expired, {_NOBODY}")
        if now < _time(authority, "not_valid_before"):
            report.warn(_CA, f"{name} is not valid yet, {_NOBODY}")
        if any(b"@" in client for client in tls.clients) and not _is_authority(authority):
            report.warn(_CA, f"{name} is no authority, {_NOBODY}")
        if tls.client_crl is not None and all(one.issuer != authority.subject for one in lists):
            report.warn(_CRL, f"has no list of {name}, {_NOBODY}")
    for one in lists:
        _check_list(report, one, authorities, now)


def _check_list(
    report: Report,
    one: x509.CertificateRevocationList,
    authorities: list[x509.Certificate],
    now: datetime,
) -> None:
    name = one.issuer.rfc4514_string()
    issuers = [authority for authority in authorities if authority.subject == one.issuer]
    if not issuers:
        report.warn(_CRL, f"the list of {name} is of no use, unless a client sends that authority")
    elif not any(_is_signed_by(one, issuer) for issuer in issuers):
        report.warn(_CRL, f"the list of {name} is not signed by it, {_NOBODY}")
    last = None if one.next_update is None else _time(one, "next_update")
    if last is not None and now > last:
        report.warn(_CRL, f"the list of {name} has expired, {_NOBODY}")
    if now < _time(one, "last_update"):
        report.warn(_CRL, f"the list of {name} is not valid yet, {_NOBODY}")


def _time(of: x509.Certificate | x509.CertificateRevocationList, name: str) -> datetime:
    """A time in it, in UTC: since cryptography 42 with its zone, in an attribute of its own."""
    found: datetime = getattr(of, name + "_utc", None) or getattr(of, name)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (ValueError, x509.ExtensionNotFound):
        return certificate.version is x509.Version.v1
    return constraints.value.ca


def _is_signed_by(one: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return one.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except Exception:  # a key, or an algorithm, that it does not know
        return False
