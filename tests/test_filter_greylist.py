"""greylist by itself: whom it knows again, for how long, and whom it leaves alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from filters import TAKEN, build, client, logged, open_log, say
from harness import Home
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.facts import Client, Envelope, Peer
from qsmtpd.filters import greylist, greylistkey
from qsmtpd.filters.greylist import Attempt, Terms
from qsmtpd.policy.store import Record

DAY, HOUR = 86400, 3600
LIFETIME = 36 * DAY


class Case:
    """A filter with a clock of its own."""

    def __init__(
        self, home: Home, monkeypatch: pytest.MonkeyPatch, log: int | None = None, **environ: str
    ) -> None:
        self.now = 1_800_000_000
        monkeypatch.setattr(greylist, "time", lambda: self.now + 0.9)
        environ = {"GREYLIST": "", "QSMTPD_STORE": str(home.path / "store"), **environ}
        self.plugin = build("greylist", home.path, log, **environ)

    def rcpt(
        self,
        recipient: bytes = b"x@ok.example",
        sender: bytes = b"a@b.example",
        ip: bytes = b"192.0.2.1",
        who: Client | None = None,
        envelope: Envelope | None = None,
    ) -> bytes:
        who = who or Client(Peer(ip, host=b"mail.b.example"))
        envelope = envelope or Envelope(sender)
        return say("rcpt", self.plugin.rcpt(who, envelope, recipient))

    def data(self, *recipients: bytes, sender: bytes = b"") -> bytes:
        envelope = Envelope(sender)
        envelope.recipients = [*recipients]
        return say("data", self.plugin.data(Client(Peer(b"192.0.2.1")), envelope))


def wait(seconds: int, code: int = 451) -> bytes:
    return b"%d greylisted, try again in %d seconds (#4.7.1)" % (code, seconds)


@pytest.fixture
def case(home: Home, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(home, monkeypatch)


def test_who_comes_again_is_known(case: Case) -> None:
    assert case.rcpt() == wait(300)
    case.now += 299
    assert case.rcpt() == wait(1), "who comes too early does not begin anew"
    case.now += 1
    assert case.rcpt() == TAKEN
    case.now += LIFETIME - 1
    assert case.rcpt() == TAKEN
    case.now += LIFETIME - LIFETIME // 16
    assert case.rcpt() == TAKEN, "it is the last message that counts"
    case.now += LIFETIME
    assert case.rcpt() == wait(300)


def test_who_comes_too_late_is_not(case: Case) -> None:
    assert case.rcpt() == wait(300)
    case.now += 300 + 48 * HOUR
    assert case.rcpt() == wait(300)


def test_a_clock_that_goes_back(case: Case) -> None:
    assert case.rcpt() == wait(300)
    case.now -= DAY
    assert case.rcpt() == wait(300)
    case.now += 300
    assert case.rcpt() == TAKEN
    case.now -= DAY
    assert case.rcpt() == TAKEN


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"ip": b"192.0.2.255"}, True),
        ({"ip": b"192.0.3.1"}, False),
        ({"recipient": b"X@OK.example"}, True),
        ({"recipient": b"y@ok.example"}, False),
        ({"sender": b"A@B.Example"}, True),
        ({"sender": b"c@b.example"}, False),
        ({"sender": b"prvs=1234567890=a@b.example"}, True),
    ],
)
def test_who_is_the_same(case: Case, other: dict[str, bytes], same: bool) -> None:
    assert case.rcpt() == wait(300)
    case.now += 300
    assert (case.rcpt(**other) == TAKEN) == same  # type: ignore[arg-type]


def test_a_domain_is_the_same_with_smtputf8_and_without(case: Case) -> None:
    for domain in ("b\u00fccher.example", "a\u00fc.example"):
        sender = f"a@{domain}".encode()
        assert case.rcpt(envelope=Envelope(sender, utf8=True)) == wait(300)
    case.now += 300
    for domain in ("xn--bcher-kva.example", "xn--a-eha.example"):
        assert case.rcpt(envelope=Envelope(f"a@{domain}".encode())) == TAKEN, domain


def test_networks_of_other_sizes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(home, monkeypatch, GREYLISTIPV4="32", GREYLISTIPV6="48", GREYLIST="10")
    assert case.rcpt() == wait(10)
    assert case.rcpt(ip=b"2001:db8:1:2::3") == wait(10)
    case.now += 10
    assert case.rcpt(ip=b"192.0.2.2") == wait(10)
    assert case.rcpt() == TAKEN
    assert case.rcpt(ip=b"2001:db8:1:ffff::") == TAKEN
    assert case.rcpt(ip=b"2001:db8:2::") == wait(10)


def test_a_network_that_has_proved_itself(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    log = home.path / "filter.log"
    case = Case(home, monkeypatch, open_log(log), GREYLISTPROVED="2")
    for number in range(2):
        names = [b"%d.%d@ok.example" % (number, n) for n in range(3)]
        assert {case.rcpt(name) for name in names} == {wait(300)}
        case.now += 300
        envelope = Envelope(b"a@b.example")
        assert {case.rcpt(name, envelope=envelope) for name in names} == {TAKEN}
        assert case.rcpt(b"new%d@ok.example" % number, ip=b"198.51.100.1") == wait(300)
        new = case.rcpt(b"new%d@ok.example" % number, sender=b"new@b.example")
        assert new == (TAKEN if number else wait(300)), "a message counts once"
    case.now += LIFETIME - 1
    assert case.rcpt(b"other@ok.example") == TAKEN
    case.now += LIFETIME
    assert case.rcpt(b"other@ok.example") == wait(300)
    waited = [(line["waited"], line["network"]) for line in logged(log)]
    assert waited == [("300", "192.0.2.0/24")] * 2, "once for each message"


def test_the_null_sender_waits_at_data(case: Case) -> None:
    assert case.rcpt(sender=b"") == TAKEN
    assert case.data(b"x@ok.example", b"x@ok.example") == wait(300)
    assert case.data(b"x@ok.example", sender=b"a@b.example") == TAKEN, "that was said at RCPT"
    case.now += 300
    assert case.data(b"x@ok.example") == TAKEN
    assert case.data(b"x@ok.example", b"y@ok.example") == wait(300), "one of them waits"
    case.now += 299
    assert case.data(b"z@ok.example") == wait(300)
    case.now += 1
    assert case.data(b"x@ok.example", b"y@ok.example", b"z@ok.example") == wait(299)
    case.now += 299
    assert case.data(b"x@ok.example", b"y@ok.example", b"z@ok.example") == TAKEN


def test_who_is_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.control("greylistexempt", "198.51.100.", "2001:db8::1", ".Friends.example")
    home.control("greylistexemptfrom", "@lists.example", "!bad@lists.example")
    home.control("greylistexemptto", "re:(abuse|postmaster)@.*")
    case = Case(home, monkeypatch, REPLY_GREYLIST="see 100%d")
    text = b"451 greylisted, try again in 300 seconds see 100%d (#4.7.1)"
    assert case.rcpt() == text
    assert case.rcpt(ip=b"198.51.100.7") == TAKEN
    assert case.rcpt(ip=b"2001:db8::1") == TAKEN
    assert case.rcpt(ip=b"2001:db8::2") == text
    assert case.rcpt(who=Client(Peer(b"192.0.2.1", host=b"a.FRIENDS.example"))) == TAKEN
    assert case.rcpt(who=Client(Peer(b"192.0.2.1", host=b"notfriends.example"))) == text
    assert case.rcpt(who=Client(Peer(b"unknown"))) == TAKEN
    assert case.rcpt(sender=b"x@Lists.example") == TAKEN
    assert case.rcpt(sender=b"bad@lists.example") == text
    assert case.rcpt(b"Abuse@ok.example") == TAKEN
    assert case.data(b"abuse@ok.example") == TAKEN
    assert case.data(b"abuse@ok.example", b"x@ok.example").startswith(b"451 ")
    assert greylist.Plugin.immune == ("relay", "auth", "listed")


@pytest.mark.parametrize("skip", greylist.SKIP)
def test_what_others_have_found_out(home: Home, monkeypatch: pytest.MonkeyPatch, skip: str) -> None:
    case = Case(home, monkeypatch, GREYLISTSKIP=skip)
    for name, counts in ((b"mail.b.example", True), (b"", False), (None, False)):
        who = client()
        who.notes["fcrdns"] = name
        taken = case.rcpt(who=who) == TAKEN
        assert taken == (counts and skip in ("fcrdns", "either"))
    for sender, helo, mailfrom, counts in (
        (b"a@b.example", "pass", "softfail", False),
        (b"a@b.example", "fail", "pass", True),
        (b"", "pass", None, True),
        (b"", None, None, False),
        (b"a@[192.0.2.1]", "pass", None, False),
    ):
        envelope = Envelope(sender)
        found = [
            None if word is None else SimpleNamespace(result=word) for word in (helo, mailfrom)
        ]
        envelope.notes["spf"] = SimpleNamespace(helo=found[0], mailfrom=found[1])
        envelope.recipients = [b"x@ok.example"]
        if sender:
            taken = case.rcpt(envelope=envelope) == TAKEN
        else:
            taken = say("data", case.plugin.data(client(), envelope)) == TAKEN
        assert taken == (counts and skip in ("spf", "either")), (sender, helo, mailfrom)


def test_0_is_off(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(home, monkeypatch, GREYLIST="0")
    assert case.rcpt() == TAKEN and case.data(b"x@ok.example") == TAKEN
    assert not (home.path / "store").exists()


def test_a_dry_run_leaves_nothing(case: Case, home: Home) -> None:
    who = client()
    who.dry_run = True
    assert case.rcpt(who=who) == wait(300)
    assert [path.name for path in home.path.iterdir() if path.name.startswith("store")] == []
    assert case.rcpt() == wait(300)
    case.now += 100
    assert case.rcpt(who=who) == wait(200)
    case.now += 200
    assert case.rcpt(who=who) == TAKEN
    case.now += 100 * HOUR
    assert case.rcpt(who=who) == wait(300), "it has not come again"


def test_without_a_store_nobody_waits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    log = home.path / "filter.log"
    (home.path / "store").write_text("something else\n" * 100)
    case = Case(home, monkeypatch, open_log(log))
    for _ in range(3):
        assert case.rcpt() == TAKEN
    (line,) = logged(log)
    assert line["store"] == "corrupt" and line["then"] == "pass", line
    stamp = home.path / "store-said-greylist"
    os.utime(stamp, (case.now - 61, case.now - 61))
    before = case.rcpt()
    assert before == TAKEN


def test_without_sqlite_nobody_waits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    log = home.path / "filter.log"
    monkeypatch.setitem(sys.modules, "qsmtpd.policy.store.sqlite", None)
    assert Case(home, monkeypatch, open_log(log)).rcpt() == TAKEN
    (line,) = logged(log)
    assert line["store"] == "failed" and line["reason"].startswith("SQLite cannot be loaded")


# -- the rules of the records ------------------------------------------------------

records = st.one_of(
    st.none(),
    st.builds(
        Record,
        st.integers(0, 4000),
        st.integers(0, 1),
        st.integers(2001, 10_000),
    ),
)


@given(st.lists(records, min_size=2, max_size=5), st.integers(0, 3), st.booleans())
def test_an_attempt(found: list[Record | None], proved: int, counts: bool) -> None:
    now, terms = 2000, Terms(300, 1000, 5000, proved)
    attempt = Attempt(terms, now, counts)
    becomes = attempt(found)
    assert len(becomes) == len(found)
    assert 0 <= attempt.wait <= 300
    network = found[0]
    if network is not None and 0 < proved <= network.count:
        assert attempt.wait == 0 and becomes[1:] == found[1:]
        return
    for before, after in zip(found[1:], becomes[1:], strict=True):
        assert after is not None and after.ends > now
        if before is not None and before.count:
            assert after.count == 1 and after.ends >= before.ends
        elif after.count:
            assert before is not None and before.since + 300 <= now and attempt.waited is not None
        else:
            assert 0 < after.since + 300 - now <= attempt.wait
    again = Attempt(terms, now, counts=False)
    assert all(x is y for x, y in zip(again(becomes), becomes, strict=True)), "once is enough"


# -- by what they are known ----------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "found"),
    [
        (b"", b""),
        (b"joe@b.example", b"joe@b.example"),
        (b"joe", b"joe"),
        (b"joe2@b.example", b"joe#@b.example"),
        (b"0100018c5d3a4b@b.example", b"#c#d#a#b@b.example"),
        (b"0100018c5d3a4b77@b.example", b"#@b.example"),
        (b"list-return-123-joe=example.org@l.example", b"list-return-#-joe=example.org@l.example"),
        (b"list-bounces+joe=example.org@l.example", b"list-bounces@l.example"),
        (b"+joe@l.example", b"+joe@l.example"),
        (b"0100018c5d-5a-feed-0000-000000@ses.example", b"#-#-#-#-#@ses.example"),
        (b"bounce-md_308.5a1b.v1-9ef@m.example", b"bounce-md_#.#.#-#@m.example"),
        (b"prvs=5123abcdef=joe@b.example", b"joe@b.example"),
        (b"prvs=joe/5123abcdef@b.example", b"joe@b.example"),
        (b"btv1==5123abcdef==joe@b.example", b"joe@b.example"),
        (b"msprvs1=17711abcdef=bounces-1-2@b.example", b"bounces-#-#@b.example"),
        (b"srs0=hhh=tt=orig.example=joe@f.example", b"srs0=orig.example=joe@f.example"),
        (b"srs0+xyz=ab=orig.example=joe@f.example", b"srs0=orig.example=joe@f.example"),
        (
            b"srs1=hhh=first.example==hhh=tt=orig.example=joe@f.example",
            b"srs1=first.example=orig.example=joe@f.example",
        ),
        (
            b"srs0=hhh=tt=orig.example=prvs=1=list-12-34@f.example",
            b"srs0=orig.example=list-#-#@f.example",
        ),
        (b"srs0=hhh@f.example", b"#=hhh@f.example"),
        (b"srs1=hhh=x@f.example", b"#=hhh=x@f.example"),
        (b"srs1==@f.example", b"#==@f.example"),
        (b"prvs=@b.example", b"@b.example"),
        (b"prvs==@b.example", b"@b.example"),
        (b"j\xc3\xbc-1@b.example", b"j\xc3\xbc-#@b.example"),
    ],
)
def test_folded_senders(sender: bytes, found: bytes) -> None:
    assert greylistkey.folded(sender) == found


@given(st.binary(max_size=900))
def test_any_sender_can_be_folded(sender: bytes) -> None:
    found = greylistkey.folded(sender)
    assert len(found) <= len(sender) + 1
    assert found.rpartition(b"@")[2] == sender.rpartition(b"@")[2]


TAGS = st.text("0123456789abcdef", min_size=6, max_size=12).map(str.encode)


@given(TAGS, TAGS, TAGS, TAGS)
def test_tags_do_not_matter(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    for form in (b"prvs=%b=joe@x", b"btv1==%b==joe@x", b"SRS0=%b=%b=o.example=joe@x".lower(),
                 b"srs1=%b=f.example==%b=tt=o.example=joe@x", b"list+%b@x"):  # fmt: skip
        holes = form.count(b"%b")
        one, other = form % (a, b)[:holes], form % (c, d)[:holes]
        assert greylistkey.folded(one) == greylistkey.folded(other)


def test_networks() -> None:
    assert greylistkey.network(b"192.0.2.129", 25, 64) == b"192.0.2.128/25"
    assert greylistkey.network(b"2001:db8::1", 25, 128) == b"2001:db8::1/128"
    assert greylistkey.network(b"2001:db8:1:2:3::1", 25, 64) == b"2001:db8:1:2::/64"
    for nonsense in (b"unknown", b"", b"1.2.3", b"::1%lo", b"\xff:"):
        assert greylistkey.network(nonsense, 24, 64) is None


def test_keys_are_of_one_size_and_apart(tmp_path: Path) -> None:
    keys = {greylistkey.key(*parts) for parts in ((b"a", b"b"), (b"ab",), (b"a", b"", b"b"))}
    assert len(keys) == 3 and {len(key) for key in keys} == {16}
