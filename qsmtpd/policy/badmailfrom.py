"""badmailfrom: senders whose mail is refused.

Configuration: control/badmailfrom, one entry a line, an address or `@domain`;
case does not matter.
Replies: as in qmail-smtpd, MAIL is accepted and each RCPT refused with `553
sorry, your envelope sender is in my badmailfrom list (#5.7.1)`.
Log keys: by=badmailfrom.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..control import Settings
    from ..facts import Client, Envelope

LISTED = reject(b"sorry, your envelope sender is in my badmailfrom list", 553, b"5.7.1")


class Plugin:
    """Refuses listed senders, relay clients included.  Raises ControlError."""

    __slots__ = ("_entries",)

    def __init__(self, settings: Settings) -> None:
        self._entries = frozenset(entry.lower() for entry in settings.lines("badmailfrom") or ())

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if not self._entries:
            return DECLINED
        sender = envelope.sender.lower()
        _, at, domain = sender.rpartition(b"@")
        if sender in self._entries or (at and at + domain in self._entries):
            return LISTED
        return DECLINED
