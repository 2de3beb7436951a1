"""Clients that filters leave alone: see `immunity` in qsmtpd-filters(5).

Configuration: the variable IMMUNE, set and not `0`; control/immune, one entry
a line: an address, the beginning of one that ends in `.` or `:`, or a `.` and
the end of the client's name (TCPREMOTEHOST).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Peer


def listed(settings: Settings, peer: Peer) -> bool:
    """Is this client to be left alone?  Raises ControlError."""
    if settings.environ.get(b"IMMUNE", b"0") != b"0":
        return True
    host = peer.host.lower()
    for entry in settings.lines("immune") or ():
        entry = entry.lower()
        if entry == peer.ip or (entry[0] == 0x2E and host.endswith(entry)):
            return True
        if entry.endswith((b".", b":")) and peer.ip.startswith(entry):
            return True
    return False
