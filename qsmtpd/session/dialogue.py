"""The dialogue: reads a line, looks it up, dispatches, replies.

What a command may do in which state is data (smtp/states.py); what is refused
to whom is policy (policy/); what becomes of a message is commands/data.py.
"""

from __future__ import annotations

from time import monotonic

from ..config.session import AUTH_LIMIT
from ..decision import ACCEPT, ACCEPTED, DEFER, DROP, REFUSALS, REJECT, Decision
from ..facts import Auth, Envelope, Ruling
from ..net.channel import LineTooLong
from ..policy import stages
from ..smtp import replies, states
from ..smtp.command import BareLF, parse_command
from . import envelope
from .ending import Hangup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ..config.session import Limits
    from ..facts import Client, Tls
    from ..log import Log
    from ..net.channel import Channel
    from ..policy.hooks import Hooks
    from ..tls.provider import Door

LONGER = {b"AUTH ": AUTH_LIMIT}  # an initial response may be that long
UNKNOWN = b"?"  # in the log: no command of ours
_VERDICTS = {b"4": Decision(DEFER), b"5": Decision(REJECT)}


class Secured(Exception):
    """STARTTLS has succeeded: this session is over, and a fresh one begins."""

    def __init__(self, tls: Tls) -> None:
        super().__init__()
        self.tls = tls


class Dialogue:
    """From the greeting, or from STARTTLS, on; what is known of the client is known here alone."""

    def __init__(
        self,
        channel: Channel,
        client: Client,
        limits: Limits,
        hooks: Hooks,
        log: Log,
        door: Door | None,
    ) -> None:
        self._channel = channel
        self._limits = limits
        self._hooks = hooks
        self._log = log
        self._counters = client.counters
        self._client = client
        self._door = door
        self._state = states.IDLE
        self._envelope = Envelope(b"")
        self._about: dict[str, bytes | str | int] = {}  # what the log should say of this command
        self._logged = False  # it has had its own line
        self._verb: bytes | None = None  # the command under way, as the log should name it
        self._ruling: Ruling | None = None  # what policy said of it
        self._ended = False  # it was a DATA that ended the transaction
        self._greeting = limits.greeting
        self._commands: dict[bytes, Callable[[bytes], bytes]] = {
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
        if door is not None or client.tls is not None:
            self._commands[b"STARTTLS"] = self._starttls
        if limits.auth.mechanisms:
            self._commands[b"AUTH"] = self._auth
        for verb in hooks.commands:
            self._commands[verb] = self._own(verb)

    def greet(self) -> None:
        """Say the first word.  Raises Hangup where a plugin wants nothing of this client."""
        self._refused(self._hooks.ask(stages.CONNECT, self._client))
        self._channel.write(b"220 " + self._greeting + b" ESMTP\r\n")

    def welcome(self) -> None:
        """After STARTTLS the client speaks first.  Raises Hangup as greet() does."""
        tls = self._client.tls
        cipher = b"" if tls is None else tls.cipher or b""
        self._hooks.tell(self._client, Ruling(stages.STARTTLS, "", ACCEPTED, cipher))
        self._refused(self._hooks.ask(stages.STARTTLS, self._client))

    def converse(self) -> NoReturn:
        """Serve commands.  The end is raised: Secured, Hangup, or what a room below raises."""
        self._send_strangers_away()
        while True:
            self._counters.commands += 1
            self._about = {}
            self._logged = False
            self._ruling = None
            self._ended = False
            self._verb = None
            try:
                line = self._channel.line(self._limits.line, LONGER)
            except LineTooLong as error:
                verb, _ = parse_command(error.start)
                self._reset(verb)
                reply = replies.LINE_TOO_LONG
            else:
                verb, argument = parse_command(line)
                # What an unknown command says is not logged: it may be half an AUTH.
                self._verb = verb if verb in self._commands else UNKNOWN
                reply = self._refusal(line, verb) or self._commands[verb](argument)
            self._answer(verb, reply)

    def end(self, hangup: Hangup | None = None) -> None:
        """Tell the plugins that it is over."""
        try:
            if hangup is not None and hangup.ruling is not None:
                self._hooks.tell(self._client, hangup.ruling)
            self._hooks.notify(stages.DISCONNECT, self._client)
        except Exception as error:
            self._hooks.log_trouble(error)

    # -- around the commands -----------------------------------------------

    def _send_strangers_away(self) -> None:
        prefix = self._channel.starts_with(states.STRANGERS)
        if prefix is not None:
            protocol, reply = states.STRANGERS[prefix]
            raise Hangup("not-smtp-" + protocol, reply)

    def _refusal(self, line: bytes, verb: bytes) -> bytes | None:
        """The reply to a command that is not carried out, or None."""
        # A line that was too long and then skipped counts as well.
        if self._limits.data.bare_lf == "reject-all" and self._channel.bare_lf:
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

    def _lacks_tls(self) -> bytes | None:
        tls, wanted = self._client.tls, self._limits.tls
        if wanted.required and tls is None:
            return replies.TLS_REQUIRED
        if wanted.client_required and tls is not None and tls.fingerprint is None:
            return replies.CERTIFICATE_REQUIRED
        return None

    def _answer(self, verb: bytes, reply: bytes) -> None:
        """Send a reply, count it, and slow down or end what goes wrong too often."""
        counters, limits = self._counters, self._limits
        if verb in states.JUNK:
            counters.junk += 1
        if (
            reply in replies.ERRORS
            or verb not in self._commands
            or (verb in states.JUNK and counters.junk > limits.max_junk)
        ):
            counters.errors += 1
            if counters.errors > limits.max_errors:
                raise Hangup("errors", replies.TOO_MANY_ERRORS)
            if counters.errors > limits.soft_errors:
                self._channel.pause(limits.error_delay)
        if reply[0] in b"45":
            counters.refused += 1
            if not self._logged:
                known = verb if verb in self._commands else UNKNOWN
                self._log.line("refused", command=known, reply=reply, **self._about)
        elif verb in states.NEXT:
            self._state = states.NEXT[verb]
        self._channel.write(reply + b"\r\n")
        if self._ended and self._hooks.has(stages.OK, stages.DENY, stages.RESET):
            self._channel.flush()  # what then goes wrong cannot take the 250 back
        self._tell(verb, reply)
        if self._ended:
            self._end_transaction()

    # -- policy ------------------------------------------------------------

    def _refused(self, ruling: Ruling) -> bytes | None:
        """The reply where a plugin refuses, else None.  Raises Hangup where that is the end."""
        self._ruling = ruling
        if ruling.decision.verdict not in REFUSALS:
            return None
        why = ": " + ruling.detail.decode("ascii", "replace") if ruling.detail else ""
        self._about = {"by": ruling.plugin + why, **self._about}
        if ruling.decision.verdict == DROP or ruling.stage in stages.GOODBYE:
            self._log.line("refused", command=self._verb, reply=ruling.reply, **self._about)
            raise Hangup("dropped-by-" + ruling.plugin, ruling.reply, ruling=ruling)
        return ruling.reply

    def _tell(self, verb: bytes, reply: bytes) -> None:
        """Let the observers know what became of a command that matters."""
        refused = _VERDICTS.get(reply[:1])
        if refused is None and verb not in states.OUTCOMES:
            return
        if not self._hooks.has(stages.OK, stages.DENY):
            return
        ruling = self._ruling
        # An acceptance by policy may have become a refusal since, as of a message by the queue.
        if ruling is None or (ruling.decision.verdict in REFUSALS) != (refused is not None):
            stage = states.OUTCOMES.get(verb, stages.UNKNOWN)
            ruling = Ruling(stage, "", refused or ACCEPTED, self._subject(verb))
        ruling.reply = reply
        self._hooks.tell(self._client, ruling)

    def _subject(self, verb: bytes) -> bytes:
        """What such a command is about."""
        if verb in (b"HELO", b"EHLO"):
            return self._client.helo or b""
        if verb == b"AUTH" and self._client.auth is not None:
            return self._client.auth.user
        return b""

    def _unknown(self, line: bytes) -> bytes:
        self._counters.unknown += 1
        ruling = self._hooks.ask(stages.UNKNOWN, self._client, line.rstrip(b"\r\n"))
        return self._refused(ruling) or replies.UNIMPLEMENTED

    def _own(self, verb: bytes) -> Callable[[bytes], bytes]:
        """A command that a plugin brings."""
        stage = "command_" + verb.decode("ascii").lower()

        def carry_out(argument: bytes) -> bytes:
            ruling = self._hooks.ask(stage, self._client, argument)
            if ruling.decision.verdict == ACCEPT:
                return stages.render(stage, ruling.decision)
            return self._refused(ruling) or replies.UNIMPLEMENTED

        return carry_out

    # -- the commands: argument -> reply -----------------------------------

    def _helo(self, argument: bytes) -> bytes:
        return self._hello(argument, esmtp=False) or b"250 " + self._greeting

    def _ehlo(self, argument: bytes) -> bytes:
        refusal = self._hello(argument, esmtp=True)
        if refusal is not None:
            return refusal
        size = b"SIZE %d" % self._limits.data.databytes  # 0: no limit (RFC 1870, 3)
        lines = [self._greeting, b"PIPELINING", b"8BITMIME", size]
        if self._door is not None and self._client.tls is None:
            lines.append(b"STARTTLS")
        if self._may_authenticate() and self._client.auth is None:
            lines.append(b"AUTH " + b" ".join(self._limits.auth.mechanisms))
        more = self._hooks.capabilities(self._client)
        if more is None:
            return replies.PLUGIN_TROUBLE
        return replies.multiline(250, lines + more)

    def _hello(self, name: bytes, esmtp: bool) -> bytes | None:
        """The refusal of HELO or EHLO, or None."""
        self._client.helo = name
        self._client.esmtp = esmtp
        self._about = {"helo": name}
        return self._refused(self._hooks.ask(stages.HELO, self._client, name, about=name))

    def _starttls(self, argument: bytes) -> bytes:
        if argument:
            return replies.NO_PARAMETERS
        if self._door is None or self._client.tls is not None:
            return replies.TLS_ACTIVE
        if self._limits.tls.refuse_injection and self._channel.pending:
            raise Hangup("starttls-injection", replies.TLS_PIPELINED)
        from . import starttls

        tls = starttls.negotiate(self._channel, self._door, self._log)
        if tls is None:
            return replies.TLS_UNAVAILABLE
        raise Secured(tls)

    def _may_authenticate(self) -> bool:
        wanted = self._limits.auth
        return bool(wanted.mechanisms) and (self._client.tls is not None or wanted.in_clear)

    def _auth(self, argument: bytes) -> bytes:
        if self._client.auth is not None:
            return replies.AUTH_AGAIN
        if not self._may_authenticate():
            return replies.AUTH_NEEDS_TLS
        from . import auth, sasl

        result = auth.authenticate(self._channel, argument, self._limits.auth)
        if result.verdict is None:
            return result.reply
        reply, hangup = result.reply, None
        refusal = None
        if result.verdict == sasl.ACCEPTED:
            refusal = self._admit(Auth(result.user, result.mechanism))
            reply = refusal or reply
        else:  # who cannot be checked may be guessing, too
            self._counters.auth_failures += 1
            if self._counters.auth_failures >= self._limits.auth.max_failures:
                reply = replies.TOO_MANY_FAILURES
            who, how = result.user, result.mechanism
            self._ruling = Ruling(stages.AUTH, "", _VERDICTS[reply[:1]], who, reply, how)
            if reply == replies.TOO_MANY_FAILURES:
                hangup = Hangup("auth-failures", reply, ruling=self._ruling)
        self._logged = True
        self._log.line(
            "auth",
            verdict=result.verdict if refusal is None else sasl.REFUSED,
            by=None if refusal is None or self._ruling is None else self._ruling.plugin,
            mechanism=result.mechanism,
            user=result.user,
            reply=reply,
        )
        if result.verdict != sasl.ACCEPTED:
            self._channel.pause(self._limits.auth.delay)
        if hangup is not None:
            raise hangup
        return reply

    def _admit(self, who: Auth) -> bytes | None:
        """The password was right: the refusal of a plugin all the same, or None."""
        ruling = self._hooks.ask(stages.AUTH, self._client, who.user, who.mechanism, about=who.user)
        refusal = self._refused(ruling)
        if refusal is None:
            self._client.auth = who
            if self._client.relay is None:
                self._client.relay = b""
        return refusal

    def _mail(self, argument: bytes) -> bytes:
        if self._limits.auth.required and self._client.auth is None:
            return replies.AUTH_REQUIRED
        try:
            self._envelope = envelope.sender(argument, self._limits)
        except envelope.Refused as error:
            return error.reply
        sender = self._envelope.sender
        self._about = {"helo": self._client.helo or b"", "from": sender}
        ruling = self._hooks.ask(stages.MAIL, self._client, self._envelope, about=sender)
        return self._refused(ruling) or replies.OK

    def _rcpt(self, argument: bytes) -> bytes:
        try:
            asked = envelope.recipient(argument, self._limits)
        except envelope.Refused as error:
            return error.reply
        self._about = self._transaction(asked)
        if len(self._envelope.recipients) >= self._limits.recipients:
            self._ruling = Ruling(stages.RCPT, "", _VERDICTS[b"4"], asked)
            return replies.TOO_MANY_RECIPIENTS
        self._counters.recipients += 1
        ruling, recipient = self._hooks.rcpt(self._client, self._envelope, asked)
        self._counters.bad_recipients += ruling.reply[:1] == b"5"
        refusal = self._refused(ruling)
        if refusal is not None:
            return refusal
        self._envelope.recipients.append(recipient)
        return replies.OK

    def _transaction(self, recipient: bytes) -> dict[str, bytes | str | int]:
        """The log's fields of who sends what to whom."""
        return {
            "helo": self._client.helo or b"",
            **({"user": self._client.auth.user} if self._client.auth is not None else {}),
            "from": self._envelope.sender,
            "to": recipient,
        }

    def _data(self, argument: bytes) -> bytes:
        try:
            from . import data
        except (ImportError, OSError) as error:  # no descriptor to be had, say
            self._hooks.log_trouble(error)
            return replies.QUEUE_PIPES
        recipients = self._envelope.recipients
        started = monotonic()
        report: dict[str, int | str | bytes] = {"rcpts": len(recipients)}
        verdict, reply = "aborted", None
        try:
            reply, ruling = data.receive(
                self._channel,
                self._client,
                self._envelope,
                self._hooks,
                self._limits.data,
                self._limits.auth.hide,
                report,
            )
            if ruling is None:
                how = str(report.get("exit", "")).encode("ascii", "replace")
                ruling = Ruling(stages.QUEUE, "", _VERDICTS.get(reply[:1], ACCEPTED), detail=how)
            else:
                report["by"] = ruling.plugin
            self._ruling = ruling
            verdict = "accepted" if reply.startswith(b"250") else "refused"
        except Hangup as hangup:  # a plugin wants no more of this client
            if hangup.ruling is not None:
                verdict, report["by"] = "refused", hangup.ruling.plugin
                report["reply"] = hangup.ruling.reply
            raise
        finally:
            report["seconds"] = f"{monotonic() - started:.3f}"
            # What we say comes first: a line that is too long loses its end.
            message = {"reply": reply, **report, **self._transaction(recipients[0])}
            self._log.line("message", verdict=verdict, **message)
            self._logged = True
            if reply is None:  # the session ends with it
                self._end_transaction()
        self._ended = True
        if verdict == "accepted":
            self._counters.messages += 1
            self._counters.forgive()
        return reply

    def _quit(self, argument: bytes) -> bytes:
        raise Hangup("quit", b"221 " + self._greeting, status=0)
