"""qmqpqueue: hands the message to a hub, by QMQP, without a queue program.

Configuration: control/qmqpqueue or QMQPQUEUE, `on`; `off`, so that some clients' mail goes to
the queue program.  The hubs are those of control/qmqpservers, and how they are asked say
control/qmqpcorder, qmqpctimeout and qmqpcconnect with their variables, all as of qsmtpd-qmqpc.
Replies: the text of a hub that refuses; else those for the exit codes of qmail-qmqpc.
Log keys: hub=, answer=, exit=, ambiguous= of event=message; hub=, result= for a hub that fails.
"""

from __future__ import annotations

from ..net.qmqp import HubSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope
    from .qmqpbackend import QmqpBackEnd

FILE, VARIABLE = "qmqpqueue", "QMQPQUEUE"
ON, OFF = WORDS = ("on", "off")


class Plugin:
    """Takes each message, where there are `hubs`.  Raises ControlError."""

    __slots__ = ("_settings", "hubs")

    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self.hubs: HubSettings | None = None
        if settings.choice(FILE, VARIABLE, WORDS) == ON:
            self.hubs = HubSettings(settings)

    @property
    def longest(self) -> float:
        """How long it can take with a message that has come (seconds)."""
        return 0.0 if self.hubs is None else self.hubs.timeout

    def queue(self, client: Client, envelope: Envelope) -> QmqpBackEnd | None:
        """None: the message is for the next plugin."""
        if self.hubs is None:
            return None
        from .qmqpbackend import QmqpBackEnd  # now: most sessions bring no message

        return QmqpBackEnd(self.hubs, self._settings)
