"""helocheck: clients that introduce themselves wrongly.

Configuration: the variable HELOCHECK, with SPAMCONTROL's values, and the list
control/badhelo.  Where there is no variable, a badhelo is enough, as if
HELOCHECK were empty (in SPAMCONTROL nobody reads it then).

    empty  the name is not to be in badhelo
    `.`    nor is it to be missing
    `!`    it is not to be missing; badhelo does not count
    `=`    it has to be the client's host name, and not in badhelo

`A` and `M`, which look the name up, need DNS: that is not done yet, and they
are an error.  An entry of badhelo is a name, a pattern or an expression as in
badmailfrom, or one of these behind a `!`, which takes back what the entries
before it say; the last one that matches decides, and case does not matter.
`name!` exempts a name, or what a pattern or an expression matches, from all of
this.  No name at all is an empty one: `*` matches it.  REPLY_HELO adds to the
reply.
Replies: `550 sorry, invalid HELO/EHLO greeting (#5.7.1)`, at RCPT, and not to
clients that may relay.
Log keys: by=helocheck.

In SPAMCONTROL `name!` does not exempt from `=`, and with `=` a client without
a host name passes as `unknown`.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..facts import ControlError
from .wildmat import Listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope

TEXT = b"sorry, invalid HELO/EHLO greeting"
UNKNOWN = b"unknown"


class Plugin:
    """Refuses clients by their HELO.  Raises ControlError."""

    __slots__ = ("_rule", "_listing", "_exempt", "_refusal")
    immune = ("relay", "listed")

    def __init__(self, settings: Settings) -> None:
        self._rule = settings.line(None, "HELOCHECK") or b""
        if self._rule in (b"A", b"M"):
            raise ControlError("HELOCHECK", "A and M need DNS, which is not done yet")
        if self._rule not in (b"", b".", b"!", b"="):
            raise ControlError("HELOCHECK", "is neither empty nor one of . ! =")
        listed, exempt = [], []
        for number, entry in enumerate(settings.lines("badhelo") or []):
            if len(entry) > 1 and entry.endswith(b"!"):
                exempt.append((number, entry[:-1]))
            else:
                listed.append((number, entry))
        self._listing = Listing(settings, "badhelo", listed)
        self._exempt = Listing(settings, "badhelo", exempt)
        self._refusal = reject(settings.worded(TEXT, "REPLY_HELO"), 550, b"5.7.1")

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        name = (client.helo or b"").rstrip(b" ").lower()
        _, exempt = self._exempt.last(name)
        return self._refusal if not exempt and self._is_wrong(name, client) else DECLINED

    def _is_wrong(self, name: bytes, client: Client) -> bool:
        if self._rule == b"!":
            return not name
        if self._listing.last(name)[1] or (self._rule and not name):
            return True
        host = client.peer.host.lower()
        return self._rule == b"=" and (host == UNKNOWN or name != host)
