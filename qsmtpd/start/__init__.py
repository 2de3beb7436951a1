"""The start of every program: from the installed script to its main().

The script names the program's module, and launch() runs that.  Modules are
loaded by a finder of our own: Python's importer makes a dozen system calls for
each, this one makes four.  It takes bytecode of this very Python and source,
and leaves everything else to Python's own importer.
"""

from __future__ import annotations

import gc
import posix as os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from importlib.abc import Loader
    from types import ModuleType
else:
    import _signal as signal  # signal.py imports enum, which costs a cold start 4 ms

    Loader = object

#: More than the largest of our modules.
LIMIT = 65536
_SUFFIX = f".{sys.implementation.cache_tag}.pyc"
#: Packages with nothing but a docstring in their __init__.py: it need not be read.
EMPTY = frozenset(
    f"qsmtpd.{name}"
    for name in (
        "child",
        "config",
        "filters",
        "net",
        "net.dns",
        "policy",
        "queues",
        "session",
        "smtp",
        "tls",
    )
)
#: The programs that have a client on descriptors 0 and 1.
SERVE_CLIENTS = ("qsmtpd.main", "qsmtpd.qmtp.qmtpd", "qsmtpd.qmtp.qmqpd")
#: Was descriptor 2 the client's socket?  It is /dev/null then.
stderr_is_client = False
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
#: How bytecode begins that is good as long as its source is the same (PEP 552).
_HEAD = MAGIC_NUMBER + bytes(4)


class Spec(ModuleSpec):
    """The facts of a module as plain attributes.

    Those of ModuleSpec are properties, which each import inside of the module asks anew.
    """

    parent = ""
    has_location = False  # with it Python looks three times for a __file__, and then sets it
    cached: str | None = None


class Finder(Loader):
    """Finds and loads the modules below `root`, a folder with a slash at its end."""

    def __init__(self, root: str) -> None:
        self._root = root

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """What Python's import asks of every member of sys.meta_path."""
        if not name.startswith("qsmtpd"):
            return None
        source = self._root + name.replace(".", "/")
        if name in EMPTY:
            return self._spec(name, source + "/__init__.py", source, b"")
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
        return self._spec(name, source + ".py", folder if package else None, code[16:])

    def _spec(self, name: str, origin: str, folder: str | None, code: bytes) -> Spec:
        """`folder` is that of a package; `code` is marshalled, or b"" where there is none."""
        spec = Spec(name, self, origin=origin, is_package=folder is not None)
        spec.loader_state = code
        if folder is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(folder)
            spec.parent = name
        else:
            spec.parent = name.rpartition(".")[0]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """A module as usual."""

    def exec_module(self, module: ModuleType) -> None:
        """Run its code."""
        spec = module.__spec__
        assert spec is not None
        module.__file__ = spec.origin
        # What was read is let go: of all modules of a server it is nearly a megabyte.
        code, spec.loader_state = spec.loader_state, None
        if code:
            code = loads(code)
            exec(code, module.__dict__)


def launch(root: str, module: str, arguments: list[str]) -> None:
    """Run main(arguments) of a module of the package in the folder `root`, a path with a slash.

    `arguments` do not hold the program's name.
    """
    sys.meta_path.insert(0, Finder(root))
    global stderr_is_client
    _reset_signals()
    # Of the others, and with options, none has a client: there, one socket on 1 and
    # 2 is the journal, as systemd gives it, or somebody's `2>&1`.
    serves = module in SERVE_CLIENTS and not (arguments and arguments[0].startswith("-"))
    stderr_is_client = serves and _is_client(2)
    if stderr_is_client:  # no traceback of ours is for him, and nothing of our children
        os.dup2(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), 2)
    # What is imported stays: to look it through for garbage would be a waste.
    gc.disable()
    program = __import__(module, None, None, ["main"])
    gc.freeze()
    gc.enable()
    program.main(arguments)


def _is_client(fd: int) -> bool:
    """Is it the same socket as descriptor 0 or 1?

    So it is under inetd, xinetd and stunnel as a daemon, for descriptor 2 too.  A
    terminal or a pipe is for somebody who debugs.
    """
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    if found.st_mode & 0o170000 != 0o140000:  # S_ISSOCK(); stat.py is not imported for that
        return False
    for client in (0, 1):
        try:
            other = os.fstat(client)
        except OSError:
            continue
        if (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino):
            return True
    return False


def _reset_signals() -> None:
    """Undo what a parent has left: no signal is blocked, and none ignored.

    An ignored CHLD would hide the exit status of our children, a blocked TERM or
    ALRM our end.  What Python ignores (PIPE, XFSZ) fails where it happens.
    """
    for number in range(1, signal.NSIG):
        if signal.getsignal(number) == signal.SIG_IGN and number not in _IGNORED:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _word(number: int) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "little")
