"""What QMTP and QMQP have in common: the questions to policy, once a package has come whole.

They are asked in the order of an SMTP session, though the message came first: connect, once;
mail, rcpt, data; header, body and data_post.  Then it is queued.
"""

from __future__ import annotations

from .. import waits
from ..decision import REFUSALS
from ..facts import Envelope
from ..policy import stages
from ..session.envelope import address_of
from ..session.protocol import Conversation
from ..session.transaction import Transaction
from ..smtp import replies
from ..smtp.netstring import encode
from ..tls.settings import EXTERNAL, IMPLICIT
from .package import MESSAGE_LIMIT, Reader
from .verdict import BAD_RECIPIENT, BAD_SENDER, NO_TLS, verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import SessionSettings
    from ..facts import Reply, Tls
    from ..session.data import Transfer
    from ..session.protocol import Report
    from ..session.run import Session
    from .package import Package


#: Of the program of a protocol.
USAGE = """\
usage: {program}         serve the {protocol} client on fds 0 and 1 (see {program}(8))
       {program} --check [--quiet]
                            read every control file, and say what is set and what is wrong
       {program} --hooks print which plugin sits at which stage, in order
       {program} --version
       {program} --help
"""


def check_settings(report: Report, settings: SessionSettings) -> None:
    """What these protocols have not, and is demanded, refuses everybody."""
    tls = settings.tls
    if (tls.required or tls.client_required) and tls.mode not in (IMPLICIT, EXTERNAL):
        where = "FORCETLS or UCSPITLS"
        report.wrong(where, "wants TLS, and it can only be there from the first byte: see SMTPS")
    if settings.auth.required:
        report.wrong("SMTPAUTH", "wants AUTH, which there is not, so every sender is refused")
    if settings.data.databytes > MESSAGE_LIMIT:
        what = f"is more than the {MESSAGE_LIMIT} bytes above which a message ends the connection"
        report.warn("databytes", what)


class Over(Exception):
    """A reply that ends the session."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class Verdicts(Conversation):
    """A client that sends packages, and has verdicts for them; `owed`: so many are due.

    What ends a session is said in the place of these, and where none is due, not at all: to
    close the connection without a verdict says that the client has to try again.
    """

    #: Of an address and of a sender that are none, and of a recipient beyond the last.
    bad_sender = BAD_SENDER
    bad_recipient = BAD_RECIPIENT
    text = staticmethod(verdict)

    def __init__(self, session: Session, tls: Tls | None) -> None:
        self.owed = 0
        self.session = session
        self.channel = session.channel
        self.settings = session.plan.settings
        self.hooks = session.hooks
        self.client = session.client(tls)
        self.client.speaks = lambda seconds: False  # it has to: there is no greeting
        log = session.plan.log
        self.transaction = Transaction(self.client, self.settings, self.hooks, log, verdict)
        self.reader = Reader(self.channel, self.settings, self.hooks.log_trouble)
        self._connected = False
        self._open = False  # there is a transaction that plugins have to be told the end of

    def begins(self) -> None:
        """Wait for the first byte of a package.  Raises what the channel raises."""
        self.channel.unread(self.channel.chunk(1))
        waits.transaction(True)
        self.channel.start_data(self.settings.data.min_rate)

    def goodbye(self, reply: Reply) -> bytes:
        return encode(verdict(reply)) * self.owed

    def end(self, last: Reply | None) -> None:
        try:
            if last is not None and last.ruling is not None:
                self.transaction.tell_ruling(last.ruling, last)
            self.close()
            self.hooks.notify(stages.DISCONNECT, self.client)
        except Exception as error:
            self.hooks.log_trouble(error)

    def close(self) -> None:
        """The transaction is over."""
        if self._open:
            self._open = False
            self.transaction.end()

    # -- the questions -----------------------------------------------------

    def envelope(self, package: Package) -> list[Reply]:
        """The reply to each recipient: who is refused here, has a refusal.  Raises Over."""
        if not self._connected:
            self._connected = True
            ruling = self.hooks.ask(stages.CONNECT, self.client)
            if ruling.decision.verdict in REFUSALS:
                self._refused(None, stages.CONNECT, stages.reply_to(ruling))
        number = len(package.recipients)
        self._open = True
        reply = self._mail(package.sender)
        if reply.refused:
            self._refused(b"MAIL", stages.MAIL, reply, package.sender)
            return [reply] * number
        self.transaction.tell(reply, stages.MAIL, package.sender)
        most = self.settings.limits.recipients
        said = [self._rcpt(recipient) for recipient in package.recipients[:most]]
        if number > most:  # as in SMTP, but one line in the log has to do for all of them
            self.transaction.about = {"to": package.recipients[most]}
            self._refused(b"RCPT", stages.RCPT, replies.TOO_MANY_RECIPIENTS)
            said += [replies.TOO_MANY_RECIPIENTS] * (number - most)
        return said

    def _mail(self, sender: bytes) -> Reply:
        wanted = self.settings.tls
        self.transaction.about = {"from": sender}
        if (wanted.required or wanted.client_required) and self.client.tls is None:
            return NO_TLS
        if wanted.client_required and self.client.tls and self.client.tls.fingerprint is None:
            return replies.CERTIFICATE_REQUIRED
        refusal = self.transaction.refuses_all()
        if refusal is not None:
            return refusal
        address = self._address(sender)
        if address is None:
            return self.bad_sender
        return self.transaction.mail(Envelope(address))

    def _rcpt(self, recipient: bytes) -> Reply:
        address = self._address(recipient)
        if address is None:
            self.transaction.about = {"to": recipient}
            reply = self.bad_recipient
        else:
            reply = self.transaction.rcpt(address)
        if reply.refused:
            self._refused(b"RCPT", stages.RCPT, reply, recipient)
        else:
            self.transaction.tell(reply, stages.RCPT, recipient)
        return reply

    def _address(self, text: bytes) -> bytes | None:
        """An address; None for one that no line of SMTP could hold, or that is too long."""
        if 0 in text or 10 in text:  # NUL, LF
            return None
        return address_of(text, self.settings)

    def _refused(self, command: bytes | None, stage: str, reply: Reply, about: bytes = b"") -> None:
        """The log's line, and who wants to know.  Raises Over where the session ends with it."""
        self.transaction.log_refusal(command, reply, is_open=command == b"RCPT")
        if reply.end is not None:
            raise Over(reply)
        self.transaction.tell(reply, stage, about)

    def message(self, package: Package) -> Reply:
        """The reply to the message, for those recipients who are in the envelope by now.

        Raises Over.
        """
        from ..session import data

        envelope = self.transaction.envelope
        transfer = data.Transfer(self.client, envelope, self.hooks, self.settings)
        transfer.started = package.started
        reply: Reply | None = None
        try:
            with transfer:
                reply = self._transfer(transfer, package)
        finally:
            self.transaction.log_message(transfer, reply)
        reply = self.transaction.message(transfer, reply)
        if reply.end is not None:
            raise Over(reply)
        return reply

    def _transfer(self, transfer: Transfer, package: Package) -> Reply:
        refusal = package.refusal or transfer.start()
        if refusal is not None:
            return refusal
        try:
            for chunk in package.message.chunks():
                transfer.feed(chunk, False)
            transfer.feed(b"", True)
        except OSError as error:  # of the file in which it waited
            self.hooks.log_trouble(error)
            return replies.SPOOL_TROUBLE
        return transfer.finish()
