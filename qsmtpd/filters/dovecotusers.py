"""dovecotusers: refuses recipients whom Dovecot does not know.

Configuration: control/dovecotusers or DOVECOTUSERS, the address of a userdb socket
of Dovecot's, `unix:PATH`, the path alone, relative to QMAILHOME, or
`inet:HOST:PORT`; where the variable is empty nobody is asked.  A user is looked up
as the recipient is written, its domain in lower case, and where that is not
known without what follows the first `+` or `-` of the local part.
DOVECOTDELIMITER: other characters for these two; empty, none.
DOVECOTUSERSTIMEOUT: how long Dovecot may take to answer, 20 seconds.
REPLY_MAILBOX: text that is added to the refusal.
A session has one connection, and asks about each name once.  `postmaster` without a
domain is always taken (RFC 5321, 4.5.1).
Replies: `550 sorry, no mailbox here by that name (#5.1.1)`, not to clients that may
relay; `451 unable to verify recipient (#4.3.0)` where Dovecot cannot be reached, does
not answer in time, or says that it has a problem.
Log keys: by=dovecotusers; socket=, result= and to= where there was no answer.
"""

from __future__ import annotations

from time import monotonic

from ..decision import DECLINED, Decision, defer, reject
from ..facts import ControlError
from ..net.daemon import Ended, NoAnswer, address_of
from ..net.dovecot import Users, is_safe
from ..smtp.address import boxes, forms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope

FILE, VARIABLE = "dovecotusers", "DOVECOTUSERS"
DELIMITERS = b"+-"  # Dovecot's recipient_delimiter, and qmail's conf-break
UNABLE = defer(b"unable to verify recipient", 451, b"4.3.0")
#: The maximum number of names whose answers are remembered.
MEMORY = 1000


class Plugin:
    """Asks Dovecot about recipients.  Raises ControlError."""

    __slots__ = ("settings", "address", "refusal", "timeout", "_delimiters")
    immune = ("relay",)

    def __init__(self, settings: PluginSettings) -> None:
        self.settings = settings
        self.address = address_of(settings, FILE, VARIABLE)
        self.timeout = settings.number(None, "DOVECOTUSERSTIMEOUT", 20, least=1)
        delimiters = settings.line(None, "DOVECOTDELIMITER")
        if delimiters is None:
            delimiters = DELIMITERS
        if b"@" in delimiters or any(bytes((byte,)).isalnum() for byte in delimiters):
            raise ControlError("DOVECOTDELIMITER", "has a letter, a digit or an @")
        self._delimiters = frozenset(delimiters)
        text = settings.worded(b"sorry, no mailbox here by that name", "REPLY_MAILBOX")
        self.refusal = reject(text, 550, b"5.1.1")

    def for_session(self) -> Session:
        return Session(self)

    def names(self, recipient: bytes, utf8: bool) -> Iterator[bytes]:
        """The names by which Dovecot may know a recipient, in the order asked."""
        box, at, domain = recipient.rpartition(b"@")
        if not at:
            box, domain = recipient, b""
        short = next((box[:end] for end, c in enumerate(box) if end and c in self._delimiters), box)
        for part in dict.fromkeys((box, short)):
            for local in boxes(part, utf8):
                for form in forms(domain, utf8):
                    yield local + at + form


class Session:
    """The same for one session: the connection, and what Dovecot has answered."""

    __slots__ = ("_filter", "_users", "_known", "_silent_until")

    def __init__(self, filter: Plugin) -> None:
        self._filter = filter
        self._users: Users | None = None
        self._known: dict[bytes, bool] = {}
        self._silent_until = 0.0

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        asked = self._filter
        if asked.address is None or recipient.lower() == b"postmaster":
            return DECLINED
        try:
            if any(map(self._knows, asked.names(recipient, envelope.utf8))):
                return DECLINED
        except NoAnswer as error:
            asked.settings.log(socket=asked.address.text, result=str(error), to=recipient)
            return UNABLE
        return asked.refusal

    def _knows(self, name: bytes) -> bool:
        """Does Dovecot know this name?  Raises NoAnswer or Shutdown."""
        if not is_safe(name):  # it cannot be a user's
            return False
        if name not in self._known:
            if len(self._known) >= MEMORY:
                self._known.clear()
            self._known[name] = self._ask(name)
        return self._known[name]

    def _ask(self, name: bytes) -> bool:
        began = monotonic()
        # Each of many recipients would else cost the whole time.
        if began < self._silent_until:
            raise NoAnswer("timeout, a moment ago")
        asked = self._filter
        try:
            if self._users is not None and self._users.is_open():
                try:
                    return self._users.knows(name)
                except Ended:
                    pass  # its process has just been replaced: a question can be asked again
            assert asked.address is not None
            self._users = Users(asked.address, asked.timeout)
            return self._users.knows(name)
        except NoAnswer:
            self._users = None
            now = monotonic()
            if now - began >= asked.timeout:
                self._silent_until = now + asked.timeout
            raise

    def disconnect(self, client: Client) -> None:
        if self._users is not None:
            self._users.close()
            self._users = None
