"""loop: messages that come back.

Configuration: control/loopcheck or LOOPCHECK, a number; empty stands for 10.
Refused is a message that has a Delivered-To line for one of its recipients, as
qmail-local does it (dot-qmail(5)); and one that has more than this number of
Received and Delivered-To lines by this host: by the name in TCPLOCALHOST, which
our own Received lines have, or by control/me.  The limit for the hops of all
hosts together is maxhops.
Replies: `554 this message is looping (#5.4.6)`.
Log keys: by=loop.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..smtp.address import spellings
from ..smtp.header import unfold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope, Message

LOOPING = reject(b"this message is looping", 554, b"5.4.6")
DEFAULT = 10


class Plugin:
    """Refuses messages that have been here before.  Raises ControlError."""

    __slots__ = ("_most", "_me")

    def __init__(self, settings: Settings) -> None:
        self._most = settings.number("loopcheck", "LOOPCHECK", DEFAULT, empty=DEFAULT)
        me = settings.text("me", None)
        self._me = b"" if me is None else me[1]

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        recipients = {
            spelling
            for recipient in envelope.recipients
            for spelling in spellings(recipient, envelope.utf8)
        }
        names = {self._me.lower(), client.peer.local_host.lower()} - {b"", b"unknown"}
        hops = 0
        for name, value in message.header:
            name = name.lower()
            if name == b"delivered-to":
                address = unfold(value).lower()
                if address in recipients:
                    return LOOPING
                hops += address.rpartition(b"@")[2] in names
            elif name == b"received":
                hops += _host(value) in names
        return LOOPING if hops > self._most else DECLINED


def _host(received: bytes) -> bytes:
    """The name behind `by`, in lower case (RFC 5321, 4.4); b"" where there is none.

    A qmail hop within one host has `by uid`, in a comment: no host.
    """
    depth, by = 0, False
    for word in unfold(received).lower().replace(b"(", b" ( ").replace(b")", b" ) ").split():
        if by:
            return word.partition(b";")[0]
        depth += (word == b"(") - (word == b")")
        by = depth <= 0 and word == b"by"
    return b""
