"""One run of a qmail-queue-compatible program.

The program reads the message on fd 0 and then the envelope on fd 1: `F` sender
NUL, for each recipient `T` recipient NUL, and one NUL more (qmail-queue(8)).
That last NUL is the commit.  Without it the program must queue nothing, so not
one byte of the envelope is written, or held where an exit could flush it,
before commit(); and abort() closes the envelope's pipe first.

Only exit status 0 says that the message is queued: not a death by signal, and
not an exit 0 of a program that we know did not read everything.
"""

from __future__ import annotations

import posix as os
import select
from time import monotonic

from .. import waits
from .spawn import GRACE, LOST, Process, close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.session import QueueSettings

#: The message's pipe, once it has been full, is made this large (bytes), so that
#: the two programs take turns less often.  Not larger, and not at once: Linux
#: has 64 MB for all the pipes of a user; beyond that he gets the smallest ones.
PIPE_SIZE = 256 * 1024
#: qmail-queue's convention for the text on the error descriptor.
ERROR_LIMIT = 255

_PERMANENT = b"qq permanent problem (#5.3.0)"
_TEMPORARY = b"qq temporary problem (#4.3.0)"
_CRASHED = b"qq crashed (#4.3.0)"
_SURPRISE = b"qq waitpid surprise (#4.3.0)"
_TIMEOUT = b"qq timeout (#4.3.0)"
_READ_ERROR = b"qq read error (#4.3.0)"

#: qmail-smtpd's text for each exit status; 11 to 40 are permanent, all others
#: temporary, except 115.
TEXTS: dict[int, bytes] = {
    11: b"envelope address too long for qq (#5.1.3)",
    115: b"envelope address too long for qq (#5.1.3)",
    31: b"mail server permanently rejected message (#5.3.0)",
    51: b"qq out of memory (#4.3.0)",
    52: _TIMEOUT,
    53: b"qq write error or disk full (#4.3.0)",
    54: _READ_ERROR,
    55: b"qq unable to read configuration (#4.3.0)",
    56: b"qq trouble making network connection (#4.3.0)",
    61: b"qq trouble in home directory (#4.3.0)",
    62: b"qq trouble creating files in queue (#4.3.0)",
    63: b"qq trouble creating files in queue (#4.3.0)",
    64: b"qq trouble creating files in queue (#4.3.0)",
    65: b"qq trouble creating files in queue (#4.3.0)",
    66: b"qq trouble creating files in queue (#4.3.0)",
    71: b"mail server temporarily rejected message (#4.3.0)",
    72: b"connection to mail server timed out (#4.4.1)",
    73: b"connection to mail server rejected (#4.4.1)",
    74: b"communication with mail server failed (#4.4.2)",
    81: b"qq internal bug (#4.3.0)",
    91: b"qq internal bug (#4.3.0)",
    120: b"unable to exec qq (#4.3.0)",
}

_CONTENT = b"sorry, invalid message content%b (#5.3.2)"  # REPLY_CONTENT
_NO_KEY = b"Private key file does not exist (#5.3.5)"
#: What a status means to the queue programs of others, where that differs from
#: TEXTS: QUEUEEXITS says whose it is.
EXITS: dict[str, dict[int, bytes]] = {
    "stock": {},
    "spamcontrol": dict.fromkeys((32, 33, 34), _CONTENT),  # virus, spam, attachment
    "indimail": {
        32: b"SPAM or junk mail threshold exceeded (#5.7.1)",
        33: b"Message contains virus (#5.7.1)",
        34: b"Message contains banned attachment (#5.7.1)",
        35: _NO_KEY,
        50: b"unable to set uid/gid (#4.3.0)",
        79: b"qq Envelope format error (#4.3.0)",
        91: b"qq Envelope format error (#4.3.0)",
    },
    "sagredo": {32: _NO_KEY},
}


_NOTHING: Mapping[str, bytes] = {}


class CannotExec(Exception):
    """The queue program could not be started: the reason."""


class CannotStart(CannotExec):
    """There was no pipe or no process to be had."""


class Verdict:
    """What became of the message.

    `accepted`: it is queued.  Else `permanent` tells 5xx from 4xx and `text`
    is the reply without its code.  `exit` says for the log how the program
    ended; `ambiguous`, that it may have queued the message all the same; `more`,
    what else the log should know.
    """

    __slots__ = ("accepted", "permanent", "text", "exit", "ambiguous", "more")

    def __init__(
        self,
        accepted: bool,
        text: bytes = b"",
        permanent: bool = False,
        exit: str = "",
        ambiguous: bool = False,
        more: Mapping[str, bytes] = _NOTHING,
    ) -> None:
        self.accepted = accepted
        self.permanent = permanent
        self.text = text
        self.exit = exit
        self.ambiguous = ambiguous
        self.more = more


class Queue:
    """A running queue program.  Raises CannotStart or CannotExec.

    `environ` is its environment.  After start: feed() the message, then either
    commit() or abort(), once.  As a context manager it aborts what was not
    committed.
    """

    __slots__ = (
        "pid",
        "_settings",
        "_message",
        "_envelope",
        "_envelope_reader",
        "_error",
        "_process",
        "_said",
        "_broken",
        "_stalled",
        "_ended",
    )

    def __init__(self, settings: QueueSettings, environ: Mapping[bytes, bytes]) -> None:
        self._settings = settings
        self._said = b""
        self._broken = False  # a write failed: exit 0 is no yes any more
        self._stalled = False  # it took no bytes for too long
        self._ended = False  # there has been a verdict, or an abort
        pipes: list[int] = []
        try:
            for _ in range(3):
                pipes.extend(os.pipe())
            # Of our ends alone: the program's are other open files.
            for fd in (pipes[1], pipes[3]):
                os.set_blocking(fd, False)
        except OSError as error:
            close_all(pipes)
            raise CannotStart(error.strerror) from error
        message, self._message, envelope, self._envelope, self._error, said = pipes
        # Kept, to learn what of it was read.  Nothing is written to this pipe before the commit;
        # what then finds no reader is found when the program has exited.
        self._envelope_reader = envelope
        try:
            self._process = Process(
                [settings.program],
                environ,
                {message: 0, envelope: 1, said: settings.error_fd},
            )
        except OSError as error:
            close_all(pipes)
            if isinstance(error, BlockingIOError):  # EAGAIN: no process to be had
                raise CannotStart(error.strerror) from error
            raise CannotExec(error.strerror) from error
        self.pid = self._process.pid
        close_all([message, said])

    def feed(self, data: bytes) -> None:
        """Give it more of the message.  A failure shows in the verdict.  Raises Shutdown."""
        if data and not self._broken:
            self._write(self._message, data, waits.NEVER)

    def commit(self, sender: bytes, recipients: list[bytes]) -> Verdict:
        """Write the envelope, wait for the program to exit, and judge.

        Only here can the message become queued.
        """
        deadline = monotonic() + self._settings.timeout
        message_reader = _reading_end(self._message)
        self._close_message()
        if not self._broken:
            to = b"".join([b"T%b\0" % recipient for recipient in recipients])
            self._write(self._envelope, b"F%b\0%b\0" % (sender, to), deadline)
        committed = not self._broken
        self._close_envelope()
        ended = self._process.wait(
            deadline if committed else monotonic() + self._patience(),
            self._poll,
            verdict=committed,
        )
        if not ended:
            self._process.end()
        self._look_back(message_reader)
        self._ended = True
        return self._judge(ambiguous=committed and not ended)

    def abort(self) -> None:
        """End it with nothing queued.  May be called again, and after commit()."""
        self._close_envelope()
        self._close_message()
        self._broken = True
        if not self._process.wait(monotonic() + self._patience(), self._poll):
            self._process.end()
        self._close_rest()
        self._ended = True

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._ended:
            self.abort()

    # -- inside ------------------------------------------------------------

    def _patience(self) -> float:
        """How long to wait for an exit without a commit: not at all where it hangs."""
        return 0.0 if self._stalled else GRACE

    def _write(self, fd: int, data: bytes, end: float) -> None:
        """Write all of it, if it goes on within the write timeout and before `end`."""
        view = memoryview(data)
        while True:
            try:
                written = os.write(fd, view)
                if written == len(view):
                    return
                view = view[written:]
            except BlockingIOError:
                if not self._writable(fd, min(end, monotonic() + self._settings.write_timeout)):
                    return
            except OSError:  # EPIPE: nobody reads any more
                self._broken = True
                return

    def _writable(self, fd: int, deadline: float) -> bool:
        """Wait for room in a pipe; False where the program ends or stalls instead."""
        if fd == self._message:
            _enlarge(fd)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while True:
            deadline = waits.verdict(deadline)
            ready = self._poll(poll, deadline)
            if fd in ready:
                return True
            if fd == self._message and waits.requested():  # nothing can have been queued yet
                self._stalled = True
                waits.check()
            if self._process.exited() or monotonic() >= deadline:
                self._stalled = not self._process.exited()
                self._broken = True
                return False

    def _poll(self, poll: select.poll, deadline: float) -> list[int]:
        """One wait: for what `poll` has, for the program's exit and for its error text."""
        if self._error >= 0:
            poll.register(self._error, select.POLLIN)
        ready = self._process.poll(poll, deadline)
        if self._error in ready and not self._process.told(ready):
            poll.unregister(self._error)
            self._hear()
        return ready

    def _look_back(self, message_reader: int) -> None:
        """It has ended: what did it leave unread, and what has it still said?"""
        readers = [fd for fd in (message_reader, self._envelope_reader) if fd >= 0]
        poll = select.poll()
        for fd in (*readers, self._error):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        try:
            full = [fd for fd, event in poll.poll(0) if event & select.POLLIN]
        except OSError:
            full = []  # not to be known, as of the message where there is no /proc
        if any(fd in full for fd in readers):
            self._broken = True
        if self._error in full:  # only what is there: somebody else may hold it open
            self._hear()
        if message_reader >= 0:
            os.close(message_reader)

    def _hear(self) -> None:
        """Take some of what is on the error descriptor, and keep the beginning of it all.

        One read at a time, and where poll() has seen something: whoever writes without end, or
        nothing, must not keep us here.
        """
        try:
            heard = os.read(self._error, 65536)
        except OSError:
            heard = b""
        if heard:
            self._said = (self._said + heard)[:ERROR_LIMIT]
            return
        os.close(self._error)
        self._error = -1

    def _judge(self, ambiguous: bool) -> Verdict:
        self._close_rest()
        status = self._process.status
        if self._stalled or ambiguous or status is None:
            return Verdict(False, _TIMEOUT, exit="timeout", ambiguous=ambiguous)
        if status == LOST:
            return Verdict(False, _SURPRISE, exit="unknown", ambiguous=not self._broken)
        if os.WIFSIGNALED(status):
            return Verdict(False, _CRASHED, exit=f"signal {os.WTERMSIG(status)}")
        code = os.WEXITSTATUS(status)
        if code == 0 and not self._broken:
            return Verdict(True, exit="0")
        exit = str(code)
        if code == 0:
            return Verdict(False, _READ_ERROR, exit="0, but did not read everything")
        if code in self._custom_codes() and len(self._said) > 2:
            permanent = self._said[:1] == b"D"
            text = flatten(self._said[1:] if self._said[:1] in b"DZ" else self._said)
            if text:
                return Verdict(False, text, permanent, exit)
        permanent = 11 <= code <= 40 or code == 115
        texts = {**TEXTS, **EXITS[self._settings.exits]}
        text = texts.get(code, _PERMANENT if permanent else _TEMPORARY)
        if text is _CONTENT:
            text %= self._settings.content
        return Verdict(False, text, permanent, exit)

    def _custom_codes(self) -> tuple[int, ...]:
        # notqmail: 82, on fd 6.  The patches that use another fd know 88 as well.
        return (82,) if self._settings.error_fd == 6 else (82, 88)

    def _close_message(self) -> None:
        if self._message >= 0:
            os.close(self._message)
            self._message = -1

    def _close_envelope(self) -> None:
        if self._envelope >= 0:
            os.close(self._envelope)
            self._envelope = -1

    def _close_rest(self) -> None:
        for fd in (self._envelope_reader, self._error):
            if fd >= 0:
                os.close(fd)
        self._envelope_reader = self._error = -1
        self._process.close()


def _enlarge(pipe: int) -> None:
    try:
        import fcntl  # now: most messages fit

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except (AttributeError, ImportError, OSError):
        pass  # not Linux, or it has reached a limit


def _reading_end(pipe: int) -> int:
    """A reading end of the message's pipe, whose writing end this is; -1 where /proc has none.

    It is opened when all is written, just before the writing end is closed: earlier, it would
    hide that nobody reads any more, and who has closed the message must not be given the envelope.
    """
    try:
        return os.open(b"/proc/self/fd/%d" % pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1


def flatten(text: bytes) -> bytes:
    """One line that is safe in a reply: printable ASCII, nothing else."""
    text = bytes(byte if 32 <= byte < 127 else 32 for byte in text)
    return b" ".join(text.split())
