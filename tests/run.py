"""What one run of a program gave: its output, its log lines, its status."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

#: Every password that a test uses: in no log of any test may it be, nor its base64.
PASSWORDS = (b"secret", b"wrong!")
SECRETS = [p.decode() for p in PASSWORDS] + [
    base64.b64encode(prefix + p).decode().rstrip("=")
    for p in PASSWORDS
    for prefix in (b"", b"\0joe\0")
]


def without_secrets(log: str) -> str:
    """The log, in which there is no password."""
    for secret in SECRETS:
        assert secret not in log, log
    return log


def parse_log(line: str) -> dict[str, str]:
    """One log line -> its fields, by the rules of the manual page."""
    pairs = re.findall(r'([a-z_]+)=("[^"]*"|[^ "=]*)(?: |$)', line)
    assert " ".join(f"{key}={value}" for key, value in pairs) == line, line
    fields = {}
    for key, value in pairs:
        assert key not in fields, line
        if value.startswith('"'):
            value = re.sub(r"\\x(..)", lambda m: chr(int(m[1], 16)), value[1:-1])
        fields[key] = value
    # Who it was, or nothing: a plugin's own line may say what it likes.
    assert fields.get("by") != "" or fields.get("event") == "plugin", line
    return fields


def parse_events(log: str) -> list[dict[str, str]]:
    """The fields of every log line of ours; other programs share fd 2."""
    return [parse_log(line) for line in log.splitlines() if line.startswith("event=")]


@dataclass
class Run:
    """The output, the log, the exit status, and the processes that were left behind."""

    out: bytes
    log: str
    status: int
    children: list[int]

    def __post_init__(self) -> None:
        without_secrets(self.log)

    @property
    def lines(self) -> list[bytes]:
        """The reply lines, with time and pid masked; every one must end in CRLF."""
        assert self.out == b"" or self.out.endswith(b"\r\n"), self.out[-200:]
        masked = re.sub(rb"(?m)^250 ok \d+ qp \d+\r$", b"250 ok TIME qp PID\r", self.out)
        return masked.split(b"\r\n")[:-1]

    @property
    def codes(self) -> list[int]:
        """The code of each reply (of several lines, of the last)."""
        return [int(line[:3]) for line in self.lines if line[3:4] == b" "]

    def event(self, name: str) -> dict[str, str]:
        """The fields of the one log line of this event."""
        (found,) = self.events(name)
        return found

    def events(self, name: str) -> list[dict[str, str]]:
        """The fields of every log line of this event."""
        return [fields for fields in parse_events(self.log) if fields.get("event") == name]
