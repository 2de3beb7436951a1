"""qsmtpd-maildir: a qmail-queue-compatible program that delivers into one Maildir.

It reads the message from fd 0, then the envelope from fd 1, and exits 0 only
when the message lies in new/ and the disk has it.  Exit codes are
qmail-queue's.  Nothing is left in tmp/ when it refuses.
"""

from __future__ import annotations

import errno
import os
import select
from time import time_ns

from .. import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn
else:
    import _signal as signal  # as in qsmtpd.child.spawn

ADDRESS_LIMIT = 1003  # bytes with the NUL, as in qmail-queue
DEATH = 86400  # seconds: qmail-queue's own limit
CHUNK = 65536

ADDRESS_TOO_LONG = 11
OUT_OF_MEMORY = 51
TIMEOUT = 52
WRITE_ERROR = 53  # or disk full
READ_ERROR = 54  # or an envelope that ends too early
NO_CONFIGURATION = 55
NO_HOME = 61
NO_FILE = 63
BUG = 81
BAD_ENVELOPE = 91
INTERRUPTED = 130

USAGE = """\
usage: QSMTPD_MAILDIR=directory qsmtpd-maildir
                           deliver the message on fd 0 with the envelope on fd 1
       qsmtpd-maildir --help | --version
"""
#: What a local part can have without quotes, besides letters and digits.
_PLAIN = frozenset(b"!#$%&'*+-/=?^_`{|}~.")


class DeliveryFailed(Exception):
    """The message is not delivered; the exit code that says why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def main(arguments: list[str]) -> NoReturn:
    """The program.  It takes no arguments; QSMTPD_MAILDIR names the Maildir."""
    if arguments in (["--help"], ["--version"]):
        text = USAGE if arguments == ["--help"] else f"qsmtpd-maildir {__version__}\n"
        os.write(1, text.encode())
        os._exit(0)
    code = 0
    home = os.environb.get(b"QSMTPD_MAILDIR", b"").rstrip(b" \t\r")  # as in every setting
    signal.signal(signal.SIGALRM, lambda *_: os._exit(TIMEOUT))
    signal.alarm(DEATH)
    try:
        if arguments or not home:
            raise DeliveryFailed(
                NO_CONFIGURATION, "QSMTPD_MAILDIR is not set, or there are arguments"
            )
        deliver(home, message=0, envelope=1)
    except DeliveryFailed as refused:
        code = refused.code
        _say(refused.reason)
    except MemoryError:
        code = OUT_OF_MEMORY
    except KeyboardInterrupt:
        code = INTERRUPTED
        _say("interrupted: nothing is delivered")
    except Exception as error:
        code = BUG
        _say(f"bug: {error!r}")
    os._exit(code)


def _say(text: str) -> None:
    """One line in the log, if it can be had at once: the exit code must not wait for it."""
    line = f"qsmtpd-maildir: {text}".encode("ascii", "backslashreplace")
    log = select.poll()
    log.register(2, select.POLLOUT)
    try:
        if log.poll(0):
            os.write(2, line[:4095] + b"\n")
    except OSError:
        pass


def deliver(home: bytes, message: int, envelope: int) -> None:
    """Deliver what the descriptors hold into the Maildir `home`.  Raises DeliveryFailed.

    The envelope comes last but its header lines stand first, so the message
    waits in a file without a name, of which nothing is left by a program that is
    killed meanwhile.  (One that is killed after that leaves its file in tmp/,
    where maildir(5) has old files removed.)
    """
    for part in (b"", b"/tmp", b"/new", b"/cur"):
        _checked(NO_HOME, "cannot make the Maildir", _make_directory, home + part)
    spool = _checked(NO_FILE, "cannot make a file in tmp/", _nameless, home + b"/tmp")
    while chunk := _read(message):
        _write(spool, chunk)
    header = _header(_read_envelope(envelope))
    name = _name()
    path = home + b"/tmp/" + name
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    file = _checked(NO_FILE, "cannot make a file in tmp/", os.open, path, flags, 0o600)
    try:
        _write(file, header)
        os.lseek(spool, 0, os.SEEK_SET)
        while chunk := _read(spool):
            _write(file, chunk)
        _checked(WRITE_ERROR, "cannot sync the file", os.fsync, file)
        _checked(WRITE_ERROR, "cannot close the file", os.close, file)
        _checked(WRITE_ERROR, "cannot move to new/", _move, path, home + b"/new/" + name)
        path = home + b"/new/" + name
        # The name is as much a part of the mail as its bytes: tmp/ and new/ both changed.
        for part in (b"/new", b"/tmp"):
            _checked(WRITE_ERROR, "cannot sync a directory", _sync_directory, home + part)
    except BaseException:
        _remove(path)
        raise


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
        if not os.path.samefile(path, place):
            raise
    except OSError:  # a file system without hard links, as FAT, or none between directories
        if os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(path, place)
        return
    _remove(path)  # if that fails: it is delivered, and tmp/ is cleaned by its readers


def _remove(path: bytes) -> None:
    """Remove a file, as far as that can be done: there is something more important to say."""
    try:
        os.unlink(path)
    except OSError:
        pass


def _read_envelope(fd: int) -> tuple[bytes, list[bytes]]:
    """`F` sender NUL (`T` recipient NUL)… NUL -> sender and recipients."""
    data = b""
    while chunk := _read(fd):
        data += chunk
    if not data.endswith(b"\0\0"):
        raise DeliveryFailed(READ_ERROR, "the envelope ends too early: nothing is delivered")
    fields = data[:-2].split(b"\0")
    if any(len(field) > ADDRESS_LIMIT for field in fields):  # its letter for its NUL
        raise DeliveryFailed(ADDRESS_TOO_LONG, "an address is too long")
    if fields[0][:1] != b"F" or any(field[:1] != b"T" for field in fields[1:]):
        raise DeliveryFailed(BAD_ENVELOPE, "the envelope is malformed")
    return fields[0][1:], [field[1:] for field in fields[1:]]


def _header(envelope: tuple[bytes, list[bytes]]) -> bytes:
    sender, recipients = envelope
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
    host = os.fsencode(os.uname().nodename)
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


def _nameless(directory: bytes) -> int:
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except (AttributeError, OSError):  # not Linux, or a file system that cannot
        path = directory + b"/spool.%d.%d" % (time_ns(), os.getpid())
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return fd


def _read(fd: int) -> bytes:
    return _checked(READ_ERROR, "cannot read", os.read, fd, CHUNK)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[_checked(WRITE_ERROR, "cannot write", os.write, fd, view) :]


if TYPE_CHECKING:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")


def _checked(code: int, what: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call it; an OSError is DeliveryFailed with this code (a full disk: WRITE_ERROR)."""
    try:
        return call(*args, **kwargs)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            code = WRITE_ERROR
        raise DeliveryFailed(code, f"{what}: {error.strerror}") from error
