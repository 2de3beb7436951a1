"""For `qsmtpd --check`: could clients authenticate, and by what is announced?"""

from __future__ import annotations

import os

from ..config import mechanisms
from ..facts import ControlError
from ..sasl import CERTIFICATE, MECHANISMS
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
        return
    switch = "SMTPAUTH" if settings.is_set("SMTPAUTH") else "REQUIRE_AUTH"
    if mechanisms.are_named(settings):
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
    """Those that are named and cannot be had."""
    for name in mechanisms.named(settings):
        lack = mechanisms.lacks(name, auth.programs)
        if MECHANISMS[name].asks == CERTIFICATE and not (tls and any(tls.clients.values())):
            lack = "no entry of control/tlsclients names a user"
        if lack is not None:
            text = f"has {name.decode('ascii')}, and {lack}"
            report.wrong(mechanisms.where(settings), text)


def _check_checkpassword(report: Report, settings: Settings, auth: AuthSettings) -> None:
    """The program in the arguments, and what it runs."""
    what, name = "checkpassword program", os.fsdecode(auth.command[0])
    host = os.fsdecode(auth.host or b"")
    if "/" in host or (len(auth.command) < 2 and found(host, settings) is not None):
        report.wrong("AUTHARGV", f"is host, so {host} is no program, but the name in challenges")
    problem = why_not(name, settings, search=True)
    if problem is None:
        report.note(what, name, "it is not run by this check: try a login")
    else:
        report.wrong(what, f"{name} {problem}")
    if os.path.basename(name) == "true":
        report.wrong(what, f"{name} says yes to every password, so everybody may relay")
    elif len(auth.command) < 2:
        report.warn(what, "has no subprogram, which most need: add `true`")
    _check_ours(report, settings, auth)


def _check_ours(report: Report, settings: Settings, auth: AuthSettings) -> None:
    """Is it qsmtpd-checkpassword, by itself or behind `env` or `softlimit`, would it work?"""
    words = [os.fsdecode(word) for word in auth.command]
    for place, word in enumerate(words):
        path = found(word, settings)
        if path is None or "qsmtpd-checkpassword" not in names(path):
            continue
        _check_users(report, settings, auth)
        after = words[place + 1] if place + 1 < len(words) else "true"
        if (problem := why_not(after, settings, search=True)) is not None:
            report.wrong("checkpassword program", f"{after}, which {word} is to run, {problem}")
        return


def _check_users(report: Report, settings: Settings, auth: AuthSettings) -> None:
    """Would control/smtpusers let anybody in?"""
    from ..checkpassword import users  # now: it loads OpenSSL, and memory may be short

    where = "control/" + users.FILE
    try:
        content = settings.files.read(users.FILE)
        if content is None:
            raise ControlError(where, "is missing, so every login fails")
        known = users.parse(content)
    except ControlError as error:
        report.wrong(error.name, error.reason)
        return
    secrets = sum(isinstance(entry, users.Secret) for entry in known.values())
    number = "1 user" if len(known) == 1 else f"{len(known)} users"
    report.ok(where, f"{number}, {secrets} of them for CRAM-MD5", "qsmtpd-checkpassword")
    if not known:
        complain = report.wrong if auth.required else report.warn
        complain(where, "has no users: see qsmtpd-checkpassword --add")
    elif b"CRAM-MD5" in auth.mechanisms and secrets < len(known):
        # A client that can CRAM-MD5 takes it, and such a user is then always refused.
        complain = report.warn if secrets or len(auth.mechanisms) > 1 else report.wrong
        complain(where, "has users without --cram, who cannot log in by CRAM-MD5")
