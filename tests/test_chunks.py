"""BDAT: not a byte of a chunk is a command, nor the other way round, however it all arrives.

What must happen is said by a model, which reads whole dialogues from a string.
The dialogues are random: right ones, sizes that are wrong by one, chunks where
there should be none, commands inside chunks.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from harness import Home
from hypothesis import given
from hypothesis import strategies as st
from test_end_of_data import Model, chunks
from wire import Wire

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.session import SessionSettings
from qsmtpd.config.settings import Settings
from qsmtpd.diagnose.dryrun import Memory
from qsmtpd.facts import Peer
from qsmtpd.log import Log
from qsmtpd.net.channel import Channel
from qsmtpd.policy import stages
from qsmtpd.policy.spec import Entry
from qsmtpd.session import run
from qsmtpd.session.dialogue import Smtp
from qsmtpd.session.plan import Plan
from qsmtpd.smtp import chunk
from qsmtpd.smtp.command import BareLF
from qsmtpd.smtp.decoder import ChunkDecoder, Decoder

SENDER, RECIPIENT, NOBODY = b"MAIL FROM:<a@b>", b"RCPT TO:<x@ok.example>", b"RCPT TO:<x@no>"
DATABYTES = 40


# -- the model ---------------------------------------------------------------


class Server:
    """What a server of RFC 5321 and RFC 3030 makes of a stream.

    `replies` are sets of codes, of which each is right: where a chunk is too
    large and has a bare LF too, it may be refused for either.
    """

    def __init__(self, stream: bytes, normalize: bool) -> None:
        self.replies: list[set[int]] = []
        self.stored: list[bytes] = []
        self._rest = stream
        self._normalize = normalize
        self._state = "idle"  # then sender, recipient; chunks; failed
        self._chunks = b""
        while self._rest:
            line, end, self._rest = self._rest.partition(b"\n")
            if not end or self._command(line.removesuffix(b"\r").rstrip(b" \t")):
                return

    def _say(self, *codes: int) -> None:
        self.replies.append(set(codes))

    def _command(self, line: bytes) -> bool:
        """Carry out a line; is it the last one?"""
        under_way = self._state in ("chunks", "failed")
        if line == b"QUIT":
            self._say(221)
            return True
        if re.match(rb"(?i)[ \t]*BDAT(?![0-9A-Z])", line):
            return self._bdat(line[5:].lstrip(b" ") if line[:4].upper() == b"BDAT" else b"?")
        if line == b"NOOP":
            self._say(250)
        elif line in (b"RSET", b"EHLO x"):
            self._say(250)
            self._state = "idle"
        elif line in (SENDER, RECIPIENT, NOBODY, b"DATA") and under_way:
            self._say(503)
        elif line == SENDER:
            self._say(250)
            self._state = "sender"
        elif line in (RECIPIENT, NOBODY, b"DATA") and self._state == "idle":
            self._say(503)
        elif line in (RECIPIENT, NOBODY):
            self._say(250 if line == RECIPIENT else 553)
            self._state = "recipient" if line == RECIPIENT else self._state
        elif line == b"DATA" and self._state == "sender":
            self._say(503)
        elif line == b"DATA":
            return self._data()
        else:
            self._say(502)
        return False

    def _data(self) -> bool:
        self._say(354)
        self._state = "idle"
        data = Model(self._normalize)
        self._rest = data.run(self._rest)
        if data.refused:
            self._say(451)
        elif data.ended:
            self._verdict(data.text)
        return data.refused or not data.ended

    def _verdict(self, text: bytes) -> None:
        self._say(552 if len(text) > DATABYTES else 250)
        if len(text) <= DATABYTES:
            self.stored.append(text)

    def _bdat(self, argument: bytes) -> bool:
        found = re.fullmatch(rb"([0-9]{1,20})( [lL][aA][sS][tT])?", argument)
        if not found:
            self._say(501)
            return True
        size = int(found[1])
        if size > 4 * DATABYTES:
            self._say(552)
            return True
        chunk, self._rest = self._rest[:size], self._rest[size:]
        if len(chunk) < size:
            return True  # it goes away within a chunk
        if self._state == "chunks":
            self._chunks += chunk
        else:
            self._chunks = chunk
        refused = self._refused()
        if self._state in ("idle", "sender", "failed"):
            self._say(503)
        elif refused:
            self._say(*refused)
        elif not found[2]:
            self._say(250)
            self._state = "chunks"
            return False
        else:
            text = self._chunks.replace(b"\r\n", b"\n")
            self._verdict(text if text.endswith(b"\n") or not text else text + b"\n")
        if found[2]:
            self._state = "idle"
        elif self._state != "idle":
            self._state = "failed"
        return False

    def _refused(self) -> list[int]:
        """What there is against the chunks so far; a CR at their end may be half a line end."""
        text = self._chunks.removesuffix(b"\r").replace(b"\r\n", b"\n")
        codes = [552] if len(text) > DATABYTES else []
        bare = b"\n" in self._chunks.replace(b"\r\n", b"")
        return codes + ([451] if bare and not self._normalize else [])


# -- the real one, without a process -----------------------------------------


class Served:
    """A home in which sessions are served in this process."""

    def __init__(self, home: Path, normalize: bool) -> None:
        variables = {
            b"DATABYTES": b"%d" % DATABYTES,
            b"BARELF": b"normalize" if normalize else b"reject",
            b"MAXERRORS": b"100000",
            b"SOFTERRORS": b"100000",
            b"MAXJUNK": b"100000",
        }
        self._lookup = Settings(ControlFiles(bytes(home)), variables)
        self._settings = SessionSettings.load(self._lookup)
        self._null = open("/dev/null", "wb")

    def serve(self, pieces: list[bytes]) -> tuple[list[int], list[bytes]]:
        """The codes of the replies behind the greeting, and what was stored."""
        wire, log, memory = Wire(pieces), Log(self._null.fileno()), Memory()
        own = [Entry("memory", {stages.QUEUE: memory.open})]
        plan = Plan(Smtp, self._settings, self._lookup, log, own)
        run.run(Channel(wire), Peer(), plan, plan.plugins.hooks(), None, sys.exit, monotonic())
        codes = [int(line[:3]) for line in wire.heard.split(b"\r\n")[:-1] if line[3:4] == b" "]
        stored = [message.partition(b"-0000\n")[2] for _, _, message in memory.messages]
        return codes[1:], stored


@pytest.fixture(params=[False, True], ids=["reject", "normalize"])
def served(home: Home, request: pytest.FixtureRequest) -> tuple[Served, bool]:
    home.control("me", "mx.example")
    return Served(home.path, request.param), request.param


def compare(served: tuple[Served, bool], stream: bytes, pieces: list[bytes]) -> None:
    expected = Server(stream, served[1])
    codes, stored = served[0].serve(pieces)
    right = [code in allowed for code, allowed in zip(codes, expected.replies, strict=False)]
    assert all(right), (stream, pieces, codes, expected.replies)
    assert len(codes) == len(expected.replies), (stream, pieces, codes, expected.replies)
    assert stored == expected.stored, (stream, pieces)


# -- dialogues ---------------------------------------------------------------

TEXTS = (b"", b"a", b"\r\n", b"\r", b"\n", b".\r\n", b"a\r\n.\r\nb", b"QUIT\r\n", b"RSET\r\n")
LONG = (b"x" * (DATABYTES - 1), b"x" * (DATABYTES + 1), b"BDAT 3 LAST\r\n", b"NOOP\r\nDATA\r\n")
COMMANDS = (SENDER, RECIPIENT, NOBODY, b"DATA", b"RSET", b"NOOP", b"EHLO x", b"QUIT")
GROUP = (SENDER, RECIPIENT)


def dialogue(chance: random.Random) -> bytes:
    """A stream of commands, chunks and messages; most of it in a good order."""
    stream = b""
    for _ in range(chance.randrange(1, 9)):
        what = chance.randrange(10)
        if what < 3:
            stream += b"".join(command + b"\r\n" for command in GROUP)
        elif what == 3:
            stream += chance.choice(COMMANDS) + chance.choice((b"\r\n", b"\n"))
        elif what == 4:
            stream += b"DATA\r\n" + chance.choice(TEXTS) + b"\r\n.\r\n"
        else:
            text = b"".join(chance.choice(TEXTS + LONG) for _ in range(chance.randrange(3)))
            size = len(text)
            if chance.randrange(12) == 0:
                size = max(0, size + chance.choice((-1, 1)))
            last = chance.choice((b"", b"", b" LAST", b" last", b"  LAST" if what == 9 else b""))
            stream += b"BDAT %d%b\r\n" % (size, last) + text
    return stream


def cut(chance: random.Random, stream: bytes) -> list[bytes]:
    """The stream in one piece, in some, or byte by byte."""
    how = chance.randrange(4)
    if how == 0:
        return [stream]
    if how == 1:
        return chunks(stream, range(len(stream)))
    return chunks(stream, [chance.randrange(len(stream) + 1) for _ in range(chance.randrange(9))])


def fuzz(served: tuple[Served, bool], seeds: Iterator[int]) -> None:
    for seed in seeds:
        chance = random.Random(seed)
        stream = dialogue(chance)
        compare(served, stream, cut(chance, stream))


def test_random_dialogues(served: tuple[Served, bool]) -> None:
    fuzz(served, iter(range(150)))


@pytest.mark.slow
def test_more_random_dialogues(served: tuple[Served, bool]) -> None:
    fuzz(served, iter(range(150, 1500)))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(10))
def test_a_million_random_dialogues(served: tuple[Served, bool], part: int) -> None:
    fuzz(served, iter(range(10_000 + 50_000 * part, 10_000 + 50_000 * (part + 1))))


#: Sequences that are worth a name: behind `MAIL`, `RCPT` where that matters.
SEQUENCES = {
    "no MAIL": b"BDAT 6\r\nQUIT\r\nNOOP\r\n",
    "no MAIL, LAST": b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
    "no RCPT": SENDER + b"\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
    "RCPT refused": SENDER + b"\r\n" + NOBODY + b"\r\nBDAT 6 LAST\r\nQUIT\r\n" + SENDER + b"\r\n",
    "one too few": b"%b\r\n%b\r\nBDAT 5 LAST\r\nQUIT\r\nNOOP\r\n" % GROUP,
    "one too many": b"%b\r\n%b\r\nBDAT 7 LAST\r\nQUIT\r\nNOOP\r\n" % GROUP,
    "LAST twice": b"%b\r\n%b\r\nBDAT 1 LAST\r\naBDAT 1 LAST\r\nbNOOP\r\n" % GROUP,
    "empty chunks": b"%b\r\n%b\r\nBDAT 0\r\nBDAT 0\r\nBDAT 0 LAST\r\n" % GROUP,
    "failed in the middle": b"%b\r\n%b\r\nBDAT 41\r\n%bBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n"
    % (*GROUP, b"x" * 41),
    "two messages in a group": b"%b\r\n%b\r\nBDAT 2 LAST\r\n\r\n" % GROUP * 2 + b"QUIT\r\n",
    "DATA behind BDAT": b"%b\r\n%b\r\nBDAT 1\r\naDATA\r\nBDAT 1 LAST\r\nb" % GROUP,
    "BDAT behind DATA": b"%b\r\n%b\r\nDATA\r\n.\r\nBDAT 1 LAST\r\nb" % GROUP,
    "RSET between": b"%b\r\n%b\r\nBDAT 1\r\naRSET\r\nBDAT 1 LAST\r\nb" % GROUP,
    "no size": b"%b\r\n%b\r\nBDAT\r\nNOOP\r\n" % GROUP,
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_cut_everywhere(served: tuple[Served, bool], name: str) -> None:
    stream = SEQUENCES[name]
    compare(served, stream, [stream])
    compare(served, stream, chunks(stream, range(len(stream))))
    for place in range(1, len(stream)):
        compare(served, stream, [stream[:place], stream[place:]])


# -- the parser and the decoder ----------------------------------------------

BAD = b"|x|-1|+1|1 |1  LAST|1 LAST x|1LAST|1 LASTX|1\tLAST|1_0|0x1|1.0|LAST|\xb2|1 LAS".split(b"|")


@pytest.mark.parametrize("argument", [*BAD, b"1" * 21], ids=repr)
def test_what_is_no_chunk(argument: bytes) -> None:
    assert chunk.parse(argument) is None


def test_what_is_a_chunk() -> None:
    assert chunk.parse(b"0") == (0, False)
    assert chunk.parse(b"007 LAST") == (7, True)
    assert chunk.parse(b"9" * 20 + b" lAsT") == (10**20 - 1, True)


def decode(parts: list[bytes], normalize: bool) -> bytes | None:
    decoder = ChunkDecoder(normalize)
    try:
        return b"".join([decoder.feed(part) for part in parts]) + decoder.end()
    except BareLF:
        return None


@given(
    st.lists(
        st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"\r\n.\r\n", b"\0"]), max_size=12
    ),
    st.lists(st.integers(0, 40), max_size=6),
    st.booleans(),
)
def test_any_cutting_stores_what_data_stores(
    pieces: list[bytes], cuts: list[int], normalize: bool
) -> None:
    message = b"".join(pieces)
    decoder = Decoder(normalize)
    # As a client sends it behind DATA: with a line end, and dots doubled.
    lines = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    stuffed = (b"\r\n" + lines).replace(b"\r\n.", b"\r\n..")[2:]
    try:
        expected: bytes | None = decoder.feed(stuffed + b".\r\n")
    except BareLF:
        expected = None
    cuts = [cut for cut in cuts if cut < len(message)]
    if normalize and message.endswith(b"\n") and not message.endswith(b"\r\n"):
        return  # normalized, it has its line end already; behind DATA it needs a second one
    assert decode(chunks(message, cuts), normalize) == expected


def test_chunks_through_the_program_store_what_data_stores(home: Home) -> None:
    text = b"Subject: x\r\n\r\n" + b"".join(b".%d\r\n" % number for number in range(20_000))
    before = b"MAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\n"
    stuffed = text.replace(b"\r\n.", b"\r\n..")
    home.run(before + b"DATA\r\n" + stuffed + b".\r\nQUIT\r\n")
    for size in (1000, 65536, 65537, len(text)):
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        sent = b"".join(b"BDAT %d\r\n%b" % (len(part), part) for part in parts)
        run = home.run(before + sent + b"BDAT 0 LAST\r\nQUIT\r\n")
        assert run.codes == [220, 250, 250, *[250] * len(parts), 250, 221]
    first, *others = [message.body for message in home.messages()]
    assert len(others) == 4
    assert all(other == first for other in others)
