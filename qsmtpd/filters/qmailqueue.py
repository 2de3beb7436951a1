"""qmailqueue: the last plugin, which hands the message to the queue program.

Configuration: QMAILQUEUE and the settings of `The queue program` in
qsmtpd-control(5).
Replies: those of qmail-smtpd; see qsmtpd(8).
Log keys: qp=, exit=, ambiguous= of event=message.

Another plugin with the hook `queue` comes before this one, and takes its place
for the messages that it wants.  What it returns has to have what Queue has:
feed(), commit() and abort(), and a pid for the reply (see policy/backend.py).
"""

from __future__ import annotations

from ..config.session import QueueSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..child.queue import Queue
    from ..config.settings import Settings
    from ..facts import Client, Envelope

#: A RCPTTO for the wrappers of SPAMCONTROL ends before this many bytes: Linux
#: takes no string of more than 128 KB into an environment.
RCPTTO_LIMIT = 100_000


class Plugin:
    """Starts the queue program.  Raises ControlError."""

    __slots__ = ("_settings",)

    def __init__(self, settings: Settings) -> None:
        self._settings = QueueSettings(settings)

    @property
    def longest(self) -> float:
        """How long it can take with a message that has come (seconds)."""
        return self._settings.write_timeout + self._settings.timeout

    def queue(self, client: Client, envelope: Envelope) -> Queue:
        """Raises CannotStart or CannotExec."""
        from ..child.queue import Queue  # now: most sessions bring no message
        from ..child.spawn import client_environ

        announced = _announced(client, envelope, self._settings)
        return Queue(self._settings, {**client_environ(client), **announced})


def _announced(client: Client, envelope: Envelope, settings: QueueSettings) -> dict[bytes, bytes]:
    """Who the user is, whether it is SMTPUTF8, and what SPAMCONTROL's wrappers want to know.

    Only qmail's safe bytes and, between recipients, spaces: nothing that a
    shell would execute.
    """
    from ..smtp.received import clean

    found = {}
    if client.auth is not None:
        # As in the field: to the queue program the user is what ident was.
        found[b"TCPREMOTEINFO"] = clean(client.auth.user)
        found[b"AUTHUSER"] = found[b"TCPREMOTEINFO"]
        found[b"AUTHPROTOCOL"] = clean(client.auth.mechanism)
    if envelope.needs_utf8:
        found[b"SMTPUTF8"] = b"1"
    if settings.announce != "spamcontrol":
        return found
    recipients = b" ".join(clean(recipient) for recipient in envelope.recipients)
    if len(recipients) > RCPTTO_LIMIT:
        recipients = recipients[:RCPTTO_LIMIT].rpartition(b" ")[0]
    found[b"HELOHOST"] = clean(client.helo or b"")
    found[b"MAILFROM"] = clean(envelope.sender)
    found[b"RCPTTO"] = recipients
    return found
