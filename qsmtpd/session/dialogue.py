"""The dialogue: reads a line, looks it up, dispatches, replies.

What a command may do in which state is data (smtp/states.py); what is refused
to whom is policy (policy/); what becomes of a message is data.py.
"""

from __future__ import annotations

from time import monotonic

from ..config.session import AUTH_LIMIT
from ..decision import ACCEPT, ACCEPTED, DEFER, REFUSALS, REJECT, Decision
from ..facts import Auth, Envelope, Reply, Ruling
from ..net.channel import LineTooLong
from ..policy import stages
from ..smtp import replies, states
from ..smtp.command import BareLF, parse_command
from . import envelope
from .ending import QUIT, Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config.session import SessionSettings
    from ..facts import Client, Tls
    from ..log import Log
    from ..net.channel import Channel
    from ..policy.hooks import Hooks
    from ..tls.provider import TlsProvider

    Fields = dict[str, bytes | str | int]

LONGER = {b"AUTH ": AUTH_LIMIT}  # an initial response may be that long
UNKNOWN = b"?"  # in the log: no command of ours


class TlsStarted(Exception):
    """STARTTLS has succeeded: this dialogue is over, and a fresh one begins."""

    def __init__(self, tls: Tls) -> None:
        super().__init__()
        self.tls = tls


class Dialogue:
    """From the greeting, or from STARTTLS, on; what is known of the client is known here alone."""

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
        self._log = log
        self._counters = client.counters
        self._client = client
        self._provider = provider
        self._state = states.IDLE
        self._envelope = Envelope(b"")
        self._about: Fields = {}  # what the log should say of this command
        self._logged = False  # it has had its own line
        self._message_over = False  # it was a DATA that was carried out
        self._over = False
        self._commands: dict[bytes, Callable[[bytes], Reply]] = {
            b"HELO": self._helo,
            b"EHLO": self._ehlo,
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b"RSET": lambda argument: replies.FLUSHED,
            b"NOOP": lambda argument: replies.OK,
            b"VRFY": lambda argument: replies.VRFY,
            b"HELP": lambda argument: replies.HELP,
            b"QUIT": self._quit,
        }
        if provider is not None or client.tls is not None:
            self._commands[b"STARTTLS"] = self._starttls
        if settings.auth.mechanisms:
            self._commands[b"AUTH"] = self._auth
        for verb in hooks.commands:
            self._commands[verb] = self._plugin_command(verb)

    def greet(self) -> Ending | None:
        """Say the first word; the end where a plugin wants nothing of this client."""
        ruling = self._hooks.ask(stages.CONNECT, self._client)
        if ruling.decision.verdict in REFUSALS:
            return self._refused_at_start(ruling)
        self._channel.write(b"220 " + self._settings.greeting + b" ESMTP\r\n")
        return None

    def welcome(self) -> Ending | None:
        """After STARTTLS the client speaks first; returns as greet() does."""
        tls = self._client.tls
        cipher = b"" if tls is None else tls.cipher or b""
        self._hooks.tell(self._client, Ruling(stages.STARTTLS, "", ACCEPTED, cipher))
        ruling = self._hooks.ask(stages.STARTTLS, self._client)
        if ruling.decision.verdict in REFUSALS:
            return self._refused_at_start(ruling)
        return None

    def converse(self) -> Ending:
        """Serve commands until one ends the session; its reply is not sent here.

        Raises TlsStarted, BareLF, ControlError, and what the channel raises.
        """
        foreign = self._channel.starts_with(states.FOREIGN_PROTOCOLS)
        if foreign is not None:
            return Ending(*states.FOREIGN_PROTOCOLS[foreign])
        while True:
            self._about = {}
            self._logged = False
            self._message_over = False
            try:
                line = self._channel.line(self._settings.limits.line, LONGER)
            except LineTooLong as error:
                verb, _ = parse_command(error.start)
                self._counters.commands += 1
                self._reset(verb)
                reply = replies.LINE_TOO_LONG
            else:
                verb, argument = parse_command(line)
                self._counters.commands += 1
                reply = self._refusal(line, verb) or self._commands[verb](argument)
            reply = self._answer(verb, reply)
            if reply.end is not None:
                return Ending(reply.end, reply)

    def end(self, last: Reply | None = None) -> None:
        """Tell the plugins that it is over, once; with the last reply, if there was one."""
        if self._over:
            return
        self._over = True
        try:
            if last is not None and last.ruling is not None:
                self._tell(last.ruling, last)
            if self._message_over:
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
        if b"\0" in line:
            self._reset(verb)
            return replies.NUL
        if verb not in states.WITHOUT_TLS:
            refusal = self._lacks_tls()
            if refusal is not None:
                return refusal
        if verb not in self._commands:
            return self._unknown(line)
        refusal = states.REFUSALS[self._state].get(verb)
        if refusal is None:
            self._reset(verb)
        return refusal

    def _reset(self, verb: bytes) -> None:
        if verb in states.RESETS:
            if self._state != states.IDLE and verb != b"DATA":  # which resets at its end
                self._end_transaction()
            self._state = states.IDLE

    def _end_transaction(self) -> None:
        self._hooks.forget(stages.TRANSACTION)
        self._hooks.notify(stages.RESET, self._client)

    def _lacks_tls(self) -> Reply | None:
        tls, wanted = self._client.tls, self._settings.tls
        if wanted.required and tls is None:
            return replies.TLS_REQUIRED
        if wanted.client_required and tls is not None and tls.fingerprint is None:
            return replies.CERTIFICATE_REQUIRED
        return None

    def _answer(self, verb: bytes, reply: Reply) -> Reply:
        """Count a reply, log it and send it; slow down what goes wrong too often.

        Returns the reply: this one, or the last of the session where there
        were too many errors.  A last reply is not sent here.
        """
        counters, limits = self._counters, self._settings.limits
        if verb in states.JUNK:
            counters.junk += 1
        if (
            reply.error
            or verb not in self._commands
            or (verb in states.JUNK and counters.junk > limits.max_junk)
        ):
            counters.errors += 1
            if counters.errors > limits.max_errors:
                return replies.TOO_MANY_ERRORS
            if counters.errors > limits.soft_errors:
                self._channel.pause(limits.error_delay)
        if reply.refused and not self._logged and (reply.end is None or reply.ruling is not None):
            # What an unknown command says is not logged: it may be half an AUTH.
            self._log_refusal(verb if verb in self._commands else UNKNOWN, reply)
        if reply.end is not None:
            return reply
        if reply.refused:
            counters.refused += 1
        elif verb in states.NEXT:
            self._state = states.NEXT[verb]
        self._channel.write(reply.wire() + b"\r\n")
        if self._message_over and self._hooks.has(stages.OK, stages.DENY, stages.RESET):
            self._channel.flush()  # what then goes wrong cannot take the 250 back
        if self._hooks.has(stages.OK, stages.DENY):
            self._tell_outcome(verb, reply)
        if self._message_over:
            self._end_transaction()
        return reply

    # -- the log -----------------------------------------------------------

    def _log_refusal(self, command: bytes | None, reply: Reply) -> None:
        ruling = reply.ruling
        by = None
        if ruling is not None and ruling.plugin:
            why = ": " + ruling.detail.decode("ascii", "replace") if ruling.detail else ""
            by = ruling.plugin + why
        known = self._known()
        if self._client.helo is None and command not in (b"MAIL", b"RCPT"):
            del known["helo"]
        self._log.line("refused", command=command, reply=reply.wire(), by=by, **known)

    def _known(self) -> Fields:
        """The log's fields of who sends what to whom, as far as that is known."""
        known: Fields = {"helo": self._client.helo or b""}
        if self._client.auth is not None:
            known["user"] = self._client.auth.user
        if self._state != states.IDLE or self._message_over:
            known["from"] = self._envelope.sender
        return {**known, **self._about}

    # -- policy ------------------------------------------------------------

    def _refused_at_start(self, ruling: Ruling) -> Ending:
        reply = stages.reply_to(ruling)
        self._log_refusal(None, reply)
        return Ending(reply.end or "", reply)

    def _tell_outcome(self, verb: bytes, reply: Reply) -> None:
        """Let the observers know what became of a command that matters."""
        if not reply.refused and verb not in states.OUTCOMES:
            return
        ruling = reply.ruling
        # An acceptance by policy may have become a refusal since, as of a message by the queue.
        if ruling is None or (ruling.decision.verdict in REFUSALS) != reply.refused:
            stage = states.OUTCOMES.get(verb, stages.UNKNOWN)
            ruling = Ruling(stage, "", _own_decision(reply), self._subject(verb))
        self._tell(ruling, reply)

    def _tell(self, ruling: Ruling, reply: Reply) -> None:
        ruling.answer = reply
        self._hooks.tell(self._client, ruling)

    def _subject(self, verb: bytes) -> bytes:
        """What such a command is about."""
        if verb in (b"HELO", b"EHLO"):
            return self._client.helo or b""
        if verb == b"AUTH" and self._client.auth is not None:
            return self._client.auth.user
        return b""

    def _unknown(self, line: bytes) -> Reply:
        self._counters.unknown += 1
        ruling = self._hooks.ask(stages.UNKNOWN, self._client, line.rstrip(b"\r\n"))
        return _judged(ruling, replies.UNIMPLEMENTED)

    def _plugin_command(self, verb: bytes) -> Callable[[bytes], Reply]:
        """A command that a plugin brings."""
        stage = "command_" + verb.decode("ascii").lower()

        def carry_out(argument: bytes) -> Reply:
            ruling = self._hooks.ask(stage, self._client, argument)
            if ruling.decision.verdict == ACCEPT:
                return stages.reply_to(ruling)
            return _judged(ruling, replies.UNIMPLEMENTED)

        return carry_out

    # -- the commands: argument -> reply -----------------------------------

    def _helo(self, argument: bytes) -> Reply:
        return self._hello(argument, False, Reply(250, b"", self._settings.greeting))

    def _ehlo(self, argument: bytes) -> Reply:
        reply = self._hello(argument, True, replies.OK)
        if reply.refused:
            return reply
        size = b"SIZE %d" % self._settings.data.databytes  # 0: no limit (RFC 1870, 3)
        lines = [self._settings.greeting, b"PIPELINING", b"8BITMIME", size]
        if self._provider is not None and self._client.tls is None:
            lines.append(b"STARTTLS")
        if self._may_authenticate() and self._client.auth is None:
            lines.append(b"AUTH " + b" ".join(self._settings.auth.mechanisms))
        more = self._hooks.capabilities(self._client)
        if more is None:
            return replies.PLUGIN_TROUBLE
        return Reply(250, b"", b"\n".join(lines + more), ruling=reply.ruling)

    def _hello(self, name: bytes, esmtp: bool, reply: Reply) -> Reply:
        """HELO or EHLO: this reply, or a refusal."""
        self._client.helo = name
        self._client.esmtp = esmtp
        return _judged(self._hooks.ask(stages.HELO, self._client, name, about=name), reply)

    def _starttls(self, argument: bytes) -> Reply:
        if argument:
            return replies.NO_PARAMETERS
        if self._provider is None or self._client.tls is not None:
            return replies.TLS_ACTIVE
        if self._settings.tls.refuse_injection and self._channel.pending:
            return replies.TLS_PIPELINED
        from . import starttls

        tls = starttls.negotiate(self._channel, self._provider, self._log)
        if tls is None:
            return replies.TLS_UNAVAILABLE
        raise TlsStarted(tls)

    def _may_authenticate(self) -> bool:
        wanted = self._settings.auth
        return bool(wanted.mechanisms) and (self._client.tls is not None or wanted.in_clear)

    def _auth(self, argument: bytes) -> Reply:
        if self._client.auth is not None:
            return replies.AUTH_AGAIN
        if not self._may_authenticate():
            return replies.AUTH_NEEDS_TLS
        from . import auth, sasl

        settings, peer = self._settings.auth, self._client.peer
        result = auth.authenticate(self._channel, argument, settings, peer)
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
            decision = _own_decision(reply)
            reply = reply.of(Ruling(stages.AUTH, "", decision, result.user, result.mechanism))
        self._logged = True
        self._log.line(
            "auth",
            verdict=sasl.REFUSED if accepted and reply.refused else result.verdict,
            by=reply.ruling.plugin if accepted and reply.refused and reply.ruling else None,
            mechanism=result.mechanism,
            user=result.user,
            reply=reply.wire(),
        )
        if not accepted:
            self._channel.pause(settings.delay)
        return reply

    def _admit(self, who: Auth, reply: Reply) -> Reply:
        """The password was right: this reply, or a plugin's refusal all the same."""
        ruling = self._hooks.ask(stages.AUTH, self._client, who.user, who.mechanism, about=who.user)
        reply = _judged(ruling, reply)
        if not reply.refused:
            self._client.auth = who
            if self._client.relay is None:
                self._client.relay = b""
        return reply

    def _mail(self, argument: bytes) -> Reply:
        if self._settings.auth.required and self._client.auth is None:
            return replies.AUTH_REQUIRED
        try:
            self._envelope = envelope.sender(argument, self._settings)
        except envelope.BadPath as error:
            if error.address is not None:
                self._about = {"from": error.address}
            return error.reply
        sender = self._envelope.sender
        self._about = {"from": sender}
        ruling = self._hooks.ask(stages.MAIL, self._client, self._envelope, about=sender)
        return _judged(ruling, replies.OK)

    def _rcpt(self, argument: bytes) -> Reply:
        try:
            asked = envelope.recipient(argument, self._settings)
        except envelope.BadPath as error:
            if error.address is not None:
                self._about = {"to": error.address}
            return error.reply
        self._about = {"to": asked}
        if len(self._envelope.recipients) >= self._settings.limits.recipients:
            reply = replies.TOO_MANY_RECIPIENTS
            return reply.of(Ruling(stages.RCPT, "", _own_decision(reply), asked))
        self._counters.recipients += 1
        ruling, recipient = self._hooks.rcpt(self._client, self._envelope, asked)
        reply = _judged(ruling, replies.OK)
        if reply.refused:
            self._counters.bad_recipients += not reply.temporary
        else:
            self._envelope.recipients.append(recipient)
        return reply

    def _data(self, argument: bytes) -> Reply:
        self._message_over = True
        try:
            from . import data
        except (ImportError, OSError) as error:  # no descriptor to be had, say
            self._hooks.log_trouble(error)
            return replies.QUEUE_PIPES
        recipients = self._envelope.recipients
        started = monotonic()
        fields: dict[str, int | str | bytes] = {"rcpts": len(recipients)}
        reply: Reply | None = None
        try:
            reply = data.receive(
                self._channel, self._client, self._envelope, self._hooks, self._settings, fields
            )
        finally:
            fields["seconds"] = f"{monotonic() - started:.3f}"
            verdict = "aborted"
            if reply is not None:
                verdict = "refused" if reply.refused else "accepted"
                # What we say comes first: a line that is too long loses its end.
                fields = {"reply": reply.wire(), **fields}
                if reply.ruling is not None:
                    fields["by"] = reply.ruling.plugin
            self._about = {"to": recipients[0]}
            self._log.line("message", verdict=verdict, **{**fields, **self._known()})
            self._logged = True
        if not reply.refused:
            self._counters.messages += 1
            self._counters.forgive()
        if reply.ruling is None:
            how = str(fields.get("exit", "")).encode("ascii", "replace")
            reply = reply.of(Ruling(stages.QUEUE, "", _own_decision(reply), detail=how))
        return reply

    def _quit(self, argument: bytes) -> Reply:
        return Reply(221, b"", self._settings.greeting, end=QUIT)


def _judged(ruling: Ruling, reply: Reply) -> Reply:
    """The refusal that a ruling is, or this reply."""
    if ruling.decision.verdict in REFUSALS:
        return stages.reply_to(ruling)
    return reply.of(ruling)


def _own_decision(reply: Reply) -> Decision:
    """What a reply of qsmtpd itself decides."""
    if not reply.refused:
        return ACCEPTED
    return Decision(DEFER if reply.temporary else REJECT)
