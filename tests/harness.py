"""What the tests share: a qmail home, and qsmtpd run in it as a UCSPI server would.

The client is whatever bytes a test sends; nothing of qsmtpd is used to speak
to qsmtpd.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import select
import socket
import stat
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
PROGRAMS = ROOT / "tests" / "programs"
#: No test waits longer for anything that should just happen (seconds).
PATIENCE = 60


@dataclass
class Message:
    """A message in the oracle's spool."""

    text: bytes
    envelope: bytes

    @property
    def body(self) -> bytes:
        """The text without the two lines of our Received."""
        return self.text.split(b"\n", 2)[2]

    @property
    def sender(self) -> bytes:
        return self.envelope.split(b"\0")[0][1:]

    @property
    def recipients(self) -> list[bytes]:
        return [field[1:] for field in self.envelope[:-2].split(b"\0")[1:]]


#: Every password that a test uses: in no log of any test may it be, nor its base64.
PASSWORDS = (b"secret", b"wrong!")
SECRETS = [p.decode() for p in PASSWORDS] + [
    base64.b64encode(prefix + p).decode().rstrip("=")
    for p in PASSWORDS
    for prefix in (b"", b"\0joe\0")
]


def without_secrets(log: str) -> str:
    """The log, in which there is no password."""
    for secret in SECRETS:
        assert secret not in log, log
    return log


@dataclass
class Run:
    """What one run of a program gave."""

    out: bytes
    log: str
    status: int
    children: list[int]

    def __post_init__(self) -> None:
        without_secrets(self.log)

    @property
    def lines(self) -> list[bytes]:
        """The reply lines, with time and pid masked; every one must end in CRLF."""
        assert self.out == b"" or self.out.endswith(b"\r\n"), self.out[-200:]
        masked = re.sub(rb"(?m)^250 ok \d+ qp \d+\r$", b"250 ok TIME qp PID\r", self.out)
        return masked.split(b"\r\n")[:-1]

    @property
    def codes(self) -> list[int]:
        """The code of each reply (of several lines, of the last)."""
        return [int(line[:3]) for line in self.lines if line[3:4] == b" "]

    def event(self, name: str) -> dict[str, str]:
        """The fields of the one log line of this event."""
        (found,) = self.events(name)
        return found

    def events(self, name: str) -> list[dict[str, str]]:
        """The fields of every log line of this event; other programs share fd 2."""
        ours = [line for line in self.log.splitlines() if line.startswith("event=")]
        lines = [parse_log(line) for line in ours]
        return [fields for fields in lines if fields.get("event") == name]


def parse_log(line: str) -> dict[str, str]:
    """One log line -> its fields, by the rules of the manual page."""
    pairs = re.findall(r'([a-z_]+)=("[^"]*"|[^ "=]*)(?: |$)', line)
    assert " ".join(f"{key}={value}" for key, value in pairs) == line, line
    fields = {}
    for key, value in pairs:
        assert key not in fields, line
        if value.startswith('"'):
            value = re.sub(r"\\x(..)", lambda m: chr(int(m[1], 16)), value[1:-1])
        fields[key] = value
    return fields


class Home:
    """A QMAILHOME of a test's own, with a spool for the oracle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        self.control_dir = path / "control"
        self.control_dir.mkdir()
        self.spool.mkdir()
        self.arguments: list[str] = []  # a checkpassword program, where a test has one
        self.talks: list[Talk] = []
        self.environ = {
            "PATH": os.environ["PATH"],
            "QMAILHOME": str(path),
            "SPOOL": str(self.spool),
            "QMAILQUEUE": str(PROGRAMS / "oracle"),
            "PROTO": "TCP",
            "TCPREMOTEIP": "192.0.2.1",
            "TCPREMOTEHOST": "client.example",
            "TCPLOCALIP": "192.0.2.9",
            "TCPLOCALHOST": "mx.example",
            "ERRORDELAY": "0",
        }
        self.control("me", "mx.example")
        self.control("rcpthosts", "ok.example", ".sub.example")

    def control(self, name: str, *lines: str | bytes) -> None:
        """Write a control file."""
        text = b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines)
        (self.control_dir / name).write_bytes(text)

    def script(self, text: str) -> str:
        """A queue program for one test: a shell script.  Returns its path."""
        path = self.path / f"queue.{len(list(self.path.glob('queue.*')))}"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    def messages(self) -> list[Message]:
        """What the oracle has stored, oldest first; nothing half-done may be there."""
        assert not list(self.spool.glob("new.*"))
        paths = sorted(self.spool.glob("*.message"), key=lambda p: p.stat().st_mtime_ns)
        return [Message(p.read_bytes(), p.with_suffix(".envelope").read_bytes()) for p in paths]

    @staticmethod
    def program(name: str) -> Path:
        """One of ours, or a path as it is."""
        return BIN / name

    def clear(self) -> None:
        """Empty the spool."""
        for path in self.spool.iterdir():
            path.unlink()

    def run(
        self,
        data: bytes | list[bytes],
        *arguments: str,
        over: str = "pipe",
        dribble: bool = False,
        program: str = "qsmtpd",
        **environ: str | None,
    ) -> Run:
        """Send data to a program, end the input, and wait for its end.

        `over` is pipe or socket.  Each piece of a list, and with `dribble`
        each byte, is sent when the one before has been read.
        """
        pieces = [data] if isinstance(data, bytes) else data
        if dribble:
            pieces = [bytes((byte,)) for piece in pieces for byte in piece]
        full = {k: v for k, v in {**self.environ, **environ}.items() if v is not None}
        if over == "socket":
            ours, theirs = (s.detach() for s in socket.socketpair())
            to_child, from_child, child_in, child_out = ours, os.dup(ours), theirs, os.dup(theirs)
        else:
            child_in, to_child = os.pipe()
            from_child, child_out = os.pipe()
        with tempfile.TemporaryFile() as log:
            child = subprocess.Popen(
                [self.program(program), *arguments],
                stdin=child_in,
                stdout=child_out,
                stderr=log,
                env=full,
                start_new_session=True,
            )
            os.close(child_in)
            os.close(child_out)
            reader = _Reader(from_child)
            for piece in pieces:
                if not send_and_wait(to_child, piece, wait=len(pieces) > 1):
                    break
            if over == "socket":
                sock = socket.socket(fileno=to_child)
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # it has closed before us
                sock.close()
            else:
                os.close(to_child)
            out = reader.result()
            status = child.wait(PATIENCE)
            log.seek(0)
            return Run(out, log.read().decode(), status, session_members(child.pid))

    def talk(self, *arguments: str, over: str = "socket", **environ: str | None) -> Talk:
        """Start a program and leave the conversation to the test."""
        full = {k: v for k, v in {**self.environ, **environ}.items() if v is not None}
        return self.launch([str(BIN / "qsmtpd"), *arguments], full, over)

    def launch(self, command: list[str], environ: dict[str, str], over: str = "socket") -> Talk:
        """The same for any command; what a test that fails has left is ended after it."""
        talk = Talk(command, environ, over)
        self.talks.append(talk)
        return talk

    def end(self) -> None:
        """End what a test has left running."""
        for talk in self.talks:
            if talk.process.poll() is None:
                talk.kill()


class Talk:
    """A running program and its client, step by step; end() or kill() must be the last."""

    def __init__(self, command: list[str], environ: dict[str, str], over: str = "socket") -> None:
        if over == "socket":
            ours, theirs = (s.detach() for s in socket.socketpair())
            self._in, self._out = ours, os.dup(ours)
            child_in, child_out = theirs, os.dup(theirs)
        else:
            child_in, self._in = os.pipe()
            self._out, child_out = os.pipe()
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command,
            stdin=child_in,
            stdout=child_out,
            stderr=self._log,
            env=environ,
            start_new_session=True,
        )
        os.close(child_in)
        os.close(child_out)
        self._said = b""  # all that was read and not yet asked for

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, data: bytes, read: bool = False) -> bool:
        """Write; with `read`, wait until it has been read.  False: the other side is gone."""
        return send_and_wait(self._in, data, wait=read)

    def reply(self) -> bytes:
        """The last line of the next reply, without CRLF; b"" at the end."""
        while True:
            line, end, rest = self._said.partition(b"\r\n")
            if end:
                self._said = rest
                if line[3:4] != b"-":
                    return line
                continue
            assert select.select([self._out], [], [], PATIENCE)[0], self._said
            try:
                data = os.read(self._out, 65536)
            except ConnectionResetError:
                data = b""
            if not data:
                assert self._said == b""
                return b""
            self._said += data

    def ask(self, *commands: str | bytes) -> list[bytes]:
        """Send each command in turn; return the replies."""
        replies = []
        for command in commands:
            self.send((command if isinstance(command, bytes) else command.encode()) + b"\r\n")
            replies.append(self.reply())
        return replies

    def deliver(self, body: bytes, to: str = "b@ok.example") -> bytes:
        """One message, which must get as far as 354 (else: that reply); the final reply."""
        for command in ("MAIL FROM:<a@no.example>", f"RCPT TO:<{to}>", "DATA"):
            (reply,) = self.ask(command)
            if not reply.startswith((b"250 ok", b"354 ")):
                return reply
        self.send(body + b".\r\n")
        return self.reply()

    def children(self) -> list[int]:
        """The processes that it has started and not yet buried, zombies too."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def descriptors(self) -> dict[int, str]:
        """Its open descriptors, and what they are."""
        return descriptors(self.pid)

    def end(self, quit: bool = True) -> Run:
        """QUIT (or hang up), read what is left, and wait for the end."""
        if quit:
            self.send(b"QUIT\r\n")
        if stat.S_ISSOCK(os.fstat(self._in).st_mode):
            with socket.socket(fileno=self._in) as sock:
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # it has closed before us
        else:
            os.close(self._in)
        out = self._said + _Reader(self._out).result()
        return self.buried(out)

    def vanish(self) -> None:
        """Close all at once, with nothing more read."""
        for fd in (self._in, self._out):
            os.close(fd)

    def hang_up(self) -> Run:
        """vanish(), and wait for the end."""
        self.vanish()
        return self.buried()

    def kill(self) -> Run:
        """kill -9 for it alone."""
        self.process.kill()
        self.process.wait(PATIENCE)
        return self.hang_up()

    def buried(self, out: bytes = b"") -> Run:
        """Wait for its end, which something else must bring about."""
        status = self.process.wait(PATIENCE)
        self._log.seek(0)
        log = self._log.read().decode()
        self._log.close()
        return Run(out, log, status, session_members(self.pid))


class _Reader(threading.Thread):
    """Reads a descriptor to its end, so that the program never waits for us."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self._parts: list[bytes] = []
        self.start()

    def run(self) -> None:
        try:
            while part := os.read(self._fd, 65536):
                self._parts.append(part)
        except OSError:
            pass
        os.close(self._fd)

    def result(self) -> bytes:
        self.join(PATIENCE)
        assert not self.is_alive(), b"".join(self._parts)
        return b"".join(self._parts)


def send_and_wait(fd: int, piece: bytes, wait: bool = True) -> bool:
    """Write; then, with `wait`, until the other side has read it all.  False: it is gone."""
    # How many bytes of ours nobody has read: a pipe and a socket call it differently.
    unread = termios.TIOCOUTQ if stat.S_ISSOCK(os.fstat(fd).st_mode) else termios.FIONREAD
    poll = select.poll()
    poll.register(fd, 0)
    try:
        while piece:
            piece = piece[os.write(fd, piece) :]
        while wait and any(fcntl.ioctl(fd, unread, b"\0\0\0\0")):
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                return False
    except OSError:
        return False
    return True


def descriptors(pid: int) -> dict[int, str]:
    """The open descriptors of a process, and what they are, as soon as it waits for something."""
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline
    return {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}


def session_members(session: int) -> list[int]:
    """The processes that a program has left behind."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                members.append(int(entry.name))
    return members


class Listener:
    """A program that listens on a free port of 127.0.0.1 and prints it; a context manager."""

    def __init__(self, command: list[str | Path], environ: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, log.read_text()
        self.port = int(line)

    def log(self) -> str:
        """What it and its children have written to fd 2 so far."""
        return self._log.read_text()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        without_secrets(self.log())


def wait_for(what: Callable[[], object]) -> None:
    """Wait until it is true: for what a program does after it has answered."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)
