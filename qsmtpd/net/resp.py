"""The protocol of Redis and Valkey, RESP2: commands, and the replies to them.

https://valkey.io/topics/protocol/.  Whoever speaks it bounds by its Daemon how long all
replies may take and how many bytes they may have.
"""

from __future__ import annotations

from .daemon import NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from .daemon import Daemon

    Reply: TypeAlias = "bytes | int | Failure | list[Reply] | None"

#: Bytes of a number; and how deep arrays may be within each other: SCAN has one in one.
_NUMBER, _DEPTH = 20, 2
#: How much of an error is for the log (bytes).
_SHOWN = 200


class Nonsense(NoAnswer):
    """It answers, but not in this protocol."""


class Failure:
    """An error reply: its first word, as b"OOM", and the whole text of it."""

    __slots__ = ("word", "text")

    def __init__(self, text: bytes) -> None:
        self.word = text.partition(b" ")[0]
        self.text = _shown(text[:_SHOWN])


def command(*words: bytes) -> bytes:
    """A command as it is sent."""
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))


def read_reply(daemon: Daemon, depth: int = 0) -> Reply:
    """The next reply; an error is one as well.  Raises NoAnswer, or Shutdown."""
    line = daemon.line()
    kind, text = line[:1], line[1:-1]
    if line[-1:] != b"\r" or b"\r" in text:
        raise _nonsense(line)
    if kind == b"+":
        return text
    if kind == b"-":
        return Failure(text)
    number = _number(text)
    if number is None:
        raise _nonsense(line)
    if kind == b":":
        return number
    if kind == b"$" and number >= 0:
        data = daemon.exactly(number + 2)
        if data[number:] != b"\r\n":
            raise _nonsense(data[number:])
        return data[:number]
    if kind == b"*" and number >= 0 and depth < _DEPTH:
        found: list[Reply] = []
        while len(found) < number:
            found.append(read_reply(daemon, depth + 1))
        return found
    if kind in (b"$", b"*") and number == -1:
        return None
    raise _nonsense(line)


def _number(text: bytes) -> int | None:
    digits = text[1:] if text[:1] == b"-" else text
    return int(text) if digits.isdigit() and len(digits) < _NUMBER else None


def _nonsense(line: bytes) -> Nonsense:
    return Nonsense("answers nonsense: " + _shown(line[:40]))


def _shown(text: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in text)
