"""What a cold child costs: started with a session in a pipe, as a UCSPI server would."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from tools import find

from bench.contestants import BIN, COLD, MAILFRONT
from bench.place import Place
from bench.plan import Plan
from bench.rows import COLD_CPU
from bench.server import Failed

#: The same interpreter that does nothing at all.
BARE = "python3 -I -S -c pass"
SESSION = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nRSET\r\nQUIT\r\n"


def cold_sessions(place: Place, plan: Plan) -> Iterator[tuple[str, str, float]]:
    """Row, name and milliseconds of CPU, user and system: medians of some starts in turn.

    Raises Failed.
    """
    commands = {COLD: [str(BIN / "qsmtpd")], BARE: [sys.executable, "-I", "-S", "-c", "pass"]}
    mailfront = find("smtpfront-qmail")
    if mailfront is not None:
        commands[MAILFRONT] = [mailfront]
    environ = {**place.environ(place.tls), "PROTO": "TCP", "TCPREMOTEIP": "192.0.2.1"}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(plan.cold_starts):
        for name, command in commands.items():
            found[name].append(_cpu(command, environ))
    for name, values in found.items():
        yield COLD_CPU, name, 1000 * statistics.median(values)


def _cpu(command: list[str], environ: dict[str, str]) -> float:
    reader, writer = os.pipe()
    os.write(writer, SESSION)
    os.close(writer)
    child = subprocess.Popen(
        command,
        stdin=reader,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environ,
    )
    os.close(reader)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise Failed(f"{command[0]} exited {child.returncode}")
    return usage.ru_utime + usage.ru_stime
