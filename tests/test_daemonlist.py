"""Control files that list daemons: what stands in their lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.net.daemonlist import NAME_LIMIT, parse


def test_an_address_alone() -> None:
    one = parse(b"inet:127.0.0.1:10023", 30)
    assert one.address.target == ("127.0.0.1", 10023)
    assert (one.name, one.timeout, one.fail) == (b"inet:127.0.0.1:10023", 30, b"defer")
    assert one.failed.verdict == "defer"


def test_all_options() -> None:
    one = parse(b"unix:/run/x \t name=x\ttimeout=5 fail=pass at=data", 30, (b"at",))
    assert one.address.target == b"/run/x"
    assert (one.name, one.timeout, one.fail) == (b"x", 5, b"pass")
    assert one.options == {b"at": b"data"}
    assert one.failed.verdict == "decline"
    assert parse(b"/run/x fail=refuse", 30).failed.verdict == "reject"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "names no socket"),
        ("unix: name=x", "names no socket"),
        ("inet:127.0.0.1", "no port"),
        ("inet:mail.example:25", "no IP address"),
        ("/s name", "no option=value"),
        ("/s name=", "no option=value"),
        ("/s =x", "option that there is not"),
        ("/s at=data", "option that there is not"),
        ("/s Name=x", "option that there is not"),
        ("/s name=x name=x", "twice"),
        ("/s name=\xe4", "printable"),
        ("/s name=" + (NAME_LIMIT + 1) * "x", "printable"),
        ("/s timeout=0", "timeout"),
        ("/s timeout=3601", "timeout"),
        ("/s timeout=1e3", "timeout"),
        ("/s timeout=+1", "timeout"),
        ("/s timeout=00001", "timeout"),
        ("/s fail=PASS", "fail="),
        ("/s fail=accept", "fail="),
        ("/s\x00", "control character"),
        ("/s\rname=x", "control character"),
        ("\xef\xbb\xbf/s", "byte-order mark"),
    ],
)
def test_what_is_wrong(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(line.encode("latin-1"), 30)


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda text: b"/s " + text))
def test_any_bytes(line: bytes) -> None:
    try:
        one = parse(line, 30, (b"at",))
    except ValueError:
        return
    assert 1 <= one.timeout <= 3600
    assert set(one.options) <= {b"at"}
