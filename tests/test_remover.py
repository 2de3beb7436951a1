"""Header fields that are removed while a message streams by."""

from __future__ import annotations

import re
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsmtpd.smtp import remover
from qsmtpd.smtp.remover import FieldRemover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qsmtpd.smtp.remover import Rule

RULES: list[Rule] = [
    ("ar", b"ar", lambda value: b"ours" in value),
    ("spam", b"x-spam*", None),
]
#: By the plain definition; a bare CR begins a line, but only an LF ends one.
FIELD = re.compile(rb"(?i)(^|[\r\n])((ar)[ \t]*:|x-spam[!-9;-~]*[ \t]*:)((?:[^\n]|\n[ \t])*)(\n|$)")


def expected(text: bytes) -> tuple[bytes, int]:
    """What stays, and how many fields go."""
    end = 0 if text.startswith(b"\n") else text.find(b"\n\n") + 1
    header, body = (text[:end], text[end:]) if end or text.startswith(b"\n") else (text, b"")
    place, count = 0, 0
    while found := FIELD.search(header, place):
        if found[3] and b"ours" not in found[4]:
            place = found.end(2)
            continue
        count += 1
        start = found.end(1)
        end = found.end(4) if found[1] == b"\r" else found.end()
        header = header[:start] + header[end:]
        place = start - len(found[1])
    return header + body, count


def removed(parts: list[bytes], rules: list[Rule] = RULES) -> tuple[bytes, int]:
    """The same, where the message comes in these parts."""
    found: list[tuple[str, bytes, bytes]] = []
    stream = FieldRemover(rules, lambda *facts: found.append(facts))
    kept = b"".join(map(stream.feed, parts))
    return kept + stream.feed(b"", last=True), len(found)


PIECES = st.sampled_from(
    [
        b"AR: ours; x\n", b"ar : theirs\n", b"aR:\n ours", b"Ar", b"ARC: ours\n", b"AR\n: ours\n",
        b"X-Spam: 1\n", b"x-spam-flag\t:\n", b"X-Sp", b"am", b": ", b"ours", b"x", b"\n", b"\r",
        b"\n ", b"\n\t", b"Subject: AR: ours\n", b"not a line\n", b"\r\n", b"\xff", b" ",
    ]
)  # fmt: skip


@settings(max_examples=10 * settings().max_examples, deadline=None, database=None)
@given(st.lists(PIECES, max_size=14), st.lists(st.integers(0, 100), max_size=6))
def test_however_it_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    text = b"".join(pieces)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    ways = [
        [text],
        [bytes((byte,)) for byte in text],
        [text[a:b] for a, b in zip(places, [*places[1:], len(text)], strict=True)],
    ]
    before = remover.BATCH
    remover.BATCH = 1
    try:
        found = [removed(parts) for parts in ways]
    finally:
        remover.BATCH = before
    assert found == [expected(text)] * 3


def test_only_the_header() -> None:
    text = b"AR: ours\nSubject: x\n\nAR: ours\nX-Spam: 1\n"
    assert removed([text]) == (text.removeprefix(b"AR: ours\n"), 1)
    assert removed([b"\n" + text]) == (b"\n" + text, 0)
    header, body = text.split(b"\n\n")
    stream = FieldRemover(RULES, lambda *facts: None)
    assert stream.feed(header + b"\n", last=True) == b"Subject: x\n"
    assert stream.feed(b"\n" + body) == b"\n" + body


@pytest.mark.parametrize("cut", [1, 1000, 65536, 1 << 20])
@pytest.mark.parametrize(
    ("text", "kept", "count"),
    [
        (b"AR: theirs" + b"x" * 50_000 + b" ours\nA: b\n\n", None, 0),
        (b"AR: ours" + b"\n x" * 30_000 + b"\nA: b\n\n", b"A: b\n\n", 1),
        (b"B: c\rAR: ours" + b"x" * 50_000 + b"\nA: b\n\n", b"B: c\r\nA: b\n\n", 1),
        (b"AR" + b" " * 50_000 + b": ours\nA: b\n\n", None, 0),
        (b"X-Spam" + b"x" * 50_000 + b": ours\nA: b\n\n", b"A: b\n\n", 1),
        (b"X-Spam " + b"x" * 50_000 + b": ours\nA: b\n\n", None, 0),
    ],
    ids=["kept", "folds", "behind a CR", "blanks", "long name", "no name"],
)
def test_longer_than_the_limit(text: bytes, kept: bytes | None, count: int, cut: int) -> None:
    """Only the first 16 KB are looked at, and no more is held back."""
    found: list[bytes] = []
    stream = FieldRemover(RULES, lambda owner, name, value: found.append(value))
    out = b""
    for place in range(0, len(text), cut):
        out += stream.feed(text[place : place + cut])
        assert len(stream._held) <= remover.FIELD_LIMIT + 65536
    out += stream.feed(b"", last=True)
    assert (out, len(found)) == (text if kept is None else kept, count)
    assert all(len(value) <= remover.FIELD_LIMIT for value in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [b"AR: ours\n", b"AR: x\n", b"a:\n", b"AR: \n", b"\n ", b"\r", b"X-Spam", b"AR:\n ours\n"],
)
def test_headers_of_a_megabyte(line: bytes) -> None:
    """The time is that of its length, whatever it is made of."""
    text = b"A: b" + line * (1_000_000 // len(line))
    parts = [text[place : place + 65536] for place in range(0, len(text), 65536)]
    before = process_time()
    removed(parts)
    assert process_time() - before < 10
