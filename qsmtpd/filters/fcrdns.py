"""fcrdns: the name of the client's address that leads back to it.

Configuration: control/fcrdns or FCRDNS, one of these:

    note     find the name, for filters behind this one and for the log
    require  and refuse clients that have none

The names of the address (PTR), at most 10, are looked up; one with this address among its
own counts.  It does not change what TCPREMOTEHOST says.  The DNS is asked at MAIL: who
authenticates before is not asked about.  Where it does not say, dnstrouble counts.
For other plugins: client.notes["fcrdns"] is that name in lower case, b"" where there is
none, None where the DNS did not say; client.notes["fcrdns.iprev"] is the word of the log.
Both are missing where nobody asked.
Replies, at RCPT: `550 your address has no name that leads back to it (#5.7.25)`,
`451 DNS temporary failure (#4.4.3)`.
Log keys: by=fcrdns; event=plugin plugin=fcrdns iprev=pass name=NAME, or iprev=fail,
permerror (no name at all), temperror, in the words of RFC 8601, 2.7.3.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..net.dns.lookup import Dns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope

#: RFC 7208, 4.6.4: more names are no help.
NAMES_LIMIT = 10
NOTE, IPREV = "fcrdns", "fcrdns.iprev"
NO_NAME = reject(b"your address has no name that leads back to it", 550, b"5.7.25")


class Plugin:
    """Finds the client's name, and may refuse it.  Raises ControlError."""

    __slots__ = ("_dns", "_required", "_log")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._required = settings.choice("fcrdns", "FCRDNS", ("note", "require")) == "require"
        self._dns = Dns(settings)
        self._log = settings.log

    def mail(self, client: Client, envelope: Envelope) -> Decision:
        if NOTE not in client.notes:
            self._find(client)
        return DECLINED

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if not self._required or client.notes.get(NOTE):
            return DECLINED
        if NOTE not in client.notes:
            return DECLINED  # it has no address
        if client.notes[NOTE] is None:
            return self._dns.could_not_tell
        return NO_NAME

    def _find(self, client: Client) -> None:
        """Find its name, note it and log it."""
        from ..net.dns.message import pointer

        ip = client.peer.ip
        place = pointer(ip)
        if place is None:
            return
        (names,) = self._dns.ask(client, (place, "PTR"))
        type = "AAAA" if b":" in ip else "A"
        found = self._dns.ask(client, *((name, type) for name in names.records[:NAMES_LIMIT]))
        name = next((answer.name for answer in found if ip in answer.records), b"")
        troubled = [answer for answer in (names, *found) if answer.trouble]
        if name:
            word = "pass"
            self._log(iprev=word, name=name)
        elif troubled:
            word = "temperror"
            self._log(iprev=word, dns=troubled[0].trouble, type=troubled[0].type)
        else:
            word = "fail" if names.records else "permerror"
            self._log(iprev=word)
        client.notes[NOTE] = None if troubled and not name else name
        client.notes[IPREV] = word
