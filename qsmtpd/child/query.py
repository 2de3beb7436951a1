"""A question to a program, which answers by its exit status, or by what it writes.

Of checkpassword's kind, with what it is asked on descriptor 3, or with words
for the client on descriptor 4, and perhaps a message on descriptor 0; or of
qmail-spp's, with its answer on descriptor 1.  One that has not answered in time is
ended with its whole group; only an exit by itself is an answer.
"""

from __future__ import annotations

import posix as os
import select
from time import monotonic

from .. import waits
from .spawn import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE, OUTPUT, QUESTION, WORDS = 0, 1, 3, 4  # the program's descriptors
#: The maximum of what is kept of its words (bytes); the rest is read and forgotten.
LIMIT = 255
#: The same, where they may be lines.
LINES_LIMIT = 16384
_CHUNK = 65536


class Answer:
    """How the program ended.

    `status` is its exit status, or None where it could not be started, was
    killed or took too long; `how` says it for the log.  `words` are one line of
    printable ASCII, the beginning of its `text`, which is as it came.
    """

    __slots__ = ("status", "how", "words", "text")

    def __init__(self, status: int | None, how: str, text: bytes = b"") -> None:
        self.status = status
        self.how = how
        self.words = _flatten(text[:LIMIT])
        self.text = text


def ask(
    command: list[bytes],
    environ: Mapping[bytes, bytes],
    seconds: float,
    question: bytes | None = None,
    search: bool = False,
    message: int | None = None,
) -> Answer:
    """Run the program and wait for its answer.  Raises Shutdown, and nothing else of its own.

    With a question it has that on descriptor 3, else a pipe for its words on
    descriptor 4.  With `search`, it is looked for in our PATH.  `message` is a descriptor
    of ours, of a file, that it has as its descriptor 0.
    """
    heard = -1
    try:
        reading, writing = os.pipe()
    except OSError as error:
        return Answer(None, _reason(error))
    try:
        if question is None:
            heard = reading
            os.set_blocking(heard, False)
            # The message first: its descriptor may be what is 4 here.
            places = {} if message is None else {message: MESSAGE}
            process = Process(command, environ, {**places, writing: WORDS}, search)
        else:
            # It fits into any pipe of the usual size; where pipes are small,
            # half a question is none.
            os.set_blocking(writing, False)
            if os.write(writing, question) != len(question):
                return Answer(None, "cannot be asked")
            process = Process(command, environ, {reading: QUESTION}, search)
    except OSError as error:
        heard = -1
        return Answer(None, _reason(error))
    finally:
        for fd in (reading, writing):
            if fd != heard:
                os.close(fd)
    limit = LIMIT if message is None else LINES_LIMIT
    return _answer(process, _Words(process, heard, limit), seconds)


def read(command: list[bytes], environ: Mapping[bytes, bytes], seconds: float, most: int) -> Answer:
    """The same of a program that writes its answer to descriptor 1: it is the `text`.

    One that writes more than `most` bytes has no status, and finds nobody who reads it.
    """
    try:
        reading, writing = os.pipe()
    except OSError as error:
        return Answer(None, _reason(error))
    try:
        os.set_blocking(reading, False)
        process = Process(command, environ, {writing: OUTPUT})
    except OSError as error:
        os.close(reading)
        return Answer(None, _reason(error))
    finally:
        os.close(writing)
    words = _Words(process, reading, most, whole=True)
    answer = _answer(process, words, seconds)
    if words.excess:
        return Answer(None, f"writes more than {most} bytes")
    return answer


def _answer(process: Process, words: _Words, seconds: float) -> Answer:
    try:
        ended = process.wait(monotonic() + seconds, words.poll)
        if not ended:
            process.end()
    except BaseException:  # the time of whoever asks is over: do not leave it behind
        process.end(0.0)
        raise
    finally:
        words.close()
        process.close()
    status = process.status
    if not ended or status is None:
        return Answer(None, "timeout")
    if status < 0:
        return Answer(None, "unknown")
    if os.WIFSIGNALED(status):
        return Answer(None, f"signal {os.WTERMSIG(status)}")
    code = os.WEXITSTATUS(status)
    return Answer(code, f"exit {code}", words.text)


class _Words:
    """What the program writes: the beginning is kept, and all of it is read, or it would hang.

    With `whole`, nothing of it counts where it is more than the limit: there is an `excess`.
    """

    __slots__ = ("text", "excess", "_process", "_fd", "_open", "_limit", "_whole")

    def __init__(self, process: Process, fd: int, limit: int, whole: bool = False) -> None:
        self.text = b""
        self.excess = False
        self._limit = limit
        self._whole = whole
        self._process = process
        self._fd = fd
        self._open = fd >= 0

    def poll(self, poll: select.poll, deadline: float) -> list[int]:
        """One wait, for the exit and for words."""
        if self._open:
            poll.register(self._fd, select.POLLIN)
        ready = self._process.poll(poll, deadline)
        waits.check()
        if self._open and self._fd in ready:
            self._read()
            if not self._open:
                poll.unregister(self._fd)
                if self.excess:
                    self.close()
        return ready

    def _read(self) -> None:
        try:
            heard = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        self._open = bool(heard)
        text = self.text + heard
        if self._whole and len(text) > self._limit:
            self.excess = True
            self._open = False
        self.text = text[: self._limit]

    def close(self) -> None:
        """Read what is there, and no more: somebody else may hold it open."""
        if self._open:
            self._read()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _flatten(text: bytes) -> bytes:
    """One line that is safe in a reply."""
    text = bytes(byte if 32 <= byte < 127 else 32 for byte in text)
    return b" ".join(text.split())


def _reason(error: OSError) -> str:
    return f"cannot be started: {error.strerror}"
