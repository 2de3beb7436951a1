"""Questions to DNS servers, many at once, within one deadline.

Whoever can guess a question can send a false answer to it.  So each try has a socket
of its own, connected to the server, whose port is chosen by the kernel (at random, as
Linux does), and an id of 16 bits from the kernel's random numbers (RFC 5452).  What does
not fit the question, comes from elsewhere or cannot be read is passed over: the wait goes
on.  What is too long for UDP is asked for again by TCP (RFC 7766).

A try that has no answer yet is not given up when the next one begins: a late answer
counts, too.
"""

from __future__ import annotations

import errno
import posix as os
import select
from time import monotonic

from ... import waits
from .message import is_truncated

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from .message import Answer, Question
    from .settings import Server
else:
    import _socket as socket  # socket.py imports enum, which costs a cold start 4 ms

#: How long the first try of each server waits before the next one begins (seconds); it is
#: doubled when all of them have been tried.
FIRST_WAIT = 1.0
#: How many questions are asked at once: each has a descriptor or more.
AT_ONCE = 32
#: The maximum of tries of one question.
TRIES_LIMIT = 16
#: How long a question waits that finds no descriptor (seconds).
NO_SOCKET_WAIT = 0.05
LARGEST = 65535  # bytes of a message
TIMEOUT = "timeout"


class Exchange:
    """All questions of one deadline.

    `first` is the server that is asked first; afterwards, the one that has answered last.
    """

    def __init__(self, servers: Sequence[Server], deadline: float, first: int = 0) -> None:
        self.first = first
        self._servers = servers
        self._deadline = deadline
        self._poll = select.poll()
        self._ways: dict[int, _Way] = {}

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers to these, in their order.  Raises Shutdown."""
        asked = [_Asked(question, self.first) for question in questions]
        waiting = asked[::-1]
        active: list[_Asked] = []
        try:
            while (now := monotonic()) < self._deadline:
                while waiting and len(active) < AT_ONCE:
                    active.append(waiting.pop())
                for one in active:
                    while one.answer is None and one.next_try <= now:
                        self._try(one, now)
                active = [one for one in active if one.answer is None]
                if not active and not waiting:
                    break
                if active:
                    self._wait(min(self._deadline, *(one.next_try for one in active)))
        finally:
            for way in list(self._ways.values()):
                self._close(way)
        return [one.answer or one.question.troubled(one.reason or TIMEOUT) for one in asked]

    def _wait(self, deadline: float) -> None:
        for fd in waits.wait(self._poll, deadline):
            way = self._ways.get(fd)
            if way is not None:  # else an answer before it has closed it
                self._proceed(way)
        waits.check()

    def _try(self, asked: _Asked, now: float) -> None:
        """Ask the next server, or one of them again."""
        number = asked.tries % len(self._servers)
        rounds = asked.tries // len(self._servers)
        asked.tries += 1
        asked.next_try = now + FIRST_WAIT * 2**rounds
        if asked.tries >= TRIES_LIMIT:
            asked.next_try = waits.NEVER
        self._open(asked, (asked.first + number) % len(self._servers), stream=False)

    def _open(self, asked: _Asked, server: int, stream: bool) -> None:
        """Begin to ask this server."""
        place = self._servers[server]
        kind = (socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK
        way = None
        try:
            way = _Way(asked, server, socket.socket(place.family, kind), stream)
            self._ways[way.socket.fileno()] = way
            code = way.socket.connect_ex(place.address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
            if not stream:
                way.socket.send(way.unsent)
            self._poll.register(way.socket, select.POLLOUT if stream else select.POLLIN)
        except OSError as error:
            if way is None and self._ways:  # there may be one when others have ended
                asked.tries -= 1
                asked.next_try = monotonic() + NO_SOCKET_WAIT
            else:
                self._fail(asked, way, error.strerror or "no socket")

    def _proceed(self, way: _Way) -> None:
        """This one is ready for something."""
        try:
            wire = way.streamed(self._poll) if way.stream else way.socket.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(way.asked, way, error.strerror or "unreachable")
            return
        if wire is None:
            return  # TCP: there is more to come
        asked = way.asked
        answer = None
        if asked.question.is_answered_by(wire, way.id):
            if is_truncated(wire) and not way.stream:
                self._close(way)
                self._open(asked, way.server, stream=True)
                return
            answer = asked.question.read(wire)
        if answer is None:
            asked.reason = asked.reason or "no answer that makes sense"
            if way.stream:
                self._fail(asked, way, asked.reason)
        elif answer.trouble:
            self._fail(asked, way, answer.trouble)
        else:
            self.first = way.server
            self._settle(asked, answer)

    def _fail(self, asked: _Asked, way: _Way | None, reason: str) -> None:
        """That server does not help: the next one is asked, if one is left."""
        asked.reason = reason
        if way is not None:
            self._close(way)
        if asked.tries < len(self._servers):
            asked.next_try = 0.0
        elif not any(other.asked is asked for other in self._ways.values()):
            self._settle(asked, asked.question.troubled(reason))

    def _settle(self, asked: _Asked, answer: Answer) -> None:
        asked.answer = answer
        for way in list(self._ways.values()):
            if way.asked is asked:
                self._close(way)

    def _close(self, way: _Way) -> None:
        fd = way.socket.fileno()
        if self._ways.pop(fd, None) is not None:
            try:
                self._poll.unregister(fd)
            except KeyError:
                pass
        way.socket.close()


class _Asked:
    """A question, and what has become of it so far."""

    __slots__ = ("question", "first", "answer", "tries", "next_try", "reason")

    def __init__(self, question: Question, first: int) -> None:
        self.question = question
        self.first = first  # the server of the first try
        self.answer: Answer | None = None
        self.tries = 0
        self.next_try = 0.0  # monotonic
        self.reason = ""  # why there is none


class _Way:
    """One try: a socket that is connected to a server, by UDP or as a stream, by TCP."""

    __slots__ = ("asked", "server", "socket", "stream", "id", "unsent", "_received")

    def __init__(self, asked: _Asked, server: int, made: socket.socket, stream: bool) -> None:
        self.asked = asked
        self.server = server
        self.socket = made
        self.stream = stream
        self.id = os.urandom(2)
        self.unsent = asked.question.wire(self.id)
        if stream:
            self.unsent = len(self.unsent).to_bytes(2, "big") + self.unsent
        self._received = b""

    def streamed(self, poll: select.poll) -> bytes | None:
        """Send or receive more; the message when it is whole.  Raises OSError."""
        if self.unsent:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
            if not self.unsent:
                poll.modify(self.socket, select.POLLIN)
            return None
        part = self.socket.recv(LARGEST)
        if not part:
            raise OSError(0, "an answer without an end")
        self._received += part
        end = 2 + int.from_bytes(self._received[:2], "big")
        if len(self._received) < max(end, 2):
            return None
        return self._received[2:end]
