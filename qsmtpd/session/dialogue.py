"""The dialogue: reads a line, dispatches, and counts, logs, sends and tells the reply.

Which command is refused in which state is data (smtp/states.py); what a command
does is commands.py; what is refused to whom is policy (policy/).
"""

from __future__ import annotations

from .. import waits
from ..config.session import AUTH_LIMIT
from ..decision import ACCEPTED, REFUSALS
from ..facts import PREFACE, Reply, Ruling
from ..net.channel import LineTooLong
from ..policy import stages
from ..smtp import replies, states
from ..smtp.command import BareLF, parse_command
from .commands import Commands, TlsStarted, table
from .ending import Ending
from .protocol import Conversation
from .transaction import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import SessionSettings
    from ..facts import Client, Tls
    from ..log import Log
    from ..net.channel import Channel
    from ..policy.hooks import Hooks
    from ..tls.provider import TlsProvider
    from .run import Session

LONGER = {b"AUTH ": AUTH_LIMIT}  # an initial response may be that long
UNKNOWN = b"?"  # in the log: no command at all


class Dialogue:
    """From the greeting, or from STARTTLS, on."""

    __slots__ = (
        *("_channel", "_client", "_settings", "_hooks", "_counters", "_transaction", "_commands"),
        *("_verbs", "_state", "_over", "_observed", "_tls_wanted"),
    )

    def __init__(
        self,
        channel: Channel,
        client: Client,
        settings: SessionSettings,
        hooks: Hooks,
        log: Log,
        provider: TlsProvider | None,
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._hooks = hooks
        self._counters = client.counters
        self._client = client
        self._state = states.IDLE
        self._over = False
        self._observed = hooks.order.observed
        self._tls_wanted = settings.tls.required or settings.tls.client_required
        text = Smtp.text
        transaction = self._transaction = Transaction(client, settings, hooks, log, text)
        self._commands = Commands(channel, client, transaction, settings, hooks, log, provider)
        starttls = provider is not None or client.tls is not None
        self._verbs = table(settings, starttls, hooks.order)

    def greet(self) -> Ending | None:
        """Say the first word; the end where a plugin wants nothing of this client."""
        ruling = self._hooks.ask(stages.CONNECT, self._client)
        if ruling.decision.verdict in REFUSALS:
            return self._refused_at_start(stages.reply_to(ruling))
        preface = self._client.notes.pop(PREFACE, ())
        lines = [b"220-%b\r\n" % line for line in preface]
        self._channel.write(b"".join(lines) + self._settings.greeting_line)
        return None

    def welcome(self) -> Ending | None:
        """After STARTTLS the client speaks first; returns as greet() does."""
        tls = self._client.tls
        cipher = b"" if tls is None else tls.cipher or b""
        self._hooks.tell(self._client, Ruling(stages.STARTTLS, "", ACCEPTED, cipher))
        ruling = self._hooks.ask(stages.STARTTLS, self._client)
        if ruling.decision.verdict in REFUSALS:
            return self._refused_at_start(self._settings.in_form(stages.reply_to(ruling)))
        return None

    def converse(self) -> Ending:
        """Serve commands until one ends the session; its reply is not sent here.

        Raises TlsStarted, BareLF, ControlError, and what the channel raises.
        """
        foreign = self._channel.starts_with(states.FOREIGN_BY_FIRST)
        if foreign is not None:
            word, reply = states.FOREIGN_PROTOCOLS[foreign]
            return Ending(word, None if reply is None else self._settings.in_form(reply))
        commands, counters = self._commands, self._counters
        while True:
            commands.begin()
            waits.transaction(self._state != states.IDLE)
            try:
                line = self._channel.line(self._settings.limits.line, LONGER)
            except LineTooLong as error:
                verb, _ = parse_command(error.start)
                counters.commands += 1
                self._reset(verb)
                chunk = self._is_chunk(verb)
                reply = replies.BAD_CHUNK if chunk else replies.LINE_TOO_LONG
            else:
                verb, argument = parse_command(line)
                counters.commands += 1
                if line == states.SIGNATURE_LINE and counters.commands == 3 == counters.refused + 1:
                    return Ending(states.PROXY_END)
                chunk = self._is_chunk(verb)
                refusal = self._refusal(line, verb)
                if refusal is None:
                    reply = self._verbs[verb](commands, argument)
                elif chunk:
                    reply = commands.skip_chunk(argument, refusal)
                else:
                    reply = refusal
                if chunk:
                    last = commands.last_chunk
                    commands.message_over = last and self._state != states.IDLE
                    self._state = states.after_chunk(self._state, reply.refused, last)
            reply = self._answer(verb, reply, chunk)
            if reply.end is not None:
                return Ending.by(reply)

    def end(self, last: Reply | None = None) -> None:
        """Tell the plugins that it is over, once; with the last reply, if there was one."""
        if self._over:
            return
        self._over = True
        aborted = self._commands.abort()
        try:
            if last is not None and last.ruling is not None:
                self._transaction.tell_ruling(last.ruling, last)
            if self._commands.message_over or aborted:
                self._end_transaction()
            self._hooks.notify(stages.DISCONNECT, self._client)
        except Exception as error:
            self._hooks.log_trouble(error)

    # -- around the commands -----------------------------------------------

    def _refusal(self, line: bytes, verb: bytes) -> Reply | None:
        """The reply to a command that is not carried out, or None."""
        # A line that was too long and then skipped counts as well.
        if self._settings.data.bare_lf == "reject-all" and self._channel.bare_lf:
            raise BareLF
        if 0 in line:  # NUL: a number, for bytes cost `in` an exception inside
            self._reset(verb)
            return replies.NUL
        if self._tls_wanted and verb not in states.WITHOUT_TLS:
            refusal = self._lacks_tls()
            if refusal is not None:
                return refusal
        if verb not in self._verbs:
            return self._commands.unknown(line)
        refusal = states.REFUSALS[self._state].get(verb)
        if refusal is None:
            if verb == b"DATA":
                self._state = states.IDLE  # it ends the transaction itself, when it is over
            else:
                self._reset(verb)
        return refusal

    def _reset(self, verb: bytes) -> None:
        if verb in states.RESETS and verb not in states.REFUSALS[self._state]:
            if self._state != states.IDLE:
                self._end_transaction()
            self._state = states.IDLE

    def _is_chunk(self, verb: bytes) -> bool:
        return verb == b"BDAT" and verb in self._verbs

    def _end_transaction(self) -> None:
        self._commands.abort()
        self._transaction.end()

    def _lacks_tls(self) -> Reply | None:
        tls, wanted = self._client.tls, self._settings.tls
        if wanted.required and tls is None:
            return replies.TLS_REQUIRED
        if wanted.client_required and tls is not None and tls.fingerprint is None:
            return replies.CERTIFICATE_REQUIRED
        return None

    def _answer(self, verb: bytes, reply: Reply, chunk: bool) -> Reply:
        """Count a reply, log it and send it; slow down what goes wrong too often.

        Returns the reply: this one, or the last of the session where there
        were too many errors.  A last reply is not sent here.
        """
        counters, commands = self._counters, self._commands
        reply = self._in_form(verb, reply)
        if PREFACE in self._client.notes:
            reply = reply.behind(self._client.notes.pop(PREFACE))
        if verb in states.JUNK:
            counters.junk += 1
        if reply.end is None and self._is_error(verb, reply, chunk):
            counters.errors += 1
            if counters.errors > self._settings.limits.max_errors:
                return self._in_form(verb, replies.TOO_MANY_ERRORS)
            if counters.errors > self._settings.limits.soft_errors:
                self._channel.pause(self._settings.limits.error_delay)
        if (
            reply.refused
            and not self._transaction.logged
            and (reply.end is None or reply.ruling is not None)
        ):
            # What an unknown command says is not logged: it may be half an AUTH.
            known = verb in self._verbs or verb in states.KNOWN
            self._log_refusal(verb if known else UNKNOWN, reply)
        if reply.end is not None:
            return reply
        if reply.refused:
            counters.refused += 1
        elif verb in states.NEXT:
            self._state = states.NEXT[verb]
        self._channel.write(reply.wire() + b"\r\n")
        if commands.message_over and self._hooks.has(stages.OK, stages.DENY, stages.RESET):
            self._channel.flush()  # what then goes wrong cannot take the 250 back
        if self._observed:
            self._tell_outcome(verb, reply)
        if commands.message_over:
            self._end_transaction()
        return reply

    def _is_error(self, verb: bytes, reply: Reply, chunk: bool) -> bool:
        if reply.error or verb not in self._verbs:
            return True
        if chunk:
            # For a message that is refused with its last chunk the client is not to blame, as by
            # DATA.
            return reply.refused and not self._commands.last_chunk and not reply.temporary
        return verb in states.JUNK and self._counters.junk > self._settings.limits.max_junk

    def _in_form(self, verb: bytes, reply: Reply) -> Reply:
        """With its enhanced status code, where it has one."""
        if not self._settings.enhanced or verb in states.GREETINGS:
            return reply
        return reply.enhanced()

    def _log_refusal(self, command: bytes | None, reply: Reply) -> None:
        is_open = self._state != states.IDLE or self._commands.message_over
        self._transaction.log_refusal(command, reply, is_open)

    # -- policy ------------------------------------------------------------

    def _refused_at_start(self, reply: Reply) -> Ending:
        self._log_refusal(None, reply)
        return Ending.by(reply)

    def _tell_outcome(self, verb: bytes, reply: Reply) -> None:
        """Let the observers know what became of a command that matters."""
        ruling = reply.ruling
        more_chunks = verb == b"BDAT" and ruling is None
        if not reply.refused and (verb not in states.OUTCOMES or more_chunks):
            return
        stage = states.OUTCOMES.get(verb, stages.UNKNOWN)
        self._transaction.tell(reply, stage, self._subject(verb))

    def _subject(self, verb: bytes) -> bytes:
        """What such a command is about."""
        if verb in (b"HELO", b"EHLO"):
            return self._client.helo or b""
        if verb == b"AUTH" and self._client.auth is not None:
            return self._client.auth.user
        return b""


class Smtp(Conversation):
    """SMTP: one dialogue, and after STARTTLS another one."""

    asks_passwords = explained = True

    def __init__(self, session: Session, tls: Tls | None) -> None:
        self._session = session
        self._dialogue = self._begin(tls)

    @staticmethod
    def greeting(settings: SessionSettings) -> bytes:
        return settings.greeting_line

    @staticmethod
    def alone(reply: Reply) -> bytes:
        return reply.wire() + b"\r\n"

    def converse(self) -> Ending:
        session = self._session
        ending = None if session.greeted else self._dialogue.greet()
        session.greeted = ending is None
        while ending is None:
            try:
                ending = self._dialogue.converse()
            except TlsStarted as started:
                # A fresh one begins, from the facts of the Peer alone (RFC
                # 3207, 4.2).  Only the counters of abuse go on.
                self._dialogue.end()
                session.hooks = session.hooks.renew()
                self._dialogue = self._begin(started.tls)
                ending = self._dialogue.welcome()
        return ending

    def in_form(self, reply: Reply) -> Reply:
        # In the place of the greeting it has no enhanced status code.
        return self._session.plan.settings.in_form(reply) if self._session.greeted else reply

    def end(self, last: Reply | None) -> None:
        self._dialogue.end(last)

    def _begin(self, tls: Tls | None) -> Dialogue:
        session, plan = self._session, self._session.plan
        return Dialogue(
            session.channel,
            session.client(tls),
            plan.settings,
            session.hooks,
            plan.log,
            plan.provider,
        )
