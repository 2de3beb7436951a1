"""What the server does before it forks, so that its workers need not.

A cold child leaves out what not every session needs; a server imports it all,
so that a worker imports nothing: that takes time, and after an upgrade of the
package it would fetch code that does not fit.

What a worker writes to in the memory that it shares with the server is copied
for it, and the first run of any code in Python, or of an algorithm in OpenSSL,
writes more than later ones: caches, specialised instructions, what is looked up
only once.  So the server has some dry runs of a session.
"""

from __future__ import annotations

import os

from ..config.files import Controls, home
from ..config.session import AuthSettings, Limits
from ..config.settings import Settings
from ..diagnose.dryrun import Rehearsal
from ..facts import ControlError, Peer
from ..log import Log, log_trouble
from ..net import ucspi
from ..policy import load
from ..policy.spec import BUILT_IN
from ..session.connection import enter
from ..tls import provider as tls_provider
from ..tls.errors import Unavailable
from ..tls.settings import IMPLICIT, STARTTLS, TlsSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..tls.provider import Door

#: pyOpenSSL is not among them: to load a certificate is to import it.
_LATER = (
    "binascii",
    "hashlib",
    "hmac",
    "termios",
    "qsmtpd.net.ip",
    "qsmtpd.config.cdb",
    "qsmtpd.child.queue",
    "qsmtpd.session.auth",
    "qsmtpd.session.data",
    "qsmtpd.session.message",
    "qsmtpd.session.starttls",
    "qsmtpd.filters.immune",
    "qsmtpd.policy.external",
    "qsmtpd.filters.wildmat",
    "qsmtpd.config.wording",
    "qsmtpd.smtp.date",
    "qsmtpd.tls.external",
    *("qsmtpd.filters." + name for name in BUILT_IN),
)
#: What plugins from elsewhere may need.
_FOR_PLUGINS = ("tempfile", "qsmtpd.policy.backend", "qsmtpd.policy.guardian")
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


def preload(environ: dict[bytes, bytes], checkpassword: list[bytes]) -> tuple[Controls, bool]:
    """Read, import and build what each session would, before the first one and on HUP.

    Returns the control files with all that has been read and built, and
    whether there may be plugins from elsewhere.  What is wrong is logged, and
    each session will find it again.
    """
    log = Log(2, pid=os.getpid())
    controls = Controls(home(environ))
    external = True
    import_all()
    try:
        settings = enter(controls, environ)
        tls = TlsSettings(settings)
        peer = ucspi.read_peer(environ)
        Limits(settings, tls, AuthSettings(settings, checkpassword, peer))
        warm_up()
        load.forget()
        external = any(not entry.ours for entry in load.load(settings, log).entries)
        if external:
            _import(_FOR_PLUGINS)
        provider = tls_provider.find(settings, tls)
        if provider is not None:
            provider.prepare()
            _prepare_tls(tls, log, provider)
    except ControlError as error:
        log.line("control", name=error.name, reason=error.reason)
    except Unavailable as error:
        log.line("tls", verdict="unavailable", reason=str(error))
    except Exception as error:  # HUP must not end a server, whatever it finds
        log_trouble(log, error)
    return controls, external


def import_all() -> None:
    """Import what a session may import later.  Threads must never have been started."""
    register = os.register_at_fork
    # threading, which pyOpenSSL imports, would make its inner state anew in each
    # process that is forked.  Without threads it stays right, and doing nothing
    # saves 0.4 MB of copied memory.
    os.register_at_fork = lambda **_: None
    try:
        import threading  # noqa: F401
    finally:
        os.register_at_fork = register
    _import(_LATER)


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        __import__(name)


def _prepare_tls(tls: TlsSettings, log: Log, provider: Door) -> None:
    """Have the rest of TLS in this process: modules, the contexts of SNI, dry runs."""
    if tls.mode not in (STARTTLS, IMPLICIT):
        return
    from ..tls import context

    for name, error in context.keep_names(tls):
        log.line("tls", verdict="unavailable", sni=name, reason=str(error))
    _import(_FOR_TLS)
    warm_up(provider)


class Nowhere(Controls):
    """Control files that say nothing but a name."""

    def __init__(self) -> None:
        super().__init__(b"/nonexistent")

    def _read(self, name: str) -> bytes | None:
        return b"nobody.example\n" if name == "me" else None


def warm_up(provider: Door | None = None) -> None:
    """Some dry runs of a session, with the plugins that are always there; no log.

    With `provider`, which must be prepared, the session goes through STARTTLS.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    log = Log(null)
    commands = _PLAIN if provider is None else _THROUGH_TLS
    try:
        for _ in range(_TIMES):
            session = Rehearsal(Settings(Nowhere(), {}), Peer(relay=b""), log, door=provider)
            # There are no pauses; but code specialised for a channel that makes
            # none would have to be specialised again in each worker.
            session.run(commands, _ignore, _ignore, _ignore, waits=True)
    finally:
        os.close(null)


def _ignore(_: object) -> None:
    """What is sent and heard, and the exit status, do not matter here."""
