"""The lines of control/plugins and the words of QSMTPD_PLUGINS.

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

from ..facts import ControlError
from .spec import BUILT_IN, IMMUNITIES, POSTPONE, VARIABLE, PluginSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings

FILE = "control/plugins"
BUILTINS = "builtins"
MAX_INCLUDES = 10
MAX_TIMEOUT = 3600  # seconds


def combined(
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


def seconds(text: bytes, spec: PluginSpec) -> float:
    """The option timeout.  Raises ControlError."""
    if not (text.isdigit() and len(text) < 5 and 0 < int(text) <= MAX_TIMEOUT):
        raise ControlError(spec.where, f"{spec.name}: timeout is no number up to {MAX_TIMEOUT}")
    return float(int(text))


def immunities(text: bytes, spec: PluginSpec) -> tuple[str, ...]:
    """The option immune.  Raises ControlError."""
    words = () if text == b"none" else tuple(text.decode("ascii", "replace").split(","))
    if not set(words) <= set(IMMUNITIES):
        raise ControlError(spec.where, f"{spec.name}: immune is none, or {', '.join(IMMUNITIES)}")
    return words


def later(text: bytes, spec: PluginSpec) -> str:
    """The option postpone.  Raises ControlError."""
    for word in POSTPONE:
        if text == word.encode("ascii"):
            return word
    raise ControlError(spec.where, f"{spec.name}: postpone is none of {', '.join(POSTPONE)}")
