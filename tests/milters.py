"""A milter of a test's own: what it is told is remembered, what it answers is the test's.

It reads and writes the protocol by itself, so that it does not share a mistake of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from daemons import Line, Peer, Script

#: SMFIP_NR_...: what is then not answered.
NOT_ANSWERED = {
    b"L": 0x80, b"C": 0x1000, b"H": 0x2000, b"M": 0x4000, b"R": 0x8000, b"T": 0x10000,
    b"U": 0x20000, b"N": 0x40000, b"B": 0x80000,
}  # fmt: skip
ALL_ACTIONS = 0x1FF
Answer = bytes | Callable[[bytes], bytes]


def packet(code: bytes, *data: bytes) -> bytes:
    """A packet of a milter's; each of `data` is a string, which ends with NUL."""
    return raw(code, b"".join(part + b"\0" for part in data))


def raw(code: bytes, data: bytes = b"") -> bytes:
    """The same with data as they are."""
    return struct.pack(">I", 1 + len(data)) + code + data


def header(code: bytes, index: int, name: bytes, value: bytes) -> bytes:
    """Insert or change a header line."""
    return raw(code, struct.pack(">I", index) + name + b"\0" + value + b"\0")


CONTINUE = raw(b"c")


def negotiation(actions: int, steps: int = 0, version: int = 6, more: bytes = b"") -> bytes:
    """What a milter answers to the MTA's first packet."""
    return raw(b"O", struct.pack(">III", version, actions, steps) + more)


def script(answers: Mapping[bytes, bytes], actions: int) -> Script:
    """One that remembers nothing, for daemons.Peer."""

    def converse(line: Line) -> None:
        for told in packets(line):
            code = told[:1]
            if code == b"Q":
                return
            if code == b"O":
                line.say(negotiation(actions))
            elif code not in (b"D", b"A"):
                line.say(answers.get(code, CONTINUE))

    return converse


def packets(line: Line) -> Iterator[bytes]:
    """What the MTA says, one packet after the other, without its length."""
    connection = line.socket.makefile("rb")
    while head := connection.read(4):
        (length,) = struct.unpack(">I", head)
        yield connection.read(length)


class ScriptedMilter(Peer):
    """`answers` are packets by the letter of the command; what has none is `continue`.

    `heard` has what it was told, the letter first, and `offered` the numbers of the MTA's
    negotiation.  `symbols` are the macros that it wants, by the number of the stage.
    """

    def __init__(
        self,
        answers: Mapping[bytes, Answer] | None = None,
        path: Path | None = None,
        actions: int = ALL_ACTIONS,
        steps: int = 0,
        version: int = 6,
        symbols: Mapping[int, bytes] | None = None,
        greeting: bytes | None = None,
    ) -> None:
        self.answers = dict(answers or {})
        self.steps = steps
        self.offered: tuple[int, ...] = ()
        wanted = b"".join(
            struct.pack(">I", stage) + names + b"\0" for stage, names in (symbols or {}).items()
        )
        self.greeting = negotiation(actions, steps, version, wanted)
        if greeting is not None:
            self.greeting = greeting
        super().__init__(self._converse, path)

    def _converse(self, line: Line) -> None:
        for told in packets(line):
            code = told[:1]
            self.heard.append(told)
            if code == b"O":
                self.offered = struct.unpack(">III", told[1:])
                line.say(self.greeting)
            elif code == b"Q":
                return
            elif code not in (b"D", b"A") and not self.steps & NOT_ANSWERED.get(code, 0):
                answer = self.answers.get(code, CONTINUE)
                line.say(answer if isinstance(answer, bytes) else answer(told[1:]))

    def commands(self) -> str:
        """The letters of what it was told, macros left out."""
        return b"".join(told[:1] for told in self.heard if told[:1] != b"D").decode()

    def told(self, code: bytes) -> list[bytes]:
        """What came with this letter."""
        return [told[1:] for told in self.heard if told[:1] == code]

    def macros(self, code: bytes) -> list[dict[bytes, bytes]]:
        """Those of each such command."""
        found = []
        for told in self.told(b"D"):
            if told[:1] == code:
                words = told[1:].split(b"\0")[:-1]
                found.append(dict(zip(words[::2], words[1::2], strict=True)))
        return found
