"""A message as a stream: its header, its body and its end, however it is cut; its hops."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsmtpd.session import message
from qsmtpd.session.message import BODY, END, HEADER, MessageStream
from qsmtpd.smtp.header import count_hops

PIECES = st.sampled_from([b"\n", b"\n\n", b"a: 1\n", b"x", b" folded", b"\n.\n"])


def events(parts: list[bytes]) -> tuple[list[tuple[str, bytes]], bool]:
    """What comes out where a message comes in these parts, and whether the header was whole."""
    stream = MessageStream()
    found: list[tuple[str, bytes]] = []
    for part in parts[:-1]:
        found += stream.feed(part, last=False)
    found += stream.feed(parts[-1], last=True)
    return found, stream.whole


def expected(text: bytes, limit: int) -> tuple[bytes, bool]:
    """(the header, is it whole?), by the plain definition."""
    lines = text.splitlines(keepends=True)
    header = b"".join(lines[: lines.index(b"\n")]) if b"\n" in lines else text
    return (header, True) if len(header) <= limit else (text[:limit], False)


@settings(max_examples=10 * settings().max_examples, deadline=None, database=None)
@given(
    st.lists(PIECES, max_size=12),
    st.lists(st.integers(0, 40), max_size=6),
    st.sampled_from([5, 11, 1000]),
)
def test_however_it_is_cut(pieces: list[bytes], cuts: list[int], limit: int) -> None:
    text = b"".join(pieces)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    ways = [
        [text],
        [text, b""],
        [bytes((byte,)) for byte in text] or [b""],
        [text[a:b] for a, b in zip(places, [*places[1:], len(text)], strict=True)],
    ]
    before = message.HEADER_LIMIT
    message.HEADER_LIMIT = limit
    try:
        found = [events(parts) for parts in ways]
    finally:
        message.HEADER_LIMIT = before
    header, whole = expected(text, limit)
    for parts, said_whole in found:
        assert parts[0] == (HEADER, header)
        assert parts[-1] == (END, b"")
        assert {event for event, _ in parts[1:-1]} <= {BODY}
        assert all(part for _, part in parts[1:-1])
        assert b"".join(part for _, part in parts) == text
        assert said_whole == whole


@pytest.mark.parametrize("size", [message.HEADER_LIMIT, message.HEADER_LIMIT + 1])
def test_the_limit(size: int) -> None:
    text = b"a" * (size - 1) + b"\n\nbody\n"
    (first, *_), whole = events([text])
    assert first == (HEADER, text[: message.HEADER_LIMIT])
    assert whole == (size == message.HEADER_LIMIT)


@pytest.mark.parametrize(
    ("header", "hops"),
    [
        (b"", 0),
        (b"Received: 1\nRECEIVED-SPF: 2\ndelivered\n", 3),
        (b"X: Received\n Received: folded\n", 0),
        (b"\r\nreceived\n", 1),
        (b"receive", 0),
    ],
)
def test_hops(header: bytes, hops: int) -> None:
    assert count_hops(header) == hops
