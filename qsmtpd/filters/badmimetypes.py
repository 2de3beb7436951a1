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
is no character of base64 does not count, wherever a line ends, as for those who decode it; and
padding between them counts as the end of a piece, and not at all.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64

from .content import Watcher
from .signatures import BASE64, SignatureFilter, Signatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..smtp.mime import MimeScanner

FILE, VARIABLE, LENGTH = "badmimetypes", "BADMIMETYPE", 9
NO_BLANKS = b"!"
#: For who looks for blanks: what a byte is.  Others, such as `-` or a form feed, are nothing.
_KINDS = bytes(0x78 if byte in BASE64 else 0x20 if byte in b" \t" else byte for byte in range(256))
_OTHERS = bytes(byte for byte in range(256) if byte not in BASE64 + b" \t\n")


class Plugin(SignatureFilter):
    """Knows attachments by what they begin with.  Raises ControlError."""

    __slots__ = ()
    variable = VARIABLE

    def _read(self, settings: PluginSettings, switch: bytes) -> Signatures:
        return Signatures(settings, FILE, LENGTH, needed=switch != NO_BLANKS)

    def _watch(self, scanner: MimeScanner) -> Watcher:
        assert self._signatures is not None
        watcher = _Beginnings(self._signatures, self._refusal)
        if self._switch == NO_BLANKS:
            scanner.listeners.append(watcher.hear)
        return watcher


class _Beginnings(Watcher):
    """What the parts of one message begin with."""

    __slots__ = ("_signatures", "_refusal", "_blank", "_blanks")

    def __init__(self, signatures: Signatures, refusal: Decision) -> None:
        self._signatures = signatures
        self._refusal = refusal
        self._blank = b""  # what has come last was one
        self._blanks = False

    def hear(self, text: bytes) -> None:
        """More of a part in base64, for who looks for blanks; b"" where one begins."""
        if not text:
            self._blank = b""
        elif not self._blanks:
            kinds = self._blank + text.translate(_KINDS, _OTHERS)
            self._blanks = b" x" in kinds
            self._blank = kinds[-1:] if kinds.endswith(b" ") else b""

    def found(self, scanner: MimeScanner) -> tuple[bytes, Decision] | None:
        for beginning in sorted(scanner.beginnings):
            for letters in (beginning.replace(b"=", b""), _encoded_anew(beginning)):
                if letters[:LENGTH] in self._signatures:
                    return letters[:LENGTH], self._refusal
        return (b"blanks in base64", self._refusal) if self._blanks else None


def _encoded_anew(text: bytes) -> bytes:
    """What base64 stands for that has padding within it, in base64 without."""
    pieces = (piece[: len(piece) - (len(piece) % 4 == 1)] for piece in text.split(b"="))
    data = (a2b_base64(piece + b"=" * (-len(piece) % 4)) for piece in pieces)
    return b2a_base64(b"".join(data), newline=False)
