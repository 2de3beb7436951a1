"""Filters that ask the DNS, in whole sessions; what they say is in transcripts/filters-dns.txt."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from client import PATIENCE
from dns_server import DnsServer
from filters import TAKEN, build, client, say
from harness import BIN, ROOT, Home, Variables, wait_for
from hypothesis import given
from hypothesis import strategies as st
from listeners import Listener, Server, make_rules, patched, tcpserver

from qsmtpd.facts import Envelope

pytestmark = pytest.mark.slow

ZONE = """
    a.com       MX   10 mx.a.com
    a.com       A    192.0.2.7
    null.com    MX   0 .
    client.com  A    127.0.0.2
    2.0.0.127.in-addr.arpa  PTR  client.com
    3.0.0.127.in-addr.arpa  PTR  client.com
    dead.com    DO   silent
    1.2.0.192.in-addr.arpa  DO   silent
"""
EXIST = b"553 sorry, your envelope sender must exist (#5.7.1)"
TEMPORARY = b"451 DNS temporary failure (#4.4.3)"
#: Every filter of ours that asks, on.
ALL: Variables = {"MFDNSCHECK": "", "FCRDNS": "require", "HELOCHECK": "A"}


@pytest.fixture
def dns(home: Home) -> Iterator[DnsServer]:
    """The server that this home asks."""
    with DnsServer(ZONE) as server:
        home.environ["DNSCACHEIP"] = server.where
        yield server


def rcpt(
    listener: Listener, source: str, sender: bytes = b"x@a.com", helo: bytes = b"a.com"
) -> bytes:
    """The reply to a recipient."""
    commands = b"EHLO " + helo, b"MAIL FROM:<%b>" % sender, b"RCPT TO:<x@ok.example>"
    return listener.session(*commands, source=source)[-1]


RULES = [
    '127.0.0.2:allow,MFDNSCHECK="",FCRDNS="require",HELOCHECK="A"',
    '127.0.0.3:allow,FCRDNS="require"',
    '127.0.0.4:allow,HELOCHECK="M",DNSTROUBLE="pass"',
    '127.0.0.5:allow,MFDNSCHECK="",DNSTIMEOUT="1"',
    '127.0.0.6:allow,MFDNSCHECK="",RELAYCLIENT=""',
    '127.0.0.7:allow,DNSCACHEIP="x"',
    '127.0.0.8:allow,DNSCACHEIP="x",MFDNSCHECK=""',
    '127.0.0.9:allow,HELOCHECK="M",DNSTROUBLE="pass",DNSTIMEOUT="1"',
    ":allow",
]


def choose(listener: Listener) -> None:
    """What clients hear under RULES."""
    assert rcpt(listener, "127.0.0.2") == b"250 ok"
    assert rcpt(listener, "127.0.0.2", b"x@nowhere.com") == EXIST
    gone = b"550 sorry, your envelope sender's domain takes no mail (#5.7.27)"
    assert rcpt(listener, "127.0.0.2", b"x@null.com") == gone
    greeting = b"550 sorry, invalid HELO/EHLO greeting (#5.7.1)"
    assert rcpt(listener, "127.0.0.2", helo=b"nowhere.com") == greeting
    nameless = b"550 your address has no name that leads back to it (#5.7.25)"
    assert rcpt(listener, "127.0.0.3") == nameless
    assert rcpt(listener, "127.0.0.9", b"x@nowhere.com", b"dead.com") == b"250 ok"
    assert rcpt(listener, "127.0.0.4", helo=b"nowhere.com") == greeting
    assert rcpt(listener, "127.0.0.5", b"x@dead.com") == TEMPORARY
    assert rcpt(listener, "127.0.0.6", b"x@nowhere.com") == b"250 ok"
    assert rcpt(listener, "127.0.0.7", b"x@nowhere.com") == b"250 ok"
    assert rcpt(listener, "127.0.0.1", b"x@nowhere.com") == b"250 ok"


@pytest.mark.slow
def test_rules_of_tcpserver_choose(home: Home, dns: DnsServer) -> None:
    with tcpserver(home, *RULES) as listener:
        choose(listener)
        broken = b"421 unable to read controls (#4.3.0)"
        assert listener.session(source="127.0.0.8") == [broken]
        assert [(event["name"], event["reason"]) for event in listener.events("control")] == [
            ("DNSCACHEIP", "has 'x', which is no address")
        ]


@pytest.mark.slow
def test_rules_of_our_own_server_choose(home: Home, dns: DnsServer, tmp_path: Path) -> None:
    """With warm processes, each of which serves one after the other."""
    rules = make_rules(tmp_path / "rules.cdb", *RULES)
    with Server(home, "--sessions", "100", "-x", str(rules)) as server:
        choose(server)


def test_it_explains(home: Home, dns: DnsServer) -> None:
    words = ["ip=127.0.0.2", "helo=a.com", "from=x@a.com", "to=x@ok.example"]
    run = home.run(b"", "--explain", *words, **ALL)
    said = re.sub(" +", " ", run.out.decode())
    for plugin in ("helocheck", "mfdnscheck", "fcrdns"):
        assert f" rcpt {plugin} decline\n" in said
    assert run.status == 0
    words = ["ip=127.0.0.3", "helo=a.com", "from=x@nowhere.com", "to=x@ok.example"]
    said = re.sub(" +", " ", home.run(b"", "--explain", *words, **ALL).out.decode())
    assert " rcpt mfdnscheck reject: sorry, your envelope sender must exist\n" in said
    said = re.sub(
        " +", " ", home.run(b"", "--explain", *words, **{**ALL, "MFDNSCHECK": None}).out.decode()
    )
    assert " rcpt fcrdns reject: your address has no name that leads back to it\n" in said
    words[1], words[2] = "helo=dead.com", "from="
    run = home.run(b"", "--explain", *words, **{**ALL, "DNSTIMEOUT": "1"})
    assert " rcpt helocheck defer: DNS temporary failure\n" in re.sub(" +", " ", run.out.decode())


def test_it_is_checked(home: Home, dns: DnsServer) -> None:
    run = home.run(b"", "--check", **ALL)
    assert run.status == 0
    said = run.out.decode()
    assert "ok: plugins = helocheck, relay, rcpthosts, mfdnscheck, fcrdns, qmailqueue" in said
    assert f"ok: DNS server = {dns.where} (answers)\n" in said
    assert "ok: dnstimeout = 10 (default)\n" in said
    dns.do("localhost", "refused")
    run = home.run(b"", "--check", **ALL)
    assert run.status == 1
    assert f"warning: DNS server {dns.where}: REFUSED\n" in run.out.decode()
    assert "wrong: DNS: no server answers, so filters that ask it cannot tell\n" in run.out.decode()
    assert "DNS" not in home.run(b"", "--check").out.decode()


def test_a_line_alone_switches_them_on(home: Home, dns: DnsServer) -> None:
    dns.behaviour.clear()
    home.control("plugins", "mfdnscheck", "fcrdns")
    run = home.run(b"MAIL FROM:<x@nowhere.com>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n")
    assert run.lines[2] == EXIST
    assert run.event("plugin")["plugin"] == "fcrdns"
    run = home.run(b"", "--check")
    assert run.status == 0
    assert "warning" not in run.out.decode()


SESSION = (
    b"EHLO dead.com\r\nMAIL FROM:<x@dead.com>\r\nRCPT TO:<x@ok.example>\r\n"
    b"RCPT TO:<y@ok.example>\r\nRCPT TO:<z@ok.example>\r\nQUIT\r\n"
)


@pytest.mark.parametrize("trouble", ["defer", "pass"])
def test_a_dead_resolver(home: Home, dns: DnsServer, trouble: str) -> None:
    """Mail is put off, or it flows, and a session waits no longer than it is to."""
    start = monotonic()
    limits: Variables = {"DNSTIMEOUT": "1", "DNSSESSIONTIMEOUT": "2", "DNSTROUBLE": trouble}
    run = home.run(SESSION, **{**ALL, **limits})
    assert run.codes[3:6] == [250 if trouble == "pass" else 451] * 3
    assert monotonic() - start < 20
    # MAIL asks for the name, and one RCPT for the others: no command has a third second.
    assert 0.9 < float(run.event("session")["seconds"]) < 15
    assert all(event["dns"] == "timeout" for event in run.events("plugin"))


def test_it_ends_while_it_waits(home: Home, dns: DnsServer) -> None:
    with home.talk(**ALL, DNSTIMEOUT="300", DNSSESSIONTIMEOUT="300") as talk:
        talk.send(b"EHLO dead.com\r\nMAIL FROM:<x@dead.com>\r\n")
        wait_for(lambda: dns.asked)
        talk.process.send_signal(signal.SIGTERM)
        run = talk.ended()
    assert run.codes[-1] == 421
    assert run.event("session")["end"] == "shutdown"


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_what_is_known_ends_with_starttls(inside: Home, dns: DnsServer, warm: bool) -> None:
    """Within a session nothing is asked twice; after STARTTLS, and in the next session, all is."""
    inside.environ.update(MFDNSCHECK="", FCRDNS="note")
    mail = b"EHLO x", b"MAIL FROM:<x@a.com>", b"RCPT TO:<x@ok.example>", b"RSET"
    asked = [("1.0.0.127.in-addr.arpa", "PTR"), ("a.com", "MX")]
    once = f"exchange.FIRST_WAIT = {PATIENCE}"  # also where its server is stopped for a second
    package, program = "qsmtpd.net.dns", "qsmtpd.server" if warm else "qsmtpd"
    run = patched(once, package=package, program=program)
    with (
        Server(inside, "-c1", "--sessions", "9", run=run) if warm else tcpserver(inside, run=run)
    ) as listener:
        for session in (0, 2):
            with listener.client() as talk:
                assert talk.reply() == b"220 mx.example ESMTP"
                assert talk.ask(*mail) == talk.ask(*mail) == b"250 flushed"
                assert dns.asked == asked * (session + 1)
                talk.starttls()
                assert talk.ask(*mail) == talk.ask(*mail) == b"250 flushed"
                assert dns.asked == asked * (session + 2)
                talk.quit()


def test_what_fcrdns_notes(one_try: None) -> None:
    """The name; b"" where there is none; None where nobody could tell."""
    place = "1.2.0.192.in-addr.arpa"
    with DnsServer(f"{place} PTR Client.com\nclient.com A 192.0.2.1\n") as dns:
        plugin = build("fcrdns", Path("/tmp"), DNSCACHEIP=dns.where)

        def note(ip: bytes = b"192.0.2.1") -> object:
            who = client()
            who.peer.ip = ip
            for _ in range(2):  # it is asked for once
                plugin.mail(who, Envelope(b""))
            return who.notes.get("fcrdns", "nothing")

        assert note() == b"client.com"
        assert dns.asked == [(place, "PTR"), ("client.com", "A")]
        assert note(b"192.0.2.2") == b""
        dns.do("client.com", "servfail")
        assert note() is None
        assert note(b"unknown") == "nothing"
        for number in range(50):
            dns.add(place, "PTR", f"c{number}.com")
        dns.asked.clear()
        assert note() is None
        assert [type for _, type in dns.asked].count("A") == 10, "not all of them"


# -- what is not wanted is not there -------------------------------------------

LEAVE = """
import sys, posix
sys.path.insert(0, sys.argv[1])
exit = posix._exit
def leave(status):
    posix.write(2, b"\\n" + " ".join(sys.modules).encode())
    exit(status)
posix._exit = leave
from qsmtpd import main; main.main(sys.argv[2:])
"""


def modules(home: Home, python: Path = BIN / "python3", **environ: str) -> tuple[bytes, set[str]]:
    """(what the client hears, the modules of the process)"""
    done = subprocess.run(
        [python, "-IS", "-c", LEAVE, str(ROOT)],
        input=b"EHLO a.com\r\nMAIL FROM:<x@a.com>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n",
        capture_output=True,
        env={**home.environ, **environ},
        check=False,
    )
    return done.stdout, set(done.stderr.decode().splitlines()[-1].split())


def test_what_is_not_wanted_is_not_imported(home: Home, dns: DnsServer) -> None:
    _, before = modules(home)
    assert not any(name.startswith(("qsmtpd.net.dns", "dns")) for name in before)
    every = {name: value for name, value in ALL.items() if value is not None}
    heard, loaded = modules(home, **every, RELAYCLIENT="")
    assert b"\r\n250 ok\r\n221 " in heard
    assert "qsmtpd.filters.mfdnscheck" in loaded
    assert not {"_socket", "qsmtpd.net.dns.resolver"} & loaded
    assert dns.asked == []
    _, loaded = modules(home, MFDNSCHECK="")
    assert "qsmtpd.net.dns.resolver" in loaded
    theirs = {name for name in loaded - before if not name.startswith("qsmtpd.")}
    assert theirs - set(sys.builtin_module_names) <= {"_socket"}, "as little as can be"


# -- any names -----------------------------------------------------------------

LABELS = st.lists(st.binary(max_size=70), max_size=5).map(b".".join)


@pytest.fixture(scope="module")
def quiet() -> Iterator[str]:
    """A server without any names."""
    with DnsServer() as server:
        yield server.where


@given(LABELS | st.binary(max_size=300), st.booleans())
def test_any_sender_and_any_helo(quiet: str, name: bytes, utf8: bool) -> None:
    """Never an exception; and what is no name is a name that does not exist."""
    who, home = client(helo=name), Path("/tmp")
    plugin = build("helocheck", home, DNSCACHEIP=quiet, HELOCHECK="M")
    said = say("rcpt", plugin.rcpt(who, Envelope(b""), b"x@y"))
    literal = name.strip(b" ").startswith(b"[") and said == TAKEN
    assert said.startswith(b"550 ") or literal, name
    envelope = Envelope(b"x@" + name, utf8=utf8)
    plugin = build("mfdnscheck", home, DNSCACHEIP=quiet, MFDNSCHECK="")
    said = say("rcpt", plugin.rcpt(who, envelope, b"x@y"))
    domain = envelope.sender.rpartition(b"@")[2]
    assert said == EXIST or domain.startswith(b"["), name
