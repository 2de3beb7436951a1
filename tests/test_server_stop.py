"""qsmtpd-server's end: who hears of it at once, who may finish, and what is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from client import Client
from harness import Home, needs, wait_for
from listeners import Server, gone, make_rules, patched
from test_shutdown import AT_WORK, IN_DATA, LAST

pytestmark = pytest.mark.slow
MAIL, RCPT, _ = IN_DATA
#: A process that is stopped when it is asked to end is not killed so soon.
LONG_GRACE = patched("master.GRACE = 60.0")


def told(client: Client) -> bool:
    """Has it heard, now and as the last thing, that the server ends?"""
    return client.rest() == LAST + b"\r\n"


@pytest.fixture
def slow(home: Home) -> Home:
    """Its queue program has all of the message, and waits to be told to go on."""
    os.mkfifo(home.spool / "go")
    home.environ["QMAILQUEUE"] = home.script(AT_WORK)
    return home


def at_work(home: Home, client: Client) -> None:
    """The client's message is with the queue program."""
    client.ask(*IN_DATA)
    client.send(b"x\r\n.\r\n")
    wait_for((home.spool / "at-work").exists)


@pytest.mark.parametrize("begun", [(), (b"EHLO x",), (MAIL, b"RSET"), (MAIL, RCPT, b"EHLO x")])
def test_finish_without_a_transaction(home: Home, begun: tuple[bytes, ...]) -> None:
    with Server(home, "--drain", "60") as server, server.client() as client:
        client.reply()
        client.ask(b"NOOP", *begun)
        (pid,) = server.children()
        os.kill(pid, signal.SIGUSR1)
        assert told(client)
        wait_for(lambda: server.events("session"))
        assert server.events("session")[0]["end"] == "shutdown"


@pytest.mark.parametrize("begun", [(MAIL,), (MAIL, RCPT)])
@pytest.mark.parametrize("last", [(b"RSET", b"250 flushed"), (b"HELO x", b"250 mx.example")])
def test_finish_within_a_transaction(
    home: Home, begun: tuple[bytes, ...], last: tuple[bytes, bytes]
) -> None:
    with Server(home, "--drain", "60") as server, server.client() as client:
        client.reply()
        client.ask(*begun)
        (pid,) = server.children()
        os.kill(pid, signal.SIGUSR1)
        assert client.ask(RCPT) == b"250 ok"
        assert client.ask(last[0]) == last[1]
        assert told(client)


@pytest.mark.parametrize("chunks", [False, True])
def test_finish_within_a_message(home: Home, chunks: bool) -> None:
    with Server(home, "--drain", "60") as server, server.client() as client:
        client.reply()
        client.ask(MAIL, RCPT)
        client.send(b"BDAT 1\r\nx" if chunks else b"DATA\r\n")
        assert client.reply()[:1] in b"23"
        (pid,) = server.children()
        os.kill(pid, signal.SIGUSR1)
        client.send(b"BDAT 2 LAST\r\n\r\n" if chunks else b"x\r\n.\r\n")
        assert client.reply().startswith(b"250 ok ")
        assert told(client)
        wait_for(lambda: gone(pid))
    assert len(home.messages()) == 1


def test_finish_while_the_queue_program_works(slow: Home) -> None:
    with Server(slow, "--drain", "60") as server, server.client() as client:
        client.reply()
        at_work(slow, client)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGTERM)  # nor does this cut it short
        (slow.spool / "go").write_text("\n")
        assert client.reply().startswith(b"250 ok ")
        assert told(client)
        assert server.wait() == 0
        assert server.events("message")[0]["verdict"] == "accepted"
        assert server.events("session")[0]["end"] == "shutdown"


def test_a_verdict_has_what_is_left_of_the_drain(slow: Home) -> None:
    with (
        Server(slow, "--drain", "1", run=LONG_GRACE) as server,
        server.client() as client,
    ):
        client.reply()
        at_work(slow, client)
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert client.reply() == b"451 qq timeout (#4.3.0)"
        assert time.monotonic() - started >= 1
        assert told(client)
        assert server.wait() == 0
        assert "ambiguous" in server.events("message")[0]
        assert server.events("session")[0]["end"] == "shutdown"


@pytest.mark.parametrize("options", [(), ("--sessions", "1"), ("--spare", "2")], ids=str)
def test_the_server_does_not_wait(slow: Home, options: tuple[str, ...]) -> None:
    """By default it has ended at once, and its processes finish by themselves."""
    with Server(slow, *options) as server:
        idle, begun, busy = (server.client() for _ in range(3))
        for client in (idle, begun, busy):
            assert client.reply().startswith(b"220 ")
        idle.ask(b"NOOP")
        begun.ask(MAIL)
        at_work(slow, busy)
        children = server.children()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert told(idle)
        assert begun.ask(b"RSET") == b"250 flushed"
        assert told(begun)
        (slow.spool / "go").write_text("\n")
        assert busy.reply().startswith(b"250 ok ")
        assert told(busy)
        for client in (idle, begun, busy):
            client.close()
        for pid in children:
            wait_for(lambda pid=pid: gone(pid))  # type: ignore[misc]
        assert [event["end"] for event in server.events("session")] == ["shutdown"] * 3
        assert server.events("message")[0]["verdict"] == "accepted"


def test_process_1_waits(home: Home) -> None:
    """By default: all others would end with it."""
    command = [needs("unshare"), "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no namespaces are to be had")
    with Server(home, command=command) as server, server.client() as idle, server.client() as begun:
        (first,) = server.children()
        try:
            assert begun.reply() == idle.reply() == b"220 mx.example ESMTP"
            begun.ask(MAIL)
            os.kill(first, signal.SIGTERM)
            assert told(idle)
            assert begun.ask(RCPT, b"RSET") == b"250 flushed"
            assert told(begun)
        finally:
            os.kill(first, signal.SIGTERM)  # the second: it waits no longer
        begun.close()
        assert server.wait() == 0
    assert {event["end"] for event in server.events("session")} == {"shutdown"}


# -- processes that end otherwise ------------------------------------------------------


def test_a_killed_process_is_logged_with_its_client(home: Home) -> None:
    with Server(home) as server, server.client() as one, server.client("127.0.0.2") as other:
        for client in (one, other):
            client.reply()
        assert other.ask(b"NOOP") == b"250 ok"
        (pid,) = server.children()
        assert one.ask(b"NOOP") == b"250 ok"
        os.kill(pid, signal.SIGKILL)
        assert other.rest() == b""
        event = wait_for(lambda: server.events("session"))[0]
        assert (event["end"], event["signal"]) == ("process-killed", "9")
        assert (event["pid"], event["ip"]) == (str(pid), "127.0.0.2")
        assert one.ask(b"NOOP") == b"250 ok"
        assert server.said()[-1] == "status: 1/40"


def test_a_process_that_hangs_is_killed(home: Home) -> None:
    """Far beyond the limits of its session; here, after a second, where the client is this one."""
    home.environ["QMAILQUEUE"] = home.script("kill -STOP $PPID\nexec cat >/dev/null\n")
    rules = make_rules(home.path / "rules.cdb", '127.0.0.2:allow,SOON=""', ":allow")
    longest = 'property(lambda plan: 1.0 if b"SOON" in plan.environ else 60.0)'
    run = patched(f"plan.Plan.longest = {longest}", package="qsmtpd.session")
    with Server(home, "-x", str(rules), run=run) as server:
        with server.client("127.0.0.2") as client:
            client.send(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n")
            event = wait_for(lambda: server.events("session"))[0]
            assert event["end"] == "process-hangs"
            assert f"pid {event['pid']} from 127.0.0.2" in server.said()
            client.rest()
        with server.client() as client:
            client.send(b"NOOP\r\nQUIT\r\n")
            assert client.rest().endswith(b"221 mx.example\r\n")
