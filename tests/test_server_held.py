"""Clients of qsmtpd-server that have no process: greeted, held, handed over, or ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from client import Client
from harness import BIN, Home, needs, wait_for
from listeners import Server, listening, make_rules, patched

pytestmark = pytest.mark.slow
GREETING = b"220 mx.example ESMTP"


def held(server: Server, source: str = "127.0.0.1") -> Client:
    """One that has been greeted."""
    client = server.client(source)
    assert client.reply() == GREETING
    return client


def session(server: Server) -> dict[str, str]:
    """The line of the first session that is over."""
    return wait_for(lambda: server.events("session"))[0]


def test_who_says_nothing_has_no_process(home: Home) -> None:
    with Server(home) as server:
        clients = [held(server) for _ in range(15)]
        clients[0].send(b"EHL")
        assert server.children() == []
        clients[0].send(b"O x\r\n")
        assert clients[0].lines()[-1].startswith(b"250 ")
        (pid,) = server.children()
        for client in clients:
            assert client.ask(b"QUIT") == b"221 mx.example"
            client.close()
        wait_for(lambda: len(server.events("session")) == 15)
        assert {(e["end"], e["bytes_out"] != "0") for e in server.events("session")} == {
            ("quit", True)
        }
        assert pid in server.children()


def test_a_line_byte_by_byte(home: Home) -> None:
    with Server(home) as server, held(server) as client:
        assert client.send_each(b"N", b"O", b"O", b"P", b"\r")
        assert server.children() == []
        client.send(b"\nQUIT\r\n")
        assert [client.reply(), client.reply()] == [b"250 ok", b"221 mx.example"]


@pytest.mark.parametrize("sent", [b"", b"EHLO without an end"])
@pytest.mark.parametrize("reset", [False, True])
def test_who_goes_without_a_line(home: Home, sent: bytes, reset: bool) -> None:
    with Server(home) as server, held(server) as client:
        client.send(sent)
        assert isinstance(client.socket, socket.socket)
        port = client.socket.getsockname()[1]
        if reset:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        event = session(server)
        assert event["end"] == "client-gone" and "reply" not in event
        assert (event["pid"], event["ip"]) == (str(server.pid), "127.0.0.1")
        assert (event["port"], event["local_port"]) == (str(port), str(server.port))
        assert event["bytes_out"] == str(len(GREETING) + 2)
        assert event["bytes_in"] == str(len(sent)) or reset
        assert server.children() == []


def test_the_line_has_what_a_rule_sets(home: Home) -> None:
    """As a session's: of who was greeted, who has no plan but waits, and in a process."""
    sets = 'TCPREMOTEIP="192.0.2.7",TCPREMOTEPORT="7",TCPLOCALIP="192.0.2.8"'
    rules = (f"127.0.0.1:allow,{sets}", f'127.0.0.2:allow,{sets},DATABYTES="x"', ":allow")
    cdb = make_rules(home.path / "rules.cdb", *rules)
    with Server(home, "-c", "1", "-x", str(cdb)) as server, held(server, "127.0.0.3") as busy:
        assert busy.ask(b"NOOP") == b"250 ok"
        held(server).close()
        wait_for(lambda: len(server.events("session")) == 1)
        waits = server.client("127.0.0.2")
        assert isinstance(waits.socket, socket.socket)
        waits.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        waits.close()
        wait_for(lambda: len(server.events("session")) == 2)
        busy.quit()
        server.session(b"QUIT")
        gone, without_plan, _, in_process = server.events("session")
        assert [gone["end"], without_plan["end"], in_process["end"]] == ["client-gone"] * 2 + [
            "quit"
        ]
        assert gone["pid"] == without_plan["pid"] == str(server.pid) != in_process["pid"]
        for event in (gone, without_plan, in_process):
            assert (event["ip"], event["port"]) == ("192.0.2.7", "7")
            assert (event["local_ip"], event["local_port"]) == ("192.0.2.8", str(server.port))


def test_who_has_sent_all_and_shut_down(home: Home) -> None:
    with Server(home) as server, held(server) as client:
        client.send(b"NOOP\r\nQUIT\r\n")
        assert isinstance(client.socket, socket.socket)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b"250 ok\r\n221 mx.example\r\n"


@pytest.mark.parametrize(
    ("setting", "reply", "end"),
    [
        ("timeoutsmtpd", b"421 timeout (#4.4.2)", "timeout"),
        ("sessiontimeout", b"421 session time limit reached (#4.4.2)", "session-limit"),
    ],
)
def test_time_limits(home: Home, setting: str, reply: bytes, end: str) -> None:
    """The word and the line in the log are those of a session."""
    home.control(setting, "1")
    with Server(home) as server:
        client = server.early(b"half")
        assert client.rest() == GREETING + b"\r\n" + reply + b"\r\n"
        event = session(server)
        assert (event["end"], event["reply"]) == (end, reply.decode())
        assert (event["pid"], event["bytes_in"]) == (str(server.pid), "4")
        cold = home.talk(ahead=b"half")
        assert [cold.reply(), cold.reply()] == [GREETING, reply]
        theirs = cold.ended().event("session")
        assert event.keys() == theirs.keys() | {"local_ip", "local_port", "port"}


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "not-smtp-tls"),
        (b"SSH-2.0-x", "not-smtp-ssh"),
        (b"GET / HTTP/1.1", "not-smtp-http"),
        (b"x" * 5000, "client-gone"),
    ],
)
def test_what_is_no_line(home: Home, sent: bytes, end: str) -> None:
    """It goes to a process without an LF."""
    with Server(home) as server, held(server) as client:
        client.send(sent)
        if end == "client-gone":
            assert client.reply() == b"500 line too long (#5.5.2)"
        else:
            client.rest()
        client.close()
        event = session(server)
        assert event["end"] == end and event["pid"] != str(server.pid)


# -- greetdelay --------------------------------------------------------------------


def test_a_delay_costs_no_process(home: Home) -> None:
    home.control("greetdelay", "1")
    with Server(home) as server:
        client = server.client()
        wait_for(lambda: sockets_of(server) == 2)  # accepted
        assert server.children() == []
        assert client.reply() == GREETING
        assert server.children() == []
        assert client.ask(b"NOOP") == b"250 ok"
        client.quit()
        assert float(session(server)["seconds"]) >= 1


def sockets_of(server: Server) -> int:
    links = [os.readlink(fd) for fd in Path(f"/proc/{server.pid}/fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.parametrize("drop", [False, True])
def test_who_talks_early(home: Home, drop: bool) -> None:
    """It has a process, whose filter judges it."""
    home.control("greetdelay", "-60" if drop else "1")
    with Server(home) as server, server.early(b"QUIT\r\n") as client:
        if drop:
            assert client.reply() == b"554 SMTP protocol violation (#5.5.1)"
        else:
            assert [client.reply(), client.reply()] == [GREETING, b"221 mx.example"]
        event = session(server)
        assert event["end"] == ("dropped-by-greetdelay" if drop else "quit")
        assert event["pid"] != str(server.pid)
        assert drop or 1 <= float(event["seconds"]) < 50


def test_who_need_not_wait_does_not(home: Home) -> None:
    home.control("greetdelay", "60")
    home.control("immune", "127.0.0.2")
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.3:allow,RELAYCLIENT=""', ":allow")
    with Server(home, "-x", str(cdb)) as server:
        for address in ("127.0.0.2", "127.0.0.3"):
            held(server, address).close()
        assert server.children() == []


# -- who needs a process at once -----------------------------------------------------


def test_a_plugin_at_connect(home: Home) -> None:
    home.plugin(
        "mine",
        "from qsmtpd.decision import *\ndef connect(client):\n"
        "    return reject(b'not you', 554, b'5.7.1')\n",
    )
    home.control("plugins", "mine", "rcpthosts")
    with Server(home) as server, server.client() as client:
        assert client.reply() == b"554 not you (#5.7.1)"


def test_a_plugin_elsewhere_does_not_matter(home: Home) -> None:
    home.plugin("mine", "from qsmtpd.decision import *\ndef mail(client, e): return DECLINED\n")
    home.control("plugins", "mine", "rcpthosts")
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.2:allow,DATABYTES="5"', ":allow")
    with Server(home, "-x", str(cdb)) as server:
        for address in ("127.0.0.1", "127.0.0.2"):
            with held(server, address):
                assert server.children() == []


@pytest.mark.parametrize("names", ["-h", "-H"])
def test_rules(home: Home, names: str) -> None:
    """By address they cost no process; by name, with -h, they do."""
    cdb = make_rules(home.path / "rules.cdb", "127.0.0.2:deny", ":allow")
    with Server(home, names, "-x", str(cdb)) as server:
        with held(server), server.client("127.0.0.2") as refused:
            assert refused.reply() == b""
            assert server.children() == []
        make_rules(cdb, "127.0.0.2:deny", "=nosuch.example:deny", ":allow")
        with held(server):
            assert len(server.children()) == (names == "-h")


# -- limits ------------------------------------------------------------------------


def test_first_come_first_served(home: Home) -> None:
    """Also who can have its greeting only from a process."""
    home.plugin("mine", "from qsmtpd.decision import *\ndef connect(client): return DECLINED\n")
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.2:allow,QSMTPD_PLUGINS="mine"', ":allow")
    with Server(home, "-c", "1", "-x", str(cdb)) as server, held(server) as first:
        assert first.ask(b"NOOP") == b"250 ok"
        silent = held(server)
        waiting = []
        for number, source in enumerate(("127.0.0.1", "127.0.0.2", "127.0.0.3")):
            client = server.client(source)
            if source != "127.0.0.2":
                assert client.reply() == GREETING
                assert client.send_each(b"HELO a%d\r\n" % number)
            waiting.append(client)
            wait_for(lambda: sockets_of(server) == 3 + len(waiting))
        first.quit()
        for client in waiting:
            assert client.reply() == (GREETING if client is waiting[1] else b"250 mx.example")
            assert client.ask(b"QUIT") == b"221 mx.example"
            client.close()
        assert silent.ask(b"QUIT") == b"221 mx.example"
        wait_for(lambda: len(server.events("session")) == 5)
        ips = [event["ip"] for event in server.events("session")]
        assert ips == ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"]
        assert "status: 2/1" not in server.said()


def test_a_full_hold(home: Home) -> None:
    """Who has been there longest without a line makes room; who waits for a process does not."""
    with Server(home, "-c", "1", "--hold", "3") as server, held(server) as busy:
        assert busy.ask(b"NOOP") == b"250 ok"
        speaks = held(server)
        assert speaks.send_each(b"NOOP\r\n")
        one, two = held(server), held(server)
        three = held(server)
        assert one.rest() == b"421 too many connections, try again later (#4.3.2)\r\n"
        event = session(server)
        assert (event["end"], event["pid"]) == ("no-room", str(server.pid))
        for client in (two, three):
            assert client.send_each(b"NOOP\r\n")
        late = server.client()  # all of them wait: it is not accepted
        late.send(b"QUIT\r\n")
        busy.quit()
        for client in (speaks, two, three):
            assert client.reply() == b"250 ok"
            client.quit()
        assert [late.reply(), late.reply()] == [GREETING, b"221 mx.example"]


def test_nobody_is_held(home: Home) -> None:
    with Server(home, "-c", "1", "--hold", "0") as server, held(server) as client:
        assert len(server.children()) == 1
        other = server.client()
        other.send(b"QUIT\r\n")
        client.quit()
        assert [other.reply(), other.reply()] == [GREETING, b"221 mx.example"]


def test_no_process_in_time(home: Home) -> None:
    run = patched("held.PATIENCE = 0.2")
    with Server(home, "-c", "1", run=run) as server, held(server) as busy, held(server) as other:
        assert busy.ask(b"NOOP") == b"250 ok"
        other.send(b"NOOP\r\n")
        assert other.rest() == b"421 no process for you now, try again later (#4.3.2)\r\n"
        assert session(server)["end"] == "no-process"
        assert busy.ask(b"NOOP") == b"250 ok"


def test_the_limit_of_a_client_counts_both(home: Home) -> None:
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.2:allow,RELAYCLIENT=""', ":allow")
    run = patched("listener.LOOPBACK = ()")
    with Server(home, "-C", "2", "-x", str(cdb), run=run) as server:
        one, two = held(server), held(server)
        assert one.ask(b"NOOP") == b"250 ok"
        with server.client() as third:
            assert third.reply() == b"421 too many connections from your address (#4.7.0)"
        others = [held(server, "127.0.0.2") for _ in range(3)]  # who may relay has no limit
        two.close()
        wait_for(lambda: len(server.events("session")) == 2)
        held(server).close()
        for client in (one, *others):
            client.close()


def test_clients_of_this_machine_have_no_limit(home: Home) -> None:
    with Server(home, "-C", "1") as server:
        for client in [held(server) for _ in range(3)]:
            assert client.ask(b"QUIT") == b"221 mx.example"


def test_one_after_the_other(home: Home) -> None:
    """With -C 1: the end of the one before is heard first."""
    run = patched("listener.LOOPBACK = ()")
    with Server(home, "-C", "1", run=run) as server:
        for _ in range(50):
            with server.client() as client:
                assert client.reply() == GREETING
                client.ask(b"QUIT")
                assert client.rest() == b""


def test_a_hard_limit_of_descriptors_that_is_too_low(home: Home) -> None:
    """As many are held as it leaves room for, and that is said, also by --check."""
    command = (needs("prlimit"), "--nofile=90:90")
    options = ("--hold", "20", "-c", "9")
    warning = "the limit of 90 descriptors is too low for --hold 20"
    with Server(home, *options, command=command) as server:
        assert f"warning: {warning}: 17 are held at most" in server.said()
        clients = [held(server) for _ in range(18)]
        assert clients[0].rest() == b"421 too many connections, try again later (#4.3.2)\r\n"
        assert clients[1].ask(b"NOOP") == b"250 ok"
        assert session(server)["end"] == "no-room"
    program = [*command, str(BIN / "qsmtpd-server"), "--check", "-H", *options, "127.0.0.1", "0"]
    checked = subprocess.run(program, env=listening(home), capture_output=True, text=True)
    assert warning in checked.stdout + checked.stderr


# -- HUP, and the end --------------------------------------------------------------


def test_hup(home: Home) -> None:
    """Who has been greeted stays, and is served by what is new."""
    with Server(home) as server, held(server) as client:
        home.control("me", "new.example")
        server.reload()
        assert client.ask(b"HELO x") == b"250 new.example"
        client.quit()


@pytest.mark.parametrize("drain", ["0", "60"])
def test_term(home: Home, drain: str) -> None:
    """They are told at once; as a session is."""
    with Server(home, "--drain", drain) as server:
        clients = [held(server) for _ in range(3)]
        clients[0].send(b"NOO")
        server.signal(signal.SIGTERM)
        for client in clients:
            assert client.rest() == b"421 shutting down, try again later (#4.3.2)\r\n"
        assert server.wait() == 0
        events = server.events("session")
        assert [event["end"] for event in events] == ["shutdown"] * 3
        assert {event["pid"] for event in events} == {str(server.pid)}


def test_descriptors_of_others(home: Home) -> None:
    """A process has nothing of those who are held, however many."""
    with Server(home) as server, held(server) as client:
        others = [held(server) for _ in range(50)]
        others.pop(20).close()
        wait_for(lambda: server.events("session"))
        assert client.ask(b"NOOP") == b"250 ok"
        (pid,) = server.children()
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        assert sum(link.startswith("socket:") for link in links) == 2  # its client, its control
        assert not [link for link in links if "epoll" in link]
