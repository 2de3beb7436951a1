"""relay: clients that may send anywhere.

Configuration: the variable RELAYCLIENT, usually from tcpserver's rules.  Its
value, often empty, is appended to every recipient.
Replies: none of its own.
Log keys: by=relay.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, accept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope


class Plugin:
    """Accepts every recipient of a client with the right to relay."""

    __slots__ = ()

    def __init__(self, settings: Settings) -> None:
        """It has none: RELAYCLIENT is a fact of the Peer."""

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if client.relay is None:
            return DECLINED
        return accept(recipient=recipient + client.relay)
