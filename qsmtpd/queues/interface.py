"""qmail-queue's interface, from the side of the program: what the queue programs of ours share.

The message comes on fd 0 and then the envelope on fd 1; the exit code says what became of
them (qmail-queue(8)).  Those that only qmail-qmqpc has are in net/qmqphandover.py.
"""

from __future__ import annotations

import errno
import posix as os  # os.py costs a cold start two milliseconds
import select

from .. import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from typing import NoReturn, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")
else:
    import _signal as signal  # as in qsmtpd.child.spawn

MESSAGE, ENVELOPE = 0, 1  # descriptors
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
CUSTOM_TEXT = 82
BAD_ENVELOPE = 91
INTERRUPTED = 130

_TOO_EARLY = "the envelope ends too early: nothing is delivered"
_MALFORMED = "the envelope is malformed"


class NotQueued(Exception):
    """The message is not queued; the exit code and, for the log, the words that say why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def run(name: str, usage: str, arguments: list[str], work: Callable[[list[str]], int]) -> NoReturn:
    """A queue program: --help, --version, or work(arguments), whose result is the exit code.

    work() raises NotQueued; the reason is then logged.
    """
    if arguments in (["--help"], ["--version"]):
        text = usage if arguments == ["--help"] else f"{name} {__version__}\n"
        os.write(1, text.encode())
        os._exit(0)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(TIMEOUT))
    signal.alarm(DEATH)
    try:
        code = work(arguments)
    except NotQueued as refused:
        code = refused.code
        say(f"{name}: {refused.reason}")
    except MemoryError:
        code = OUT_OF_MEMORY
    except KeyboardInterrupt:
        code = INTERRUPTED
        say(f"{name}: interrupted")
    except Exception as error:
        code = BUG
        say(f"{name}: bug: {error!r}")
    os._exit(code)


def say(text: str) -> None:
    """One line in the log, if it can be had at once: the exit code must not wait for it."""
    tell(2, text.encode("ascii", "backslashreplace")[:4095] + b"\n")


def tell(fd: int, data: bytes) -> bool:
    """Write this to a pipe or file that may be full, or closed; was it written?"""
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    try:
        return bool(ready.poll(0)) and os.write(fd, data) == len(data)
    except OSError:
        return False


def chunks(fd: int) -> Iterator[bytes]:
    """What a descriptor still has.  Raises NotQueued."""
    while chunk := checked(READ_ERROR, "cannot read", os.read, fd, CHUNK):
        yield chunk


def addresses(fd: int) -> Iterator[bytes]:
    """The envelope: its sender, then each recipient, as they are read.  Raises NotQueued.

    It is `F` sender NUL, for each recipient `T` recipient NUL, and one NUL more; what has been
    said before an error is worth nothing.
    """
    letter = b"F"
    rest = b""
    ended = False
    for chunk in chunks(fd):
        *fields, rest = (rest + chunk).split(b"\0")
        for field in fields:
            if ended:
                raise NotQueued(BAD_ENVELOPE, _MALFORMED)
            if not field and letter == b"T":
                ended = True
                continue
            yield _address(field, letter)
            letter = b"T"
        if len(rest) > ADDRESS_LIMIT:
            raise NotQueued(ADDRESS_TOO_LONG, "an address is too long")
    if rest or not ended:
        raise NotQueued(READ_ERROR, _TOO_EARLY)


def _address(field: bytes, letter: bytes) -> bytes:
    if len(field) > ADDRESS_LIMIT:  # its letter for its NUL
        raise NotQueued(ADDRESS_TOO_LONG, "an address is too long")
    if field[:1] != letter:
        raise NotQueued(BAD_ENVELOPE, _MALFORMED)
    return field[1:]


def checked(code: int, what: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call it; an OSError is NotQueued with this code (a full disk: WRITE_ERROR)."""
    try:
        return call(*args, **kwargs)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            code = WRITE_ERROR
        raise NotQueued(code, f"{what}: {error.strerror}") from error
