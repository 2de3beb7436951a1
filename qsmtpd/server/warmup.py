"""What the server does before it forks, so that its workers need not.

A cold child leaves out what not every session needs; a server imports it all,
so that a worker imports nothing: that takes time, and after an upgrade of the
package it would fetch code that does not fit.

What a worker writes to in the memory that it shares with the server is copied
for it, and the first run of any code in Python, or of an algorithm in OpenSSL,
writes more than later ones: caches, specialised instructions, what is looked up
only once.  So the server has some dry runs of a session.  They save a plain
session 8 % of its page faults and 0.15 MB; those through TLS, a session with
STARTTLS another 6 % and 0.17 MB (November 2026).
"""

from __future__ import annotations

import os
import time

from ..config.files import ControlFiles, home
from ..config.session import UTF8_OFF
from ..config.settings import Settings
from ..diagnose.dryrun import DryRun
from ..facts import ControlError, Peer
from ..log import Log, log_trouble
from ..net.dns import message
from ..policy import load
from ..policy.spec import BUILT_IN
from ..policy.timelimit import TimeLimit
from ..session import plan
from ..session.plan import NoPlan
from ..smtp import utf8
from ..tls.errors import Unavailable
from ..tls.settings import IMPLICIT, STARTTLS
from .configuration import Preloaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..session.plan import Plan
    from ..tls.provider import TlsProvider

#: pyOpenSSL is not among them: to load a certificate is to import it.
_LATER = (
    "binascii",
    "hashlib",
    "hmac",
    "termios",
    "qsmtpd.net.drain",
    "qsmtpd.net.dns.lookup",
    "qsmtpd.net.dns.resolver",
    "qsmtpd.net.ip",
    "qsmtpd.net.prefixes",
    "qsmtpd.config.cdb",
    "qsmtpd.child.queue",
    "qsmtpd.sasl.cram_md5",
    "qsmtpd.sasl.login",
    "qsmtpd.sasl.plain",
    "qsmtpd.session.auth",
    "qsmtpd.session.chunks",
    "qsmtpd.session.data",
    "qsmtpd.session.inspection",
    "qsmtpd.session.message",
    "qsmtpd.session.starttls",
    "qsmtpd.policy.external",
    "qsmtpd.policy.lines",
    "qsmtpd.filters.wildmat",
    "qsmtpd.smtp.asciiheader",
    "qsmtpd.smtp.chunk",
    "qsmtpd.smtp.date",
    "qsmtpd.smtp.utf8",
    "qsmtpd.tls.clients",
    "qsmtpd.tls.external",
    "qsmtpd.tls.pairs",
    *("qsmtpd.filters." + name for name in BUILT_IN),
)
#: What plugins from elsewhere may need.
_FOR_PLUGINS = ("tempfile", "faulthandler", "qsmtpd.policy.backend")
_FOR_TLS = ("OpenSSL.crypto", "cryptography.x509")
#: Python specialises a function when it runs for the eighth time.
_TIMES = 16
_BEGIN = [
    b"EHLO x",
    b"MAIL FROM:<a@b.example>",
    b"RCPT TO:<c@d.example>",
    b"RSET",
]
_END = [
    b"MAIL FROM:<a@b.example>",
    b"RCPT TO:<c@d.example>",
    b"DATA",
    b"Subject: x\n\nx\n",
    b"QUIT",
]
_PLAIN = [*_BEGIN, *_END]
_THROUGH_TLS = [b"EHLO x", b"STARTTLS", *_BEGIN, *_END]


def preload(environ: dict[bytes, bytes], checkpassword: list[bytes]) -> Preloaded:
    """Read, import and build what each session would, before the first one and on HUP.

    What is wrong is logged, and in the problems of what is returned; each
    session will find it again.
    """
    import_all()
    warm_up()
    load.forget()
    files = ControlFiles(home(environ))
    made = plan.make(files, dict(environ), checkpassword)
    log = Log(pid=os.getpid())
    loaded = Preloaded(files, made, _now())
    limit = TimeLimit()
    try:
        if isinstance(made, NoPlan):
            raise made.error
        hooks = made.plugins.hooks(limit=limit)
        loaded.external_plugins = any(not entry.ours for entry in hooks.order.entries)
        if loaded.external_plugins:
            _import(_FOR_PLUGINS)
        loaded.serves = True
        _prepare_tls(made, log, loaded)
        if made.settings.utf8 != UTF8_OFF:
            utf8.library()
    except ControlError as error:
        log.line("control", name=error.name, reason=error.reason)
        loaded.problems.append(f"{error.name}: {error.reason}")
    except Exception as error:  # HUP must not end a server, whatever it finds
        log_trouble(log, error)
        loaded.problems.append(f"{type(error).__name__}: {error}")
    finally:
        limit.stop()
    return loaded


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def import_all() -> None:
    """Import what a session may import later.  Threads must never have been started."""
    register = os.register_at_fork
    # threading, which pyOpenSSL imports, would make its inner state anew in each
    # process that is forked.  Without threads it stays right.  That it does nothing
    # saves, in a session of a server with a certificate, 0.2 to 0.3 MB of copied
    # memory and 5 to 11 % of the page faults (November 2026).
    os.register_at_fork = lambda **_: None
    try:
        import threading  # noqa: F401
    finally:
        os.register_at_fork = register
    _import(_LATER)
    import_packages()


def import_packages() -> None:
    """Import what no part of Python is and a session without TLS wants, where it is.

    idna, with what it imports when it is used: its tables, and the codec punycode; and
    dnspython, with the types of answers.
    """
    for preload in (lambda: utf8.forms("b\u00fccher.example".encode()), message.preload):
        try:
            preload()
        except ControlError:
            pass  # who wants it, says so


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        __import__(name)


def _prepare_tls(made: Plan, log: Log, loaded: Preloaded) -> None:
    """Have all of TLS in this process: modules, the contexts, those of SNI, dry runs."""
    tls, way = made.settings.tls, made.provider
    problem = made.unavailable
    try:
        if way is not None:
            way.prepare()
    except Unavailable as error:
        problem = str(error)
    if problem is not None:
        log.line("tls", verdict="unavailable", reason=problem)
        loaded.problems.append(problem)
        return
    wrong = tls.remarks
    if way is not None and tls.mode in (STARTTLS, IMPLICIT):
        from ..tls import context

        wrong = [*wrong, *context.keep(tls).wrong]
        for name, trouble in context.keep_names(tls):
            log.line("tls", verdict="unavailable", sni=name, reason=str(trouble))
            loaded.problems.append(f"servercerts/{os.fsdecode(name)}: {trouble}")
        loaded.expires = context.first_end(tls)
        _import(_FOR_TLS)
        warm_up(way)
    for file, reason in wrong:
        log.line("control", name=file, reason=reason)
        loaded.problems.append(f"{file}: {reason}")


class Nowhere(ControlFiles):
    """Control files that say nothing but a name."""

    def __init__(self) -> None:
        super().__init__(b"/nonexistent")

    def _read(self, name: str) -> bytes | None:
        return b"nobody.example\n" if name == "me" else None


def warm_up(way: TlsProvider | None = None) -> None:
    """Some dry runs of a session, with the plugins that are always there; no log.

    With `way`, which must be prepared, the session goes through STARTTLS.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    log = Log(null)
    commands = _PLAIN if way is None else _THROUGH_TLS
    try:
        for _ in range(_TIMES):
            session = DryRun(Settings(Nowhere(), {}), Peer(relay=b""), log, provider=way)
            # There are no pauses; but code specialised for a channel that makes
            # none would have to be specialised again in each worker.
            session.run(commands, _ignore, _ignore, _ignore, waits=True)
    finally:
        os.close(null)


def _ignore(_: object) -> None:
    """What is sent and heard, and the exit status, do not matter here."""
