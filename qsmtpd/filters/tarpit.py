"""tarpit: slows down clients with many recipients, and refuses those that guess them.

Configuration: TARPITCOUNT (or control/tarpitcount), a number of recipients; 0,
the default, is no tarpit.  Beyond that number of recipients of a connection the
client waits for the answer to each further one, TARPITDELAY (or
control/tarpitdelay) seconds; and beyond that number of recipients that were
refused for good, each further one is put off.  Those that rcpthosts or an
earlier filter refuses count, and are refused at once.  A delay of 0 lets nobody
wait; 999 neither, but then DATA ends the connection as well.
Replies: `452 sorry, too many recipients (#4.5.3)`; with 999 also `503 DATA
command not accepted at this time (#5.5.1)`, once a recipient was put off.
Log keys: by=tarpit.

As in SPAMCONTROL, whose README has a default delay of 5 seconds and whose code
has 0: it is 5 here.  Not as there: all recipients of the connection count, not
the accepted ones of one transaction, which a client could begin anew; and all
refusals for good, not those of control/recipients alone.  Clients give up
waiting after 5 minutes (RFC 5321, 4.5.3.2.3).
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, defer, drop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope

NEVER_AGAIN = 999  # as a delay
TOO_MANY = defer(b"sorry, too many recipients", 452, b"4.5.3")
NO_DATA = drop(b"DATA command not accepted at this time", 503, b"5.5.1")


class Plugin:
    """Lets clients wait, and puts recipients off.  Raises ControlError."""

    __slots__ = ("count", "delay")
    immune = ("relay", "listed")

    def __init__(self, settings: Settings) -> None:
        self.count = settings.number("tarpitcount", "TARPITCOUNT", 0)
        self.delay = settings.number("tarpitdelay", "TARPITDELAY", 5, most=NEVER_AGAIN)

    def for_session(self) -> Session:
        return Session(self)


class Session:
    """Remembers whether a recipient was put off."""

    __slots__ = ("_plugin", "_notorious")

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._notorious = False

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        count, delay = self._plugin.count, self._plugin.delay
        if not count:
            return DECLINED
        if client.counters.bad_recipients >= count:
            self._notorious = True
            return TOO_MANY
        if client.counters.recipients > count and 0 < delay < NEVER_AGAIN:
            client.pause(delay)
        return DECLINED

    def data(self, client: Client, envelope: Envelope) -> Decision:
        return NO_DATA if self._notorious and self._plugin.delay == NEVER_AGAIN else DECLINED
