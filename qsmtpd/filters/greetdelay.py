"""greetdelay: lets clients wait for the greeting, and catches those that cannot.

Configuration: the variable SMTPD_GREETDELAY (sagredo's qmail), else GREETDELAY
or control/greetdelay (IndiMail's): a number of seconds, at most 60; 0 is none.  A
client that speaks before it has been greeted breaks RFC 5321, 3.1, as only bulk
senders do.  Where the number has a `-` before it, or the variable DROP_PRE_GREET
is set and not `0`, such a client is sent away; else it only waits to the end,
and loses one point of karma.  DROP_PRE_GREET alone does nothing.
Replies: `554 SMTP protocol violation (#5.5.1)`, instead of the greeting, and
the connection is closed; never to clients that may relay.
Log keys: by=greetdelay; for a client that may stay, event=plugin
plugin=greetdelay early=SECONDS.

Where the two systems wait in silence and only then look whether the client has
spoken, we send it away as soon as it speaks.
"""

from __future__ import annotations

from time import monotonic

from ..config.settings import number
from ..decision import DECLINED, Decision, drop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings, Settings
    from ..facts import Client

#: A client waits 300 seconds for its greeting (RFC 5321, 4.5.3.2.1), a
#: connection of ours is a process.
LONGEST = 60  # seconds
VIOLATION = drop(b"SMTP protocol violation", 554, b"5.5.1")


class Plugin:
    """Greets late.  Raises ControlError."""

    __slots__ = ("silence", "_drop", "_log")
    immune = ("relay", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._log = settings.log
        seconds = [
            _seconds(settings, None, "SMTPD_GREETDELAY"),
            _seconds(settings, "greetdelay", "GREETDELAY"),
        ]
        #: For who is silent so long there is nothing to decide (seconds).
        self.silence, self._drop = next((found for found in seconds if found), (0, False))
        if settings.line(None, "DROP_PRE_GREET") not in (None, b"0"):
            self._drop = True

    def connect(self, client: Client) -> Decision:
        start = client.counters.start  # qsmtpd-server may have let it wait already
        if not self.silence or not client.speaks(max(0.0, start + self.silence - monotonic())):
            return DECLINED
        if self._drop:
            return VIOLATION
        after = monotonic() - start
        client.counters.karma -= 1
        self._log(early=f"{after:.3f}")
        client.pause(self.silence - after)
        return DECLINED


def _seconds(settings: Settings, file: str | None, variable: str) -> tuple[int, bool] | None:
    """(how many, is there a `-` before them?), or None where it is not set."""
    found = settings.text(file, variable)
    if found is None:
        return None
    where, text = found
    seconds = number(where, text.removeprefix(b"-"), 0, LONGEST)
    settings.line(file, variable)  # so --check notes it
    return seconds, text.startswith(b"-")
