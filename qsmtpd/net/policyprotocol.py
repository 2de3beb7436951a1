"""Postfix's policy delegation protocol, as the side that asks: requests, and what answers mean.

A request is lines `name=value` with an empty one behind them; so is an answer, of which
`action=` counts.  Facts: SMTPD_POLICY_README and access(5) of Postfix 3.9.
"""

from __future__ import annotations

from time import monotonic

from ..decision import is_status
from .daemon import Daemon, Ended, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .daemon import Address

#: Bytes of an answer; of a value that we send.
ANSWER_LIMIT, VALUE_LIMIT = 16384, 2048
NONSENSE = "talks nonsense"

#: What an action says: nothing against it; nothing, and no further server is to be asked;
#: a refusal for good, for now, or with the connection closed; for now where nobody refuses,
#: or where somebody does; a line for the header; a line for the log; 250, and nothing is queued.
DUNNO, OK, REJECT, DEFER, DROP = "dunno", "ok", "reject", "defer", "drop"
IF_PERMIT, IF_REJECT, PREPEND, NOTE = "defer_if_permit", "defer_if_reject", "prepend", "note"
DISCARD = "discard"
#: Postfix has it, and we do not do it.
UNSUPPORTED = "unsupported"

_WORDS = {
    b"DUNNO": DUNNO,
    b"OK": OK,
    b"RELAY": OK,
    b"PERMIT": OK,
    b"REJECT": REJECT,
    b"DEFER": DEFER,
    b"DEFER_IF_PERMIT": IF_PERMIT,
    b"DEFER_IF_REJECT": IF_REJECT,
    b"PREPEND": PREPEND,
    b"WARN": NOTE,
    b"INFO": NOTE,
    b"DISCARD": DISCARD,
}
#: Of those that refuse where the action names no code, as Postfix's access_map_reject_code and
#: access_map_defer_code are.
_CODES = {REJECT: 554, DEFER: 450, IF_PERMIT: 450, IF_REJECT: 450}
#: What each byte of a value becomes, in a request and in a reply, a header or the log.
_SENT = b"?" * 32 + bytes(range(32, 127)) + b"?" + bytes(range(128, 256))
_HEARD = b"?" * 9 + b" " + b"?" * 22 + bytes(range(32, 127)) + b"?" * 129


class Action:
    """What is to be done.  `word` is the action as it was written, for the log.

    `text` is behind it, without code and status: `code` and `status` (b"": none is
    named) are those of a refusal.
    """

    __slots__ = ("kind", "word", "text", "code", "status")

    def __init__(
        self, kind: str, word: bytes, text: bytes = b"", code: int = 0, status: bytes = b""
    ) -> None:
        self.kind = kind
        self.word = word
        self.text = text
        self.code = code
        self.status = status


def request(attributes: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A request; what would not stay in its line becomes `?`, and long values lose their end."""
    lines = [name + b"=" + value[:VALUE_LIMIT].translate(_SENT) for name, value in attributes]
    return b"\n".join([b"request=smtpd_access_policy", *lines, b"", b""])


def parse_action(value: bytes) -> Action:
    """The value of `action`.  Raises ValueError where it makes no sense."""
    value = value.translate(_HEARD).strip(b" ")
    word, _, text = value.partition(b" ")
    text = text.strip(b" ")
    if not word:
        raise ValueError("no action")
    kind = _WORDS.get(word.upper())
    if word.isdigit():
        if len(word) != 3 or word[:1] not in (b"4", b"5"):
            if text:
                raise ValueError("a code that is none of a refusal")
            return Action(OK, word)  # all digits: a time stamp, say
        code = int(word)
        kind = DROP if code in (421, 521) else DEFER if code < 500 else REJECT
        return _refusal(kind, word, code, text)
    if kind in _CODES:
        assert kind is not None
        return _refusal(kind, word, _CODES[kind], text)
    if kind is None:
        # Of those that there may be, as HOLD, FILTER or a restriction's name.
        if len(word) > 100 or not word.replace(b"_", b"a").isalnum():
            raise ValueError("no action")
        return Action(UNSUPPORTED, word, text)
    return Action(kind, word, text)


def _refusal(kind: str, word: bytes, code: int, text: bytes) -> Action:
    """With the enhanced status in front of the text, whose class is made that of the code."""
    first, _, rest = text.partition(b" ")
    status = b""
    if is_status(first):
        status = b"%d" % (code // 100) + first[1:]
        text = rest.strip(b" ")
    return Action(kind, word, text, code, status)


class PolicyServer:
    """A connection to a policy server: ask().  Raises NoAnswer or Shutdown.

    Each question may take `seconds`, with connecting to it in the first one's.
    """

    __slots__ = ("_address", "_seconds", "_daemon")

    def __init__(self, address: Address, seconds: float) -> None:
        self._address = address
        self._seconds = seconds
        self._daemon: Daemon | None = None

    def ask(self, question: bytes) -> Action:
        """Send a request and read the answer; on a new connection where the last one has ended."""
        deadline = monotonic() + self._seconds
        daemon = self._daemon
        if daemon is not None and daemon.renew(self._seconds, ANSWER_LIMIT):
            try:
                return _converse(daemon, question)
            except Ended:
                pass  # servers end connections that are idle: this may have been the moment
        self.close()
        left = max(0.0, deadline - monotonic())
        self._daemon = daemon = Daemon(self._address, left, ANSWER_LIMIT)
        return _converse(daemon, question)

    def close(self) -> None:
        """No more questions."""
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None


def _converse(daemon: Daemon, question: bytes) -> Action:
    daemon.send(question)
    action: Action | None = None
    while line := daemon.line().removesuffix(b"\r"):
        name, equals, value = line.partition(b"=")
        if name == b"action" and equals and action is None:
            try:
                action = parse_action(value)
            except ValueError:
                break
    if action is None or line:
        daemon.close()
        raise NoAnswer(NONSENSE)
    return action
