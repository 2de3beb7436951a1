"""A contestant that runs: its processes, their CPU time and memory."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ports import free_port

from bench.contestants import Contestant
from bench.place import Place

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 30.0  # seconds


class Failed(Exception):
    """Something could not be measured: why, in a few words."""


class Server:
    """A started contestant; a context manager.  Raises Failed if it does not start.

    `under` stands in front of its command; one that is not `greeting` waits for the client.
    """

    def __init__(
        self,
        contestant: Contestant,
        place: Place,
        under: Sequence[str] = (),
        greeting: bool = True,
    ) -> None:
        self.name = contestant.name
        self._greeting = greeting
        self.port = free_port()
        command, environ = contestant.start(place, self.port)
        self._log = place.path / f"log.{self.port}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*under, *command],
                env=environ,
                cwd=place.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a ^C is for us, and we end it
            )
        try:
            self._greeted()
        except BaseException:
            self.stop()
            raise
        self.quiet()

    def _greeted(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
                    if not self._greeting:
                        return
                    if client.recv(1000).startswith(b"220"):
                        client.sendall(b"QUIT\r\n")
                        while client.recv(1000):
                            pass
                        return
            except OSError:
                pass
            time.sleep(0.02)
        said = self._log.read_text(errors="replace").strip().splitlines()
        raise Failed("could not be started" + (f": {said[0]}" if said else ""))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and what is left of its children."""
        children = self.processes()[1:]
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in children:
            try:
                if os.getsid(pid) == self._process.pid:
                    os.kill(pid, 9)
            except ProcessLookupError:
                pass

    def processes(self) -> list[int]:
        """It and its descendants, zombies too."""
        found = [self._process.pid]
        for pid in found:  # which grows meanwhile
            try:
                text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except OSError:
                continue
            found += [int(word) for word in text.split()]
        return found

    def cpu(self) -> float:
        """The seconds of CPU that it and all its descendants, dead or alive, have used.

        Who has been waited for is in its parent's sum; who has not, is a zombie
        with a sum of its own.
        """
        ticks = 0
        for pid in self.processes():
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue
            ticks += sum(int(word) for word in stat.rpartition(")")[2].split()[11:15])
        return ticks / TICKS

    def quiet(self) -> float:
        """Wait until nothing of it works any more; the seconds of CPU then."""
        deadline = time.monotonic() + PATIENCE
        before = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.03)  # three ticks: who works shows in them
            now = self.cpu()
            if now == before:
                return now
            before = now
        raise Failed("does not come to rest")

    def private_dirty(self) -> dict[int, int]:
        """The bytes of memory that each process shares with nobody and has written to."""
        found = {}
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            match = re.search(r"(?m)^Private_Dirty:\s+(\d+) kB$", text)
            if match is not None:
                found[pid] = int(match[1]) * 1024
        return found

    def grown(self, before: Mapping[int, int]) -> int:
        """The bytes that its processes have more than before, and those of new ones.

        A process that was there before may also have less now, when it shares its
        pages with those that it has forked; that is no gain of a connection's.
        """
        after = self.private_dirty()
        return sum(max(0, size - before.get(pid, 0)) for pid, size in after.items())
