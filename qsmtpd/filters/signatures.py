"""signatures: what badmimetypes and badloadertypes have in common, lists of pieces of base64."""

from __future__ import annotations

from ..config.settings import shown
from ..decision import reject
from ..facts import ControlError
from .content import ContentFilter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from ..config.cdb import Cdb, State
    from ..config.settings import PluginSettings
    from ..facts import Client

BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
NOT_BASE64 = bytes(byte for byte in range(256) if byte not in BASE64)
OFF, NOT_RELAY = b"-", b"+"


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


class SignatureFilter(ContentFilter):
    """A filter with such a list, and a variable of one character at most.  Raises ControlError."""

    __slots__ = ("_switch", "_signatures", "_refusal")
    #: The name of the variable.
    variable = ""

    def __init__(self, settings: PluginSettings) -> None:
        text = settings.worded(b"sorry, invalid message content", "REPLY_CONTENT")
        self._refusal = reject(text, 554, b"5.3.2")  # as SPAMCONTROL says it
        value = settings.line(None, self.variable)
        if value is not None and len(value) > 1:
            what = f"is {shown(value)}, and has to be one character, or none"
            raise ControlError(self.variable, what)
        self._switch = None if value == OFF else value
        self._signatures: Signatures | None = None
        if self._switch is not None:
            self._signatures = self._read(settings, self._switch)
        super().__init__(settings)

    def _read(self, settings: PluginSettings, switch: bytes) -> Signatures:
        """The list, where the variable says this.  Raises ControlError."""
        raise NotImplementedError

    def _is_on(self) -> bool:
        return self._signatures is not None

    def _spares(self, client: Client) -> bool:
        return self._switch == NOT_RELAY and client.relay is not None
