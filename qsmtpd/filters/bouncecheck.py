"""bouncecheck: a bounce has one recipient.

Configuration: the variable BOUNCECHECK; `0` is off, like not set.
What bounces goes to one address, the sender of what could not be delivered (RFC
5321, 4.5.5); the null sender with several recipients is an attempt to get past
filters that let bounces in.  But some mail servers expand an alias to several
recipients and keep the null sender: who receives for such servers does not want
this.
Clients that may relay or have authenticated are not asked.
Replies: `553 sorry, bounce messages should have a single envelope recipient
(#5.7.1)` at DATA, when all recipients are known (IndiMail's).
Log keys: by=bouncecheck.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope

SEVERAL = reject(b"sorry, bounce messages should have a single envelope recipient", 553, b"5.7.1")


class Plugin:
    """Refuses the null sender with several recipients.  Raises ControlError."""

    __slots__ = ("_on",)
    immune = ("relay", "auth")

    def __init__(self, settings: Settings) -> None:
        self._on = settings.line(None, "BOUNCECHECK") not in (None, b"0")

    def data(self, client: Client, envelope: Envelope) -> Decision:
        if self._on and not envelope.sender and len(envelope.recipients) > 1:
            return SEVERAL
        return DECLINED
