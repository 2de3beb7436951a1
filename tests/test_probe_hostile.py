"""starttls-probe against servers that mean no good: it ends in time, with a verdict."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from time import monotonic

import pytest
from probe_servers import Server, scripted
from probing import check, target

from qsmtpd.probe import connection, runner
from qsmtpd.probe.check import Rating, exit_status
from qsmtpd.probe.checks import CHECKS
from qsmtpd.probe.connection import Connection
from qsmtpd.probe.probe import Probe

#: Each conversation begins with what the probe waits for, and then goes wrong.
_OFFER = b"220 hello\r\n250-hello\r\n250 STARTTLS\r\n"

HOSTILE = {
    "closes": b"",
    "garbage": bytes(range(256)) * 16,
    "an endless line": b"220 " + b"x" * 100_000,
    "an endless reply": b"220-hello\r\n" * 10_000,
    "endless replies": b"220 hello\r\n" * 200_000,
    "no code": b"220\r\n2x0 hello\r\n",
    "a code beyond ASCII": "22\u0663 hello\r\n".encode(),
    "codes that differ": b"220-hello\r\n250 hello\r\n",
    "NUL": b"220 he\0llo\r\n250-hello\r\n250 STARTTLS\0\r\n",
    "STARTTLS and garbage": _OFFER + b"220 go\r\n" + b"\x16\x03\x03\xff\xff" + b"\xff" * 70_000,
    "STARTTLS and text": _OFFER + b"220 go\r\n" + b"250 surprise\r\n" * 5,
    "STARTTLS and an alert": _OFFER + b"220 go\r\n" + b"\x15\x03\x03\x00\x02\x02\x28",
}


def run(port: int) -> list[Rating]:
    results = list(runner.run(target(port, timeout=0.3, slow=0.3), CHECKS))
    assert exit_status(results) == 2
    return [result.finding.verdict for result in results]


def _say(data: bytes) -> Callable[[socket.socket, Server], None]:
    def serve(sock: socket.socket, server: Server) -> None:
        with contextlib.suppress(OSError), sock:
            sock.settimeout(2)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass

    return serve


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_servers(data: bytes) -> None:
    start = monotonic()
    with scripted(_say(data)) as server:
        verdicts = run(server.port)
    assert Rating.VULNERABLE not in verdicts
    assert monotonic() - start < 40


def test_a_silent_server_costs_few_timeouts() -> None:
    """Who did not answer the first check is not asked by the others."""
    kept = []
    with scripted(lambda sock, server: kept.append(sock)) as server:
        run(server.port)
    assert len(kept) <= 1
    for sock in kept:
        sock.close()


@pytest.mark.slow
def test_a_server_that_drips_bytes_is_left_at_the_deadline() -> None:
    def drip(sock: socket.socket, server: Server) -> None:
        with contextlib.suppress(OSError), sock:
            sock.settimeout(0.05)
            while True:
                sock.sendall(b"2")
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(1):
                        return

    start = monotonic()
    with scripted(drip) as server:
        run(server.port)
    assert monotonic() - start < 30


class Brief(Connection):
    """Its time ends soon after it has looked for a second complaint."""

    looked = 0

    def comes(self, seconds: float) -> bool:
        self.looked += 1
        if self.looked == 2:
            self._end = monotonic() + 0.5
        return super().comes(seconds)


def test_a_server_that_complains_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed handshake, a refusal more often than the probe looks for one."""

    def complain(sock: socket.socket, server: Server) -> None:
        with contextlib.suppress(OSError), sock:
            sock.settimeout(0.02)
            sock.sendall(_OFFER + b"220 go\r\n")
            while True:
                sock.sendall(b"500 x\r\n")
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(4096):
                        return

    monkeypatch.setattr(connection, "Connection", Brief)
    with scripted(complain) as server:
        start = monotonic()
        finding = check("clear-after-failure").run(Probe(target(server.port), []))
    assert finding.verdict is Rating.ODD
    assert monotonic() - start < 30


def test_nobody_there() -> None:
    with socket.socket() as nobody:  # it has a port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        assert set(run(nobody.getsockname()[1])) == {Rating.UNTESTED}
