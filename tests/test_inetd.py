"""Started by the two inetds of Debian and by stunnel: descriptors 0, 1 and 2 are the client."""

from __future__ import annotations

import os
import pwd
import re
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from client import PATIENCE
from harness import ROOT, Home, needs, wait_for
from ports import free_port
from run import parse_log
from tls_home import SERVER

pytestmark = pytest.mark.interop

#: What each reads, for a service that has no name.
INETD = "127.0.0.1:{port} stream tcp nowait {user} {run} run\n"
XINETD = """
service smtp
{{
    type = UNLISTED
    bind = 127.0.0.1
    port = {port}
    socket_type = stream
    protocol = tcp
    wait = no
    user = {user}
    server = {run}
}}
"""
#: In the foreground it would keep its own descriptor 2 for what it starts.
STUNNEL = """
pid = {run}.pid
syslog = no
[smtps]
accept = 127.0.0.1:{port}
cert = {certificate}
exec = {run}
"""
SERVERS = {
    "inetd": (INETD, ["-i"]),
    "xinetd": (XINETD, ["-dontfork", "-pidfile", "pid", "-f"]),
    "stunnel4": (STUNNEL, []),
}
#: qsmtpd, with another /dev/log.
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from qsmtpd.net import syslog
syslog.PATH = {syslog!r}
from qsmtpd.start import launch
launch({root!r} + "/", "qsmtpd.main", [{checker!r}, "true"])
"""


def connect(port: int, tls: bool) -> smtplib.SMTP | None:
    """A client, once there is a listener."""
    names = {"timeout": PATIENCE, "local_hostname": "me.example"}
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        if tls:
            return smtplib.SMTP_SSL("127.0.0.1", port, context=context, **names)  # type: ignore
        return smtplib.SMTP("127.0.0.1", port, **names)  # type: ignore[arg-type]
    except ConnectionRefusedError:
        return None


class Running:
    """One of SERVERS with qsmtpd behind it, all of whose programs write to descriptor 2."""

    def __init__(self, home: Home, program: str, path: Path, text: str | None) -> None:
        self.home = home
        self.tls = program == "stunnel4"
        self.port = free_port()
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.log.bind(str(path / "syslog"))
        self.log.settimeout(PATIENCE)
        noise = "echo noise >&2; echo noise >/proc/self/fd/2; "
        oracle = home.environ["QMAILQUEUE"]
        home.environ["QMAILQUEUE"] = home.script(f'{noise}exec "{oracle}"\n')
        home.environ |= {"SMTPAUTH": "", "AUTHCLEAR": "1"}
        if self.tls and text is None:
            home.environ["QSMTPD_TLS"] = "external"
        home.plugin(
            "noisy",
            """
            import os, subprocess, sys, warnings
            from qsmtpd.decision import DECLINED

            def mail(client, envelope):
                print("noise"); print("noise", file=sys.stderr, flush=True)
                os.write(2, b"noise"); os.write(1, b"noise")
                subprocess.run("echo noise; echo noise >&2", shell=True)
                warnings.warn("noise")
                return DECLINED

            def disconnect(client):
                raise ValueError("noise in the log")
            """,
        )
        home.control("plugins", "noisy")
        names = ("QMAILHOME", "QMAILQUEUE", "SPOOL", "SMTPAUTH", "AUTHCLEAR", "QSMTPD_TLS")
        environ = [f"{name}='{home.environ[name]}'" for name in names if name in home.environ]
        checker = home.script(f"{noise}exit 1\n")
        (path / "program").write_text(
            PROGRAM.format(root=str(ROOT), syslog=str(path / "syslog"), checker=checker)
        )
        run = path / "run"
        run.write_text(
            f"#!/bin/sh\nexec env {' '.join(environ)} '{sys.executable}' -IS '{path}/program'\n"
        )
        run.chmod(0o755)
        usual, options = SERVERS[program]
        user = pwd.getpwuid(os.geteuid()).pw_name
        certificate = SERVER.save(path / "certificate")
        (path / "configuration").write_text(
            (text or usual).format(port=self.port, user=user, run=run, certificate=certificate)
        )
        self.pid_file = path / "run.pid"
        self.process = subprocess.Popen(
            [needs(program), *options, path / "configuration"],
            cwd=path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def client(self) -> smtplib.SMTP:
        return wait_for(lambda: connect(self.port, self.tls))

    def line(self) -> tuple[str, dict[str, str]]:
        """The next line that syslog has been given: what is in front of it, and its fields."""
        head, _, line = self.log.recv(65536).decode().partition("]: ")
        return head, parse_log(line)

    def end(self) -> None:
        if self.tls:  # it has put itself into the background
            os.kill(int(wait_for(self.pid_file.read_text)), 15)
        else:
            self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()


@contextmanager
def running(home: Home, program: str, path: Path, text: str | None = None) -> Iterator[Running]:
    server = Running(home, program, path, text)
    try:
        yield server
    finally:
        server.end()


@pytest.mark.parametrize("program", SERVERS)
def test_the_client_hears_nothing_but_replies(home: Home, tmp_path: Path, program: str) -> None:
    """Of ours, of Python and of programs that we start; the log goes to syslog."""
    with running(home, program, tmp_path) as server:
        with server.client() as client:
            assert client.ehlo()[0] == 250
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("joe", "secret")
            client.sendmail("a@b.example", ["x@ok.example"], "Subject: x\r\n\r\nhi\r\n")
            assert client.docmd("NOOP") == (250, b"ok")
        events: list[tuple[str, dict[str, str]]] = []
        while not events or events[-1][1]["event"] != "session":
            events.append(server.line())
    names = {fields["event"] for _, fields in events}
    assert {"auth", "message", "session"} <= names
    for head, fields in events:
        assert re.fullmatch(r"<22>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d qsmtpd\[\d+", head)
        assert head.endswith("[" + fields["pid"])
        # stunnel says it; of a socket the kernel does; xinetd has the variable.
        assert fields["ip"] == "127.0.0.1"
    assert events[-1][1]["end"] == "quit"
    (message,) = home.messages()
    assert message.body == b"Subject: x\n\nhi\n"
    assert message.text.startswith(
        b"Received: from unknown (HELO me.example) (127.0.0.1)\n  by mx.e"
    )


@pytest.mark.parametrize("program", SERVERS)
def test_without_a_syslog(home: Home, tmp_path: Path, program: str) -> None:
    """And no traceback, where not even the program itself can be imported."""
    with running(home, program, tmp_path) as server:
        server.log.close()
        (tmp_path / "syslog").unlink()
        with server.client() as client:
            client.sendmail("a@b.example", ["x@ok.example"], "Subject: x\r\n\r\nhi\r\n")
            assert client.docmd("NOOP") == (250, b"ok")
        assert len(home.messages()) == 1
        program_text = (tmp_path / "program").read_text()
        broken = program_text.replace("launch(", 'sys.modules["qsmtpd.main"] = None; launch(')
        (tmp_path / "program").write_text(broken)
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
            server.client()


@pytest.mark.parametrize("program", SERVERS)
def test_the_examples(home: Home, tmp_path: Path, program: str) -> None:
    """They are read as they are, but for names, folders and ports."""
    name = {"inetd": "inetd", "xinetd": "xinetd", "stunnel4": "stunnel"}[program]
    text = (ROOT / f"man/examples/inetd/{name}.conf").read_text()
    user = pwd.getpwuid(os.geteuid()).pw_name
    certificate = SERVER.save(tmp_path / "certificate")
    for old, new in {
        "qmaild": user,
        "/usr/local/bin/qsmtpd qsmtpd": "{run} run",
        "/usr/local/bin/qsmtpd": "{run}",
        "/etc/ssl/private/mx.example.org.pem": str(certificate),
        "smtp stream": "127.0.0.1:{port} stream",
        "accept = 465": "accept = 127.0.0.1:{port}",
        "setgid = nofiles": "pid = {run}.pid\nsyslog = no",
        "service smtp\n{": "service smtp\n{{\ntype = UNLISTED\nbind = 127.0.0.1\nport = {port}",
        "disable = no\n}": "}}",
    }.items():
        text = text.replace(old, new)
    home.environ.pop("QSMTPD_TLS", None)
    with running(home, program, tmp_path, text) as server, server.client() as client:
        client.sendmail("a@b.example", ["x@ok.example"], "Subject: x\r\n\r\nhi\r\n")
    (message,) = home.messages()
    by = b"mx.example" if program == "inetd" else b"mx.example.org"
    assert b"\n  by %b with " % by in message.text
    assert (b"with ESMTPS" in message.text) == (program == "stunnel4")
