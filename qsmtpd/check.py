"""`qsmtpd --check`: what is set, from where, and what is wrong, one line each.

It builds the very objects that a session builds, from Settings that take notes
and carry on where the real ones would raise.
"""

from __future__ import annotations

import os
import resource

from . import ucspi
from .auth import AuthSettings
from .control import Controls, Settings
from .facts import ControlError
from .limits import Limits
from .policy import hooks
from .tls import door
from .tls.errors import Unavailable
from .tls.settings import IMPLICIT, TlsSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    T = TypeVar("T")

#: What a plain session wants (bytes).  Measured on CPython 3.11, x86-64: with an
#: address space of 14 MB and a data segment of 5 MB a message is taken, below
#: it gets 421 or the interpreter does not start.  This is that and some room.
ADDRESS_SPACE_FLOOR = 20 * 1024 * 1024
DATA_FLOOR = 8 * 1024 * 1024


class Report:
    """Prints lines and remembers whether mail would flow."""

    def __init__(self) -> None:
        self.flows = True

    def ok(self, what: str, value: str, source: str) -> None:
        """A setting that is what it should be."""
        self._print("ok", f"{what} = {value} ({source})")

    def warn(self, what: str, problem: str) -> None:
        """Something that is probably not what was meant."""
        self._print("warning", f"{what}: {problem}")

    def wrong(self, what: str, problem: str) -> None:
        """Something that keeps mail from flowing."""
        self.flows = False
        self._print("wrong", f"{what}: {problem}")

    def _print(self, kind: str, text: str) -> None:
        os.write(1, f"{kind}: {text}\n".encode("ascii", "backslashreplace"))


class NotedSettings(Settings):
    """Settings that report each answer, and answer with the default where they would raise."""

    def __init__(self, controls: Controls, environ: Mapping[bytes, bytes], report: Report) -> None:
        super().__init__(controls, environ)
        self._report = report

    def line(self, file: str | None, variable: str | None = None) -> bytes | None:
        return self._noted(
            file, variable, None, lambda: super(NotedSettings, self).line(file, variable)
        )

    def number(self, file: str | None, variable: str | None, default: int, least: int = 0) -> int:
        return self._noted(
            file,
            variable,
            default,
            lambda: super(NotedSettings, self).number(file, variable, default, least),
        )

    def choice(self, file: str | None, variable: str | None, choices: tuple[str, ...]) -> str:
        return self._noted(
            file,
            variable,
            choices[0],
            lambda: super(NotedSettings, self).choice(file, variable, choices),
        )

    def lines(self, file: str) -> list[bytes] | None:
        try:
            entries = super().lines(file)
        except ControlError as error:
            self._report.wrong(error.name, error.reason)
            return None
        if entries is not None:
            self._report.ok(file, f"{len(entries)} entries", "control/" + file)
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
            self._report.wrong(error.name, error.reason)
            return default
        if found is not None and file is not None and found[0] != variable:
            self._look_for_cr(file)
        source = "default" if found is None else found[0]
        shown = value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value
        if value is not None:
            self._report.ok(name, str(shown), source)
        return value

    def _look_for_cr(self, file: str) -> None:
        if b"\r" in (self.controls.read(file) or b""):
            self._report.warn("control/" + file, "has a CR, which counts as part of its line")


def check(environ: Mapping[bytes, bytes], home: bytes, checkpassword: list[bytes]) -> int:
    """Report on everything a session would use; return 0 if mail would flow, else 1."""
    report = Report()
    settings = NotedSettings(Controls(home), environ, report)
    try:
        os.chdir(home)
    except OSError as error:
        report.wrong(os.fsdecode(home), error.strerror or "cannot be entered")
        return 1
    report.ok("home", os.fsdecode(home), "QMAILHOME" if b"QMAILHOME" in environ else "default")
    try:
        tls = TlsSettings(settings)
        _check_tls(report, settings, tls)
        auth = AuthSettings(settings, checkpassword, ucspi.read_peer(environ))
        _check_auth(report, settings, auth)
        limits = Limits(settings, tls, auth)
        _check_queue(report, limits.queue.program, limits.queue.error_fd)
    except ControlError as error:
        report.wrong(error.name, error.reason)
    try:
        hooks.standard(settings)
    except ControlError as error:
        report.wrong(error.name, error.reason)
    peer = ucspi.read_peer(environ)
    _check_rcpthosts(report, settings, relay=peer.relay is not None)
    _check_memory(report)
    return 0 if report.flows else 1


def _check_queue(report: Report, program: bytes, error_fd: int) -> None:
    name = os.fsdecode(program)
    if not os.path.exists(program):
        report.wrong("queue program", f"{name} does not exist")
    elif not os.path.isfile(program) or not os.access(program, os.X_OK):
        report.wrong("queue program", f"{name} is not executable")
    else:
        report.ok("queue program", name, f"its error text comes on fd {error_fd}")


def _check_tls(report: Report, settings: Settings, tls: TlsSettings) -> None:
    report.ok("tls", tls.mode, "see qsmtpd-tls(7)")
    try:
        way = door.find(settings, tls)
        if way is not None:
            way.prepare()
    except Unavailable as error:
        # STARTTLS is then not offered, and plain mail goes on.
        (report.wrong if tls.mode == IMPLICIT else report.warn)("tls", str(error))


def _check_auth(report: Report, settings: Settings, auth: AuthSettings) -> None:
    if settings.environ.get(b"SMTPAUTH", b"-") == b"-":
        return
    if not auth.command:
        report.wrong("SMTPAUTH", "is set, but there is no checkpassword program in the arguments")
        return
    import shutil

    program = os.fsdecode(auth.command[0])
    if shutil.which(program) is None:
        report.wrong("checkpassword program", f"{program} is not executable")
    else:
        report.ok("AUTH", os.fsdecode(b" ".join(auth.mechanisms)), "SMTPAUTH")


def _check_rcpthosts(report: Report, settings: Settings, relay: bool) -> None:
    try:
        missing = settings.controls.read("rcpthosts") is None
    except ControlError:
        return  # has been reported
    if missing and not relay:
        report.wrong("control/rcpthosts", "is missing, so every recipient is refused")


def _check_memory(report: Report) -> None:
    for name, limit, floor in (
        ("address space (softlimit -a, -m)", resource.RLIMIT_AS, ADDRESS_SPACE_FLOOR),
        ("data segment (softlimit -d, -m)", resource.RLIMIT_DATA, DATA_FLOOR),
    ):
        soft = resource.getrlimit(limit)[0]
        if soft == resource.RLIM_INFINITY:
            continue
        if soft < floor:
            report.wrong(name, f"{soft} bytes, but a session needs {floor}")
        else:
            report.ok(name, f"{soft} bytes", "resource limit")
