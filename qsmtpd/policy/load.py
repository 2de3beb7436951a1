"""The plugins of a session: those that settings switch on, and those of control/plugins."""

from __future__ import annotations

import sys

from ..facts import ControlError
from .hooks import Hooks
from .spec import BUILT_IN, GRANTING, TIMEOUT, Entry, Order
from .stages import methods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType
    from typing import Any

    from ..config.session import PolicySettings
    from ..config.settings import PluginSettings, Settings
    from ..log import Log
    from .spec import PluginSpec
    from .timelimit import TimeLimit

    Make = Callable[[Mapping[bytes, bytes] | None, TimeLimit | None], Entry]


class Plugins:
    """The plugins of a configuration, with `first` in front of them.  Raises ControlError.

    A built-in one is made once, and all sessions share it; where it has state of a
    session, its for_session() makes what has the hooks for one of them.  One from
    elsewhere is made anew for each session: it may look at its environment.
    """

    __slots__ = ("external", "_refuse", "_log", "_makers", "_specs", "_shared")

    def __init__(
        self, settings: Settings, policy: PolicySettings, log: Log, first: Sequence[Entry] = ()
    ) -> None:
        self.external = policy.external
        self._refuse = policy.refusal
        self._log = log
        made = [_of(spec, settings, log, policy) for spec in policy.plugins]
        self._makers: list[Entry | Make] = [*first, *made]
        self._specs = policy.plugins
        entries = [each for each in self._makers if isinstance(each, Entry)]
        self._shared = Order(entries) if len(entries) == len(self._makers) else None

    def hooks(
        self, environ: Mapping[bytes, bytes] | None = None, limit: TimeLimit | None = None
    ) -> Hooks:
        """The hooks of one session, whose environment this is.  Raises ControlError.

        Without one it is that of the settings.  `limit` is what runs the code of plugins
        from elsewhere; one without a watchdog, if there are such plugins, is the default.
        """
        if limit is None and self.external:
            from .timelimit import TimeLimit

            limit = TimeLimit()
        if self._shared is not None:
            return Hooks(self._one, self._log, self._refuse, limit)

        def make() -> Order:
            made = (e if isinstance(e, Entry) else e(environ, limit) for e in self._makers)
            return Order(list(made))

        return Hooks(make, self._log, self._refuse, limit)

    def _one(self) -> Order:
        assert self._shared is not None
        return self._shared

    def own(self) -> list[Entry]:
        """Those that came with this program, as a session would have them."""
        makers = zip(self._makers[-len(self._specs) :], self._specs, strict=True)
        ours = (each for each, spec in makers if spec.plugin in BUILT_IN)
        return [each if isinstance(each, Entry) else each(None, None) for each in ours]


def load(
    settings: Settings,
    policy: PolicySettings,
    log: Log,
    first: Sequence[Entry] = (),
    limit: TimeLimit | None = None,
) -> Hooks:
    """The hooks of the only session of a configuration: see Plugins.  Raises ControlError."""
    return Plugins(settings, policy, log, first).hooks(limit=limit)


def forget() -> dict[str, ModuleType]:
    """Read plugins' files anew: for a server, on HUP.  What was loaded is returned."""
    external = sys.modules.get(f"{__package__}.external")
    return {} if external is None else external.forget()


def remember(before: dict[str, ModuleType]) -> None:
    """Have again what forget() has returned."""
    external = sys.modules.get(f"{__package__}.external")
    if external is not None:
        external.remember(before)


def _of(spec: PluginSpec, settings: Settings, log: Log, policy: PolicySettings) -> Entry | Make:
    """What a line asks for, or what makes it for a session.  Raises ControlError."""
    ours = spec.plugin in BUILT_IN
    options = dict(spec.options)
    timeout, given, later = (options.pop(key, None) for key in (b"timeout", b"immune", b"postpone"))
    if spec.options:
        from . import lines  # for what is not None
    if ours and timeout is not None:
        raise ControlError(spec.where, f"{spec.name}: timeout is for plugins from elsewhere")
    seconds = TIMEOUT if timeout is None else lines.seconds(timeout, spec)
    immune = None if given is None else lines.immunities(given, spec)
    postpone = policy.postpone if later is None else lines.later(later, spec)

    def entry(
        module: ModuleType,
        plugin: Any,
        functions: dict[str, Callable[..., Any]],
        spool: Callable[[], bool] | None = None,
    ) -> Entry:
        return Entry(
            spec.name,
            functions,
            getattr(plugin, "immune", ()) if immune is None else immune,
            spool or getattr(plugin, "spool", False) is True,
            seconds,
            postpone,
            spec.plugin in GRANTING,
            getattr(plugin, "removes", False) is True,
            ours,
            getattr(module, "__file__", None),
        )

    def external(environ: Mapping[bytes, bytes] | None, limit: TimeLimit | None) -> Entry:
        from .external import make_plugin

        assert limit is not None
        own = settings.for_plugin(spec.name, options, log, environ)
        module, plugin, functions = make_plugin(own, spec, limit, seconds)
        _expect_all_used(own, spec)
        return entry(module, plugin, functions)

    if not ours:
        return external
    own = settings.for_plugin(spec.name, options, log)
    module = __import__(f"qsmtpd.filters.{spec.plugin}", None, None, ["Plugin"])
    plugin = module.Plugin(own)
    _expect_all_used(own, spec)

    def for_session(environ: Mapping[bytes, bytes] | None, limit: TimeLimit | None) -> Entry:
        session = plugin.for_session()
        # What only a session knows, it is asked before each message.
        asked = (lambda: bool(session.spool)) if hasattr(session, "spool") else None
        return entry(module, plugin, methods(session), asked)

    if hasattr(plugin, "for_session"):
        return for_session
    return entry(module, plugin, methods(plugin))


def _expect_all_used(own: PluginSettings, spec: PluginSpec) -> None:
    if own.unused:
        key = min(own.unused).decode("ascii", "backslashreplace")
        raise ControlError(spec.where, f"{spec.name} knows no option {key}")
