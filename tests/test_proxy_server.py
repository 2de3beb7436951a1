"""qsmtpd-server behind a balancer: headers awaited without a process; whose rules count."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess

import pytest
from client import Client, client_context
from harness import BIN, PROGRAMS, Home, needs, wait_for
from listeners import Server, listening, make_rules, patched
from proxying import V2, v1, v2, vector
from test_proxy_child import CLIENTS, IPV4, IPV6, LOCAL, SSL, UNKNOWN, drip
from tls_home import SERVER

pytestmark = pytest.mark.slow
GREETING = b"220 mx.example ESMTP"
HELD = [b"EHLO x", b"MAIL FROM:<a@b>"]


@pytest.fixture
def home(home: Home) -> Home:
    home.control("proxyhosts", "127.0.0.0/24", "127.0.1.1")
    home.control("proxytimeout", "60")  # unless that is what a test is about
    return home


def behind(server: Server, header: bytes, source: str = "127.0.0.1") -> Client:
    """A client, behind the balancer of that address, that has sent this header."""
    client = server.client(source)
    client.send(header)
    return client


def of(number: int) -> bytes:
    """The header for a client of its own."""
    return v2(0x11, f"198.51.100.{number}", "203.0.113.25", 4000 + number, 25)


def ended(server: Server, number: int = 1) -> list[dict[str, str]]:
    """The lines of so many sessions, which are all that are over."""
    wait_for(lambda: len(server.events("session")) >= number)
    events = server.events("session")
    assert len(events) == number
    return events


@pytest.mark.parametrize("header", CLIENTS)
def test_the_client_is_who_the_header_says(home: Home, header: bytes) -> None:
    with Server(home) as server, behind(server, header) as client:
        assert client.reply() == GREETING
        assert server.children() == []  # it is held
        client.send(b"HELO x\r\n")
        client.reply()
        assert client.deliver().startswith(b"250 ok ")
        client.quit()
        (event,) = ended(server)
        fields = ("ip", "port", "local_ip", "local_port")
        assert tuple(event[name] for name in fields) == CLIENTS[header]
        assert (event["end"], event["proxy"]) == ("quit", "127.0.0.1")
        said = "\n".join(server.said())
        address, port, local, _ = CLIENTS[header]
        assert f"from {address}\n" in said and f"mx.example:{local}:25 :{address}::{port}" in said
    (message,) = home.messages()
    assert b"from unknown (HELO x) (%b)" % CLIENTS[header][0].encode() in message.text


@pytest.mark.parametrize("header", [*CLIENTS, LOCAL, UNKNOWN, v2(0x21, "::1", "::1", 1, 2)])
def test_split_at_every_byte(home: Home, header: bytes) -> None:
    """And the line of SMTP behind it, which is there when it has been read."""
    whole = header + b"QUIT\r\n"
    with Server(home) as server:
        clients = [server.client() for _ in range(len(whole) - 1)]
        for at, client in enumerate(clients, 1):
            client.send(whole[:at])
        with server.client() as bytewise:
            assert bytewise.send_each(*(bytes((byte,)) for byte in whole))
            assert [bytewise.reply(), bytewise.reply()] == [GREETING, b"221 mx.example"]
        for at, client in enumerate(clients, 1):
            client.send(whole[at:])
            assert [client.reply(), client.reply()] == [GREETING, b"221 mx.example"]
            client.close()
        events = ended(server, len(whole))
        assert len({event["ip"] for event in events}) == 1
        assert {event["end"] for event in events} == {"quit"}


def test_nobody_waits_for_a_header(home: Home) -> None:
    """It costs no process, and keeps no other client from being served."""
    with Server(home, "-c", "1", "--hold", "1") as server:
        waiting = [server.client() for _ in range(20)]
        for client in waiting:
            client.send(IPV4[:10])
        with behind(server, IPV6) as other:
            assert other.reply() == GREETING
            assert other.ask(b"QUIT") == b"221 mx.example"
        assert len(server.children()) == 1
        for client in waiting:
            client.close()
        ends = sorted(event["end"] for event in ended(server, 21))
        assert ends == ["proxy-malformed"] * 20 + ["quit"]


# -- rules and limits ------------------------------------------------------------


def test_rules_are_those_of_the_client(home: Home) -> None:
    cdb = make_rules(
        home.path / "rules.cdb",
        '127.:allow,RELAYCLIENT="",DATABYTES="1"',
        '198.51.100.1:allow,RELAYCLIENT=""',
        "198.51.100.2:deny",
        ':allow,DATABYTES="7000"',
    )
    with Server(home, "-x", str(cdb)) as server:
        for number, size in ((1, b"0"), (3, b"7000")):
            with behind(server, of(number)) as client:
                client.reply()
                client.send(b"EHLO x\r\n")
                assert b"250-SIZE " + size in b"\n".join(client.lines()).replace(b"250 ", b"250-")
                client.ask(b"MAIL FROM:<a@b>")
                relayed = client.ask(b"RCPT TO:<x@elsewhere.example>")
                assert relayed.startswith(b"250 ") == (number == 1)
                client.quit()
        with behind(server, of(2)) as refused:
            assert refused.rest() == b""
        (deny,) = [line for line in server.said() if line.startswith("deny")]
        assert deny.endswith("mx.example:203.0.113.25:25 :198.51.100.2::4002")


@pytest.mark.parametrize("header", [LOCAL, UNKNOWN])
@pytest.mark.parametrize("by_name", [False, True])
def test_who_is_not_named_has_no_rights(home: Home, header: bytes, by_name: bool) -> None:
    """Its rule is that of the balancer's address, but for these."""
    home.control("immune", "127.0.0.1")
    home.control("badmailfrom", "bad@b")
    lines = ['127.0.0.1:allow,RELAYCLIENT="",IMMUNE="1",DATABYTES="7000"', "127.0.1.1:deny"]
    lines += ["=nosuch.example:deny"] * by_name
    cdb = make_rules(home.path / "rules.cdb", *lines, ":allow")
    with Server(home, "-h" if by_name else "-H", "-x", str(cdb)) as server:
        with behind(server, header) as client:
            client.reply()
            client.send(b"EHLO x\r\n")
            assert b"SIZE 7000" in b"\n".join(client.lines())
            client.ask(b"MAIL FROM:<bad@b>")
            assert client.ask(b"RCPT TO:<x@ok.example>").startswith(b"5")
            client.ask(b"RSET", b"MAIL FROM:<a@b>")
            assert client.ask(b"RCPT TO:<x@elsewhere.example>").startswith(b"5")
            client.quit()
        with behind(server, header, "127.0.1.1") as refused:
            assert refused.rest() == b""
        assert ended(server)[0]["ip"] == "127.0.0.1"


def test_nor_any_that_everybody_has(home: Home) -> None:
    """Who is named has what the server itself was started with; a health check has not."""
    home.environ["RELAYCLIENT"] = ""
    with Server(home) as server:
        for sent, code in ((LOCAL, b"5"), (UNKNOWN, b"5"), (of(1), b"2")):
            with behind(server, sent) as client:
                client.reply()
                client.ask(b"HELO x", b"MAIL FROM:<a@b>")
                assert client.ask(b"RCPT TO:<x@elsewhere.example>").startswith(code)
                client.quit()


def test_the_limit_of_a_client(home: Home) -> None:
    """It counts who is behind the balancer, and not the balancer, nor who has no header yet."""
    run = patched("listener.LOOPBACK = ()")
    with Server(home, "-C", "2", run=run) as server:
        waiting = [server.client() for _ in range(5)]
        clients = [behind(server, of(number)) for number in (1, 1, 2, 2, 3)]
        for client in clients:
            assert client.reply() == GREETING
        with behind(server, of(1)) as more:
            assert more.reply() == b"421 too many connections from your address (#4.7.0)"
        (event,) = ended(server)
        assert (event["end"], event["ip"]) == ("too-many-connections", "198.51.100.1")
        clients[0].close()
        ended(server, 2)
        with behind(server, of(1)) as again:
            assert again.reply() == GREETING
        for client in (*waiting, *clients):
            client.close()


def test_names_are_those_of_the_client(home: Home) -> None:
    """Looked up in a process; so are rules by name."""
    cdb = make_rules(home.path / "rules.cdb", "=localhost:deny", ":allow")
    header = v1("TCP4", "127.0.0.1", "127.0.0.1", 4000, 25)
    with Server(home, "-h", "-x", str(cdb)) as server:
        with behind(server, header, "127.0.1.1") as refused:
            assert refused.rest() == b""
        with behind(server, IPV4, "127.0.0.1") as client:
            assert client.reply() == GREETING
            client.quit()
        assert [line.split()[0] for line in server.said() if line.split()[0] in ("ok", "deny")] == [
            *("deny", "ok")
        ]


def test_greetdelay_is_that_of_the_client(home: Home) -> None:
    home.control("greetdelay", "60")
    home.control("immune", "198.51.100.7")
    with Server(home) as server, behind(server, IPV4) as client, behind(server, of(9)) as other:
        assert client.reply() == GREETING
        assert server.children() == []
        other.send(b"QUIT\r\n")  # who talks early
        wait_for(server.children)


# -- what is refused -------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (b"EHLO x\r\n", "proxy-missing"),
        (b"PROXY TCP4 1 2 3 4\r\nQUIT\r\n", "proxy-malformed"),
        (V2 + b"\x21\x11\xff\xff", "proxy-malformed"),
    ],
)
def test_what_is_no_header(home: Home, sent: bytes, end: str) -> None:
    with Server(home) as server, behind(server, sent) as client:
        assert client.rest() == b""
        (event,) = ended(server)
        assert (event["end"], event["ip"], event["pid"]) == (end, "127.0.0.1", str(server.pid))
        (why,) = server.events("proxy")
        assert why["verdict"] == "refused" and why["reason"]
        assert server.children() == []


@pytest.mark.parametrize("sent", [b"", IPV4[:-1], V2])
def test_a_header_that_does_not_come(home: Home, sent: bytes) -> None:
    home.control("proxytimeout", "1")
    with Server(home) as server, server.early(sent) as client:
        assert client.rest() == b""
        (event,) = ended(server)
        assert event["end"] == "proxy-timeout" and 1 <= float(event["seconds"]) < 30
        assert event["bytes_in"] == str(len(sent))


def test_a_byte_at_a_time_has_the_same_time(home: Home) -> None:
    home.control("proxytimeout", "1")
    with Server(home) as server, server.client() as client:
        drip(client)
        assert client.rest() == b""
        assert ended(server)[0]["end"] == "proxy-timeout"


def test_a_health_check_leaves_no_warning(home: Home) -> None:
    with Server(home) as server:
        number = 0
        for sent in (b"", LOCAL, UNKNOWN, IPV4, IPV6):
            for reset in (False, True):
                client = behind(server, sent)
                if reset:
                    assert isinstance(client.socket, socket.socket)
                    linger = struct.pack("ii", 1, 0)
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.close()
                number += 1
                event = ended(server, number)[-1]
                assert event["end"] == "client-gone"
        assert server.events("proxy") == []
        assert "warning" not in server.log() and "trouble" not in server.log()


SILENT_CHECKS = [b"", LOCAL, UNKNOWN, IPV4]


@pytest.fixture
def implicit(home: Home) -> Home:
    SERVER.save(home.control_dir / "servercert.pem")
    home.environ["SMTPS"] = "1"
    return home


def test_a_health_check_where_tls_is_implicit(implicit: Home) -> None:
    """As one where it is not: no handshake has failed."""
    with Server(implicit) as server:
        for number, sent in enumerate(SILENT_CHECKS, 1):
            behind(server, sent).close()
            assert ended(server, number)[-1]["end"] == "client-gone"
        assert server.events("tls") == server.events("proxy") == []


@pytest.mark.parametrize("sent", SILENT_CHECKS)
def test_the_same_of_the_child(implicit: Home, sent: bytes) -> None:
    implicit.control("proxyhosts", "192.0.2.1")
    run = implicit.run(sent, over="socket")
    assert run.event("session")["end"] == "client-gone"
    assert run.events("tls") == run.events("proxy") == []


def test_too_many_headers_are_awaited(home: Home) -> None:
    """Who has been there longest makes room."""
    with Server(home, run=patched("limits.headers = lambda _: 3")) as server:
        clients = [behind(server, b"PROXY ") for _ in range(4)]
        assert clients[0].rest() == b""
        (event,) = ended(server)
        assert event["end"] == "no-room"
        for client in clients[1:]:
            client.send(IPV4[6:])
            assert client.reply() == GREETING
            client.close()


def test_headers_take_no_descriptor_of_others(home: Home) -> None:
    """Where there are few, fewer are awaited: held clients stay, and there are processes."""
    command = (needs("prlimit"), "--nofile=100:100")
    with Server(home, "--hold", "10", "-c", "5", command=command) as server:
        held = [server.client("127.0.2.1") for _ in range(10)]
        for client in held:
            assert client.reply() == GREETING
        silent = [server.client() for _ in range(60)]
        assert silent[0].rest() == b""
        with behind(server, of(1)) as client:
            assert client.reply() == GREETING
        for client in held[1:]:
            assert client.ask(b"QUIT") == b"221 mx.example"
        assert "cannot accept" not in server.log()
        ends = {event["end"] for event in server.events("session") if event["ip"] == "127.0.0.1"}
        assert ends == {"no-room"}


def test_the_end(home: Home) -> None:
    with Server(home) as server:
        clients = [behind(server, IPV4[:9]) for _ in range(3)]
        with behind(server, IPV4) as client:
            client.reply()
            server.signal(signal.SIGTERM)
            for each in clients:
                assert each.rest() == b""
        assert server.wait() == 0
        assert [event["end"] for event in server.events("session")] == ["shutdown"] * 4


# -- from anybody else -------------------------------------------------------------


@pytest.mark.parametrize("listed", ["127.0.0.2", None])
def test_an_unlisted_address_gains_nothing(home: Home, listed: str | None) -> None:
    cdb = make_rules(home.path / "rules.cdb", '198.51.:allow,RELAYCLIENT=""', ":allow")
    if listed is None:
        (home.control_dir / "proxyhosts").unlink()
    else:
        home.control("proxyhosts", listed)
    with Server(home, "-x", str(cdb)) as server:
        for number, header in enumerate((IPV4, IPV6, LOCAL, UNKNOWN), 1):
            with behind(server, header) as client:
                assert client.rest() == GREETING + b"\r\n"
            event = ended(server, number)[-1]
            assert (event["end"], event["ip"]) == ("not-smtp-proxy", "127.0.0.1")
            assert "proxy" not in event


@pytest.mark.parametrize("force", ["0", "1"])
def test_nor_by_pieces(home: Home, force: str) -> None:
    (home.control_dir / "proxyhosts").unlink()
    SERVER.save(home.control_dir / "servercert.pem")
    home.environ["FORCETLS"] = force
    with Server(home) as server, server.client() as client:
        assert client.reply() == GREETING
        for _ in range(2):
            assert client.ask(b"")[:4] == (b"530 " if force == "1" else b"502 ")
        client.send(LOCAL[4:])
        assert client.rest() == b""
        (event,) = ended(server)
        assert (event["end"], event["ip"]) == ("not-smtp-proxy", "127.0.0.1")


def test_a_rule_makes_nobody_a_balancer(home: Home) -> None:
    (home.control_dir / "proxyhosts").unlink()
    cdb = make_rules(home.path / "rules.cdb", ':allow,PROXYHOSTS="127.0.0.1"')
    with Server(home, "-x", str(cdb)) as server, behind(server, IPV4) as client:
        assert client.rest() == GREETING + b"\r\n"
    options = ["--check", "-H", "-x", str(cdb), "127.0.0.1", "0"]
    command = [str(BIN / "qsmtpd-server"), *options]
    checked = subprocess.run(command, env=listening(home), capture_output=True, text=True)
    assert "sets PROXYHOSTS, which no rule can" in checked.stdout


@pytest.mark.parametrize("entry", ["192.0.2.1/24", "balancer.example"])
def test_an_entry_that_is_none(home: Home, entry: str) -> None:
    """Nobody is served, whatever the rule says, until it is mended."""
    home.control("proxyhosts", entry)
    cdb = make_rules(
        home.path / "rules.cdb", '127.0.0.2:allow,PROXYHOSTS="",DATABYTES="1"', ":allow"
    )
    with Server(home, "-x", str(cdb)) as server:
        for source in ("127.0.0.1", "127.0.0.2"):
            with behind(server, IPV4, source) as client:
                assert client.reply() == b"421 unable to read controls (#4.3.0)"
        home.control("proxyhosts", "127.0.0.1")
        server.reload()
        with behind(server, IPV4) as client:
            assert client.reply() == GREETING


# -- TLS ---------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
def test_tls_begins_behind_the_header(home: Home, implicit: bool) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    home.environ["SMTPS"] = "1" if implicit else "0"
    with Server(home) as server, behind(server, IPV6) as client:
        if implicit:
            client.handshake(client_context(), "mx.example")
        assert client.reply() == GREETING
        if not implicit:
            client.starttls(client_context(), "mx.example")
        assert client.deliver().startswith(b"250 ok ")
        client.quit()
        assert ended(server)[0]["ip"] == "2001:db8::7"
    (message,) = home.messages()
    assert b"TLSv1.3" in message.text and b"(2001:db8::7)" in message.text


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("names", ["-H", "-h"])
def test_tls_in_front(home: Home, on: bool, names: str) -> None:
    """Of one client, and not of the next one in the same process."""
    home.control("proxytls", "on" if on else "off")
    home.environ["FORCETLS"] = "1"
    cdb = make_rules(home.path / "rules.cdb", "=nosuch.example:deny", ":allow")
    with Server(home, names, "-c", "1", "-x", str(cdb)) as server:
        for number, ssl in enumerate((SSL, None, b"\0" + SSL[1:], SSL), 1):
            more = b"" if ssl is None else vector(0x20, ssl)
            header = v2(0x11, "198.51.100.7", "203.0.113.25", 40000, 25, more)
            with behind(server, header) as client:
                client.reply()
                accepted = client.ask(*HELD) == b"250 ok"
                assert accepted == (on and ssl == SSL)
                client.ask(b"QUIT")
            ended(server, number)
        assert len(server.events("tls")) == 2 * on


@pytest.mark.parametrize("names", ["-H", "-h"])
def test_tls_in_front_that_does_not_count_is_not_told(home: Home, names: str) -> None:
    """Where a rule or a setting says so, no variable of it reaches a program."""
    seen = home.path / "seen"
    look = home.script(f"/usr/bin/env >>{seen}\n")
    home.environ["RCPTCHECK"] = look
    home.environ["QMAILQUEUE"] = home.script(f"/usr/bin/env >>{seen}\nexec {PROGRAMS / 'oracle'}")
    home.control("proxytls", "on")
    SERVER.save(home.control_dir / "servercert.pem")
    lines = [
        f'198.51.100.{n}:allow,QSMTPD_TLS="{how}"' for n, how in enumerate(("off", "starttls"))
    ]
    cdb = make_rules(home.path / "rules.cdb", "=nosuch.example:deny", *lines, ":allow")

    def told(server: Server, number: int) -> list[str]:
        """The variables of TLS in the environments of both programs."""
        seen.unlink(missing_ok=True)
        done = len(server.events("session"))
        address = f"198.51.100.{number}"
        header = v2(0x11, address, "203.0.113.25", 40000, 25, vector(0x20, SSL))
        with behind(server, header) as client:
            assert client.reply() == GREETING
            assert client.ask(b"EHLO x").startswith(b"250 ")
            assert client.deliver().startswith(b"250 ok ")
            client.quit()
        ended(server, done + 1)
        text = seen.read_text()
        assert text.count(f"TCPREMOTEIP={address}\n") == 2
        return sorted(line for line in text.splitlines() if line.startswith("SSL_"))

    with Server(home, names, "-c", "1", "-x", str(cdb)) as server:
        assert (
            told(server, 2)
            == ["SSL_CIPHER=TLS_AES_256_GCM_SHA384"] * 2 + ["SSL_PROTOCOL=TLSv1.3"] * 2
        )
        assert told(server, 0) == told(server, 1) == []
        assert len(server.events("tls")) == 1
    home.environ["QSMTPD_TLS"] = "off"
    with Server(home, names, "-x", str(cdb)) as server:
        assert told(server, 2) == []
