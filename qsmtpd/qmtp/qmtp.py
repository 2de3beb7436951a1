"""QMTP, the Quick Mail Transfer Protocol (https://cr.yp.to/proto/qmtp.txt)."""

from __future__ import annotations

from .. import waits
from ..config.session import QUIT
from ..net.descriptors import Gone
from ..policy import stages
from ..session.ending import Ending
from ..smtp.netstring import encode
from .conversation import Over, Verdicts, check_settings
from .verdict import verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import SessionSettings
    from ..config.settings import Settings
    from ..facts import Reply
    from ..session.protocol import Report

#: So many verdicts leave together.
TOGETHER = 1000


class Qmtp(Verdicts):
    """Packages one after the other, each with a verdict for each of its recipients."""

    name = b"QMTP"

    @staticmethod
    def check(report: Report, lookup: Settings, settings: SessionSettings) -> None:
        check_settings(report, settings)

    def converse(self) -> Ending:
        while True:
            waits.transaction(False)
            try:
                self.begins()
            except Gone:
                return Ending(QUIT)  # as clients say that they have no more
            try:
                self._serve()
            except Over as over:
                return Ending.by(over.reply)

    def _serve(self) -> None:
        """One package.  Raises Over, and what the reader and the channel raise."""
        with self.reader.qmtp() as package:
            self.channel.end_data()
            self.owed = len(package.recipients)
            said = self.envelope(package)
            message: Reply | None = None
            if not all(reply.refused for reply in said):
                message = self.message(package)
        self.owed = 0
        for place, reply in enumerate(said, 1):
            if message is not None and not reply.refused:
                reply = message
            self.session.counters.refused += reply.refused
            self.channel.write(encode(verdict(reply)))
            if place % TOGETHER == 0:
                self.channel.flush()
        self.channel.flush()  # what then goes wrong cannot take a verdict back
        if message is not None:
            self.transaction.tell(message, stages.DATA)
        self.close()
