"""The parts of the filter milter that are pure: packets, and a header as milters change it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.net.milter import protocol
from qsmtpd.net.milter.fields import Fields
from qsmtpd.smtp.header import parse_header

WORDS = st.binary(max_size=30)
NAMES = st.text("abcXYZ-", min_size=1, max_size=8).map(str.encode)
VALUES = st.text("ab \t\r\n:", max_size=12).map(str.encode)


@given(
    st.sampled_from(protocol.CONTINUE + b"artyds4fp+-2ehimbqOzx").map(lambda n: bytes((n,))), WORDS
)
def test_any_answer_is_understood_or_refused(code: bytes, data: bytes) -> None:
    try:
        answer = protocol.parse_answer(code, data)
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert answer.code == code
    assert all(b"\0" not in text for text in answer.strings)
    if code == protocol.REPLY_CODE:
        assert 400 <= answer.number < 600
        assert answer.text.count(b"\n") == data.partition(b"\0")[0].rstrip(b"\r\n").count(b"\n")


@given(st.binary(max_size=60))
def test_any_negotiation_is_understood_or_refused(data: bytes) -> None:
    try:
        options = protocol.parse_options(data)
    except ValueError:
        return
    assert 2 <= options.version <= 6
    assert not options.actions & ~0x1FF
    assert not options.steps & ~protocol.ALL_STEPS


@given(st.integers(2, 6), st.integers(0, 0x1FF), st.integers(0, 2**32 - 1))
def test_a_right_negotiation_is_understood(version: int, actions: int, steps: int) -> None:
    options = protocol.parse_options(struct.pack(">III", version, actions, steps))
    assert (options.version, options.actions) == (version, actions)
    unknown = (0x200 if version < 4 else 0) | (0x100 if version < 3 else 0)
    assert options.steps == steps & 0x1FF7FF | unknown


@given(st.lists(WORDS.map(lambda text: text.replace(b"\0", b"")), max_size=4))
def test_strings_end_with_nul(strings: list[bytes]) -> None:
    data = protocol.encode(*strings)
    assert data.split(b"\0")[:-1] == strings
    assert protocol.encode(b"a\0b") == b"a\0", "no string can become two"


@pytest.mark.parametrize("length", [0, protocol.PACKET_LIMIT + 1, 2**32 - 1])
def test_lengths_that_cannot_be(length: int) -> None:
    with pytest.raises(ValueError, match="packet of"):
        protocol.packet_length(struct.pack(">I", length))


@pytest.mark.parametrize(
    ("text", "number", "status", "said"),
    [
        (b"550 5.7.1 no", 550, b"5.7.1", b"no"),
        (b"451 later", 451, b"", b"later"),
        (b"550 4.7.1 no", 550, b"", b"4.7.1 no"),
        (b"550 5.07.1 no", 550, b"", b"5.07.1 no"),
        (b"550 5.7.1234 no", 550, b"", b"5.7.1234 no"),
        (b"550", 550, b"", b""),
        (b"550-5.7.1 a\r\n550 5.7.1 b\r\n", 550, b"5.7.1", b"a\nb"),
        (b"550 100%% of %s", 550, b"", b"100% of s"),
    ],
)
def test_replies(text: bytes, number: int, status: bytes, said: bytes) -> None:
    answer = protocol.parse_answer(b"y", text + b"\0")
    assert (answer.number, answer.status, answer.text) == (number, status, said)


@pytest.mark.parametrize(
    "text", [b"", b"250 ok", b"55", b"5x0 a", b"600 a", b"550_a", b"550-a\n451 b"]
)
def test_replies_that_are_none(text: bytes) -> None:
    with pytest.raises(ValueError, match="reply"):
        protocol.parse_answer(b"y", text + b"\0")


EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), NAMES, VALUES),
        st.tuples(st.just("insert"), st.integers(0, 9), NAMES, VALUES),
        st.tuples(st.just("change"), st.integers(0, 3), NAMES, VALUES),
        st.tuples(st.just("delete"), st.integers(0, 3), NAMES),
    ),
    max_size=8,
)


@given(st.lists(st.tuples(NAMES, st.text("ab ", max_size=5).map(str.encode)), max_size=6), EDITS)
def test_no_edit_breaks_a_header(
    lines: list[tuple[bytes, bytes]], edits: list[tuple[object, ...]]
) -> None:
    """Each line that is shown afterwards is a line of the header, and nothing else is."""
    fields = Fields(b"".join(b"%b: %b\n" % line for line in lines))
    count = len(lines)
    for what, *facts in edits:
        before = len(list(fields.shown(False)))
        getattr(fields, str(what))(*facts)
        count = len(list(fields.shown(False)))
        assert (
            count - before
            in {"add": {1}, "insert": {1}, "change": {0, 1}, "delete": {0, -1}}[str(what)]
        )
    above = b"".join(line + b"\n" for line in fields.above)
    assert parse_header(above + fields.below) == list(fields.shown(False))
    assert len(parse_header(above + fields.below)) == count
    assert b"\r" not in above + fields.below


@given(st.binary(max_size=60).map(lambda text: text.replace(b"\r", b"")))
def test_what_nobody_changes_stays_as_it_is(text: bytes) -> None:
    header = b"A: 1\n" + b"".join(b"X: %b\n" % line for line in text.split(b"\n"))
    for start in (b"", b"From me\n"):
        fields = Fields(start + header)
        assert (fields.above, fields.below) == ([], start + header)


def test_places() -> None:
    fields = Fields(b"A : 1\nB: 2\n b\na:3\n", [b"T: 0"])
    assert list(fields.shown(False)) == [(b"T", b"0"), (b"A", b"1"), (b"B", b"2\n b"), (b"a", b"3")]
    assert list(fields.shown(True))[2] == (b"B", b" 2\n b")
    fields.insert(2, b"N", b" first below ours")
    fields.insert(1, b"M", b" last above ours")
    fields.change(2, b"A", b"4")
    assert fields.above == [b"T: 0", b"M: last above ours"]
    assert fields.below == b"N: first below ours\nA : 1\nB: 2\n b\nA:4\n"
    for index, name in enumerate((b"x y", b"", b"x:", b"\xff")):
        with pytest.raises(ValueError, match="no name"):
            fields.insert(index, name, b"")


@pytest.mark.parametrize("ip", [b"192.0.2.1", b"2001:db8::1"])
def test_connect(ip: bytes) -> None:
    data = protocol.connect(b"host", ip, 4025)
    family, port = data[5:6], data[6:8]
    assert family == (b"6" if b":" in ip else b"4")
    assert port == struct.pack(">H", 4025)
    assert data[8:] == ip + b"\0"
