"""content: what the filters have in common that look into messages.

control/contentaction or CONTENTACTION: what becomes of a message in which one of them finds
what is listed, `refuse` or `mark`: it passes, with the line `X-Content-Warning: WHO: WHAT`.
control/contentbeyond or CONTENTBEYOND: the same of a message in which there is more than they
look at, `refuse`, `mark` or `pass`; the default is that of contentaction.
Both may be options of a filter's line, for that one.
Where one of them marks, lines of this name from outside are removed.
"""

from __future__ import annotations

from ..decision import DECLINED, decline, reject
from .said import said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..decision import Decision, Removals
    from ..facts import Client, Envelope, Message
    from ..smtp.mime import MimeScanner

REFUSE, MARK, PASS = "refuse", "mark", "pass"
LINE = b"X-Content-Warning"
REMOVED: Removals = {LINE: None}
#: In the notes of an envelope: the Scan of its message.
NOTE = "content"
SHOWN_LIMIT = 100  # bytes of what is found
BEYOND_STATUS = b"5.6.0"


class Verdict:
    """What becomes of a message in which there is something.  Raises ControlError."""

    __slots__ = ("marks", "_settings", "_action", "_beyond")

    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self._action = settings.choice("contentaction", "CONTENTACTION", (REFUSE, MARK))
        other = MARK if self._action == REFUSE else REFUSE
        usual = self._action, other, PASS
        self._beyond = settings.choice("contentbeyond", "CONTENTBEYOND", usual)
        self.marks = MARK in (self._action, self._beyond)

    def found(self, what: bytes, refusal: Decision) -> Decision:
        """It is listed; `refusal` is what the client is told where it is refused."""
        self._settings.log(found=what[:SHOWN_LIMIT])
        return refusal if self._action == REFUSE else self._mark(what)

    def beyond(self, limit: bytes) -> Decision:
        """There is more than what is looked at."""
        self._settings.log(beyond=limit)
        if self._beyond == PASS:
            return DECLINED
        if self._beyond == MARK:
            return self._mark(b"not checked, " + limit)
        return reject(b"message cannot be checked: " + limit, 554, BEYOND_STATUS)

    def removal(self) -> Decision:
        """At the stage header: what is forged is to go."""
        return decline(remove=REMOVED) if self.marks else DECLINED

    def _mark(self, what: bytes) -> Decision:
        plugin = self._settings.plugin.encode("ascii", "replace")
        line = b"%b: %b: %b" % (LINE, plugin.partition(b":")[0], said(what, SHOWN_LIMIT))
        return decline(header=[line])


class Watcher:
    """What one filter looks for in one message; it may be a listener of the scanner."""

    __slots__ = ()

    def found(self, scanner: MimeScanner) -> tuple[bytes, Decision] | None:
        """When all has been seen: what is listed, and the refusal for it."""
        raise NotImplementedError


class Scan:
    """One message, scanned once for all filters: `owner` feeds it."""

    __slots__ = ("message", "owner", "scanner", "watchers")

    def __init__(self, message: Message, owner: ContentFilter) -> None:
        from ..smtp.mime import MimeScanner  # now: most sessions end without a message

        self.message = message
        self.owner = owner
        self.scanner = MimeScanner(message.header, message.broken_header)
        self.watchers: dict[ContentFilter, Watcher] = {}
        if not message.whole_header:
            self.scanner.beyond = b"message header too long"


class ContentFilter:
    """A filter that looks into the parts of messages.  Raises ControlError.

    Nothing of a message is in it: see Scan.
    """

    __slots__ = ("spool", "_verdict")
    removes = True

    def __init__(self, settings: PluginSettings) -> None:
        self._verdict = Verdict(settings)
        self.spool = self._verdict.marks and self._is_on()

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        if not self._is_on() or self._spares(client):
            return DECLINED
        scan = envelope.notes.get(NOTE)
        if scan is None or scan.message is not message:
            scan = envelope.notes[NOTE] = Scan(message, self)
        scan.watchers[self] = self._watch(scan.scanner)
        return self._verdict.removal()

    def body(self, client: Client, envelope: Envelope, chunk: bytes) -> None:
        scan = envelope.notes.get(NOTE)
        if scan is not None and scan.owner is self:
            scan.scanner.feed(chunk)

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        scan = envelope.notes.get(NOTE)
        if scan is None or scan.message is not message or self not in scan.watchers:
            return DECLINED
        scan.scanner.finish()
        found = scan.watchers[self].found(scan.scanner)
        if found is not None:
            return self._verdict.found(*found)
        return self._verdict.beyond(scan.scanner.beyond) if scan.scanner.beyond else DECLINED

    def _is_on(self) -> bool:
        """Is there anything that it looks for?"""
        raise NotImplementedError

    def _spares(self, client: Client) -> bool:
        """Are the messages of this client none of its business?"""
        return False

    def _watch(self, scanner: MimeScanner) -> Watcher:
        """What it looks for in a message."""
        raise NotImplementedError
