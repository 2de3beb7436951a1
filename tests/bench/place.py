"""A directory with what the contestants need: homes, a certificate, the queue program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from certificates import Certificate

SENDER = "a@sender.example"
RECIPIENT = "x@ok.example"
ENVELOPE = f"F{SENDER}\0T{RECIPIENT}\0\0".encode()
SOURCE = Path(__file__).with_name("donothing.c")
CLIENT = Path(__file__).with_name("sessions.c")
#: The same without a compiler; slower, by a shell and two cats.
SCRIPT = "#!/bin/sh\ncat >/dev/null && cat <&1 >/dev/null\n"


class Place:
    """Everything lies below `path`, which other users can enter (one contestant runs as one)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.chmod(0o755)
        self.certificate = Certificate("mx.example").save(path / "certificate.pem")
        self.certificate.chmod(0o644)
        #: QMAILHOME without and with TLS.
        self.plain = self._home("plain")
        self.tls = self._home("tls")
        shutil.copy(self.certificate, self.tls / "control" / "servercert.pem")
        self.queue = path / "queue"
        #: The client for sessions without a message; None without a compiler.
        self.client = path / "sessions" if _compile(CLIENT, path / "sessions") else None
        self._record = path / "record"
        self._record.mkdir()
        self._record.chmod(0o777)

    def _home(self, name: str) -> Path:
        home = self.path / name
        (home / "control").mkdir(parents=True)
        (home / "control" / "me").write_text("mx.example\n")
        (home / "control" / "rcpthosts").write_text("ok.example\n")
        return home

    def install_recorder(self) -> None:
        """A queue program that keeps what it is given: to see that a contestant starts it."""
        record = self._record
        self._install_script(
            f"#!/bin/sh\ncat >{record}/message.$$ && cat <&1 >{record}/envelope.$$\n"
        )

    def recorded(self) -> list[tuple[bytes, bytes]]:
        """What the recorder was given since the last call: messages and envelopes."""
        found = []
        for message in self._record.glob("message.*"):
            envelope = message.with_name("envelope" + message.suffix)
            found.append((message.read_bytes(), envelope.read_bytes()))
            message.unlink()
            envelope.unlink()
        return found

    def install_donothing(self) -> str:
        """The queue program that is measured with; returns what it is."""
        new = self.path / "queue.new"
        options = _compile(SOURCE, new)
        if options:
            new.replace(self.queue)
            return f"tests/bench/donothing.c, compiled with {options}"
        self._install_script(SCRIPT)
        return "a shell script with two cats (no C compiler here), which slows all alike"

    def _install_script(self, text: str) -> None:
        # A name of its own first: a file that is being run cannot be written.
        new = self.path / "queue.new"
        new.write_text(text)
        new.chmod(0o755)
        new.replace(self.queue)

    def environ(self, home: Path) -> dict[str, str]:
        """The environment of qmail's programs."""
        return {"PATH": os.environ["PATH"], "QMAILHOME": str(home), "QMAILQUEUE": str(self.queue)}


def _compile(source: Path, program: Path) -> str | None:
    """The options with which it was compiled; None where it could not be."""
    compiler = shutil.which("cc") or "false"
    for options in (["-O2", "-static"], ["-O2"]):
        command = [compiler, *options, "-o", str(program), str(source)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return " ".join(options)
    return None
