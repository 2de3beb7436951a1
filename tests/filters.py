"""What the tests of filters share: one plugin by itself, with a home and a log of its own."""

from __future__ import annotations

import importlib
import os
import smtplib
import subprocess
from pathlib import Path
from typing import Any

from harness import BIN, PATIENCE, Home, Listener, parse_log, wait_for
from test_servers import needs

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.decision import Decision
from qsmtpd.facts import Auth, Client, Envelope, Peer, Ruling
from qsmtpd.log import Log
from qsmtpd.policy import stages

TAKEN = b"taken"  # nobody objects
NOWHERE = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def build(name: str, home: Path, /, log: int | None = None, **environ: bytes | str) -> Any:
    """The plugin of this name, in a home that is there, with these variables."""
    full = {"PATH": os.environ["PATH"], **environ}
    variables = {os.fsencode(key): _b(value) for key, value in full.items()}
    base = Settings(ControlFiles(os.fsencode(home)), variables)
    settings = base.for_plugin(name, {}, Log(NOWHERE if log is None else log))
    return importlib.import_module(f"qsmtpd.filters.{name}").Plugin(settings)


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
    return [parse_log(line) for line in path.read_text().splitlines() if line[:6] == "event="]


def ended(path: Path, count: int) -> list[dict[str, str]]:
    """The lines of a log, as soon as so many sessions have ended."""
    wait_for(lambda: path.read_text().count("event=session ") == count)
    return logged(path)


def alive(pid: int) -> bool:
    """Is it there, and no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def served(home: Home, *rules: str, program: str = "tcpserver") -> Listener:
    """qsmtpd under tcpserver, which gives it what tcprules has made of these rules."""
    cdb = home.path / "rules.cdb"
    text = "".join(rule + "\n" for rule in rules).encode()
    subprocess.run([needs("tcprules"), cdb, home.path / "rules.tmp"], input=text, check=True)
    environ = {k: v for k, v in home.environ.items() if k != "PROTO" and not k.startswith("TCP")}
    options = ["-1", "-HR", "-l", "mx.example", "-x", str(cdb), "127.0.0.1", "0"]
    return Listener([needs(program), *options, BIN / "qsmtpd"], environ, home.path / "log")


def connected(listener: Listener, source: str = "127.0.0.1") -> smtplib.SMTP:
    """Python's own client, from this address."""
    smtp = smtplib.SMTP(timeout=PATIENCE, local_hostname="me.example")
    smtp.connect("127.0.0.1", listener.port, source_address=(source, 0))
    return smtp


def answers(smtp: smtplib.SMTP, *commands: str) -> list[bytes]:
    """The last line of the reply to each command."""
    found = []
    for command in commands:
        code, text = smtp.docmd(command)
        found.append(b"%d " % code + text.split(b"\n")[-1])
    return found
