"""badmimetypes: attachments by their first characters in base64.

Configuration: BADMIMETYPE.  Empty, or any character: the first 9 characters of each part in
base64 are looked for in control/badmimetypes.cdb, of qmail-badmimetypes, or where there is none
in control/badmimetypes, of whose lines the first 9 characters count; `+`: not those of clients
that may relay; `!`: besides, blanks before or between these characters are not accepted; `-`:
off.
Contentaction and contentbeyond: see content.py.
Replies: `554 sorry, invalid message content (#5.3.2)`, with what REPLY_CONTENT adds.
Log keys: by=badmimetypes; found=, the characters; beyond=.

In SPAMCONTROL they are those of the first line behind an empty one, as it is written; here what
is no character of base64 does not count, wherever a line ends, as for those who decode it.
"""

from __future__ import annotations

from .content import ContentFilter, Watcher
from .signatures import BASE64, NOT_BASE64, Signatures, refusal, switch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..facts import Client
    from ..smtp.mime import MimeScanner

FILE, VARIABLE, LENGTH = "badmimetypes", "BADMIMETYPE", 9
NO_BLANKS = b"!"
#: For who looks for blanks: what a byte is.  Others, such as `-` or a form feed, are nothing.
_KINDS = bytes(0x78 if byte in BASE64 else 0x20 if byte in b" \t" else byte for byte in range(256))
_OTHERS = bytes(byte for byte in range(256) if byte not in BASE64 + b" \t\n")


class Plugin(ContentFilter):
    """Knows attachments by what they begin with.  Raises ControlError."""

    __slots__ = ("_switch", "_signatures", "_refusal")

    def __init__(self, settings: PluginSettings) -> None:
        self._refusal = refusal(settings)
        self._switch = switch(settings, VARIABLE)
        self._signatures: Signatures | None = None
        if self._switch is not None:
            self._signatures = Signatures(settings, FILE, LENGTH, self._switch != NO_BLANKS)
        super().__init__(settings)

    def _is_on(self) -> bool:
        return self._signatures is not None

    def _spares(self, client: Client) -> bool:
        return self._switch == b"+" and client.relay is not None

    def _watch(self, scanner: MimeScanner) -> Watcher:
        assert self._signatures is not None
        watcher = _Beginnings(self._signatures, self._switch == NO_BLANKS, self._refusal)
        scanner.listeners.append(watcher.hear)
        return watcher


class _Beginnings(Watcher):
    """What the parts of one message begin with."""

    __slots__ = ("_signatures", "_refusal", "_kept", "_all", "_no_blanks", "_blank", "_blanks")

    def __init__(self, signatures: Signatures, no_blanks: bool, refusal: Decision) -> None:
        self._signatures = signatures
        self._refusal = refusal
        self._kept = b""  # of this part
        self._all: dict[bytes, None] = {}
        self._no_blanks = no_blanks
        self._blank = b""  # what has come last was one
        self._blanks = False

    def hear(self, text: bytes) -> None:
        """More of a part in base64; b"" where one begins."""
        if not text:
            self._kept = self._blank = b""
            return
        if len(self._kept) < LENGTH:
            self._kept += text.translate(None, NOT_BASE64)[: LENGTH - len(self._kept)]
            if len(self._kept) == LENGTH:
                self._all[self._kept] = None
        if self._no_blanks and not self._blanks:
            kinds = self._blank + text.translate(_KINDS, _OTHERS)
            self._blanks = b" x" in kinds
            self._blank = kinds[-1:] if kinds.endswith(b" ") else b""

    def found(self, scanner: MimeScanner) -> tuple[bytes, Decision] | None:
        for beginning in self._all:
            if beginning in self._signatures:
                return beginning, self._refusal
        return (b"blanks in base64", self._refusal) if self._blanks else None
