"""qsmtpd-server --protocol qmtp and qmqp: many clients in warm processes."""

from __future__ import annotations

import os
import signal

import pytest
from client import Client, client_context
from harness import PROGRAMS, Home, wait_for
from listeners import Server, make_rules, patched
from netstrings import MESSAGE, handed, package, verdicts
from run import parse_events
from tls_home import SERVER

from qsmtpd.qmtp.qmqp import Qmqp
from qsmtpd.qmtp.qmtp import Qmtp
from qsmtpd.server import rehearsal
from qsmtpd.session.dialogue import Smtp
from qsmtpd.session.protocol import Conversation

ORACLE = PROGRAMS / "oracle"
NOT_LISTED = b"Zsorry, you are not one of the clients of this server (#4.7.1)"


def answer(client: Client) -> bytes:
    """The next verdict, with what is masked in it; client.rest() has it once more."""
    said = client.socket.recv(1000)
    (verdict,) = verdicts(said)
    return verdict


def busy(server: Server, number: int) -> None:
    """Wait until so many are being served."""
    wait_for(lambda: f"status: {number}/" in server.log() and server.busy() == number)


def sessions(server: Server, number: int) -> list[dict[str, str]]:
    """The lines of so many sessions that are over."""
    wait_for(lambda: len(server.events("session")) == number)
    return server.events("session")


def test_one_after_the_other_in_one_process(home: Home) -> None:
    """The second client has nothing of the first: neither its rights nor its envelope."""
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.9:allow,RELAYCLIENT=".hub"', ":allow")
    with Server(home, "--protocol", "qmtp", "-c", "1", "-x", str(cdb)) as server:
        for source, verdict in (("127.0.0.9", b"Kok"), ("127.0.0.1", b"Dsorry, that domain")):
            with server.client(source) as client:
                client.send(package(b"x@no.example") + package(b"y@ok.example", sender=b""))
                client.end_input()
                first, second = verdicts(client.rest())
                assert first.startswith(verdict)
                assert second == b"Kok"
        wait_for(lambda: len(server.events("session")) == 2)
        (pid,) = {event["pid"] for event in server.events("session")}
        assert int(pid) in server.children()
    assert [(m.sender, m.recipients) for m in home.messages()] == [
        (b"a@b.example", [b"x@no.example.hub"]),
        (b"", [b"y@ok.example.hub"]),
        (b"", [b"y@ok.example"]),
    ]
    assert {m.body for m in home.messages()} == {MESSAGE}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["qmtp", "qmqp"])
def test_tls_from_the_first_byte(home: Home, protocol: str) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    home.control("qmqpclients", "127.0.0.1")
    home.environ["SMTPS"] = "1"
    data = package(b"x@ok.example") if protocol == "qmtp" else handed(b"x@ok.example")
    with Server(home, "--protocol", protocol) as server:
        for _ in range(2):
            with server.client() as client:
                client.handshake(client_context())
                client.send(data)
                assert answer(client) == b"Kok"
        sessions(server, 2)
    assert [b" tls TLS_AES" in m.text for m in home.messages()] == [True, True]


@pytest.mark.slow
def test_who_says_nothing_has_no_process(home: Home) -> None:
    with Server(home, "--protocol", "qmtp", "--hold", "2") as server:
        first, second = server.client(), server.client()
        second.send(b"1")
        wait_for(lambda: len(server.children()) == 1)
        third = server.client()
        fourth = server.client()  # the first one makes room for it
        assert first.rest() == b""
        wait_for(lambda: server.events("session"))
        gone = server.events("session")[0]
        assert (gone["end"], gone["proto"], gone["bytes_out"]) == ("no-room", "QMTP", "0")
        assert "reply" not in gone
        for client in (third, fourth):
            client.send(package(b"x@ok.example"))
            assert answer(client) == b"Kok"
        second.close()
        third.close()
        fourth.close()


def test_who_may_use_qmqp(home: Home) -> None:
    home.control("qmqpclients", "127.0.0.8/29")
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.99:allow,QMQPCLIENT=""', ":allow")
    with Server(home, "--protocol", "qmqp", "-c", "1", "-x", str(cdb)) as server:
        for source, listed in (
            ("127.0.0.9", True),
            ("127.0.0.1", False),
            ("127.0.0.15", True),
            ("127.0.0.16", False),
            ("127.0.0.99", True),
            ("127.0.0.1", False),
        ):
            with server.client(source) as client:
                if listed:
                    client.send(handed(b"x@no.example"))
                assert verdicts(client.rest()) == [b"Kok" if listed else NOT_LISTED], source
        ends = sessions(server, 6)
        assert [event["end"] for event in ends] == ["quit", "not-listed"] * 3
        assert len({event["pid"] for event in ends}) == 1
        # On HUP another list, and a damaged one is not taken.
        home.control("qmqpclients", "127.0.0.1")
        server.reload()
        with server.client() as client:
            client.send(handed(b"x@no.example"))
            assert verdicts(client.rest()) == [b"Kok"]
        home.control("qmqpclients", "127.0.0")
        server.signal(signal.SIGHUP)
        wait_for(lambda: "not read anew: control/qmqpclients: line 1" in server.log())
        with server.client() as client:
            client.send(handed(b"x@no.example"))
            assert verdicts(client.rest()) == [b"Kok"]
    assert len(home.messages()) == 5


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["smtp", "qmtp", "qmqp"])
def test_what_was_to_be_spoken_is_in_the_log(home: Home, protocol: str) -> None:
    """Where nobody can be served, by all settings or by those of a rule."""
    proto = None if protocol == "smtp" else protocol.upper()
    cdb = make_rules(home.path / "rules.cdb", '127.0.0.9:allow,DATABYTES="x"', ":allow")
    home.control("maxrecipients", "many")
    for source in ("127.0.0.1", "127.0.0.9"):
        with Server(home, "--protocol", protocol, "-x", str(cdb)) as server:
            with server.client(source) as client:
                client.rest()
            (event,) = sessions(server, 1)
            assert (event["end"], event.get("proto")) == ("control", proto)
        home.control("maxrecipients", "100")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["qmtp", "qmqp"])
def test_a_process_that_is_killed(home: Home, protocol: str) -> None:
    home.control("qmqpclients", "127.0.0.1")
    with Server(home, "--protocol", protocol) as server, server.client() as client:
        client.send(b"1")
        busy(server, 1)
        (pid,) = wait_for(server.children)
        os.kill(pid, signal.SIGKILL)
        assert client.rest() == b""
        (event,) = sessions(server, 1)
        assert (event["end"], event["proto"]) == ("process-killed", protocol.upper())


@pytest.mark.slow
def test_more_connections_than_one_address_may_have(home: Home) -> None:
    """There is no limit for who is listed in QMQP."""
    home.control("qmqpclients", "127.0.0.5")
    run = patched("listener.LOOPBACK = ()")
    for protocol, expected in (("qmqp", 3), ("qmtp", 1)):
        with Server(home, "--protocol", protocol, "-C", "1", run=run) as server:
            clients = [server.client("127.0.0.5") for _ in range(3)]
            for client in clients:
                client.send(b"1")
            if expected == 1:
                wait_for(lambda: len(server.events("session")) == 2)
                said = server.events("session")
                assert {event["end"] for event in said} == {"too-many-connections"}
                assert [client.rest() for client in clients[1:]] == [b"", b""]
            busy(server, expected)
            for client in clients:
                client.close()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["qmtp", "qmqp"])
def test_term(home: Home, protocol: str) -> None:
    """Who is between two packages leaves; whose message the queue program has, has a verdict."""
    home.control("qmqpclients", "127.0.0.1")
    go, started = home.path / "go", home.path / "started"
    os.mkfifo(go)
    home.environ["QMAILQUEUE"] = home.script(f"{ORACLE} && echo >{started} && read x <{go}\n")
    data = package(b"x@ok.example") if protocol == "qmtp" else handed(b"x@ok.example")
    with Server(home, "--protocol", protocol, "--drain", "30", "--spare", "1") as server:
        idle, sender = server.client(), server.client()
        sender.send(data)
        wait_for(started.exists)
        server.signal(signal.SIGTERM)
        expected = [] if protocol == "qmtp" else [b"Zshutting down, try again later (#4.3.2)"]
        assert verdicts(idle.rest()) == expected
        go.write_bytes(b"\n")
        assert verdicts(sender.rest()) == [b"Kok"]
        assert server.wait() == 0
    assert len(home.messages()) == 1
    ends = sorted(event["end"] for event in server.events("session"))
    assert ends == (["shutdown", "shutdown"] if protocol == "qmtp" else ["quit", "shutdown"])


@pytest.mark.slow
def test_options(home: Home) -> None:
    for words, said in (
        (["--protocol", "lmtp"], "usage error: --protocol wants one of smtp, qmtp, qmqp"),
        (["--protocol", "qmtp"], "usage error: 'cat': this protocol has no AUTH"),
    ):
        run = home.run(b"", *words, "127.0.0.1", "0", "cat", program="qsmtpd-server")
        assert run.status == 111
        assert f"qsmtpd-server: {said}" in run.log.splitlines()
    command = ["--check", "--quiet", "--protocol", "qmqp", "127.0.0.1", "0"]
    run = home.run(b"", *command, program="qsmtpd-server")
    assert b"wrong: control/qmqpclients: is missing, so every client is refused" in run.out
    assert run.status == 1
    cdb = make_rules(home.path / "rules.cdb", '192.0.2.1:allow,QMQPCLIENT=""', ":deny")
    run = home.run(b"", "-x", str(cdb), *command, program="qsmtpd-server")
    assert run.status == 0, run.out


@pytest.mark.parametrize("protocol", [Smtp, Qmtp, Qmqp])
def test_rehearsals(monkeypatch: pytest.MonkeyPatch, protocol: type[Conversation]) -> None:
    """What a server does before it has clients are whole sessions of its own protocol."""
    lines: list[bytes] = []

    def write(_: object, line: bytes) -> bool:
        lines.append(line)
        return True

    monkeypatch.setattr(rehearsal._Nothing, "write", write)
    rehearsal.serve_some(protocol)
    events = parse_events(b"\n".join(lines).decode())
    ended = [event for event in events if event["event"] == "session"]
    assert len(ended) == 16
    for event in ended:
        assert (event["end"], event["refused"], event["messages"]) == ("quit", "1", "0")
    refused = [event for event in events if event["event"] == "refused"]
    assert {event["command"] for event in refused} == {"RCPT"} and len(refused) == 16
