"""The end of data is CRLF . CRLF, and nothing else, however the bytes arrive.

SMTP smuggling lives from two servers that see the end of a message in two
places.  So every sequence that some server somewhere has taken for one is tried
here, in every mode and cut at every place.  What must happen is said by a model:
qmail-smtpd's state machine as it is described, one byte at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from harness import Home
from hypothesis import given, settings
from hypothesis import strategies as st
from run import Run

from qsmtpd.smtp.command import BareLF
from qsmtpd.smtp.decoder import Decoder

MODES = ["reject", "reject-all", "normalize"]

#: What other servers take for an end of data, and what looks like one.
#: True: the bytes really hold CRLF . CRLF, once a CRLF stands on both sides.
SEQUENCES: dict[bytes, bool] = {
    b"\n.\n": False,
    b"\n.\r": False,
    b"\r.\n": False,
    b"\r.\r": False,
    b"\n.\r\n": False,
    b"\r.\r\n": False,
    b"\r\n.\n": False,
    b"\r\n.\r": False,
    b"\n..\r\n": False,
    b"\r\n..\r\n": False,
    b"\r\n\0.\r\n": False,
    b"\r\n.\0\r\n": False,
    b"\0.\0": False,
    b"\r\n.\r\r\n": False,
    b"\r\r\n.\r\r\n": False,
    b"\r\n. \r\n": False,
    b"\r\n .\r\n": False,
    b"\r\n.\t\r\n": False,
    b"\r\n.\x0b\r\n": False,
    b"\r\n.\x85\r\n": False,
    b"\x85.\r\n": False,
    b"\xe2\x80\xa8.\r\n": False,
    b"\n\r.\r\n": False,
    b"\n\r.\n\r": False,
    b"\r\n.\r.\r\n": False,
    b".": True,
    b".\r\n": True,
    b"\r\n.\r\n": True,
    b"\r\r\n.\r\n": True,
    b"\r\n.\r\n.\r\n": True,
}


class Model:
    """DATA as qmail-smtpd reads it, one byte at a time; `normalize` lets a bare LF pass."""

    def __init__(self, normalize: bool = False) -> None:
        self.normalize = normalize
        self.text = b""
        self.ended = False
        self.refused = False
        # What is held back, from the last CRLF on: it may become the end.
        self.held = b"\r\n"
        self.first = True

    def run(self, stream: bytes) -> bytes:
        """Read until the end of data or a refusal; return what comes after."""
        for at, byte in enumerate(stream):
            self.byte(bytes((byte,)))
            if self.ended or self.refused:
                return stream[at + 1 :]
        return b""

    def byte(self, byte: bytes) -> None:
        held = self.held + byte
        if held == b"\r\n.\r\n":
            self.ended = True
            self.text += b"" if self.first else b"\n"
            return
        if byte == b"\n" and not held.endswith(b"\r\n") and not self.normalize:
            self.refused = True
            return
        if b"\r\n.\r\n".startswith(held):
            self.held = held
            return
        # It does not: let go of what was held back.
        if self.held == b"\r\n.":
            self.put(b"\r\n")  # the dot stood at the beginning of a line
        else:
            self.put(self.held)
        self.held = b""
        if byte == b"\r":
            self.held = byte
        elif byte == b"\n" and held.endswith(b"\r\n"):
            # A CR was put that is the line end's.
            self.text = self.text.removesuffix(b"\r")
            self.held = b"\r\n"
        else:
            self.put(byte)

    def put(self, text: bytes) -> None:
        text = text.replace(b"\r\n", b"\n")
        if self.first and text:
            text = text[1:]  # the line end of the DATA command
            self.first = False
        self.text += text


def chunks(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(cuts), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(places) if a < b]


def decode(parts: list[bytes], normalize: bool) -> tuple[object, ...]:
    """(text, ended, rest), or (refused,): what Decoder makes of these chunks."""
    decoder = Decoder(normalize)
    text = b""
    rest = b""
    refused = False
    for at, part in enumerate(parts):
        try:
            text += decoder.feed(part)
        except BareLF:
            refused = True
            break
        if decoder.ended:
            rest = decoder.rest + b"".join(parts[at + 1 :])
            break
    if refused:
        # How much was decoded before depends on the chunks; it is not queued.
        return (refused,)
    return text, decoder.ended, rest


def expect(stream: bytes, normalize: bool) -> tuple[object, ...]:
    model = Model(normalize)
    rest = model.run(stream)
    if model.refused:
        return (True,)
    return model.text, model.ended, rest


SMUGGLED = (
    b"MAIL FROM:<smuggled@no.example>\r\n"
    b"RCPT TO:<smuggled@ok.example>\r\n"
    b"DATA\r\nsmuggled\r\n.\r\nQUIT\r\n"
)
FRAMES = list(itertools.product((b"", b"text", b"text\r\n"), (b"", b"\r\n", b"\n")))


@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
def test_decoder_everywhere_cut(sequence: bytes) -> None:
    for normalize in (False, True):
        for before, after in FRAMES:
            stream = before + sequence + after + SMUGGLED
            expected = expect(stream, normalize)
            near = len(before + sequence + after) + 8
            for cut in range(len(stream) + 1):
                assert decode(chunks(stream, [cut]), normalize) == expected, cut
            for cuts in itertools.combinations(range(near), 2):
                assert decode(chunks(stream, cuts), normalize) == expected, cuts
            assert decode(chunks(stream, range(len(stream))), normalize) == expected


@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
def test_model(sequence: bytes) -> None:
    """The model itself: it must agree with what the table says, and with the obvious."""
    stream = b"text\r\n" + sequence + b"\r\n" + SMUGGLED
    bare = b"\n" in sequence.replace(b"\r\n", b"")
    if bare:
        assert expect(stream, normalize=False) == (True,)
    else:
        *_, ended, rest = expect(stream, normalize=False)
        assert ended
        assert (rest == b"QUIT\r\n") != SEQUENCES[sequence]
    *_, ended, rest = expect(stream, normalize=True)
    assert ended
    assert (rest == b"QUIT\r\n") != SEQUENCES[sequence]


def test_model_text() -> None:
    """By hand, from the description of qmail-smtpd."""
    for stream, text in {
        b".\r\n": b"",
        b"\r\n.\r\n": b"\n",
        b"a\r\n..b\r\n.c\r\n...\r\n.\r\n": b"a\n.b\nc\n..\n",
        b"a\rb\r\r\n.\r\n": b"a\rb\r\n",
        b"a\r\n.\rb\r\n.\r\n": b"a\n.\rb\n",
        b"a\r\n.\r\r\n.\r\n": b"a\n.\r\n",
        b"a\r\n.\r\r\r\n\r\r\n.\r\n": b"a\n.\r\r\n\r\n",
    }.items():
        assert expect(stream, normalize=False) == (text, True, b"")
        assert expect(stream, normalize=True) == (text, True, b"")
    for stream, text in {
        b"a\n.\r\nb\r\n.\r\n": b"a\n.\nb\n",
        b"a\n..b\r\n.\r\n": b"a\n..b\n",
        b"a\r\n.\nb\r\n.\r\n": b"a\n\nb\n",
    }.items():
        assert expect(stream, normalize=True) == (text, True, b"")


PIECES = st.sampled_from(
    [
        *(bytes((byte,)) for byte in b"\r\n.a\0"),
        b"\r\n",
        b"\r\n.",
        b"\r\n.\r",
        b"\r\n.\r\n",
        b"\r\n\r\n",
    ]
)


@settings(max_examples=30 * settings().max_examples, deadline=None, database=None)
@given(st.lists(PIECES, max_size=14), st.lists(st.integers(0, 80), max_size=12), st.booleans())
def test_decoder_is_the_model(pieces: list[bytes], cuts: list[int], normalize: bool) -> None:
    stream = b"".join(pieces)
    parts = chunks(stream, (cut for cut in cuts if cut < len(stream)))
    assert decode(parts, normalize) == expect(stream, normalize)


# -- the whole program -----------------------------------------------------

BEFORE = b"MAIL FROM:<a@no.example>\r\nRCPT TO:<b@ok.example>\r\nDATA\r\ntext\r\n"


def check(home: Home, run: Run, sequence: bytes, mode: str) -> None:
    """One message or a refusal and a close; two messages only where there are two."""
    stream = b"text\r\n" + sequence + b"\r\n" + SMUGGLED
    expected = expect(stream, mode == "normalize")
    messages = home.messages()
    home.clear()
    assert run.children == []
    if expected == (True,):
        assert messages == []
        assert run.codes == [220, 250, 250, 354, 451]
        assert run.lines[-1] == b"451 See https://cr.yp.to/docs/smtplf.html."
        assert run.event("session")["end"] == "bare-lf"
        assert run.status == 1
        return
    assert messages[0].body == expected[0]
    assert messages[0].envelope == b"Fa@no.example\0Tb@ok.example\0\0"
    if SEQUENCES[sequence]:
        assert len(messages) == 2
        assert messages[1].body == b"smuggled\n"
        assert messages[1].recipients == [b"smuggled@ok.example"]
    else:
        assert len(messages) == 1
        assert run.codes == [220, 250, 250, 354, 250, 221]
    assert run.status == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
def test_program(home: Home, sequence: bytes, mode: str) -> None:
    if mode != "reject":  # the default
        home.control("barelf", mode)
    around = b"\r\n" + sequence + b"\r\n"
    start = BEFORE.removesuffix(b"\r\n")
    check(home, home.run(start + around + SMUGGLED), sequence, mode)
    bytewise = [start, *chunks(around, range(len(around))), SMUGGLED]
    for over in ("pipe", "socket"):
        check(home, home.run(bytewise, over=over), sequence, mode)


@pytest.mark.slow
@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
def test_program_cut_once(home: Home, sequence: bytes) -> None:
    around = b"\r\n" + sequence + b"\r\n"
    for cut in range(1, len(around)):
        pieces = [BEFORE.removesuffix(b"\r\n") + around[:cut], around[cut:] + SMUGGLED]
        check(home, home.run(pieces), sequence, "reject")


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "tail", [b"\r\n.\r", b"\r\n.", b"\r\n", b"\r", b"\r\n.\r\r", b""], ids=repr
)
@pytest.mark.parametrize("mode", MODES)
def test_end_of_input_is_no_end_of_data(home: Home, tail: bytes, mode: str) -> None:
    run = home.run(BEFORE.removesuffix(b"\r\n") + tail, BARELF=mode)
    assert home.messages() == []
    assert run.codes == [220, 250, 250, 354]
    assert run.event("message")["verdict"] == "aborted"


def test_bare_lf_in_commands(home: Home) -> None:
    """Commands may end in a bare LF, except where nothing may."""
    commands = b"MAIL FROM:<>\nRCPT TO:<b@ok.example>\nDATA\n.\r\nQUIT\r\n"
    for mode in ("reject", "normalize"):
        run = home.run(commands, BARELF=mode)
        assert run.codes == [220, 250, 250, 354, 250, 221]
        assert [m.body for m in home.messages()] == [b""]
        home.clear()
    for dribble in (False, True):
        run = home.run(b"NOOP\r\n" + commands, BARELF="reject-all", dribble=dribble)
        assert run.lines[1:] == [b"250 ok", b"451 See https://cr.yp.to/docs/smtplf.html."]
        assert home.messages() == []


@pytest.mark.sample(3)
@pytest.mark.parametrize("length", [2048, 2049, 4000, 200_000])
def test_no_command_hides_a_bare_lf_behind_its_length(home: Home, length: int) -> None:
    """A line that is too long is skipped; where no bare LF may end a line, not this one either."""
    line = b"NOOP " + b"x" * (length - 5) + b"\n"
    halves = [line[:1000], line[1000:-1], b"\nNOOP\r\n"]
    for pieces in ([line, b"NOOP\r\n"], [line + b"NOOP\r\n"], [line[:-1], b"\nNOOP\r\n"], halves):
        run = home.run(pieces, BARELF="reject-all")
        assert run.lines[-1] == b"451 See https://cr.yp.to/docs/smtplf.html."
        assert b"250 ok" not in run.lines
    # The same with a proper end is only too long.
    line = line[:-1]
    halves = [line[:1000], line[1000:], b"\r\nHELP\r\n"]
    for pieces in ([line + b"\r\nHELP\r\n"], [line + b"\r", b"\nHELP\r\n"], halves):
        run = home.run(pieces, BARELF="reject-all")
        assert run.codes == [220, 250 if length == 2048 else 500, 214]
