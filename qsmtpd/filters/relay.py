"""relay: clients that may send anywhere.

Configuration: the variable RELAYCLIENT, usually from tcpserver's rules.  Its
value, often empty, is appended to every recipient.
control/smtputf8 or SMTPUTF8 (see qsmtpd-control(5)): with `local`, a message in
SMTPUTF8 cannot leave the domains of rcpthosts, for a plain qmail-remote cannot
pass it on.  Some clients ask for SMTPUTF8 with every message; one that has only
ASCII in its envelope and header needs it not, and is taken.
Replies: `550 sorry, SMTPUTF8 mail cannot be passed on to that recipient (#5.6.7)`;
after the data, and from qsmtpd itself, where one of the accepted recipients is
of no domain of rcpthosts, `550 sorry, UTF-8 header cannot be passed on to all
recipients (#5.6.9)`.
Log keys: by=relay.
"""

from __future__ import annotations

from ..config.session import UTF8_LOCAL, smtputf8
from ..decision import DECLINED, Decision, accept, reject
from .rcpthosts import Domains

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope

STAYS_HERE = reject(b"sorry, SMTPUTF8 mail cannot be passed on to that recipient", 550, b"5.6.7")


class Plugin:
    """Accepts every recipient of a client with the right to relay.  Raises ControlError."""

    __slots__ = ("_settings", "_local", "_domains")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._local = smtputf8(settings) == UTF8_LOCAL
        self._domains: Domains | None = None

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if client.relay is None:
            return DECLINED
        suffix = client.relay
        if envelope.utf8 and self._local:
            if not self._is_ours(recipient) and not (envelope.sender + recipient).isascii():
                return STAYS_HERE
            # Who is in the envelope in the end, and what the header is, is seen later.
            envelope.is_ours = lambda asked: self._is_ours(asked.removesuffix(suffix))
        return accept(recipient=recipient + suffix)

    def _is_ours(self, recipient: bytes) -> bool:
        _, at, domain = recipient.rpartition(b"@")
        if not at:
            return True
        if self._domains is None:  # now: few clients of this kind ask for SMTPUTF8
            self._domains = Domains(self._settings)
        return self._domains.find(domain, True) is not None
