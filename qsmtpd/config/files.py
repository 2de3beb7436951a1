"""Control files: those of one QMAILHOME, each read at most once."""

from __future__ import annotations

import posix as os

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cdb import Cdb

#: More than this is no control file.
SIZE_LIMIT = 4 * 1024 * 1024  # bytes; who has more domains has a cdb


def home(environ: Mapping[bytes, bytes]) -> bytes:
    """qmail's home directory: QMAILHOME, or where it always is.

    One that is relative means one below the working directory of now; where there
    is none, whoever enters it sees.
    """
    path = environ.get(b"QMAILHOME") or b"/var/qmail"
    if path.startswith(b"/"):
        return path
    try:
        return os.getcwdb() + b"/" + path
    except OSError:
        return path


def fix_home(environ: dict[bytes, bytes]) -> None:
    """Make QMAILHOME absolute: a session works there, and so do the programs that it starts."""
    if b"QMAILHOME" in environ:
        environ[b"QMAILHOME"] = home(environ)


class ControlFiles:
    """The files below `home`/control (bytes), read when first asked for.

    `kept` is for what others make of the files and want to have only once.
    """

    __slots__ = ("home", "kept", "_files", "_names")

    def __init__(self, home: bytes) -> None:
        self.home = home
        self.kept: dict[object, object] = {}
        self._files: dict[str, bytes | None] = {}
        self._names: frozenset[bytes] | None = None

    def path(self, name: str) -> bytes:
        """Where the control file of this name is, or would be."""
        return self.home + b"/control/" + name.encode("ascii")

    def lists(self, name: str) -> bool:
        """Is there an entry of this name, be it a link that leads nowhere?

        Most control files are not there.  To see that in one list of all takes
        a session some fifty system calls less.  True where that is not to be seen.
        Raises ControlError.
        """
        if "/" in name:
            return True
        if self._names is None:
            try:
                self._names = frozenset(os.listdir(self.home + b"/control"))
            except FileNotFoundError:
                self._names = frozenset()
            except PermissionError:  # who may not list a directory may read its files
                return True
            except OSError as error:
                raise ControlError("control", error.strerror or "cannot be listed") from error
        return name.encode("ascii") in self._names

    def read(self, name: str) -> bytes | None:
        """The content, or None where there is no such file.

        Any other reason for not having it is a ControlError: what cannot be
        read is never taken for absent.
        """
        if name not in self._files:
            self._files[name] = self._read(name)
        return self._files[name]

    def has(self, name: str) -> bool:
        """Is there a file of this name?  Raises ControlError where that is not to be known."""
        if not self.lists(name):
            return False
        try:
            os.stat(self.path(name))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ControlError("control/" + name, error.strerror or "unreadable") from error
        return True

    def cdb(self, name: str) -> Cdb | None:
        """The cdb file of this name, open, or None where there is no such file."""
        if not self.has(name):
            return None  # and the reader of cdb files need not be imported
        from .cdb import Cdb

        return Cdb("control/" + name, self.path(name))

    def _read(self, name: str) -> bytes | None:
        if not self.lists(name):
            return None
        try:
            fd = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ControlError("control/" + name, error.strerror or "unreadable") from error
        try:
            parts = []
            size = 0
            while part := os.read(fd, 65536):
                size += len(part)
                if size > SIZE_LIMIT:
                    raise ControlError("control/" + name, "too large")
                parts.append(part)
            return b"".join(parts)
        except OSError as error:
            raise ControlError("control/" + name, error.strerror or "unreadable") from error
        finally:
            os.close(fd)
