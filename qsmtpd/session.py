"""The session: reads a line, looks it up, dispatches, replies.

What a command may do in which state is data (smtp/states.py); what is refused
to whom is policy (policy/); what becomes of a message is commands/data.py.
"""

from __future__ import annotations

from time import monotonic

from . import auth
from .channel import Gone, LineTooLong, Timeout
from .commands import data, starttls
from .decision import ACCEPT, DROP
from .facts import Auth, Client, ControlError, Envelope, Outcome
from .hangup import Hangup, explain, log_trouble
from .smtp import replies, states
from .smtp.address import (
    BadParameter,
    check_xtext,
    parse_parameters,
    parse_path,
    parse_size,
    split_literal,
)
from .smtp.command import parse_command
from .smtp.data import BareLF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .channel import Channel
    from .facts import Peer, Tls
    from .limits import Limits
    from .log import Log
    from .policy.hooks import Hooks
    from .tls.door import Door

LONGER = {b"AUTH ": auth.LIMIT}  # an initial response may be that long
UNKNOWN = b"?"  # in the log: no command of ours


class Counters:
    """What a connection has done so far.  This survives a fresh session."""

    __slots__ = ("commands", "errors", "junk", "auth_failures", "messages", "refused", "_start")

    def __init__(self) -> None:
        self.commands = 0
        self.errors = 0
        self.junk = 0
        self.auth_failures = 0
        self.messages = 0
        self.refused = 0  # 4xx and 5xx replies
        self._start = monotonic()

    def seconds(self) -> float:
        """How long it has lasted."""
        return monotonic() - self._start

    def forgive(self) -> None:
        """An accepted message: both counts of abuse start anew."""
        self.errors = self.junk = 0


def run(
    channel: Channel,
    peer: Peer,
    limits: Limits,
    hooks: Hooks,
    log: Log,
    tls: Tls | None,
    door: Door | None,
) -> Outcome:
    """Speak SMTP with the client until one side has enough.  Raises nothing.

    `tls` is what there is already; `door`, how STARTTLS gets it.
    """
    counters = Counters()
    try:
        channel.write(b"220 " + limits.greeting + b" ESMTP\r\n")
        while True:
            # After STARTTLS a fresh session begins, from the facts of the Peer
            # alone (RFC 3207, 4.2).  Only the counters of abuse go on.
            session = Session(channel, Client(peer, tls), limits, hooks, log, counters, door)
            try:
                session.converse()
            except Secured as secured:
                tls = secured.tls
    except Exception as error:
        hangup = explain(error, log)
        counters.refused += hangup.reply is not None and hangup.reply[0] in b"45"
        try:
            if hangup.reply is not None:
                channel.write(hangup.reply + b"\r\n")
            if hangup.end != "tls-failed":  # then not another plain byte
                channel.close()
        except (Gone, Timeout):
            pass
    log.line(
        "session",
        end=hangup.end,
        reply=hangup.reply,
        port=peer.port,
        local_ip=peer.local_ip,
        local_port=peer.local_port,
        seconds=f"{counters.seconds():.3f}",
        bytes_in=channel.bytes_in,
        bytes_out=channel.bytes_out,
        commands=counters.commands,
        messages=counters.messages,
        refused=counters.refused,
        errors=counters.errors,
    )
    return Outcome(hangup.end, hangup.status)


class Secured(Exception):
    """STARTTLS has succeeded: this session is over, and a fresh one begins."""

    def __init__(self, tls: Tls) -> None:
        super().__init__()
        self.tls = tls


class Session:
    """One SMTP session, from the greeting, or from STARTTLS, on."""

    def __init__(
        self,
        channel: Channel,
        client: Client,
        limits: Limits,
        hooks: Hooks,
        log: Log,
        counters: Counters,
        door: Door | None,
    ) -> None:
        self._channel = channel
        self._limits = limits
        self._hooks = hooks
        self._log = log
        self._counters = counters
        self._client = client
        self._door = door
        self._state = states.IDLE
        self._envelope = Envelope(b"")
        self._about: dict[str, bytes | str | int] = {}  # what the log should say of this command
        self._logged = False  # it has had its own line
        self._greeting = limits.greeting
        self._commands = {
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

    def converse(self) -> NoReturn:
        """Serve commands.  The end is raised: Secured, Hangup, or what a room below raises."""
        self._send_strangers_away()
        while True:
            self._counters.commands += 1
            self._about = {}
            self._logged = False
            try:
                line = self._channel.line(self._limits.line, LONGER)
            except LineTooLong as error:
                verb, _ = parse_command(error.start)
                self._reset(verb)
                reply = replies.LINE_TOO_LONG
            else:
                verb, argument = parse_command(line)
                reply = self._refusal(line, verb) or self._commands[verb](argument)
            self._answer(verb, reply)

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
            return replies.UNIMPLEMENTED
        refusal = states.REFUSALS[self._state].get(verb)
        if refusal is None:
            self._reset(verb)
        return refusal

    def _reset(self, verb: bytes) -> None:
        if verb in states.RESETS:
            self._state = states.IDLE

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
        if reply in replies.ERRORS or (verb in states.JUNK and counters.junk > limits.max_junk):
            counters.errors += 1
            if counters.errors > limits.max_errors:
                raise Hangup("errors", replies.TOO_MANY_ERRORS)
            if counters.errors > limits.soft_errors:
                self._channel.pause(limits.error_delay)
        if reply[0] in b"45":
            counters.refused += 1
            # What an unknown command says is not logged: it may be half an AUTH.
            known = verb if verb in self._commands else UNKNOWN
            if not self._logged:
                self._log.line("refused", command=known, reply=reply, **self._about)
        elif verb in states.NEXT:
            self._state = states.NEXT[verb]
        self._channel.write(reply + b"\r\n")

    # -- the commands: argument -> reply -----------------------------------

    def _helo(self, argument: bytes) -> bytes:
        self._client.helo = argument
        self._client.esmtp = False
        return b"250 " + self._greeting

    def _ehlo(self, argument: bytes) -> bytes:
        self._client.helo = argument
        self._client.esmtp = True
        size = b"SIZE %d" % self._limits.data.databytes  # 0: no limit (RFC 1870, 3)
        lines = [self._greeting, b"PIPELINING", b"8BITMIME", size]
        if self._door is not None and self._client.tls is None:
            lines.append(b"STARTTLS")
        if self._may_authenticate() and self._client.auth is None:
            lines.append(b"AUTH " + b" ".join(self._limits.auth.mechanisms))
        return replies.multiline(250, lines)

    def _starttls(self, argument: bytes) -> bytes:
        if argument:
            return replies.NO_PARAMETERS
        if self._door is None or self._client.tls is not None:
            return replies.TLS_ACTIVE
        if self._limits.tls.refuse_injection and self._channel.pending:
            raise Hangup("starttls-injection", replies.TLS_PIPELINED)
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
        from .commands import auth as auth_command

        result = auth_command.authenticate(self._channel, argument, self._limits.auth)
        if result.verdict is None:
            return result.reply
        if result.verdict == auth.ACCEPTED:
            self._client.auth = Auth(result.user, result.mechanism)
            if self._client.relay is None:
                self._client.relay = b""
        reply, hangup = result.reply, None
        if result.verdict != auth.ACCEPTED:  # who cannot be checked may be guessing, too
            self._counters.auth_failures += 1
            if self._counters.auth_failures >= self._limits.auth.max_failures:
                reply = replies.TOO_MANY_FAILURES
                hangup = Hangup("auth-failures", reply)
        self._logged = True
        self._log.line(
            "auth",
            verdict=result.verdict,
            mechanism=result.mechanism,
            user=result.user,
            reply=reply,
        )
        if result.verdict != auth.ACCEPTED:
            self._channel.pause(self._limits.auth.delay)
        if hangup is not None:
            raise hangup
        return reply

    def _path(self, argument: bytes) -> tuple[bytes | None, dict[bytes, bytes | None]]:
        """(the address, or None where it is too long; the parameters)"""
        address, rest = parse_path(argument)
        literal = split_literal(address)
        if literal is not None and self._limits.localiphost is not None:
            from .address import is_local

            box, text = literal
            if is_local(text):
                address = box + b"@" + self._limits.localiphost
        # The limit counts the NUL that ends an address in the envelope.
        if len(address) >= self._limits.address:
            return None, {}
        return address, parse_parameters(rest)

    def _mail(self, argument: bytes) -> bytes:
        if self._limits.auth.required and self._client.auth is None:
            return replies.AUTH_REQUIRED
        try:
            sender, parameters = self._path(argument)
            size = parse_size(parameters[b"SIZE"]) if b"SIZE" in parameters else 0
            if b"AUTH" in parameters:
                # Nothing is done with it: who the client is, is known.
                check_xtext(parameters[b"AUTH"])
            body = parameters.get(b"BODY", b"7BIT") or b""
            if body.upper() not in (b"7BIT", b"8BITMIME"):  # RFC 6152, 2
                raise BadParameter(body)
        except BadParameter:
            return replies.BAD_PARAMETER
        if sender is None:
            return replies.SYNTAX
        if self._limits.data.databytes and size > self._limits.data.databytes:
            return replies.TOO_BIG
        self._envelope = Envelope(sender)
        return replies.OK

    def _rcpt(self, argument: bytes) -> bytes:
        try:
            recipient, _ = self._path(argument)
        except BadParameter:
            return replies.BAD_PARAMETER
        if recipient is None:
            return replies.SYNTAX
        if len(self._envelope.recipients) >= self._limits.recipients:
            return replies.TOO_MANY_RECIPIENTS
        try:
            plugin, decision = self._hooks.rcpt(self._client, self._envelope, recipient)
        except ControlError:
            raise
        except Exception as error:
            log_trouble(self._log, error, hook="rcpt")
            return replies.PLUGIN_TROUBLE
        if decision.verdict == ACCEPT:
            replaced = decision.recipient
            self._envelope.recipients.append(recipient if replaced is None else replaced)
            return replies.OK
        self._about = {"by": plugin, **self._transaction(recipient)}
        reply = b"%d " % decision.code + decision.text
        if decision.verdict == DROP:
            raise Hangup("dropped-by-" + plugin, reply)
        return reply

    def _transaction(self, recipient: bytes) -> dict[str, bytes | str | int]:
        """The log's fields of who sends what to whom."""
        return {
            "helo": self._client.helo or b"",
            **({"user": self._client.auth.user} if self._client.auth is not None else {}),
            "from": self._envelope.sender,
            "to": recipient,
        }

    def _data(self, argument: bytes) -> bytes:
        recipients = self._envelope.recipients
        started = monotonic()
        report: dict[str, int | str] = {"rcpts": len(recipients)}
        verdict, reply = "aborted", None
        try:
            reply = data.receive(
                self._channel,
                self._client,
                self._envelope,
                self._limits.data,
                self._limits.queue,
                self._limits.auth.hide,
                report,
            )
            verdict = "accepted" if reply.startswith(b"250") else "refused"
        finally:
            report["seconds"] = f"{monotonic() - started:.3f}"
            # What we say comes first: a line that is too long loses its end.
            message = {**report, "reply": reply, **self._transaction(recipients[0])}
            self._log.line("message", verdict=verdict, **message)
            self._logged = True
        if verdict == "accepted":
            self._counters.messages += 1
            self._counters.forgive()
        return reply

    def _quit(self, argument: bytes) -> bytes:
        raise Hangup("quit", b"221 " + self._greeting, status=0)
