"""The servers of QMTP and QMQP against a model: cut off and wrong at every byte, and at random."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from harness import Home
from hypothesis import given
from hypothesis import strategies as st
from netstrings import handed, ns, package
from run import parse_events
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
from qsmtpd.qmtp.qmqp import Qmqp
from qsmtpd.qmtp.qmtp import Qmtp
from qsmtpd.session import run
from qsmtpd.session.plan import Plan
from qsmtpd.smtp.netstring import Malformed, encode, split

DATABYTES, ADDRESS, RECIPIENTS = 40, 256, 4
MESSAGE_LIMIT, SENDER_LIMIT, RECIPIENTS_LIMIT = 1073741824, 65536, 1048576


# -- the model: it reads a whole stream, byte by byte ------------------------


class Ends(Exception):
    """The session is over; the word is that of the log."""


class Model:
    """What a server says, by the first letters, and stores, of a stream of bytes."""

    def __init__(self, stream: bytes, normalize: bool) -> None:
        self.said = ""
        self.stored: list[tuple[bytes, list[bytes], bytes]] = []
        self.end = ""
        self.normalize = normalize
        self.left = io.BytesIO(stream)
        try:
            self.serve()
        except Ends as end:
            self.end = str(end)

    def serve(self) -> None:
        raise NotImplementedError

    def take(self, size: int) -> bytes:
        text = self.left.read(size)
        if len(text) < size:
            raise Ends("client-gone")
        return text

    def head(self, most: int) -> str:
        """The digits in front of a colon."""
        digits = ""
        while (byte := self.take(1).decode("latin-1")) != ":" or not digits:
            if byte not in "0123456789" or digits == "0":
                raise Ends("netstring")
            digits += byte
            if len(digits) > len(str(most)):
                raise Ends("netstring-size")
        if int(digits) > most:
            raise Ends("netstring-size")
        return digits

    def text(self, most: int) -> bytes:
        text = self.take(int(self.head(most)))
        self.comma()
        return text

    def comma(self) -> None:
        if self.take(1) != b",":
            raise Ends("netstring")

    @staticmethod
    def inner(text: bytes) -> list[bytes]:
        """The netstrings in there."""
        found = []
        while text:
            digits, colon, rest = text.partition(b":")
            size = len(digits) < 9 and digits.decode("latin-1").isdecimal() and int(digits)
            if not colon or size is False or str(size).encode() != digits:
                raise Ends("netstring")
            if rest[size : size + 1] != b",":
                raise Ends("netstring")
            found.append(rest[:size])
            text = rest[size + 1 :]
        return found

    @staticmethod
    def is_address(text: bytes) -> bool:
        return len(text) < ADDRESS and not {0, 10} & set(text)

    def against(self, text: bytes, coded: bool) -> str:
        """What there is against a message: a letter, or nothing."""
        lines = text.replace(b"\r\n", b"\n") if coded else text
        if coded and not self.normalize and b"\n" in text.replace(b"\r\n", b""):
            return "D" if len(text) > DATABYTES else "Z"
        return "D" if len(lines) > DATABYTES else ""


class QmtpModel(Model):
    def serve(self) -> None:
        while True:
            if not self.left.read(1):
                raise Ends("quit")
            self.left.seek(-1, 1)
            message = self.text(MESSAGE_LIMIT)
            sender = self.text(SENDER_LIMIT)
            recipients = self.inner(self.text(RECIPIENTS_LIMIT))
            coded, text = message[:1] == b"\r", message[1:]
            refused = self.against(text, coded)
            if message[:1] not in (b"\r", b"\n") or not message:
                refused = "D"
            if not self.is_address(sender):
                self.said += "D" * len(recipients)
                continue
            taken = []
            for number, recipient in enumerate(recipients):
                ours = recipient.endswith(b"@ok.example") or b"@" not in recipient
                if number >= RECIPIENTS:
                    self.said += "Z"
                elif not (ours and self.is_address(recipient)):
                    self.said += "D"
                else:
                    self.said += refused or "K"
                    taken.append(recipient)
            if taken and not refused:
                lines = text.replace(b"\r\n", b"\n") if coded else text
                self.stored.append((sender, taken, lines))


class QmqpModel(Model):
    def serve(self) -> None:
        most = SENDER_LIMIT + RECIPIENTS_LIMIT
        left = int(self.head(MESSAGE_LIMIT + most))
        digits = self.head(MESSAGE_LIMIT)
        left -= len(digits) + 1 + int(digits) + 1
        if left < 0:
            raise Ends("netstring")
        if left > most:
            raise Ends("netstring-size")
        message = self.take(int(digits))
        self.comma()
        addresses = self.inner(self.take(left))
        self.comma()
        if not addresses:
            raise Ends("netstring")
        sender, *recipients = addresses
        if not 0 < len(recipients) <= RECIPIENTS or not all(map(self.is_address, addresses)):
            self.said = "D"
        else:
            self.said = self.against(message, coded=False) or "K"
        if self.said == "K":
            self.stored.append((sender, recipients, message))
        raise Ends("quit")


# -- the real ones, without a process -----------------------------------------


class Served:
    """A home in which sessions of both protocols are served in this process."""

    def __init__(self, home: Path, normalize: bool) -> None:
        variables = {
            b"DATABYTES": b"%d" % DATABYTES,
            b"MAXADDRLEN": b"%d" % ADDRESS,
            b"MAXRECIPIENTS": b"%d" % RECIPIENTS,
            b"BARELF": b"normalize" if normalize else b"reject",
            b"QMQPCLIENT": b"",
        }
        self._normalize = normalize
        self._lookup = Settings(ControlFiles(bytes(home)), variables)
        self._settings = SessionSettings.load(self._lookup)
        self._log = (home / "log").open("w+b")

    def compare(self, protocol: type[Qmtp | Qmqp], stream: bytes, pieces: list[bytes]) -> None:
        """What the real one says and stores is what the model does."""
        model = (QmtpModel if protocol is Qmtp else QmqpModel)(stream, self._normalize)
        wire, memory = Wire([piece for piece in pieces if piece]), Memory()
        own = [Entry("memory", {stages.QUEUE: memory.open})]
        self._log.seek(0)
        self._log.truncate()
        log = Log(self._log.fileno())
        plan = Plan(protocol, self._settings, self._lookup, log, own)
        run.run(Channel(wire), Peer(), plan, plan.plugins.hooks(), None, sys.exit, monotonic())
        said = "".join(chr(text[0]) for text in Model.inner(wire.heard))
        stored = [(s, r, text.partition(b"-0000\n")[2]) for s, r, text in memory.messages]
        self._log.seek(0)
        event = parse_events(self._log.read().decode())[-1]
        assert (said, stored) == (model.said, model.stored), (stream, pieces)
        assert event["end"] == model.end, (stream, pieces)


@pytest.fixture
def served(home: Home) -> Served:
    return Served(home.path, normalize=False)


OURS, OTHERS = b"x@ok.example", b"y@no.example"
STREAMS = {
    Qmtp: package(OURS, OTHERS, message=b"\rSubject: x\r\n\r\nhi\r\n") + package(OURS, b"z"),
    Qmqp: handed(OURS, OTHERS, message=b"Subject: x\n\nhi\n"),
}
BOTH = pytest.mark.parametrize("protocol", [Qmtp, Qmqp])


@BOTH
def test_cut_off_at_every_byte(served: Served, protocol: type[Qmtp | Qmqp]) -> None:
    stream = STREAMS[protocol]
    for end in range(len(stream) + 1):
        served.compare(protocol, stream[:end], [stream[:end]])
        served.compare(protocol, stream, [stream[:end], stream[end:]])
    served.compare(protocol, stream, [bytes((byte,)) for byte in stream])


@pytest.mark.sample(4)
@BOTH
@pytest.mark.sample(9)
@pytest.mark.parametrize("byte", [b"", b"0", b"9", b":", b",", b" ", b"-", b"\n", b"\r", b"\0"])
def test_wrong_at_every_byte(served: Served, protocol: type[Qmtp | Qmqp], byte: bytes) -> None:
    """Another byte in the place of each, and in front of each."""
    stream = STREAMS[protocol]
    for place in range(len(stream)):
        for rest in (stream[place + 1 :], stream[place:]):
            wrong = stream[:place] + byte + rest
            served.compare(protocol, wrong, [wrong])


@BOTH
@pytest.mark.parametrize(
    "length",
    [
        *(b"1" + b"0" * 20, b"9" * 30, b"1073741824", b"1073741825", b"9999999999"),
        *(
            b"0%b",
            b"00%b",
            b"%b0",
            b"00",
            b"007",
            b"+1",
            b"-1",
            b"1_0",
            b"0x1",
            b" 1",
            b"1 ",
            b"",
            b"\xd9\xa1",
            b"1e3",
        ),
        *(b"65536", b"65537", b"1048576", b"1048577", b"4294967296", b"18446744073709551617"),
    ],
)
def test_claimed_lengths(served: Served, protocol: type[Qmtp | Qmqp], length: bytes) -> None:
    """In the place of each length that there is."""
    stream = STREAMS[protocol]
    place = 0
    while (colon := stream.find(b":", place)) >= 0:
        start = colon
        while stream[start - 1 : start].isdigit() and start:
            start -= 1
        said = length.replace(b"%b", stream[start:colon])
        wrong = stream[:start] + said + stream[colon:]
        served.compare(protocol, wrong, [wrong])
        place = colon + 1


TEXTS = (b"", b"a", b"\r\n", b"\r", b"\n", b"a\r\nb", b"x" * 39, b"x" * 41, b"\r\n" * 30)
ADDRESSES = (OURS, OTHERS, b"", b"local", b"a\0b", b"a\nb", b"x" * 255, b"x" * 256, b"a,b:c")


def stream_of(chance: random.Random, protocol: type[Qmtp | Qmqp]) -> bytes:
    """Packages, of which some are damaged somewhere."""
    stream = b""
    for _ in range(chance.randrange(1, 4)):
        text = b"".join(chance.choice(TEXTS) for _ in range(chance.randrange(4)))
        recipients = [chance.choice(ADDRESSES) for _ in range(chance.choice((0, 1, 1, 2, 3, 6)))]
        sender = chance.choice(ADDRESSES)
        if protocol is Qmtp:
            text = chance.choice((b"\n", b"\r", b"\r", b"", b"x")) + text
            stream += package(*recipients, sender=sender, message=text)
        else:
            stream += handed(*recipients, sender=sender, message=text)
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):
        place = chance.randrange(len(stream) + 1)
        junk = bytes(chance.choice(b"0123456789:,\r\n\0x") for _ in range(chance.randrange(3)))
        stream = stream[:place] + junk + stream[place + chance.randrange(3) :]
    return stream


def fuzz(home: Home, seeds: Iterator[int]) -> None:
    both = [Served(home.path, normalize) for normalize in (False, True)]
    for seed in seeds:
        served = both[seed % 2]
        chance = random.Random(seed)
        protocol = chance.choice((Qmtp, Qmqp))
        stream = stream_of(chance, protocol)
        cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.choice((0, 1, 5))))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        served.compare(protocol, stream, pieces)


def test_random_streams(home: Home) -> None:
    fuzz(home, iter(range(300)))


@pytest.mark.slow
def test_more_random_streams(home: Home) -> None:
    fuzz(home, iter(range(300, 3000)))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(10))
def test_half_a_million_random_streams(home: Home, part: int) -> None:
    fuzz(home, iter(range(10_000 + 50_000 * part, 10_000 + 50_000 * (part + 1))))


# -- netstrings by themselves ----------------------------------------------


@given(st.lists(st.binary(max_size=12)))
def test_what_is_encoded_can_be_split(texts: list[bytes]) -> None:
    data = b"".join(map(encode, texts))
    assert data == b"".join(map(ns, texts))
    assert list(split(data)) == texts


@given(st.binary(max_size=20) | st.from_regex(rb"[0-9:,a]{0,16}", fullmatch=True))
def test_what_can_be_split_is_what_was_encoded(data: bytes) -> None:
    try:
        texts = list(split(data))
    except Malformed:
        with pytest.raises(Ends):
            Model.inner(data)
        return
    assert b"".join(map(ns, texts)) == data
