"""What the tests of filters share: one plugin by itself, with a home and a log of its own."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from run import parse_events

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.decision import Decision
from qsmtpd.facts import Auth, Client, Envelope, Peer, Ruling
from qsmtpd.log import Log
from qsmtpd.policy import stages

TAKEN = b"taken"  # nobody objects
NOWHERE = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


_logs: list[int] = []


def open_log(path: Path) -> int:
    """A log for build(): a descriptor, until the end of the test."""
    _logs.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    return _logs[-1]


def close_logs() -> None:
    """Close those that were opened."""
    while _logs:
        os.close(_logs.pop())


def build(name: str, home: Path, /, log: int | None = None, **environ: bytes | str) -> Any:
    """The plugin of this name, in a home that is there, with these variables."""
    full = {"PATH": os.environ["PATH"], **environ}
    variables = {os.fsencode(key): _b(value) for key, value in full.items()}
    base = Settings(ControlFiles(os.fsencode(home)), variables)
    settings = base.for_plugin(name, {}, Log(NOWHERE if log is None else log))
    plugin = importlib.import_module(f"qsmtpd.filters.{name}").Plugin(settings)
    return plugin.for_session() if hasattr(plugin, "for_session") else plugin


def _b(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def client(
    relay: bytes | None = None,
    user: bytes | None = None,
    helo: bytes | None = None,
    **environ: bytes | str,
) -> Client:
    """A client, as a session would know it, with variables of its connection."""
    variables = {os.fsencode(key): _b(value) for key, value in environ.items()}
    peer = Peer(ip=b"192.0.2.1", host=b"client.example", relay=relay, environ=variables)
    found = Client(peer)
    found.helo = helo
    if user is not None:
        found.auth = Auth(user, b"PLAIN")
        found.relay = b""
    return found


def say(stage: str, decision: Decision) -> bytes:
    """What the client is told, with `drop ` before it where the connection is closed."""
    if decision.verdict in ("decline", "accept"):
        return TAKEN
    reply = stages.reply_to(Ruling(stage, "", decision)).wire()
    return b"drop " + reply if decision.verdict == "drop" else reply


def rcpt(plugin: Any, recipient: bytes, who: Client | None = None, sender: bytes = b"a@b") -> bytes:
    """What the client is told of one recipient."""
    return say("rcpt", plugin.rcpt(who or client(), Envelope(sender), recipient))


def script(home: Path, text: str, name: str = "check") -> Path:
    """A program for one test: a shell script."""
    path = home / name
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)
    return path


def logged(path: Path) -> list[dict[str, str]]:
    """The lines of a log."""
    return parse_events(path.read_text())
