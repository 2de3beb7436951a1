"""System calls of a server's sessions, counted in what strace has written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_ACCEPTED = re.compile(r"(?:<\.\.\. )?accept4?\b.*\) += \d+$")
_STARTED = re.compile(r"(?:<\.\.\. )?(?:clone3?|v?fork)\b.* = (\d+)$")


def strace(program: str, trace: Path) -> list[str]:
    """What to put in front of a command; it goes on to have the process id that it had."""
    return [program, "-D", "-f", "-qq", "-s", "300", "-o", str(trace)]


def ours(trace: Path, queue: str) -> list[str]:
    """The calls of all processes, one or two lines for each.

    Those of the queue program do not count, from the moment when there is a process for it.
    """
    lines = [line.split(maxsplit=1) for line in trace.read_text(errors="replace").splitlines()]
    others = {pid for pid, call in lines if call.startswith(f'execve("{queue}"')}
    for pid, call in lines:
        started = _STARTED.match(call)
        if started and pid in others:
            others.add(started[1])
    return [call for pid, call in lines if pid not in others and call[0] not in "+-"]


def calls(lines: Sequence[str]) -> list[str]:
    """Each call once, also where strace writes it in two parts."""
    return [line for line in lines if " resumed>" not in line]


def connections(lines: Sequence[str]) -> list[int]:
    """The lines that say that a connection was accepted: what is between two is one session's."""
    return [number for number, line in enumerate(lines) if _ACCEPTED.match(line)]
