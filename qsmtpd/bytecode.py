"""The start of every program, and the shortest way to our own modules.

Python's importer makes a dozen system calls for each module; this one makes
four, and takes no more than what is in order: bytecode of this Python, of this
very source.  Everything else it leaves to Python's own.
"""

from __future__ import annotations

import posix as os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from types import ModuleType
else:
    Loader = object

#: More than the largest of our modules.
LIMIT = 65536
_SUFFIX = f".{sys.implementation.cache_tag}.pyc"
#: How bytecode begins that is good as long as its source is the same (PEP 552).
_HEAD = MAGIC_NUMBER + bytes(4)


class Finder(Loader):
    """Finds and loads the modules below `root`, a folder with a slash at its end."""

    def __init__(self, root: str) -> None:
        self._root = root

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """What Python's import asks of every member of sys.meta_path."""
        if not name.startswith("qsmtpd"):
            return None
        source = self._root + name.replace(".", "/")
        package = False
        try:
            try:
                found = os.stat(source + ".py")
            except FileNotFoundError:
                package = True
                source += "/__init__"
                found = os.stat(source + ".py")
            folder, _, file = source.rpartition("/")
            fd = os.open(folder + "/__pycache__/" + file + _SUFFIX, os.O_RDONLY | os.O_CLOEXEC)
            code = os.read(fd, LIMIT)
            os.close(fd)
        except OSError:
            return None
        if not code.startswith(_HEAD + _word(int(found.st_mtime)) + _word(found.st_size)):
            return None
        if len(code) == LIMIT:
            return None  # there may be more of it
        spec = ModuleSpec(name, self, origin=source + ".py", is_package=package)
        spec.has_location = True
        spec.loader_state = code[16:]
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(folder)
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """A module as usual."""

    def exec_module(self, module: ModuleType) -> None:
        """Run its code."""
        assert module.__spec__ is not None
        exec(loads(module.__spec__.loader_state), module.__dict__)


def launch(root: str, path: str, arguments: list[str]) -> None:
    """Start the program of this path, from the package in the folder `root`."""
    sys.meta_path.insert(0, Finder(root))
    from qsmtpd import programs

    programs.start(path, arguments)


def _word(number: int) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "little")
