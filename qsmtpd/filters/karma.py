"""karma: sends away who is refused more often than accepted.

Configuration: the variable KARMALIMIT, a number; 0, the default, is no limit.
The score of a connection begins at 0.  Each refusal for good by a plugin, each
unknown command and each wrong password (535) lowers it by 1; each message that
the queue has taken raises it by 1.  Other plugins may change it as well, as
client.counters.karma.  It outlives STARTTLS, and ends with the connection.
Replies: where the score is as low as -KARMALIMIT, `421 too many refusals, try
again later (#4.7.0)` to the next MAIL or RCPT, and the connection is closed.
Log keys: by=karma; score=.

The idea is qpsmtpd's; its karma also remembers a score for each address.  This
one remembers nothing.
"""

from __future__ import annotations

from ..decision import DECLINED, REJECT, Decision, drop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Ruling

TOO_LOW = drop(b"too many refusals, try again later", 421, b"4.7.0")


class Plugin:
    """Keeps the score.  Raises ControlError."""

    __slots__ = ("_limit", "_settings")
    immune = ("relay", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self._limit = settings.number(None, "KARMALIMIT", 0)

    def mail(self, client: Client, envelope: Envelope) -> Decision:
        return self._judge(client)

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        return self._judge(client)

    def _judge(self, client: Client) -> Decision:
        if not self._limit or client.counters.karma > -self._limit:
            return DECLINED
        self._settings.log(score=client.counters.karma)
        return TOO_LOW

    def ok(self, client: Client, ruling: Ruling) -> None:
        if ruling.stage == "queue":
            client.counters.karma += 1

    def deny(self, client: Client, ruling: Ruling) -> None:
        if ruling.decision.verdict != REJECT:
            return
        # Of qsmtpd's own refusals, not those of syntax and sequence: they are errors.
        if ruling.plugin or ruling.stage == "unknown" or ruling.code == 535:
            client.counters.karma -= 1
