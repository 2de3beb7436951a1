"""rhsbl: senders whose domain, or clients whose name, is in lists in the DNS.

Configuration: control/rhsbls, a line `zone [weight] [pattern...]` for each list, as of
dnsbl; control/rhsblthreshold or RHSBLTHRESHOLD: from which sum of weights on mail is
refused (1; 0: never).  A list counts once, whether it lists the sender's domain or the
name that the client gives with HELO.
Replies: as of dnsbl, with the name in the place of the address.
Log keys: by=rhsbl; event=plugin with listed and score, or zone, answer, error.
For later plugins: envelope.notes["rhsbl"], with zones and score.
"""

from __future__ import annotations

from .dnsscore import Lists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..facts import Client, Envelope
    from .dnsscore import Finding

#: What no list has (RFC 5782, 5).
NEVER = b"invalid"


class Plugin:
    """Refuses mail of listed domains.  Raises ControlError."""

    __slots__ = ("_name", "_lists")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._name = settings.plugin
        self._lists = Lists(settings, "rhsbls", "rhsblthreshold")

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        found: Finding | None = envelope.notes.get(self._name)
        if found is None:
            found = envelope.notes[self._name] = self._find(client, envelope)
        return found.decision

    def _find(self, client: Client, envelope: Envelope) -> Finding:
        from ..net.dns.message import mail_domain

        sender = envelope.sender.rpartition(b"@")[2]
        # Of what is no domain, as an address, lists say anything.
        names = map(mail_domain, (sender, (client.helo or b"").rstrip(b" ")))
        subjects = [(name, name) for name in dict.fromkeys(names) if name is not None]
        return self._lists.judge(client, subjects, NEVER)
