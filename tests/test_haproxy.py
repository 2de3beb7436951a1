"""HAProxy in front of qsmtpd and qsmtpd-server; swaks and curl, which send headers themselves."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from child import Command
from client import PATIENCE, Client, client_context
from harness import ROOT, Home, needs, wait_for
from listeners import Listener, Server, make_rules, patched, tcpserver
from ports import free_port
from tls_home import SERVER

pytestmark = [pytest.mark.interop, pytest.mark.slow]
GREETING = b"220 mx.example ESMTP"
#: Where HAProxy comes from; its clients come from other addresses.
BALANCER = "127.0.0.53"
RULES = ('127.0.0.77:allow,RELAYCLIENT=""', "127.0.0.78:deny", '127.0.0.53:allow,RELAYCLIENT=""')
VERSIONS = {"v1": "send-proxy", "v2": "send-proxy-v2"}
TIMES = "timeout connect 20s\n  timeout client 60s\n  timeout server 60s\n  timeout check 20s"


class Balancer:
    """A HAProxy with this configuration behind its defaults; a context manager."""

    def __init__(self, path: Path, configuration: str) -> None:
        file = path / "haproxy.cfg"
        file.write_text(f"defaults\n  mode tcp\n  log stderr local0\n  {TIMES}\n{configuration}\n")
        self.log = path / "haproxy.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [needs("haproxy"), "-db", "-f", file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Balancer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)


def connect(port: int, source: str = "127.0.0.1") -> Client:
    """A client at this address, once there is a HAProxy."""

    def try_it() -> Client | None:
        host = "::1" if ":" in source else "127.0.0.1"
        try:
            return Client(socket.create_connection((host, port), PATIENCE, (source, 0)))
        except ConnectionRefusedError:
            return None

    return wait_for(try_it)


@contextmanager
def behind(home: Home, kind: str, *options: str, run: object = None) -> Iterator[Listener]:
    """The server of this kind, whose rules are those of clients."""
    home.control("proxyhosts", BALANCER)
    cdb = make_rules(home.path / "clients.cdb", *RULES, ":allow")
    if kind == "warm":
        program = {} if run is None else {"run": run}
        with Server(home, "-x", str(cdb), *options, **program) as server:  # type: ignore[arg-type]
            yield server
    else:
        home.environ["PROXYRULES"] = str(cdb)
        with tcpserver(home, f'{BALANCER}:allow,RELAYCLIENT=""', ":deny") as server:
            yield server


def ended(server: Listener, number: int) -> None:
    """Wait for the end of so many sessions."""
    wait_for(lambda: len(server.events("session")) >= number)


def proxies(home: Home, server: Listener) -> tuple[Balancer, dict[tuple[str, int], int]]:
    """A HAProxy with a port for each version and family in front of a server."""
    ports = {(version, family): free_port() for version in VERSIONS for family in (4, 6)}
    text = ""
    for (version, family), port in ports.items():
        at = "127.0.0.1" if family == 4 else "[::1]"
        to = f"127.0.0.1:{server.port} {VERSIONS[version]} source {BALANCER}"
        text += f"listen {version}-{family}\n  bind {at}:{port}\n  server one {to}\n"
    return Balancer(home.path, text), ports


@pytest.mark.parametrize("tls", ["plain", "starttls", "implicit"])
@pytest.mark.parametrize("kind", ["child", "warm"])
def test_the_true_client(home: Home, kind: str, tls: str) -> None:
    """In the log, in Received, and for the rules: both versions, both families."""
    if tls != "plain":
        SERVER.save(home.control_dir / "servercert.pem")
    home.environ["SMTPS"] = "1" if tls == "implicit" else "0"
    with behind(home, kind) as server:
        balancer, ports = proxies(home, server)
        number = 0
        with balancer:
            for (_, family), port in ports.items():
                for source in ("127.0.0.77", "127.0.0.79") if family == 4 else ("::1",):
                    with connect(port, source) as client:
                        assert isinstance(client.socket, socket.socket)
                        own_port = client.socket.getsockname()[1]
                        if tls == "implicit":
                            client.handshake(client_context(), "mx.example")
                        assert client.reply() == GREETING
                        if tls == "starttls":
                            client.starttls(client_context(), "mx.example")
                        relayed = client.deliver(recipient=b"x@elsewhere.example")
                        assert relayed.startswith(b"250 ok " if source.endswith("77") else b"553 ")
                        client.ask(b"RSET")
                        assert client.deliver().startswith(b"250 ok ")
                        client.quit()
                    number += 1
                    ended(server, number)
                    event = server.events("session")[-1]
                    assert (event["ip"], event["port"]) == (source, str(own_port))
                    assert (event["proxy"], event["local_port"]) == (BALANCER, str(port))
                    message = home.messages()[-1]
                    assert f"({source})".encode() in message.text.partition(b"\n  by ")[0]
                    assert (b"TLSv1.3" in message.text) == (tls != "plain")
            if tls != "implicit":
                with connect(ports["v2", 4], "127.0.0.78") as refused:
                    assert refused.rest() == b""
        assert server.events("proxy") == []
    assert BALANCER not in b"".join(message.text for message in home.messages()).decode()


def test_the_limit_of_a_client(home: Home) -> None:
    run = patched("listener.LOOPBACK = ()")
    with behind(home, "warm", "-C", "2", run=run) as server:
        balancer, ports = proxies(home, server)
        with balancer:
            port = ports["v2", 4]
            clients = [connect(port, f"127.0.0.{n}") for n in (1, 1, 2, 2, 3, 3)]
            for client in clients:
                assert client.reply() == GREETING
            with connect(port, "127.0.0.2") as more:
                assert more.reply() == b"421 too many connections from your address (#4.7.0)"
            for client in clients:
                client.quit()


@pytest.mark.parametrize("kind", ["child", "warm"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("smtp", [True, False])
def test_health_checks(home: Home, kind: str, version: str, smtp: bool) -> None:
    """They succeed, and leave no warning: those that speak SMTP, and those that just connect."""
    with behind(home, kind) as server:
        to = f"127.0.0.1:{server.port} {VERSIONS[version]} source {BALANCER}"
        check = "check check-send-proxy inter 100ms rise 1 fall 1"
        more = "  option smtpchk EHLO balancer.example\n" if smtp else ""
        text = f"listen one\n  bind 127.0.0.1:{free_port()}\n{more}  server one {to} {check}\n"
        with Balancer(home.path, text) as balancer:
            wait_for(lambda: len(server.events("session")) >= 5)
            assert "is DOWN" not in balancer.log.read_text()
        ends = {event["end"] for event in server.events("session")[:5]}
        assert ends == ({"quit"} if smtp else {"client-gone"})
        # Version 1 says the ends of this very connection, version 2 that it is nobody's.
        assert {event["ip"] for event in server.events("session")[:5]} == {BALANCER}
        assert server.events("proxy") == server.events("trouble") == []
        assert "warning" not in server.log()


def test_tls_in_front(home: Home) -> None:
    """HAProxy does it, and says so; the cipher counts where proxytls is on."""
    home.control("proxytls", "on")
    home.environ["FORCETLS"] = "1"
    pem = SERVER.save(home.path / "haproxy.pem")
    port = free_port()
    with behind(home, "warm") as server:
        options = f"send-proxy-v2 proxy-v2-options ssl,ssl-cipher,crc32c source {BALANCER}"
        text = f"listen one\n  bind 127.0.0.1:{port} ssl crt {pem}\n"
        text += f"  server one 127.0.0.1:{server.port} {options}\n"
        with Balancer(home.path, text), connect(port) as client:
            client.handshake(client_context(), "mx.example")
            cipher = client.tls.cipher()
            assert client.reply() == GREETING
            assert client.deliver().startswith(b"250 ok ")
            client.quit()
        assert cipher is not None
        (event,) = server.events("tls")
        assert (event["protocol"], event["cipher"]) == ("TLSv1.3", cipher[0])


@pytest.mark.parametrize("kind", ["child", "warm"])
def test_swaks(home: Home, kind: str) -> None:
    """Both versions; from an address that is not listed it gains nothing."""
    with behind(home, kind) as server:
        for version, source in (("1", BALANCER), ("2", BALANCER), ("1", "127.0.0.1")):
            family = ("TCP4", "AF_INET")[version == "2"]
            command = [
                *(needs("swaks"), "-s", f"127.0.0.1:{server.port}", "-f", "a@b.example"),
                *("-t", "x@elsewhere.example", "--local-interface", source, "-n"),
                *("--proxy-version", version, "--proxy-family", family),
                *("--proxy-source", "127.0.0.77", "--proxy-source-port", "4000"),
                *("--proxy-dest", "203.0.113.25", "--proxy-dest-port", "25"),
            ]
            before = len(server.events("session"))
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
            assert (done.returncode == 0) == (source == BALANCER), done.stdout
            if kind == "child" and source != BALANCER:
                continue  # tcpserver's rules refuse it
            ended(server, before + 1)
            event = server.events("session")[-1]
            if source == BALANCER:
                assert (event["end"], event["ip"], event["port"]) == ("quit", "127.0.0.77", "4000")
            else:
                assert (event["end"], event["ip"]) == ("not-smtp-proxy", "127.0.0.1")
    assert len(home.messages()) == 2


def test_curl(home: Home) -> None:
    """It says the addresses that it has, and which are the balancer's then."""
    mail = home.file("mail", "Subject: x\r\n\r\nhi\r\n")
    with behind(home, "warm") as server:
        command: Command = [
            *(needs("curl"), "-sS", "--haproxy-protocol", "--interface", BALANCER, "-T", mail),
            *("--mail-from", "a@b.example", "--mail-rcpt", "x@ok.example"),
            f"smtp://127.0.0.1:{server.port}/me.example",
        ]
        subprocess.run(command, check=True, timeout=PATIENCE)
        wait_for(lambda: server.events("session"))
        (event,) = server.events("session")
        assert (event["end"], event["ip"], event["proxy"]) == ("quit", BALANCER, BALANCER)
    assert len(home.messages()) == 1


# -- the example -------------------------------------------------------------------


def test_the_example(home: Home) -> None:
    """As it is, but for addresses and ports, and without the other front ends."""
    SERVER.save(home.control_dir / "servercert.pem")
    text = (ROOT / "man/examples/haproxy/haproxy.cfg").read_text()
    port, secure = free_port(), free_port()
    with behind(home, "warm") as server:
        home.environ["SMTPS"] = "1"
        other = Home.__new__(Home)
        other.__dict__.update(home.__dict__)
        other.path = home.path / "other"
        other.path.mkdir()
        with Server(other) as implicit:
            changes = (
                ("0.0.0.0:25\n", f"127.0.0.1:{port}\n"),
                (":::25 v6only\n", f"[::1]:{port} v6only\n"),
                ("0.0.0.0:465\n", f"127.0.0.1:{secure}\n"),
                (":::465 v6only\n", f"[::1]:{secure} v6only\n"),
                ("192.0.2.21:25 ", f"127.0.0.1:{server.port} source {BALANCER} "),
                ("192.0.2.21:465 ", f"127.0.0.1:{implicit.port} source {BALANCER} "),
            )
            for old, new in changes:
                assert text.count(old) == 1, old
                text = text.replace(old, new)
            text = re.sub(r"(?m)^    server mx[23] .*\n", "", text)
            with Balancer(home.path, re.sub(r"(?s)^.*?\ndefaults\n.*?\n\n", "", text, count=1)):
                for source in ("127.0.0.79", "::1"):
                    with connect(port, source) as client:
                        assert client.reply() == GREETING
                        assert client.deliver().startswith(b"250 ok ")
                        client.quit()
                    with connect(secure, source) as client:
                        client.handshake(client_context(), "mx.example")
                        assert client.reply() == GREETING
                        client.quit()
                wait_for(lambda: any(e["ip"] == BALANCER for e in implicit.events("session")))
            ends = {e["end"] for e in server.events("session") + implicit.events("session")}
            assert ends == {"quit"}
            for each in (server, implicit):
                assert {"127.0.0.79", "::1"} <= {event["ip"] for event in each.events("session")}
