"""What the server does before it forks, so that its workers need not.

A cold child leaves out what not every session needs; a server imports all that its
settings want (see imports.py).

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
from ..config.session import proxy_settings
from ..config.settings import Settings
from ..facts import ControlError
from ..log import Log, log_trouble
from ..policy import load
from ..policy.stages import CONNECT
from ..session import plan
from ..session.plan import NoPlan, Plan
from ..tls.errors import Unavailable
from ..tls.settings import IMPLICIT, STARTTLS
from . import imports
from .configuration import Preloaded
from .rehearsal import serve_some, warm_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..session.protocol import Conversation
    from .configuration import Configuration


def preload(
    environ: dict[bytes, bytes], checkpassword: list[bytes], protocol: type[Conversation]
) -> Preloaded:
    """Read, import and build what each session would, before the first one and on HUP.

    What is wrong is logged, and in the problems of what is returned; each
    session will find it again.
    """
    warm_up()
    load.forget()
    files = ControlFiles(home(environ))
    files.read_ahead()
    made = plan.make(protocol, files, dict(environ), checkpassword)
    loaded = Preloaded(files, made, _now())
    loaded.serves = _prepare(made, loaded, imports.expect_utf8)
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


def _prepare(
    made: Plan | NoPlan, loaded: Preloaded, expect: Callable[[Plan], None] | None = None
) -> bool:
    """Import and build what sessions of a plan want.  False where nobody can be served."""
    log = Log(pid=os.getpid())
    serves = False
    try:
        if isinstance(made, NoPlan):
            raise made.error
        imports.of(made)
        if made.plugins.external:
            _load_plugins(made, loaded)
        serves = True
        _prepare_tls(made, log, loaded)
        imports.for_utf8(made)
        if expect is not None:
            expect(made)
    except ControlError as error:
        if loaded.note(f"{error.name}: {error.reason}"):
            log.line("control", name=error.name, reason=error.reason)
    except Exception as error:  # HUP must not end a server, whatever it finds
        if loaded.note(f"{type(error).__name__}: {error}"):
            log_trouble(log, error)
    return serves


def _load_plugins(made: Plan, loaded: Preloaded) -> None:
    """Have the modules of plugins from elsewhere, and see whether they work.  Raises ControlError.

    A rule has mostly those of all others.
    """
    specs = tuple(
        (spec.name, tuple(sorted(spec.options.items()))) for spec in made.settings.policy.plugins
    )
    connects = loaded.files.kept.get(specs)
    if connects is None:
        from ..policy.timelimit import TimeLimit

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

        imports.for_tls(made)
        wrong = [*wrong, *context.keep(tls).wrong]
        for name, trouble in context.keep_names(tls):
            if loaded.note(f"servercerts/{os.fsdecode(name)}: {trouble}"):
                log.line("tls", verdict="unavailable", sni=name, reason=str(trouble))
    for file, reason in wrong:
        if loaded.note(f"{file}: {reason}"):
            log.line("control", name=file, reason=reason)
