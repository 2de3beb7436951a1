"""starttls-probe against servers that mean no good: it ends in time, with a verdict."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from time import monotonic

import pytest
from probe_servers import Server, scripted

from qsmtpd.probe import runner
from qsmtpd.probe.check import Rating, exit_status
from qsmtpd.probe.checks import CHECKS
from qsmtpd.probe.probe import Probe
from qsmtpd.probe.protocol import SMTP
from qsmtpd.probe.target import Pace, Target

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
    target = Target(
        "127.0.0.1", port, SMTP, timeout=0.3, slow=0.3, user=b"u", recipient=b"r", pace=Pace(1000)
    )
    results = list(runner.run(target, CHECKS))
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
    assert monotonic() - start < 10


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


def test_a_server_that_complains_for_ever() -> None:
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

    (check,) = (check for check in CHECKS if check.name == "clear-after-failure")
    with scripted(complain) as server:
        target = Target("127.0.0.1", server.port, SMTP, timeout=0.1, pace=Pace(1000))
        start = monotonic()
        finding = check.run(Probe(target, []))
    assert finding.verdict is Rating.ODD
    assert monotonic() - start < 30


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert set(run(port)) == {Rating.UNTESTED}
