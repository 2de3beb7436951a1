"""qsmtpd-server's processes have everything: they import nothing and read no certificate."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
from certificates import Certificate
from harness import Home, needs, wait_for
from listeners import Server, make_rules, state
from tls_home import SERVER

pytestmark = pytest.mark.slow

CODE = re.compile(r"\.(py|pyc|so)(\.\d+)*$")


@pytest.mark.parametrize("options", [(), ("--spare", "2"), ("--sessions", "9")], ids=str)
def test_a_worker_opens_no_code(home: Home, options: tuple[str, ...]) -> None:
    """A plain session, one with everything: STARTTLS, SNI, AUTH, a message, and one refused."""
    SERVER.save(home.control_dir / "servercert.pem")
    folder = home.control_dir / "servercerts" / "other.example"
    folder.mkdir(parents=True)
    Certificate("other.example").save(folder / "servercert.pem")
    home.arguments = [str(Path(__file__).parent / "programs" / "checker"), "true"]
    home.environ |= {"SMTPAUTH": "+cram"}
    home.control("localiphost", "mx.example")
    trace = home.path / "trace"
    what = ["-e", "trace=open,openat,execve", "-o", str(trace)]
    strace = [needs("strace"), "-D", "-f", "-qq", *what]
    with Server(home, *options, command=strace) as server:
        # The port is printed when all is ready.
        before = len(trace.read_bytes())
        with server.client() as client:
            client.reply()
            client.ask(b"EHLO [192.0.2.7]")
            assert client.deliver(recipient=b"x@[127.0.0.1]").startswith((b"250 ", b"553 "))
            assert client.deliver().startswith(b"250 ")
            client.quit()
        with server.client() as client:
            client.reply()
            client.starttls(name="other.example")
            assert client.ask(b"EHLO x").startswith(b"250 ")
            assert client.ask(b"AUTH PLAIN AGpvZQBzZWNyZXQ=").startswith(b"235 ")
            assert client.deliver().startswith(b"250 ")
            assert client.ask(b"QUIT").startswith(b"221 ")
        with server.client() as client:
            client.reply()
            client.ask(b"MAIL FROM:<a@b>", b"RCPT TO:<x@ok.example>")
            client.send(b"BDAT 9 LAST\r\nbare\nLF\r\nGET / HTTP/1.1\r\n")
            assert client.reply()
            client.socket.sendall(b"x" * 20_000)
        wait_for(lambda: len(server.events("session")) == 3)
        with trace.open("rb") as stream:
            stream.seek(before)
            calls = stream.read().decode().splitlines()
    others = {line.split()[0] for line in calls if "execve(" in line}
    assert others
    opened = [
        line.split('"')[1]
        for line in calls
        if line.split()[0] not in others | {str(server.pid)} and "open" in line and '"' in line
    ]
    assert opened  # /proc/self/fd, at least
    assert not [path for path in opened if CODE.search(path) or path.endswith(".pem")]


def test_a_new_name_after_reload(home: Home) -> None:
    """A certificate for SNI that is put there later is found, at the latest after HUP."""
    SERVER.save(home.control_dir / "servercert.pem")

    def presented(name: str) -> str:
        with server.client() as client:
            client.reply()
            client.starttls(name=name)
            der = client.tls.getpeercert(binary_form=True)
            assert der is not None
            return ssl.DER_cert_to_PEM_cert(der)

    with Server(home) as server:
        first = presented("other.example")
        folder = home.control_dir / "servercerts" / "other.example"
        folder.mkdir(parents=True)
        Certificate("other.example").save(folder / "servercert.pem")
        server.reload()
        second = presented("other.example")
        Certificate("other.example").save(folder / "servercert.pem")
        server.reload()
        third = presented("other.example")
        assert len({first, second, third}) == 3


def test_settings_of_tls_per_client(home: Home) -> None:
    """A rule may still choose another certificate, or none, for some clients."""
    SERVER.save(home.control_dir / "servercert.pem")
    other = Certificate("other.example")
    other.save(home.path / "other.pem")
    cdb = make_rules(
        home.path / "rules.cdb",
        f'127.0.0.2:allow,SERVERCERT="{home.path}/other.pem"',
        '127.0.0.3:allow,UCSPITLS="-"',
        ":allow",
    )
    with Server(home, "--sessions", "100", "-c", "1", "-x", str(cdb)) as server:
        seen = []
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
            with server.client(address) as client:
                client.reply()
                client.starttls()
                seen.append(client.tls.getpeercert(binary_form=True))
        assert seen[0] == seen[2] != seen[1]
        with server.client("127.0.0.3") as client:
            client.reply()
            assert client.ask(b"STARTTLS").startswith(b"502 ")
        assert len({event["pid"] for event in server.events("tls")}) == 1


def test_a_warm_handshake_is_quick(home: Home) -> None:
    """Ten times a cold child's, says the benchmark; here, that it is not near it."""
    SERVER.save(home.control_dir / "servercert.pem")

    def session(reply: bytes) -> None:
        assert reply.startswith(b"220 ")

    with Server(home) as server:
        started = time.monotonic()
        for _ in range(10):
            with server.client() as client:
                session(client.reply())
                client.starttls()
        warm = time.monotonic() - started
    started = time.monotonic()
    for _ in range(3):
        talk = home.talk()
        session(talk.reply())
        assert talk.ask(b"STARTTLS") == b"220 Ready to start TLS (#5.7.0)"
        talk.hang_up()
    cold = time.monotonic() - started
    assert warm / 10 < cold / 3 / 3


def test_svc(home: Home) -> None:
    """TERM and CONT, as `svc -d` sends them; HUP, as `svc -h`."""
    with Server(home) as server:
        server.signal(signal.SIGHUP)
        wait_for(lambda: "anew" in server.log())
        assert state(server.pid) not in "Z?"
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        assert server.wait() == 0


def test_who_comes_while_others_are_accepted_is_greeted(home: Home) -> None:
    """150 at once, before the first is accepted: none is connected and then forgotten."""
    with Server(home, "-c", "200") as server:
        server.signal(signal.SIGSTOP)
        clients = []
        for _ in range(150):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
            clients.append(client)
        server.signal(signal.SIGCONT)
        for client in clients:
            client.settimeout(20)
            assert client.recv(999).startswith(b"220 ")
            client.close()
