"""Which plugins a session has, in which order: built-in ones, control/plugins, QSMTPD_PLUGINS.

A built-in filter is on where one of its control files or variables is there (BUILT_IN).

control/plugins has one plugin a line, `name key=value …`; the order of the
lines is the order of the plugins.  A name is that of

    a plugin that comes with the program    badrcptto
    a file in QMAILHOME/plugins             nosy            (nosy.py there)
    a file elsewhere                        /opt/p/nosy.py
    a module of an installed package        somebody.nosy

`name:label` is another instance.  `include FILE` reads more lines from another
control file.  `builtins` is the place of the built-in plugins that are on and
not named; without it they come last.

QSMTPD_PLUGINS changes that for a client.  Its words are separated by commas:
`-name` takes a plugin out, a line as above takes the place of the plugin of
that name, or comes behind those of control/plugins.
"""

from __future__ import annotations

from ..decision import reject
from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from ..config.settings import Settings
    from ..facts import Client

#: name -> (control files, variables): it is on when one of them is there.  The
#: cheap ones come first, and what only makes sense for a recipient that is
#: taken at all comes behind rcpthosts.
BUILT_IN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "karma": ((), ("KARMALIMIT",)),
    "greetdelay": (("greetdelay",), ("SMTPD_GREETDELAY", "GREETDELAY")),
    "rblsmtpd": ((), ("RBLSMTPD",)),
    "helocheck": (("badhelo",), ("HELOCHECK",)),
    "badmailfrom": (("badmailfrom",), ()),
    "localmfcheck": ((), ("LOCALMFCHECK",)),
    "badrcptto": (("badrcptto",), ()),
    "relay": ((), ()),
    "rcpthosts": ((), ()),
    "tarpit": (("tarpitcount",), ("TARPITCOUNT",)),
    "bouncecheck": ((), ("BOUNCECHECK",)),
    "recipients": (("recipients",), ()),
    "validrcptto": (("validrcptto.cdb",), ("VALIDRCPTTO_CDB",)),
    "rcptcheck": ((), ("RCPTCHECK",)),
    "unknown": ((), ("MAXNOTIMPL",)),
    "headers": (
        ("requiredheaders", "singleheaders", "datepast", "datefuture"),
        ("REQUIREDHEADERS", "SINGLEHEADERS", "DATEPAST", "DATEFUTURE"),
    ),
    "loop": (("loopcheck",), ("LOOPCHECK",)),
    "spamcontrollog": ((), ("LOGFORMAT",)),
    "qmailqueue": ((), ()),
}
#: These rules are always there: without them nobody could send anything.
ALWAYS = ("relay", "rcpthosts", "qmailqueue")
#: Only these can let a recipient in.
GRANTING = ("relay", "rcpthosts")

FILE = "control/plugins"
VARIABLE = "QSMTPD_PLUGINS"
BUILTINS = "builtins"
MAX_INCLUDES = 10
TIMEOUT = 30.0  # seconds: of one call of a plugin

#: Until when a refusal may be postponed: not at all, to RCPT, to DATA.
NO, AT_RCPT, AT_DATA = POSTPONE = ("none", "rcpt", "data")
NOBODY_ACCEPTS = reject(b"sorry, that domain isn't in my list of allowed rcpthosts", 553, b"5.7.1")


class PluginSpec:
    """A plugin as it is asked for: a line of control/plugins, or what stands for it.

    `name` is what the plugin is called in the log and elsewhere; `plugin`, what it is
    to be found by; `options`, those of its line; `where`, the file or variable that
    names it, for errors.
    """

    __slots__ = ("name", "plugin", "options", "where")

    def __init__(self, text: str, options: Mapping[bytes, bytes], where: str) -> None:
        folder, slash, name = text.rpartition("/")
        name, colon, label = name.partition(":")
        self.plugin = folder + slash + name
        self.name = (name.removesuffix(".py") if slash else name) + colon + label
        self.options = options
        self.where = where


class Entry:
    """A plugin in its place: its name there, and what holds for it.

    `functions` maps a stage to what is to be called there.  `ours`: it came
    with this package.  `grants`: its accept lets a recipient in.
    """

    __slots__ = (
        "name",
        "functions",
        "immune",
        "spool",
        "timeout",
        "postpone",
        "grants",
        "ours",
        "file",
    )

    def __init__(
        self,
        name: str,
        functions: dict[str, Callable[..., Any]],
        immune: Iterable[str] = (),
        spool: bool = False,
        timeout: float = TIMEOUT,
        postpone: str = NO,
        grants: bool = False,
        ours: bool = True,
        file: str | None = None,
    ) -> None:
        self.name = name
        self.functions = functions
        self.immune = tuple(immune)
        self.spool = spool
        self.timeout = timeout
        self.postpone = postpone
        self.grants = grants
        self.ours = ours
        self.file = file  # where its code is

    def skips(self, client: Client) -> bool:
        """Is this client immune against this plugin?"""
        return bool(self.immune) and (
            ("relay" in self.immune and client.relay is not None)
            or ("auth" in self.immune and client.auth is not None)
            or ("listed" in self.immune and client.listed)
        )


class PolicySettings:
    """What is set of plugins.  Raises ControlError.

    `plugins` are those of a session, in order; `external`: some did not come
    with this program; `postpone` says until when they
    keep a refusal to themselves where their line does not; `refusal` is the
    decision on a recipient whom nobody accepts.
    """

    __slots__ = ("plugins", "external", "postpone", "refusal")

    def __init__(self, settings: Settings) -> None:
        self.plugins = plugin_specs(settings)
        self.external = any(spec.plugin not in BUILT_IN for spec in self.plugins)
        self.postpone = settings.choice("postpone", "POSTPONE", POSTPONE)
        text = settings.worded(NOBODY_ACCEPTS.text, "REPLY_NOGATEWAY")
        self.refusal = NOBODY_ACCEPTS
        if text != NOBODY_ACCEPTS.text:
            self.refusal = reject(text, NOBODY_ACCEPTS.code, NOBODY_ACCEPTS.status)


def plugin_specs(settings: Settings) -> list[PluginSpec]:
    """The plugins of a session, in order.  Raises ControlError."""
    on = [name for name in BUILT_IN if is_on(name, settings)]
    written = settings.lines("plugins")
    words = settings.variable(VARIABLE)
    if written is None and words is None:
        return [PluginSpec(name, {}, "") for name in on]
    return _combined(settings, on, written or [], words or b"")


def is_on(name: str, settings: Settings) -> bool:
    """Does a control file or a variable switch this built-in plugin on?  Raises ControlError."""
    return name in ALWAYS or bool(switches(name, settings))


def switches(name: str, settings: Settings) -> list[str]:
    """The files and variables that do."""
    files, variables = BUILT_IN[name]
    found = [variable for variable in variables if settings.is_set(variable)]
    return found + ["control/" + file for file in files if settings.files.has(file)]


def _combined(
    settings: Settings, on: list[str], written: list[bytes], words: bytes
) -> list[PluginSpec]:
    """The lines of control/plugins and the words of QSMTPD_PLUGINS, with those that are on.

    `on` are the built-in ones that are switched on; `written`, the lines of
    control/plugins; `words`, the value of QSMTPD_PLUGINS.
    """
    lines = _parse(settings, written, FILE, 0)
    named = [line.name for line in lines]
    for line in lines:
        if named.count(line.name) > 1:
            raise ControlError(line.where, f"{line.name} is there twice: call one {line.name}:2")
    place = named.index(BUILTINS) if BUILTINS in named else len(lines)
    lines[place : place + 1] = [PluginSpec(name, {}, FILE) for name in on if name not in named]
    if BUILTINS in named:
        place = len(lines)  # what the variable adds comes behind all of these
    for word in words.split(b","):
        word = word.strip(b" \t")
        if word.startswith(b"-"):
            name = _name(word[1:], VARIABLE)
            if name not in BUILT_IN and not any(line.name == name for line in lines):
                raise ControlError(VARIABLE, f"takes out {name}, which is not there")
            lines = [line for line in lines if line.name != name]
        elif word:
            (new,) = _parse(settings, [word], VARIABLE, MAX_INCLUDES)
            at = [line.name for line in lines].index(new.name) if _has(lines, new.name) else place
            lines[at : at + _has(lines, new.name)] = [new]
            place = max(place, at + 1)
    return lines


def _has(lines: list[PluginSpec], name: str) -> bool:
    return any(line.name == name for line in lines)


def _parse(settings: Settings, texts: list[bytes], where: str, depth: int) -> list[PluginSpec]:
    lines = []
    for text in texts:
        name, *options = [word for word in text.replace(b"\t", b" ").split(b" ") if word]
        if name == b"include":
            if len(options) != 1 or depth >= MAX_INCLUDES:
                raise ControlError(
                    where, f"includes no file, more than one, or over {MAX_INCLUDES}"
                )
            file = _name(options[0], where)
            more = settings.lines(file)
            if more is None:
                raise ControlError(where, f"includes control/{file}, which is missing")
            lines += _parse(settings, more, "control/" + file, depth + 1)
            continue
        found: dict[bytes, bytes] = {}
        for option in options:
            key, equals, value = option.partition(b"=")
            shown = option[:80].decode("ascii", "backslashreplace")
            if not equals or not key:
                raise ControlError(where, f"{shown} is no option, key=value without blanks")
            if key in found or name == BUILTINS.encode("ascii"):
                raise ControlError(where, f"{shown} is one option too many")
            found[key] = value
        lines.append(PluginSpec(_name(name, where), found, where))
    return lines


def _name(text: bytes, where: str) -> str:
    """A name, with its label, as it is to be; else ControlError."""
    last = text.rpartition(b"/")[2]
    if not all(33 <= byte < 127 for byte in text) or not all(last.split(b":", 1)):
        shown = text[:80].decode("ascii", "backslashreplace")
        raise ControlError(where, f"has no plugin's name in '{shown}'")
    return text.decode("ascii")
