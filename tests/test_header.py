"""The parsers of a header and of its dates, against Python's own and against anything."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from email import message_from_bytes
from email.utils import format_datetime, formatdate, mktime_tz, parsedate_tz

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.smtp.date import parse_date
from qsmtpd.smtp.header import LINE_LIMIT, parse_header, unfold

NAMES = st.text("!#$%&'*+-09;<=>?@AZaz^_`{|}~", min_size=1).map(str.encode)
TEXT = st.binary(max_size=30).map(lambda text: text.replace(b"\n", b""))
FOLDS = st.lists(st.tuples(st.sampled_from([b" ", b"\t"]), TEXT).map(b"".join), max_size=3)
VALUES = st.tuples(TEXT, FOLDS).map(lambda parts: b"\n".join((parts[0], *parts[1])))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def joined(header: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\n" for name, value in header)


@given(st.binary(max_size=200) | st.text(":ab \t\n\r\0>From", max_size=80).map(str.encode))
def test_anything_is_parsed(text: bytes) -> None:
    header = parse_header(text)
    assert parse_header(joined(header)) == header
    for name, value in header:
        assert name
        assert all(33 <= byte <= 126 and byte != 0x3A for byte in name)
        assert b"\n" not in unfold(value)
    # What is in the result was in the text, in this order.
    rest = text
    for name, value in header:
        before, _, rest = rest.partition(name)
        assert value in rest
        assert b"\n\n" not in before
        rest = rest[rest.index(value) + len(value) :]


@given(HEADERS)
def test_what_is_well_formed_comes_back(header: list[tuple[bytes, bytes]]) -> None:
    assert parse_header(joined(header)) == header
    assert parse_header(joined(header)[:-1]) == header or not header
    assert parse_header(joined(header) + b"\nX: body\n") == header


PLAIN = st.text("abc def(),.<@>", max_size=20).map(lambda text: text.strip().encode())
PLAIN_VALUES = st.lists(PLAIN, min_size=1, max_size=3).map(
    lambda parts: b"\n ".join(part or b"x" for part in parts)
)


@given(st.lists(st.tuples(st.text("XYZ-", min_size=1).map(str.encode), PLAIN_VALUES), max_size=5))
def test_as_python_reads_it(header: list[tuple[bytes, bytes]]) -> None:
    message = message_from_bytes(joined(header) + b"\nbody\n")
    assert [(n.decode(), v.decode()) for n, v in parse_header(joined(header))] == message.items()


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (b"", []),
        (b"\n", []),
        (b"\nA: b\n", []),
        (b"A: b", [(b"A", b"b")]),
        (b"A:b\nA: c\n", [(b"A", b"b"), (b"A", b"c")]),
        (b"A:\n", [(b"A", b"")]),
        (b"A:  b \n", [(b"A", b" b ")]),
        (b"A: b\n c\n\td\nE: f\n", [(b"A", b"b\n c\n\td"), (b"E", b"f")]),
        (b"A: b\n \nC: d\n", [(b"A", b"b\n "), (b"C", b"d")]),  # obsolete, but no end
        (b"A : b\nB\t :c\n", [(b"A", b"b"), (b"B", b"c")]),
        (b"A: b\nno line\nC: d\n", [(b"A", b"b")]),
        (b"A: b\nno name: c\nC: d\n", [(b"A", b"b")]),
        (b"A: b\n\xe4: c\nC: d\n", [(b"A", b"b")]),
        (b"A: b\n: c\nC: d\n", [(b"A", b"b")]),
        (b"A: b\n\r\nC: d\n", [(b"A", b"b")]),
        (b" A: b\nC: d\n", []),
        (b"From a Mon Nov 23 2026\nA: b\n", [(b"A", b"b")]),
        (b">From a Mon Nov 23 2026\nA: b\n", [(b"A", b"b")]),
        (b"From : a\nA: b\n", [(b"From", b"a"), (b"A", b"b")]),
        (b"A: b\nFrom x\nC: d\n", [(b"A", b"b")]),
        (b"A: b\nSub", [(b"A", b"b")]),
    ],
)
def test_headers(text: bytes, header: list[tuple[bytes, bytes]]) -> None:
    assert parse_header(text) == header


@pytest.mark.parametrize(
    "unit", [b"A: b\n", b"A: b\n c\n", b"A:" + b"\n c" * 500 + b"\n", b"x", b" \n", b"A\n"]
)
def test_size_costs_no_more_than_it_should(unit: bytes) -> None:
    """A header of 8 MB is parsed in well under a second, and no more than so many lines."""
    text = b"A: b\n" + unit * (8 * 1024 * 1024 // len(unit))
    start = time.process_time()
    header = parse_header(text)
    assert time.process_time() - start < 2
    assert len(header) + sum(value.count(b"\n") for _, value in header) <= LINE_LIMIT


def test_unfold() -> None:
    assert unfold(b" a\n b\n\tc ") == b"a b\tc"


NOW = 1795395195
DATES = [
    b"Mon, 23 Nov 2026 01:53:15 +0100 (CET)",
    b"Mon, 23 Nov 2026 00:53:15 GMT",
    b"23 Nov 26 00:53:15 -0000",
    b"\n Mon,\n 23 nov 2026 00:53:15 +0000",
    b"Mon, 23 November 2026 00:53:15",
    b"Sun, 22 Nov 2026 13:23:15 -1130",
    b"Mon Nov 23 00:53:15 2026",
    b"(so (it is)) Mon, 23 Nov 2026 00:53:15 +0000 (open",
]


@pytest.mark.parametrize("date", DATES)
def test_dates(date: bytes) -> None:
    if date.startswith(b"("):
        date = date.replace(b"(so (it is))", b"(so it is)")
    assert parse_date(date) == NOW
    if not date.startswith(b"("):
        parsed = parsedate_tz(unfold(date).decode())
        assert parsed is not None
        assert mktime_tz(parsed) == NOW


@pytest.mark.parametrize(
    "date",
    [
        b"",
        b"now",
        b"23 Nov 2026",
        b"Nov 2026 00:53:15",
        b"23 2026 00:53:15",
        b"32 Nov 2026 00:53:15 +0000",
        b"0 Nov 2026 00:53:15 +0000",
        b"23 Nov 2026 24:53:15 +0000",
        b"23 Nov 2026 00:60:15 +0000",
        b"23 Nov 2026 00:53:61 +0000",
        b"23 Nov 2026 00:53:15:1 +0000",
        b"23 Nov 2026 00:53:15 01:02 +0000",
        b"23 Nov 2026 -1:53:15 +0000",
        b"23 Nov 20260 00:53:15 +0000",
        b"23 Nov 2026 12 00:53:15 +0000",
        b"\xd9\xa3 Nov 2026 00:53:15 +0000",
        b"23 Nov 2026 00:53:15 +0000" + b" " * 200,
    ],
)
def test_no_dates(date: bytes) -> None:
    assert parse_date(date) is None


@given(st.binary(max_size=60) | st.text("0123 JanFeb,:+-()\n", max_size=60).map(str.encode))
def test_anything_is_a_date_or_not(text: bytes) -> None:
    assert isinstance(parse_date(text), int | None)


@given(st.datetimes(), st.integers(-1439, 1439))
def test_every_date_that_python_writes(when: datetime, zone: int) -> None:
    when = when.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=zone)))
    assert parse_date(format_datetime(when).encode()) == when.timestamp()


@given(st.integers(0, 2**35))
def test_every_second(now: int) -> None:
    assert parse_date(formatdate(now).encode()) == now
