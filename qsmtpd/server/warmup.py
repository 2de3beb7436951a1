"""For processes that are forked warm: what a session needs, imported and practised before.

A cold child leaves out what not every session needs; a server has it all, so
that serving imports nothing: it costs, and after a package upgrade it would
fetch code that does not fit.

What a forked process touches of the memory that it shares with the server is
copied for it, and the first run of any code in Python, or of an algorithm in
OpenSSL, writes more than the later ones: caches, specialised instructions,
what is looked up only once.  So the server runs some sessions with itself.
"""

from __future__ import annotations

import os

from ..config.files import ControlFiles, home
from ..config.session import SessionSettings
from ..config.settings import Settings
from ..facts import ControlError, Peer
from ..log import Log, log_trouble
from ..net import channel
from ..policy import load
from ..policy.spec import BUILT_IN
from ..policy.timelimit import TimeLimit
from ..session import run
from ..session.connection import enter
from ..tls import provider
from ..tls.errors import Unavailable
from ..tls.settings import IMPLICIT, STARTTLS, TlsSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from OpenSSL import SSL

    from ..policy.hooks import Hooks

#: pyOpenSSL is not among them: who has a certificate imports it by loading that.
_LATER = (
    "binascii",
    "hashlib",
    "hmac",
    "termios",
    "qsmtpd.net.ip",
    "qsmtpd.config.cdb",
    "qsmtpd.session.auth",
    "qsmtpd.session.data",
    "qsmtpd.session.inspection",
    "qsmtpd.session.message",
    "qsmtpd.session.starttls",
    "qsmtpd.policy.external",
    "qsmtpd.filters.wildmat",
    "qsmtpd.smtp.date",
    "qsmtpd.tls.external",
    *("qsmtpd.filters." + name for name in BUILT_IN),
)
#: What plugins from elsewhere may want.
_FOR_PLUGINS = ("tempfile", "faulthandler", "qsmtpd.policy.backend")
_FOR_TLS = ("OpenSSL.crypto", "cryptography.x509")
#: Python specialises a function when it runs for the eighth time.
_TIMES = 16
_SESSION = (
    b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRSET\r\n"
    b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nQUIT\r\n"
)


def import_all() -> None:
    """Import what a session may import later.  Threads must never have been started."""
    register = os.register_at_fork
    # threading, which pyOpenSSL imports, would make its inner state anew in each
    # process that is forked.  Without threads it stays right, and doing nothing
    # saves 0.4 MB of copied memory.
    os.register_at_fork = _ignore
    try:
        import threading  # noqa: F401
    finally:
        os.register_at_fork = register
    for name in _LATER:
        __import__(name)


class Nowhere(ControlFiles):
    """The control files of nobody, who has a name."""

    def __init__(self) -> None:
        super().__init__(b"/nonexistent")

    def _read(self, name: str) -> bytes | None:
        return b"nobody.example\n" if name == "me" else None


def prepare_plugins(hooks: Hooks) -> None:
    """What those from elsewhere need, where there are any."""
    if any(not entry.ours for entry in hooks.entries):
        for name in _FOR_PLUGINS:
            __import__(name)


def _ignore_status(status: int) -> None:
    """No plugin is there that could not be stopped."""


def _ignore(**_: object) -> None:
    """Register nothing."""


def practise() -> None:
    """Run some sessions, with nothing but the rules that are always there, into /dev/null."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    log = Log(null)
    peer = Peer(relay=b"")
    try:
        for _ in range(_TIMES):
            lookup = Settings(Nowhere(), {})
            settings = SessionSettings.load(lookup)
            line = channel.Channel(_Script())
            hooks = load.load(lookup, settings.policy, log)
            run.run(line, peer, settings, hooks, log, None, None, _ignore_status)
    finally:
        os.close(null)


class _Script:
    """A transport with a client that says the same each time, and listens to nothing."""

    def __init__(self) -> None:
        self._left = _SESSION

    def read(self, deadline: float) -> bytes:
        line, end, self._left = self._left.partition(b"\n")
        return line + end

    def write(self, data: bytes, deadline: float) -> None:
        pass

    def close(self, deadline: float) -> None:
        pass


def prepare_tls(settings: TlsSettings, log: Log) -> None:
    """What is left of door 1 when its context is there: modules, and the contexts of SNI."""
    if settings.mode not in (STARTTLS, IMPLICIT):
        return
    from ..tls import context
    from ..tls.openssl import TlsTransport

    for name, error in context.keep_names(settings):
        log.line("tls", verdict="unavailable", sni=name, reason=str(error))
    for module in _FOR_TLS:
        __import__(module)
    kept = settings.kept_context()
    if kept is not None:
        for _ in range(_TIMES):
            transport = TlsTransport(kept, _TlsClient())
            transport.handshake(float("inf"))
            transport.facts()
            transport.write(b"250 ok\r\n", float("inf"))


class _TlsClient:
    """A transport whose far side is a client of TLS in this very process."""

    def __init__(self) -> None:
        from OpenSSL import SSL

        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_alpn_protos([b"smtp"])
        self._tls: SSL.Connection = SSL.Connection(context, None)
        self._tls.set_connect_state()

    def read(self, deadline: float) -> bytes:
        from OpenSSL import SSL

        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            pass
        return self._tls.bio_read(channel.CHUNK)

    def write(self, data: bytes, deadline: float) -> None:
        self._tls.bio_write(data)

    def close(self, deadline: float) -> None:
        pass


def rehearse(environ: dict[bytes, bytes], checkpassword: list[bytes]) -> ControlFiles:
    """For a server, before its first connection and on HUP: do what each one will do.

    So what is wrong is in the log at once, not only when a client comes; what
    is read and built is in the controls returned; and no module is left to be
    imported.
    """
    log = Log(2, pid=os.getpid())
    controls = ControlFiles(home(environ))
    limit = TimeLimit()
    import_all()
    try:
        lookup = enter(controls, environ)
        settings = SessionSettings.load(lookup, checkpassword)
        practise()
        load.forget()
        prepare_plugins(load.load(lookup, settings.policy, log, limit=limit))
        way = provider.find(settings.tls)
        if way is not None:
            way.prepare()
            prepare_tls(settings.tls, log)
    except ControlError as error:
        log.line("control", name=error.name, reason=error.reason)
    except Unavailable as error:
        log.line("tls", verdict="unavailable", reason=str(error))
    except Exception as error:  # HUP must not end a server, whatever it finds
        log_trouble(log, error)
    finally:
        limit.stop()
    return controls
