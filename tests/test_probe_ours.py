"""starttls-probe against qsmtpd: every check is safe, whatever does STARTTLS."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from certificates import Certificate
from harness import BIN, Home, needs
from listeners import Listener
from probe_servers import PASSWORD, USER
from probing import assert_safe, stall
from tls_home import S6, SSLSERVER
from ucspitls import Helper

from qsmtpd.probe.check import Rating

pytestmark = pytest.mark.slow

SERVER = Certificate("127.0.0.1")


@pytest.fixture
def checked(home: Home) -> Home:
    """Everything that the probe looks at is switched on."""
    home.control("rcpthosts", "example.invalid")
    fields = (USER + b"\0" + PASSWORD + b"\0").hex()
    checker = home.script(f'[ "$(od -An -v -tx1 <&3 | tr -d " \\n")" = {fields} ]')
    home.arguments = [checker, "true"]
    home.environ.update(SMTPAUTH="", AUTHDELAY="0")
    for name in ("TCPREMOTEIP", "TCPREMOTEHOST", "PROTO"):
        del home.environ[name]
    return home


def test_tls_in_the_process(checked: Home) -> None:
    SERVER.save(checked.control_dir / "servercert.pem")
    for server in ([needs("tcpserver"), "-HRl0"], [BIN / "qsmtpd-server"]):
        program = [BIN / "qsmtpd"] if len(server) > 1 else []
        command = [*server, "-1", "127.0.0.1", "0", *program, *checked.arguments]
        with Listener(command, checked.environ, checked.path / "log") as listener:
            assert_safe(listener.port)
        short = {**checked.environ, "TLSTIMEOUT": "1"}
        with Listener(command, short, checked.path / "log") as listener:
            assert stall(listener.port) is Rating.SAFE


@contextmanager
def ucspi(home: Home, report: bytes, **environ: str) -> Iterator[int]:
    """A UCSPI-TLS server: for each connection a helper and a qsmtpd.  Its port."""
    certificate = SERVER.save(home.path / "certificate")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # the test is over
            helper = Helper(certificate, report)
            fds = helper.attach(client)
            process = subprocess.Popen(
                [BIN / "qsmtpd", *home.arguments],
                stdin=client.fileno(),
                stdout=client.fileno(),
                stderr=subprocess.DEVNULL,
                env={**home.environ, "UCSPITLS": "", **environ}
                | {k: str(v) for k, v in fds.items()},
                pass_fds=list(fds.values()),
            )
            client.close()
            for fd in fds.values():
                os.close(fd)
            helper.start(process)
            threading.Thread(target=process.wait, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("report", [SSLSERVER, S6], ids=["sslserver", "s6"])
def test_tls_by_a_helper(checked: Home, report: bytes) -> None:
    with ucspi(checked, report) as port:
        assert_safe(port)
    with ucspi(checked, report, TLSTIMEOUT="1") as port:
        assert stall(port) is Rating.SAFE
