"""What the server does before it forks, so that its workers need not.

A cold child leaves out what not every session needs; a server imports it all,
so that a worker imports nothing: that takes time, and after an upgrade of the
package it would fetch code that does not fit.

What a worker writes to in the memory that it shares with the server is copied
for it, and the first run of any code writes more than later ones.  So the server
has some sessions of its own (see rehearsal.py).  Dry runs save a plain
session 8 % of its page faults and 0.15 MB; those through TLS, a session with
STARTTLS another 6 % and 0.17 MB (November 2026).
"""

from __future__ import annotations

import os
import time

from ..config.files import ControlFiles, home
from ..config.session import UTF8_OFF, proxy_settings
from ..config.settings import Settings
from ..facts import ControlError
from ..log import Log, log_trouble
from ..policy import load
from ..policy.spec import BUILT_IN
from ..policy.stages import CONNECT
from ..policy.timelimit import TimeLimit
from ..session import plan
from ..session.plan import NoPlan, Plan
from ..smtp import utf8
from ..smtp.sasl import MECHANISMS
from ..tls.errors import Unavailable
from ..tls.settings import IMPLICIT, STARTTLS
from .configuration import Preloaded
from .rehearsal import serve_some, warm_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..session.protocol import Conversation
    from .configuration import Configuration

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
    "qsmtpd.net.proxyhosts",
    "qsmtpd.config.cdb",
    "qsmtpd.config.mechanisms",
    "qsmtpd.child.conversation",
    "qsmtpd.child.query",
    "qsmtpd.child.queue",
    *("qsmtpd.smtp.sasl." + mechanism.file for mechanism in MECHANISMS.values()),
    "qsmtpd.smtp.sasl.relay",
    "qsmtpd.smtp.sasl.scram",
    "qsmtpd.session.auth",
    "qsmtpd.session.chunks",
    "qsmtpd.session.data",
    "qsmtpd.session.dovecot",
    "qsmtpd.session.inspection",
    "qsmtpd.session.message",
    "qsmtpd.session.removals",
    "qsmtpd.session.starttls",
    "qsmtpd.policy.external",
    "qsmtpd.policy.lines",
    "qsmtpd.policy.spool",
    "qsmtpd.filters.dkimsignature",
    "qsmtpd.filters.wildmat",
    "qsmtpd.smtp.asciiheader",
    "qsmtpd.smtp.authres",
    "qsmtpd.smtp.canonical",
    "qsmtpd.smtp.chunk",
    "qsmtpd.smtp.date",
    "qsmtpd.smtp.remover",
    "qsmtpd.smtp.taglist",
    "qsmtpd.smtp.utf8",
    "qsmtpd.tls.clients",
    "qsmtpd.tls.external",
    "qsmtpd.tls.pairs",
    *("qsmtpd.filters." + name for name in BUILT_IN),
)
#: What plugins from elsewhere may need.
_FOR_PLUGINS = ("tempfile", "faulthandler", "qsmtpd.policy.backend")
#: What filters load with their first client, or their first message: too much for a server
#: where they are not on.
_STORE = tuple(f"qsmtpd.policy.store.{name}" for name in ("once", "redis", "sqlite"))
_FOR_FILTERS = {
    "clientlimit": ("qsmtpd.filters.greylistkey", *_STORE),
    "dkim": ("qsmtpd.filters.dkimkey",),
    "greylist": ("qsmtpd.filters.greylistkey", *_STORE),
    "qmqpqueue": ("qsmtpd.filters.qmqpbackend",),
    "rspamd": ("json",),
    "sendlimits": _STORE,
    "spf": ("qsmtpd.filters.spfquery",),
}
_FOR_TLS = ("OpenSSL.crypto", "cryptography.x509")


def preload(
    environ: dict[bytes, bytes], checkpassword: list[bytes], protocol: type[Conversation]
) -> Preloaded:
    """Read, import and build what each session would, before the first one and on HUP.

    What is wrong is logged, and in the problems of what is returned; each
    session will find it again.
    """
    import_all()
    warm_up()
    load.forget()
    files = ControlFiles(home(environ))
    files.read_ahead()
    made = plan.make(protocol, files, dict(environ), checkpassword)
    loaded = Preloaded(files, made, _now())
    loaded.serves = _prepare(made, loaded)
    try:
        loaded.proxies = proxy_settings(Settings(files, environ))
    except ControlError:
        pass  # no plan can be made, of whatever rule
    if isinstance(made, Plan):
        loaded.external_plugins = made.plugins.external
        if made.provider is not None and made.settings.tls.mode in (STARTTLS, IMPLICIT):
            from ..tls import context

            loaded.expires = context.first_end(made.settings.tls)
            warm_up(made.provider)
    try:
        serve_some(protocol)  # last: what has been specialised for dry runs is now so for this
    except (OSError, ControlError):
        pass  # it is only worth time
    return loaded


def prepare_rules(configuration: Configuration) -> None:
    """The same for the plans of all rules."""
    for made in configuration.make_plans():
        _prepare(made, configuration.preloaded)


def _prepare(made: Plan | NoPlan, loaded: Preloaded) -> bool:
    """Import and build what sessions of a plan want.  False where nobody can be served."""
    log = Log(pid=os.getpid())
    serves = False
    try:
        if isinstance(made, NoPlan):
            raise made.error
        if made.plugins.external:
            _import(_FOR_PLUGINS)
            _load_plugins(made, loaded)
        serves = True
        _load_libraries(made)
        _prepare_tls(made, log, loaded)
        if made.settings.utf8 != UTF8_OFF:
            utf8.library()
    except ControlError as error:
        if loaded.note(f"{error.name}: {error.reason}"):
            log.line("control", name=error.name, reason=error.reason)
    except Exception as error:  # HUP must not end a server, whatever it finds
        if loaded.note(f"{type(error).__name__}: {error}"):
            log_trouble(log, error)
    return serves


def _load_libraries(made: Plan) -> None:
    """Have what filters load with their first client."""
    for spec in made.settings.policy.plugins:
        if spec.plugin in _FOR_FILTERS:
            try:
                _import(_FOR_FILTERS[spec.plugin])
            except ControlError:
                pass  # who wants it, says so


def _load_plugins(made: Plan, loaded: Preloaded) -> None:
    """Have the modules of plugins from elsewhere, and see whether they work.  Raises ControlError.

    A rule has mostly those of all others.
    """
    specs = tuple(
        (spec.name, tuple(sorted(spec.options.items()))) for spec in made.settings.policy.plugins
    )
    connects = loaded.files.kept.get(specs)
    if connects is None:
        limit = TimeLimit()
        try:
            order = made.plugins.hooks(limit=limit).order
        finally:
            limit.stop()
        connects = any(not entry.ours for entry in order.at.get(CONNECT, ()))
        loaded.files.kept[specs] = connects
    made.look_at(bool(connects))


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
    """Import what no part of Python is and a session without TLS wants: idna, where it is.

    With what it imports when it is used: its tables, and the codec punycode.
    """
    try:
        utf8.forms("b\u00fccher.example".encode())
    except ControlError:
        pass  # who wants it, says so


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        __import__(name)


def _prepare_tls(made: Plan, log: Log, loaded: Preloaded) -> None:
    """Have all of TLS in this process: modules, the contexts, those of SNI."""
    tls, way = made.settings.tls, made.provider
    try:
        if way is not None:
            way.prepare()
    except Unavailable as error:
        made.provider, made.unavailable = None, str(error)
    if made.unavailable is not None:
        if loaded.note(made.unavailable):
            log.line("tls", verdict="unavailable", reason=made.unavailable)
        return
    wrong = tls.remarks
    if way is not None and tls.mode in (STARTTLS, IMPLICIT):
        from ..tls import context

        _import(_FOR_TLS)
        wrong = [*wrong, *context.keep(tls).wrong]
        for name, trouble in context.keep_names(tls):
            if loaded.note(f"servercerts/{os.fsdecode(name)}: {trouble}"):
                log.line("tls", verdict="unavailable", sni=name, reason=str(trouble))
    for file, reason in wrong:
        if loaded.note(f"{file}: {reason}"):
            log.line("control", name=file, reason=reason)
