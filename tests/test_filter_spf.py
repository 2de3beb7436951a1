"""spf: what domains say of a client, against a DNS server of real packets (dns_server.py)."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from dns_server import DnsServer
from filters import TAKEN, build, logged, open_log, say
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qsmtpd.facts import Client, ControlError, Envelope, Peer
from qsmtpd.filters import spflibrary, spfquery
from qsmtpd.filters.spfquery import RECORD_LIMIT, TERM_LIMIT
from qsmtpd.filters.spfresult import RESULTS

pytestmark = pytest.mark.slow

RESULT_OF = {
    "pass": "v=spf1 ip4:192.0.2.0/24 -all",
    "fail": "v=spf1 ip4:198.51.100.1 -all",
    "softfail": "v=spf1 ~all",
    "neutral": "v=spf1 ?all",
    "none": "hello",
    "permerror": "v=spf1 nonsense",
    "temperror": "",
}
ZONE = "\n".join(f'{name}.example  TXT  "{text}"' for name, text in RESULT_OF.items() if text)
ZONE += """
    temperror.example    DO   servfail
    helo.example         TXT  "v=spf1 ip4:192.0.2.1 -all"
    said.example         TXT  "v=spf1 -all exp=why.said.example"
    why.said.example     TXT  "%{i} is" " not %{d}, %{s} (%{c})"
"""
NOT_LET = b"sorry, %b does not let 192.0.2.1 send its mail (#5.7.23)"
NOT_SAID = b"sorry, %b does not say that 192.0.2.1 may send its mail (#5.7.23)"
TEXTS = {
    "fail": b"550 " + NOT_LET % b"fail.example",
    "softfail": b"550 " + NOT_SAID % b"softfail.example",
    "neutral": b"550 " + NOT_SAID % b"neutral.example",
    "none": b"550 " + NOT_SAID % b"none.example",
    "permerror": b"550 sorry, the SPF record of permerror.example makes no sense (#5.7.24)",
    "temperror": b"451 sorry, I cannot check the SPF record of temperror.example, try again later"
    b" (#4.4.3)",
}
FROM = {"temperror": 2, "fail": 3, "softfail": 4, "neutral": 5, "none": 6, "permerror": 6}


@pytest.fixture(autouse=True)
def no_lookups_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library never asks anybody."""

    def ask(*asked: object) -> None:
        pytest.fail(f"pyspf has asked {asked}")

    monkeypatch.setattr(spfquery.spf, "DNSLookup", ask)


class Place:
    """A home with its own log, and one DNS server."""

    def __init__(self, path: Path) -> None:
        (path / "control").mkdir()
        self.path = path
        self.log = path / "log"
        self._fd = open_log(self.log)
        self.dns = DnsServer(ZONE)

    def build(self, behavior: int = 3, **environ: str) -> Any:
        """The filter, with a short timeout only where one is to be seen."""
        for_ever = any(what in (["silent"], ["garbage"]) for what in self.dns.behaviour.values())
        where = {"DNSCACHEIP": self.dns.where, "SPFBEHAVIOR": str(behavior)}
        time = {"DNSTIMEOUT": "2" if for_ever else "20"}
        return build("spf", self.path, self._fd, **{**where, **time, **environ})

    def events(self) -> list[dict[str, str]]:
        return logged(self.log)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    with found.dns:
        yield found


def client(helo: bytes | None = b"client.example", ip: bytes = b"192.0.2.1") -> Client:
    found = Client(Peer(ip=ip, local_host=b"mx.ok.example"))
    found.helo = helo
    return found


def ask(plugin: Any, sender: bytes, who: Client | None = None) -> tuple[bytes, Any]:
    """(what the client is told, what was found out)"""
    envelope = Envelope(sender)
    who = who or client()
    reply = say("rcpt", plugin.rcpt(who, envelope, b"x@ok.example"))
    found = envelope.notes.get("spf")
    # The next recipient is told the same, and nobody is asked again.
    assert say("rcpt", plugin.rcpt(who, envelope, b"y@ok.example")) == reply
    assert envelope.notes.get("spf") is found
    return reply, found


# -- the seven results, and what each behaviour makes of them ------------------------


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("behavior", range(1, 7))
def test_behaviours(place: Place, behavior: int, result: str) -> None:
    reply, found = ask(place.build(behavior), b"joe@%b.example" % result.encode())
    assert found.verdict.result == result
    refused = behavior >= FROM.get(result, 7)
    assert reply == (TEXTS[result] if refused else TAKEN)


def test_0_is_off(place: Place) -> None:
    assert ask(place.build(0), b"joe@fail.example") == (TAKEN, None)
    assert ask(place.build(SPFBEHAVIOR=""), b"joe@fail.example") == (TAKEN, None)
    assert place.dns.asked == []


@pytest.mark.parametrize("behavior", range(1, 7))
def test_permanent_errors_where_asked(place: Place, behavior: int) -> None:
    reply, _ = ask(place.build(behavior, SPFPERMERROR="reject"), b"joe@permerror.example")
    assert reply == (TEXTS["permerror"] if behavior >= 3 else TAKEN)


def test_temporary_errors_where_not_asked(place: Place) -> None:
    assert ask(place.build(6, DNSTROUBLE="pass"), b"joe@temperror.example")[0] == TAKEN
    assert ask(place.build(1, DNSTROUBLE="defer"), b"joe@temperror.example")[0] == TAKEN


def test_both_domains_are_asked_at_once(place: Place, one_try: None) -> None:
    ask(place.build(), b"joe@fail.example")
    assert set(place.dns.asked) == {("client.example", "TXT"), ("fail.example", "TXT")}
    assert len(place.dns.asked) == 2


@pytest.mark.parametrize("result", ["none", "temperror"])
def test_without_a_record_there_is_no_need_for_the_library(
    place: Place, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    monkeypatch.setattr(spfquery, "check_host", None)
    place.dns.add("none.example", "TXT", "v=spf10 -all")
    place.dns.add("none.example", "TXT", "v=spf1.0 -all")
    _, found = ask(place.build(), b"joe@%b.example" % result.encode())
    assert found.verdict.result == result


@pytest.mark.parametrize("text", ["v=spf1", "V=SPF1 -all", "v=spf1  ", "v=spf1 "])
def test_what_is_a_record(place: Place, text: str) -> None:
    place.dns.add("is.example", "TXT", text)
    expected = "fail" if "all" in text else "neutral"
    assert ask(place.build(), b"joe@is.example")[1].verdict.result == expected


# -- two checks --------------------------------------------------------------------


@pytest.mark.parametrize("behavior", range(1, 7))
@pytest.mark.parametrize("result", RESULTS)
def test_helo_beside_a_sender(place: Place, behavior: int, result: str) -> None:
    """Its fail and softfail are refused, nothing else is."""
    name = result.encode() + b".example"
    reply, found = ask(place.build(behavior), b"joe@pass.example", client(name))
    assert (found.helo.result, found.mailfrom.result) == (result, "pass")
    assert found.verdict is found.mailfrom
    refused = result in ("fail", "softfail") and behavior >= FROM[result]
    assert reply == (TEXTS[result] if refused else TAKEN)


@pytest.mark.parametrize("behavior", [2, 6])
@pytest.mark.parametrize("result", RESULTS)
def test_of_a_bounce_there_is_only_helo(place: Place, behavior: int, result: str) -> None:
    reply, found = ask(place.build(behavior), b"", client(result.encode() + b".example"))
    assert found.mailfrom is None and found.verdict is found.helo
    assert found.helo.result == result
    assert reply == (TEXTS[result] if behavior >= FROM.get(result, 7) else TAKEN)


@pytest.mark.parametrize(
    "name",
    [b"localhost", b"[192.0.2.1]", b"192.0.2.1", b"a..example", b"x" * 64 + b".example", b"a\0.b",
     b"\xff.example", b".", b"[IPv6:2001:db8::1]"],
)  # fmt: skip
def test_what_is_no_domain_is_none(place: Place, name: bytes) -> None:
    """RFC 7208, 4.3."""
    reply, found = ask(place.build(), b"joe@" + name, client(name))
    assert (found.helo.result, found.mailfrom.result, reply) == ("none", "none", TAKEN)
    assert place.dns.asked == []


def test_neither_helo_nor_sender(place: Place) -> None:
    reply, found = ask(place.build(6), b"", client(None))
    assert (reply, found.verdict) == (TAKEN, None)


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        (b"joe@fail.example.", b"fail.example"),
        (b"joe@FAIL.example", b"fail.example"),
        (b"@fail.example", b"fail.example"),
        # The library itself would split it at the first one.
        (b'"a@b"@fail.example', b"fail.example"),
        (b"a@none.example@fail.example", b"fail.example"),
    ],
)
def test_the_domain_of_a_sender(place: Place, sender: bytes, domain: bytes) -> None:
    reply, found = ask(place.build(), sender)
    assert (found.mailfrom.domain, found.mailfrom.result) == (domain, "fail")
    assert reply == TEXTS["fail"]


def test_a_sender_without_a_domain(place: Place) -> None:
    assert ask(place.build(), b"joe")[1].mailfrom.result == "none"


def test_u_labels_are_asked_for_as_a_labels(place: Place) -> None:
    place.dns.add("xn--bcher-kva.example", "TXT", "v=spf1 exists:%{l}.ok.example -all")
    place.dns.add("*.ok.example", "A", "127.0.0.2")
    assert ask(place.build(), "joe@bücher.example".encode())[1].mailfrom.result == "pass"
    # RFC 8616, 4: what a local part that is not ASCII makes of a name matches nothing.
    reply, found = ask(place.build(), "jö@bücher.example".encode())
    assert (found.mailfrom.result, found.mailfrom.domain) == ("fail", b"xn--bcher-kva.example")
    assert reply == b"550 " + NOT_LET % b"xn--bcher-kva.example"


def test_ipv6(place: Place) -> None:
    place.dns.add("six.example", "TXT", "v=spf1 a ip6:2001:db8:1::/48 -all")
    place.dns.add("six.example", "AAAA", "2001:db8::7")
    for ip, result in (
        (b"2001:db8::7", "pass"),
        (b"2001:db8:1::9", "pass"),
        (b"2001:db8::8", "fail"),
    ):
        assert ask(place.build(), b"a@six.example", client(ip=ip))[1].verdict.result == result


def test_what_fails_does_not_pass_for_the_next_recipient(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsmtpd.filters.spf._lines", None)
    plugin, envelope = place.build(), Envelope(b"joe@fail.example")
    for recipient in (b"x@ok.example", b"y@ok.example"):
        with pytest.raises(TypeError):
            plugin.rcpt(client(), envelope, recipient)


def test_who_is_not_asked_about(place: Place) -> None:
    plugin = place.build()
    assert plugin.immune == ("relay", "auth", "listed")
    assert ask(plugin, b"joe@fail.example", client(ip=b"unknown")) == (TAKEN, None)


# -- the header ------------------------------------------------------------------------

ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
VALUE = rf'(?:{ATOM}(?:\.{ATOM})*|"(?:[^"\\]|\\.)*")'
#: RFC 7208, 9.1, without comments inside of the list.
FIELD = re.compile(
    rf"Received-SPF: ({'|'.join(RESULTS)})\s+\([^()\\]*\)\s+"
    rf"([a-z-]+={VALUE}(?:;\s+[a-z-]+={VALUE})*)",
    re.ASCII,
)


def fields(line: bytes) -> tuple[str, dict[str, str]]:
    """(the result, the values by their keys)"""
    text = line.decode("ascii")
    assert all(len(part) < 998 for part in text.split("\n"))
    assert all(part[0] == " " for part in text.split("\n")[1:])
    match = FIELD.fullmatch(text)
    assert match, text
    pairs = re.findall(rf"([a-z-]+)=({VALUE})", match[2])
    return match[1], dict(pairs)


def test_the_header(place: Place) -> None:
    plugin = place.build(1)
    decision = plugin.rcpt(client(b"fail.example"), Envelope(b"joe@pass.example"), b"x@y")
    sender, helo = map(fields, decision.above)
    assert sender == (
        "pass",
        {
            "receiver": "mx.ok.example",
            "client-ip": "192.0.2.1",
            "identity": "mailfrom",
            "helo": "fail.example",
            "envelope-from": '"joe@pass.example"',
            "mechanism": '"ip4:192.0.2.0/24"',
        },
    )
    assert (helo[0], helo[1]["identity"], helo[1]["mechanism"]) == ("fail", "helo", "-all")
    bounce = plugin.rcpt(client(b'a"(\\.example', b"2001:db8::1"), Envelope(b""), b"x@y")
    (line,) = map(fields, bounce.above)
    assert line[0] == "none"
    assert (line[1]["helo"], line[1]["client-ip"]) == ('"a\\"(\\\\.example"', '"2001:db8::1"')
    broken = plugin.rcpt(client(), Envelope(b"joe@permerror.example"), b"x@y")
    assert fields(broken.above[0])[1]["problem"] == '"Unknown mechanism found"'


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sender=st.binary(max_size=400), helo=st.none() | st.binary(max_size=400))
def test_names_with_any_bytes(place: Place, sender: bytes, helo: bytes | None) -> None:
    """Whatever is said: a result, and a header line that is one."""
    plugin = place.build(1)
    for text in (sender, sender + b"@pass.example", b"joe@" + sender, sender + b".example"):
        if b"\0" in text or b"\n" in text:
            continue
        decision = plugin.rcpt(client(helo), Envelope(text), b"x@ok.example")
        assert decision.verdict == "decline"
        for line in decision.above:
            fields(line)


# -- what the domain has to say ------------------------------------------------------


def test_explanations(place: Place) -> None:
    reply, found = ask(place.build(), b"joe@said.example")
    said = b"192.0.2.1 is not said.example, joe@said.example (192.0.2.1)"
    assert (
        reply
        == b"550 sorry, said.example does not let 192.0.2.1 send its mail: %b (#5.7.23)" % said
    )
    assert found.mailfrom.explanation == said
    # Nobody is asked for one that is not wanted.
    place.dns.asked.clear()
    ask(place.build(), b"joe@said.example", client(b"said.example", b"192.0.2.9"))
    place.dns.add("good.example", "TXT", "v=spf1 +all exp=why.said.example")
    place.dns.asked.clear()
    assert ask(place.build(), b"joe@good.example")[0] == TAKEN
    assert ("why.said.example", "TXT") not in place.dns.asked


def test_of_explanations_that_of_the_last_record_counts(place: Place) -> None:
    """RFC 7208, 6.2: an include has none, a redirect its own."""
    place.dns.add("in.example", "TXT", "v=spf1 include:said.example -all exp=own.example")
    place.dns.add("own.example", "TXT", "%{d} itself")
    assert ask(place.build(), b"a@in.example")[1].verdict.explanation == b"in.example itself"
    place.dns.add("re.example", "TXT", "v=spf1 redirect=said.example exp=own.example")
    assert ask(place.build(), b"a@re.example")[1].verdict.explanation.startswith(
        b"192.0.2.1 is not"
    )
    place.dns.add("none2.example", "TXT", "v=spf1 redirect=fail.example exp=own.example")
    assert ask(place.build(), b"a@none2.example")[1].verdict.explanation == b""


@pytest.mark.parametrize("what", ["servfail", "silent", "garbage"])
def test_an_explanation_that_cannot_be_had(place: Place, what: str) -> None:
    place.dns.do("why.said.example", what)
    reply, found = ask(place.build(), b"joe@said.example")
    assert found.verdict.result == "fail"
    assert reply == b"550 " + NOT_LET % b"said.example"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.binary(max_size=1200) | st.text("%{}slodiptcrv0123456789.-+,/_=LSDR ").map(str.encode)
)
def test_an_explanation_is_one_printable_line(place: Place, text: bytes) -> None:
    place.dns.records[b"why.said.example", "TXT"] = []
    place.dns.add("why.said.example", "TXT", text)
    reply, _ = ask(place.build(), b"joe@said.example")
    assert reply.startswith(b"550 sorry, said.example does not let 192.0.2.1 send its mail")
    assert reply.endswith(b" (#5.7.23)")
    assert len(reply) < 300 and all(32 <= byte < 127 for byte in reply)


@pytest.mark.parametrize("text", ["(#)", "ok (#2.0.0)", "x (#5.1.1", "(#x(#5.1.1)", "#5.1.1"])
def test_an_explanation_is_never_the_status(place: Place, text: str) -> None:
    place.dns.add("own.example", "TXT", text)
    place.dns.add("(#2.0.0).fail.example", "TXT", "v=spf1 -all exp=own.example")
    reply = ask(place.build(), b"joe@(#2.0.0).fail.example")[0]
    shown = text.encode().replace(b"(#", b"( #")
    start = b"550 sorry, ( #2.0.0).fail.example does not let 192.0.2.1 send its mail: "
    assert reply == start + shown + b" (#5.7.23)"


# -- limits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "problem"),
    [
        ('loop.example TXT "v=spf1 include:loop.example -all"', b"include has trivial recursion"),
        ('loop.example TXT "v=spf1 include:l2.example -all"\n'
         'l2.example TXT "v=spf1 include:loop.example -all"', b"Too many DNS lookups"),
        ('loop.example TXT "v=spf1 redirect=loop.example"', b"Too many DNS lookups"),
        ('loop.example TXT "v=spf1 redirect=l2.example"\n'
         'l2.example TXT "v=spf1 redirect=loop.example"', b"Too many DNS lookups"),
        ('loop.example TXT "v=spf1 include:a.%{d} -all"\n'
         '*.loop.example TXT "v=spf1 include:a.%{d} -all"', b"Too many DNS lookups"),
        ('loop.example TXT "v=spf1 ' + " ".join(f"exists:e{n}.example" for n in range(11)) + '"\n'
         "*.example A 192.0.2.99", b""),
        ('loop.example TXT "v=spf1 exists:a.test exists:b.test exists:c.test -all"',
         b"Too many lookups without an answer"),
        ('loop.example TXT "v=spf1 mx -all"\n'
         + "\n".join(f"loop.example MX 1 m{n}.example" for n in range(11)),
         b"More than 10 MX records returned"),
        ('loop.example TXT "v=spf1 -all"\nloop.example TXT "v=spf1 +all"',
         b"Two or more type TXT spf records found."),
        ("loop.example CNAME l2.example\nl2.example CNAME loop.example", b""),
        ('loop.example TXT "v=spf1 exists:%{s' + "9" * 5000 + '} -all"', b"Record longer than"),
        (f'loop.example TXT "v=spf1 exists:{"%{d}" * 80}.x -all"', b"Term longer than"),
        (f'loop.example TXT "v=spf1 ip4:192.0.2.99/{"9" * 250} -all"', b"Invalid IP4 CIDR length"),
    ],
)  # fmt: skip
def test_loops_and_limits(place: Place, zone: str, problem: bytes) -> None:
    """RFC 7208, 4.6.4.  Each ends soon, after few questions, with an error of the record."""
    for line in zone.splitlines():
        place.dns._add_line(line)
    place.dns.asked.clear()
    start = monotonic()
    _, found = ask(place.build(), b"a@loop.example")
    assert monotonic() - start < 10
    assert len(place.dns.asked) < 25
    if "CNAME" in zone:
        assert found.verdict.result == "temperror"
    elif "exists:e1.example" in zone:
        assert found.verdict.result == "pass"  # the first one was right
    else:
        assert (found.verdict.result, found.verdict.problem[: len(problem)]) == (
            "permerror",
            problem,
        )


def test_eleven_terms_that_ask(place: Place) -> None:
    for number in (10, 11):
        names = [f"n{n}.example" for n in range(number)]
        place.dns.records[b"many.example", "TXT"] = []
        place.dns.add(
            "many.example", "TXT", "v=spf1 " + " ".join(f"a:{n}" for n in names) + " -all"
        )
        for name in names:
            place.dns.records[name.encode(), "A"] = []
            place.dns.add(name, "A", "198.51.100.7")
        found = ask(place.build(), b"a@many.example")[1].verdict.result
        assert found == ("fail" if number == 10 else "permerror")


@pytest.mark.parametrize("size", [RECORD_LIMIT, RECORD_LIMIT + 1, 60000])
def test_large_records(place: Place, size: int) -> None:
    start = "v=spf1 ip4:192.0.2.1 "
    place.dns.add("large.example", "TXT", start + "a=b " + " " * (size - len(start) - 4))
    result = ask(place.build(), b"a@large.example")[1].verdict.result
    assert result == ("pass" if size <= RECORD_LIMIT else "permerror")


def test_names_that_macros_make_too_long(place: Place) -> None:
    """RFC 7208, 7.3: labels are taken away in front, as many as it takes."""
    place.dns.add("long.example", "TXT", "v=spf1 exists:%{l}.ok.long.example -all")
    place.dns.add("*.ok.long.example", "A", "127.0.0.2")
    place.dns.asked.clear()
    found = ask(place.build(), b".".join([b"abcdefghi"] * 60) + b"@long.example", client(None))[1]
    assert found.verdict.result == "pass"
    assert max(len(name) for name, _ in place.dns.asked) == 245  # one more is 255
    found = ask(place.build(), b"x" * 400 + b"@long.example", client(None))[1]
    assert found.verdict.result == "fail"


def test_large_records_that_are_none(place: Place) -> None:
    """64 KB at a name, as some have: only the record for us counts."""
    for number in range(60):
        place.dns.add("large.example", "TXT", f"{number:02} " + "x" * 990)
    place.dns.add("large.example", "TXT", "v=spf1 -all")
    assert ask(place.build(), b"a@large.example")[1].verdict.result == "fail"
    assert ("large.example", "TXT") in place.dns.asked_by_tcp


def test_the_longest_term(place: Place) -> None:
    for size in (TERM_LIMIT, TERM_LIMIT + 1):
        place.dns.records[b"term.example", "TXT"] = []
        place.dns.add("term.example", "TXT", "v=spf1 x=" + "y" * (size - 2) + " ip4:192.0.2.1")
        result = ask(place.build(), b"a@term.example")[1].verdict.result
        assert result == ("pass" if size == TERM_LIMIT else "permerror")


@pytest.mark.parametrize("what", ["servfail", "silent"])
def test_pointers_that_cannot_be_had_match_nothing(place: Place, what: str) -> None:
    """RFC 7208, 5.5: no temperror."""
    place.dns.add("ptr.example", "TXT", "v=spf1 ptr ip4:192.0.2.1 -all")
    place.dns.do("1.2.0.192.in-addr.arpa", what)
    assert ask(place.build(), b"a@ptr.example")[1].verdict.result == "pass"
    place.dns.behaviour.clear()
    place.dns.add("1.2.0.192.in-addr.arpa", "PTR", "broken.ptr.example")
    place.dns.add("1.2.0.192.in-addr.arpa", "PTR", "good.ptr.example")
    place.dns.do("broken.ptr.example", "servfail")
    place.dns.add("good.ptr.example", "A", "192.0.2.1")
    place.dns.add("ptr2.example", "TXT", "v=spf1 ptr:ptr.example -all")
    assert ask(place.build(), b"a@ptr2.example")[1].verdict.result == "pass"


TERMS = st.sampled_from(
    ["all", "-all", "a", "mx", "ptr", "include:fail.example", "redirect=pass.example",
     "exists:%{i}.x", "exp=why.said.example", "ip4:192.0.2.1", "ip6:2001:db8::/32",
     "a:%{d}/24//64", "%", "=", ":", "a:", "exists:%{s1r-}.%{h}.x.y", "A/0",
     "mx:none.example//128", "exists:%{ir}.%{v}.arpa.example", "redirect=", "exp=%",
     "x=%{p}", "ip4:999.1.1.1", "a" * 200, "include:%{d2}"]
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    record=st.binary(max_size=500)
    | st.lists(TERMS, max_size=12).map(lambda terms: " ".join(terms).encode())
    | st.text("%{}slodiptcrv0123456789.-+,/_=:amxeipt ", max_size=100).map(str.encode)
)
def test_any_record_has_a_result(place: Place, record: bytes) -> None:
    place.dns.records[b"any.example", "TXT"] = []
    place.dns.add("any.example", "TXT", b"v=spf1 " + record)
    place.dns.asked.clear()
    reply, found = ask(place.build(6), b"joe@any.example")
    assert found.verdict.result in RESULTS
    assert (reply == TAKEN) == (found.verdict.result == "pass")
    assert len(place.dns.asked) < 150


def test_a_session_has_so_much_for_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has records that take long can have them read again and again, from memory."""
    monkeypatch.setattr("qsmtpd.filters.spf.SECONDS_LIMIT", 0.2)
    for number in range(11):
        terms = " ".join(f"u{n}=%{{d}}" + ".a" * 100 for n in range(13))
        place.dns.add(f"e{number}.example", "TXT", f"v=spf1 include:e{number + 1}.example {terms}")
    plugin, who = place.build(), client(None)
    results = []
    while "temperror" not in results:
        results.append(ask(plugin, b"x@e0.example", who)[1].verdict.result)
        assert len(results) < 1000
    assert set(results[:-1]) == {"permerror"}
    assert place.events()[-1]["problem"] == "too much work for a session"
    # What needs no evaluation, needs none.
    assert ask(plugin, b"x@none.example", who)[1].verdict.result == "none"


def test_what_the_library_cannot_read_is_an_error_of_the_record(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise IndexError("a fault of the library")

    monkeypatch.setattr(spfquery.spf.query, "check0", fail)
    _, found = ask(place.build(), b"joe@pass.example", client(None))
    assert (found.verdict.result, found.verdict.problem) == ("permerror", b"IndexError")
    assert [(e["domain"], e["result"], e["problem"]) for e in place.events()] == [
        ("pass.example", "permerror", "IndexError")
    ]


# -- a resolver that is dead -------------------------------------------------------------


@pytest.mark.parametrize(("behavior", "taken"), [(1, True), (2, False), (3, False)])
def test_a_dead_resolver(place: Place, behavior: int, taken: bool) -> None:
    """Two seconds for a command, whatever has to be asked."""
    for name in ("client.example", "pass.example"):
        place.dns.do(name, "silent")
    start = monotonic()
    reply, found = ask(place.build(behavior), b"joe@pass.example")
    assert 1.9 < monotonic() - start < 15
    assert (found.verdict.result, reply == TAKEN) == ("temperror", taken)


def test_a_resolver_that_dies_in_between(place: Place) -> None:
    place.dns.add("chain.example", "TXT", "v=spf1 include:c1.example -all")
    place.dns.do("c1.example", "silent")
    _, found = ask(place.build(), b"joe@chain.example")
    assert (found.verdict.result, found.verdict.problem) == ("temperror", b"DNS timeout")


# -- at the end of the message ---------------------------------------------------------


@pytest.mark.parametrize("result", ["pass", "fail", "temperror"])
@pytest.mark.parametrize("excused", [False, True])
def test_at_the_end_of_the_message(place: Place, result: str, excused: bool) -> None:
    plugin = place.build(3, SPFSTAGE="data_post")
    envelope = Envelope(b"joe@%b.example" % result.encode())
    decision = plugin.rcpt(client(), envelope, b"x@ok.example")
    assert decision.verdict == "decline"
    assert fields(decision.above[0])[0] == result
    envelope.notes["spf"].excused = excused
    reply = say("data_post", plugin.data_post(client(), envelope, None))
    assert reply == (TAKEN if excused or result == "pass" else TEXTS[result])


def test_there_is_no_hook_for_the_message_unless_asked(place: Place) -> None:
    assert not hasattr(place.build(), "data_post")
    plugin = place.build(SPFSTAGE="data_post")
    assert say("data_post", plugin.data_post(client(), Envelope(b"a@b"), None)) == TAKEN


# -- configuration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("SPFBEHAVIOR", "7"), ("SPFBEHAVIOR", "-1"), ("SPFBEHAVIOR", "x"), ("SPFPERMERROR", "no"),
     ("SPFSTAGE", "data")],
)  # fmt: skip
def test_values_that_make_no_sense(place: Place, name: str, value: str) -> None:
    with pytest.raises(ControlError, match=name):
        place.build(3, **{name: value})


def test_without_the_library(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsmtpd.filters.libraries._there", set())
    monkeypatch.setattr("sys.path", [str(place.path)])
    monkeypatch.setattr("site.main", lambda: None)  # it would put that right
    with pytest.raises(ControlError, match="pyspf.*is not there"):
        place.build()
    (place.path / "spf.py").write_text("import no_such_library_anywhere")
    monkeypatch.delitem(sys.modules, "spf")
    with pytest.raises(ControlError, match="cannot be imported: No module named 'no_such"):
        spflibrary.load()
    (place.path / "spf.py").write_text("this is no Python")
    with pytest.raises(ControlError, match="cannot be imported: invalid syntax"):
        spflibrary.load()
    for text, said in (
        ("", "is of no version"),
        ("__version__ = '2.0.9'", "is 2.0.9, and 2.0.14 is"),
    ):
        monkeypatch.setitem(sys.modules, "spf", types.ModuleType("spf"))
        exec(text, vars(sys.modules["spf"]))
        with pytest.raises(ControlError, match=f"pyspf.*{said}"):
            spflibrary.load()
    assert "DNS" not in sys.modules
    assert ask(place.build(0), b"joe@fail.example") == (TAKEN, None)
