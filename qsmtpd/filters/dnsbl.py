"""dnsbl: clients whose address is in lists in the DNS (RFC 5782).

Configuration: control/dnsbls, a line `zone [weight] [pattern...]` for each list, see
dnslist.py; control/dnsblthreshold or DNSBLTHRESHOLD: from which sum of weights on a
client is refused (1; 0: never).  What the DNS does not say: dnstrouble and the others of
net/dns/; unless they say otherwise, a list that does not answer lists nobody.
Replies: `553 sorry, 192.0.2.1 is listed by bl.example.org: TEXT (#5.7.1)`, where the
text is the list's own, `451 DNS temporary failure (#4.4.3)`.
Log keys: by=dnsbl; event=plugin with listed and score, or zone, answer, error.
For later plugins: client.notes["dnsbl"], with zones and score.
"""

from __future__ import annotations

from .dnsscore import NOTHING, Lists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..facts import Client, Envelope
    from .dnsscore import Finding

#: What no list has: 127.0.0.1, of lists of IPv6 addresses as ::ffff:127.0.0.1.
NEVER = b"1.0.0.127"
NEVER_6 = b"1.0.0.0.0.0.f.7." + b"f.f.f.f." + b"0." * 19 + b"0"


class Plugin:
    """Refuses listed clients.  Raises ControlError."""

    __slots__ = ("_name", "_lists")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._name = settings.plugin
        self._lists = Lists(settings, "dnsbls", "dnsblthreshold")

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        found: Finding | None = client.notes.get(self._name)
        if found is None:
            found = client.notes[self._name] = self._find(client)
        return found.decision

    def _find(self, client: Client) -> Finding:
        from ..net.dns.message import reverse

        ip = client.peer.ip
        name = reverse(ip)
        if name is None:  # it is not known
            return NOTHING
        return self._lists.judge(client, [(name, ip)], NEVER_6 if b":" in ip else NEVER)
