"""Plugins from outside of this package: files, and modules of installed packages."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

from ..facts import ControlError
from ..log import message
from .guard import Overdue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

#: path or name -> module: a warm server has them before its first connection.
_loaded: dict[str, ModuleType] = {}


def find(name: str, home: bytes, where: str) -> ModuleType:
    """The module of a plugin's name.  Raises ControlError, saying what is wrong with it."""
    if "/" in name or "." not in name:
        path = name if "/" in name else f"{os.fsdecode(home)}/plugins/{name}.py"
        key = path if path.startswith("/") else f"{os.fsdecode(home)}/{path}"
    else:
        key = name
    if key not in _loaded:
        try:
            _loaded[key] = _module(key) if key == name and "/" not in name else _file(key)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            raise ControlError(where, f"{name}: there is no {key} ({error})") from error
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


def forget() -> None:
    """Read every plugin's file anew when it is next asked for."""
    for module in _loaded.values():
        sys.modules.pop(module.__name__, None)
    _loaded.clear()


def _file(path: str) -> ModuleType:
    if os.stat(path).st_mode & 0o002:
        raise ControlError(path, "is writable by everybody, and would run as this user")
    name = "qsmtpd_plugin_" + path.rpartition("/")[2].partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ControlError(path, "is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    import site

    site.main()  # our launcher started Python without site, and so without its packages
    return importlib.import_module(name)
