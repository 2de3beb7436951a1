"""Patterns, against two other ways to match them; and the lists made of them."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.facts import ControlError
from qsmtpd.filters.wildmat import PATTERN_LIMIT, Listing, Pattern, is_wild


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (b"", [b""], [b"a"]),
        (b"*", [b"", b"a", b"\xff\0\n"], []),
        (b"a", [b"a", b"A"], [b"", b"aa", b"b"]),
        (b"A", [b"a", b"A"], []),
        (b"?", [b"a", b"*", b"\xff"], [b"", b"ab"]),
        (b"*@*.spam.example", [b"a@b.spam.example", b"@.SPAM.example"], [b"a@spam.example"]),
        (b"*a*b", [b"ab", b"xaxb", b"abab"], [b"ba", b"a", b"abx"]),
        (b"*a*a*", [b"aa"], [b"a"]),
        (b"*a?*[ab]a*", [b"aaba"], [b"aba"]),
        (b"a*a", [b"aa", b"aba"], [b"a"]),  # the two ends do not share a byte
        (b"ab*ba", [b"abba", b"abxba"], [b"aba"]),
        (b"*ab?d*", [b"abcd", b"xabxabcdx"], [b"abd", b"abxc"]),
        (b"[0-9][0-9]*@aol.com", [b"12@aol.com", b"12x@AOL.com"], [b"1@aol.com", b"x1@aol.com"]),
        (b"[^a-z]", [b"1", b"-"], [b"q", b"Q", b""]),
        (b"[^A-Z]", [b"1"], [b"q", b"Q"]),
        (b"[A-C]", [b"b", b"B"], [b"d"]),
        (b"[]x]", [b"]", b"x"], [b"["]),
        (b"[^]x]", [b"a"], [b"]", b"x"]),
        (b"[a-]", [b"a", b"-"], [b"b"]),
        (b"[-a]", [b"a", b"-"], [b"b"]),
        (b"[\\]", [b"\\"], [b"]"]),  # in brackets a backslash is itself
        (b"\\*", [b"*"], [b"a", b"\\*"]),
        (b"\\[x]", [b"[x]"], [b"x"]),
        (b"*@\\[192.0.2.1]", [b"a@[192.0.2.1]"], [b"a@1"]),
        (b"\\A", [b"a"], [b"\\a"]),
    ],
)
def test_pattern(pattern: bytes, yes: list[bytes], no: list[bytes]) -> None:
    compiled = Pattern(pattern)
    assert [text for text in yes + no if compiled.matches(text)] == yes


@pytest.mark.parametrize(
    "pattern", [b"[", b"a[b", b"[]", b"[^]", b"[^", b"[a-", b"a\\", b"[z-a]", b"*" * 1001]
)
def test_what_is_no_pattern(pattern: bytes) -> None:
    with pytest.raises(ValueError, match=r"has a|ends with|longer"):
        Pattern(pattern)


def naive(pattern: bytes, text: bytes) -> bool:
    """The same by the words of the manual page, in exponential time."""
    if not pattern:
        return not text
    if pattern[:1] == b"*":
        return any(naive(pattern[1:], text[i:]) for i in range(len(text) + 1))
    if not text:
        return False
    if pattern[:1] == b"?":
        return naive(pattern[1:], text[1:])
    if pattern[:1] == b"[":
        start = 2 if pattern[1:2] == b"^" else 1
        end = pattern.index(b"]", start + 1)
        inside, hit, i = pattern[start:end], False, 0
        while i < len(inside):
            if inside[i + 1 : i + 2] == b"-" and i + 2 < len(inside):
                span = range(inside[i], inside[i + 2] + 1)
                i += 3
            else:
                span = range(inside[i], inside[i] + 1)
                i += 1
            hit = hit or any(bytes((byte,)).lower() == text[:1].lower() for byte in span)
        return hit == (start == 1) and naive(pattern[end + 1 :], text[1:])
    if pattern[:1] == b"\\":
        pattern = pattern[1:]
    return pattern[:1].lower() == text[:1].lower() and naive(pattern[1:], text[1:])


def made_of(alphabet: bytes, longest: int) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(list(alphabet)), max_size=longest).map(bytes)


@given(made_of(b"abB*?[]^-\\", 8), made_of(b"aAb-]^[\\", 7))
def test_patterns_match_as_the_manual_says(pattern: bytes, text: bytes) -> None:
    try:
        compiled = Pattern(pattern)
    except ValueError:
        return
    assert compiled.matches(text) is naive(pattern, text)


@given(made_of(b"ab*?", 12), made_of(b"ab", 12))
def test_patterns_match_as_those_of_the_shell(pattern: bytes, text: bytes) -> None:
    assert Pattern(pattern).matches(text) is fnmatch.fnmatchcase(text, pattern)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_make_a_pattern_or_a_value_error(pattern: bytes, text: bytes) -> None:
    try:
        compiled = Pattern(pattern)
    except ValueError:
        assert b"[" in pattern or b"\\" in pattern
        return
    compiled.matches(text)


@given(st.binary(max_size=60))
def test_every_text_matches_itself_quoted(text: bytes) -> None:
    quoted = b"".join(b"\\" + bytes((byte,)) for byte in text)
    assert Pattern(quoted).matches(text)
    assert is_wild(text) is any(mark in text for mark in (b"*", b"?", b"[", b"\\"))


@pytest.mark.parametrize(
    "pattern",
    [
        b"*a" * 400 + b"*b*",
        b"*?a" * 300 + b"b*",
        b"*" + b"?a" * 300 + b"b*",
        b"*[a-c]?" * 140 + b"b*",
    ],
)
def test_a_hostile_address_costs_little(pattern: bytes) -> None:
    """A matcher that goes back behind a star would not live to see the end of this."""
    assert len(pattern) <= PATTERN_LIMIT
    start = time.process_time()
    assert not Pattern(pattern).matches(b"a" * 900)
    assert time.process_time() - start < 5


def listing(*entries: bytes) -> Listing:
    return Listing(Settings(ControlFiles(b"/nonexistent"), {}), "badrcptto", enumerate(entries))


@pytest.mark.parametrize(
    ("entries", "name", "domain", "last"),
    [
        ([], b"a@b", b"@b", (-1, False)),
        ([b"A@b"], b"a@b", b"@b", (0, True)),
        ([b"@B"], b"a@b", b"@b", (0, True)),
        ([b"@b"], b"a@c.b", b"@c.b", (-1, False)),
        ([b"b"], b"a@b", b"@b", (-1, False)),
        ([b"*", b"!a@b"], b"a@b", b"@b", (1, False)),
        ([b"!a@b", b"*"], b"a@b", b"@b", (1, True)),
        ([b"@b", b"!a@b"], b"a@b", b"@b", (1, False)),  # names as well as patterns
        ([b"!a@b", b"@b", b"a@b", b"!a@b"], b"a@b", b"@b", (3, False)),
        ([b"@*.b"], b"a@c.b", b"@c.b", (0, True)),
        ([b"?b"], b"a@b", b"@b", (-1, False)),  # of the address, not of the domain
        ([b"@[192.0.2.1]"], b"a@[192.0.2.1]", b"@[192.0.2.1]", (0, True)),  # as it is written
        ([b"*"], b"", b"", (0, True)),
        ([b"*", b"!"], b"", b"", (1, False)),
        ([b"*", b"!"], b"a", b"", (0, True)),
    ],
)
def test_the_last_entry_decides(
    entries: list[bytes], name: bytes, domain: bytes, last: tuple[int, bool]
) -> None:
    assert listing(*entries).last(name, domain) == last


ENTRIES = st.lists(st.tuples(st.booleans(), made_of(b"ab*?@", 5)), max_size=6)


@given(ENTRIES, made_of(b"ab", 3), made_of(b"ab", 3))
def test_a_list_decides_as_one_that_is_read_from_the_top(
    entries: list[tuple[bool, bytes]], user: bytes, host: bytes
) -> None:
    name, domain = user + b"@" + host, b"@" + host
    verdict = False
    for listed, entry in entries:
        about = domain if entry.startswith(b"@") else name
        if entry in (name, domain) or naive(entry, about):
            verdict = listed
    found = listing(*[(b"" if listed else b"!") + entry for listed, entry in entries])
    assert found.last(name, domain)[1] is verdict


def test_a_bad_entry_is_named() -> None:
    with pytest.raises(ControlError) as error:
        listing(b"a@b", b"x[y")
    assert error.value.name == "control/badrcptto"
    assert "x[y" in error.value.reason
