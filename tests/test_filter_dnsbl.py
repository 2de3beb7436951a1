"""dnsbl and rhsbl: lists in the DNS, against a server of real packets (dns_server.py)."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from dns_server import DnsServer
from filters import TAKEN, build, logged, open_log, rcpt, say
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qsmtpd.facts import Client, ControlError, Envelope, Peer

pytestmark = pytest.mark.slow

ZONE = """
    4.3.2.1.bl.example      A    127.0.0.2
    4.3.2.1.bl.example      TXT  "bad since 1999, see http://bl.example/"
    4.3.2.1.b2.example      A    127.0.0.11
    4.3.2.1.good.example    A    127.0.0.5
    4.3.2.1.errors.example  A    127.255.255.254
    4.3.2.1.dead.example    A    203.0.113.9
    4.3.2.1.both.example    A    127.255.255.252
    4.3.2.1.both.example    A    127.0.0.2
    *.all.example           A    127.0.0.2
    4.3.2.1.slow.example    DO   servfail
    4.3.2.1.mute.example    DO   silent
    1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example  A  127.0.0.2
    bad.example.rh.example  A    127.0.1.2
    bad.example.rh.example  TXT  "spams"
    xn--bcher-kva.example.rh.example  A  127.0.1.2
    *.allrh.example         A    127.0.1.2
"""
LISTED = b"553 sorry, 1.2.3.4 is listed by %b (#5.7.1)"
BAD = b": bad since 1999, see http://bl.example/"
UNDECIDED = b"451 DNS temporary failure (#4.4.3)"


class Place:
    """A home with its own log, and the filter made there with one DNS server."""

    def __init__(self, path: Path, zone: str = ZONE) -> None:
        (path / "control").mkdir()
        self.path = path
        self.log = path / "log"
        self._fd = open_log(self.log)
        self.dns = DnsServer(zone)

    def build(self, name: str, *lines: str, **environ: str) -> Any:
        (self.path / "control" / f"{name}s").write_text("".join(line + "\n" for line in lines))
        where = {"DNSCACHEIP": self.dns.where, "DNSTIMEOUT": "20"}
        return build(name, self.path, self._fd, **{**where, **environ})

    def events(self) -> list[dict[str, str]]:
        return logged(self.log)


@pytest.fixture
def place(tmp_path: Path) -> Any:
    found = Place(tmp_path)
    with found.dns:
        yield found


def client(ip: bytes = b"1.2.3.4", helo: bytes | None = None) -> Client:
    found = Client(Peer(ip=ip))
    found.helo = helo
    return found


# -- dnsbl ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "threshold", "reply"),
    [
        (["bl.example"], 1, LISTED % b"bl.example" + BAD),
        (["BL.example."], 1, LISTED % b"bl.example" + BAD),
        (["b2.example"], 1, LISTED % b"b2.example"),
        (["none.example"], 1, TAKEN),
        (["bl.example 127.0.0.[2-4]"], 1, LISTED % b"bl.example" + BAD),
        (["bl.example 127.0.0.[3-4]"], 1, TAKEN),
        (["b2.example 127.0.0.[10-11]"], 1, LISTED % b"b2.example"),
        (["bl.example"], 2, TAKEN),
        (["bl.example 2"], 2, LISTED % b"bl.example" + BAD),
        (["b2.example", "bl.example"], 2, LISTED % b"b2.example, bl.example"),
        (["bl.example 1 127.0.0.2", "bl.example 1 127.0.0.*"], 2, LISTED % b"bl.example" + BAD),
        (["bl.example 5", "good.example -5"], 1, TAKEN),
        (["bl.example 5", "good.example -4"], 1, LISTED % b"bl.example" + BAD),
        (["bl.example 0"], 1, TAKEN),
        (["bl.example 1000"], 0, TAKEN),
        (["errors.example"], 1, TAKEN),
        (["errors.example 127.*.*.*"], 1, TAKEN),
        (["dead.example"], 1, TAKEN),
        (["both.example"], 1, LISTED % b"both.example"),
        (["all.example"], 1, TAKEN),
        (["all.example", "bl.example"], 2, TAKEN),
        (["bl.example", "all.example -5"], 1, LISTED % b"bl.example" + BAD),
        ([], 1, TAKEN),
    ],
)
def test_clients(place: Place, lines: list[str], threshold: int, reply: bytes) -> None:
    plugin = place.build("dnsbl", *lines, DNSBLTHRESHOLD=str(threshold))
    text, bracket, said = reply.partition(b" (#5.7.1)")  # the list's text comes before the status
    assert rcpt(plugin, b"x@ok.example", client()) == text + said + bracket


def test_all_are_asked_at_once_and_once_in_a_session(place: Place, one_try: None) -> None:
    plugin = place.build("dnsbl", "bl.example", "b2.example", "bl.example 1 127.0.0.3")
    who = client()
    for _ in range(3):
        assert rcpt(plugin, b"x@ok.example", who).startswith(b"553 ")
    first = {("4.3.2.1.bl.example", "A"), ("4.3.2.1.b2.example", "A")}
    assert set(place.dns.asked[:2]) == first
    assert sorted(place.dns.asked[2:]) == [
        ("1.0.0.127.b2.example", "A"),
        ("1.0.0.127.bl.example", "A"),
        ("4.3.2.1.b2.example", "TXT"),
        ("4.3.2.1.bl.example", "TXT"),
    ]
    found = who.notes["dnsbl"]
    assert (found.zones, found.score) == ((b"bl.example", b"b2.example"), 2)
    (event,) = place.events()
    assert (event["listed"], event["score"]) == ("bl.example,b2.example", "2")


def test_ipv6_is_asked_by_nibbles(place: Place) -> None:
    plugin = place.build("dnsbl", "bl.example")
    reply = rcpt(plugin, b"x@ok.example", client(b"2001:db8::1"))
    assert reply == b"553 sorry, 2001:db8::1 is listed by bl.example (#5.7.1)"
    never = "1.0.0.0.0.0.f.7.f.f.f.f." + "0." * 20 + "bl.example"
    assert (never, "A") in place.dns.asked
    assert rcpt(plugin, b"x@ok.example", client(b"2001:db8::2")) == TAKEN


def test_a_client_without_an_address_is_not_asked_about(place: Place) -> None:
    assert rcpt(place.build("dnsbl", "bl.example"), b"x@y", client(b"unknown")) == TAKEN
    assert place.dns.asked == []


def test_errors_of_lists_are_logged(place: Place) -> None:
    plugin = place.build("dnsbl", "errors.example", "dead.example", "all.example")
    assert rcpt(plugin, b"x@ok.example", client()) == TAKEN
    said = [(event["zone"], event.get("answer"), event["error"]) for event in place.events()]
    assert said == [
        ("errors.example", "127.255.255.254", "is no listing"),
        ("dead.example", "203.0.113.9", "is no listing"),
        ("all.example", None, "lists everything"),
    ]


@pytest.mark.parametrize(
    ("lines", "trouble", "reply"),
    [
        (["slow.example"], "pass", TAKEN),
        (["slow.example"], "defer", UNDECIDED),
        # What it would have said changes nothing.
        (["slow.example", "bl.example 5"], "defer", LISTED % b"bl.example"),
        (["slow.example 0"], "defer", TAKEN),
        (["slow.example -1"], "defer", TAKEN),
        # It might have cleared the client.
        (["slow.example -5", "bl.example"], "pass", TAKEN),
        (["slow.example -5", "bl.example"], "defer", UNDECIDED),
        (["slow.example -1", "bl.example 2"], "defer", LISTED % b"bl.example"),
    ],
)
def test_what_does_not_answer(place: Place, lines: list[str], trouble: str, reply: bytes) -> None:
    plugin = place.build("dnsbl", *lines, DNSTROUBLE=trouble)
    text, bracket, said = reply.partition(b" (#5.7.1)")
    assert rcpt(plugin, b"x@ok.example", client()) == text + (bracket and BAD) + bracket
    first = place.events()[0]
    assert (first["dns"], first["name"]) == ("SERVFAIL", "4.3.2.1.slow.example")


@pytest.mark.parametrize("trouble", ["pass", "defer"])
def test_a_list_that_never_answers(place: Place, trouble: str) -> None:
    plugin = place.build("dnsbl", "mute.example", DNSTROUBLE=trouble, DNSTIMEOUT="1")
    start, who = monotonic(), client()
    for _ in range(2):  # it is not asked again
        assert rcpt(plugin, b"x@y", who) == (TAKEN if trouble == "pass" else UNDECIDED)
    assert 0.9 < monotonic() - start < 10
    (event,) = place.events()
    assert (event["dns"], event["name"]) == ("timeout", "4.3.2.1.mute.example")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=600))
def test_what_a_list_says_is_one_printable_line(place: Place, text: bytes) -> None:
    place.dns.records[b"4.3.2.1.bl.example", "TXT"] = []
    place.dns.add("4.3.2.1.bl.example", "TXT", text)
    reply = rcpt(place.build("dnsbl", "bl.example"), b"x@ok.example", client())
    assert reply.startswith(b"553 sorry, 1.2.3.4 is listed by bl.example")
    assert reply.endswith(b" (#5.7.1)")
    assert len(reply) < 300 and all(32 <= byte < 127 for byte in reply)


@pytest.mark.parametrize("text", [b"(#)", b"ok (#2.0.0)", b"x (#5.1.1", b"(#x(#5.1.1)", b"#5.1.1"])
def test_what_a_list_says_is_never_the_status(place: Place, text: bytes) -> None:
    place.dns.add("4.3.2.1.b2.example", "TXT", text)
    reply = rcpt(place.build("dnsbl", "b2.example"), b"x@ok.example", client())
    shown = text.replace(b"(#", b"( #")
    assert reply == b"553 sorry, 1.2.3.4 is listed by b2.example: %b (#5.7.1)" % shown


def test_a_list_that_says_64_kilobytes(place: Place) -> None:
    place.dns.add("4.3.2.1.b2.example", "TXT", b"x" * 64000)
    reply = rcpt(place.build("dnsbl", "b2.example"), b"x@ok.example", client())
    assert reply == b"553 sorry, 1.2.3.4 is listed by b2.example: " + b"x" * 200 + b" (#5.7.1)"


def test_a_list_that_answers_with_thousands(place: Place) -> None:
    for number in range(3000):
        place.dns.add("4.3.2.1.many.example", "A", f"127.9.{number // 256}.{number % 256}")
    plugin = place.build("dnsbl", "many.example 127.0.0.2", "many.example 127.9.11.[180-190]")
    found = rcpt(plugin, b"x@ok.example", client())
    assert found == LISTED % b"many.example"
    assert plugin._find(client()).score == 1


# -- rhsbl -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "helo", "reply"),
    [
        (b"a@bad.example", b"mx.good.example", b"bad.example"),
        (b"a@BAD.example.", b"mx.good.example", b"bad.example"),
        (b"a@good.example", b"Bad.Example", b"bad.example"),
        (b"", b"bad.example", b"bad.example"),
        ("a@bücher.example".encode(), b"x.example", b"xn--bcher-kva.example"),
        (b"a@good.example", b"good.example", None),
        (b"a@mail.bad.example", b"good.example", None),
        (b"", None, None),
    ],
)
def test_senders(place: Place, sender: bytes, helo: bytes | None, reply: bytes | None) -> None:
    plugin = place.build("rhsbl", "rh.example")
    found = rcpt(plugin, b"x@ok.example", client(helo=helo), sender)
    if reply is None:
        assert found == TAKEN
    else:
        said = b": spams" if reply == b"bad.example" else b""
        assert found == b"553 sorry, %b is listed by rh.example%b (#5.7.1)" % (reply, said)


@pytest.mark.parametrize(
    "name", [b"localhost", b"[192.0.2.1]", b"192.0.2.1", b"a..b", b".", b"", b"x" * 64 + b".org",
             b"a b.org", b"a\0.org", b"\xff.org", b"[IPv6:2001:db8::1]"]
)  # fmt: skip
def test_what_is_no_domain_is_not_asked_about(place: Place, name: bytes) -> None:
    plugin = place.build("rhsbl", "rh.example", "allrh.example")
    assert rcpt(plugin, b"x@ok.example", client(helo=name), b"a@" + name) == TAKEN
    assert place.dns.asked == []


def test_a_name_that_is_too_long_with_its_zone(place: Place) -> None:
    name = b".".join([b"x" * 60] * 4)  # 243 bytes
    assert rcpt(place.build("rhsbl", "allrh.example"), b"x@y", client(), b"a@" + name) == TAKEN
    assert place.dns.asked == []


def test_a_list_of_domains_that_lists_everything(place: Place) -> None:
    plugin = place.build("rhsbl", "allrh.example", "rh.example")
    reply = rcpt(plugin, b"x@ok.example", client(helo=b"ok.example"), b"a@bad.example")
    assert reply == b"553 sorry, bad.example is listed by rh.example: spams (#5.7.1)"
    assert ("invalid.allrh.example", "A") in place.dns.asked


def test_a_zone_counts_once_for_both_names(place: Place) -> None:
    plugin = place.build("rhsbl", "rh.example", RHSBLTHRESHOLD="2")
    who = client(helo=b"bad.example")
    envelope = Envelope("a@bücher.example".encode())
    assert say("rcpt", plugin.rcpt(who, envelope, b"x@y")) == TAKEN
    assert (envelope.notes["rhsbl"].zones, envelope.notes["rhsbl"].score) == ((b"rh.example",), 1)
    # The next message has another sender.
    assert rcpt(plugin, b"x@y", who, b"a@good.example") == TAKEN
    assert ("good.example.rh.example", "A") in place.dns.asked


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.binary(max_size=300), helo=st.binary(max_size=300))
def test_names_with_any_bytes(place: Place, name: bytes, helo: bytes) -> None:
    plugin = place.build("rhsbl", "rh.example")
    assert rcpt(plugin, b"x@ok.example", client(helo=helo), b"a@" + name) == TAKEN


# -- configuration ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["dnsbl", "rhsbl"])
def test_lines_that_make_no_sense(place: Place, name: str) -> None:
    with pytest.raises(ControlError, match=f"control/{name}s.*line 2: 'x' begins with a name"):
        place.build(name, "bl.example", "x")
    with pytest.raises(ControlError, match="one more than 50"):
        place.build(name, *(f"b{number}.example" for number in range(51)))
    for threshold in ("-1", "x", "1.5"):
        with pytest.raises(ControlError):
            place.build(name, "bl.example", **{f"{name.upper()}THRESHOLD": threshold})
