"""Evidence: the bytes of one check, in the order in which they were used."""

from __future__ import annotations

from dataclasses import dataclass

PROBE, PEER, NOTE = "probe", "peer", "note"
CLEAR, TLS = "clear", "tls"
HIDDEN = b"(secret)"
#: So many bytes of one entry are shown; a hostile peer may send megabytes.
SHOWN = 1000


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
        """Never show these bytes, wherever they were or will be written down.

        Fewer than four are no base64, and would be found everywhere.
        """
        if len(secret) >= 4:
            self._secrets.append(secret)

    def entries(self) -> list[Entry]:
        """All of it, without the secrets."""
        return [
            Entry(entry.who, entry.layer, self._censored(entry.data)) for entry in self._entries
        ]

    def _censored(self, data: bytes) -> bytes:
        for secret in self._secrets:
            data = data.replace(secret, HIDDEN)
        return data


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
