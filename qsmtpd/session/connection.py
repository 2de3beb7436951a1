"""One connection: its settings, its encryption, its session.

For the cold child and for a process of qsmtpd-server alike.
"""

from __future__ import annotations

import posix as os

from .. import waits
from ..config.session import SessionSettings
from ..config.settings import Settings
from ..facts import ControlError, Lost, Outcome
from ..log import Log, log_hang, log_trouble
from ..net import ucspi
from ..net.channel import Channel
from ..net.descriptors import Descriptors
from ..policy import load
from ..smtp import replies
from ..tls.settings import EXTERNAL, IMPLICIT, OFF
from . import run
from .ending import QUIT, ending_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..config.files import ControlFiles
    from ..facts import Peer, Reply, Tls
    from ..policy.timelimit import TimeLimit
    from ..tls.provider import TlsProvider


def serve(
    client: tuple[int, int],
    environ: dict[bytes, bytes],
    checkpassword: list[bytes],
    files: ControlFiles,
    leave: Callable[[int], object],
    limit: TimeLimit | None = None,
) -> Outcome:
    """Serve the client on these two descriptors, which may be one.  Raises nothing.

    What `files` has read already is not read again; leave(status) ends the
    process; `limit` is what runs the code of plugins from elsewhere, if there
    are any.
    """
    channel = Channel(Descriptors(*client))
    peer = ucspi.read_peer(environ, client[0])
    outcome = _serve(channel, peer, environ, checkpassword, files, leave, limit)
    channel.drain(clean=outcome.end == QUIT)
    return outcome


def _serve(
    channel: Channel,
    peer: Peer,
    environ: dict[bytes, bytes],
    checkpassword: list[bytes],
    files: ControlFiles,
    leave: Callable[[int], object],
    limit: TimeLimit | None,
) -> Outcome:
    """All of it, but for what comes after the last word."""
    log = Log(2, pid=os.getpid(), ip=peer.ip)
    implicit = False  # nothing that we could say before the handshake would be understood

    def stop(plugin: str, hook: str) -> None:
        """A plugin does not stop at its time limit when it is made: this is the end."""
        log_hang(log, plugin, hook)
        outcome = _refuse(channel, log, replies.PLUGIN_HANGS, 1)
        if limit is not None:
            limit.stop()
        channel.drain(clean=False)
        leave(outcome.status)

    try:
        lookup = enter(files, environ)
        settings = SessionSettings.load(lookup, checkpassword)
        implicit = settings.tls.mode == IMPLICIT
        log.form = settings.log_format
        limits = settings.limits
        channel.limit(limits.timeout, limits.session, settings.data.min_rate)
        channel.helper = settings.tls.mode == EXTERNAL
        tls = _external_tls(settings, environ)
        if settings.policy.external:
            limit = limit or _time_limit()
            limit.escape = stop
        hooks = load.load(lookup, settings.policy, log, limit=limit)
        way = _provider(settings, log)
        if implicit:
            if way is None:
                return _end(log, "tls-unavailable", 111)
            from ..tls.errors import HandshakeFailed

            try:
                tls = _handshake(channel, way, log)
            except HandshakeFailed as error:
                return _end(log, ending_of(error, log).word, 1)
            implicit = False
        elif tls is not None:
            from . import starttls

            starttls.log_tls(log, tls)
        return run.run(channel, peer, settings, hooks, log, tls, way, leave)
    except ControlError as error:
        log.line("control", name=error.name, reason=error.reason)
        return _refuse(channel, log, replies.NO_CONTROLS, 1)
    except Exception as error:
        log_trouble(log, error)
        if implicit:
            return _end(log, "trouble", 111)
        return _refuse(channel, log, replies.TROUBLE, 111)
    finally:
        if limit is not None:
            limit.stop()


def enter(files: ControlFiles, environ: Mapping[bytes, bytes]) -> Settings:
    """Go to QMAILHOME, as qmail's programs do and the queue program expects.

    Returns the lookup of settings there.  Raises ControlError.
    """
    try:
        os.chdir(files.home)
    except OSError as error:
        name = files.home.decode("ascii", "backslashreplace")
        raise ControlError(name, error.strerror or "cannot be entered") from error
    return Settings(files, environ)


def _time_limit() -> TimeLimit:
    from ..policy.timelimit import TimeLimit

    return TimeLimit(traceback=2)


def _external_tls(settings: SessionSettings, environ: dict[bytes, bytes]) -> Tls | None:
    """What a front end says of the encryption that it does; None where there is none."""
    if settings.tls.mode == EXTERNAL:
        from ..tls import provider

        return provider.external(settings.tls, environ)
    # Nobody in front of us does TLS: what says so is a leftover, or a lie.
    for name in [name for name in environ if name.startswith(b"SSL_")]:
        del environ[name]
    return None


def _provider(settings: SessionSettings, log: Log) -> TlsProvider | None:
    """The way to TLS, ready to be used where the first byte needs it; None where there is none."""
    if settings.tls.mode in (OFF, EXTERNAL):
        return None
    from ..tls import provider
    from ..tls.errors import Unavailable

    try:
        way = provider.find(settings.tls)
        if way is not None and settings.tls.mode == IMPLICIT:
            way.prepare()
        return way
    except Unavailable as error:
        log.line("tls", verdict="unavailable", reason=str(error))
        return None


def _handshake(channel: Channel, way: TlsProvider, log: Log) -> Tls:
    """TLS before the greeting.  Raises HandshakeFailed."""
    from . import starttls

    return starttls.start(channel, way, log)


def _refuse(channel: Channel, log: Log, reply: Reply, status: int) -> Outcome:
    """The end of a session that never began, with a reply."""
    waits.end_session()
    log.line("session", end=reply.end, reply=reply.wire())
    try:
        channel.write(reply.wire() + b"\r\n")
        channel.flush()
    except Lost:
        status = 111
    return Outcome(reply.end or "", status)


def _end(log: Log, end: str, status: int) -> Outcome:
    """The same without one."""
    log.line("session", end=end)
    return Outcome(end, status)
