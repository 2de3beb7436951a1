"""signatures: what badmimetypes and badloadertypes have in common, lists of pieces of base64."""

from __future__ import annotations

from ..config.settings import shown
from ..decision import reject
from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from ..config.cdb import Cdb, State
    from ..config.settings import PluginSettings
    from ..decision import Decision

BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
NOT_BASE64 = bytes(byte for byte in range(256) if byte not in BASE64)
ENTRIES_LIMIT = 1000
OFF = b"-"


def switch(settings: PluginSettings, variable: str) -> bytes | None:
    """What a variable says that is at most one character, or None where the filter is off.

    Raises ControlError.
    """
    value = settings.line(None, variable)
    if value is not None and len(value) > 1:
        raise ControlError(variable, f"is {shown(value)}, and has to be one character, or none")
    return None if value == OFF else value


def refusal(settings: PluginSettings) -> Decision:
    """As SPAMCONTROL says it.  Raises ControlError."""
    text = settings.worded(b"sorry, invalid message content", "REPLY_CONTENT")
    return reject(text, 554, b"5.3.2")


class Signatures:
    """The list of a file: its cdb, or where there is none the first characters of its lines.

    There has to be one of them, if `needed`.  Raises ControlError, as each lookup of a cdb may.
    """

    __slots__ = ("_cdb", "_entries", "_length", "_name", "_known", "_state")

    def __init__(
        self, settings: PluginSettings, file: str, length: int, needed: bool = True
    ) -> None:
        self._name = f"control/{file}.cdb"
        self._length = length
        self._entries: frozenset[bytes] = frozenset()
        self._known: list[bytes] = []  # the keys of the cdb, when it was in that state
        self._state: State | None = None
        self._cdb: Cdb | None = settings.cdb(file + ".cdb")
        if self._cdb is not None:
            return
        lines = settings.lines(file)
        if lines is None:
            if needed:
                raise ControlError(self._name, f"is missing, and so is control/{file}")
            lines = []
        for line in lines:
            if len(line) < length:
                raise settings.bad_entry(file, line, f"has less than {length} characters")
        self._entries = frozenset(line[:length] for line in lines)

    def __contains__(self, entry: bytes) -> bool:
        return entry in (self._entries if self._cdb is None else self._cdb)

    def entries(self) -> Collection[bytes]:
        """All of them."""
        if self._cdb is None:
            return self._entries
        state = self._cdb.state()
        if state != self._state:
            self._known = [key for key, _ in self._cdb.items() if len(key) == self._length]
            self._state = state
        return self._known
