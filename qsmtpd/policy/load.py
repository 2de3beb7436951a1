"""Which plugins a session has: those that settings switch on, and those of control/plugins.

control/plugins has one plugin a line, `name key=value …`; the order of the
lines is the order of the plugins.  A name is that of

    a plugin that comes with the program    badrcptto
    a file in QMAILHOME/plugins             nosy            (nosy.py there)
    a file elsewhere                        /opt/p/nosy.py
    a module of an installed package        somebody.nosy

`name:label` is another instance.  `include FILE` reads more lines from another
control file.  `builtins` is the place of the built-in plugins that are on and
not named; without it they come last.  The variable QSMTPD_PLUGINS has further
lines, separated by commas, of which `-name` takes a plugin out.
"""

from __future__ import annotations

from ..decision import reject
from ..facts import ControlError
from ..log import message
from ..smtp.states import VERBS
from . import hooks, order, stages
from .guard import Guard, Overdue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType
    from typing import Any

    from ..control import Settings
    from ..facts import Peer
    from ..log import Log

VARIABLE = "QSMTPD_PLUGINS"
BUILTINS = "builtins"
IMMUNITIES = ("relay", "auth", "listed")
MAX_TIMEOUT = 3600
MAX_INCLUDES = 10
_POSTPONE = (hooks.NO, hooks.AT_RCPT, hooks.AT_DATA)


class Line:
    """A line of control/plugins, or of what stands for it: `where`.

    `name` is what the plugin is called in the log and elsewhere; `plugin`, what
    it is to be found by.
    """

    __slots__ = ("name", "plugin", "options", "where")

    def __init__(self, text: str, options: Mapping[bytes, bytes], where: str) -> None:
        folder, slash, name = text.rpartition("/")
        name, colon, label = name.partition(":")
        self.plugin = folder + slash + name
        self.name = (name.removesuffix(".py") if slash else name) + colon + label
        self.options = options
        self.where = where


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
        from .wording import worded

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


def is_listed(settings: Settings, peer: Peer) -> bool:
    """Is this client listed as immune against filters?  Raises ControlError."""
    if b"IMMUNE" not in settings.environ and settings.lines("immune") is None:
        return False
    from .immune import listed

    return listed(settings, peer)


def chosen(settings: Settings) -> list[Line]:
    """The plugins of a session, in order.  Raises ControlError."""
    on = [name for name in order.BUILT_IN if order.is_on(name, settings)]
    where = "control/plugins"
    written = settings.lines("plugins")
    switched = settings.environ.get(VARIABLE.encode("ascii"))
    if written is None and switched is None:
        return [Line(name, {}, where) for name in on]
    lines = _parse(settings, written or [], where, 0)
    out = set()
    for word in [] if switched is None else switched.split(b","):
        if word.startswith(b"-"):
            out.add(_name(word[1:].strip(b" "), VARIABLE))
        elif word.strip(b" "):
            lines += _parse(settings, [word.strip(b" ")], VARIABLE, MAX_INCLUDES)
    named = [line.name for line in lines]
    for name in named:
        if named.count(name) > 1:
            raise ControlError(where, f"{name} is there twice: name one {name}:2")
    rest = [Line(name, {}, where) for name in on if name not in named]
    place = named.index(BUILTINS) if BUILTINS in named else len(lines)
    lines[place : place + 1] = rest
    unknown = out - {line.name for line in lines} - set(order.BUILT_IN)
    if unknown:
        raise ControlError(VARIABLE, f"takes out {min(unknown)}, which is not there")
    return [line for line in lines if line.name not in out]


def _parse(settings: Settings, texts: list[bytes], where: str, depth: int) -> list[Line]:
    lines = []
    for text in texts:
        name, *options = [word for word in text.replace(b"\t", b" ").split(b" ") if word]
        if name == b"include" and len(options) == 1 and depth < MAX_INCLUDES:
            file = _name(options[0], where)
            more = settings.lines(file)
            if more is None:
                raise ControlError(where, f"includes control/{file}, which is missing")
            lines += _parse(settings, more, "control/" + file, depth + 1)
            continue
        found = {}
        for option in options:
            key, equals, value = option.partition(b"=")
            if not equals or not key or key in found:
                raise ControlError(where, f"{option!r:.80} is no option of its own, key=value")
            found[key] = value
        lines.append(Line(_name(name, where), found, where))
    return lines


def _name(text: bytes, where: str) -> str:
    if not text or not all(33 <= byte < 127 for byte in text):
        raise ControlError(where, f"{text!r:.80} is no name")
    return text.decode("ascii")


# -- from a line to a plugin -------------------------------------------------


def _entry(line: Line, settings: Settings, log: Log, postpone: str, guard: Guard) -> hooks.Entry:
    """Make the plugin of a line.  Raises ControlError."""
    ours = line.plugin in order.BUILT_IN
    if not ours and line.plugin == "include":
        raise ControlError(line.where, "includes too deeply, or not one file")
    options = dict(line.options)
    timeout, given, later = (options.pop(key, None) for key in (b"timeout", b"immune", b"postpone"))
    own = settings.of_plugin(line.name, options, log)
    limit = hooks.TIMEOUT if timeout is None else _seconds(timeout, line)
    if ours:
        module = __import__(f"{__package__}.{line.plugin}", None, None, ["Plugin"])
        plugin: Any = module.Plugin(own)
        functions = _hooks_of(plugin)
    else:
        try:
            plugin, functions = guard.call((line.name, "start"), limit, _outsider, own, line)
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
    )


def _outsider(own: Settings, line: Line) -> tuple[object, dict[str, Callable[..., Any]]]:
    """A plugin from elsewhere: what is wrong with it is a ControlError, whatever it is."""
    from .outside import find

    module = find(line.plugin, own.controls.home, line.where)
    plugin: object = module
    make = getattr(module, "Plugin", None)
    if make is None:
        functions = _functions_of(module)
    else:
        plugin = make(own)
        functions = _hooks_of(plugin)
    if not functions:
        raise ControlError(line.where, f"{line.name} has no hook, neither in a class Plugin")
    for name in functions:
        verb = name.removeprefix("command_")
        if name not in stages.STAGES and (name == verb or not (verb.isascii() and verb.isalnum())):
            raise ControlError(line.where, f"{line.name} has a public {name}, which is no hook")
        if name != verb and verb != verb.lower():
            raise ControlError(line.where, f"{line.name}: {name} is to be in lower case")
        if name != verb and verb.upper().encode("ascii") in VERBS:
            raise ControlError(line.where, f"{line.name}: {verb} is a command of qsmtpd's own")
    immune = getattr(plugin, "immune", ())
    if isinstance(immune, str) or not set(immune) <= set(IMMUNITIES):
        raise ControlError(line.where, f"{line.name} is immune to none of {', '.join(IMMUNITIES)}")
    return plugin, functions


def _hooks_of(plugin: object) -> dict[str, Callable[..., Any]]:
    """The public methods of an object."""
    kind = type(plugin)
    return {
        name: getattr(plugin, name)
        for name in dir(kind)
        if not name.startswith("_")
        and hasattr(getattr(kind, name), "__get__")
        and callable(getattr(kind, name))
    }


def _functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that a module defines itself."""
    return {
        name: found
        for name, found in vars(module).items()
        if not name.startswith("_")
        and type(found) is type(_functions_of)
        and found.__module__ == module.__name__
    }


def _seconds(text: bytes, line: Line) -> float:
    if not (text.isdigit() and len(text) < 5 and 0 < int(text) <= MAX_TIMEOUT):
        raise ControlError(line.where, f"{line.name}: timeout is no number up to {MAX_TIMEOUT}")
    return float(int(text))


def _immunities(text: bytes, line: Line) -> tuple[str, ...]:
    words = () if text == b"none" else tuple(text.decode("ascii", "replace").split(","))
    if not set(words) <= set(IMMUNITIES):
        raise ControlError(line.where, f"{line.name}: immune is none, or {', '.join(IMMUNITIES)}")
    return words


def _later(text: bytes, line: Line) -> str:
    for word in _POSTPONE:
        if text == word.encode("ascii"):
            return word
    raise ControlError(line.where, f"{line.name}: postpone is none of {', '.join(_POSTPONE)}")
