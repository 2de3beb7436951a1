"""An SMTP client that goes step by step, over a socket or a pair of pipes.

Python's standard library, nothing of qsmtpd: what is tested does not test itself.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import ssl
import stat
import termios
from pathlib import Path
from typing import Self

#: No test waits longer for anything that should just happen (seconds).
PATIENCE = 60


class Pipes:
    """A descriptor to read and one to write, used as if they were a socket."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = os.fdopen(reader, "rb", buffering=0)
        self._writer = os.fdopen(writer, "wb", buffering=0)

    def fileno(self) -> int:
        """The one to write."""
        return self._writer.fileno()

    def recv(self, size: int) -> bytes:
        poll = select.poll()  # which takes any descriptor, as select() does not
        poll.register(self._reader, select.POLLIN)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError
        return os.read(self._reader.fileno(), size)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._writer.fileno(), view) :]

    def shutdown(self, how: int) -> None:
        """Only SHUT_WR."""
        assert how == socket.SHUT_WR
        self._writer.close()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class Client:
    """One connection; a context manager that closes it."""

    def __init__(self, connection: socket.socket | Pipes) -> None:
        if isinstance(connection, socket.socket):
            connection.settimeout(PATIENCE)
        self.socket = connection
        self.said = b""  # all that the server has said, since the handshake if there was one
        self._told = 0  # how much of that was returned as a reply
        self.closed = False

    @classmethod
    def connect(cls, port: int, source: str = "127.0.0.1") -> Self:
        """To this port of 127.0.0.1, from an address."""
        return cls(socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what the server says ----------------------------------------------

    def line(self) -> bytes:
        """The next line, without its CRLF; b"" at the end."""
        while (end := self.said.find(b"\r\n", self._told)) < 0:
            if not self._receive():
                assert self._told == len(self.said), self.said[self._told :]
                return b""
        line = self.said[self._told : end]
        self._told = end + 2
        return line

    def lines(self) -> list[bytes]:
        """All lines of the next reply; none at the end."""
        lines = []
        while line := self.line():
            lines.append(line)
            if line[3:4] != b"-":
                break
        return lines

    def reply(self) -> bytes:
        """The last line of the next reply; b"" at the end."""
        return (self.lines() or [b""])[-1]

    def rest(self) -> bytes:
        """All that still comes, until the connection ends in whatever way."""
        try:
            while self._receive():
                pass
        except TimeoutError:
            raise
        except OSError:
            pass
        rest = self.said[self._told :]
        self._told = len(self.said)
        return rest

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self.said += data
        return bool(data)

    # -- what the client says ----------------------------------------------

    def send(self, data: bytes) -> bool:
        """All of it; False: the other side is gone."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def send_each(self, *pieces: bytes) -> bool:
        """Each piece when the one before has been read; False: the other side is gone."""
        return all(self.send(piece) and self._is_read() for piece in pieces)

    def _is_read(self) -> bool:
        """Wait until the other side has read all that was sent."""
        fd = self.socket.fileno()
        # How many bytes of ours nobody has read: a pipe and a socket call it differently.
        unread = termios.TIOCOUTQ if stat.S_ISSOCK(os.fstat(fd).st_mode) else termios.FIONREAD
        poll = select.poll()
        poll.register(fd, 0)
        while any(fcntl.ioctl(fd, unread, b"\0\0\0\0")):
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                return False
        return True

    def end_input(self) -> None:
        """Close the sending side; what the server says can still be read."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed before us

    def close(self) -> None:
        self.socket.close()
        self.closed = True

    # -- SMTP --------------------------------------------------------------

    def ask(self, *commands: bytes) -> bytes:
        """Send each command when the one before was answered; the last line of the last reply."""
        return self.answers(*commands)[-1]

    def answers(self, *commands: bytes) -> list[bytes]:
        """The same; the last lines of all replies."""
        replies = []
        for command in commands:
            self.send(command + b"\r\n")
            replies.append(self.reply())
        return replies

    def starttls(self, context: ssl.SSLContext | None = None, name: str | None = None) -> None:
        """The greeting has been read: STARTTLS, and the handshake."""
        assert self.ask(b"STARTTLS") == b"220 Ready to start TLS (#5.7.0)"
        self.handshake(context, name)

    def handshake(self, context: ssl.SSLContext | None = None, name: str | None = None) -> None:
        """Go over to TLS; `name` is what the server name indication says."""
        assert isinstance(self.socket, socket.socket)
        assert self._told == len(self.said), self.said[self._told :]
        self.said, self._told = b"", 0
        self.socket = (context or client_context()).wrap_socket(self.socket, server_hostname=name)

    @property
    def tls(self) -> ssl.SSLSocket:
        """The connection, which has gone over to TLS."""
        assert isinstance(self.socket, ssl.SSLSocket)
        return self.socket

    def deliver(
        self,
        text: bytes = b"Subject: x\r\n\r\nhi\r\n",
        sender: bytes = b"a@b",
        recipient: bytes = b"x@ok.example",
    ) -> bytes:
        """One message; the first reply that is no success, or the last."""
        for command in (b"MAIL FROM:<%b>" % sender, b"RCPT TO:<%b>" % recipient, b"DATA"):
            reply = self.ask(command)
            if not reply.startswith((b"250 ok", b"354 ")):
                return reply
        return self.ask(text + b".")

    def quit(self) -> None:
        """QUIT, the reply to it, and the end of the connection."""
        assert self.ask(b"QUIT").startswith(b"221 ")
        assert self.rest() == b""
        self.close()


def client_context(
    certificate: Path | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """What a client that does not look at certificates uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context
