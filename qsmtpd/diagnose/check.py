"""`qsmtpd --check`: what is set, from where, and what is wrong, one line each.

It builds the very objects that a session builds, from a lookup that takes notes
and carries on where the real one would raise.
"""

from __future__ import annotations

import os
import resource
import sys

from ..config.files import ControlFiles
from ..config.files import home as home_of
from ..config.session import (
    UTF8_OFF,
    AuthSettings,
    PolicySettings,
    QueueSettings,
    SessionSettings,
    smtputf8,
)
from ..config.settings import Settings, shown
from ..facts import BLANKS
from ..log import Log
from ..net import ucspi
from ..net.dns import settings as dns
from ..net.syslog import Syslog
from ..policy import load
from ..session.dialogue import Smtp
from ..tls.settings import IMPLICIT, OFF, STARTTLS, TlsSettings
from . import dkim, foreign, spf
from .auth import check_auth
from .daemons import check_filters
from .dmarc import check_dmarc
from .dnslists import check_dns_lists
from .noted import WHITE_SPACE, NotedSettings
from .patterns import check_lists
from .programs import check_others, check_queue, takes_all
from .proxy import check_proxy
from .report import Report
from .spool import check_spool
from .store import check_greylist, check_sendlimits, check_store
from .tls import check_tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..session.protocol import Conversation

#: What a plain session wants (bytes).  Measured on CPython 3.11, x86-64: with an
#: address space of 14 MB and a data segment of 5 MB a message is taken, below
#: it gets 421 or the interpreter does not start.  This is that and a reserve.
ADDRESS_SPACE_LEAST = 20 * 1024 * 1024
DATA_LEAST = 8 * 1024 * 1024
#: With pyOpenSSL: at 40 MB it is 421, at 60 MB it works.
TLS_LEAST = 64 * 1024 * 1024
#: What this check wants for idna, with all that it has loaded before; measured: 26 MB.
UTF8_LEAST = 32 * 1024 * 1024


def examine(
    environ: Mapping[bytes, bytes],
    checkpassword: list[bytes],
    quiet: bool = False,
    protocol: type[Conversation] = Smtp,
    of_balancer: bool = True,
) -> Report:
    """The report on everything that a session in this environment and protocol would use.

    The working directory becomes its QMAILHOME.  `of_balancer`: where PROXY headers come, it
    is the environment of who sends them.
    """
    report = Report(quiet)
    attempt = report.attempt
    home = home_of(environ)
    files = ControlFiles(home)
    plain = Settings(files, environ)
    noted = NotedSettings(files, environ, report)
    try:
        os.chdir(home)
    except OSError as error:
        report.wrong(os.fsdecode(home), error.strerror or "cannot be entered")
        return report
    report.note("python", sys.executable, sys.version.split()[0])
    report.note("user", f"{os.geteuid()}, group {os.getegid()}", "whose rights this check has")
    by_variable = plain.variable("QMAILHOME") is not None
    report.ok("home", os.fsdecode(home), "QMAILHOME" if by_variable else "default")
    _check_white_space(report, environ)
    _check_syslog(report)
    peer = ucspi.read_peer(environ)
    if peer.relay is not None:
        report.ok("RELAYCLIENT", os.fsdecode(peer.relay), "environment")
    settings = attempt(lambda: SessionSettings.load(noted, checkpassword))
    if settings is None:
        for part in SessionSettings.PARTS:  # there may be more that is wrong
            attempt(lambda part=part: part(noted))  # type: ignore[misc]
    else:
        attempt(lambda: protocol.check(report, noted, settings))
    tls = attempt(lambda: TlsSettings(plain))
    auth = attempt(lambda: AuthSettings(plain, checkpassword))
    policy = attempt(lambda: PolicySettings(noted))
    queue = attempt(lambda: QueueSettings(plain))
    before = dns.made
    if policy is not None:
        hooks = attempt(lambda: load.load(noted, policy, Log(2)))
        if hooks is None:
            every = policy.plugins
            for one in every:  # nor are the others hidden by one that cannot be made
                policy.plugins = [one]
                attempt(lambda: load.load(noted, policy, Log(2)))
            policy.plugins = every
        else:
            attempt(lambda: check_spool(report, hooks))
    attempt(lambda: _check_name(report, plain))
    attempt(lambda: _check_plugins(report, plain))
    attempt(lambda: check_lists(report, plain))
    attempt(lambda: check_dns_lists(report, plain))
    relays = peer.relay is not None or protocol.relays
    may_relay = relays or bool(auth and (auth.mechanisms or auth.dovecot))
    attempt(lambda: _check_utf8(report, plain))
    attempt(lambda: _check_rcpthosts(report, plain, relays, may_relay))
    if queue is not None and not (policy and attempt(lambda: takes_all(report, plain, policy))):
        attempt(lambda: check_queue(report, queue, plain))
    attempt(lambda: check_others(report, plain))
    attempt(lambda: check_proxy(report, plain, of_balancer))
    has_spf = has_dkim = False
    if policy is not None:
        attempt(lambda: check_filters(report, plain, policy))
        has_spf = bool(attempt(lambda: spf.evaluates(plain, policy)))
        has_dkim = bool(attempt(lambda: dkim.checks(plain, policy)))
        dkim.check_order(report, policy)
        attempt(lambda: check_store(report, plain, policy))
        attempt(lambda: check_greylist(report, plain, policy))
        attempt(lambda: check_sendlimits(report, plain, policy))
        if any(spec.plugin == "dmarc" for spec in policy.plugins):
            attempt(lambda: check_dmarc(report, plain, policy))
    pyopenssl = tls is not None and tls.mode in (STARTTLS, IMPLICIT)
    enough = _check_memory(report, pyopenssl, has_spf, has_dkim)
    if has_spf and enough:
        attempt(lambda: spf.check_spf(report))
    if has_dkim and enough:
        attempt(lambda: dkim.check_dkim(report))
    if dns.made > before:
        attempt(lambda: _check_dns(report, plain))
    has_tls = tls is not None and tls.mode != OFF
    if tls is not None and enough:
        has_tls = bool(attempt(lambda: check_tls(report, tls)))
    _check_tls_switch(report, plain)
    if auth is not None:
        attempt(lambda: check_auth(report, plain, auth, tls, has_tls))
    return report


def _check_white_space(report: Report, environ: Mapping[bytes, bytes]) -> None:
    """The variables that are not looked up as settings are."""
    for name, value in environ.items():
        if name in (b"QMAILHOME", b"RELAYCLIENT", b"QSMTPD_MAILDIR") and value != value.rstrip(
            BLANKS
        ):
            report.warn(name.decode("ascii"), WHITE_SPACE)


def _check_name(report: Report, settings: Settings) -> None:
    """The first line of me, of which nothing else is asked."""
    if (me := settings.line("me")) is None:
        return
    if me.startswith(b"#"):
        report.wrong("control/me", "begins with a comment, and its first line is the name")
    elif me and not me.strip(b".") and not settings.line("smtpgreeting"):
        report.wrong("control/me", "has no name in its first line")


def _check_tls_switch(report: Report, settings: Settings) -> None:
    """What is none of its words is `offered` (qsmtpd-tls(7)), and may have been meant otherwise."""
    switch = settings.variable("UCSPITLS")
    if switch not in (None, b"", b"0", b"1", b"-", b"!", b"@"):
        report.warn("UCSPITLS", f"is {shown(switch)}: TLS is offered, and not required")


def _check_syslog(report: Report) -> None:
    problem = Syslog().problem()
    where = "syslog, by /dev/log"
    if problem is not None:
        where = f"nowhere, for /dev/log cannot be used: {problem}"
    report.note("log", "descriptor 2", f"where that is the client, as under inetd: {where}")


def _check_plugins(report: Report, settings: Settings) -> None:
    report.note("plugins", ", ".join(foreign.plugins(settings)), "see qsmtpd --hooks")
    for switch, why in foreign.idle_switches(settings):
        report.wrong(switch, why)
    for switch, why in foreign.switched_off(settings):
        report.warn(switch, why)


def _check_utf8(report: Report, settings: Settings) -> None:
    if smtputf8(settings) == UTF8_OFF:
        return
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY and soft < UTF8_LEAST:
            what = f"is not checked: that wants {UTF8_LEAST} bytes of memory, a session does not"
            report.warn("control/smtputf8", what)
            return
    from .utf8 import check_utf8

    check_utf8(report, settings)


def _check_dns(report: Report, settings: Settings) -> None:
    from .dns import check_dns

    check_dns(report, settings)


def _check_rcpthosts(report: Report, settings: Settings, relay: bool, may_relay: bool) -> None:
    """`relay`: the client is one that may relay, `may_relay`: or could become one."""
    entries = settings.lines("rcpthosts")
    if entries is None and not relay:
        report.wrong("control/rcpthosts", "is missing, so every recipient is refused")
    elif not entries and not may_relay and not _has_key(settings, "morercpthosts.cdb"):
        report.wrong("control/rcpthosts", "has no entry, so every recipient is refused")
    files = settings.files
    if files.has("morercpthosts") and not files.has("morercpthosts.cdb"):
        what = "is not read, only its morercpthosts.cdb, which is missing: see qmail-newmrh(8)"
        report.wrong("control/morercpthosts", what)
    if settings.variable("LOCALMFCHECK") == b"!" and not (
        settings.lines("mailfromrules") or _has_key(settings, "mailfromrules.cdb")
    ):
        what = "is missing or has no entry, so LOCALMFCHECK=! refuses everybody"
        report.wrong("control/mailfromrules", what)


def _has_key(settings: Settings, file: str) -> bool:
    """Is there such a cdb, with anything in it?  Raises ControlError."""
    cdb = settings.files.cdb(file)
    return cdb is not None and any(True for _ in cdb.items())


def _check_memory(report: Report, pyopenssl: bool, has_spf: bool, has_dkim: bool) -> bool:
    """Is there enough for a session?  With less, loading OpenSSL can end Python."""
    enough = True
    least_space = spf.SPACE_LEAST if has_spf else ADDRESS_SPACE_LEAST
    least_data = spf.DATA_LEAST if has_spf else DATA_LEAST
    if has_dkim:
        least_space, least_data = dkim.SPACE_LEAST, dkim.DATA_LEAST
    if pyopenssl:
        least_space = max(least_space, TLS_LEAST)
    for name, limit, least in (
        ("address space (softlimit -a, -m)", resource.RLIMIT_AS, least_space),
        ("data segment (softlimit -d, -m)", resource.RLIMIT_DATA, least_data),
    ):
        soft = resource.getrlimit(limit)[0]
        if soft == resource.RLIM_INFINITY:
            continue
        if soft < least:
            report.wrong(name, f"{soft} bytes, but a session needs {least}")
            enough = False
        else:
            report.ok(name, f"{soft} bytes", "resource limit")
    return enough
