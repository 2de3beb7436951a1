"""badloadertypes: attachments by characters that stand anywhere in their base64.

Configuration: BADLOADERTYPE.  A character of base64, as M: the entries of
control/badloadertypes.cdb, of qmail-badloadertypes, that begin with it are looked for in each
part in base64; where there is no such cdb, those of control/badloadertypes, of whose lines the
first 5 characters count.  Empty: all entries; `+`: all, not for clients that may relay; `-`: off.
Contentaction and contentbeyond: see content.py.
Replies: `554 sorry, invalid message content (#5.3.2)`, with what REPLY_CONTENT adds.
Log keys: by=badloadertypes; found=, the characters; beyond=.

In SPAMCONTROL they have to stand in one line, an empty variable is off, and `+` looks for
entries that begin with a `+`.
"""

from __future__ import annotations

from ..facts import ControlError
from .content import Watcher
from .signatures import BASE64, NOT_BASE64, NOT_RELAY, SignatureFilter, Signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..smtp.mime import MimeScanner

FILE, VARIABLE, LENGTH = "badloadertypes", "BADLOADERTYPE", 5


class Plugin(SignatureFilter):
    """Knows attachments by what is in them.  Raises ControlError."""

    __slots__ = ()
    variable = VARIABLE

    def _read(self, settings: PluginSettings, switch: bytes) -> Signatures:
        if switch not in BASE64:
            raise ControlError(VARIABLE, "is no character of base64, with which entries begin")
        return Signatures(settings, FILE, LENGTH)

    def _watch(self, scanner: MimeScanner) -> Watcher:
        assert self._signatures is not None
        first = b"" if self._switch == NOT_RELAY else self._switch or b""
        watcher = _Search(self._signatures, first, self._refusal)
        scanner.listeners.append(watcher.hear)
        return watcher


class _Search(Watcher):
    """Looks through the parts of one message."""

    __slots__ = ("_signatures", "_first", "_refusal", "_wanted", "_tail", "_found")

    def __init__(self, signatures: Signatures, first: bytes, refusal: Decision) -> None:
        self._signatures = signatures
        self._first = first
        self._refusal = refusal
        self._wanted: list[bytes] | None = None  # read when there is a part in base64
        self._tail = b""
        self._found: bytes | None = None

    def hear(self, text: bytes) -> None:
        """More of a part in base64; b"" where one begins."""
        if not text:
            self._tail = b""
            return
        if self._found is not None:
            return
        if self._wanted is None:
            entries = self._signatures.entries()
            self._wanted = [entry for entry in entries if entry.startswith(self._first)]
        letters = self._tail + text.translate(None, NOT_BASE64)
        self._tail = letters[1 - LENGTH :]
        places = ((letters.find(entry), entry) for entry in self._wanted)
        found = [(place, entry) for place, entry in places if place >= 0]
        self._found = min(found)[1] if found else None

    def found(self, scanner: MimeScanner) -> tuple[bytes, Decision] | None:
        return None if self._found is None else (self._found, self._refusal)
