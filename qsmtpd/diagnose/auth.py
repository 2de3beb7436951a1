"""For `qsmtpd --check`: could clients authenticate, and by what is announced?"""

from __future__ import annotations

import os

from ..config import mechanisms
from ..config.files import USERS
from ..facts import ControlError
from ..smtp.sasl import CERTIFICATE, MECHANISMS, SCRAM, TOKENS
from ..tls.settings import IMPLICIT, STARTTLS
from .daemons import check_server
from .programs import found, names, why_not

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import AuthSettings
    from ..config.settings import Settings
    from ..tls.settings import TlsSettings
    from .report import Report


def check_auth(
    report: Report, settings: Settings, auth: AuthSettings, tls: TlsSettings | None, has_tls: bool
) -> None:
    """The mechanisms, the programs that are asked, and the users of our own one."""
    if settings.variable("SMTPAUTH") in (None, b"-") and not auth.required:
        if auth.command:
            report.warn("SMTPAUTH", "is not set, so the checkpassword program is never asked")
        if settings.is_set(mechanisms.VARIABLE):
            report.warn("SMTPAUTH", f"is not set, so {mechanisms.VARIABLE} means nothing")
        if settings.line("dovecotauth", "DOVECOTAUTH"):
            report.warn("SMTPAUTH", "is not set, so Dovecot is never asked about passwords")
        return
    switch = "SMTPAUTH" if settings.is_set("SMTPAUTH") else "REQUIRE_AUTH"
    tls = tls if has_tls else None
    if auth.dovecot is not None:
        where = "DOVECOTAUTH" if settings.is_set("DOVECOTAUTH") else "control/dovecotauth"
        by = mechanisms.where(settings) if mechanisms.are_named(settings) else switch
        check_server(report, auth.dovecot, where, auth.mechanisms, by)
        if b"EXTERNAL" in auth.mechanisms and (lack := _why_no_certificate(tls)) is not None:
            report.wrong(by, f"has EXTERNAL, and {lack}")
        for what in (SCRAM, TOKENS):
            if settings.line(what, what.upper()):
                report.warn(what, "is never asked: Dovecot is")
    elif mechanisms.are_named(settings):
        _check_mechanisms(report, settings, auth, tls)
    elif not auth.command:
        report.wrong(switch, "is set, but there is no checkpassword program in the arguments")
        return
    if auth.command:
        _check_checkpassword(report, settings, auth)
    if not has_tls and not auth.in_clear:
        complain = report.wrong if auth.required else report.warn
        complain(switch, "AUTH is only for TLS, and there is none (see AUTHCLEAR)")


def _check_mechanisms(
    report: Report, settings: Settings, auth: AuthSettings, tls: TlsSettings | None
) -> None:
    """Those that are named and cannot be had, and the programs of the others."""
    for name in mechanisms.named(settings):
        lack = mechanisms.lacks(name, auth.programs)
        asks, how = MECHANISMS[name].asks, name.decode("ascii")
        if asks == CERTIFICATE:
            lack = _why_no_certificate(tls)
        if lack is not None and asks in (SCRAM, TOKENS):
            report.wrong(asks, f"{lack}, and {how} needs it")
        elif lack is not None:
            report.wrong(mechanisms.where(settings), f"has {how}, and {lack}")
    for what in (SCRAM, TOKENS):
        if command := auth.programs.get(what):
            _check_program(report, settings, what, os.fsdecode(command[0]))
    place = _place_of_ours(settings, helper := auth.programs.get(SCRAM, []))
    if place is not None:
        if helper[-1] != b"--scram":
            report.wrong(SCRAM, "is qsmtpd-checkpassword without --scram")
        if place and _is_secret(settings):  # as for `sudo -u`: see qsmtpd(8)
            what = f"is not for this user to read: is it for whom {SCRAM} runs as?"
            report.warn("control/" + USERS, what)
        else:
            _check_users(report, settings, auth)


def _why_no_certificate(tls: TlsSettings | None) -> str | None:
    """Why no client can be known by its certificate, or None."""
    if tls is None:
        return "there is no TLS"
    if tls.client_ca is None and tls.mode in (STARTTLS, IMPLICIT):
        return "nobody is asked for a certificate: no clientca.pem"
    if not any(tls.clients.values()):
        return "no entry of control/tlsclients names a user"
    return None


def _check_checkpassword(report: Report, settings: Settings, auth: AuthSettings) -> None:
    """The program in the arguments, and what it runs."""
    what = "checkpassword program"
    host = os.fsdecode(auth.host or b"")
    if "/" in host or (len(auth.command) < 2 and found(host, settings) is not None):
        report.wrong("AUTHARGV", f"is host, so {host} is no program, but the name in challenges")
    name = os.fsdecode(auth.command[0])
    if _check_program(report, settings, what, name):
        report.note(what, name, "it is not run by this check: try a login")
    if len(auth.command) < 2 and os.path.basename(name) != "true":
        report.warn(what, "has no subprogram, which most need: add `true`")
    place = _place_of_ours(settings, auth.command)
    if place is None:
        return
    _check_users(report, settings, auth)
    ours, after = (os.fsdecode(word) for word in [*auth.command, b"true"][place : place + 2])
    if (problem := why_not(after, settings, search=True)) is not None:
        report.wrong(what, f"{after}, which {ours} is to run, {problem}")


def _check_program(report: Report, settings: Settings, what: str, name: str) -> bool:
    """Could it be started?"""
    problem = why_not(name, settings, search=True)
    if problem is not None:
        report.wrong(what, f"{name} {problem}")
    if os.path.basename(name) == "true":
        report.wrong(what, f"{name} says yes to every password, so everybody may relay")
    return problem is None


def _place_of_ours(settings: Settings, command: list[bytes]) -> int | None:
    """Which word is qsmtpd-checkpassword, the first or one behind `env` or `softlimit`?"""
    for place, word in enumerate(command):
        path = found(os.fsdecode(word), settings)
        if path is not None and "qsmtpd-checkpassword" in names(path):
            return place
    return None


def _is_secret(settings: Settings) -> bool:
    """Is there a file of users, and not for us to read?"""
    path = settings.files.path(USERS)
    return os.path.isfile(path) and not os.access(path, os.R_OK)


def _check_users(report: Report, settings: Settings, auth: AuthSettings) -> None:
    """Would control/smtpusers let anybody in?"""
    from ..checkpassword import users  # now: it loads OpenSSL, and memory may be short

    where = "control/" + USERS
    try:
        content = settings.files.read(USERS)
        if content is None:
            raise ControlError(where, "is missing, so every login fails")
        known = users.parse(content)
    except ControlError as error:
        report.wrong(error.name, error.reason)
        return
    number = "1 user" if len(known) == 1 else f"{len(known)} users"
    kinds: dict[bytes, tuple[type[users.Entry], str]] = {
        b"CRAM-MD5": (users.Secret, "--cram"),
        b"SCRAM-SHA-256": (users.Scram, "--scram"),
    }
    able = {
        mechanism: sum(isinstance(entry, kind) for entry in known.values())
        for mechanism, (kind, _) in kinds.items()
    }
    for_what = ", ".join(f"{able[name]} of them for {name.decode('ascii')}" for name in kinds)
    report.ok(where, f"{number}, {for_what}", "qsmtpd-checkpassword")
    if b"SCRAM-SHA-256" in auth.mechanisms and able[b"SCRAM-SHA-256"] and not known.seed:
        report.wrong(where, "has no line :seed:, so all SCRAM fails: add a user with --scram")
    if not known:
        complain = report.wrong if auth.required else report.warn
        complain(where, "has no users: see qsmtpd-checkpassword --add")
        return
    for mechanism, (_, option) in kinds.items():
        if mechanism in auth.mechanisms and able[mechanism] < len(known):
            # A client that can do it takes it, and such a user is then always refused.
            others = able[mechanism] or len(auth.mechanisms) > 1
            complain = report.warn if others else report.wrong
            how = mechanism.decode("ascii")
            complain(where, f"has users without {option}, who cannot log in by {how}")
