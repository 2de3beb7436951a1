"""What the tests of qsmtpd-server share: a running one, and a client of it."""

from __future__ import annotations

import re
import signal
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterable
from pathlib import Path

from conversation import client_context
from harness import BIN, PATIENCE, Home, Listener, parse_log, wait_for

#: What systemd does between fork and exec: argv is the socket, and the server's.
HANDS_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp"}
os.execv(sys.argv[2], sys.argv[2:])
"""
STATUS = re.compile(r"^qsmtpd-server: (.*)$", re.MULTILINE)


class Server(Listener):
    """A qsmtpd-server in a home; a context manager."""

    def __init__(
        self,
        home: Home,
        *options: str,
        command: Iterable[str | Path] = (),
        run: Iterable[str | Path] = (BIN / "qsmtpd-server",),
    ) -> None:
        environ = {k: v for k, v in home.environ.items() if k != "PROTO" and k[:3] != "TCP"}
        names = [] if any(o in ("-h", "-p") for o in options) else ["-H"]
        super().__init__(
            [
                *command,
                *run,
                "-1vR",
                *names,
                *("-l", "mx.example"),
                *options,
                *("127.0.0.1", "0"),
                *home.arguments,
            ],
            environ,
            home.path / "server.log",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """For its end; the exit status."""
        return self._process.wait(PATIENCE)

    def reload(self) -> None:
        """HUP, and wait until it has been heeded."""
        before = self.log().count("anew")
        self.signal(signal.SIGHUP)
        wait_for(lambda: self.log().count("anew") > before)
        wait_for(lambda: state(self.pid) == "S")

    def children(self) -> list[int]:
        """Its processes, without those that have ended."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(word) for word in text.split() if state(int(word)) not in "Z?"]

    def said(self) -> list[str]:
        """Its status lines."""
        return STATUS.findall(self.log())

    def busy(self) -> int:
        """How many connections it says to have."""
        lines = [line for line in self.said() if line.startswith("status: ")]
        return int(lines[-1][len("status: ") :].partition("/")[0])

    def events(self, name: str) -> list[dict[str, str]]:
        """The fields of every log line of this event."""
        lines = [line for line in self.log().splitlines() if line.startswith("event=")]
        return [fields for fields in map(parse_log, lines) if fields["event"] == name]

    def client(self, address: str = "127.0.0.1") -> Client:
        """A connection from this address."""
        return Client(self.port, address)


class Client:
    """A connection, step by step; a context manager."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.socket: socket.socket = socket.create_connection(
            ("127.0.0.1", port), timeout=PATIENCE, source_address=(address, 0)
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def reply(self) -> bytes:
        """The last line of the next reply; b"" at the end."""
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                try:
                    byte = self.socket.recv(1)
                except ConnectionResetError:
                    byte = b""
                if not byte:
                    assert line == b""
                    return b""
                line += byte
            if line[3:4] != b"-":
                return line[:-2]

    def ask(self, command: bytes) -> bytes:
        """Send a command; the last line of its reply."""
        self.socket.sendall(command + b"\r\n")
        return self.reply()

    def starttls(self, context: ssl.SSLContext | None = None) -> None:
        """The greeting has been read: STARTTLS, and the handshake."""
        assert self.ask(b"STARTTLS").startswith(b"220 ")
        self.socket = (context or client_context()).wrap_socket(self.socket)

    def deliver(self, recipient: bytes = b"x@ok.example") -> bytes:
        """A message; the first reply that is no success, or the last."""
        for command in (b"MAIL FROM:<a@b>", b"RCPT TO:<%b>" % recipient, b"DATA"):
            reply = self.ask(command)
            if not reply.startswith((b"250 ok", b"354 ")):
                return reply
        return self.ask(b"Subject: x\r\n\r\nhi\r\n.")

    def quit(self) -> None:
        assert self.ask(b"QUIT").startswith(b"221 ")
        assert self.reply() == b""
        self.socket.close()


def mail(port: int) -> None:
    """A session of another client, from the greeting to QUIT, with one message."""
    client = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE, local_hostname="me.example")
    client.sendmail("a@b.example", ["x@ok.example"], "Subject: x\r\n\r\nhi\r\n")
    client.quit()


def state(pid: int) -> str:
    """R, S, Z, …; ? for no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "?"


def gone(pid: int) -> bool:
    """Has a process that is not ours ended?"""
    return state(pid) in "Z?"


def rules(path: Path, *lines: str) -> Path:
    """A cdb of rules, made by tcprules."""
    text = "".join(line + "\n" for line in lines).encode()
    subprocess.run(["tcprules", path, path.with_suffix(".new")], input=text, check=True)
    return path
