"""The plugins of a session: those that settings switch on, and those of control/plugins."""

from __future__ import annotations

import sys

from ..facts import ControlError
from .hooks import Hooks
from .spec import BUILT_IN, GRANTING, TIMEOUT, Entry
from .stages import methods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

    from ..config.session import PolicySettings
    from ..config.settings import Settings
    from ..log import Log
    from .spec import PluginSpec
    from .timelimit import TimeLimit


def load(
    settings: Settings,
    policy: PolicySettings,
    log: Log,
    first: Sequence[Entry] = (),
    limit: TimeLimit | None = None,
) -> Hooks:
    """The hooks of one session; with `first` in front of them.  Raises ControlError.

    `limit` is what runs the code of plugins from elsewhere; one without a
    watchdog, if there are such plugins, is the default.
    """
    if limit is None and policy.external:
        from .timelimit import TimeLimit

        limit = TimeLimit()

    def make() -> list[Entry]:
        return [*first, *(_entry(spec, settings, log, policy, limit) for spec in policy.plugins)]

    return Hooks(make, log, policy.refusal, limit)


def forget() -> dict[str, ModuleType]:
    """Read plugins' files anew: for a server, on HUP.  What was loaded is returned."""
    external = sys.modules.get(f"{__package__}.external")
    return {} if external is None else external.forget()


def remember(before: dict[str, ModuleType]) -> None:
    """Have again what forget() has returned."""
    external = sys.modules.get(f"{__package__}.external")
    if external is not None:
        external.remember(before)


def _entry(
    spec: PluginSpec, settings: Settings, log: Log, policy: PolicySettings, limit: TimeLimit | None
) -> Entry:
    """Make the plugin of a line.  Raises ControlError."""
    ours = spec.plugin in BUILT_IN
    options = dict(spec.options)
    timeout, given, later = (options.pop(key, None) for key in (b"timeout", b"immune", b"postpone"))
    if spec.options:
        from . import lines  # for what is not None
    if ours and timeout is not None:
        raise ControlError(spec.where, f"{spec.name}: timeout is for plugins from elsewhere")
    seconds = TIMEOUT if timeout is None else lines.seconds(timeout, spec)
    own = settings.for_plugin(spec.name, options, log)
    if ours:
        module = __import__(f"qsmtpd.filters.{spec.plugin}", None, None, ["Plugin"])
        plugin: Any = module.Plugin(own)
        functions = methods(plugin)
    else:
        from .external import make_plugin

        assert limit is not None
        module, plugin, functions = make_plugin(own, spec, limit, seconds)
    if own.unused:
        key = min(own.unused).decode("ascii", "backslashreplace")
        raise ControlError(spec.where, f"{spec.name} knows no option {key}")
    immune = getattr(plugin, "immune", ()) if given is None else lines.immunities(given, spec)
    return Entry(
        spec.name,
        functions,
        immune,
        getattr(plugin, "spool", False) is True,
        seconds,
        policy.postpone if later is None else lines.later(later, spec),
        spec.plugin in GRANTING,
        ours,
        getattr(module, "__file__", None),
    )
