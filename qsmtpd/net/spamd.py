"""SpamAssassin's daemon, as the side that asks: the protocol SPAMC 1.5.

Facts: spamd/PROTOCOL in SpamAssassin's source, and spamd 4.0.1.
"""

from __future__ import annotations

from .daemon import EARLY, Daemon, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .daemon import Address

#: Bytes of its answer, with the names of all rules that are true of a message.
LIMIT = 65536
_HEADER_LINES = 50
_NONSENSE = "talks nonsense"


class Verdict:
    """What it says of a message: is it `spam`, its `score`, and from which on it `required` is.

    Both are as they were said, numbers with a fraction; `tests` are the names of the rules
    that are true of it.
    """

    __slots__ = ("spam", "score", "required", "tests")

    def __init__(self, spam: bool, score: bytes, required: bytes, tests: list[bytes]) -> None:
        self.spam = spam
        self.score = score
        self.required = required
        self.tests = tests


def check(
    address: Address, seconds: float, size: int, message: Iterable[bytes], user: bytes | None
) -> Verdict:
    """Its verdict on a message of so many bytes, by the rules of this user.

    Raises NoAnswer or Shutdown.
    """
    head = b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n" % size
    if user is not None:
        head += b"User: %b\r\n" % user
    daemon = Daemon(address, seconds, LIMIT)
    try:
        whole = daemon.offer([head + b"\r\n"]) and daemon.offer(message)
        lines = _answer(daemon)
        length = _length(lines)
        body = daemon.rest() if length is None else daemon.exactly(length)
    finally:
        daemon.close()
    spam, score, required = _verdict(lines.get(b"spam", b""))
    if not whole:
        raise NoAnswer(EARLY)
    tests = [test for test in body.rstrip(b"\r\n").split(b",") if test]
    return Verdict(spam, score, required, tests)


def ping(address: Address, seconds: float) -> bytes:
    """The protocol that it speaks.  Raises NoAnswer or Shutdown."""
    daemon = Daemon(address, seconds, LIMIT)
    try:
        daemon.send(b"PING SPAMC/1.5\r\n\r\n")
        answer = daemon.line().rstrip(b"\r").split(b" ")
    finally:
        daemon.close()
    if len(answer) < 3 or not answer[0].startswith(b"SPAMD/") or answer[2] != b"PONG":
        raise NoAnswer("is no spamd")
    return answer[0]


def _answer(daemon: Daemon) -> dict[bytes, bytes]:
    """Its first line, which has to say that all is well, and the others: name -> value."""
    words = daemon.line().rstrip(b"\r").split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"SPAMD/") or not words[1].isdigit():
        raise NoAnswer(_NONSENSE)
    if words[1] != b"0":
        raise NoAnswer("says " + b" ".join(words[1:]).decode("ascii", "backslashreplace"))
    lines: dict[bytes, bytes] = {}
    for _ in range(_HEADER_LINES):
        line = daemon.line().rstrip(b"\r")
        if not line:
            return lines
        name, colon, value = line.partition(b":")
        if not colon:
            break
        lines[name.strip().lower()] = value.strip(b" \t")
    raise NoAnswer(_NONSENSE)


def _length(lines: dict[bytes, bytes]) -> int | None:
    text = lines.get(b"content-length")
    if text is None:
        return None
    if not (0 < len(text) <= 10 and text.isdigit()):
        raise NoAnswer(_NONSENSE)
    return int(text)


def _verdict(text: bytes) -> tuple[bool, bytes, bytes]:
    """`True ; 7.0 / 5.0`"""
    spam, _, numbers = text.partition(b";")
    score, slash, required = (part.strip(b" ") for part in numbers.partition(b"/"))
    known = {b"True": True, b"Yes": True, b"False": False, b"No": False}
    word = spam.strip(b" ")
    if word not in known or not slash or not (is_number(score) and is_number(required)):
        raise NoAnswer(_NONSENSE)
    return known[word], score, required


def is_number(text: bytes) -> bool:
    """Is it a decimal number, as -1.5?"""
    whole, dot, fraction = text.removeprefix(b"-").partition(b".")
    digits = (whole, fraction) if dot else (whole,)
    return len(text) <= 20 and all(part.isdigit() for part in digits)
