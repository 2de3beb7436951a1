"""mfdnscheck: senders whose domain is not in the DNS.

Configuration: the variable MFDNSCHECK (SPAMCONTROL's), set and neither `0` nor `-`;
or a line of control/plugins.  The sender's domain is to have an MX, A or AAAA record.
A null MX (RFC 7505) says that it sends and takes no mail.  An address literal needs no
DNS; a sender without a domain, and one in what is no name, does not exist.  The null
sender is not asked about, nor are those with a `?` before them in control/badmailfrom.
REPLY_SENDEREXIST adds to the reply.  Where the DNS does not say, dnstrouble counts.
Replies, at RCPT: `553 sorry, your envelope sender must exist (#5.7.1)`, `550 sorry, your
envelope sender's domain takes no mail (#5.7.27)`, `451 DNS temporary failure (#4.4.3)`.
Log keys: by=mfdnscheck; where the DNS does not say, event=plugin plugin=mfdnscheck with
dns, name, type.

SPAMCONTROL has no A or AAAA of IPv6 and no null MX, and tells the client of a temporary
failure in addition to 250.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..net.dns.lookup import Dns
from ..smtp.address import entry_forms, spellings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope

TEXT = b"sorry, your envelope sender must exist"
NULL_MX = reject(b"sorry, your envelope sender's domain takes no mail", 550, b"5.7.27")
ROOT = b"."


class Plugin:
    """Refuses senders that cannot be answered.  Raises ControlError."""

    __slots__ = ("_dns", "_missing", "_never")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        off = settings.line(None, "MFDNSCHECK") in (b"0", b"-")
        self._dns = None if off else Dns(settings)
        self._missing = reject(settings.worded(TEXT, "REPLY_SENDEREXIST"), 553, b"5.7.1")
        exempt = [entry[1:] for entry in settings.lines("badmailfrom") or () if entry[:1] == b"?"]
        self._never = frozenset(form for entry in exempt for form in entry_forms(entry))

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        sender = envelope.sender
        if self._dns is None or not sender:
            return DECLINED
        if self._never and not self._never.isdisjoint(spellings(sender, envelope.utf8)):
            return DECLINED
        _, at, domain = sender.rpartition(b"@")
        if domain.startswith(b"["):
            from ..net.ip import is_literal

            return DECLINED if at and is_literal(domain) else self._missing
        return self._judge(self._dns, client, domain if at else b"")

    def _judge(self, dns: Dns, client: Client, domain: bytes) -> Decision:
        (mx,) = dns.ask(client, (domain, "MX"))
        if mx.records:
            return NULL_MX if [name for _, name in mx.records] == [ROOT] else DECLINED
        if mx.no_name:
            return self._missing
        addresses = dns.ask(client, (domain, "A"), (domain, "AAAA"))
        if any(answer.records for answer in addresses):
            return DECLINED
        for answer in (mx, *addresses):
            if answer.trouble:
                return dns.undecided(answer)
        return self._missing
