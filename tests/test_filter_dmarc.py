"""dmarc: whole messages, against a DNS server of real packets (dns_server.py)."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import pytest
from dns_server import DnsServer
from filters import TAKEN, build, client, logged, say
from harness import Home, Variables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qsmtpd.facts import Client, ControlError, Envelope, Message, Peer
from qsmtpd.filters.dkimresult import Signature
from qsmtpd.filters.dmarcresult import Result
from qsmtpd.filters.spf import Results
from qsmtpd.filters.spfresult import Verdict
from qsmtpd.smtp.header import parse_header

pytestmark = pytest.mark.slow

REJECTED = b"550 message rejected by the DMARC policy of %b (#5.7.26)"
PUT_OFF = b"451 sorry, I cannot check DMARC of %b, try again later (#4.7.0)"
LONGEST = ".".join(["a" * 61, "b" * 63, "c" * 63, "d" * 60 + "com"])
ZONE = f"""
    _dmarc.reject.example       TXT  "v=DMARC1; p=reject"
    _dmarc.two.example          TXT  "v=DMARC1; p=" "reject"
    _dmarc.quarantine.example   TXT  "v=DMARC1; p=quarantine"
    _dmarc.none.example         TXT  "v=DMARC1; p=none; rua=mailto:x@none.example"
    _dmarc.xn--bcher-kva.example  TXT  "v=DMARC1; p=reject"
    _dmarc.alias.example        CNAME  _dmarc.reject.example
    _dmarc.loop.example         CNAME  _dmarc.loop2.example
    _dmarc.loop2.example        CNAME  _dmarc.loop.example
    _dmarc.self.example         CNAME  _dmarc.self.example
    _dmarc.eight.example        TXT  "v=DMARC1; p=r\xe9ject; x=\xff"
    _dmarc.slow.example         DO   silent
    _dmarc.half.example         DO   half
    _dmarc.garbage.example      DO   garbage
    np.example                  TXT  "hello"
    _dmarc.np.example           TXT  "v=DMARC1; p=none; np=reject"
    dangling.np.example         CNAME  nowhere.invalid
    _dmarc.{LONGEST[62:]}       TXT  "v=DMARC1; p=reject"
    _dmarc.{".".join("h" * 6)}.many.example  TXT  "v=DMARC1; p=reject"
"""
ZONE += "".join(f'    _dmarc.huge.example  TXT  "v=DMARC1; p=reject; n={n}"\n' for n in range(900))
ZONE += (
    '    _dmarc.long.example  TXT  "v=DMARC1; p=reject; x=' + '" "'.join(["y" * 255] * 200) + '"\n'
)


@pytest.fixture(scope="module")
def dns() -> Iterator[DnsServer]:
    with DnsServer(ZONE) as server:
        yield server


class Tried:
    """What became of a message, and the filter's own facts of it."""

    def __init__(self, said: bytes, found: Result | None, above: tuple[bytes, ...]) -> None:
        self.said = said
        self.result = found.result if found is not None else ""
        self.found = found
        self.above = above


@pytest.fixture
def judge(tmp_path: Path, dns: DnsServer) -> Any:
    """judge(header, spf=, dkim=, …): what becomes of a message; other names are variables."""
    log = tmp_path / "log"
    (tmp_path / "control").mkdir()

    def judged(
        header: bytes,
        spf: Results | None = None,
        dkim: list[Signature] | None = None,
        who: Client | None = None,
        **environ: str,
    ) -> Tried:
        for_ever = any(name in header for name in (b"slow.", b"half.", b"garbage."))
        seconds = {"DNSTIMEOUT": "1" if for_ever else "20"}
        full = {"DMARCPOLICY": "reject", "DNSCACHEIP": dns.where, **seconds, **environ}
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            plugin = build("dmarc", tmp_path, fd, **full)
            envelope = Envelope(b"joe@sender.example")
            if spf is not None:
                envelope.notes["spf"] = spf
            if dkim is not None:
                envelope.notes["dkim"] = dkim
            message = Message(parse_header(header))
            decision = plugin.data_post(who or client(), envelope, message)
        finally:
            os.close(fd)
        return Tried(say("data_post", decision), envelope.notes.get("dmarc"), decision.above)

    return judged


def spf(result: str, domain: bytes, identity: str = "mailfrom") -> Results:
    verdict = Verdict(identity, domain, result)
    return Results(verdict, None) if identity == "helo" else Results(None, verdict)


NOBODY = spf("none", b"sender.example")


@pytest.mark.parametrize(
    ("author", "said"),
    [
        ("reject.example", REJECTED),
        ("two.example", REJECTED),
        ("sub.reject.example", REJECTED),
        ("alias.example", REJECTED),
        ("Bücher.example", REJECTED),
        ("xn--bcher-kva.example", REJECTED),
        ("nobody.np.example", REJECTED),
        ("dangling.np.example", TAKEN),  # there is such a name, wherever it leads to
        ("np.example", TAKEN),
        ("none.example", TAKEN),
        ("nowhere.example", TAKEN),
        ("[192.0.2.1]", TAKEN),
        ("[IPv6:2001:db8::1]", TAKEN),
        ("localhost", TAKEN),
        ("192.0.2.1", TAKEN),
    ],
)
def test_policies(judge: Any, author: str, said: bytes) -> None:
    tried = judge(f"From: x@{author}\n".encode(), NOBODY)
    name = b"xn--bcher-kva.example" if "cher" in author else author.encode()
    assert tried.said == (said % name if b"%b" in said else said)


def test_quarantine_is_a_line_above_ours(judge: Any) -> None:
    tried = judge(b"From: x@quarantine.example\n", NOBODY)
    assert tried.said == TAKEN
    assert tried.above == (b"X-DMARC-Disposition: quarantine (quarantine.example)",)
    assert tried.found.disposition == "quarantine"
    assert not judge(b"From: x@quarantine.example\n", NOBODY, DMARCPOLICY="none").above
    passed = spf("pass", b"quarantine.example")
    assert not judge(b"From: x@quarantine.example\n", passed).above


@pytest.mark.parametrize("method", ["spf", "helo", "dkim"])
@pytest.mark.parametrize("result", ["pass", "fail", "softfail", "none", "permerror", "temperror"])
def test_who_vouches(judge: Any, method: str, result: str) -> None:
    domain = b"Mail.REJECT.example." if method != "dkim" else b"mail.reject.example"
    found = spf(result, domain, "helo" if method == "helo" else "mailfrom")
    signed = [Signature("fail", b"reject.example"), Signature(result, domain)]
    given = {"dkim": signed} if method == "dkim" else {"spf": found}
    tried = judge(b"From: x@reject.example\n", **given)
    said = {"pass": TAKEN, "temperror": PUT_OFF % b"reject.example"}
    assert tried.said == said.get(result, REJECTED % b"reject.example")
    assert tried.result == (result if result in ("pass", "temperror") else "fail")
    assert found.excused == (result == "pass" and method != "dkim")


def test_a_signature_excuses_what_spf_would_refuse(judge: Any) -> None:
    found = spf("fail", b"sender.example")
    tried = judge(b"From: x@reject.example\n", found, [Signature("pass", b"reject.example")])
    assert (tried.said, found.excused) == (TAKEN, True)
    found = spf("fail", b"sender.example")
    judge(b"From: x@none.example\n", found, [])
    judge(b"From: x@nowhere.example\n", found, [Signature("pass", b"nowhere.example")])
    assert not found.excused


def test_nobody_has_looked(judge: Any) -> None:
    tried = judge(b"From: x@reject.example\n")
    assert (tried.said, tried.result) == (TAKEN, "permerror")
    tried = judge(b"From: x@reject.example\n", dkim=[])
    assert (tried.said, tried.result) == (REJECTED % b"reject.example", "fail")


def test_header_that_is_cut(judge: Any, tmp_path: Path) -> None:
    envelope = Envelope(b"")
    envelope.notes["spf"] = NOBODY
    plugin = build("dmarc", tmp_path, DMARCPOLICY="reject", DMARCFROM="reject")
    cut = Message([(b"From", b"x@none.example")], whole_header=False)
    said = say("data_post", plugin.data_post(client(), envelope, cut))
    assert said == b"554 message has a header that is too long (#5.6.0)"


@pytest.mark.parametrize(
    "header",
    [
        b"From: x@reject.example\nfrom : y@reject.example\n",
        b"Subject: x\rFrom: x@none.example\nFrom: y@none.example\n",
        b"Subject: x\rfrom\t: x@none.example\nFrom: y@none.example\n",
        b"To: x\n",
        b"From:\n",
        b"From: x@none.example, y@reject.example\n",
        b"From: x@reject.example\0\n",
        b"From: x@" + "b\u00fc\u200dcher.example".encode() + b"\n",
        b"From: x@b\xffcher.example\n",
        b"From: x@" + b"a" * 64 + b".example\n",
        b"From: =?utf-8?q?x=40reject.example?= <x@=?utf-8?q?reject?=.example>\n",
        b"From: x@reject=2Eexample\n",
        b"From: x@[reject.example]\n",
        b"From: x@[192.0.2.300]\n",
        b"From: x@*.reject.example\n",
        b"From: x@" + b"a." * 127 + b"example\n",
    ],
)
def test_from_without_one_author(judge: Any, header: bytes) -> None:
    tried = judge(header, NOBODY)
    assert (tried.said, tried.result, tried.found.domain) == (TAKEN, "permerror", b"")
    tried = judge(header, NOBODY, DMARCFROM="reject")
    assert tried.said.startswith(b"554 message has ")
    assert tried.said.endswith(b" (#5.6.0)")
    assert judge(header, NOBODY, DMARCPOLICY="none", DMARCFROM="reject").said == TAKEN


@pytest.mark.parametrize(
    ("entries", "ip", "host", "author", "signed", "entry"),
    [
        ("192.0.2.1", b"192.0.2.1", b"x", b"reject.example", b"", b"192.0.2.1"),
        ("192.0.", b"192.0.2.1", b"x", b"reject.example", b"", b"192.0."),
        ("192.0.2.2", b"192.0.2.1", b"x", b"reject.example", b"", b""),
        ("2001:db8:", b"2001:db8::1", b"x", b"reject.example", b"", b"2001:db8:"),
        (
            ".Lists.example",
            b"192.0.2.1",
            b"a.lists.EXAMPLE",
            b"reject.example",
            b"",
            b".lists.example",
        ),
        (".lists.example", b"192.0.2.1", b"lists.example", b"reject.example", b"", b""),
        ("@reject.example", b"192.0.2.1", b"x", b"reject.example", b"", b"@reject.example"),
        ("@reject.example", b"192.0.2.1", b"x", b"a.reject.example", b"", b""),
        ("@.reject.example", b"192.0.2.1", b"x", b"a.reject.example", b"", b"@.reject.example"),
        ("@.reject.example", b"192.0.2.1", b"x", b"reject.example", b"", b""),
        ("@list.example", b"192.0.2.1", b"x", b"reject.example", b"list.example", b"@list.example"),
        ("@list.example", b"192.0.2.1", b"x", b"reject.example", b"", b""),
        ("@list.example.", b"192.0.2.1", b"list.example", b"reject.example", b"", b""),
    ],
)
def test_exempt(
    judge: Any,
    tmp_path: Path,
    entries: str,
    ip: bytes,
    host: bytes,
    author: bytes,
    signed: bytes,
    entry: bytes,
) -> None:
    (tmp_path / "control" / "dmarcexempt").write_text(entries + "\n")
    who = Client(Peer(ip=ip, host=host))
    dkim = [Signature("pass", signed)] if signed else [Signature("fail", b"list.example")]
    tried = judge(b"From: x@%b\n" % author, NOBODY, dkim, who)
    assert tried.found.exempt == entry
    assert tried.said == (TAKEN if entry else REJECTED % author)
    assert tried.result == "fail"


def test_log(judge: Any, tmp_path: Path) -> None:
    judge(b"From: x@reject.example\n", NOBODY)
    judge(b"From: x@slow.example\n", NOBODY)
    judge(b"From: x@none.example\n", spf("pass", b"none.example"))
    judge(b"From: x@nowhere.example\n", NOBODY)
    judge(b"From:\n", NOBODY)
    events = [
        {key: value for key, value in event.items() if key not in ("event", "pid", "plugin")}
        for event in logged(tmp_path / "log")
    ]
    assert events == [
        {
            "result": "fail",
            "domain": "reject.example",
            "policy": "reject",
            "published": "reject.example",
            "disposition": "reject",
        },
        {"dns": "timeout", "name": "_dmarc.slow.example", "type": "TXT"},
        {"result": "temperror", "domain": "slow.example", "disposition": "none"},
        {"result": "permerror", "disposition": "none", "reason": "no address in From"},
    ]


# -- hostile --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("author", "result"),
    [
        ("loop.example", ("none", "temperror")),
        ("self.example", ("none", "temperror")),
        ("huge.example", ("none",)),  # 900 records, of which none counts
        ("long.example", ("permerror",)),  # one of 50 KB
        ("eight.example", ("permerror",)),
        ("half.example", ("temperror",)),
        ("garbage.example", ("temperror",)),
        (LONGEST, ("fail",)),
        (LONGEST[1:], ("fail",)),
        (".".join(["h"] * 100) + ".many.example", ("none",)),
        (".".join("abcdefghij" * 9) + ".reject.example", ("fail",)),
    ],
)
def test_records_and_names_of_all_kinds(
    judge: Any, dns: DnsServer, author: str, result: tuple[str, ...]
) -> None:
    before, asked = process_time(), len(dns.asked)
    tried = judge(b"From: x@%b\n" % author.encode(), NOBODY)
    assert tried.result in result
    assert tried.said == (REJECTED % author.encode() if "fail" in result else TAKEN)
    assert process_time() - before < 2
    names = {name for name, _ in dns.asked[asked:]}
    assert len(names) <= 8 + 2  # and an alias


def test_many_signatures_of_names_with_many_labels(judge: Any, dns: DnsServer) -> None:
    """The work is bounded by what dkim checks: eight signatures, and one name of SPF."""
    labels = ".".join("abcdefghij" * 9)
    signed = [Signature("pass", f"{n}.{labels}.reject.example".encode()) for n in range(8)]
    asked = len(dns.asked)
    tried = judge(f"From: x@y.{labels}.reject.example\n".encode(), NOBODY, signed)
    assert tried.result == "pass"
    assert len(set(dns.asked[asked:])) <= 8 * 9


def test_silence_ends_with_the_budget(judge: Any) -> None:
    began = monotonic()
    tried = judge(b"From: x@slow.example\n", NOBODY)
    assert (tried.said, tried.result) == (TAKEN, "temperror")
    assert monotonic() - began < 20


class Spooled(Message):
    """A message in a file, of which the header that is shown ends at once."""

    def __init__(self, text: bytes) -> None:
        super().__init__([], whole_header=False)
        self.file = io.BytesIO(text)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"X: y\n" * 90_000 + b"From: x@reject.example\n\nhello", "fail"),
        (b"X: y\n" * 90_000 + b"From: x@reject.example\n", "fail"),
        (b"X: y\n" * 200_000 + b"From: x@reject.example\n\nhello", "permerror"),
        (b"From: x@reject.example\n" + b"X: y\n" * 200_000, "permerror"),
        (b"From:\n" * 80_000 + b"\n", "permerror"),
        (b"From:" + b"\n x@reject.example," * 400 + b"\n\n", "fail"),
        (b"From:" + b"\n x@reject.example," * 20_000 + b"\n\n", "permerror"),
        (b"From:\n" + b" \n" * 250_000 + b"\n", "permerror"),
        (b"\r" * 500_000 + b"\n\n", "permerror"),
        (b"", "permerror"),
    ],
)
def test_large_headers(plugin: Any, text: bytes, result: str) -> None:
    envelope = Envelope(b"")
    envelope.notes["spf"] = NOBODY
    message = Spooled(text)
    before = process_time()
    plugin.data_post(client(), envelope, message)
    assert process_time() - before < 2
    assert envelope.notes["dmarc"].result == result


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory, dns: DnsServer) -> Any:
    home = tmp_path_factory.mktemp("home")
    return build("dmarc", home, DMARCPOLICY="reject", DMARCFROM="reject", DNSCACHEIP=dns.where)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.lists(
        st.tuples(
            st.sampled_from([b"From", b"from", b"Subject"]),
            st.one_of(
                st.binary(max_size=60).map(lambda text: text.replace(b"\n", b"")),
                st.text('a@.<>,:;()[]"\\ \r\0ü', max_size=40).map(lambda text: text.encode()),
                st.sampled_from([b"x@reject.example", b"x@none.example"]),
            ),
        ),
        max_size=3,
    ),
    whole=st.booleans(),
)
def test_any_header(plugin: Any, header: list[tuple[bytes, bytes]], whole: bool) -> None:
    envelope = Envelope(b"")
    envelope.notes["spf"] = NOBODY
    said = say("data_post", plugin.data_post(client(), envelope, Message(header, whole)))
    found: Result = envelope.notes["dmarc"]
    lines = [name for name, _ in header if name.lower() == b"from"]
    if len(lines) != 1 or not whole:
        assert found.result == "permerror"
        assert said.startswith(b"554 ")
    assert said == TAKEN or said[:4] in (b"554 ", b"550 ", b"451 ")
    assert all(32 <= byte < 127 for byte in said)


# -- settings -------------------------------------------------------------------


def test_settings(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    off = build("dmarc", tmp_path, DMARCPOLICY="off")
    assert say("data_post", off.data_post(client(), Envelope(b""), Message())) == TAKEN
    assert not off.spool
    assert build("dmarc", tmp_path, DMARCPOLICY="none").spool
    assert build("dmarc", tmp_path, DMARCPOLICY="reject").spool
    with pytest.raises(ControlError):
        build("dmarc", tmp_path, DMARCPOLICY="")


#: What no client and no domain is.
ODD = [
    "example.org",
    "@",
    "@.",
    ".",
    "*",
    "@*.example.org",
    ".*.example.org",
    "@[192.0.2.1]",
    "@a b.example",
    "@a..example",
    "192.0.2.300",
    "192.0.2.0/24",
    "192.0.2.1.",
    "999.",
    "192..",
    "1.2.3.4.",
    ":",
    ":::",
    "a.b:",
    "2001:DB8:0::1",
    "2001:0db8:",
    "::ffff:192.0.2.1",
    "fe80::1%eth0",
    "1:2:3:4:5:6:7:8:",
]
RIGHT = [
    "1.",
    "10.",
    "192.0.2.",
    "2001:",
    "2001:0:",
    "2001:db8:",
    "2001:DB8::",
    "::1",
    "fe80::1:",
    "1:2:3:4:5:6:7:",
    "@x",
    ".x",
    "@a_b.example",
    "@ü.example",
]


@pytest.mark.parametrize("entry", [*ODD, *RIGHT])
def test_entries(tmp_path: Path, entry: str) -> None:
    """What could never be met is an error, and not an entry that does nothing."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "dmarcexempt").write_text(entry + "\n", encoding="utf-8")
    if entry in ODD:
        with pytest.raises(ControlError, match="line 1: .* is no "):
            build("dmarc", tmp_path, DMARCPOLICY="none")
    else:
        build("dmarc", tmp_path, DMARCPOLICY="none")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "wrong: dmarcpolicy: neither spf nor dkim is on, so no mail passes"),
        ({"SPFBEHAVIOR": "0"}, "wrong: dmarcpolicy: neither spf nor dkim is on, so no mail passes"),
        ({"SPFBEHAVIOR": "1"}, "warning: dmarcpolicy: dkim is not on, so mail that was forwarded"),
        ({"SPFBEHAVIOR": "3"}, "warning: spfstage: is rcpt: what SPF refuses is so before dmarc"),
        ({"DMARCPOLICY": "off"}, ""),
        ({"DKIM": "", "SPFBEHAVIOR": "1"}, ""),
        ({"DKIM": "", "SPFBEHAVIOR": "3", "SPFSTAGE": "data_post"}, ""),
        ({"DKIM": "0"}, "wrong: dmarcpolicy: neither spf nor dkim is on, so no mail passes"),
        (
            {"DKIM": "", "plugins": "rcpthosts|dmarc|dkim|qmailqueue"},
            "wrong: control/plugins: has dkim behind dmarc",
        ),
        (
            {
                "SPFBEHAVIOR": "3",
                "SPFSTAGE": "data_post",
                "plugins": "rcpthosts|spf|dmarc|qmailqueue",
            },
            "warning: control/plugins: has spf before dmarc",
        ),
    ],
)
def test_check(home: Home, variables: Variables, said: str) -> None:
    environ = {"DMARCPOLICY": "reject", **variables}
    if plugins := environ.pop("plugins", None):
        home.control("plugins", plugins.replace("|", "\n"))
    run = home.run(b"", "--check", **environ)
    found = [line for line in run.out.decode().splitlines() if "dmarc" in line]
    assert any(line.startswith(said) for line in found)
    assert any(line.startswith("ok: ") for line in found)
    if not said:
        assert all(line.startswith("ok: ") for line in found)
