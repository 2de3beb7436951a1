"""dnsbl, rhsbl and spf in whole sessions."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from dns_server import DnsServer
from harness import Home, Variables, wait_for
from listeners import Listener, Server, make_rules, tcpserver

pytestmark = pytest.mark.slow

ZONE = """
    2.0.0.127.bl.example    A    127.0.0.2
    2.0.0.127.bl.example    TXT  "see http://bl.example/127.0.0.2"
    3.0.0.127.bl.example    A    127.0.0.9
    3.0.0.127.good.example  A    127.0.1.1
    bad.com.rh.example      A    127.0.0.2
    good.com    TXT  "v=spf1 ip4:127.0.0.0/24 ip4:192.0.2.0/24 -all"
    fail.com    TXT  "v=spf1 -all exp=why.com"
    why.com     TXT  "%{i} is none of %{d}"
    soft.com    TXT  "v=spf1 ~all"
    broken.com  TXT  "v=spf1 broken"
    dead.com    DO   silent
    2.0.0.127.dead.example  DO  silent
    1.2.0.192.dead.example  DO  silent
"""
OK = b"250 ok"
LISTED = b"553 sorry, 127.0.0.2 is listed by bl.example: see http://bl.example/127.0.0.2 (#5.7.1)"
BAD = b"553 sorry, bad.com is listed by rh.example (#5.7.1)"
FAIL = b"550 sorry, fail.com does not let %b send its mail: %b is none of fail.com (#5.7.23)"
SOFT = b"550 sorry, soft.com does not say that %b may send its mail (#5.7.23)"
BROKEN = b"550 sorry, the SPF record of broken.com makes no sense (#5.7.24)"
PUT_OFF = b"451 sorry, I cannot check the SPF record of dead.com, try again later (#4.4.3)"
TEMPORARY = b"451 DNS temporary failure (#4.4.3)"


@pytest.fixture
def dns(home: Home) -> Iterator[DnsServer]:
    """The server that this home asks."""
    with DnsServer(ZONE) as server:
        home.environ["DNSCACHEIP"] = server.where
        home.environ["DNSTIMEOUT"] = "20"
        yield server


def rcpt(
    listener: Listener, source: str, sender: bytes = b"x@good.com", helo: bytes = b"good.com"
) -> bytes:
    """The reply to a recipient."""
    commands = b"EHLO " + helo, b"MAIL FROM:<%b>" % sender, b"RCPT TO:<x@ok.example>"
    return listener.session(*commands, source=source)[-1]


RULES = [
    '127.0.0.2:allow,QSMTPD_PLUGINS="dnsbl dnsbls=lists"',
    '127.0.0.3:allow,QSMTPD_PLUGINS="dnsbl dnsbls=lists"',
    '127.0.0.4:allow,QSMTPD_PLUGINS="rhsbl rhsbls=domains"',
    '127.0.0.5:allow,SPFBEHAVIOR="3"',
    '127.0.0.6:allow,SPFBEHAVIOR="4",SPFPERMERROR="reject"',
    '127.0.0.7:allow,SPFBEHAVIOR="6",RELAYCLIENT=""',
    '127.0.0.8:allow,SPFBEHAVIOR="7"',
    '127.0.0.9:allow,SPFBEHAVIOR="3",DNSTIMEOUT="1"',
    ":allow",
]


def choose(listener: Listener) -> None:
    """What clients hear under RULES."""
    assert rcpt(listener, "127.0.0.2") == LISTED
    assert rcpt(listener, "127.0.0.3") == OK  # one list has it, another one clears it
    assert rcpt(listener, "127.0.0.4", b"x@bad.com") == BAD
    assert rcpt(listener, "127.0.0.4", helo=b"bad.com") == BAD
    assert rcpt(listener, "127.0.0.4") == OK
    assert rcpt(listener, "127.0.0.5", b"x@fail.com") == FAIL % (b"127.0.0.5", b"127.0.0.5")
    assert rcpt(listener, "127.0.0.5", helo=b"fail.com") == FAIL % (b"127.0.0.5", b"127.0.0.5")
    assert rcpt(listener, "127.0.0.5", b"x@soft.com") == OK
    assert rcpt(listener, "127.0.0.9", b"x@dead.com") == PUT_OFF
    assert rcpt(listener, "127.0.0.6", b"x@soft.com") == SOFT % b"127.0.0.6"
    assert rcpt(listener, "127.0.0.6", b"x@broken.com") == BROKEN
    assert rcpt(listener, "127.0.0.7", b"x@fail.com") == OK
    assert rcpt(listener, "127.0.0.1", b"x@fail.com") == OK


@pytest.fixture
def lists(home: Home, dns: DnsServer) -> DnsServer:
    home.control("lists", "bl.example 2 127.0.0.*", "good.example -9")
    home.control("domains", "rh.example")
    return dns


@pytest.mark.slow
def test_rules_of_tcpserver_choose(home: Home, lists: DnsServer) -> None:
    with tcpserver(home, *RULES) as listener:
        choose(listener)
        assert listener.session(source="127.0.0.8") == [b"421 unable to read controls (#4.3.0)"]
        by = [event["by"] for event in listener.events("refused") if "by" in event]
        assert by == ["dnsbl", "rhsbl", "rhsbl", "spf", "spf", "spf", "spf", "spf"]
        said = [(event["listed"], event["score"]) for event in listener.events("plugin")
                if "listed" in event]  # fmt: skip
        bad = ("rh.example", "1")
        assert said == [("bl.example", "2"), ("bl.example,good.example", "-7"), bad, bad]


@pytest.mark.slow
def test_rules_of_our_own_server_choose(home: Home, lists: DnsServer, tmp_path: Path) -> None:
    """With warm processes, each of which serves one after the other."""
    rules = make_rules(tmp_path / "rules.cdb", *RULES)
    with Server(home, "--sessions", "100", "-x", str(rules)) as server:
        choose(server)
        choose(server)


def mail(*senders: str, helo: str = "good.com") -> bytes:
    """A session with a message of each sender."""
    lines = ["EHLO " + helo]
    for sender in senders:
        lines += [f"MAIL FROM:<{sender}>", "RCPT TO:<x@ok.example>", "DATA", "Subject: x", "", "."]
    return "".join(line + "\r\n" for line in [*lines, "QUIT"]).encode()


def test_the_results_stand_above_our_received(home: Home, dns: DnsServer) -> None:
    assert home.run(mail("x@soft.com"), SPFBEHAVIOR="1").codes[-2:] == [250, 221]
    (message,) = home.messages()
    first, received, rest = message.text.partition(b"Received: from ")
    assert first == (
        b"Received-SPF: softfail\n"
        b"  (mx.example: soft.com probably does not designate 192.0.2.1 as permitted sender)\n"
        b"  receiver=mx.example; client-ip=192.0.2.1; identity=mailfrom;\n"
        b"  helo=good.com;\n"
        b'  envelope-from="x@soft.com";\n'
        b"  mechanism=~all\n"
        b"Received-SPF: pass\n"
        b"  (mx.example: good.com designates 192.0.2.1 as permitted sender)\n"
        b"  receiver=mx.example; client-ip=192.0.2.1; identity=helo;\n"
        b"  helo=good.com;\n"
        b'  envelope-from="x@soft.com";\n'
        b'  mechanism="ip4:192.0.2.0/24"\n'
    )
    assert received and rest.endswith(b"\nSubject: x\n\n")


def test_each_message_has_its_own_results(home: Home, dns: DnsServer) -> None:
    assert home.run(mail("x@good.com", "", "x@soft.com"), SPFBEHAVIOR="2").codes[-1] == 221
    found = [re.findall(rb"(?m)^Received-SPF: (\w+)", m.text) for m in home.messages()]
    assert sorted(found) == [[b"pass"], [b"pass", b"pass"], [b"softfail", b"pass"]]


@pytest.mark.parametrize("sender", ["x@fail.com", "x@dead.com", "x@good.com"])
@pytest.mark.parametrize("excused", [False, True])
def test_a_refusal_at_the_end_of_the_message(
    home: Home, dns: DnsServer, sender: str, excused: bool
) -> None:
    """With 354 before it; and not at all, where a plugin has excused the message."""
    source = """
from qsmtpd.decision import DECLINED

def header(client, envelope, message):
    envelope.notes["spf"].excused = True
    return DECLINED
"""
    home.control("plugins", *([str(home.plugin("excuse", source))] if excused else []))
    seconds = "1" if "dead" in sender else "20"
    run = home.run(mail(sender), SPFBEHAVIOR="3", SPFSTAGE="data_post", DNSTIMEOUT=seconds)
    expected = {
        "x@fail.com": FAIL % (b"192.0.2.1", b"192.0.2.1"),
        "x@dead.com": PUT_OFF,
    }.get(sender)
    assert run.codes[:-2] == [220, 250, 250, 250, 354]
    if excused or expected is None:
        assert run.codes[-2] == 250
        assert len(home.messages()) == 1
    else:
        assert run.lines[-2] == expected
        assert home.messages() == []


def test_the_general_way_to_postpone(home: Home, dns: DnsServer) -> None:
    """DATA is refused, before the message."""
    home.control("plugins", "spf postpone=data")
    start = mail("x@fail.com").partition(b"Subject")[0]
    run = home.run(start + b"QUIT\r\n", SPFBEHAVIOR="3")
    assert run.codes == [220, 250, 250, 250, 550, 221]
    assert run.lines[-2] == FAIL % (b"192.0.2.1", b"192.0.2.1")


#: Each of these filters, on.
ALL: Variables = {
    "SPFBEHAVIOR": "3",
    "QSMTPD_PLUGINS": "dnsbl dnsbls=lists,rhsbl rhsbls=domains",
}


def explained(home: Home, *words: str, **environ: str | None) -> str:
    run = home.run(b"", "--explain", *words, "to=x@ok.example", **{**ALL, **environ})
    return re.sub(" +", " ", run.out.decode())


@pytest.mark.slow
def test_it_explains(home: Home, lists: DnsServer) -> None:
    said = explained(home, "helo=good.com", "from=x@good.com")
    assert " rcpt dnsbl decline\n" in said
    assert " rcpt rhsbl decline\n" in said
    assert " rcpt spf decline (and adds Received-SPF: pass" in said
    assert "\n | Received-SPF: pass\n" in said
    said = explained(home, "ip=127.0.0.2", "helo=good.com", "from=x@good.com")
    assert " rcpt dnsbl reject: sorry, 127.0.0.2 is listed by bl.example: see http:" in said
    said = explained(home, "helo=good.com", "from=x@bad.com")
    assert " rcpt rhsbl reject: sorry, bad.com is listed by rh.example\n" in said
    said = explained(home, "helo=good.com", "from=x@fail.com")
    assert " rcpt spf reject: sorry, fail.com does not let 192.0.2.1 send its mail: 192" in said
    said = explained(home, "helo=good.com", "from=x@dead.com", DNSTIMEOUT="1")
    assert " rcpt spf defer: sorry, I cannot check the SPF record of dead.com, try" in said
    home.control("lists", "dead.example")
    home.environ["DNSTIMEOUT"] = "1"
    said = explained(home, "helo=good.com", "from=x@good.com", DNSTROUBLE="defer")
    assert " rcpt dnsbl defer: DNS temporary failure\n" in said
    said = explained(home, "helo=good.com", "from=x@good.com")
    assert " rcpt dnsbl decline\n" in said


@pytest.mark.parametrize(
    ("files", "environ", "kind", "said"),
    [
        ({}, {}, "ok", "plugins = dnsbl, rhsbl, relay, rcpthosts, spf, qmailqueue"),
        ({}, {}, "ok", "spfbehavior = 3"),
        ({}, {"SPFBEHAVIOR": "9"}, "wrong", "SPFBEHAVIOR: is '9', more than 6"),
        ({"lists": "x"}, {}, "wrong", "control/lists: line 1: 'x' begins with a name that is"),
        ({"lists": ""}, {}, "wrong", "control/lists: has no list, so dnsbl refuses nobody"),
        ({"lists": "a.b 0"}, {}, "wrong", "control/lists: has no weight over 0, so dnsbl"),
        ({"lists": "a.b 0"}, {"DNSBLTHRESHOLD": "0"}, "ok", "dnsblthreshold = 0"),
        ({}, {"DNSBLTHRESHOLD": "3"}, "warning", "control/lists: has weights of 2 together, and"),
        ({"dnsbls": "a.b"}, {"QSMTPD_PLUGINS": "-dnsbl"}, "warning", "control/dnsbls: is set, but"),
        ({}, {"QSMTPD_PLUGINS": None}, "ok", "plugins = relay, rcpthosts, spf, qmailqueue"),
        ({}, {"QSMTPD_PLUGINS": None, "RHSBLTHRESHOLD": "2"}, "wrong",
         "RHSBLTHRESHOLD: does nothing without its filter rhsbl"),
        ({"spfrules": "x"}, {}, "wrong", "control/spfrules: is not read"),
        ({"dnsbllist": "x"}, {}, "wrong", "control/dnsbllist: is not read"),
    ],
)  # fmt: skip
def test_it_is_checked(
    home: Home, lists: DnsServer, files: dict[str, str], environ: Variables, kind: str, said: str
) -> None:
    for name, line in files.items():
        home.control(name, *([line] if line else []))
    run = home.run(b"", "--check", **{**ALL, **environ})
    assert f"\n{kind}: {said}" in run.out.decode(), run.out.decode()
    assert run.status == (1 if kind == "wrong" else 0)


def test_lists_are_tried(home: Home, lists: DnsServer) -> None:
    """Each has 127.0.0.2 or TEST, and none has 127.0.0.1 or INVALID (RFC 5782, 5)."""
    home.control("lists", "bl.example", "good.example -1", "all.com", "odd.com", "dead.com")
    lists.add("*.all.com", "A", "127.0.0.2")
    lists.add("2.0.0.127.odd.com", "A", "127.255.255.254")
    lists.do("2.0.0.127.dead.com", "servfail")
    lists.add("test.rh.example", "A", "127.0.0.2")
    run = home.run(b"", "--check", **ALL)
    said = re.findall("(?m)^warning: control/(?:lists|domains): (.*)$", run.out.decode())
    assert said == [
        "all.com lists 1.0.0.127.all.com, so everything, and does not count",
        "dead.com does not answer: SERVFAIL",
        "good.example does not list 2.0.0.127.good.example, as lists do: is that its name?",
        "odd.com answers 127.255.255.254, which is no listing: does it answer you?",
    ]
    assert run.status == 0


@pytest.mark.parametrize("trouble", ["defer", "pass", None])
def test_a_dead_resolver(home: Home, lists: DnsServer, trouble: str | None) -> None:
    """Mail is put off, or it flows, and no command waits longer than its second."""
    home.control("lists", "dead.example")
    start = monotonic()
    limits = {"DNSTIMEOUT": "1", "DNSSESSIONTIMEOUT": "3"}
    environ = {**ALL, "DNSTROUBLE": trouble, **limits}
    run = home.run(mail("x@dead.com", "x@dead.com", helo="dead.com"), **environ)
    assert monotonic() - start < 20
    assert float(run.event("session")["seconds"]) < 15
    if trouble == "pass":
        assert run.codes[-2] == 250
    else:
        by = "dnsbl" if trouble == "defer" else "spf"
        assert {event["by"] for event in run.events("refused") if "by" in event} == {by}
        assert (TEMPORARY if trouble == "defer" else PUT_OFF) in run.lines
        assert home.messages() == []


def test_it_ends_while_it_waits(home: Home, dns: DnsServer) -> None:
    with home.talk(SPFBEHAVIOR="3", DNSTIMEOUT="300", DNSSESSIONTIMEOUT="300") as talk:
        talk.send(b"EHLO good.com\r\nMAIL FROM:<x@dead.com>\r\nRCPT TO:<x@ok.example>\r\n")
        wait_for(lambda: ("dead.com", "TXT") in dns.asked)
        talk.process.send_signal(signal.SIGTERM)
        run = talk.ended()
    assert run.codes[-1] == 421
    assert run.event("session")["end"] == "shutdown"


def test_nobody_asks_about_who_may_relay(home: Home, lists: DnsServer) -> None:
    run = home.run(mail("x@fail.com", helo="bad.com"), RELAYCLIENT="", **ALL)
    assert run.codes[-2:] == [250, 221]
    assert lists.asked == []
    (message,) = home.messages()
    assert message.text.startswith(b"Received: ")


def test_the_check_loads_the_library(home: Home, dns: DnsServer) -> None:
    """It is in the report only where records are evaluated."""
    for behavior, says in (("3", True), ("0", False)):
        run = home.run(b"", "--check", SPFBEHAVIOR=behavior)
        assert (b"\nok: Python's pyspf = " in run.out) == says and run.status == 0
    run = home.run(b"", "--check", SPFBEHAVIOR="3", HELOCHECK="x")  # nor is it hidden by another
    assert b"\nwrong: HELOCHECK: " in run.out and b"\nok: Python's pyspf = " in run.out


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("v", 26), ("d", 16)])
def test_the_memory_that_it_needs(home: Home, dns: DnsServer, kind: str, least: int) -> None:
    """Where --check finds enough, a session can evaluate a record."""
    program = str(home.program("qsmtpd"))
    for kilobytes, enough in ((least * 1024, True), (least * 1024 - 1, False)):
        limited = home.script(f'ulimit -{kind} {kilobytes}; exec "$QSMTPD" ${{CHECK-}}')
        given: Variables = {"QSMTPD": program, "SPFBEHAVIOR": "3", "TCPREMOTEIP": "127.0.0.5"}
        run = home.run(b"", program=limited, CHECK="--check", **given)
        assert "Traceback" not in run.log
        assert (b"\nwrong: " in run.out, run.status) == (not enough, int(not enough))
        assert (b"\nok: Python's pyspf = " in run.out) == enough
        if enough:
            mail = b"MAIL FROM:<x@fail.com>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n"
            run = home.run(mail, program=limited, **given)
            assert run.lines[2] == FAIL % (b"127.0.0.5", b"127.0.0.5")
