"""helocheck: clients that introduce themselves wrongly.

Configuration: the variable HELOCHECK, with SPAMCONTROL's values, and the list
control/badhelo.  Where there is no variable, a badhelo is enough, as if
HELOCHECK were empty (in SPAMCONTROL nobody reads it then).

    empty  the name is not to be in badhelo
    `.`    nor is it to be missing
    `!`    it is not to be missing; badhelo does not count
    `=`    it has to be the client's host name, and not in badhelo
    `A`    it has to have an A or AAAA record, and not to be in badhelo
    `M`    it has to have an MX, A or AAAA record, and not to be in badhelo

For `A` and `M` an address literal, as in [192.0.2.1], needs no DNS, and who has
authenticated is not looked up.  Where the DNS does not say, dnstrouble counts.
An entry of badhelo is a name, a pattern or an expression as in
badmailfrom, or one of these behind a `!`, which takes back what the entries
before it say; the last one that matches decides, and case does not matter.
`name!` exempts a name, or what a pattern or an expression matches, from all of
this.  No name at all is an empty one: `*` matches it.  REPLY_HELO adds to the
reply.
Replies: `550 sorry, invalid HELO/EHLO greeting (#5.7.1)`, `451 DNS temporary failure
(#4.4.3)`, at RCPT, and not to clients that may relay.
Log keys: by=helocheck; where the DNS does not say, event=plugin plugin=helocheck with
dns, name, type.

In SPAMCONTROL `name!` does not exempt from `=`, and with `=` a client without
a host name passes as `unknown`.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..facts import ControlError
from .wildmat import Listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope
    from ..net.dns.lookup import Dns

TEXT = b"sorry, invalid HELO/EHLO greeting"
UNKNOWN = b"unknown"
#: The records of which the name has to have one.
RECORDS = {b"A": ("A", "AAAA"), b"M": ("MX", "A", "AAAA")}


class Plugin:
    """Refuses clients by their HELO.  Raises ControlError."""

    __slots__ = ("_rule", "_listing", "_exempt", "_refusal", "_dns")
    immune = ("relay", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._rule = settings.line(None, "HELOCHECK") or b""
        if self._rule not in (b"", b".", b"!", b"=", *RECORDS):
            raise ControlError("HELOCHECK", "is neither empty nor one of . ! = A M")
        self._dns: Dns | None = None
        if self._rule in RECORDS:
            from ..net.dns.lookup import Dns

            self._dns = Dns(settings)
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
        if self._exempt.last(name)[1]:
            return DECLINED
        if self._is_wrong(name, client):
            return self._refusal
        if self._dns is not None and client.auth is None:
            return self._looked_up(self._dns, client, name)
        return DECLINED

    def _is_wrong(self, name: bytes, client: Client) -> bool:
        if self._rule == b"!":
            return not name
        if self._listing.last(name)[1] or (self._rule and not name):
            return True
        host = client.peer.host.lower()
        return self._rule == b"=" and (host == UNKNOWN or name != host)

    def _looked_up(self, dns: Dns, client: Client, name: bytes) -> Decision:
        if name.startswith(b"["):
            from ..net.ip import is_literal

            return DECLINED if is_literal(name) else self._refusal
        answers = dns.ask(client, *((name, type) for type in RECORDS[self._rule]))
        if any(answer.records for answer in answers):
            return DECLINED
        troubled = next((answer for answer in answers if answer.trouble), None)
        return self._refusal if troubled is None else dns.undecided(troubled)
