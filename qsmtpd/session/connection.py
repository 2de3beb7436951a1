"""One connection: its settings, its encryption, its session.

For the cold child and for a process of qsmtpd-server alike.
"""

from __future__ import annotations

import posix as os
from time import monotonic

from ..config.files import Controls
from ..config.session import AuthSettings, Limits
from ..config.settings import Settings
from ..facts import ControlError, Outcome
from ..log import FORMATS, Log, log_trouble
from ..net import channel, ucspi
from ..policy import load
from ..policy.timelimit import Guard
from ..smtp import replies
from ..tls import provider as door
from ..tls import settings as tls_settings
from ..tls.errors import HandshakeFailed, Unavailable
from . import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..facts import Peer

#: So long the client may take to hear why a plugin that hangs ended its session (seconds).
LAST_WORDS = 10.0


def serve(
    client: tuple[int, int],
    environ: dict[bytes, bytes],
    checkpassword: list[bytes],
    controls: Controls,
    leave: Callable[[int], object],
) -> Outcome:
    """Serve the client on these two descriptors, which may be one.  Raises nothing.

    What `controls` has read already is not read again; leave(status) ends the process.
    """
    peer = ucspi.read_peer(environ)
    log = Log(2, pid=os.getpid(), ip=peer.ip)
    line = channel.Channel(channel.Descriptors(*client))
    try:
        return _talk(line, peer, environ, checkpassword, log, controls, leave)
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
    leave: Callable[[int], object],
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
            from . import starttls

            way.prepare()
            tls = starttls.go_through(line, way, log)
        elif tls is not None:
            from . import starttls

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
    outcome = run.run(line, peer, limits, hooks, log, tls, way, leave, listed)
    guard.stop()
    return outcome


def _watch_over(guard: Guard, line: channel.Channel, log: Log) -> None:
    """There are plugins from elsewhere: they may hang where only another process can tell."""
    from ..policy.guardian import Guardian

    plain = line.transport
    try:
        guard.guardian = Guardian(log, lambda text: plain.write(text, monotonic() + LAST_WORDS))
    except OSError as error:
        log_trouble(log, error)  # the timer is there all the same


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
