"""qsmtpd-maildir: a qmail-queue-compatible program that delivers into one Maildir.

It reads the message from fd 0, then the envelope from fd 1, and exits 0 only
when the message lies in new/ and the disk has it.  Exit codes are
qmail-queue's.  Nothing is left in tmp/ when it refuses.
"""

from __future__ import annotations

import errno
import posix as os
from time import time_ns

from .interface import (
    ENVELOPE,
    MESSAGE,
    NO_CONFIGURATION,
    NO_FILE,
    NO_HOME,
    WRITE_ERROR,
    NotQueued,
    addresses,
    checked,
    chunks,
    run,
)

SEEK_SET = 0  # posix has no name for it
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

USAGE = """\
usage: QSMTPD_MAILDIR=directory qsmtpd-maildir
                           deliver the message on fd 0 with the envelope on fd 1
       qsmtpd-maildir --help | --version
"""
#: What a local part can have without quotes, besides letters and digits.
_PLAIN = frozenset(b"!#$%&'*+-/=?^_`{|}~.")


def main(arguments: list[str]) -> NoReturn:
    """The program.  It takes no arguments; QSMTPD_MAILDIR names the Maildir."""
    run("qsmtpd-maildir", USAGE, arguments, _work)


def _work(arguments: list[str]) -> int:
    home = os.environ.get(b"QSMTPD_MAILDIR", b"").rstrip(b" \t\r")  # as in every setting
    if arguments or not home:
        raise NotQueued(NO_CONFIGURATION, "QSMTPD_MAILDIR is not set, or there are arguments")
    deliver(home, MESSAGE, ENVELOPE)
    return 0


def deliver(home: bytes, message: int, envelope: int) -> None:
    """Deliver what the descriptors hold into the Maildir `home`.  Raises NotQueued.

    The envelope comes last but its header lines stand first, so the message
    waits in a file without a name, of which nothing is left by a program that is
    killed meanwhile.  (One that is killed after that leaves its file in tmp/,
    where maildir(5) has old files removed.)
    """
    for part in (b"", b"/tmp", b"/new", b"/cur"):
        checked(NO_HOME, "cannot make the Maildir", _make_directory, home + part)
    spool = checked(NO_FILE, "cannot make a file in tmp/", _nameless, home + b"/tmp")
    for chunk in chunks(message):
        _write(spool, chunk)
    sender, *recipients = addresses(envelope)
    header = _header(sender, recipients)
    name = _name()
    path = home + b"/tmp/" + name
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    file = checked(NO_FILE, "cannot make a file in tmp/", os.open, path, flags, 0o600)
    try:
        _write(file, header)
        os.lseek(spool, 0, SEEK_SET)
        for chunk in chunks(spool):
            _write(file, chunk)
        checked(WRITE_ERROR, "cannot sync the file", os.fsync, file)
        checked(WRITE_ERROR, "cannot close the file", os.close, file)
        checked(WRITE_ERROR, "cannot move to new/", _move, path, home + b"/new/" + name)
        path = home + b"/new/" + name
        # The name is as much a part of the mail as its bytes: tmp/ and new/ both changed.
        for part in (b"/new", b"/tmp"):
            checked(WRITE_ERROR, "cannot sync a directory", _sync_directory, home + part)
    except BaseException:
        _remove(path)
        raise


def _nameless(directory: bytes) -> int:
    """A file without a name in this directory, of which an exit leaves nothing.  Raises OSError."""
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except (AttributeError, OSError):  # not Linux, or a file system that cannot
        path = directory + b"/qsmtpd-" + os.urandom(16).hex().encode()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return fd


def _write(fd: int, data: bytes | bytearray) -> None:
    """All of it.  Raises NotQueued."""
    view = memoryview(data)
    while view:
        view = view[checked(WRITE_ERROR, "cannot write", os.write, fd, view) :]


def _name() -> bytes:
    """A name that no other file has (maildir(5): time, random, microseconds, process, host).

    Without the random part it could come twice: where two machines of one name
    share the Maildir, from the same process id in two containers, or after the
    clock was set back.
    """
    seconds, microseconds = divmod(time_ns() // 1000, 1_000_000)
    random = os.urandom(8).hex().encode()
    return b"%d.R%bM%dP%d.%b" % (seconds, random, microseconds, os.getpid(), _host())


def _move(path: bytes, place: bytes) -> None:
    """Give a file another name, which no file has: what has it is never replaced."""
    try:
        os.link(path, place)
    except FileExistsError:
        # Of a lost answer NFS hears that its own second try has found the file there.
        if _identity(path) != _identity(place):
            raise
    except OSError:  # a file system without hard links, as FAT, or none between directories
        if _identity(place) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(path, place)
        return
    _remove(path)  # if that fails: it is delivered, and tmp/ is cleaned by its readers


def _identity(path: bytes) -> tuple[int, int] | None:
    """What file has this name, be it a link; None where none has it."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: bytes) -> None:
    """Remove a file, as far as that can be done: there is something more important to say."""
    try:
        os.unlink(path)
    except OSError:
        pass


def _header(sender: bytes, recipients: list[bytes]) -> bytes:
    lines = [b"Return-Path: <" + _one_line(_quoted(sender)) + b">\n"]
    lines += [b"Delivered-To: " + _one_line(recipient) + b"\n" for recipient in recipients]
    return b"".join(lines)


def _quoted(address: bytes) -> bytes:
    """As qmail-local writes it: the local part in quotes where RFC 5322 wants them (3.4.1)."""
    local, at, domain = address.rpartition(b"@") if b"@" in address else (address, b"", b"")
    plain = all(byte in _PLAIN or bytes((byte,)).isalnum() for byte in local)
    if not address or (plain and all(local.split(b"."))):
        return address
    for special in (b"\\", b'"', b"\r", b"\n"):
        local = local.replace(special, b"\\" + special)
    return b'"' + local + b'"' + at + domain


def _one_line(address: bytes) -> bytes:
    """No control character leaves the header line; `_` is what qmail-local writes for a LF."""
    return bytes(byte if byte >= 32 and byte != 127 else 0x5F for byte in address)


def _host() -> bytes:
    # maildir(5): `/` and `:` in a host name are written in octal.
    host = os.uname().nodename.encode("utf-8", "surrogateescape")
    return host.replace(b"/", b"\\057").replace(b":", b"\\072")


def _make_directory(path: bytes) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    _sync_directory(path + b"/..")


def _sync_directory(path: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
