"""What `qsmtpd --check` says of a certificate: its names, its key, and how long it is valid."""

from __future__ import annotations

import os
import time

from .report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from OpenSSL import crypto

    from ..tls.pairs import Pair

#: From here on an end is near: certificates of Let's Encrypt are renewed 30 days before.
NEAR = 14  # days
_DAY = 86400
_END = b"-----END CERTIFICATE-----"
#: OpenSSL's numbers of the kinds of keys (NIDs).
_KEYS = {6: "RSA", 116: "DSA", 408: "EC", 1087: "Ed25519", 1088: "Ed448"}


def check_certificate(report: Report, pair: Pair) -> None:
    """Of the certificate and of each in its chain: is it valid, and how long?"""
    from OpenSSL import crypto

    if pair.problem() is not None:
        return  # which has been said
    with open(pair.certificate, "rb") as stream:
        parts = stream.read().split(_END)[:-1]
    path = os.fsdecode(pair.certificate)
    for number, part in enumerate(parts):
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, part + _END + b"\n")
        begin, end = _seconds(certificate.get_notBefore()), _seconds(certificate.get_notAfter())
        now = time.time()
        whose = "" if number == 0 else f"the certificate {_names(certificate)} of its chain "
        if now < begin:
            report.wrong(path, f"{whose}is valid only from {_date(begin)} on")
        elif now >= end:
            report.wrong(path, f"{whose}has expired on {_date(end)}")
        else:
            days = int((end - now) // _DAY)
            left = f"{days} {'day' if days == 1 else 'days'} left"
            if days < NEAR:
                report.warn(path, f"{whose}expires soon: {left}")
            if number == 0:
                report.ok(
                    path, f"{_names(certificate)}, {_key(certificate)}, {left}", "certificate"
                )


def _names(certificate: crypto.X509) -> str:
    """The host names that it is for; where there are none, the common name."""
    from cryptography import x509

    extensions = certificate.to_cryptography().extensions
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return certificate.get_subject().CN or "(no name)"
    return " ".join(str(name.value) for name in found) or "(no name)"


def _key(certificate: crypto.X509) -> str:
    key = certificate.get_pubkey()
    return f"{_KEYS.get(key.type(), 'key')} {key.bits()}"


def _seconds(text: bytes | None) -> float:
    """A time of X.509, in UTC, as seconds since 1970."""
    import calendar

    return calendar.timegm(time.strptime((text or b"").decode("ascii"), "%Y%m%d%H%M%SZ"))


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
