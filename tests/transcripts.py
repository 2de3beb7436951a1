"""Transcripts: what a client says and hears, in files that anyone can read.

Their form is described in transcripts/README.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from cdbs import make_cdb
from daemons import Peer, Script, clamd, policy, rspamd, spamd
from dns_server import DnsServer
from harness import PROGRAMS, Home, Message, Variables
from plugin_lines import PLUGINS
from run import Run
from tls_home import SERVER

FOLDER = Path(__file__).parent / "transcripts"
READY = b"220 Ready to start TLS (#5.7.0)"
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def unescape(text: str) -> bytes:
    """The bytes that a TEXT stands for."""
    raw = re.sub(
        rb"\\(?:x([0-9a-f]{2})|(.))",
        lambda m: bytes((int(m[1], 16),)) if m[1] else _ESCAPES[m[2]],
        text.encode(),
    )
    return re.sub(rb"(.)\*(\d+)", lambda m: m[1] * int(m[2]), raw)


def _scanner(name: str, answer: bytes) -> Script:
    """A daemon of this kind, which says this of each message."""
    if name == "clamd":
        return clamd(lambda message: answer)
    return {"rspamd": rspamd, "spamd": spamd}[name](lambda head, message: answer)


class Transcript:
    """One session, and what it leaves behind."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name = name
        self._settings: list[tuple[str, str, str]] = []  # word, name, value
        self._environ: Variables = {}
        self._zone: list[str] = []  # lines for dns_server.py
        self._policy: dict[bytes, bytes] = {}  # who is asked about -> the action
        self._scanners: dict[str, Script] = {}  # name -> what answers each message
        self._arguments: list[str] = []
        self._sent = [b""]  # before the handshake, and after it
        self.said: list[bytes] = []  # by the server
        self._queued: list[bytes] = []
        self._stored: list[bytes] = []
        self._logged: list[str] = []
        self._status: int | None = None
        for line in lines:
            if line and not line.startswith("#"):
                self._read(line)

    def _read(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word in ("C:", "c:"):
            self._sent[-1] += unescape(rest) + (b"\r\n" if word == "C:" else b"")
        elif word == "S:":
            self.said.append(unescape(rest))
        elif line == "STARTTLS":
            self._sent[-1] += b"STARTTLS\r\n"
            self._sent.append(b"")
            self.said.append(READY)
        elif word in ("control", "file", "cdb", "program"):
            name, _, value = rest.partition(":")
            self._settings.append((word, name, value))
        elif word in ("plugin:", "queue:"):
            self._settings.append((word, "", rest))
        elif word == "env":
            name, equals, value = rest.partition("=")
            text = os.fsdecode(unescape(value))
            self._environ[name.lstrip("-")] = text if equals else None
        elif word == "dns:":
            self._zone.append(rest)
        elif word == "policy:":
            who, _, action = rest.partition(" ")
            self._policy[who.encode()] = unescape(action)
        elif word == "scanner:":
            name, _, text = rest.partition(" ")
            self._scanners[name] = _scanner(name, unescape(text))
        elif word == "arguments:":
            self._arguments = rest.split()
        elif word == "exit:":
            self._status = int(rest)
        elif word == "queued:":
            self._queued.append(unescape(rest))
        elif word == "stored:":
            self._stored.append(unescape(rest))
        elif word == "log:":
            self._logged.append(rest)
        else:
            raise AssertionError(f"what is {line!r}?")

    @property
    def modes(self) -> list[tuple[str, bool]]:
        """The ways in which it is run: pipe or socket, and whether byte by byte."""
        if len(self._sent) > 1:
            return [("socket", False), ("socket", True)]
        if self.name.startswith(("filters-", "plugins-")):
            return [("pipe", False), ("socket", True)]
        return [(over, dribble) for dribble in (False, True) for over in ("pipe", "socket")]

    def check(self, home: Home, over: str, dribble: bool) -> None:
        """Have the session, and compare."""
        run = self.play(home, over, dribble)
        messages = home.messages()
        status = self._status
        if status is None:
            status = 0 if self.said[-1].startswith(b"221 ") else 1
        for what, found, expected in (
            ("what the server says", run.lines, self.said),
            ("what is queued", [_summary(message) for message in messages], self._queued),
            (
                "the last message",
                messages[-1].body.removesuffix(b"\n").split(b"\n") if self._stored else [],
                self._stored,
            ),
            ("the exit status", [b"%d" % run.status], [b"%d" % status]),
            ("processes left behind", [b"%d" % pid for pid in run.children], []),
        ):
            assert found == expected, _difference(what, found, expected) + run.log
        for text in self._logged:
            assert text in run.log, f"no {text!r} in the log:\n{run.log}"
        if not any("trouble" in text for text in self._logged):
            assert "trouble" not in run.log, run.log

    def play(self, home: Home, over: str, dribble: bool, ready: bytes = READY, **more: str) -> Run:
        """Have the session, with some more variables; `ready` is the answer to STARTTLS."""
        self._set_up(home)
        checker = str(PROGRAMS / "checker")
        arguments = [checker if word == "checker" else word for word in self._arguments]
        environ: Variables = {"SEEN": str(home.path / "seen"), **self._environ, **more}
        with ExitStack() as stack:
            if self._zone:
                dns = stack.enter_context(DnsServer("\n".join(self._zone)))
                seconds = "1" if any(line.endswith(" silent") for line in self._zone) else "20"
                environ = {"DNSCACHEIP": dns.where, "DNSTIMEOUT": seconds, **environ}
            if self._policy:
                stack.enter_context(Peer(policy(self._action), home.path / "policy"))
            for name, script in self._scanners.items():
                stack.enter_context(Peer(script, home.path / name))
            return self._have(home, arguments, over, dribble, environ, ready)

    def _action(self, facts: Mapping[bytes, bytes]) -> bytes:
        state, recipient = facts[b"protocol_state"], facts[b"recipient"]
        return self._policy.get(recipient if state == b"RCPT" else state, b"DUNNO")

    def _have(
        self,
        home: Home,
        arguments: list[str],
        over: str,
        dribble: bool,
        environ: Variables,
        ready: bytes,
    ) -> Run:
        if len(self._sent) == 1:
            return home.run(self._sent[0], *arguments, over=over, dribble=dribble, **environ)
        return self._in_tls(home, arguments, dribble, environ, ready)

    def _set_up(self, home: Home) -> None:
        plugins = []
        for word, name, value in self._settings:
            if word == "plugin:":
                plugins.append(value)
            elif word == "queue:":
                home.environ["QMAILQUEUE"] = home.script(value)
            elif word == "program":
                home.file(name, "#!/bin/sh\n", value[1:], "\n").chmod(0o755)
            elif word == "control":
                home.control(name, *_items(value))
            elif word == "cdb":
                make_cdb(home.file(name), dict.fromkeys(_items(value), b""))
            else:
                home.file(name, *(line + b"\n" for line in _items(value)))
        if plugins:
            home.control("plugins", *map(_plugin, plugins))
        if len(self._sent) > 1:
            SERVER.save(home.control_dir / "servercert.pem")

    def _in_tls(
        self, home: Home, arguments: list[str], dribble: bool, environ: Variables, ready: bytes
    ) -> Run:
        before, after = (
            [bytes((byte,)) for byte in sent] if dribble else [sent] for sent in self._sent
        )
        lines = []
        with home.talk(*arguments, **environ) as talk:
            talk.send_each(*before)
            while (line := talk.line()) and line != ready:
                lines.append(line)
            lines.append(line)
            talk.handshake()
            talk.send_each(*after)
            run = talk.ended()
        run.out = b"".join(line + b"\r\n" for line in lines) + run.out
        return run


def _items(value: str) -> list[bytes]:
    """What stands behind the colon: ` A|B`, or nothing at all."""
    return [unescape(item) for item in value[1:].split("|")] if value else []


def _summary(message: Message) -> bytes:
    return message.sender + b" -> " + b" ".join(message.recipients)


def _difference(what: str, found: list[bytes], expected: list[bytes]) -> str:
    """As a text with + for what came and - for what should have come."""
    lines = difflib.ndiff(
        [str(line)[2:-1] for line in expected], [str(line)[2:-1] for line in found]
    )
    return "\n".join([f"{what}:", *lines, ""])


def _plugin(line: str) -> str:
    """A line of control/plugins, in which a plugin of tests/plugins has its path."""
    word, blank, options = line.partition(" ")
    name, colon, instance = word.partition(":")
    path = PLUGINS / f"{name}.py"
    return f"{path if path.exists() else name}{colon}{instance}{blank}{options}"


def load() -> Iterator[Transcript]:
    """All of them."""
    for path in sorted(FOLDER.glob("*.txt")):
        for section in re.split(r"(?m)^== ", path.read_text())[1:]:
            name, *lines = section.split("\n")
            yield Transcript(f"{path.stem}: {name}", lines)
