"""Evidence: the bytes of one check, in the order in which they were used."""

from __future__ import annotations

import re
from dataclasses import dataclass

PROBE, PEER, NOTE = "probe", "peer", "note"
CLEAR, TLS = "clear", "tls"
HIDDEN = b"(secret)"
#: The maximum of one entry that is shown (bytes); a hostile peer may send megabytes.
SHOWN = 1000
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_LINE_END = re.compile(rb"\r?\n?\Z")
#: AUTH and its mechanism; behind them an initial response (RFC 4954, 4).
_AUTH = re.compile(rb"[ \t]*AUTH(?:[ \t]+[^ \t\r\n]*[ \t]*)?", re.IGNORECASE)
#: What is no response to AUTH: another command, or RFC 4954's way to give up.
_COMMAND = re.compile(
    rb"(?:EHLO|LHLO|HELO|STARTTLS|MAIL|RCPT|DATA|RSET|NOOP|QUIT|\*)(?![^ \r\n])", re.IGNORECASE
)


@dataclass(frozen=True)
class Entry:
    """Bytes that somebody sent, or a remark of ours.

    `who` is PROBE, PEER or NOTE; `layer` is CLEAR or TLS.
    """

    who: str
    layer: str
    data: bytes


class Evidence:
    """What was sent and received, and what happened in between."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._secrets: list[bytes] = []

    def add(self, who: str, layer: str, data: bytes) -> None:
        """Write down bytes, or a remark in ASCII."""
        self._entries.append(Entry(who, layer, data))

    def note(self, text: str, layer: str = CLEAR) -> None:
        """Write down what happened."""
        self.add(NOTE, layer, text.encode("ascii", "backslashreplace"))

    def hide(self, secret: bytes) -> None:
        """Never show this token, wherever it was or will be written down.

        What AUTH sends is hidden without that.  Others may repeat it.
        """
        self._secrets.append(secret)

    def entries(self) -> list[Entry]:
        """All of it, without the secrets."""
        shown = []
        responding = ""  # who said AUTH, or was told 334 to send more
        for entry in self._entries:
            if entry.who == NOTE:
                shown.append(entry)
                continue
            data = b""
            for line in _LINE.findall(self._censored(entry.data)):
                auth = _AUTH.match(line)
                if auth:
                    data += _hidden(line, auth.end())
                elif entry.who == responding and not _COMMAND.match(line):
                    data += _hidden(line, 0)
                else:
                    data += line
                if auth:
                    responding = entry.who
                elif line.startswith(b"334"):
                    responding = PEER if entry.who == PROBE else PROBE
                elif entry.who == responding:
                    responding = ""
            shown.append(Entry(entry.who, entry.layer, data))
        return shown

    def _censored(self, data: bytes) -> bytes:
        for secret in self._secrets:
            token = rb"(?<![A-Za-z0-9+/=])" + re.escape(secret) + rb"(?![A-Za-z0-9+/=])"
            data = re.sub(token, HIDDEN, data)
        return data


def _hidden(line: bytes, start: int) -> bytes:
    """The line with what stands from there to its end hidden, if there is anything."""
    end = _LINE_END.search(line)
    stop = end.start() if end else len(line)
    return line[:start] + HIDDEN + line[stop:] if start < stop else line


def printable(data: bytes) -> str:
    """Bytes as ASCII that is harmless on a terminal; a backslash is doubled.

    What is longer than SHOWN is cut, and the cut is said.
    """
    shown = "".join(
        _ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")
        for byte in data[:SHOWN]
    )
    return shown if len(data) <= SHOWN else f"{shown} ... ({len(data)} bytes)"


_ESCAPES = {0x0D: "\\r", 0x0A: "\\n", 0x09: "\\t", 0x5C: "\\\\"}
