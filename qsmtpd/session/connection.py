"""One connection: its encryption, its session, its end.

For the cold child and for a process of qsmtpd-server alike.
"""

from __future__ import annotations

import posix as os
from time import monotonic

from .. import waits
from ..config.session import QUIT
from ..facts import ControlError, Lost, Outcome
from ..log import log_hang, log_trouble
from ..net import ucspi
from ..net.channel import Channel
from ..net.descriptors import Gone
from ..smtp import replies
from ..tls.settings import EXTERNAL
from . import run
from .ending import ending_of
from .plan import NoPlan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..config.files import ControlFiles
    from ..facts import Peer, Reply, Tls
    from ..log import Log
    from ..net.transport import Transport
    from ..policy.timelimit import TimeLimit
    from ..tls.provider import TlsProvider
    from ..tls.settings import TlsSettings
    from .plan import Plan
    from .protocol import Conversation


_pid = os.getpid()  # of this process: once, and not for each session


def _after_fork() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_after_fork)


def admit(files: ControlFiles, environ: dict[bytes, bytes], fd: int, protocol: bytes) -> int | None:
    """What comes before the plan of a cold child: has this connection been passed on to it?

    Then `environ` becomes that of the client whose it is.  The exit status where it is
    over by that; `fd` is what is read from, `protocol` what a Received line calls what follows.
    """
    try:
        if b"PROXYHOSTS" in environ or files.has("proxyhosts"):
            from . import proxied

            return proxied.admit(files, environ, fd, protocol)
    except ControlError:
        pass  # who makes the plan finds it, too
    return None


def serve(
    transport: Transport,
    fd: int,
    environ: Mapping[bytes, bytes],
    plan: Plan | NoPlan,
    leave: Callable[[int], object],
    limit: TimeLimit | None = None,
    since: float | None = None,
    greeted: bool = False,
) -> Outcome:
    """Serve the client on this transport.  Raises nothing.

    `fd` says who is there where `environ`, the environment of this connection,
    does not; leave(status) ends the process; `limit` is what runs the code of
    plugins from elsewhere, if there are any.  `since` is when the client came
    (monotonic seconds; None: now), and `greeted`, whether it has been greeted.
    """
    channel = Channel(transport)
    peer = ucspi.read_peer(environ, fd)
    since = monotonic() if since is None else since
    outcome = _serve(channel, peer, plan, leave, limit, since, greeted)
    channel.drain(clean=outcome.end == QUIT)
    return outcome


def _serve(
    channel: Channel,
    peer: Peer,
    plan: Plan | NoPlan,
    leave: Callable[[int], object],
    limit: TimeLimit | None,
    since: float,
    greeted: bool,
) -> Outcome:
    """All of it, but for what comes after the last word."""
    log = plan.log
    log.begin(_pid, peer.ip)
    implicit = plan.implicit  # nothing that we could say before the handshake would be understood

    def stop(plugin: str, hook: str) -> None:
        """A plugin does not stop at its time limit when it is made: this is the end."""
        log_hang(log, plugin, hook)
        outcome = _refuse(channel, plan, replies.PLUGIN_HANGS, 1)
        if limit is not None:
            limit.stop()
        channel.drain(clean=False)
        leave(outcome.status)

    def fail(error: Exception) -> Outcome:
        if isinstance(error, ControlError):
            log.line("control", name=error.name, reason=error.reason)
            return _refuse(channel, plan, replies.NO_CONTROLS, 1)
        log_trouble(log, error)
        if implicit:
            return _end(plan, "trouble", 111)
        return _refuse(channel, plan, replies.TROUBLE, 111)

    if isinstance(plan, NoPlan):
        return fail(plan.error)
    try:
        settings = plan.settings
        limits = settings.limits
        channel.limit(limits.timeout, limits.session, settings.data.min_rate, since)
        channel.helper = settings.tls.mode == EXTERNAL
        if plan.plugins.external:
            limit = limit or _time_limit()
            limit.escape = stop
        hooks = plan.plugins.hooks(peer.environ, limit)
        if plan.unavailable is not None:
            log.line("tls", verdict="unavailable", reason=plan.unavailable)
        tls = None
        if implicit:
            if plan.provider is None:
                return _end(plan, "tls-unavailable", 111)
            from ..tls.errors import HandshakeFailed, NeverSpoke

            try:
                tls = _handshake(channel, plan.provider, log)
            except NeverSpoke:
                return _end(plan, Gone.end, 1)
            except HandshakeFailed as error:
                return _end(plan, ending_of(error, log).word, 1)
            implicit = False
        elif settings.tls.mode == EXTERNAL:
            tls = _external_tls(settings.tls, peer, log)
        return run.run(channel, peer, plan, hooks, tls, leave, since, greeted)
    except Exception as error:
        return fail(error)
    finally:
        if limit is not None:
            limit.stop()


def _time_limit() -> TimeLimit:
    from ..policy.timelimit import TimeLimit

    return TimeLimit(traceback=2)


def _external_tls(settings: TlsSettings, peer: Peer, log: Log) -> Tls | None:
    """What a front end says of the encryption that it does; None where it did none."""
    from ..tls import provider

    tls = provider.external(settings, peer.environ)
    if tls is not None:
        from . import starttls

        starttls.log_tls(log, tls)
    return tls


def _handshake(channel: Channel, way: TlsProvider, log: Log) -> Tls:
    """TLS before the greeting.  Raises HandshakeFailed."""
    from . import starttls

    return starttls.start(channel, way, log, asked=False)


def _refuse(channel: Channel, plan: Plan | NoPlan, reply: Reply, status: int) -> Outcome:
    """The end of a session that never began, with a reply where that can be said."""
    waits.end_session()
    protocol = plan.protocol
    words = protocol.alone(reply)
    text = protocol.text(reply) if words else None
    plan.log.line("session", end=reply.end, reply=text, proto=_in_log(protocol))
    try:
        if words:
            channel.write(words)
            channel.flush()
    except Lost:
        status = 111
    return Outcome(reply.end or "", status)


def _end(plan: Plan | NoPlan, end: str, status: int) -> Outcome:
    """The same without one."""
    plan.log.line("session", end=end, proto=_in_log(plan.protocol))
    return Outcome(end, status)


def _in_log(protocol: type[Conversation]) -> bytes | None:
    return protocol.name if protocol.name != b"SMTP" else None
