"""qsmtpd behind a balancer: who the client is, what is refused, and what nobody gains by lying."""

from __future__ import annotations

import signal
import time

import pytest
from client import Client, client_context
from harness import BIN, PROGRAMS, Home, Variables, needs
from listeners import make_rules
from proxying import V2, v1, v2, vector, with_checksum
from run import Run
from syscalls import calls, ours
from tls_home import SERVER

BALANCER = "192.0.2.1"  # where every client of a Home comes from
IPV4 = v1("TCP4", "198.51.100.7", "203.0.113.25", 40000, 25)
IPV6 = v2(0x21, "2001:db8::7", "2001:db8:1::25", 40000, 25)
#: Header -> the fields of the log, of those two.
CLIENTS = {
    IPV4: ("198.51.100.7", "40000", "203.0.113.25", "25"),
    IPV6: ("2001:db8::7", "40000", "2001:db8:1::25", "25"),
}
LOCAL = V2 + b"\x20\0\0\0"
UNKNOWN = b"PROXY UNKNOWN\r\n"
MESSAGE = (
    b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<%b>\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n"
)
OURS, RELAYED = MESSAGE % b"x@ok.example", MESSAGE % b"x@elsewhere.example"

pytestmark = pytest.mark.slow


@pytest.fixture
def home(home: Home) -> Home:
    home.control("proxyhosts", BALANCER)
    home.control("proxytimeout", "60")  # unless that is what a test is about
    return home


def rules(home: Home, *lines: str) -> Variables:
    return {"PROXYRULES": str(make_rules(home.path / "proxied.cdb", *lines))}


def ends(run: Run) -> tuple[str, str]:
    return run.event("session")["end"], run.event("session")["ip"]


# -- who the client is ---------------------------------------------------------


@pytest.mark.parametrize("header", CLIENTS)
@pytest.mark.parametrize("over", ["socket", "pipe"])
def test_the_client_is_who_the_header_says(home: Home, header: bytes, over: str) -> None:
    """In the log, in Received, for plugins and the queue program."""
    run = home.run(header + OURS, over=over)
    event = run.event("session")
    assert (event["ip"], event["port"], event["local_ip"], event["local_port"]) == CLIENTS[header]
    assert (event["end"], event["proxy"]) == ("quit", BALANCER)
    (message,) = home.messages()
    assert b"from unknown (HELO x) (%b)" % event["ip"].encode() in message.text
    assert b"client.example" not in message.text
    assert b"by mx.example with ESMTP" in message.text


def test_what_its_programs_see(home: Home) -> None:
    """No variable of the connection to the balancer is left, whatever family has set it."""
    seen = home.path / "seen"
    leftovers: Variables = {
        name: "left"
        for family in ("TCP", "TCP6", "SSL")
        for end in ("REMOTE", "LOCAL")
        for name in (f"{family}{end}{what}" for what in ("HOST", "INFO", "PORT"))
    }
    more: Variables = {"SSL_CLIENT_CERT": "left", "REMOTE_ADDR": "left", "SOCAT_PEERADDR": "left"}
    environ: Variables = {
        **leftovers,
        **more,
        "RELAYCLIENT": "left",
        "IMMUNE": "left",
        "OWN": "stays",
    }
    environ["TCPLOCALHOST"] = "mx.example"
    script = home.script(f"/usr/bin/env >{seen}\nexec {PROGRAMS / 'oracle'}")
    run = home.run(IPV4 + OURS, QMAILQUEUE=script, **environ)
    assert ends(run) == ("quit", "198.51.100.7")
    found = dict(line.split("=", 1) for line in seen.read_text().splitlines() if "=" in line)
    assert "left" not in found.values(), found
    assert {
        "PROTO": "TCP",
        "TCPREMOTEIP": "198.51.100.7",
        "TCPREMOTEPORT": "40000",
        "TCPLOCALIP": "203.0.113.25",
        "TCPLOCALPORT": "25",
        "TCPLOCALHOST": "mx.example",
        "PROXYHEADER": "PROXY",
        "PROXYREMOTEIP": BALANCER,
        "OWN": "stays",
    }.items() <= found.items()


@pytest.mark.parametrize("header", [IPV4, LOCAL, UNKNOWN])
def test_what_the_balancer_may_its_clients_may_not(home: Home, header: bytes) -> None:
    home.control("immune", BALANCER)
    home.control("badmailfrom", "a@b")
    run = home.run(header + RELAYED, RELAYCLIENT="", IMMUNE="1")
    assert home.messages() == []
    assert run.events("refused")
    assert ends(run)[1] == ("198.51.100.7" if header == IPV4 else BALANCER)


@pytest.mark.parametrize("header", [LOCAL, UNKNOWN, V2 + b"\x21\x31\0\xd8" + bytes(216)])
def test_who_is_not_named(home: Home, header: bytes) -> None:
    """It is at the balancer's address, whose name stays; no rule is looked for."""
    run = home.run(header + OURS, **rules(home, ":deny"))
    assert ends(run) == ("quit", BALANCER)
    assert run.event("session")["proxy"] == BALANCER
    (message,) = home.messages()
    assert b"from client.example (HELO x) (192.0.2.1)" in message.text


# -- rules -----------------------------------------------------------------------


def test_rules_are_those_of_the_client(home: Home) -> None:
    cdb = rules(
        home,
        '192.0.2.:allow,RELAYCLIENT="",DATABYTES="1"',
        '198.51.100.7:allow,RELAYCLIENT="@all",TCPREMOTEHOST="named.example"',
        "203.0.113.:deny",
        '=client.example:allow,RELAYCLIENT=""',
        ":allow",
    )
    home.run(IPV4 + RELAYED, **cdb)
    (message,) = home.messages()
    assert message.recipients == [b"x@elsewhere.example@all"]
    assert b"from named.example (HELO x) (198.51.100.7)" in message.text
    home.clear()
    other = v1("TCP4", "198.51.100.8", "203.0.113.25", 1, 25)
    run = home.run(other + RELAYED, **cdb)
    assert ends(run) == ("quit", "198.51.100.8") and not home.messages()


def test_a_client_that_is_refused(home: Home) -> None:
    """As by tcpserver: it hears nothing; the status is tcpserver's."""
    run = home.run(IPV4 + OURS, **rules(home, "198.51.100.:deny", ":allow"))
    assert (run.out, run.status) == (b"", 100)
    assert ends(run) == ("denied", "198.51.100.7")
    assert run.event("session")["proxy"] == BALANCER


def test_what_the_balancers_own_rule_has_set(home: Home) -> None:
    """It is taken back where tcpserver's rules are the same file; what is of all stays."""
    cdb = rules(home, f'{BALANCER}:allow,DATABYTES="1",MAXRECIPIENTS="9"', ":allow")
    run = home.run(b"%bEHLO x\r\nQUIT\r\n" % IPV4, **cdb, DATABYTES="1", MAXRECIPIENTS="7")
    assert b"SIZE 0\r\n" in run.out  # DATABYTES was that rule's
    assert b"RCPTMAX=7\r\n" in run.out


def test_no_rule_sets_what_holds_before_it(home: Home) -> None:
    cdb = rules(home, ':allow,PROXYHOSTS="x",QMAILHOME="/nowhere",PROXYRULES="/no"')
    assert ends(home.run(IPV4 + OURS, **cdb)) == ("quit", "198.51.100.7")
    assert len(home.messages()) == 1


@pytest.mark.parametrize("content", [b"", b"x" * 3000, None])
def test_rules_that_cannot_be_read(home: Home, content: bytes | None) -> None:
    """Nobody is served: one of them might have refused the client."""
    path = home.path / "proxied.cdb"
    if content is not None:
        path.write_bytes(content)
    run = home.run(IPV4 + OURS, PROXYRULES=str(path))
    assert not home.messages()
    assert str(path) in run.event("control")["name"]
    assert run.out == (b"" if content is not None else b"421 unable to read controls (#4.3.0)\r\n")
    assert ends(run)[0] == "control" and run.status != 0


# -- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "end", "reason"),
    [
        (b"EHLO x\r\n", "proxy-missing", "there is no PROXY header"),
        (b"\x16\x03\x01", "proxy-missing", "there is no PROXY header"),
        (b"PROXY TCP4 198.51.100.7\r\n", "proxy-malformed", "the line has not six fields"),
        (IPV4[:-2] + b"\n", "proxy-malformed", "the line does not end in CRLF"),
        (IPV4[:-1], "proxy-malformed", "the header ends before its end"),
        (IPV6[:20], "proxy-malformed", "the header ends before its end"),
        (b"P", "proxy-malformed", "the header ends before its end"),
        (b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n", "proxy-malformed", "the line is too long"),
        (
            v2(0x11, "192.0.2.9", "192.0.2.9", 1, 2, vector(3, b"1234")),
            *("proxy-malformed", "the checksum is wrong"),
        ),
    ],
)
def test_what_is_no_header(home: Home, sent: bytes, end: str, reason: str) -> None:
    """Nothing is said; the log says what was wrong, with the balancer's address."""
    run = home.run(sent, **rules(home, ":allow"))
    assert (run.out, run.status) == (b"", 1)
    assert ends(run) == (end, BALANCER)
    assert run.event("proxy")["verdict"] == "refused"
    assert run.event("proxy")["reason"] == reason


def test_a_checksum_that_is_right(home: Home) -> None:
    header = with_checksum(v2(0x11, "198.51.100.7", "192.0.2.9", 1, 2, vector(3, bytes(4))))
    assert ends(home.run(header + OURS)) == ("quit", "198.51.100.7")


@pytest.mark.parametrize("sent", [b"", IPV4[:-1], V2])
def test_a_header_that_does_not_come(home: Home, sent: bytes) -> None:
    started = time.monotonic()
    with home.talk(PROXYTIMEOUT="1", ahead=sent) as child:
        assert child.rest() == b""
        assert 0.5 < time.monotonic() - started < 30
        run = child.ended()
    assert (*ends(run), run.status) == ("proxy-timeout", BALANCER, 1)


def drip(client: Client) -> None:
    """Send what may be a header for as long as it is listened to, and longer than a second."""
    for byte in b"PROXY UNKNOWN " + b"x" * 91:
        if not client.send_each(bytes((byte,))):
            break
        time.sleep(0.05)


def test_a_byte_at_a_time_has_the_same_time(home: Home) -> None:
    with home.talk(PROXYTIMEOUT="1") as child:
        drip(child)
        assert child.rest() == b""
        run = child.ended()
    assert ends(run) == ("proxy-timeout", BALANCER)


@pytest.mark.parametrize("header", CLIENTS)
def test_split_at_every_byte(home: Home, header: bytes) -> None:
    """In two pieces at each place would be many processes: in pieces of one byte each."""
    run = home.run(header + b"QUIT\r\n", dribble=True, over="socket")
    assert run.lines == [b"220 mx.example ESMTP", b"221 mx.example"]
    assert ends(run)[1] == CLIENTS[header][0]


def test_a_health_check_leaves_no_warning(home: Home) -> None:
    """Who connects and goes, before or behind the header."""
    for sent in (b"", LOCAL, UNKNOWN, IPV4, IPV6):
        run = home.run(sent)
        assert run.event("session")["end"] == "client-gone"
        assert run.events("proxy") == [] and "warning" not in run.log and "trouble" not in run.log


def test_term_while_the_header_is_awaited(home: Home) -> None:
    with home.talk(PROXYTIMEOUT="60") as child:
        assert child.send_each(*(bytes((byte,)) for byte in IPV4[:20]))
        child.process.send_signal(signal.SIGTERM)
        assert child.rest() == b""
        run = child.ended()
    assert ends(run) == ("shutdown", BALANCER)


# -- from anybody else -------------------------------------------------------------


@pytest.mark.parametrize("header", [IPV4, IPV6, LOCAL, UNKNOWN])
@pytest.mark.parametrize("listed", ["192.0.2.2", "192.0.3.0/24", "2001:db8::/32", None])
def test_an_unlisted_address_gains_nothing(home: Home, header: bytes, listed: str | None) -> None:
    if listed is None:
        (home.control_dir / "proxyhosts").unlink()
    else:
        home.control("proxyhosts", listed)
    cdb = rules(home, ':allow,RELAYCLIENT=""')
    run = home.run(header + RELAYED, **cdb)
    assert run.lines == [b"220 mx.example ESMTP"]
    assert ends(run) == ("not-smtp-proxy", BALANCER)
    assert not home.messages()


@pytest.mark.parametrize(("force", "code"), [("0", 502), ("1", 530)])
@pytest.mark.parametrize("header", [LOCAL, IPV6])
def test_nor_by_pieces(home: Home, header: bytes, force: str, code: int) -> None:
    """The signature has lines in it, which are answered until it can be told what it is."""
    (home.control_dir / "proxyhosts").unlink()
    SERVER.save(home.control_dir / "servercert.pem")
    run = home.run(header + RELAYED, dribble=True, over="socket", FORCETLS=force)
    assert ends(run) == ("not-smtp-proxy", BALANCER)
    assert run.codes == [220, code, code]
    assert not home.messages()


def test_nor_is_a_second_header_heeded(home: Home) -> None:
    run = home.run(IPV4 + IPV6 + OURS)
    assert ends(run) == ("not-smtp-proxy", "198.51.100.7")
    run = home.run(LOCAL + v1("TCP4", "127.0.0.1", "127.0.0.1", 1, 1) + OURS)
    assert ends(run) == ("not-smtp-proxy", BALANCER)
    assert not home.messages()


# -- who is listed -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "listed"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2."),
        ("192.0.2.1", "192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.1", "0.0.0.0/0"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:DB8::1"),
        ("2001:db8::1", "2001:db8:"),
        ("2001:db8::1", "2001:db8::/33"),
        ("2001:db8::1", "::/0"),
    ],
)
def test_who_is_listed(home: Home, address: str, listed: str) -> None:
    home.control("proxyhosts", "# ours", "", f"{listed} \t\r", "203.0.113.1")
    run = home.run(IPV4 + b"QUIT\r\n", TCPREMOTEIP=address)
    assert ends(run) == ("quit", "198.51.100.7")
    home.control("proxyhosts", "203.0.113.1")
    run = home.run(IPV4 + b"QUIT\r\n", TCPREMOTEIP=address, PROXYHOSTS=f"10.0.0.1,{listed} ")
    assert ends(run) == ("quit", "198.51.100.7")


def test_a_variable_is_stronger_than_the_file(home: Home) -> None:
    run = home.run(b"QUIT\r\n", PROXYHOSTS="")
    assert ends(run) == ("quit", BALANCER)


@pytest.mark.parametrize("entry", ["192.0.2.1/24", "192.0.2", "balancer.example", "*", "0/0"])
def test_an_entry_that_is_none(home: Home, entry: str) -> None:
    """Who knows whose header it was to be: nobody is served."""
    home.control("proxyhosts", entry)
    run = home.run(IPV4 + OURS)
    assert run.lines == [b"421 unable to read controls (#4.3.0)"]
    assert run.event("control")["name"] == "control/proxyhosts"


# -- TLS ---------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
def test_tls_begins_behind_the_header(home: Home, implicit: bool) -> None:
    """Also where what comes behind it is already there when it is read."""
    SERVER.save(home.control_dir / "servercert.pem")
    context = client_context()
    with home.talk(SMTPS="1" if implicit else "0") as child:
        child.send(IPV4)
        if implicit:
            child.handshake(context, "mx.example")
        assert child.reply() == b"220 mx.example ESMTP"
        if not implicit:
            child.starttls(context, "mx.example")
        child.deliver()
        run = child.end()
    assert ends(run) == ("quit", "198.51.100.7")
    (message,) = home.messages()
    assert b"TLSv1.3" in message.text and b"(198.51.100.7)" in message.text


SSL = b"\1" + b"\xff" * 4 + vector(0x21, b"TLSv1.3") + vector(0x23, b"TLS_AES_256_GCM_SHA384")


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("ssl", [SSL, b"\0" + SSL[1:], None])
def test_tls_in_front(home: Home, on: bool, ssl: bytes | None) -> None:
    """It counts by a setting of its own; what the connection to the balancer had never does."""
    more = vector(0x20, ssl) if ssl is not None else b""
    header = v2(0x11, "198.51.100.7", "203.0.113.25", 40000, 25, more)
    leftover: Variables = {"SSL_PROTOCOL": "TLSv1.2", "SSL_CIPHER": "OLD"}
    run = home.run(header + OURS, PROXYTLS="on" if on else "off", FORCETLS="1", **leftover)
    counts = on and ssl == SSL
    assert len(home.messages()) == counts
    if counts:
        assert run.event("tls")["cipher"] == "TLS_AES_256_GCM_SHA384"
        assert b"tls TLS_AES_256_GCM_SHA384" in home.messages()[0].text


@pytest.mark.parametrize("where", ["variable", "rule"])
def test_tls_in_front_that_does_not_count_is_not_told(home: Home, where: str) -> None:
    seen = home.path / "seen"
    script = home.script(f"/usr/bin/env >{seen}\nexec {PROGRAMS / 'oracle'}")
    header = v2(0x11, "198.51.100.7", "203.0.113.25", 40000, 25, vector(0x20, SSL))
    environ: Variables = {"PROXYTLS": "on", "QMAILQUEUE": script}
    off: Variables = {"QSMTPD_TLS": "off"}
    if where == "rule":
        off = rules(home, '198.51.100.7:allow,QSMTPD_TLS="off"')
    for more, number in (({}, 2), (off, 0)):
        assert ends(home.run(header + OURS, **environ, **more)) == ("quit", "198.51.100.7")
        text = seen.read_text()
        assert text.count("\nSSL_") == number and "TCPREMOTEIP=198.51.100.7\n" in text, text


def test_a_lie_on_tls(home: Home) -> None:
    header = v2(0x11, "198.51.100.7", "203.0.113.25", 40000, 25, vector(0x20, b"\1\0"))
    assert ends(home.run(header + OURS, PROXYTLS="on"))[0] == "proxy-malformed"
    assert ends(home.run(header + OURS))[0] == "quit"


# -- what it costs where it is off ---------------------------------------------------


def test_nothing_where_it_is_off(home: Home) -> None:
    """With names that are not of this matter, no more calls than without the code."""
    trace = home.path / "trace"
    counts = []
    for listed in (False, True):
        if not listed:
            (home.control_dir / "proxyhosts").unlink(missing_ok=True)
        else:
            home.control("proxyhosts", "203.0.113.1")
        wrapper = home.script(f"exec {needs('strace')} -f -qq -o {trace} {BIN / 'qsmtpd'}")
        with home.launch([wrapper], home.environ) as child:
            child.reply()
            child.ask(b"QUIT")
            child.ended()
        lines = ours(trace, home.environ["QMAILQUEUE"])
        counts.append(len(calls(lines)))
        assert any("proxyhosts" in line or "/proxied." in line for line in lines) == listed
    assert counts[0] < counts[1]
