"""A program that serves one client, and this client: a child on a socket or on two pipes."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from client import PATIENCE, Client, Pipes
from run import Run
from ucspitls import Helper

Command = Sequence[str | Path]


class Child(Client):
    """A client that knows the process which serves it.

    As a context manager it closes the connection and waits for the end of the
    process; who wants to know how that ended calls end() or one of its kind.
    With `helper`, a UCSPI-TLS helper stands between the two.  `ahead` is what the client has
    sent before the process begins: what has to be there in time, as it may be stopped itself.
    """

    def __init__(
        self,
        command: Command,
        environ: dict[str, str],
        over: str = "socket",
        helper: Helper | None = None,
        ahead: bytes = b"",
    ) -> None:
        fds: dict[str, int] = {}
        if over == "socket":
            ours, theirs = socket.socketpair()
            super().__init__(ours)
            fds = helper.attach(theirs) if helper else {}
            child_in = theirs.detach()
            child_out = os.dup(child_in)
        else:
            child_in, to_child = os.pipe()
            from_child, child_out = os.pipe()
            super().__init__(Pipes(from_child, to_child))
        self.send(ahead)
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command,
            stdin=child_in,
            stdout=child_out,
            stderr=self._log,
            env={**environ, **{name: str(fd) for name, fd in fds.items()}},
            pass_fds=list(fds.values()),
            start_new_session=True,
        )
        for fd in (child_in, child_out, *fds.values()):
            os.close(fd)
        if helper:
            helper.start(self.process)

    def __exit__(self, *_: object) -> None:
        self.close()
        self.process.wait(PATIENCE)

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """What it has written to fd 2 so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode()

    def children(self) -> list[int]:
        """The processes that it has started and not yet waited for, zombies too."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def descriptors(self) -> dict[int, str]:
        """Its open descriptors, and what they are."""
        return descriptors(self.pid)

    def peak_memory(self) -> int:
        """The most memory that it ever had, in bytes (its own: a child counts for itself)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (found,) = re.findall(r"(?m)^VmHWM:\s+(\d+) kB$", status)
        return int(found) * 1024

    # -- the end -----------------------------------------------------------

    def whole(self, pieces: Sequence[bytes]) -> Run:
        """Send the pieces and end the input; what came until the program's end.

        Of several, each is sent when the one before has been read.
        """

        def send() -> None:
            if len(pieces) == 1:
                self.send(pieces[0])
            else:
                self.send_each(*pieces)
            self.end_input()

        # In a thread, so that the program never waits for us to read.
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        out = self.rest()
        sender.join(PATIENCE)
        assert not sender.is_alive(), out
        return self._run(out, 0)

    def end(self, quit: bool = True, leaves: int = 0) -> Run:
        """QUIT (or just the end of the input), what is left to read, and the end.

        `leaves` is how many processes it leaves behind on purpose.
        """
        if quit:
            self.send(b"QUIT\r\n")
        if not isinstance(self.socket, ssl.SSLSocket):
            self.end_input()
        return self.ended(leaves)

    def ended(self, leaves: int = 0) -> Run:
        """Wait for its end, which something else must bring about; what was still said."""
        return self._run(b"" if self.closed else self.rest(), leaves)

    def hang_up(self) -> Run:
        """Close at once, with nothing more read, and wait for the end."""
        self.close()
        return self.ended()

    def kill(self) -> Run:
        """kill -9 for it alone: what it has started is not waited for."""
        self.process.kill()
        self.close()
        return self._run(b"", None)

    def _run(self, out: bytes, leaves: int | None) -> Run:
        self.close()
        status = self.process.wait(PATIENCE)
        log = self.log()
        self._log.close()
        return Run(out, log, status, left_behind(self.pid, leaves))


def descriptors(pid: int) -> dict[int, str]:
    """The open descriptors of a process, and what they are, as soon as it waits for something."""
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline
    return {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}


def left_behind(session: int, leaves: int | None) -> list[int]:
    """The processes that a program has left behind; who has been sent a signal has time to die.

    Of more than so many the others are waited for, if there is a number.
    """
    deadline = time.monotonic() + PATIENCE
    members = session_members(session)
    while leaves is not None and len(members) > leaves and time.monotonic() < deadline:
        time.sleep(0.01)
        members = session_members(session)
    return members


def session_members(session: int) -> list[int]:
    """The processes of a session that are alive."""
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
