"""What edits control/smtpusers: the options of qsmtpd-checkpassword.

The password is asked for, never taken from an argument, which everybody on the
machine could read.  The file is replaced as a whole, so that a login at the same
time, or a crash, finds the old one or the new one; of two edits at once the
second waits for the first.
"""

from __future__ import annotations

import fcntl
import os

from ..config.files import SIZE_LIMIT
from ..facts import ControlError
from . import prepare, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.files import ControlFiles

#: Behind the name of the file: what the new one is called until it is complete.
TEMPORARY = b".tmp"


class EditRefused(Exception):
    """The file stays as it is; the reason."""


def run(arguments: list[bytes], files: ControlFiles) -> bool:
    """Do what these arguments say; return False if that is nothing that we know.

    Raises EditRefused and ControlError.
    """
    match arguments:
        case [b"--add", b"--cram", name]:
            add(files, name, users.Secret)
        case [b"--add", b"--scram", name]:
            add_scram(files, name)
        case [b"--add", name] if not name.startswith(b"-"):
            add(files, name, users.Hashed.of)
        case [b"--remove", name]:
            remove(files, name)
        case [b"--list"]:
            show(files)
        case _:
            return False
    return True


def add(files: ControlFiles, name: bytes, make: Callable[[bytes], users.Entry]) -> None:
    """Add a user, or replace the entry of one; `make` makes an entry of a password.

    Raises EditRefused and ControlError.
    """
    if not users.is_name(name):
        raise EditRefused("a name has 1 to 255 bytes, no colon and no control character")
    entry = make(ask_password())

    def change(known: users.Users) -> None:
        known[name] = entry
        if isinstance(entry, users.Scram) and not known.seed:
            known.seed = os.urandom(users.SEED_SIZE)

    edit(files, change)


def add_scram(files: ControlFiles, name: bytes) -> None:
    """The same for one with the keys of SCRAM.  Raises EditRefused and ControlError."""
    try:
        if users.is_name(name) and prepare.prepared(name) != name:
            raise EditRefused("clients of SCRAM cannot say this name: SASLprep changes it")
        add(files, name, users.Scram.of)
    except ValueError:
        raise EditRefused(
            "clients of SCRAM cannot say this password: SASLprep refuses it"
        ) from None
    except prepare.NoLibrary as error:
        raise EditRefused(f"what is not ASCII takes {error}") from None


def remove(files: ControlFiles, name: bytes) -> None:
    """Remove a user.  Raises EditRefused if there is none, and ControlError."""

    def change(known: users.Users) -> None:
        if name not in known:
            raise EditRefused("there is no such user")
        del known[name]

    edit(files, change)


def show(files: ControlFiles) -> None:
    """Print the name and the kind of every user; never a hash or a secret.

    Raises ControlError.
    """
    for name, entry in sorted(users.parse(files.read(users.FILE) or b"").items()):
        os.write(1, name + b":" + entry.kind + b"\n")


def edit(files: ControlFiles, change: Callable[[users.Users], None]) -> None:
    """Replace the file by one with this change; where it is a link, the file it leads to.

    Nobody else edits in between: the lock is on the directory, which stays
    when the file is replaced.  Raises what `change` does, and ControlError.
    """
    try:
        folder, name = os.path.split(os.path.realpath(files.path(users.FILE)))
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            known = users.parse(files.read(users.FILE) or b"")
            change(known)
            content = users.serialize(known)
            if len(content) > SIZE_LIMIT:
                raise EditRefused(f"the file would have more than {SIZE_LIMIT} bytes: too many")
            _replace(directory, name, content)
        finally:
            os.close(directory)
    except OSError as error:
        raise ControlError("control/" + users.FILE, error.strerror or "unwritable") from error


def ask_password() -> bytes:
    """Asked for twice on a terminal, else one line of standard input.  Raises EditRefused."""
    password = _from_terminal() if os.isatty(0) else _from_input()
    if not users.is_secret(password):
        raise EditRefused("a password has 1 to 1024 bytes and no control character")
    return password


def _from_terminal() -> bytes:
    from getpass import getpass

    try:
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            raise EditRefused("the two are not the same")
    except EOFError:
        os.write(2, b"\n")  # the prompt stands on this line
        raise EditRefused("no password") from None
    except KeyboardInterrupt:
        os.write(2, b"\n")
        raise EditRefused("interrupted: nothing is changed") from None
    except UnicodeError:  # its text holds the password
        raise EditRefused("the password is not in the encoding of the terminal") from None
    # Clients send UTF-8 (RFC 4616), whatever the terminal may speak.
    return password.encode("utf-8", "surrogateescape")


def _from_input() -> bytes:
    data = b""
    while b"\n" not in data and len(data) <= users.SECRET_LIMIT + 1 and (part := os.read(0, 4096)):
        data += part
    return data.partition(b"\n")[0]


def _replace(directory: int, name: bytes, content: bytes) -> None:
    """Put a file with this content in place of the old one, with its owner and mode.

    A first file is for its owner alone.  Raises OSError; the old file is then
    still there, unless only its replacement could not be made to last.
    """
    temporary = name + TEMPORARY
    try:
        os.unlink(temporary, dir_fd=directory)  # from an edit that was killed
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        _take_after(file, directory, name)
        view = memoryview(content)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(file)
    os.fsync(directory)


def _take_after(file: int, directory: int, name: bytes) -> None:
    """Give the new file the owner and the mode of the old one, if there is one."""
    try:
        old = os.stat(name, dir_fd=directory)
    except FileNotFoundError:
        return
    new = os.fstat(file)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(file, old.st_uid, old.st_gid)
    os.fchmod(file, old.st_mode & 0o777)
