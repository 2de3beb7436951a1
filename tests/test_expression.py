"""Regular expressions of lists, against Python's; and that no text makes them slow."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from harness import Home
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.diagnose.patterns import NEGATED
from qsmtpd.filters import badrcptto
from qsmtpd.filters.expression import LENGTH_LIMIT, PLACES_LIMIT, Expression
from qsmtpd.filters.wildmat import EXPRESSIONS_LIMIT
from qsmtpd.filters.wildmat import PLACES_LIMIT as TOTAL_PLACES
from qsmtpd.log import Log


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        (b"", [b""], [b"a"]),
        (b"^$", [b""], [b"a"]),
        (b"a", [b"a", b"A"], [b"", b"aa", b"xa"]),
        (b"^A$", [b"a", b"A"], [b"ab", b"xa"]),
        (b"a|b", [b"a", b"b"], [b"", b"ab"]),
        (b"a|", [b"a", b""], [b"b"]),
        (b".", [b"a", b"\xff", b"\n", b"."], [b"", b"ab"]),
        (b"bad\\.domain\\.com", [b"BAD.domain.com"], [b"badxdomain.com", b"x@bad.domain.com"]),
        (b".*@(.*\\.)?spam\\.(com|net)", [b"x@spam.com", b"@a.SPAM.net"], [b"x@aspam.com"]),
        (b"[^@]+", [b"joe"], [b"", b"joe@a"]),
        (b"[!%#:*^(){}].*", [b"!a", b"^", b"*x", b")"], [b"a", b""]),
        (b"[]a]", [b"]", b"a"], [b"[", b""]),
        (b"[^]a]", [b"["], [b"]", b"a"]),
        (b"[a-]", [b"a", b"-"], [b"b"]),
        (b"[\\]\\-x]", [b"]", b"-", b"x"], [b"\\", b"y"]),
        (b"[A-C]", [b"b", b"B"], [b"d"]),
        (b"[[:digit:]]{3}", [b"123"], [b"12", b"1234", b"a23"]),
        (b"[^[:alnum:].]", [b"-"], [b"a", b"1", b".", b"Z"]),
        (b"[[:upper:]_]", [b"a", b"A", b"_"], [b"1"]),
        (b"[[]", [b"["], [b":"]),
        (b"a{2}", [b"aa"], [b"a", b"aaa"]),
        (b"a{2,}", [b"aa", b"aaaa"], [b"a"]),
        (b"a{0,2}", [b"", b"aa"], [b"aaa"]),
        (b"(ab){0}c", [b"c"], [b"abc"]),
        (b"(a|ab)(c|bcd)(d*)", [b"abcd", b"acd", b"abc", b"abcdd"], [b"abbd"]),
        (b"((a*)*)*b", [b"b", b"aab"], [b"a"]),
        (b"\\^\\$\\(\\|\\\\", [b"^$(|\\"], [b""]),
        (b"a\\$", [b"a$"], [b"a"]),
        (b"a\\\\$", [b"a\\"], [b"a$"]),
        (b"}]-", [b"}]-"], [b"}"]),
        (b"\xe9", [b"\xe9"], [b"\xc9"]),  # case is ASCII's
    ],
)
def test_expression(text: bytes, yes: list[bytes], no: list[bytes]) -> None:
    compiled = Expression(text)
    assert [line for line in yes + no if compiled.matches(line)] == yes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"(", "has a ( without a )"),
        (b"(a$", "has a ( without a )"),
        (b"a)", "has a ) without a ("),
        (b"[a", "has a [ without a ]"),
        (b"[]", "has a [ without a ]"),
        (b"[a-", "has a [ without a ]"),
        (b"[b-a]", "has a range that goes backwards"),
        (b"[[:alpha]", "has a [: and no name"),
        (b"[[:word:]]", "has a [: and no name"),
        (b"*a", "has a * with nothing before it"),
        (b"a|+", "has a + with nothing before it"),
        (b"(?:a)", "has a ? with nothing before it"),
        (b"a**", "repeats what repeats"),
        (b"a+?", "repeats what repeats"),
        (b"a{1}{2}", "repeats what repeats"),
        (b"a{", "has a { that is none of"),
        (b"a{x}", "has a { that is none of"),
        (b"a{,2}", "has a { that is none of"),
        (b"a{1,2,3}", "has a { that is none of"),
        (b"a{-1}", "has a { that is none of"),
        (b"a{1000}", "has a { that is none of"),
        (b"a{2,1}", "has a {} whose second number"),
        (b"a^b", "has a ^ that is not at its end"),
        (b"a$b", "has a $ that is not at its end"),
        (b"^a|^b", "has a ^ that is not at its end"),
        (b" a", "has a blank or control character"),
        (b"a\t", "has a blank or control character"),
        (b"\\w+", "has a \\ with no punctuation"),
        (b"(a)\\1", "has a \\ with no punctuation"),
        (b"a\\", "has a \\ with no punctuation"),
        (b"[\\d]", "has a \\ with no punctuation"),
        (b"(" * 11 + b")" * 11, "has more than 10 parentheses"),
        (b"a" * (LENGTH_LIMIT + 1), "is longer than 255 bytes"),
        (b"a{256}b", "has more than 256 places"),
        (b"((a{16}){16}){16}", "has more than 256 places"),
        (b"((((){255}){255}){255}){255}", "is too large"),
    ],
)
def test_what_is_no_expression(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        Expression(text)


def test_the_limits_themselves() -> None:
    assert Expression(b"a" * LENGTH_LIMIT).matches(b"a" * LENGTH_LIMIT)
    assert Expression(b"a{%d}" % PLACES_LIMIT).matches(b"a" * PLACES_LIMIT)
    assert Expression(b"(" * 10 + b"a" + b")" * 10).matches(b"a")


def quantified(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    suffix = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "{0}"])
    return st.builds(lambda inner, how: f"({inner}){how}", part, suffix)


ATOMS = st.sampled_from(["a", "b", "c", ".", "@", "\\.", "[ab]", "[^a]", "[a-c]", "[^b-c]"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda part: (
        st.builds(lambda a, b: a + b, part, part)
        | st.builds(lambda a, b: f"({a}|{b})", part, part)
        | quantified(part)
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, st.lists(st.text("abcA.@", max_size=8), min_size=1, max_size=5))
def test_it_matches_what_python_matches(text: str, lines: list[str]) -> None:
    try:
        compiled = Expression(text.encode())
    except ValueError as error:
        assert "places" in str(error) or "large" in str(error) or "longer" in str(error)
        return
    for line in lines:
        theirs = re.fullmatch(text, line, re.IGNORECASE | re.DOTALL)
        assert compiled.matches(line.encode()) == (theirs is not None), line


@given(EXPRESSIONS, st.binary(max_size=300))
def test_the_number_of_steps_is_bounded(text: str, line: bytes) -> None:
    """At most one step for each byte and place, whatever the text: counted, not timed."""
    try:
        compiled = Expression(text.encode())
    except ValueError:
        return
    steps = 0

    class Follow(list[int]):
        def __getitem__(self, place: object) -> int:  # type: ignore[override]
            nonlocal steps
            steps += 1
            return super().__getitem__(place)  # type: ignore[call-overload, no-any-return]

    compiled._follow = Follow(compiled._follow)
    compiled.matches(line)
    assert steps <= len(line) * len(compiled._members)


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("^.*@(.*\\.)?Spam\\.example$", b"spam.example"),
        ("a|b", b""),
        ("(abc)?d{0,2}", b""),
        ("x(abc)+[yz]q", b"abc"),
        ("ab*cd{2}", b"a"),
        ("[@][.]", b"@."),
    ],
)
def test_what_a_text_has_to_hold(text: str, literal: bytes) -> None:
    compiled = Expression(text.encode())
    assert compiled._literal == literal
    compiled._follow.clear()  # a text without it is not followed
    assert not literal or not compiled.matches(b"w" * 900)


@pytest.mark.slow
def test_a_list_of_expressions_has_a_bound(home: Home) -> None:
    """Their number, and their size written out."""
    whole = [f"re:.*word{number}\\.example.*" for number in range(EXPRESSIONS_LIMIT)]
    large = ["re:.{0,250}"] * (TOTAL_PLACES // 250)
    for lines, one_more in (
        (whole, "is one expression more than 500"),
        (large, "makes 10001 places of all expressions, more than 10000"),
    ):
        home.control("badrcptto", "# one", *lines)
        assert home.run(b"QUIT\r\n").codes == [220, 221]
        home.control("badrcptto", "# one", *lines, "re:x")
        assert home.run(b"QUIT\r\n").codes == [421]
        line = f"wrong: control/badrcptto: line {len(lines) + 2}: 're:x' {one_more}\n"
        assert line.encode() in home.run(b"", "--check").out


@pytest.mark.parametrize(
    "text",
    [
        "(a*)*b",
        "(a|a)*b",
        "(a|aa)+b",
        ".*.*.*.*.*.*.*.*.*.*b",
        "(.*a){20}b",
        "(a?){100}a{100}b",
        "(.?){250}b",
        "([a-c]+)*@([a-c]+)*@b",
    ],
)
def test_what_takes_others_for_ever(text: str) -> None:
    """Of these, Python's needs longer than there is time for some 900 bytes."""
    compiled = Expression(text.encode())
    started = time.process_time()
    for line in (b"a" * 900, b"ab" * 450 + b"c", b"abc@" * 225):
        assert not compiled.matches(line)
    assert time.process_time() - started < 5  # it takes 0.1 on an idle machine


def test_in_the_lists(home: Home) -> None:
    home.control(
        "badmailfrom", "re:^.*@(.*\\.)?spam\\.example$", "!re:good.*", "?never@spam.example"
    )
    home.control("badrcptto", "re:[^@]*[%!][^@]*@.*", "x@ok.example")
    home.control("badhelo", "re:[^.]*", "re:localhost!")

    def codes(helo: bytes, sender: bytes, recipient: bytes) -> list[int]:
        lines = (b"HELO " + helo, b"MAIL FROM:<%b>" % sender, b"RCPT TO:<%b>" % recipient, b"QUIT")
        return home.run(b"".join(line + b"\r\n" for line in lines)).codes[2:4]

    assert codes(b"mx.example", b"a@b.example", b"joe@ok.example") == [250, 250]
    assert codes(b"mx.example", b"a@x.SPAM.example", b"joe@ok.example") == [250, 553]
    assert codes(b"mx.example", b"a@spam.example.org", b"joe@ok.example") == [250, 250]
    assert codes(b"mx.example", b"good@spam.example", b"joe@ok.example") == [250, 250]
    assert codes(b"mx.example", b"never@spam.example", b"joe@ok.example") == [250, 250]
    assert codes(b"mx.example", b"a@b.example", b"a%b@ok.example") == [250, 553]
    assert codes(b"mx.example", b"a@b.example", b"x@ok.example") == [250, 553]
    assert codes(b"mx", b"a@b.example", b"joe@ok.example") == [250, 550]
    assert codes(b"localhost", b"a@b.example", b"joe@ok.example") == [250, 250]


def test_an_expression_is_made_once(tmp_path: Path) -> None:
    """Sessions of a server share what they have made of a control file."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control/badrcptto").write_text("re:a\n!re:a\nre:b\n")
    files = ControlFiles(os.fsencode(tmp_path))
    made = []
    for _ in range(2):
        badrcptto.Plugin(Settings(files, {}).for_plugin("x", {}, Log(2)))
        made.append([x for x in files.kept.values() if isinstance(x, Expression)])
    assert len(made[0]) == 2
    assert all(one is other for one, other in zip(*made, strict=True))


@pytest.mark.sample(3)
@pytest.mark.parametrize("entry", ["re:(", "!re:a**", "?re:a", "~re:a", "re:\\w"])
def test_one_that_makes_no_sense_in_a_list(home: Home, entry: str) -> None:
    home.control("badmailfrom", "joe@a.example", entry)
    run = home.run(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\n")
    assert run.lines[0] == b"421 unable to read controls (#4.3.0)"
    checked = home.run(b"", "--check")
    assert checked.status == 1
    assert f"wrong: control/badmailfrom: line 2: '{entry}' ".encode() in checked.out


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "entry",
    [
        "^.*@a",
        "joe@a$",
        "bad\\.example",
        "!\\.",
        "!@",
        "[0-9]+@a",
        ".+@a",
        ".*@a",
        "x@.*",
        "(a|b)@c",
        "\\d+@x.org",
        "x{2}@y.z",
        "joe.*@",
        "a|b@c",
    ],
)
def test_what_looks_like_one(home: Home, entry: str) -> None:
    """From the qregex patch: as it is written it matches nothing that was meant."""
    home.control("badrcptto", "# ^.*", "joe@ok.example", entry, "# x", entry + " \t")
    checked = home.run(b"", "--check")
    assert checked.status == 1
    wrong = [line for line in checked.out.decode().splitlines() if line.startswith("wrong: ")]
    todo = NEGATED if entry.startswith("!") else "write re: before it"
    what = f"{entry} looks like a regular expression, and is none: {todo}"
    assert {f"wrong: control/badrcptto: line {number}: {what}" for number in (3, 5)} <= set(wrong)


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    "entry",
    ["joe@a.example", "@a.example", "*@*.a.example", "[0-9]*@a", "[^a-z]@a", "@[192.0.2.1]", "*",
     "!", "a.*@b", "@a.*", "*.*", "a+b@c", "*|*", "|x@a",
     "@a.example+", "a^b@c", "re:^a@.*$", "!re:.*@b"],
)  # fmt: skip
def test_what_does_not(home: Home, entry: str) -> None:
    home.control("badmailfrom", entry)
    checked = home.run(b"", "--check")
    assert checked.status == 0, checked.out


def test_an_expression_for_half_an_address(home: Home) -> None:
    home.control("badmailfrom", "re:bad\\.example", "re:[^@]+", "re:", "re:.*bad.*", "re:b.d")
    home.control("badhelo", "re:bad\\.example")
    lines = home.run(b"", "--check").out.decode().splitlines()
    assert [line for line in lines if not line.startswith("ok: ")] == [
        "warning: control/badmailfrom: line 1: re:bad\\.example matches no address with a domain:"
        " it is for the whole address"
    ]


def test_a_list_of_another_name(home: Home) -> None:
    home.control("plugins", "badrcptto:2 badrcptto=other", "builtins")
    home.control("other", "^x$")
    assert b"wrong: control/other: line 1: ^x$ looks like" in home.run(b"", "--check").out
