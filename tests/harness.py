"""What the tests share: a qmail home, and qsmtpd run in it as a UCSPI server would."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import termios
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest
from child import Child, Command
from client import PATIENCE
from run import Run
from tools import find
from ucspitls import Helper

ROOT = Path(__file__).resolve().parent.parent
#: The programs of this checkout, beside the Python that runs the tests.
BIN = Path(sys.prefix) / "bin"
PROGRAMS = ROOT / "tests" / "programs"
#: What is passed to run() or talk() with **: of Any, or it would have to fit their options, too.
Variables = dict[str, Any]
T = TypeVar("T")
CI = os.environ.get("CI") == "true"


@dataclass
class Message:
    """A message in the oracle's spool."""

    text: bytes
    envelope: bytes

    @property
    def body(self) -> bytes:
        """The text without our Received, which is a line longer in TLS."""
        return re.sub(rb"\AReceived: .*\n  by .*\n(  \(.*\); .*\n)?", b"", self.text)

    @property
    def sender(self) -> bytes:
        return self.envelope.split(b"\0")[0][1:]

    @property
    def recipients(self) -> list[bytes]:
        return [field[1:] for field in self.envelope[:-2].split(b"\0")[1:]]


class Home:
    """A QMAILHOME of a test's own, with a spool for the oracle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        self.control_dir = path / "control"
        self.control_dir.mkdir()
        self.spool.mkdir()
        self.arguments: list[str] = []  # a checkpassword program, where a test has one
        self.started: list[Child] = []
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

    def file(self, name: str, *parts: str | bytes) -> Path:
        """Write any other file; its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(x if isinstance(x, bytes) else x.encode() for x in parts))
        return path

    def plugin(self, name: str, source: str) -> Path:
        """Write plugins/NAME.py, which control/plugins then knows by its name; its path."""
        path = self.file(f"plugins/{name}.py", textwrap.dedent(source))
        path.chmod(0o644)
        return path

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
            path.unlink(missing_ok=True)  # the program may remove it just then

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
        command: Command = [self.program(program), *arguments]
        return self.launch(command, self._full(environ), over).whole(pieces)

    def talk(
        self,
        *arguments: str,
        over: str = "socket",
        helper: Helper | None = None,
        ahead: bytes = b"",
        **environ: str | None,
    ) -> Child:
        """Start qsmtpd and leave the conversation to the test, but for what is sent `ahead`."""
        command: Command = [BIN / "qsmtpd", *arguments]
        return self.launch(command, self._full(environ), over, helper, ahead)

    def launch(
        self,
        command: Command,
        environ: dict[str, str],
        over: str = "socket",
        helper: Helper | None = None,
        ahead: bytes = b"",
    ) -> Child:
        """The same for any command; what a test that fails has left is ended after it."""
        child = Child(command, environ, over, helper, ahead)
        self.started.append(child)
        return child

    def _full(self, environ: dict[str, str | None]) -> dict[str, str]:
        return {k: v for k, v in {**self.environ, **environ}.items() if v is not None}

    def end(self) -> None:
        """End what a test has left running."""
        for child in self.started:
            if child.process.poll() is None:
                child.kill()


def needs(program: str) -> str:
    """The path of a program of Debian's; without it the test is skipped, in CI it fails."""
    path = find(program)
    if path is None:
        assert not CI, f"{program} is missing"
        pytest.skip(f"{program} is missing: see tests/tools.py")
    return path


def wait_until_read(pipe: IO[bytes]) -> None:
    """Wait until a program has read all that was written to its pipe."""
    pipe.flush()
    wait_for(lambda: not any(fcntl.ioctl(pipe.fileno(), termios.FIONREAD, bytes(4))))


def wait_for(what: Callable[[], T | None]) -> T:
    """Wait until it is true, and return it: for what a program does after it has answered."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
