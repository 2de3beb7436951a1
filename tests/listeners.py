"""Programs that listen on a port of 127.0.0.1: tcpserver with qsmtpd, and qsmtpd-server."""

from __future__ import annotations

import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from child import Command
from client import PATIENCE, Client
from harness import BIN, ROOT, Home, needs, wait_for
from run import parse_events, without_secrets

#: What systemd does between fork and exec: argv is the socket, and the server's.
HANDS_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp"}
os.execv(sys.argv[2], sys.argv[2:])
"""
STATUS = re.compile(r"^qsmtpd-server: (.*)$", re.MULTILINE)


class Listener:
    """A program that listens on a free port of 127.0.0.1 and prints it; a context manager."""

    def __init__(self, command: Command, environ: dict[str, str], log: Path) -> None:
        self._log = log
        # A file of its own: what processes of one before it have still to say goes to the old one.
        log.unlink(missing_ok=True)
        with log.open("xb") as stream:
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

    def raw(self) -> bytes:
        """The same as bytes."""
        return self._log.read_bytes()

    def events(self, name: str) -> list[dict[str, str]]:
        """The fields of every log line of this event; one that is half written is none yet."""
        whole, _, _ = self.log().rpartition("\n")
        return [fields for fields in parse_events(whole) if fields["event"] == name]

    def client(self, source: str = "127.0.0.1") -> Client:
        """A connection from this address."""
        return Client.connect(self.port, source)

    def session(self, *commands: bytes, source: str = "127.0.0.1") -> list[bytes]:
        """A whole session: the last lines of the greeting and of the replies to the commands.

        It ends when the program has left its line in the log.
        """
        before = len(self.events("session"))
        with self.client(source) as client:
            replies = [client.reply(), *client.answers(*commands)]
        wait_for(lambda: len(self.events("session")) > before)
        return replies

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        without_secrets(self.log())


def listening(home: Home) -> dict[str, str]:
    """The variables of a home, without those that a server sets for each client."""
    return {k: v for k, v in home.environ.items() if k != "PROTO" and not k.startswith("TCP")}


def tcpserver(home: Home, *rules: str, run: Iterable[str | Path] = (BIN / "qsmtpd",)) -> Listener:
    """qsmtpd under tcpserver, which gives it what tcprules(1) has made of these rules."""
    cdb = make_rules(home.path / "rules.cdb", *rules)
    # Where as many as 20 come at once, its usual -b, one may be connected and never accepted.
    options = ["-1", "-b", "200", "-HRl", "mx.example", "-x", str(cdb), "127.0.0.1", "0"]
    command: Command = [needs("tcpserver"), *options, *run, *home.arguments]
    return Listener(command, listening(home), home.path / "log")


class Server(Listener):
    """A qsmtpd-server in a home; a context manager."""

    def __init__(
        self,
        home: Home,
        *options: str,
        command: Iterable[str | Path] = (),
        run: Iterable[str | Path] = (BIN / "qsmtpd-server",),
    ) -> None:
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
            listening(home),
            home.path / "server.log",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def early(self, data: bytes) -> Client:
        """A client that has sent this before it is accepted."""
        self.signal(signal.SIGSTOP)
        try:
            client = self.client()
            client.send(data)
        finally:
            self.signal(signal.SIGCONT)
        return client

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
        """Its status lines; one that is half written is none yet."""
        whole, _, _ = self.log().rpartition("\n")
        return STATUS.findall(whole)

    def busy(self) -> int:
        """How many connections it says to have."""
        lines = [line for line in self.said() if line.startswith("status: ")]
        return int(lines[-1][len("status: ") :].partition("/")[0])


def patched(
    *changes: str, package: str = "qsmtpd.server", program: str = "qsmtpd.server"
) -> list[str | Path]:
    """The program with something else in a module of a package: `pool.IDLE = 0.5`.

    `program`: the package that has it in main.py.
    """
    modules = ", ".join({change.partition(".")[0] for change in changes})
    lines = [
        "import sys",
        "sys.path.insert(0, sys.argv.pop(1))",
        f"from {program} import main",
        f"from {package} import {modules}",
        *changes,
        "main.main(sys.argv[1:])",
    ]
    return [sys.executable, "-c", "\n".join(lines), ROOT]


def clocked(clock: Path, module: str, function: str = "time") -> list[str | Path]:
    """The program of a module, with the time of day moved by the seconds in this file.

    Or another clock: that of another function of Python's module time.
    """
    lines = [
        "import sys, time",
        "root, clock = sys.argv[1:3]",
        "del sys.argv[1:3]",
        f"real = time.{function}",
        "def moved():",
        "    while True:",
        "        with open(clock) as file:",
        "            if seconds := file.read():  # else it is being written",
        "                return real() + float(seconds)",
        f"time.{function} = moved",
        "sys.path.insert(0, root)",
        f"from {module} import main",
        "main(sys.argv[1:])",
    ]
    return [sys.executable, "-c", "\n".join(lines), ROOT, clock]


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


def make_rules(path: Path, *lines: str) -> Path:
    """A cdb of rules, made by tcprules."""
    text = "".join(line + "\n" for line in lines).encode()
    subprocess.run([needs("tcprules"), path, path.with_suffix(".new")], input=text, check=True)
    return path
