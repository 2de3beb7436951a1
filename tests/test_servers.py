"""Real servers, real clients, a real queue program: mail arrives."""

from __future__ import annotations

import email.policy
import os
import shutil
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from child import Command
from harness import BIN, Home, needs, wait_for
from listeners import Listener

from qsmtpd.config.files import open_cdb

pytestmark = pytest.mark.slow


@pytest.fixture
def maildir(home: Home) -> Path:
    """qsmtpd-maildir is the queue program."""
    home.environ["QMAILQUEUE"] = str(BIN / "qsmtpd-maildir")
    home.environ["QSMTPD_MAILDIR"] = str(home.path / "Maildir")
    return home.path / "Maildir"


@pytest.fixture(params=["tcpserver", "qsmtpd-server"])
def listener(request: pytest.FixtureRequest, home: Home, maildir: Path) -> Iterator[Listener]:
    """Both ways in."""
    for name in list(home.environ):
        if name.startswith("TCP") or name == "PROTO":
            del home.environ[name]
    options = ["-1", "-v", "-l", "mx.example", "-c", "40"]
    if request.param == "tcpserver":
        # A run script as for daemontools: one exec line, the log on fd 2.
        run = home.path / "run"
        run.write_text(
            "#!/bin/sh\n"
            f"exec {needs('tcpserver')} {' '.join(options)} -HR 127.0.0.1 0 {BIN / 'qsmtpd'}\n"
        )
        run.chmod(0o755)
        command: list[str | Path] = [run]
    else:
        command = [BIN / "qsmtpd-server", *options, "127.0.0.1", "0"]
    with Listener(command, home.environ, home.path / "log") as running:
        yield running


def stored(maildir: Path) -> list[bytes]:
    assert list(maildir.glob("tmp/*")) == []
    return [path.read_bytes() for path in maildir.glob("new/*")]


@pytest.mark.interop
def test_swaks(listener: Listener, maildir: Path) -> None:
    to = ["--to", "x@ok.example,y@ok.example", "--from", "a@b.example"]
    server = ["--server", "127.0.0.1", "--port", str(listener.port)]
    done = subprocess.run(
        [needs("swaks"), *to, *server, "--body", "hello"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    (message,) = stored(maildir)
    assert message.startswith(
        b"Return-Path: <a@b.example>\nDelivered-To: x@ok.example\nDelivered-To: y@ok.example\n"
        b"Received: from "
    )
    assert b"hello\n" in message
    wait_for(lambda: "event=session" in listener.log())
    assert "verdict=accepted" in listener.log()
    assert "ip=127.0.0.1" in listener.log()


@pytest.mark.interop
def test_smtp_source(listener: Listener, maildir: Path) -> None:
    address = ["-f", "a@b.example", "-t", "x@ok.example", f"127.0.0.1:{listener.port}"]
    command: Command = [needs("smtp-source"), "-s", "4", "-m", "200", *address]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert len(stored(maildir)) == 200


def test_60_messages_byte_for_byte(listener: Listener, maildir: Path) -> None:
    sent = []
    policy = email.policy.SMTP
    for number in range(0, 180, 3):
        message = EmailMessage(policy)
        message["Subject"] = f"number {number}"
        message["From"], message["To"] = "a@b.example", "x@ok.example"
        lines = [f"{'.' * (number % 4)}line {n} {'é' * (n % 50)}" for n in range(number)]
        message.set_content("\n".join(lines), cte="8bit")
        sent.append(message.as_bytes())
    client = smtplib.SMTP("127.0.0.1", listener.port, local_hostname="me.example")
    for number, text in enumerate(sent):
        if number % 15 == 0:  # some in one session, some in sessions of their own
            client.quit()
            client = smtplib.SMTP("127.0.0.1", listener.port, local_hostname="me.example")
        client.sendmail("a@b.example", ["x@ok.example"], text)
    client.quit()
    # What was stored, without Return-Path, Delivered-To and the two lines of Received.
    found = [message.split(b"\n", 4)[4] for message in stored(maildir)]
    assert sorted(found) == sorted(text.replace(b"\r\n", b"\n") for text in sent)


def test_the_same_session_in_a_pipe(listener: Listener, home: Home) -> None:
    session = (
        b"EHLO me.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nRCPT TO:<x@no.example>"
        b"\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\nFOO\r\nQUIT\r\n"
    )
    with socket.create_connection(("127.0.0.1", listener.port), timeout=30) as client:
        client.sendall(session)
        heard = b""
        while part := client.recv(65536):
            heard += part
    piped = home.run(session)
    over_tcp = piped.__class__(heard, "", 0, [])
    assert over_tcp.lines == piped.lines
    assert piped.codes == [220, 250, 250, 250, 553, 354, 250, 502, 221]


def test_a_group_is_answered_in_one_write(home: Home, tmp_path: Path) -> None:
    recipients = b"".join(b"RCPT TO:<%d@ok.example>\r\n" % n for n in range(100))
    trace = tmp_path / "trace"
    wrapper = home.script(f'exec {needs("strace")} -qq -e trace=write -o {trace} "$QSMTPD"')
    run = home.run(
        [b"EHLO me\r\n", b"MAIL FROM:<a@b>\r\n" + recipients + b"RSET\r\n", b"QUIT\r\n"],
        program=wrapper,
        QSMTPD=str(BIN / "qsmtpd"),
    )
    assert run.status == 0
    writes = [line for line in trace.read_text().splitlines() if '"2' in line]
    assert [line.split('"')[1][:3] for line in writes] == ["220", "250", "250", "221"]


def test_limit_of_connections(home: Home, maildir: Path) -> None:
    command: Command = [BIN / "qsmtpd-server", "-1", "-v", "-c", "1", "127.0.0.1", "0"]
    with Listener(command, home.environ, home.path / "log") as listener:
        first = smtplib.SMTP("127.0.0.1", listener.port, local_hostname="me")
        assert first.noop() == (250, b"ok")
        with socket.create_connection(("127.0.0.1", listener.port)) as second:
            second.settimeout(30)
            assert second.recv(100) == b"220 mx.example ESMTP\r\n"
            second.sendall(b"NOOP\r\n")
            assert first.noop() == (250, b"ok")
            second.setblocking(False)
            with pytest.raises(BlockingIOError):  # it waits for a process
                second.recv(100)
            first.quit()
            second.setblocking(True)
            assert second.recv(100) == b"250 ok\r\n"
        assert "status: 1/1" in listener.log() and "status: 2/" not in listener.log()


@pytest.mark.parametrize(
    "arguments", [[], ["127.0.0.1"], ["-c", "x", "127.0.0.1", "0"], ["-Z", "127.0.0.1", "0"]]
)
def test_server_usage(home: Home, arguments: list[str]) -> None:
    assert home.run(b"", *arguments, program="qsmtpd-server").status == 111


def test_server_port_in_use(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run = home.run(b"", "127.0.0.1", str(taken.getsockname()[1]), program="qsmtpd-server")
    assert run.status == 111
    assert "cannot listen" in run.log


def test_a_cdb_made_by_others(tmp_path: Path) -> None:
    """tcprules writes the same format."""
    needs("tcprules")
    path = tmp_path / "rules.cdb"
    rules = b"".join(b'192.0.2.%d:allow,X="%d"\n' % (n, n) for n in range(1, 200))
    subprocess.run([str(shutil.which("tcprules")), path, tmp_path / "new"], input=rules, check=True)
    cdb = open_cdb("rules.cdb", os.fsencode(path))
    assert cdb is not None
    for n in range(1, 200):
        assert cdb.get(b"192.0.2.%d" % n) == b"+X=%d\0" % n
    assert cdb.get(b"192.0.2.200") is None
