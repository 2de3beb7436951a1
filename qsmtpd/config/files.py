"""Control files: those of one QMAILHOME, each read at most once."""

from __future__ import annotations

import posix as os
from posix import environ as inherited

from ..facts import BLANKS, ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cdb import Cdb

#: More than this is no control file.
SIZE_LIMIT = 4 * 1024 * 1024  # bytes; who has more domains has a cdb
#: The users of qsmtpd-checkpassword.
USERS = "smtpusers"
#: So much is read ahead (bytes).
AHEAD_LIMIT = 16 * SIZE_LIMIT
NOT_REGULAR = "is no regular file"
#: inode(7): the type of a file in its mode, and two of the types.
_TYPE, _REGULAR, _DEVICE = 0o170000, 0o100000, 0o020000
_ENXIO = 6  # on every system


def home(environ: Mapping[bytes, bytes]) -> bytes:
    """qmail's home directory: QMAILHOME, or where it always is.

    One that is relative means one below the working directory of now; where there
    is none, whoever enters it sees.
    """
    path = environ.get(b"QMAILHOME", b"").rstrip(BLANKS) or b"/var/qmail"
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


def open_regular(name: str, path: bytes) -> int | None:
    """A descriptor of this file, for reading, or None where there is nothing.

    What is there, be it a link that leads nowhere, and is no regular file that
    we can read, is a ControlError, in which the file is called `name`: it is
    never taken for absent, and no FIFO is waited for.  /dev/null is an empty file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        if not is_entry(path):
            return None
        raise ControlError(name, "is a link that leads nowhere") from None
    except OSError as error:
        reason = NOT_REGULAR if error.errno == _ENXIO else error.strerror  # a socket
        raise ControlError(name, reason or "unreadable") from error
    found = os.fstat(fd)
    if found.st_mode & _TYPE != _REGULAR and not _is_null(found):
        os.close(fd)
        raise ControlError(name, NOT_REGULAR)
    return fd


def read_regular(name: str, path: bytes) -> bytes | None:
    """The content of this file, or None where there is nothing; else as open_regular()."""
    fd = open_regular(name, path)
    if fd is None:
        return None
    try:
        parts = []
        size = 0
        while part := os.read(fd, 65536):
            size += len(part)
            if size > SIZE_LIMIT:
                raise ControlError(name, "too large")
            parts.append(part)
        return b"".join(parts)
    except OSError as error:
        raise ControlError(name, error.strerror or "unreadable") from error
    finally:
        os.close(fd)


def open_cdb(name: str, path: bytes) -> Cdb | None:
    """This cdb file, open, or None where there is nothing; else as open_regular()."""
    fd = open_regular(name, path)
    if fd is None:
        return None
    from .cdb import Cdb

    return Cdb(name, fd, path, lambda: open_regular(name, path))


def _is_null(found: os.stat_result) -> bool:
    """Is it /dev/null?"""
    try:
        null = os.stat("/dev/null")
    except OSError:
        return False
    return found.st_mode & _TYPE == _DEVICE and found.st_rdev == null.st_rdev


def is_entry(path: bytes) -> bool:
    """Is there anything of this name, be it a link that leads nowhere?"""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # who opens it will see why
    return True


def temporary() -> bytes:
    """The folder of files without a name: TMPDIR of this process, else /tmp."""
    return inherited.get(b"TMPDIR") or b"/tmp"


class ControlFiles:
    """The files below `home`/control (bytes), read when first asked for.

    `kept` is for what others make of the files and want to have only once; what keeps
    files open has an attribute `descriptors`, which says how many.
    """

    __slots__ = ("home", "kept", "_files", "_wrong", "_cdbs", "_names")

    def __init__(self, home: bytes) -> None:
        self.home = home
        self.kept: dict[object, object] = {}
        self._files: dict[str, bytes | None] = {}
        self._wrong: dict[str, str] = {}  # why a file cannot be read
        self._cdbs: dict[bytes, Cdb] = {}
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
        if name in self._wrong:
            raise ControlError("control/" + name, self._wrong[name])
        if name not in self._files:
            try:
                self._files[name] = self._read(name)
            except ControlError as error:
                self._wrong[name] = error.reason
                raise
        return self._files[name]

    def read_ahead(self) -> None:
        """Read every file, whoever may ask for it later; what is wrong is said then.

        But for those that are no text: cdb files, certificates and keys; and for the
        passwords of qsmtpd-checkpassword, in whatever copy, which no session needs.
        """
        try:
            self.lists("")
        except ControlError:
            return
        left = AHEAD_LIMIT
        for entry in sorted(self._names or ()):
            if not entry.isascii() or USERS.encode("ascii") in entry:
                continue
            if not entry.endswith((b".cdb", b".pem")):
                try:
                    left -= len(self.read(entry.decode("ascii")) or b"")
                except ControlError:
                    pass
                if left <= 0:
                    break

    def has(self, name: str) -> bool:
        """Is there an entry of this name?  As lists(), and certain.

        True of what cannot be read: who reads it, raises the error.
        """
        if not self.lists(name):
            return False
        return (self._names is not None and "/" not in name) or is_entry(self.path(name))

    def cdb(self, name: str) -> Cdb | None:
        """The cdb file of this name, open, or None where there is no such file."""
        return self.cdb_at("control/" + name, self.path(name)) if self.lists(name) else None

    def cdb_at(self, name: str, path: bytes) -> Cdb | None:
        """The same of any path; errors call it `name`."""
        found = self._cdbs.get(path)
        if found is None:
            found = open_cdb(name, path)
            if found is not None:
                self._cdbs[path] = found
        return found

    @property
    def open_files(self) -> int:
        """How many files stay open: cdbs, and what is kept."""
        kept = (getattr(each, "descriptors", 0) for each in self.kept.values())
        return len(self._cdbs) + sum(kept)

    @property
    def open_sockets(self) -> set[int]:
        """The descriptors of sockets that stay open, of what is kept."""
        return {fd for each in self.kept.values() for fd in getattr(each, "sockets", ())}

    def _read(self, name: str) -> bytes | None:
        return read_regular("control/" + name, self.path(name)) if self.lists(name) else None
