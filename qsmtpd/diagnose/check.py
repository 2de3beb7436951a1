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
from ..config.settings import Options, PluginSettings, Settings
from ..facts import ControlError
from ..log import Log
from ..net import ucspi
from ..policy import load
from ..policy.spec import PolicySettings
from ..tls import Unavailable, provider
from ..tls.settings import EXTERNAL, IMPLICIT, OFF, STARTTLS, UCSPI, Pair, TlsSettings, find_pairs
from . import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    T = TypeVar("T")

#: What a plain session wants (bytes).  Measured on CPython 3.11, x86-64: with an
#: address space of 14 MB and a data segment of 5 MB a message is taken, below
#: it gets 421 or the interpreter does not start.  This is that and a reserve.
ADDRESS_SPACE_LEAST = 20 * 1024 * 1024
DATA_LEAST = 8 * 1024 * 1024
#: With pyOpenSSL: at 40 MB it is 421, at 60 MB it works.
TLS_LEAST = 64 * 1024 * 1024


class Report:
    """Collects lines, and whether mail would flow; what is wrong is printed last."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {"ok": [], "warning": [], "wrong": []}

    def ok(self, what: str, value: str, source: str) -> None:
        """A setting that is what it should be."""
        line = f"{what} = {value} ({source})"
        if line not in self._lines["ok"]:  # several parts may have asked for the same
            self._lines["ok"].append(line)

    def warn(self, what: str, problem: str) -> None:
        """Something that is probably not what was meant."""
        self._lines["warning"].append(f"{what}: {problem}")

    def wrong(self, what: str, problem: str) -> None:
        """Something that keeps mail from flowing."""
        line = f"{what}: {problem}"
        if line not in self._lines["wrong"]:  # as above
            self._lines["wrong"].append(line)

    def attempt(self, check: Callable[[], T]) -> T | None:
        """Do one part of the check; what it raises is wrong, and the rest goes on."""
        try:
            return check()
        except ControlError as error:
            self.wrong(error.name, error.reason)
        except MemoryError:
            self.wrong("memory", "is not enough for this check, nor for a session")
        except Exception as error:
            self.wrong(type(error).__name__, str(error))
        return None

    def print(self) -> int:
        """Print it all; 0 if mail would flow, else 1."""
        for kind, lines in self._lines.items():
            for line in lines:
                os.write(1, f"{kind}: {line}\n".encode("ascii", "backslashreplace"))
        return 1 if self._lines["wrong"] else 0


class _Noted(Settings):
    """A lookup that reports each answer, and answers with the default where it would raise."""

    report: Report

    def variable(self, name: str) -> bytes | None:
        value = super().variable(name)
        if value is not None:
            self.report.ok(name, os.fsdecode(value), "environment")
        return value

    def line(self, file: str | None, variable: str | None = None) -> bytes | None:
        read = super().line
        return self._noted(file, variable, None, lambda: read(file, variable))

    def number(self, file: str | None, variable: str | None, default: int, least: int = 0) -> int:
        read = super().number
        return self._noted(file, variable, default, lambda: read(file, variable, default, least))

    def choice(self, file: str | None, variable: str | None, choices: tuple[str, ...]) -> str:
        read = super().choice
        return self._noted(file, variable, choices[0], lambda: read(file, variable, choices))

    def lines(self, file: str) -> list[bytes] | None:
        try:
            entries = super().lines(file)
        except ControlError as error:
            self.report.wrong(error.name, error.reason)
            return None
        if entries is not None:
            self.report.ok(
                file,
                f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}",
                "control/" + file,
            )
            self._look_for_cr(file)
        return entries

    def _noted(
        self, file: str | None, variable: str | None, default: T, read: Callable[[], T]
    ) -> T:
        name = file or variable or ""
        try:
            found = self.text(file, variable)
            value = read()
        except ControlError as error:
            self.report.wrong(error.name, error.reason)
            return default
        if found is not None and file is not None and found[0] != variable:
            self._look_for_cr(file)
        source = "default" if found is None else found[0]
        shown = value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value
        if value is not None:
            self.report.ok(name, str(shown), source)
        return value

    def _look_for_cr(self, file: str) -> None:
        if b"\r" in (self.files.read(file) or b""):
            self.report.warn("control/" + file, "has a CR, which counts as part of its line")


class NotedSettings(_Noted):
    """The lookup of --check."""

    def __init__(
        self, files: ControlFiles, variables: Mapping[bytes, bytes], report: Report
    ) -> None:
        super().__init__(files, variables)
        self.report = report

    def for_plugin(
        self, plugin: str, options: Mapping[bytes, bytes], log: Log
    ) -> NotedPluginSettings:
        own = NotedPluginSettings(self.files, self._variables, Options(plugin, options), log)
        own.report = self.report
        return own


class NotedPluginSettings(_Noted, PluginSettings):
    """The same for a plugin."""


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
    has_tls = tls is not None and bool(attempt(lambda: _check_tls(report, tls)))
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


def _check_tls(report: Report, tls: TlsSettings) -> bool:
    """Would a session have TLS?"""
    if tls.mode == EXTERNAL:
        report.ok("tls", tls.mode, "done in front")
        return True
    way = None
    try:
        way = provider.find(tls)
        if way is not None:
            way.prepare()
            report.ok("tls", tls.mode, "see qsmtpd-tls(7)")
            if tls.mode != UCSPI:
                _check_certificates(report, tls)
    except Unavailable as error:
        way = None
        # STARTTLS is then not offered or answered with 454, and plain mail goes on.
        (report.wrong if tls.mode == IMPLICIT else report.warn)("tls", str(error))
    if way is None and tls.mode == OFF:
        report.ok("tls", "off", "no certificate, and nothing else asks for it")
    if way is None and tls.required:
        report.wrong("FORCETLS, UCSPITLS", "want TLS, and there is none: all mail is refused")
    if tls.client_required and tls.mode != UCSPI and tls.client_ca is None:
        report.wrong("UCSPITLS=@", "wants a client certificate, but there is no clientca.pem")
    return way is not None


def _check_certificates(report: Report, tls: TlsSettings) -> None:
    from ..tls import context

    for pair in tls.pairs:
        _check_expiry(report, pair)
    if tls.client_ca is None and tls.lists_clients:
        report.warn("control/tlsclients", "nobody is asked for a certificate: no clientca.pem")
    try:
        names = sorted(os.listdir(tls.names))
    except FileNotFoundError:
        return
    for name in names:
        where = "servercerts/" + os.fsdecode(name)
        pairs = find_pairs(tls.names + b"/" + name)
        if name != name.lower() or not pairs:
            report.warn(where, "is never used: no servercert.pem, or capitals in the name")
        try:
            context.build(tls, pairs)
        except Unavailable as error:
            report.warn(where, str(error))
        for pair in pairs:
            _check_expiry(report, pair)


def _check_expiry(report: Report, pair: Pair) -> None:
    from OpenSSL import crypto

    if pair.problem() is not None:
        return  # which has been said
    with open(pair.certificate, "rb") as stream:
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, stream.read())
    if certificate.has_expired():
        report.warn(os.fsdecode(pair.certificate), "has expired")


def _check_auth(report: Report, settings: Settings, auth: AuthSettings, has_tls: bool) -> None:
    if settings.variable("SMTPAUTH") in (None, b"-"):
        if auth.command:
            report.warn("SMTPAUTH", "is not set, so the checkpassword program is never asked")
        return
    if not auth.command:
        report.wrong("SMTPAUTH", "is set, but there is no checkpassword program in the arguments")
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
        complain("SMTPAUTH", "AUTH is only for TLS, and there is none (see AUTHCLEAR)")


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
