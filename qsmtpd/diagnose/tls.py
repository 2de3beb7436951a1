"""What `qsmtpd --check` says of TLS and its certificates."""

from __future__ import annotations

import os

from ..tls import provider
from ..tls.errors import Unavailable
from ..tls.pairs import Pair, find_pairs
from ..tls.settings import EXTERNAL, IMPLICIT, OFF, UCSPI, TlsSettings
from .certificates import check_certificate
from .report import Report


def check_tls(report: Report, tls: TlsSettings) -> bool:
    """Would a session have TLS?"""
    for error in tls.remarks:  # of tlsclients: somebody may not relay who should
        report.wrong(*error)
    if tls.mode == EXTERNAL:
        report.note("tls", tls.mode, "done in front")
        return True
    way = None
    try:
        way = provider.find(tls)
        if way is not None:
            way.prepare()
            report.note("tls", tls.mode, "see qsmtpd-tls(7)")
            if tls.mode != UCSPI:
                _check_certificates(report, tls)
    except Unavailable as error:
        way = None
        # STARTTLS is then not offered or answered with 454, and plain mail goes on.
        (report.wrong if tls.mode == IMPLICIT else report.warn)("tls", str(error))
    if way is None and tls.mode == OFF:
        report.note("tls", "off", "no certificate, and nothing else asks for it")
    if way is None and tls.required:
        report.wrong("FORCETLS, UCSPITLS", "want TLS, and there is none: all mail is refused")
    if tls.client_required and tls.mode != UCSPI and tls.client_ca is None:
        report.wrong("UCSPITLS=@", "wants a client certificate, but there is no clientca.pem")
    return way is not None


def _check_certificates(report: Report, tls: TlsSettings) -> None:
    from ..tls import context
    from .authorities import check_authorities
    from .ciphers import check_ciphers

    for remark in context.keep(tls).remarks:
        report.warn("tls", remark)
    for pair in tls.pairs:
        check_certificate(report, pair)
    if tls.client_ca is None and tls.clients:
        report.warn("control/tlsclients", "nobody is asked for a certificate: no clientca.pem")
    report.attempt(lambda: check_authorities(report, tls))
    usable = [*tls.pairs, *_check_names(report, tls)]
    report.attempt(lambda: check_ciphers(report, tls, usable))


def _check_names(report: Report, tls: TlsSettings) -> list[Pair]:
    """The certificates of SNI; those that can be used."""
    from ..tls import context

    usable: list[Pair] = []
    try:
        names = sorted(os.listdir(tls.names))
    except FileNotFoundError:
        return []
    for name in names:
        where = "servercerts/" + os.fsdecode(name)
        pairs = find_pairs(tls.names + b"/" + name)
        if not pairs:
            report.warn(where, "is never used: it has no servercert.pem")
        elif context.folder(name) != name:
            what = "a name is a host's, in lower case, without a dot at its end"
            report.warn(where, f"is never used: {what}")
        try:
            context.build(tls, pairs)
            usable += pairs
        except Unavailable as error:
            report.warn(where, str(error))
        for pair in pairs:
            check_certificate(report, pair)
    return usable
