"""The commands of a dialogue: an argument goes in, a reply comes out.

Which of them there are is a table of verbs, for each of the few kinds of sessions.
"""

from __future__ import annotations

from ..decision import ACCEPT
from ..facts import Reply, Ruling
from ..policy import stages
from ..smtp import replies
from ..smtp.command import content
from . import envelope
from .transaction import own_decision

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.session import SessionSettings
    from ..facts import Auth, Client, Tls
    from ..log import Log
    from ..net.channel import Channel
    from ..policy.hooks import Hooks
    from ..policy.spec import Order
    from ..tls.provider import TlsProvider
    from .chunks import ChunkedTransfer
    from .data import Transfer
    from .transaction import Transaction

    Table = dict[bytes, Callable[["Commands", bytes], Reply]]


class TlsStarted(Exception):
    """STARTTLS has succeeded: this dialogue is over, and a fresh one begins."""

    def __init__(self, tls: Tls) -> None:
        super().__init__()
        self.tls = tls


class Commands:
    """What each command does; whether it may be given now is for the dialogue.

    Of the last one, `message_over` says that it was a DATA, after which the
    transaction is over, and `last_chunk` that it was a BDAT with LAST.
    """

    __slots__ = (
        *("message_over", "last_chunk", "_channel", "_client", "_transaction", "_settings"),
        *("_hooks", "_observed", "_log", "_counters", "_provider", "_transfer"),
    )

    def __init__(
        self,
        channel: Channel,
        client: Client,
        transaction: Transaction,
        settings: SessionSettings,
        hooks: Hooks,
        log: Log,
        provider: TlsProvider | None,
    ) -> None:
        self._channel = channel
        self._client = client
        self._transaction = transaction
        self._settings = settings
        self._hooks = hooks
        self._observed = hooks.order.observed
        self._log = log
        self._counters = client.counters
        self._provider = provider
        self.message_over = False
        self.last_chunk = False
        self._transfer: ChunkedTransfer | None = None

    def begin(self) -> None:
        """Another command comes."""
        self._transaction.about = {}
        self._transaction.logged = False
        self.message_over = False
        self.last_chunk = False

    def unknown(self, line: bytes) -> Reply:
        """A line with a verb that this client cannot give."""
        self._counters.unknown += 1
        ruling = self._hooks.ask(stages.UNKNOWN, self._client, content(line))
        return self._transaction.judged(ruling, replies.UNIMPLEMENTED)

    def of_plugin(self, stage: str, argument: bytes) -> Reply:
        """A command that a plugin brings."""
        ruling = self._hooks.ask(stage, self._client, argument)
        if ruling.decision.verdict == ACCEPT:
            return stages.reply_to(ruling)
        return self._transaction.judged(ruling, replies.UNIMPLEMENTED)

    # -- each of them: its argument goes in, its reply comes out ------------------

    def helo(self, argument: bytes) -> Reply:
        return self._hello(argument, False, self._settings.hello)

    def ehlo(self, argument: bytes) -> Reply:
        reply = self._hello(argument, True, replies.OK)
        if reply.refused:
            return reply
        starttls = self._provider is not None and self._client.tls is None
        mechanisms: tuple[bytes, ...] = ()
        if self._client.auth is None:
            mechanisms = self._mechanisms()
        more = self._hooks.capabilities(self._client)
        if more is None:
            return replies.PLUGIN_TROUBLE
        answer = self._settings.ehlo(starttls, mechanisms, more)
        return answer.of(reply.ruling) if self._observed else answer

    def _hello(self, name: bytes, esmtp: bool, reply: Reply) -> Reply:
        """HELO or EHLO: this reply, or a refusal."""
        self._client.helo = name
        self._client.esmtp = esmtp
        return self._transaction.judged(
            self._hooks.ask(stages.HELO, self._client, name, about=name), reply
        )

    def starttls(self, argument: bytes) -> Reply:
        if argument:
            return replies.NO_PARAMETERS
        if self._provider is None or self._client.tls is not None:
            return replies.TLS_ACTIVE
        if self._settings.tls.refuse_injection and self._channel.pending:
            return replies.TLS_PIPELINED
        from . import starttls

        ready = self._settings.in_form(replies.TLS_READY)
        tls = starttls.negotiate(self._channel, ready, self._provider, self._log)
        if tls is None:
            return replies.TLS_UNAVAILABLE
        raise TlsStarted(tls)

    def _mechanisms(self) -> tuple[bytes, ...]:
        """Those of AUTH that this client can use now."""
        auth = self._settings.auth
        names = auth.offered(self._client.tls)
        if names is None:
            from . import dovecot

            assert auth.dovecot is not None
            names = dovecot.offered(auth, auth.dovecot, self._log)
            self._transaction.auth_unavailable = names is None
        return names or ()

    def auth(self, argument: bytes) -> Reply:
        if self._client.auth is not None:
            return replies.AUTH_AGAIN
        if self._client.tls is None and not self._settings.auth.in_clear:
            return replies.AUTH_NEEDS_TLS
        from ..facts import Auth
        from ..smtp import sasl
        from . import auth

        settings = self._settings.auth
        result = auth.authenticate(self._channel, argument, settings, self._client)
        if result.verdict is None:
            return result.reply
        accepted = result.verdict == sasl.ACCEPTED
        reply = result.reply
        if accepted:
            reply = self._admit(Auth(result.user, result.mechanism), reply)
        else:  # who cannot be checked may be guessing, too
            self._counters.auth_failures += 1
            if self._counters.auth_failures >= settings.max_failures:
                reply = replies.TOO_MANY_FAILURES
            decision = own_decision(reply)
            reply = reply.of(Ruling(stages.AUTH, "", decision, result.user, result.mechanism))
        reply = self._settings.in_form(reply)
        self._transaction.logged = True
        self._log.line(
            "auth",
            verdict=sasl.REFUSED if accepted and reply.refused else result.verdict,
            by=reply.ruling.plugin if accepted and reply.refused and reply.ruling else None,
            mechanism=result.mechanism,
            user=result.user,
            reply=reply.wire(),
            reason=result.reason,
        )
        if not accepted:
            self._channel.pause(settings.delay)
        return reply

    def _admit(self, who: Auth, reply: Reply) -> Reply:
        """The password was right: this reply, or a plugin's refusal all the same."""
        ruling = self._hooks.ask(stages.AUTH, self._client, who.user, who.mechanism, about=who.user)
        reply = self._transaction.judged(ruling, reply)
        if not reply.refused:
            self._client.auth = who
            if self._client.relay is None:
                self._client.relay = b""
        return reply

    def mail(self, argument: bytes) -> Reply:
        refusal = self._transaction.refuses_all()
        if refusal is not None:
            return refusal
        try:
            return self._transaction.mail(envelope.sender(argument, self._settings))
        except envelope.BadPath as error:
            if error.address is not None:
                self._transaction.about = {"from": error.address}
            return error.reply

    def rcpt(self, argument: bytes) -> Reply:
        utf8 = self._transaction.envelope.utf8
        try:
            return self._transaction.rcpt(envelope.recipient(argument, self._settings, utf8))
        except envelope.BadPath as error:
            if error.address is not None:
                self._transaction.about = {"to": error.address}
            return error.reply

    def data(self, argument: bytes) -> Reply:
        self.message_over = True
        try:
            from . import data
        except (ImportError, OSError) as error:  # no descriptor to be had, say
            self._hooks.log_trouble(error)
            return replies.QUEUE_PIPES
        transfer = data.Transfer(
            self._client, self._transaction.envelope, self._hooks, self._settings
        )
        reply: Reply | None = None
        try:
            with transfer:
                reply = data.receive(self._channel, transfer, self._settings)
        finally:
            self._end_message(transfer, reply)
        return self._transaction.message(transfer, reply)

    def bdat(self, argument: bytes) -> Reply:
        size = self._chunk(argument)
        if isinstance(size, Reply):
            return size
        from . import chunks

        transfer = self._transfer
        if transfer is None:
            transfer = self._transfer = chunks.ChunkedTransfer(
                *(self._channel, self._client, self._transaction.envelope, self._hooks),
                self._settings,
            )
        reply = transfer.take(size, self.last_chunk)
        if not reply.refused and not self.last_chunk:
            return reply
        self._transfer = None
        transfer.close()
        self._end_message(transfer, reply)
        return self._transaction.message(transfer, reply)

    def skip_chunk(self, argument: bytes, refusal: Reply) -> Reply:
        """A BDAT that is not allowed now: its bytes are read, and then it is refused."""
        size = self._chunk(argument)
        if isinstance(size, Reply):
            return size
        from . import chunks

        return chunks.discard(self._channel, size, refusal, self._settings)

    def _chunk(self, argument: bytes) -> int | Reply:
        """The size of the chunk that comes; or a last reply, and its bytes are not read.

        Without a size they cannot be told from commands.
        """
        try:
            from ..smtp import chunk
            from . import chunks
        except (ImportError, OSError) as error:
            self._hooks.log_trouble(error)
            return replies.TROUBLE
        parsed = chunk.parse(argument)
        if parsed is None:
            return replies.BAD_CHUNK
        size, self.last_chunk = parsed
        return chunks.too_large(size, self._settings) or size

    def abort(self) -> bool:
        """The transaction is over; was a message in chunks under way?  Nothing is left of it."""
        transfer, self._transfer = self._transfer, None
        if transfer is None:
            return False
        transfer.close()
        self._end_message(transfer, None)
        self._transaction.about = {}  # that was not this command
        self._transaction.logged = False
        return True

    def _end_message(self, transfer: Transfer, reply: Reply | None) -> None:
        """The end of a message, and its line in the log; without a reply it was aborted."""
        self._channel.end_data()
        self._transaction.log_message(transfer, reply and self._settings.in_form(reply))

    def quit(self, argument: bytes) -> Reply:
        return self._settings.goodbye


#: Those that every client can give.
_ALWAYS: Table = {
    b"HELO": Commands.helo,
    b"EHLO": Commands.ehlo,
    b"MAIL": Commands.mail,
    b"RCPT": Commands.rcpt,
    b"DATA": Commands.data,
    b"RSET": lambda commands, argument: replies.FLUSHED,
    b"NOOP": lambda commands, argument: replies.OK,
    b"VRFY": lambda commands, argument: replies.VRFY,
    b"HELP": lambda commands, argument: replies.HELP,
    b"QUIT": Commands.quit,
}
#: (is there BDAT, STARTTLS, AUTH?) -> what all such sessions share
_tables: dict[tuple[bool, bool, bool], Table] = {}


def table(settings: SessionSettings, starttls: bool, order: Order) -> Table:
    """The commands of a session, which may have STARTTLS, with these plugins; not to be changed."""
    auth = bool(settings.auth.mechanisms) or settings.auth.dovecot is not None
    kind = settings.chunking, starttls, auth
    found = _tables.get(kind)
    if found is None:
        found = _tables[kind] = dict(_ALWAYS)
        if settings.chunking:
            found[b"BDAT"] = Commands.bdat
        if starttls:
            found[b"STARTTLS"] = Commands.starttls
        if auth:
            found[b"AUTH"] = Commands.auth
    return {**found, **_of_plugins(order)} if order.commands else found


def _of_plugins(order: Order) -> Table:
    def of(verb: bytes) -> Callable[[Commands, bytes], Reply]:
        stage = "command_" + verb.decode("ascii").lower()
        return lambda commands, argument: commands.of_plugin(stage, argument)

    return {verb: of(verb) for verb in order.commands}
