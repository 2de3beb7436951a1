"""Plugins from outside of this package: files, and modules of installed packages."""

from __future__ import annotations

import posix as os
import sys

from ..config.files import read_regular
from ..facts import ControlError
from ..log import message
from ..smtp.states import VERBS
from . import stages
from .source import compile_file
from .spec import IMMUNITIES
from .stages import methods
from .timelimit import Overdue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from ..config.settings import PluginSettings
    from .spec import PluginSpec
    from .timelimit import TimeLimit

    ExternalPlugin = tuple[ModuleType, object, dict[str, Callable[..., Any]]]

_FILES = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
#: path or name -> module: a warm server has them before its first connection.
_loaded: dict[str, ModuleType] = {}


#: What each hook is given.
_ARGUMENTS = {
    stages.CONNECT: "client",
    stages.HELO: "client, name",
    stages.CAPABILITIES: "client",
    stages.STARTTLS: "client",
    stages.AUTH: "client, user, mechanism",
    stages.MAIL: "client, envelope",
    stages.RCPT: "client, envelope, recipient",
    stages.DATA: "client, envelope",
    stages.HEADER: "client, envelope, message",
    stages.BODY: "client, envelope, chunk",
    stages.DATA_POST: "client, envelope, message",
    stages.QUEUE: "client, envelope",
    stages.QUEUE_PRE: "client, envelope",
    stages.QUEUE_FAILED: "client, envelope",
    stages.UNKNOWN: "client, line",
    stages.OK: "client, ruling",
    stages.DENY: "client, ruling",
    stages.RESET: "client",
    stages.DISCONNECT: "client",
}

#: Of a code object: inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR.
_NOT_RUN = 0x20 | 0x80 | 0x200


def make_plugin(
    own: PluginSettings, spec: PluginSpec, limit: TimeLimit, seconds: float
) -> ExternalPlugin:
    """A plugin from elsewhere: its module, itself, and its hooks.  Raises ControlError.

    To make it and to look at it runs its code, so it has this time (seconds).
    """
    try:
        made: ExternalPlugin = limit.call((spec.name, "start"), seconds, _make, own, spec)
        return made
    except Overdue as error:
        what = f"{spec.name} takes more than {seconds:g} seconds to start"
        raise ControlError(spec.where, what) from error
    except ControlError:
        raise
    except BaseException as error:
        what = f"{spec.name}: {type(error).__name__}: {message(error)}"
        raise ControlError(spec.where, what) from error


def _make(own: PluginSettings, spec: PluginSpec) -> ExternalPlugin:
    """Raises ControlError, or whatever the plugin raises."""
    module = find(spec.plugin, own.files.home, spec.where)
    plugin: object = module
    make = getattr(module, "Plugin", None)
    if make is None:
        functions = _functions_of(module)
    else:
        if isinstance(make, type) and not _is_made_of_settings(make):
            what = f"{spec.name}: class Plugin has to have __init__(self, settings)"
            raise ControlError(spec.where, what)
        plugin = make(own)
        functions = methods(plugin)
    if not functions:
        raise ControlError(spec.where, f"{spec.name} has no hook, as a function or in class Plugin")
    for name in functions:
        verb = name.removeprefix("command_")
        if name not in stages.STAGES and (name == verb or not (verb.isascii() and verb.isalnum())):
            what = f"{spec.name} has a public {name}, which is no hook: call it _{name}"
            raise ControlError(spec.where, what)
        if name != verb and verb != verb.lower():
            raise ControlError(spec.where, f"{spec.name}: {name} is to be in lower case")
        if name != verb and verb.upper().encode("ascii") in VERBS:
            raise ControlError(spec.where, f"{spec.name}: {verb} is a command of qsmtpd's own")
        wanted = _ARGUMENTS.get(name, "client, argument")
        if not _takes(functions[name], wanted.count(",") + 1):
            raise ControlError(spec.where, f"{spec.name}: {name} has to take {wanted}")
        if _flags(functions[name]) & _NOT_RUN:
            what = f"{spec.name}: {name} is a generator or coroutine: a call would not run it"
            raise ControlError(spec.where, what)
    immune = getattr(plugin, "immune", ())
    if isinstance(immune, str) or not set(immune) <= set(IMMUNITIES):
        what = f"{spec.name}: immune is a tuple of some of {', '.join(IMMUNITIES)}"
        raise ControlError(spec.where, what)
    return module, plugin, functions


def find(name: str, home: bytes, where: str) -> ModuleType:
    """The module of a plugin's name.  Raises ControlError, saying what is wrong with it."""
    if "/" in name or "." not in name:
        folder = home.decode(*_FILES)
        path = name if "/" in name else f"{folder}/plugins/{name}.py"
        key = path if path.startswith("/") else f"{folder}/{path}"
    else:
        key = name
    if key not in _loaded:
        try:
            if "/" in key:
                os.stat(key)
        except OSError as error:
            raise ControlError(where, f"{name}: there is no {key} ({error.strerror})") from error
        try:
            _loaded[key] = _module(key) if key == name and "/" not in name else _file(key)
        except (ControlError, Overdue):
            raise
        except BaseException as error:  # SystemExit as well: it is a plugin's own code that runs
            raise ControlError(
                where, f"{name}: {type(error).__name__}: {message(error)}"
            ) from error
        if sys.stdout is not None:
            # What a plugin prints is for the log, at once: nothing is flushed at our exit.
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return _loaded[key]


def forget() -> dict[str, ModuleType]:
    """Read every plugin's file anew when it is next asked for; what was loaded is returned."""
    before = dict(_loaded)
    for module in before.values():
        sys.modules.pop(module.__name__, None)
    _loaded.clear()
    stages.forget()
    # Optional[C] keeps the class C, and so all of its module, for whoever asks again.
    for clear in getattr(sys.modules.get("typing"), "_cleanups", ()):
        clear()
    return before


def remember(before: dict[str, ModuleType]) -> None:
    """Have again what forget() has returned."""
    forget()
    for name, module in before.items():
        _loaded[name] = sys.modules[module.__name__] = module


def _file(path: str) -> ModuleType:
    if os.stat(path).st_mode & 0o002:
        raise ControlError(path, "is writable by everybody, and would run as this user")
    name = "qsmtpd_plugin_" + path.rpartition("/")[2].partition(".")[0]
    source = read_regular(path, path.encode(*_FILES))
    if source is None:
        raise FileNotFoundError(path)
    module = type(sys)(name)
    module.__file__ = path
    sys.modules[name] = module
    # Python's own import could take an older version from __pycache__, and
    # costs a cold start more than to compile a file of this size.
    exec(compile_file(source, path), module.__dict__)
    return module


def _module(name: str) -> ModuleType:
    import site

    site.main()  # our launcher started Python without site, and so without its packages
    __import__(name)
    return sys.modules[name]


def _functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that a module defines itself."""
    return {
        name: found
        for name, found in vars(module).items()
        if not name.startswith("_")
        and type(found) is type(_functions_of)
        and found.__module__ == module.__name__
    }


def _is_made_of_settings(kind: Any) -> bool:
    """Can an object of this class be made of the settings alone?"""
    make = kind.__init__ if kind.__init__ is not object.__init__ else kind.__new__
    return make is not object.__new__ and _takes(make, 2)


def _flags(function: Callable[..., Any]) -> int:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code.co_flags if code is not None else 0


def _takes(function: Callable[..., Any], number: int) -> bool:
    """Can it be called with this number of arguments?  True where that is not to be known."""
    bound = 1 if hasattr(function, "__self__") else 0
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None:
        return True
    most = code.co_argcount - bound
    least = most - len(getattr(function, "__defaults__", None) or ())
    takes_more = bool(code.co_flags & 0x04)  # *args (inspect.CO_VARARGS)
    if code.co_kwonlyargcount > len(getattr(function, "__kwdefaults__", None) or ()):
        return False
    return least <= number and (number <= most or takes_more)
