"""The transport of a server's own sockets: deadlines by the kernel, and signals."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from qsmtpd import waits
from qsmtpd.facts import Shutdown
from qsmtpd.net.descriptors import Gone, Timeout
from qsmtpd.net.sockets import PATIENCE, SocketTransport, patient

SOON, LONG = 0.05, 20.0


@pytest.fixture
def pair() -> Iterator[tuple[SocketTransport, socket.socket, socket.socket]]:
    """(our transport, its socket, the client), through a listener that is patient."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        patient(listening)
        client = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    with ours, client:
        yield SocketTransport(ours.fileno()), ours, client


def timeval(ours: socket.socket, option: int) -> float:
    raw = ours.getsockopt(socket.SOL_SOCKET, option, 16)
    half = len(raw) // 2
    seconds, micro = (int.from_bytes(part, "little") for part in (raw[:half], raw[half:]))
    return seconds + micro / 1e6


def test_what_the_listener_has_is_inherited(pair) -> None:  # type: ignore[no-untyped-def]
    _, ours, _ = pair
    assert timeval(ours, socket.SO_RCVTIMEO) == timeval(ours, socket.SO_SNDTIMEO) == PATIENCE


def test_bytes_and_the_end(pair) -> None:  # type: ignore[no-untyped-def]
    transport, ours, client = pair
    client.sendall(b"QUIT\r\n")
    assert transport.read(monotonic() + LONG) == b"QUIT\r\n"
    transport.write(b"221 bye\r\n", monotonic() + LONG)
    assert client.recv(100) == b"221 bye\r\n"
    client.shutdown(socket.SHUT_WR)
    assert transport.read(monotonic() + LONG) == b""


def test_a_deadline(pair) -> None:  # type: ignore[no-untyped-def]
    transport, ours, _ = pair
    start = monotonic()
    with pytest.raises(Timeout):
        transport.read(start + SOON)
    assert SOON <= monotonic() - start < PATIENCE
    with pytest.raises(Timeout):  # one that has passed
        transport.read(start)


def test_a_deadline_that_has_passed_takes_what_is_there(pair) -> None:  # type: ignore[no-untyped-def]
    transport, _, client = pair
    client.sendall(b"x")
    assert transport.read(monotonic() - 1) == b"x"


def test_after_a_short_wait_the_next_is_a_long_one(pair) -> None:  # type: ignore[no-untyped-def]
    transport, ours, client = pair
    with pytest.raises(Timeout):
        transport.read(monotonic() + SOON)
    client.sendall(b"x")
    transport.read(monotonic() + 2 * PATIENCE)
    assert timeval(ours, socket.SO_RCVTIMEO) == PATIENCE


def test_who_does_not_read(pair) -> None:  # type: ignore[no-untyped-def]
    transport, ours, _ = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    start = monotonic()
    with pytest.raises(Timeout):
        transport.write(b"x" * 50_000_000, start + SOON)
    assert SOON <= monotonic() - start < PATIENCE


def test_a_reader_who_is_slow_gets_it_all(pair) -> None:  # type: ignore[no-untyped-def]
    transport, ours, client = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    text = os.urandom(3_000_000)
    got = bytearray()

    def read() -> None:
        while len(got) < len(text) and (part := client.recv(1 << 16)):
            got.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    transport.write(text, monotonic() + LONG)
    reader.join(LONG)
    assert got == text


def test_a_client_that_has_gone(pair) -> None:  # type: ignore[no-untyped-def]
    transport, ours, client = pair
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.close()  # a reset
    with pytest.raises(Gone):
        transport.read(monotonic() + LONG)
    with pytest.raises(Gone):
        transport.write(b"x", monotonic() + LONG)
    transport.drain(wait=True, rate=500)  # raises nothing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_wait(pair, number: int) -> None:  # type: ignore[no-untyped-def]
    _, ours, client = pair
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            waits.listen(finish=10.0)
            waits.begin_session()
            transport = SocketTransport(ours.fileno())
            os.write(writer, b"!")
            transport.read(monotonic() + 1200)
        except Shutdown:
            os._exit(7)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    while state(pid) != "S":  # it waits in the kernel
        pass
    start = monotonic()
    os.kill(pid, number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert monotonic() - start < PATIENCE / 2


def state(pid: int) -> str:
    """As ps(1) has it."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
