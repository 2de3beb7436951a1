"""What it ran on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import ssl
from pathlib import Path

from bench.contestants import Contestant, debian_version
from bench.place import Place


def describe(
    contestants: list[Contestant], queue: str, place: Place, load: float, descriptors: int
) -> list[str]:
    """Lines: the date, the machine, the versions; `load` is what it had before the run."""
    client = "tests/bench/sessions.c" if place.client else "Python (no C compiler here)"
    lines = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        f"{os.cpu_count()} cores, {_cpu_model()}, {_memory()}",
        f"{_system()}, Linux {platform.release()}, {platform.machine()}",
        f"Python {platform.python_version()}, "
        f"pyOpenSSL {importlib.metadata.version('pyopenssl')}, {ssl.OPENSSL_VERSION}; "
        f"ucspi-tcp {debian_version('ucspi-tcp')}, postfix {debian_version('postfix')}",
        f"load average before the run: {load:.1f}",
        f"queue program: {queue}; client of sessions without a message: {client}",
        f"descriptors: at most {descriptors} for each process",
    ]
    lines += [f"`{who.name}` {who.version()}: {who.about}" for who in contestants]
    return lines


def _field(path: str, name: str) -> str | None:
    try:
        found = re.search(rf"(?m)^{name}\s*[:=]\s*\"?(.*?)\"?$", Path(path).read_text())
    except OSError:
        return None
    return found[1] if found else None


def _cpu_model() -> str:
    return _field("/proc/cpuinfo", "model name") or platform.processor() or "unknown CPU"


def _memory() -> str:
    kilobytes = (_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]
    return f"{int(kilobytes) / 1024 / 1024:.0f} GB"


def _system() -> str:
    return _field("/etc/os-release", "PRETTY_NAME") or platform.system()
