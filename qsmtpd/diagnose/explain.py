"""`qsmtpd --hooks` and `qsmtpd --explain`: which plugins there are, and what they would say."""

from __future__ import annotations

import base64
import os

from ..config.files import ControlFiles
from ..config.session import PolicySettings
from ..config.settings import Settings
from ..facts import ControlError, Tls
from ..log import Log, message
from ..net import ucspi
from ..policy import load, stages
from .dryrun import DryRun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..decision import Decision

USAGE = """\
usage: qsmtpd --explain [ip=ADDRESS] [host=NAME] [helo=NAME] [from=SENDER] to=RECIPIENT ...
                        [user=NAME] [tls=yes] [message=FILE]
"""
_ONCE = ("ip", "host", "helo", "from", "user", "tls", "message")
#: What is said of a message where no file is given.
MESSAGE = b"Subject: a dry run\n\nqsmtpd --explain\n"
MESSAGE_LIMIT = 64 * 1024 * 1024  # bytes


def show_hooks(environ: Mapping[bytes, bytes], home: bytes) -> int:
    """Print which plugins sit at which stage, in order; return the exit status."""
    try:
        os.chdir(home)
        lookup = Settings(ControlFiles(home), environ)
        hooks = load.load(lookup, PolicySettings(lookup), Log(2))
    except (ControlError, OSError) as error:
        return _wrong(error)
    commands = sorted(verb.decode("ascii") for verb in hooks.order.commands)
    for stage in (*stages.STAGES, *(f"command_{verb.lower()}" for verb in commands)):
        for entry in hooks.at(stage):
            asked = stage not in stages.TOLD
            remarks = [f"not for: {', '.join(entry.immune)}"] if entry.immune and asked else []
            remarks += ["grants"] if entry.grants and stage == stages.RCPT else []
            if entry.postpone != "none" and stage in stages.POSTPONED:
                remarks.append(f"answers at {entry.postpone}")
            if entry.spool and stage == stages.DATA_POST:
                remarks.append("wants the message in a file")
            remarks += [] if entry.ours else [f"{entry.timeout:g} s"]
            _print(f"{stage:12} {entry.name:16} {'; '.join(remarks)}".rstrip())
    return 0


def explain(
    environ: dict[bytes, bytes], home: bytes, arguments: list[str], leave: Callable[[int], object]
) -> int:
    """Walk a session through the hooks, print every verdict and reply, and queue nothing.

    Returns 0 where the message would be taken, 1 where not, 111 where that
    cannot be tried.  leave(1) ends the process where a plugin does not stop.
    """
    given: dict[str, str] = {}
    recipients: list[str] = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and key == "to":
            recipients.append(value)
        elif equals and key in _ONCE and key not in given:
            given[key] = value
        else:
            os.write(2, f"qsmtpd: {word!r} is not understood\n{USAGE}".encode("ascii", "replace"))
            return 111
    if not recipients:
        os.write(2, USAGE.encode())
        return 111
    try:
        mail = _read(given["message"]) if "message" in given else MESSAGE
        os.chdir(home)
        dry_run = _prepare(environ, home, given)
    except (ControlError, OSError) as error:
        return _wrong(error)
    if ucspi.read_peer(_peer(given)).ip == ucspi.UNKNOWN:
        os.write(2, b"qsmtpd: ip= is no address\n")
        return 111
    auth = Settings(ControlFiles(home), environ).variable("SMTPAUTH")
    if "user" in given and auth in (None, b"-"):
        _print("(SMTPAUTH is not set: a session would have no AUTH, here it is assumed)")
    elif "user" in given and given.get("tls") != "yes":
        _print("(A session may want TLS before AUTH, here it does not)")
    dry_run.hooks.watch = _show_verdict
    shown = 0

    def sent(command: bytes) -> None:
        _print("C: " + ("(the message)" if command is mail else _text(command[:200])))

    def heard(reply: bytes) -> None:
        nonlocal shown
        for seconds in dry_run.pauses[shown:]:
            _print(f"    (here the client waits {round(seconds, 2):g} seconds)")
        shown = len(dry_run.pauses)
        for line in reply.split(b"\n"):
            _print("S: " + _text(line))

    dry_run.run(_commands(given, recipients, mail), sent, heard, leave)
    taken = dry_run.back_end.messages
    if not taken:
        _print("The message would not be taken.")
        return 1
    _, accepted, text = taken[0]
    _print(f"The message would be handed to the queue for {len(accepted)} of {len(recipients)}:")
    for recipient in accepted:
        _print("    " + _text(recipient))
    for line in text.partition(b"\n\n")[0].split(b"\n"):
        _print("    | " + _text(line))
    return 0


def _prepare(environ: dict[bytes, bytes], home: bytes, given: Mapping[str, str]) -> DryRun:
    environ = {**environ, **_peer(given)}
    if "host" in given:
        environ[b"TCPREMOTEHOST"] = os.fsencode(given["host"])
    checkpassword = []
    if "user" in given:
        # The real AUTH, with a password checker that knows everybody.
        environ[b"SMTPAUTH"] = b""
        environ[b"AUTHMECHANISMS"] = b"LOGIN PLAIN"
        environ[b"DOVECOTAUTH"] = b""
        environ[b"AUTHCLEAR"] = b"1"
        checkpassword = [b"true"]
    tls = Tls(b"TLSv1.3", b"TLS_AES_256_GCM_SHA384") if given.get("tls") == "yes" else None
    settings = Settings(ControlFiles(home), environ)
    log = Log(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))
    return DryRun(settings, ucspi.read_peer(environ), log, tls, checkpassword)


def _peer(given: Mapping[str, str]) -> dict[bytes, bytes]:
    return {b"PROTO": b"TCP", b"TCPREMOTEIP": os.fsencode(given.get("ip", "192.0.2.1"))}


def _commands(given: Mapping[str, str], recipients: list[str], message: bytes) -> list[bytes]:
    commands = []
    if "helo" in given or "user" in given:
        commands.append(b"EHLO " + os.fsencode(given.get("helo", "")))
    if "user" in given:
        login = b"\0" + os.fsencode(given["user"]) + b"\0x"
        commands.append(b"AUTH PLAIN " + base64.b64encode(login))
    mail = b"MAIL FROM:<" + os.fsencode(given.get("from", "")) + b">"
    rcpts = [b"RCPT TO:<" + os.fsencode(recipient) + b">" for recipient in recipients]
    if not b"".join((mail, *rcpts)).isascii():
        mail += b" SMTPUTF8"  # as a client does that has such an address (RFC 6531, 3.4)
    commands += [mail, *rcpts]
    return [*commands, b"DATA", message, b"QUIT"]


def _show_verdict(stage: str, plugin: str, said: Decision | BaseException | None) -> None:
    if said is None:
        verdict = "is not asked: the client is immune"
    elif isinstance(said, BaseException):
        verdict = f"TROUBLE: {type(said).__name__}: {message(said)}"
    else:
        verdict = said.verdict
        if said.text:
            verdict += f": {_text(said.text)}"
        if said.recipient is not None:
            verdict += f" (as {_text(said.recipient)})"
        if said.changes is not None:
            verdict += " (and changes the message or its envelope)"
        if said.remove:
            verdict += f" (and removes {_text(b', '.join(said.remove))})"
        if said.above or said.header:
            verdict += f" (and adds {_text(b', '.join(said.above + said.header))})"
    _print(f"    {stage:10} {plugin:14} {verdict}")


def _read(path: str) -> bytes:
    with open(0 if path == "-" else path, "rb") as stream:
        return stream.read(MESSAGE_LIMIT)


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace")


def _print(line: str) -> None:
    os.write(1, line.encode("ascii", "backslashreplace") + b"\n")


def _wrong(error: ControlError | OSError) -> int:
    said = f"{error.name}: {error.reason}" if isinstance(error, ControlError) else str(error)
    os.write(2, f"qsmtpd: {said}\n".encode("ascii", "backslashreplace"))
    return 111
