"""Entries of lists that can never match: --check calls them wrong, with their line."""

from __future__ import annotations

import pytest
from harness import Home

from qsmtpd.diagnose.entries import key_problem, problem

RIGHT = {
    "rcpthosts": ["example.org", ".example.org", "[192.0.2.1]", "münchen.example", "a\u200cb.org"],
    "badmailfrom": ["a@b.c", "@b.c", "@b.c-", "@b.c=", "@b.c+", "~b.c", "?a@b.c", "!a@b.c", "!",
                    "*@*.b.c", "re:<.*", "a:b@c.d", "@[192.0.2.1]", "joe", "a b@c.d"],
    "badrcptto": ["a@b.c", "!@b.c", "*"],
    "badhelo": ["localhost", "*.example.org", "[192.0.2.1]", "!mx.a", "re:<.*"],
    "mailfromrules": ["joe:@a.example", "joe:", "192.0.2.:@a.b", "192.0.2.1:@a.b", "=.a.b:@a.b",
                      "2001:db8::1:a@b.c", "joe@192.0.2.1:a@b.c"],
}  # fmt: skip
WRONG = {
    "rcpthosts": ["a.org\rb.org", "b.org\v", "b.org\0", "b.org\u00a0", "b.org\u200b", "b.org.",
                  "..b.org", "b..org", "\ufeffb.org"],
    "badmailfrom": ["<a@b.c>", '"a@b.c"', "a@b.c,", "mailto:a@b.c", "@b.c/", "@b.c.", "@.b.c",
                    " a@b.c", "\ta@b.c", "\ufeffa@b.c", "!@.b.c", "@b.c.-"],
    "badrcptto": ["<a@b.c>", "a@b.c;"],
    "badhelo": [".example.org", "@example.org", "<x>", "x\0"],
    "mailfromrules": ["192.0.2:a@b.c", "=*.x:a@b.c"],
}  # fmt: skip


@pytest.mark.parametrize("file", RIGHT)
def test_what_can_match(file: str) -> None:
    assert [entry for entry in RIGHT[file] if problem(file, 2, entry.encode())] == []


@pytest.mark.parametrize("file", WRONG)
def test_what_can_never_match(file: str) -> None:
    assert [entry for entry in WRONG[file] if not problem(file, 2, entry.encode())] == []


def test_keys() -> None:
    for key in (b"b.org.", b"b.org\0", b"b..org"):
        assert key_problem("morercpthosts.cdb", key) is not None
    assert key_problem("morercpthosts.cdb", b".b.org") is None


def test_line_ends_of_old_macs(home: Home) -> None:
    (home.control_dir / "rcpthosts").write_bytes(b"a.example\rok.example\r")
    checked = home.run(b"", "--check")
    assert checked.status == 1
    what = "wrong: control/rcpthosts: line 1: 'a.example\\x0dok.example' has a control character"
    assert what.encode() in checked.out
