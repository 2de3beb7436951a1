"""Small SMTP clients, for what smtp-source cannot do."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.place import RECIPIENT, SENDER
from bench.server import Failed

PATIENCE = 120.0
EHLO, QUIT = b"EHLO bench.example\r\n", b"QUIT\r\n"
MAIL, RCPT = f"MAIL FROM:<{SENDER}>\r\n".encode(), f"RCPT TO:<{RECIPIENT}>\r\n".encode()
HEADER = b"Subject: bench\r\n\r\n"
PROSE = b"It was a bright cold day in a far valley. The bells were ringing. "
MESSAGE_1K = HEADER + (b"x" * 62 + b"\r\n") * 16 + b".\r\n"
#: What a session says, and how the reply to it begins.
Session = Sequence[tuple[bytes, bytes]]
GREETING: Session = [(QUIT, b"221")]
REFUSED: Session = [
    (EHLO, b"250"),
    (MAIL, b"250"),
    (b"RCPT TO:<x@no.example>\r\n", b"5"),
    (QUIT, b"221"),
]
ACCEPTED: Session = [
    (EHLO, b"250"),
    (MAIL, b"250"),
    (RCPT, b"250"),
    (b"DATA\r\n", b"354"),
    (MESSAGE_1K, b"250"),
    (QUIT, b"221"),
]


def tls_context() -> ssl.SSLContext:
    """No verification of a certificate that nobody knows; no resumption: whole handshakes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.options |= ssl.OP_NO_TICKET
    return context


class Client:
    """A connection that has been greeted."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.expect(b"220")

    def expect(self, code: bytes) -> None:
        """Read a reply, which must have this code.  Raises Failed."""
        said = b""
        while True:
            data = self._socket.recv(4096)
            said += data
            if not data:
                raise Failed(f"hung up: {said!r}")
            lines = said.split(b"\r\n")
            if lines[-1] == b"" and lines[-2][3:4] != b"-":
                break
        if not said.startswith(code):
            raise Failed(f"said: {said.decode(errors='replace').strip()}")

    def say(self, line: bytes, code: bytes = b"250") -> None:
        """Send, and expect."""
        self._socket.sendall(line)
        self.expect(code)

    def starttls(self, context: ssl.SSLContext) -> None:
        """STARTTLS and the handshake."""
        self.say(EHLO)
        self.say(b"STARTTLS\r\n", b"220")
        self._socket = context.wrap_socket(self._socket)

    def session(self, said: Session) -> None:
        """All of it, and the server's end."""
        for line, code in said:
            self.say(line, code)
        while self._socket.recv(4096):
            pass

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def one_session(port: int, said: Session, context: ssl.SSLContext | None = None) -> None:
    """A session in a connection of its own; in TLS, if there is a context."""
    client = Client(port)
    try:
        if context is not None:
            client.starttls(context)
        client.session(said)
    finally:
        client.close()


def slowest(port: int, sessions: int, said: Session) -> float:
    """The 99th percentile of the seconds that such a session takes, one after the other."""
    took = []
    for _ in range(sessions):
        started = time.monotonic()
        one_session(port, said)
        took.append(time.monotonic() - started)
    return sorted(took)[(99 * sessions) // 100]


def python_load(
    port: int, sessions: int, at_a_time: int, said: Session, tls: bool = False
) -> tuple[float, float]:
    """That many sessions, from one process for each at a time: seconds, and our CPU seconds."""
    context = tls_context() if tls else None
    started = time.monotonic()
    children = []
    for number in range(at_a_time):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(number, sessions, at_a_time):
                    one_session(port, said, context)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    cpu, failed = 0.0, 0
    for pid in children:
        _, status, usage = os.wait4(pid, 0)
        cpu += usage.ru_utime + usage.ru_stime
        failed += status
    if failed:
        raise Failed("a session failed")
    return time.monotonic() - started, cpu


def large_message(megabytes: int, line: int) -> bytes:
    """So many MB (10^6 bytes) in lines of `line` bytes with CRLF, and the end of data.

    It is prose, which has dots: what a server does about them is in the time.
    """
    text = (PROSE * (line // len(PROSE) + 1))[: line - 2] + b"\r\n"
    return HEADER + text * (megabytes * 1_000_000 // line) + b".\r\n"


def send_large(port: int, message: bytes) -> float:
    """Send it in a connection of its own; the seconds from DATA to the last reply."""
    client = Client(port)
    try:
        for line in (EHLO, MAIL, RCPT):
            client.say(line)
        started = time.monotonic()
        client.say(b"DATA\r\n", b"354")
        client.say(message)
        seconds = time.monotonic() - started
        client.say(QUIT, b"221")
        return seconds
    except OSError as error:
        raise Failed(f"did not take it all: {error.strerror or error}") from error
    finally:
        client.close()


class Idle:
    """Connections that have said EHLO, in clear or in TLS, and wait; a context manager."""

    def __init__(self, port: int, number: int, tls: bool) -> None:
        context = tls_context() if tls else None

        def connect(_: int) -> Client:
            client = Client(port)
            if context is not None:
                client.starttls(context)
            client.say(EHLO)
            return client

        with ThreadPoolExecutor(8) as pool:  # a cold start is waited for: several at a time
            self._clients = list(pool.map(connect, range(number)))

    def __enter__(self) -> Idle:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
