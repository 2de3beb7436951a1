"""Authentication-Results: which fields are taken for ours, and how ours is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from filters import build, client
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.decision import check_header_line
from qsmtpd.facts import Auth, ControlError, Envelope, Message
from qsmtpd.filters.dkimresult import Signature
from qsmtpd.filters.dmarcresult import Result as Dmarc
from qsmtpd.filters.spf import Results as Spf
from qsmtpd.filters.spfresult import Verdict
from qsmtpd.smtp.authres import Result, line

#: Which say that they are of mx.example, or cannot be read.
OURS = [
    b"mx.example; dkim=pass", b" mx.example;none", b"MX.Example; x=y", b"mx.example 1; x=y",
    b"mx.example; x=y", b"mx.example", b'"mx.example"; x=y', b'"MX\\.EXAMPLE" 1; x=y',
    b"(hello) mx.example (there); x=y", b"\n mx.example\n ;\n x=y", b"\tmx.example\t1\t;",
    b"(a (b) \\) c)mx.example;x=y", b"mx.example(x)1; x=y", b"mx.(x)example; x=y",
    b"mx. example; x=y", b"m(x)x.example; x=y", b"mx.example.; x=y", b"mx.example/job7; x=y",
    b"mx.example\r; x=y", b"\rmx.example; x=y", b"mx.example 1 ; x=y", b"mx.example x; x=y",
    b"(mx.other) mx.example; x=y", b'"" mx.example; x=y',
    # Nobody can say whose.
    b"", b";", b"; mx.example; x=y", b"(mx.other; x=y", b'"mx.other; x=y',
    b"=?us-ascii?q?mx?=; x=y",
    b"a@mx.other; x=y", b"(" * 3000, b"a" * 3000, b"mx\x00.example; x=y", b"mx\xff.example; x=y",
    b"<mx.example>; x=y", b"\\mx.example; x=y", b"mx.example, x=y", b"x=y; mx.example",
]  # fmt: skip
THEIRS = [
    b"mx.other; dkim=pass", b"mx.example.org; x=y", b"a.mx.example; x=y", b"mx-example; x=y",
    b"(mx.example) mx.other; x=y", b"mx.other (mx.example); x=y", b"mx.other; mx.example=pass",
    b'"mx.other"; x=y', b"other 1; dkim=pass (mx.example)", b"mx.other/mx.example; x=y",
    b"xn--bcher-kva.example; x=y", "b\u00fccher.example; x=y".encode(), b"mx_1.other; none",
]  # fmt: skip


def is_ours(home: Path, value: bytes, name: str = "mx.example") -> bool:
    plugin = build("authresults", home, AUTHRESULTS=name)
    decision = plugin.header(client(), Envelope(b""), Message())
    ((field, test),) = decision.remove.items()
    assert field == b"Authentication-Results"
    found: bool = test(value)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("mx.example\n")
    return tmp_path


@pytest.mark.parametrize("value", OURS)
def test_fields_that_are_removed(home: Path, value: bytes) -> None:
    assert is_ours(home, value)


@pytest.mark.parametrize("value", THEIRS)
def test_fields_that_stay(home: Path, value: bytes) -> None:
    assert not is_ours(home, value)


def test_names_with_u_labels_are_those_with_a_labels(home: Path) -> None:
    for value in (b"xn--bcher-kva.example; x=y", "b\u00fccher.example; x=y".encode()):
        assert is_ours(home, value, "xn--bcher-kva.example")


@given(st.binary(max_size=100))
def test_whatever_it_says(value: bytes) -> None:
    """No field is read as another server's where the plain grammar makes it ours."""
    from qsmtpd.smtp.authres import claimed

    assert b"mx.example" in claimed(b"mx.example;" + value)
    names = claimed(value)
    assert all(name == name.lower() and name for name in names)


@pytest.mark.parametrize("name", ["a b", "a;b", "\u00fc", "x" * 254, "a(b)", '"a"'])
def test_names_that_are_none(home: Path, name: str) -> None:
    with pytest.raises(ControlError):
        build("authresults", home, AUTHRESULTS=name)


def test_without_any_name(home: Path) -> None:
    (home / "control/me").unlink()
    with pytest.raises(ControlError):
        build("authresults", home, AUTHRESULTS="")


# -- what we write -------------------------------------------------------------


def test_all_results_together(home: Path) -> None:
    who = client(user=b"joe@a.com")
    who.auth = Auth(b"joe@a.com", b"PLAIN")
    who.notes = {"fcrdns": b"client.example", "fcrdns.iprev": "pass"}
    envelope = Envelope(b"joe@a.com")
    spf = Spf(
        Verdict("helo", b"client.example"),
        Verdict("mailfrom", b"a.com", "permerror", b"", b'a "word"'),
    )
    dmarc = Dmarc("fail", b"a.com")
    dmarc.policy = "reject"
    envelope.notes = {
        "spf": spf,
        "dkim": [
            Signature("pass", b"a.com", b"s", b"rsa-sha256", b"ab/+cd==", "", True),
            Signature("neutral", reason="the signature is no list of tags"),
            Signature("neutral", reason="not checked"),
            Signature("neutral", reason="not checked"),
        ],
        "dmarc": dmarc,
    }
    plugin = build("authresults", home, AUTHRESULTS="")
    decision = plugin.header(who, envelope, Message())
    assert decision.above == (
        b"Authentication-Results: mx.example;\n"
        b"  auth=pass (PLAIN) smtp.auth=joe@a.com;\n"
        b"  iprev=pass (client.example) policy.iprev=192.0.2.1;\n"
        b'  spf=permerror reason="a \\"word\\"" smtp.mailfrom=a.com;\n'
        b"  spf=none smtp.helo=client.example;\n"
        b"  dkim=pass (testing) header.d=a.com header.s=s header.a=rsa-sha256\n"
        b'    header.b="ab/+cd==";\n'
        b'  dkim=neutral reason="the signature is no list of tags";\n'
        b'  dkim=neutral reason="2 more are not checked";\n'
        b"  dmarc=fail header.from=a.com policy.dmarc=reject",
    )
    check_header_line(decision.above[0])


def test_nothing_to_say(home: Path) -> None:
    plugin = build("authresults", home, AUTHRESULTS="")
    envelope = Envelope(b"")
    assert plugin.header(client(), envelope, Message()).above == ()
    envelope.notes["dkim"] = []
    assert plugin.header(client(), envelope, Message()).above == (
        b"Authentication-Results: mx.example;\n  dkim=none",
    )


TEXT = st.one_of(
    st.binary(max_size=400), st.sampled_from([b"a\r\nX: y", b'"', b"\\", b"()", b"a@b"])
)
PROPERTY = re.compile(
    rb'^(\(([^()\\]*)\) )?(reason="(\\.|[^"\\])*" )?(p\.x=("(\\.|[^"\\])*"|[^\s"();<>\\,:]+))$'
)


@given(TEXT, TEXT, TEXT)
def test_whatever_somebody_says_stays_in_its_place(
    reason: bytes, comment: bytes, value: bytes
) -> None:
    found = line(b"mx.example", [Result("spf", "pass", [("p.x", value)], reason, comment)])
    check_header_line(found)
    assert found.isascii() and found.replace(b"\n", b"").decode().isprintable()
    assert max(map(len, found.split(b"\n"))) < 998
    unfolded = found.replace(b"\n", b"")
    head, _, rest = unfolded.partition(b"spf=pass")
    assert head.split() == [b"Authentication-Results:", b"mx.example;"]
    assert PROPERTY.match(re.sub(rb"  +(?=\(|reason=|p\.x=)", b" ", rest).strip(b" "))
