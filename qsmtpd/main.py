"""The cold child: one connection on fds 0 and 1, then exit.

Of a session's code this file and server/ alone end the process or look at
os.environ; the guardian of policy/ ends itself.
"""

from __future__ import annotations

import posix as os
import sys
from time import monotonic

from . import __version__
from .config.files import Controls, home
from .config.session import AuthSettings, Limits
from .config.settings import Settings
from .facts import ControlError, Outcome
from .log import FORMATS, Log, log_trouble
from .net import channel, ucspi
from .policy import load
from .policy.timelimit import Guard
from .session import run
from .smtp import replies
from .tls import provider as door
from .tls import settings as tls_settings
from .tls.errors import HandshakeFailed, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from typing import NoReturn

    from .facts import Peer

else:
    import _signal as signal  # signal.py imports enum, which costs a cold start 4 ms

#: So long the client may take to hear why a plugin that hangs ended its session (seconds).
LAST_WORDS = 10.0
USAGE = """\
usage: qsmtpd [checkpassword-program subprogram ...]
                           serve the SMTP client on fds 0 and 1 (see qsmtpd(8))
       qsmtpd --check [checkpassword-program subprogram ...]
                               read every control file, and say what is set and what is wrong
       qsmtpd --hooks          print which plugin sits at which stage, in order
       qsmtpd --explain [ip=ADDRESS] [host=NAME] [helo=NAME] [from=SENDER] to=RECIPIENT ...
                        [user=NAME] [tls=yes] [message=FILE]
                               what every plugin, and then the reply, would be; queues nothing
       qsmtpd --version
       qsmtpd --help
"""


def main(arguments: list[str]) -> NoReturn:
    """The program `qsmtpd`.  `arguments` do not hold its name."""
    environ = dict(os.environ)
    encoding = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    command = [word.encode(*encoding) for word in arguments]  # os.fsencode()
    if not arguments or not arguments[0].startswith("-"):
        status = serve(environ, command)
    elif arguments[0] == "--check":
        from .diagnose.check import check

        status = check(environ, home(environ), command[1:])
    elif arguments == ["--hooks"]:
        from .diagnose.explain import show_hooks

        status = show_hooks(environ, home(environ))
    elif arguments[0] == "--explain":
        from .diagnose.explain import explain

        status = explain(environ, home(environ), arguments[1:], os._exit)
    elif arguments == ["--version"]:
        os.write(1, b"qsmtpd " + __version__.encode() + b"\n")
        status = 0
    elif arguments == ["--help"]:
        os.write(1, USAGE.encode())
        status = 0
    else:
        os.write(2, b"qsmtpd: unknown argument\n" + USAGE.encode())
        status = 111
    # Nothing is buffered anywhere, so nothing needs Python's way out.
    os._exit(status)


def serve(environ: dict[bytes, bytes], checkpassword: list[bytes]) -> int:
    """Serve the client on fds 0 and 1; return the exit status.

    `environ` are the facts about this connection; `checkpassword` is the
    program with its arguments, if there is one.
    """
    # A ^C by hand should end us, not raise; an inherited "ignore" would hide
    # the queue program's exit status from us.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    drop_coerced_locale(environ)
    try:
        client = channel.take_client()
    except OSError as error:
        Log(2, pid=os.getpid()).line("trouble", error="OSError", reason=str(error))
        return 111
    return attend(client, environ, checkpassword, Controls(home(environ))).status


def attend(
    client: tuple[int, int],
    environ: dict[bytes, bytes],
    checkpassword: list[bytes],
    controls: Controls,
) -> Outcome:
    """Serve the client on these two descriptors, which may be one.  Raises nothing.

    What `controls` has read already is not read again.
    """
    peer = ucspi.read_peer(environ)
    log = Log(2, pid=os.getpid(), ip=peer.ip)
    line = channel.Channel(channel.Descriptors(*client))
    try:
        return _talk(line, peer, environ, checkpassword, log, controls)
    except Exception as error:
        # Before the session, which has an answer to everything, began.
        log_trouble(log, error)
        return Outcome("trouble", 111)


def _talk(
    line: channel.Channel,
    peer: Peer,
    environ: dict[bytes, bytes],
    checkpassword: list[bytes],
    log: Log,
    controls: Controls,
) -> Outcome:
    guard = Guard()

    def outsiders() -> None:
        _watch_over(guard, line, log)
        if wanted.mode == tls_settings.IMPLICIT:
            guard.hush()

    try:
        settings = enter(controls, environ)
        log.form = settings.choice(None, "LOGFORMAT", tuple(FORMATS))
        wanted = tls_settings.TlsSettings(settings)
        tls = door.external(settings, wanted)
        if tls is None:
            _drop_tls_claims(environ)
        limits = Limits(settings, wanted, AuthSettings(settings, checkpassword, peer))
        line.limit(limits.timeout, limits.session)
        hooks = load.load(settings, log, guard=guard, outsiders=outsiders)
        listed = load.is_listed(settings, peer)
    except ControlError as error:
        guard.stop()
        log.line("control", name=error.name, reason=error.reason)
        log.line("session", end="control", reply=replies.NO_CONTROLS)
        return Outcome("control", _refuse(line, replies.NO_CONTROLS))
    way = None
    try:
        way = door.find(settings, wanted)
        if wanted.mode == tls_settings.IMPLICIT and way is not None:
            from .session import starttls

            way.prepare()
            tls = starttls.go_through(line, way, log)
        elif tls is not None:
            from .session import starttls

            starttls.log_tls(log, tls)
    except HandshakeFailed:
        guard.stop()
        log.line("session", end="tls-failed")
        return Outcome("tls-failed", 1)
    except Unavailable as error:
        log.line("tls", verdict="unavailable", reason=str(error))
        if wanted.mode == tls_settings.IMPLICIT:
            guard.stop()
            log.line("session", end="tls-unavailable")
            # Nothing that we could say would be understood.
            return Outcome("tls-unavailable", 111)
    outcome = run.run(line, peer, limits, hooks, log, tls, way, os._exit, listed)
    guard.stop()
    return outcome


def _watch_over(guard: Guard, line: channel.Channel, log: Log) -> None:
    """There are plugins from elsewhere: they may hang where only another process can tell."""
    from .policy.guardian import Guardian

    plain = line.transport
    try:
        guard.guardian = Guardian(log, lambda text: plain.write(text, monotonic() + LAST_WORDS))
    except OSError as error:
        log_trouble(log, error)  # the timer is there all the same


def rehearse(environ: dict[bytes, bytes], checkpassword: list[bytes]) -> Controls:
    """For a server, before its first connection and on HUP: do what each one will do.

    So what is wrong is in the log at once, not only when a client comes; what
    is read and built is in the controls returned; and no module is left to be
    imported.
    """
    from .server import warmup

    log = Log(2, pid=os.getpid())
    controls = Controls(home(environ))
    warmup.import_all()
    try:
        settings = enter(controls, environ)
        wanted = tls_settings.TlsSettings(settings)
        peer = ucspi.read_peer(environ)
        Limits(settings, wanted, AuthSettings(settings, checkpassword, peer))
        warmup.practise()
        load.forget()
        warmup.prepare_plugins(load.load(settings, log))
        way = door.find(settings, wanted)
        if way is not None:
            way.prepare()
            warmup.prepare_tls(wanted, log)
    except ControlError as error:
        log.line("control", name=error.name, reason=error.reason)
    except Unavailable as error:
        log.line("tls", verdict="unavailable", reason=str(error))
    except Exception as error:  # HUP must not end a server, whatever it finds
        log_trouble(log, error)
    return controls


def enter(controls: Controls, environ: Mapping[bytes, bytes]) -> Settings:
    """Go to QMAILHOME, as qmail's programs do and the queue program expects.

    Raises ControlError.
    """
    try:
        os.chdir(controls.home)
    except OSError as error:
        name = controls.home.decode("ascii", "backslashreplace")
        raise ControlError(name, error.strerror or "cannot be entered") from error
    return Settings(controls, environ)


def _refuse(line: channel.Channel, reply: bytes) -> int:
    try:
        line.write(reply + b"\r\n")
        line.flush()
    except channel.Gone:
        return 111
    return 1


def _drop_tls_claims(environ: dict[bytes, bytes]) -> None:
    """Nobody in front of us does TLS: what says so is a leftover, or a lie."""
    for name in [name for name in environ if name.startswith(b"SSL_")]:
        del environ[name]


def drop_coerced_locale(environ: dict[bytes, bytes]) -> None:
    """Undo what Python does to the environment of a process without a locale (PEP 538)."""
    if environ.get(b"LC_CTYPE") == b"C.UTF-8" and b"LANG" not in environ:
        del environ[b"LC_CTYPE"]
