"""Started by the two inetds of Debian, of which only one can be installed at a time."""

from __future__ import annotations

import os
import pwd
import smtplib
import socket
import subprocess
from pathlib import Path

import pytest
from client import PATIENCE
from harness import BIN, Home, needs, wait_for

pytestmark = pytest.mark.interop

#: What each reads: one line, or a block, for a service that has no name.
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(port: int) -> smtplib.SMTP | None:
    """A client, once there is a listener."""
    try:
        return smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE, local_hostname="me.example")
    except ConnectionRefusedError:
        return None


@pytest.mark.parametrize(
    ("program", "text", "options", "ip"),
    [
        ("inetd", INETD, ["-i"], "unknown"),  # it says nothing of the client
        ("xinetd", XINETD, ["-dontfork", "-pidfile", "pid", "-f"], "127.0.0.1"),
    ],
    ids=["inetd", "xinetd"],
)
def test_a_message(
    home: Home, tmp_path: Path, program: str, text: str, options: list[str], ip: str
) -> None:
    log, run, configuration = (tmp_path / name for name in ("log", "run", "configuration"))
    environ = [f"{name}={home.environ[name]}" for name in ("QMAILHOME", "QMAILQUEUE", "SPOOL")]
    # inetd gives the connection as descriptor 2, too.
    run.write_text(f"#!/bin/sh\nexec env {' '.join(environ)} '{BIN / 'qsmtpd'}' 2>>{log}\n")
    run.chmod(0o755)
    port = free_port()
    user = pwd.getpwuid(os.geteuid()).pw_name
    configuration.write_text(text.format(port=port, user=user, run=run))
    server = subprocess.Popen(
        [needs(program), *options, configuration],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with wait_for(lambda: connect(port)) as client:
            client.sendmail("a@b.example", ["x@ok.example"], "Subject: x\r\n\r\nhi\r\n")
        wait_for(lambda: "event=session" in log.read_text())
    finally:
        server.terminate()
        server.wait(PATIENCE)
    assert f" ip={ip} end=quit " in log.read_text()
    (message,) = home.messages()
    assert message.body == b"Subject: x\n\nhi\n"
