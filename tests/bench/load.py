"""The clients that bring sessions, and how many sessions."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from tools import find

from bench.client import Session, python_load
from bench.place import RECIPIENT, SENDER, Place
from bench.server import Failed

PATIENCE = 120


def smtp_source(port: int, messages: int, at_a_time: int = 1, keep: bool = False) -> float:
    """Messages of 1 KB, each in a new connection, or `keep`ing the one; the seconds it took."""
    options = ["-l", "1024", "-f", SENDER, "-t", RECIPIENT, "-M", "bench.example"]
    options += ["-s", str(at_a_time), "-m", str(messages), *(["-d"] if keep else [])]
    return _run([find("smtp-source") or "smtp-source", *options, f"127.0.0.1:{port}"])


def qmqp_source(port: int, messages: int, at_a_time: int) -> float:
    """The same in QMQP, where each message has a connection."""
    options = ["-l", "1024", "-f", SENDER, "-t", RECIPIENT]
    options += ["-s", str(at_a_time), "-m", str(messages)]
    return _run([find("qmqp-source") or "qmqp-source", *options, f"127.0.0.1:{port}"])


def sessions(place: Place, port: int, number: int, at_a_time: int, said: Session) -> float:
    """Sessions without a message; the seconds they took."""
    if place.client is None:
        return python_load(port, number, at_a_time, said)[0]
    words = [word.decode() for line, code in said for word in (code, line)]
    return _run([str(place.client), str(port), str(number), str(at_a_time), *words])


def _run(command: list[str]) -> float:
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"did not do it in {PATIENCE} s") from error
    seconds = time.monotonic() - started
    if done.returncode != 0 or done.stderr:
        name = command[0].rpartition("/")[2]
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Failed(said[0] if said else f"{name} exited {done.returncode}")
    return seconds


class Counts:
    """How many of a thing each contestant is given so that it lasts as long as planned.

    Found once, in runs that also warm it up; the same in every round.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._found: dict[tuple[str, str], int] = {}

    def find(self, contestant: str, thing: str, least: int, run: Callable[[int], float]) -> int:
        """`run` takes a number and returns the seconds.  For no time at all, `least` will do."""
        if not self._seconds:
            return least
        key = (contestant, thing)
        if key not in self._found:
            number = least
            while (took := run(number)) < self._seconds / 8:
                number *= 4
            self._found[key] = max(least, int(number / took * self._seconds))
        return self._found[key]
