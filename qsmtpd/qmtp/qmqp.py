"""QMQP, the Quick Mail Queueing Protocol (https://cr.yp.to/proto/qmqp.html)."""

from __future__ import annotations

from ..config.session import QUIT
from ..policy import stages
from ..session.ending import Ending
from ..smtp.netstring import encode
from .clients import FILE, QmqpClients, check_clients
from .conversation import Over, Verdicts, check_settings
from .verdict import BAD_ADDRESS, NO_RECIPIENT, NOT_LISTED, TOO_MANY_FOR_ONE, verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import SessionSettings
    from ..config.settings import Settings
    from ..facts import Reply
    from ..session.protocol import Report
    from .package import Package


class Qmqp(Verdicts):
    """One package, with one verdict, from a client that is listed; nothing from any other."""

    name = b"QMQP"
    relays = True
    at_once = True  # who is not listed is told so, and does not wait for it
    bad_sender = bad_recipient = BAD_ADDRESS

    @staticmethod
    def clients(lookup: Settings) -> QmqpClients:
        return QmqpClients(lookup)

    @staticmethod
    def check(report: Report, lookup: Settings, settings: SessionSettings) -> None:
        check_settings(report, settings)
        check_clients(report, QmqpClients(lookup), lookup.files.has(FILE))

    @staticmethod
    def alone(reply: Reply) -> bytes:
        return encode(verdict(reply))

    def converse(self) -> Ending:
        self.owed = 1
        client, clients = self.client, self.session.plan.clients
        if clients is None or client.peer.anonymous or client.peer.ip not in clients:
            self.transaction.log_refusal(None, NOT_LISTED, is_open=False)
            self.transaction.tell(NOT_LISTED, stages.CONNECT)
            return Ending.by(NOT_LISTED)
        if client.relay is None:
            client.relay = b""
        self.begins()
        try:
            self._serve()
        except Over as over:
            return Ending.by(over.reply)
        return Ending(QUIT)

    def _serve(self) -> None:
        """The package.  Raises Over, and what the reader and the channel raise."""
        with self.reader.qmqp() as package:
            self.channel.end_data()
            refusal = self._refusal(package)
            reply = refusal or self.message(package)
        self.owed = 0
        self.session.counters.refused += reply.refused
        self.channel.write(encode(verdict(reply)))
        self.channel.flush()  # what then goes wrong cannot take it back
        if refusal is None:
            self.transaction.tell(reply, stages.DATA)
        self.close()

    def _refusal(self, package: Package) -> Reply | None:
        """Where one recipient is refused, all are: there is but one verdict."""
        number = len(package.recipients)
        if number == 0 or number > self.settings.limits.recipients:
            reply = TOO_MANY_FOR_ONE if number else NO_RECIPIENT
            self.transaction.about = {"from": package.sender}
            self.transaction.log_refusal(b"RCPT", reply, is_open=False)
            self.transaction.tell(reply, stages.RCPT)
            return reply
        refused = [reply for reply in self.envelope(package) if reply.refused]
        for_good = [reply for reply in refused if not reply.temporary]
        return (for_good or refused)[0] if refused else None
