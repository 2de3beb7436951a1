"""The plugins of a session: those that settings switch on, and those of control/plugins."""

from __future__ import annotations

import sys

from ..decision import reject
from ..facts import ControlError
from ..log import message
from . import hooks
from .spec import BUILT_IN, GRANTING, PluginSpec, plugin_specs
from .timelimit import Guard, Overdue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ..config.settings import Settings
    from ..facts import Peer
    from ..log import Log

MAX_TIMEOUT = 3600
_POSTPONE = (hooks.NO, hooks.AT_RCPT, hooks.AT_DATA)


def load(
    settings: Settings,
    log: Log,
    first: Sequence[hooks.Entry] = (),
    guard: Guard | None = None,
    outsiders: Callable[[], None] | None = None,
) -> hooks.Hooks:
    """The hooks of one session; with `first` in front of them.  Raises ControlError.

    `guard` is what runs plugin code; outsiders() is called before any runs that
    did not come with this package.
    """
    specs = plugin_specs(settings)
    postpone = settings.choice("postpone", "POSTPONE", _POSTPONE)
    refuse = hooks.NOBODY_ACCEPTS
    if b"REPLY_NOGATEWAY" in settings.environ:
        from ..config.wording import worded

        refuse = reject(
            worded(settings, refuse.text, "REPLY_NOGATEWAY"), refuse.code, refuse.status
        )
    runs = guard or Guard()
    if outsiders is not None and any(spec.plugin not in BUILT_IN for spec in specs):
        outsiders()
    return hooks.Hooks(
        lambda: [*first, *(_entry(spec, settings, log, postpone, runs) for spec in specs)],
        log,
        refuse,
        runs,
    )


def forget() -> None:
    """Read plugins' files anew: for a server, on HUP."""
    outside = sys.modules.get(f"{__package__}.external")
    if outside is not None:
        outside.forget()


def is_listed(settings: Settings, peer: Peer) -> bool:
    """Is this client listed as immune against filters?  Raises ControlError."""
    if b"IMMUNE" not in settings.environ and settings.lines("immune") is None:
        return False
    from ..filters.immune import listed

    return listed(settings, peer)


def _entry(
    spec: PluginSpec, settings: Settings, log: Log, postpone: str, guard: Guard
) -> hooks.Entry:
    """Make the plugin of a spec.  Raises ControlError."""
    ours = spec.plugin in BUILT_IN
    options = dict(spec.options)
    timeout, given, later = (options.pop(key, None) for key in (b"timeout", b"immune", b"postpone"))
    own = settings.of_plugin(spec.name, options, log)
    limit = hooks.TIMEOUT if timeout is None else _seconds(timeout, spec)
    if ours:
        module = __import__(f"qsmtpd.filters.{spec.plugin}", None, None, ["Plugin"])
        plugin: Any = module.Plugin(own)
        functions = hooks.methods(plugin)
    else:
        from .external import outsider

        try:
            module, plugin, functions = guard.call((spec.name, "start"), limit, outsider, own, spec)
        except Overdue as error:
            what = f"{spec.name} takes more than {limit:g} seconds to start"
            raise ControlError(spec.where, what) from error
        except ControlError:
            raise
        except BaseException as error:  # whatever it does: to make it and look at it runs its code
            what = f"{spec.name}: {type(error).__name__}: {message(error)}"
            raise ControlError(spec.where, what) from error
    if own.unused:
        key = min(own.unused).decode("ascii", "backslashreplace")
        raise ControlError(spec.where, f"{spec.name} knows no option {key}")
    immune = getattr(plugin, "immune", ()) if given is None else _immunities(given, spec)
    return hooks.Entry(
        spec.name,
        functions,
        immune,
        getattr(plugin, "spool", False) is True,
        limit,
        postpone if later is None else _later(later, spec),
        spec.plugin in GRANTING,
        ours,
        getattr(module, "__file__", None),
    )


def _seconds(text: bytes, spec: PluginSpec) -> float:
    if not (text.isdigit() and len(text) < 5 and 0 < int(text) <= MAX_TIMEOUT):
        raise ControlError(spec.where, f"{spec.name}: timeout is no number up to {MAX_TIMEOUT}")
    return float(int(text))


def _immunities(text: bytes, spec: PluginSpec) -> tuple[str, ...]:
    words = () if text == b"none" else tuple(text.decode("ascii", "replace").split(","))
    if not set(words) <= set(hooks.IMMUNITIES):
        raise ControlError(
            spec.where, f"{spec.name}: immune is none, or {', '.join(hooks.IMMUNITIES)}"
        )
    return words


def _later(text: bytes, spec: PluginSpec) -> str:
    for word in _POSTPONE:
        if text == word.encode("ascii"):
            return word
    raise ControlError(spec.where, f"{spec.name}: postpone is none of {', '.join(_POSTPONE)}")
