"""The log of qsmtpd-server: what its descriptor 2 is, and whether anybody reads it."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from pathlib import Path

import pytest
from client import PATIENCE
from harness import BIN, Home

SESSIONS = 40


def run(home: Home, log: int, sessions: int = 1) -> bytes:
    """Serve clients that only say QUIT, one after the other; what the first heard."""
    with subprocess.Popen(
        [BIN / "qsmtpd-server", "-1", "-H", "127.0.0.1", "0"],
        env=home.environ,
        stdout=subprocess.PIPE,
        stderr=log,
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        heard = []
        for _ in range(sessions):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
                client.sendall(b"QUIT\r\n")
                with client.makefile("rb") as stream:
                    heard.append(stream.read())
        server.terminate()
    assert set(heard) == {heard[0]}
    return heard[0]


def test_a_file(home: Home, tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as log:
        assert run(home, log.fileno()) == b"220 mx.example ESMTP\r\n221 mx.example\r\n"
    assert (tmp_path / "log").read_text().count("event=session ") == 1


def test_a_pipe(home: Home) -> None:
    reader, writer = os.pipe()
    run(home, writer)
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    assert not flags & os.O_NONBLOCK, "others share this description"
    os.close(writer)
    assert os.read(reader, 65536).count(b"event=session ") == 1
    os.close(reader)


def test_a_pipe_that_nobody_reads(home: Home) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x")
    except BlockingIOError:
        os.set_blocking(writer, True)
    assert run(home, writer, SESSIONS).endswith(b"221 mx.example\r\n")
    os.close(writer)
    assert not os.read(reader, 1 << 20).strip(b"x")
    os.close(reader)


@pytest.mark.parametrize("closed", [False, True])
def test_a_socket(home: Home, closed: bool) -> None:
    ours, theirs = socket.socketpair()
    if closed:
        ours.close()
    with ours, theirs:
        run(home, theirs.fileno())
        if not closed:
            assert ours.recv(65536).count(b"event=session ") == 1
