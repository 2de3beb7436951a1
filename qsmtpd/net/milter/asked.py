"""One milter of the list, as a session asks it: when it is connected, and what its answers mean."""

from __future__ import annotations

from ...decision import DECLINE, Decision, defer, drop, reject
from ..daemon import TIMEOUT, NoAnswer
from . import protocol
from .conversation import Milter
from .macros import chosen, of_client
from .protocol import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...facts import Client
    from ..daemonlist import Listed
    from .edit import Edit

    Log = Callable[..., None]

REJECTED = reject(b"Command rejected", 550, b"5.7.1")
UNAVAILABLE = defer(b"Service unavailable - try again later", 451, b"4.7.1")
GOODBYE = drop(UNAVAILABLE.text, 421, b"4.7.1")
#: The same where it refuses the connection, which then ends.
_AT_CONNECT = {
    protocol.REJECT: drop(REJECTED.text, 554, b"5.7.1"),
    protocol.TEMPFAIL: GOODBYE,
}
_VERDICTS = {
    protocol.REJECT: REJECTED,
    protocol.TEMPFAIL: UNAVAILABLE,
    protocol.SHUTDOWN: GOODBYE,
    protocol.CONNECTION_FAILURE: GOODBYE,
}
_CONNECTION = (protocol.CONNECT, protocol.HELO)
#: For the log.
_NAMES = {
    protocol.CONNECT: "connect",
    protocol.HELO: "helo",
    protocol.MAIL: "mail",
    protocol.RCPT: "rcpt",
    protocol.DATA: "data",
    protocol.HEADER: "header",
    protocol.BODY: "body",
    protocol.END: "end",
    protocol.UNKNOWN: "unknown",
}


class Asked:
    """`line` is where it stands in the list, `content` its time for a message (seconds).

    Methods that ask return a refusal, or None: go on.  `failed` is what holds for the
    transaction since it gave no answer, if that is a refusal; `discards`: it wants the
    message to be taken, and forgotten.  `known` are the macros for what is asked next.
    """

    __slots__ = (
        "line",
        "failed",
        "discards",
        "known",
        "id",
        "_content",
        "_log",
        "_milter",
        "_over",
        "_refuses",
        "_gives_up",
        "_begun",
        "_accepts",
    )

    def __init__(self, line: Listed, content: float, log: Log) -> None:
        self.line = line
        self.failed: Decision | None = None
        self.discards = False
        self.known: dict[bytes, bytes] = {}
        self.id = b""
        self._content = content
        self._log = log
        self._milter: Milter | None = None
        self._over = False  # it has accepted the connection: it is asked no more
        self._refuses: Decision | None = None  # the connection
        self._gives_up = False  # it has had its time: this session does not wait for it again
        self._begun = False  # it knows of a transaction
        self._accepts = False  # it has accepted this message, or may not be asked about it

    @property
    def is_active(self) -> bool:
        """Is it asked about what is still to come of this message?"""
        return self._milter is not None and self._begun and not self._accepts

    @property
    def wants_file(self) -> bool:
        """Can it still change the message, or does it want to see it to the last blank?"""
        return self._milter is not None and self.is_active and self._milter.options.wants_file

    # -- the connection ----------------------------------------------------

    def greet(self, client: Client, again: bool = False) -> Decision | None:
        """Make sure that it knows of the connection, and of HELO; `again`: there is a new HELO."""
        if self._over or self._refuses is not None:
            return self._refuses
        if self._milter is not None and not self._begun and not self._milter.is_open():
            self._close()  # it was restarted
        is_new = self._milter is None
        if is_new:
            if self._gives_up:
                return self._fail("timeout, a moment ago")
            self.failed = None
            refusal = self._connect(client)
            if refusal is not None or self._milter is None:
                return refusal
        if client.helo is None or not (is_new or again):
            return None
        self.known = of_client(client)
        return self.ask(protocol.HELO, protocol.encode(client.helo))

    def _connect(self, client: Client) -> Decision | None:
        peer = client.peer
        ip = peer.ip if b"." in peer.ip or b":" in peer.ip else None
        port = int(peer.port) if peer.port is not None and peer.port.isdigit() else 0
        self.known = of_client(client)
        try:
            self._milter = Milter(self.line.address, self.line.timeout, self._content)
        except NoAnswer as error:
            return self._fail(str(error))
        data = protocol.connect(peer.host, ip, port if port < 65536 else 0)
        return self.ask(protocol.CONNECT, data)

    def quit(self) -> None:
        """The session is over."""
        if self._milter is not None:
            self._milter.quit(self._begun)
            self._milter = None

    # -- a transaction -----------------------------------------------------

    def begin(self, data: bytes) -> Decision | None:
        """MAIL; greet() comes before."""
        if self._milter is None:
            return None
        self._begun = True
        return self.ask(protocol.MAIL, data)

    def reset(self) -> None:
        """The transaction is over."""
        if self._milter is not None and self._begun:
            try:
                self._milter.abort()
            except NoAnswer:  # the next one finds it closed, and connects anew
                self._close()
        self._begun = self._accepts = self.discards = False
        self.failed = None
        self.id = b""

    def ask(self, command: bytes, data: bytes) -> Decision | None:
        """A command, and what its answer means."""
        if self._milter is None:
            return None
        try:
            macros = chosen(command, self._milter.options.symbols, self.known)
            return self._judge(command, self._milter.ask(command, data, macros))
        except NoAnswer as error:
            return self._fail(str(error))

    # -- a message ---------------------------------------------------------

    def show_header(self, fields: Iterable[tuple[bytes, bytes]], size: int) -> Decision | None:
        """The header of a message of so many bytes, if that is known."""
        if self._milter is None:
            return None
        symbols = self._milter.options.symbols
        macros = [chosen(c, symbols, self.known) for c in (protocol.HEADER, protocol.END_OF_HEADER)]
        try:
            self._milter.begin(size)
            return self._judge(protocol.HEADER, self._milter.header(fields, *macros))
        except NoAnswer as error:
            return self._fail(str(error))

    def show_body(self, text: bytes) -> Decision | None:
        """Some more of the body."""
        if self._milter is None or not self.is_active:
            return None
        try:
            return self._judge(protocol.BODY, self._milter.body(text))
        except NoAnswer as error:
            return self._fail(str(error))

    def end(self, edit: Edit | None = None) -> Decision | None:
        """The end of the message: what it changes goes to `edit`."""
        if self._milter is None or not self.is_active:
            return None
        macros = chosen(protocol.END, self._milter.options.symbols, self.known)
        try:
            refusal = self._judge(protocol.BODY, self._milter.end_body())
            if refusal is not None or not self.is_active:
                return refusal
            for answer in self._milter.end(macros):
                if answer.code not in protocol.ACTIONS:
                    self._begun = False  # the milter has done with it
                    refusal = self._judge(protocol.END, answer)
                    if edit is not None:
                        edit.holds = refusal is None and not self.discards
                    return refusal
                assert edit is not None
                edit.take(answer)
        except ValueError as error:
            return self._fail(f"talks nonsense: {error}")
        except NoAnswer as error:
            return self._fail(str(error))
        return None

    def show_file(self, edit: Edit) -> Decision | None:
        """A whole message, and what it changes."""
        assert self._milter is not None
        spaces = bool(self._milter.options.steps & protocol.LEADING_SPACE)
        refusal = self.show_header(edit.begin(spaces), edit.before.size)
        for chunk in edit.body() if self._wants_body() else ():
            refusal = refusal or self.show_body(chunk)
            if refusal is not None or not self._wants_body():
                break
        return refusal or self.end(edit)

    def _wants_body(self) -> bool:
        return self._milter is not None and self.is_active and self._milter.wants_body

    def log_changes(self, edit: Edit) -> None:
        """Say in the log what it has changed."""
        if edit.done:
            self._log(milter=self.line.name, id=self.id, changes=", ".join(edit.done))

    # -- what it means -----------------------------------------------------

    def _judge(self, command: bytes, answer: Answer | None) -> Decision | None:
        if answer is None or answer.code == protocol.CONTINUE:
            return None
        at_connection = command in _CONNECTION
        if answer.code == protocol.ACCEPT:
            self._over = at_connection
            self._accepts = True
            if at_connection:
                self.quit()
            return None
        if answer.code == protocol.DISCARD:
            if at_connection:
                raise NoAnswer("talks nonsense: discards a connection")
            self.discards = self._accepts = True
            return None
        refusal = _refusal(command, answer)
        at = _NAMES[command]
        self._log(milter=self.line.name, id=self.id or None, verdict=refusal.verdict, at=at)
        if at_connection or answer.code in (protocol.SHUTDOWN, protocol.CONNECTION_FAILURE):
            self._refuses = refusal
            self.quit()
        elif command != protocol.RCPT and command != protocol.UNKNOWN:
            self._accepts = True  # it has had its word about this message
        return refusal

    def _fail(self, reason: str) -> Decision | None:
        """It gives no answer: what holds for this transaction."""
        self._log(milter=self.line.name, result=reason, id=self.id or None)
        self._gives_up = self._gives_up or reason == TIMEOUT
        self._close()
        self._accepts = True
        decision = self.line.failed
        self.failed = None if decision.verdict == DECLINE else decision
        return self.failed

    def _close(self) -> None:
        if self._milter is not None:
            self._milter.close()
            self._milter = None


def _refusal(command: bytes, answer: Answer) -> Decision:
    at_connect = command == protocol.CONNECT
    if answer.code == protocol.REPLY_CODE:
        make = drop if at_connect or answer.number == 421 else None
        if make is None:
            make = reject if answer.number >= 500 else defer
        return make(answer.text, answer.number, answer.status)
    if at_connect and answer.code in _AT_CONNECT:
        return _AT_CONNECT[answer.code]
    return _VERDICTS[answer.code]
