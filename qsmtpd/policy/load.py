"""The plugins of a session: those that settings switch on, and those of control/plugins."""

from __future__ import annotations

import sys

from ..decision import reject
from ..facts import ControlError
from ..log import message
from . import hooks, order
from .guard import Guard, Overdue

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
    lines = chosen(settings)
    postpone = settings.choice("postpone", "POSTPONE", _POSTPONE)
    refuse = hooks.NOBODY_ACCEPTS
    if b"REPLY_NOGATEWAY" in settings.environ:
        from ..config.wording import worded

        refuse = reject(
            worded(settings, refuse.text, "REPLY_NOGATEWAY"), refuse.code, refuse.status
        )
    runs = guard or Guard()
    if outsiders is not None and any(line.plugin not in order.BUILT_IN for line in lines):
        outsiders()
    return hooks.Hooks(
        lambda: [*first, *(_entry(line, settings, log, postpone, runs) for line in lines)],
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


def chosen(settings: Settings) -> list[order.Line]:
    """The plugins of a session, in order.  Raises ControlError."""
    on = [name for name in order.BUILT_IN if order.is_on(name, settings)]
    written = settings.lines("plugins")
    words = settings.environ.get(b"QSMTPD_PLUGINS")
    if written is None and words is None:
        return [order.Line(name, {}, "") for name in on]
    from . import lines

    return lines.chosen(settings, on, written or [], words or b"")


def _entry(
    line: order.Line, settings: Settings, log: Log, postpone: str, guard: Guard
) -> hooks.Entry:
    """Make the plugin of a line.  Raises ControlError."""
    ours = line.plugin in order.BUILT_IN
    options = dict(line.options)
    timeout, given, later = (options.pop(key, None) for key in (b"timeout", b"immune", b"postpone"))
    own = settings.of_plugin(line.name, options, log)
    limit = hooks.TIMEOUT if timeout is None else _seconds(timeout, line)
    if ours:
        module = __import__(f"qsmtpd.filters.{line.plugin}", None, None, ["Plugin"])
        plugin: Any = module.Plugin(own)
        functions = hooks.methods(plugin)
    else:
        from .outside import outsider

        try:
            module, plugin, functions = guard.call((line.name, "start"), limit, outsider, own, line)
        except Overdue as error:
            what = f"{line.name} takes more than {limit:g} seconds to start"
            raise ControlError(line.where, what) from error
        except ControlError:
            raise
        except BaseException as error:  # whatever it does: to make it and look at it runs its code
            what = f"{line.name}: {type(error).__name__}: {message(error)}"
            raise ControlError(line.where, what) from error
    if own.unused:
        key = min(own.unused).decode("ascii", "backslashreplace")
        raise ControlError(line.where, f"{line.name} knows no option {key}")
    immune = getattr(plugin, "immune", ()) if given is None else _immunities(given, line)
    return hooks.Entry(
        line.name,
        functions,
        immune,
        getattr(plugin, "spool", False) is True,
        limit,
        postpone if later is None else _later(later, line),
        line.plugin in order.GRANTING,
        ours,
        getattr(module, "__file__", None),
    )


def _seconds(text: bytes, line: order.Line) -> float:
    if not (text.isdigit() and len(text) < 5 and 0 < int(text) <= MAX_TIMEOUT):
        raise ControlError(line.where, f"{line.name}: timeout is no number up to {MAX_TIMEOUT}")
    return float(int(text))


def _immunities(text: bytes, line: order.Line) -> tuple[str, ...]:
    words = () if text == b"none" else tuple(text.decode("ascii", "replace").split(","))
    if not set(words) <= set(hooks.IMMUNITIES):
        raise ControlError(
            line.where, f"{line.name}: immune is none, or {', '.join(hooks.IMMUNITIES)}"
        )
    return words


def _later(text: bytes, line: order.Line) -> str:
    for word in _POSTPONE:
        if text == word.encode("ascii"):
            return word
    raise ControlError(line.where, f"{line.name}: postpone is none of {', '.join(_POSTPONE)}")
