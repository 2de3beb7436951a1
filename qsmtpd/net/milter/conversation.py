"""One milter, and one session: what it is told, and what it answers."""

from __future__ import annotations

from ..daemon import Daemon, NoAnswer
from . import protocol
from .protocol import (
    ABORT,
    BODY,
    CHUNK,
    CONTINUE,
    END,
    END_OF_HEADER,
    HEADER,
    NEGOTIATE,
    PROGRESS,
    QUIT,
    SKIP,
    Answer,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NoReturn

    from ..daemon import Address

    Values = Iterable[tuple[bytes, bytes]]

#: Bytes of all answers to one command, and of all changes but those of the body.
LIMIT = 1 << 20
#: A body that is replaced may be twice as long as the message was, and this longer (bytes).
LONGER = 1 << 20
#: What needs no answer is sent when there is so much of it (bytes).
_BUFFER = 1 << 16


class Milter:
    """A connection to a milter, which has been negotiated.  Methods raise NoAnswer or Shutdown.

    Each command may take `seconds`, and all of the content of a message, with its end,
    `content` seconds.  An answer of None is: go on.  After NoAnswer it is closed.
    """

    __slots__ = ("options", "_daemon", "_seconds", "_content", "_output", "_body", "_skips")

    def __init__(self, address: Address, seconds: float, content: float) -> None:
        self._seconds = seconds
        self._content = content
        self._output = bytearray()
        self._body = bytearray()
        self._skips = False  # it wants no more of this body
        daemon = self._daemon = Daemon(address, seconds, LIMIT)
        try:
            daemon.send(protocol.negotiate())
            code, data = self._packet()
            if code != NEGOTIATE:
                raise ValueError("does not negotiate")
            self.options = protocol.parse_options(data)
        except ValueError as error:
            self._nonsense(error)
        except BaseException:
            daemon.close()
            raise

    def is_open(self) -> bool:
        """Can it be asked something?  Not where it has ended since."""
        return self._daemon.renew(self._seconds, LIMIT)

    def ask(self, command: bytes, data: bytes, macros: Values) -> Answer | None:
        """A command that is no part of a message's content, and the macros that go with it."""
        self._renew(self._seconds, LIMIT)
        self._tell(command, data, macros)
        return self._answer(command)

    # -- the content of a message ------------------------------------------

    def begin(self, size: int) -> None:
        """The content of a message comes, of so many bytes if that is known."""
        self._renew(self._content, 2 * size + LONGER + LIMIT)
        self._body.clear()
        self._skips = False

    def header(
        self, fields: Iterable[tuple[bytes, bytes]], macros: Values, end_macros: Values
    ) -> Answer | None:
        """All lines of the header, (name, value) as folded, and its end."""
        for name, value in fields:
            self._tell(HEADER, protocol.encode(name, value), macros)
            answer = self._answer(HEADER)
            if answer is not None:
                return answer
        self._tell(END_OF_HEADER, b"", end_macros)
        return self._answer(END_OF_HEADER)

    @property
    def wants_body(self) -> bool:
        """Is there any use in body()?"""
        return not (self._skips or self.options.steps & protocol.SILENT[BODY])

    def body(self, text: bytes) -> Answer | None:
        """Some more of the body, with LF line ends."""
        if not self.wants_body:
            return None
        self._body += protocol.wire_body(text)
        while len(self._body) >= CHUNK and not self._skips:
            piece = bytes(self._body[:CHUNK])
            del self._body[:CHUNK]
            self._tell(BODY, piece, ())
            answer = self._answer(BODY)
            if answer is not None and answer.code != SKIP:
                return answer
            self._skips = answer is not None
        if self._skips:
            self._body.clear()
        return None

    def end_body(self) -> Answer | None:
        """What is left of the body."""
        if not self._body:
            return None
        self._tell(BODY, bytes(self._body), ())
        self._body.clear()
        answer = self._answer(BODY)
        return None if answer is not None and answer.code == SKIP else answer

    def end(self, macros: Values) -> Iterator[Answer]:
        """The end of the message, behind end_body(): each change, and then the verdict."""
        self._tell(END, b"", macros)
        self._flush()
        while True:
            answer = self._read()
            if answer.code == PROGRESS:
                continue
            wanted = protocol.ACTIONS.get(answer.code)
            if wanted is not None and not self.options.actions & wanted:
                self._nonsense(ValueError("changes what it has not asked for"))
            yield answer
            if wanted is None:
                return

    # -- the end -----------------------------------------------------------

    def abort(self) -> None:
        """The transaction is over; there is no answer to that."""
        self._renew(self._seconds, LIMIT)
        self._output += protocol.packet(ABORT)
        self._flush()

    def quit(self, aborted: bool = False) -> None:
        """No more of this session; `aborted`: nor of the transaction under way."""
        try:
            if self.is_open():
                if aborted:
                    self._output += protocol.packet(ABORT)
                self._output += protocol.packet(QUIT)
                self._flush()
        except NoAnswer:
            pass
        self._daemon.close()

    def close(self) -> None:
        """Leave without a word."""
        self._daemon.close()

    # -- packets -----------------------------------------------------------

    def _renew(self, seconds: float, most: int) -> None:
        """Another command begins."""
        if not self._daemon.renew(seconds, most):
            self._daemon.close()
            raise NoAnswer("closed the connection, or said what nobody had asked")

    def _tell(self, command: bytes, data: bytes, macros: Values) -> None:
        """Send this with the next flush; of what it does not want to hear, the macros alone."""
        values = list(macros)
        if values:
            self._output += protocol.macros(command, values)
        if not self.options.steps & protocol.SILENT.get(command, 0):
            self._output += protocol.packet(command, data)

    def _answer(self, command: bytes) -> Answer | None:
        """The answer to it, if there is to be one."""
        steps = self.options.steps
        unheard = protocol.SILENT.get(command, 0) | protocol.UNANSWERED.get(command, 0)
        if steps & unheard:
            if len(self._output) >= _BUFFER:
                self._flush()
            return None
        self._flush()
        while True:
            answer = self._read()
            if answer.code == PROGRESS:
                continue
            if answer.code in protocol.ACTIONS or (answer.code == SKIP and command != BODY):
                self._nonsense(ValueError(f"answers {answer.code!r} before the end of a message"))
            return None if answer.code == CONTINUE else answer

    def _read(self) -> Answer:
        code, data = self._packet()
        try:
            return protocol.parse_answer(code, data)
        except ValueError as error:
            self._nonsense(error)

    def _packet(self) -> tuple[bytes, bytes]:
        try:
            length = protocol.packet_length(self._daemon.exactly(4))
        except ValueError as error:
            self._nonsense(error)
        packet = self._daemon.exactly(length)
        return packet[:1], packet[1:]

    def _flush(self) -> None:
        if self._output:
            output = bytes(self._output)
            self._output.clear()
            self._daemon.send(output)

    def _nonsense(self, error: ValueError) -> NoReturn:
        self._daemon.close()
        raise NoAnswer(f"talks nonsense: {error}") from error
