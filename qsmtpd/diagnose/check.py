"""`qsmtpd --check`: what is set, from where, and what is wrong, one line each.

It builds the very objects that a session builds, from a lookup that takes notes
and carries on where the real one would raise.
"""

from __future__ import annotations

import os
import resource
import sys

from ..config.files import ControlFiles
from ..config.session import AuthSettings, QueueSettings, SessionSettings
from ..config.settings import Settings
from ..log import Log
from ..net import ucspi
from ..policy import load
from ..policy.spec import PolicySettings
from ..tls.settings import IMPLICIT, STARTTLS, TlsSettings
from . import foreign
from .noted import NotedSettings
from .report import Report
from .tls import check_tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a plain session wants (bytes).  Measured on CPython 3.11, x86-64: with an
#: address space of 14 MB and a data segment of 5 MB a message is taken, below
#: it gets 421 or the interpreter does not start.  This is that and a reserve.
ADDRESS_SPACE_LEAST = 20 * 1024 * 1024
DATA_LEAST = 8 * 1024 * 1024
#: With pyOpenSSL: at 40 MB it is 421, at 60 MB it works.
TLS_LEAST = 64 * 1024 * 1024


def check(environ: Mapping[bytes, bytes], home: bytes, checkpassword: list[bytes]) -> int:
    """Report on everything a session would use; return 0 if mail would flow, else 1."""
    report = Report()
    attempt = report.attempt
    files = ControlFiles(home)
    plain = Settings(files, environ)
    noted = NotedSettings(files, environ, report)
    try:
        os.chdir(home)
    except OSError as error:
        report.wrong(os.fsdecode(home), error.strerror or "cannot be entered")
        return report.print()
    report.ok("python", sys.executable, sys.version.split()[0])
    by_variable = plain.variable("QMAILHOME") is not None
    report.ok("home", os.fsdecode(home), "QMAILHOME" if by_variable else "default")
    peer = ucspi.read_peer(environ)
    if peer.relay is not None:
        report.ok("RELAYCLIENT", os.fsdecode(peer.relay), "environment")
    if attempt(lambda: SessionSettings.load(noted, checkpassword)) is None:
        for part in SessionSettings.PARTS:  # there may be more that is wrong
            attempt(lambda part=part: part(noted))  # type: ignore[misc]
    tls = attempt(lambda: TlsSettings(plain))
    auth = attempt(lambda: AuthSettings(plain, checkpassword))
    policy = attempt(lambda: PolicySettings(noted))
    queue = attempt(lambda: QueueSettings(plain))
    if policy is not None:
        attempt(lambda: load.load(noted, policy, Log(2)))
    attempt(lambda: _check_plugins(report, plain))
    attempt(lambda: _check_rcpthosts(report, plain, relay=peer.relay is not None))
    if queue is not None:
        _check_queue(report, queue, plain)
    has_tls = tls is not None and bool(attempt(lambda: check_tls(report, tls)))
    if auth is not None:
        _check_auth(report, plain, auth, has_tls)
    _check_memory(report, tls is not None and tls.mode in (STARTTLS, IMPLICIT))
    return report.print()


def _check_queue(report: Report, queue: QueueSettings, settings: Settings) -> None:
    name = os.fsdecode(queue.program)
    if not os.path.exists(name):
        report.wrong("queue program", f"{name} does not exist")
    elif not os.path.isfile(name) or not os.access(name, os.X_OK):
        report.wrong("queue program", f"{name} is not executable")
    elif os.path.basename(name) == "qsmtpd-maildir" and not settings.variable("QSMTPD_MAILDIR"):
        report.wrong("QSMTPD_MAILDIR", f"is not set, and {name} needs it")
    else:
        report.ok("queue program", name, "it is not run by this check")


def _check_plugins(report: Report, settings: Settings) -> None:
    report.ok("plugins", ", ".join(foreign.plugins(settings)), "see qsmtpd --hooks")
    for switch, why in foreign.idle_switches(settings):
        report.wrong(switch, why)


def _check_rcpthosts(report: Report, settings: Settings, relay: bool) -> None:
    files = settings.files
    if files.read("rcpthosts") is None:
        if not relay:
            report.wrong("control/rcpthosts", "is missing, so every recipient is refused")
    elif files.cdb("morercpthosts.cdb") is not None:
        report.ok("morercpthosts.cdb", "a cdb", "control/morercpthosts.cdb")
    if settings.variable("LOCALMFCHECK") == b"!" and not (
        files.read("mailfromrules") or files.cdb("mailfromrules.cdb")
    ):
        report.wrong("control/mailfromrules", "is missing, so LOCALMFCHECK=! refuses everybody")


def _check_auth(report: Report, settings: Settings, auth: AuthSettings, has_tls: bool) -> None:
    if settings.variable("SMTPAUTH") in (None, b"-") and not auth.required:
        if auth.command:
            report.warn("SMTPAUTH", "is not set, so the checkpassword program is never asked")
        return
    switch = "SMTPAUTH" if settings.is_set("SMTPAUTH") else "REQUIRE_AUTH"
    if not auth.command:
        report.wrong(switch, "is set, but there is no checkpassword program in the arguments")
        return
    import shutil

    program = os.fsdecode(auth.command[0])
    if shutil.which(program) is None:
        report.wrong("checkpassword program", f"{program} is not to be found or not executable")
    else:
        report.ok("checkpassword program", program, "it is not run by this check: try a login")
    if len(auth.command) < 2:
        report.warn("checkpassword program", "has no subprogram, which most need: add `true`")
    if not has_tls and not auth.in_clear:
        complain = report.wrong if auth.required else report.warn
        complain(switch, "AUTH is only for TLS, and there is none (see AUTHCLEAR)")


def _check_memory(report: Report, pyopenssl: bool) -> None:
    least_space = TLS_LEAST if pyopenssl else ADDRESS_SPACE_LEAST
    for name, limit, least in (
        ("address space (softlimit -a, -m)", resource.RLIMIT_AS, least_space),
        ("data segment (softlimit -d, -m)", resource.RLIMIT_DATA, DATA_LEAST),
    ):
        soft = resource.getrlimit(limit)[0]
        if soft == resource.RLIM_INFINITY:
            continue
        if soft < least:
            report.wrong(name, f"{soft} bytes, but a session needs {least}")
        else:
            report.ok(name, f"{soft} bytes", "resource limit")
