"""unknown: sends away who does not speak SMTP.

Configuration: the variable MAXNOTIMPL, how many unknown commands of a connection
are answered; 0, the default, is no limit of this kind.
Replies: `421 too many unknown commands (#4.7.0)` to the next one, and the
connection is closed.
Log keys: by=unknown.

The name is mailfront's.  There only unknown commands in a row count; here all
of the connection do, also those before STARTTLS, or a known one in between
would begin a new row.  They are errors, too: see maxerrors in qsmtpd-control(5).
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, drop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client

TOO_MANY = drop(b"too many unknown commands", 421, b"4.7.0")


class Plugin:
    """Counts.  Raises ControlError."""

    __slots__ = ("_limit",)

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.number(None, "MAXNOTIMPL", 0)

    def unknown(self, client: Client, line: bytes) -> Decision:
        return TOO_MANY if 0 < self._limit < client.counters.unknown else DECLINED
