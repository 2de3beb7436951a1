"""badrcptto: recipients who are not to have mail.

Configuration: control/badrcptto, one entry a line; case does not matter, and
the last entry that matches decides: an address, `@domain`, a pattern or an
expression as in badmailfrom, or one of these behind a `!`, which takes back
what the entries before it say: `*` and then `!joe@example.org` leaves Joe
alone.
REPLY_BADRCPTTO adds to the reply.
Replies: `553 sorry, your envelope recipient is in my badrcptto list (#5.7.1)`,
to clients that may relay as well: 553 is what SPAMCONTROL's code says, and what
badmailfrom and rcpthosts say; its documentation has 550.
Log keys: by=badrcptto.

In SPAMCONTROL `!` takes back patterns only, and patterns mind the case.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..smtp.address import spellings
from .wildmat import Listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope

TEXT = b"sorry, your envelope recipient is in my badrcptto list"


class Plugin:
    """Refuses listed recipients, whoever sends.  Raises ControlError."""

    __slots__ = ("_listing", "_refusal")

    def __init__(self, settings: Settings) -> None:
        entries = enumerate(settings.lines("badrcptto") or [])
        self._listing = Listing(settings, "badrcptto", entries)
        self._refusal = reject(settings.worded(TEXT, "REPLY_BADRCPTTO"), 553, b"5.7.1")

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        _, listed = self._listing.last_of(spellings(recipient, envelope.utf8))
        return self._refusal if listed else DECLINED
