"""Lines of control/dnsbls and control/rhsbls, and which answers of a list are a listing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.filters.dnslist import PATTERN_LIMIT, ZONE_LIMIT, Entry, is_error, parse, parse_pattern

ZONE = "zen.spamhaus.org"


def pattern_of(parts: list[frozenset[int]]) -> str:
    """A pattern that means these numbers, each written by itself."""
    return ".".join("[" + ",".join(map(str, sorted(part))) + "]" for part in parts)


@pytest.mark.parametrize(
    ("line", "zone", "weight", "patterns"),
    [
        (ZONE, ZONE, 1, 0),
        ("ZEN.Spamhaus.ORG.", ZONE, 1, 0),
        (f"{ZONE}\t 2", ZONE, 2, 0),
        (f"  {ZONE} -1000", ZONE, -1000, 0),
        (f"{ZONE} 0", ZONE, 0, 0),
        (f"{ZONE} -0", ZONE, 0, 0),
        (f"{ZONE} 0007", ZONE, 7, 0),
        (f"{ZONE} 127.0.0.2", ZONE, 1, 1),
        (f"{ZONE} 3 127.0.0.[2-4]  127.0.0.[10,11]\t127.0.*.1", ZONE, 3, 3),
        ("a_b.x-1.example", "a_b.x-1.example", 1, 0),
        ("x" * 63 + ".example", "x" * 63 + ".example", 1, 0),
        (".".join(["x" * 46] * 4), ".".join(["x" * 46] * 4), 1, 0),
    ],
)
def test_lines(line: str, zone: str, weight: int, patterns: int) -> None:
    entry = parse(line.encode())
    assert (entry.zone, entry.weight, len(entry.patterns)) == (zone.encode(), weight, patterns)


@pytest.mark.parametrize(
    "line",
    [
        "", " ", "org", "org 2", ".org", "a..org", "a.org..", "zen.spämhaus.org", "a b.org",
        "192.0.2.1", "127.0.0.2", "x" * 64 + ".org", "x." * (ZONE_LIMIT // 2) + "org", "a:b.org",
        "+zen.example.org", "*.example.org", "zen.example.org:text", "zen.example.org # ours",
        f"{ZONE} 1001", f"{ZONE} -1001", f"{ZONE} -", f"{ZONE} --1", f"{ZONE} +1", f"{ZONE} 1.5",
        f"{ZONE} 00001", f"{ZONE} 1 2", f"{ZONE} 127.0.0.2 1", f"{ZONE} x", f"{ZONE} \u0661",
        f"{ZONE} 127.0.0", f"{ZONE} 127.0.0.1.2", f"{ZONE} 127.0.0.", f"{ZONE} 127.0.0.256",
        f"{ZONE} 127.0.0.0002", f"{ZONE} 127.0.0.[", f"{ZONE} 127.0.0.[]", f"{ZONE} 127.0.0.[2-]",
        f"{ZONE} 127.0.0.[-2]", f"{ZONE} 127.0.0.[4-2]", f"{ZONE} 127.0.0.[2,,3]",
        f"{ZONE} 127.0.0.[2-3-4]", f"{ZONE} 127.0.0.[^2]", f"{ZONE} 127.0.0.2*",
        f"{ZONE} 127.0.0.?",
        f"{ZONE} 127.0.0.[2", f"{ZONE} 127.0.0.2]", f"{ZONE} 10.0.0.2", f"{ZONE} 127.255.255.*",
        f"{ZONE} 127.0.0.[" + "2," * 200 + "3]", f"{ZONE} [0-126].*.*.*",
    ],
)  # fmt: skip
def test_lines_that_make_no_sense(line: str) -> None:
    with pytest.raises(ValueError, match="^(has|begins|does not begin) "):
        parse(line.encode())


@pytest.mark.parametrize(
    ("words", "listed", "others"),
    [
        ("", "127.0.0.1 127.0.0.2 127.255.254.9 127.1.2.3", "127.255.255.254 10.0.0.1 12.7.0.0"),
        ("127.0.0.[2-4]", "127.0.0.2 127.0.0.3 127.0.0.4", "127.0.0.1 127.0.0.5 127.0.0.24"),
        ("127.0.0.[9-11]", "127.0.0.9 127.0.0.10 127.0.0.11", "127.0.0.1 127.0.0.12"),
        ("127.0.0.2 127.1.*.*", "127.0.0.2 127.1.9.9", "127.0.0.1 127.2.0.2"),
        ("*.*.*.*", "127.0.0.2", "127.255.255.1 192.0.2.1"),
    ],
)
def test_answers(words: str, listed: str, others: str) -> None:
    entry = parse(f"{ZONE} {words}".encode())
    for answer in listed.split():
        assert entry.holds(answer.encode()), answer
    for answer in others.split():
        assert not entry.holds(answer.encode()), answer


PARTS = st.frozensets(st.integers(0, 255), min_size=1, max_size=8)


@given(
    st.lists(PARTS, min_size=3, max_size=3), st.lists(st.integers(0, 255), min_size=3, max_size=3)
)
def test_a_pattern_matches_what_it_says(parts: list[frozenset[int]], numbers: list[int]) -> None:
    if all(part == {255} for part in parts[:2]):
        return
    entry = Entry(b"x.example", 1, (parse_pattern(f"127.{pattern_of(parts)}".encode()),))
    address = b"127.%d.%d.%d" % tuple(numbers)
    wanted = all(number in part for number, part in zip(numbers, parts, strict=True))
    assert entry.holds(address) == (wanted and not is_error(address))


@given(st.binary(max_size=2 * PATTERN_LIMIT))
def test_any_line_is_a_line_or_an_error(line: bytes) -> None:
    for text in (line, ZONE.encode() + b" " + line, ZONE.encode() + b" 127.0.0." + line):
        try:
            entry = parse(text)
        except ValueError:
            continue
        assert entry.zone.isascii() and len(entry.zone) <= ZONE_LIMIT
        assert -1000 <= entry.weight <= 1000
