"""The fake server's side of one connection.  It takes no message: DATA gets 451."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from ..connection import Babble, Connection, Trouble
from .scenarios import Scenario
from .visit import DONE, Visit

_NAME = b"starttls-probe.invalid"
#: What each mechanism asks for, in base64; LOGIN: "Username:" and "Password:".
_PROMPTS = {b"PLAIN": (b"",), b"LOGIN": (b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6")}
#: A client that says more is not tested further.
_COMMANDS = 100


class Conversation:
    """Serves one client as the scenario says, and writes down what it does in the visit.

    `wait` (seconds) is how long an answer is withheld to see whether the client
    goes on without it.
    """

    def __init__(
        self,
        link: Connection,
        scenario: Scenario,
        context: ssl.SSLContext,
        visit: Visit,
        wait: float,
    ) -> None:
        self._link = link
        self._scenario = scenario
        self._context = context
        self._visit = visit
        self._wait = wait
        self._withhold = False
        self._commands: dict[bytes, Callable[[bytes], bytes]] = {
            b"EHLO": self._hello,
            b"LHLO": self._hello,
            b"HELO": self._helo,
            b"STARTTLS": self._starttls,
            b"AUTH": self._auth,
            b"MAIL": self._mail,
            b"RCPT": lambda argument: b"250 ok",
            b"DATA": lambda argument: b"451 a test; no message is taken",
            b"RSET": lambda argument: b"250 ok",
            b"NOOP": lambda argument: b"250 ok",
            b"QUIT": lambda argument: b"221 " + _NAME,
        }

    def run(self) -> None:
        """Until the client leaves.  Raises Trouble where it leaves without QUIT."""
        self._link.send(b"220 " + _NAME + b" ESMTP\r\n" + self._scenario.greeted)
        for _ in range(_COMMANDS):
            verb, _, argument = self._link.command().partition(b" ")
            verb = verb.upper()
            self._visit.steps.append(verb.decode() if verb in self._commands else "?")
            if self._withhold:
                self._withhold = False
                self._visit.hasty |= self._link.comes(self._wait)
            if verb != b"QUIT" and self._link.tls is not None:
                self._visit.talked_in_tls = True
            answer = self._commands.get(verb, _unknown)(argument)
            if answer:
                self._link.send(answer + b"\r\n")
            if verb == b"QUIT":
                return
        raise Babble(f"more than {_COMMANDS} commands")

    def _helo(self, argument: bytes) -> bytes:
        self._note_hello()
        return b"250 " + _NAME

    def _note_hello(self) -> None:
        if self._link.tls is None:
            self._visit.hello_in_clear = True
        else:
            self._visit.hello_in_tls = True

    def _hello(self, argument: bytes) -> bytes:
        self._note_hello()
        keywords = self._scenario.clear if self._link.tls is None else self._scenario.inside
        # PIPELINING is not announced: a client that goes on has read an answer.
        lines = [_NAME, b"8BITMIME", *keywords]
        return b"\r\n".join(
            b"250" + (b" " if number == len(lines) else b"-") + line
            for number, line in enumerate(lines, 1)
        )

    def _starttls(self, argument: bytes) -> bytes:
        if self._link.tls is not None:
            return b"503 already in TLS"
        self._visit.starttls = True
        if self._scenario.refuses or b"STARTTLS" not in self._scenario.clear:
            return b"454 TLS is not available"
        self._link.send(b"220 begin\r\n" + self._scenario.injected)
        try:
            self._link.start_tls(self._context, server_side=True)
        except Trouble as trouble:
            self._visit.handshake = str(trouble)
            raise
        self._visit.handshake = DONE
        self._visit.steps.append("TLS")
        self._withhold = bool(self._scenario.injected)
        return b""

    def _auth(self, argument: bytes) -> bytes:
        """AUTH PLAIN and LOGIN; any password is the right one.

        Credentials that come with another mechanism are given away all the same.
        """
        mechanism, _, initial = argument.strip().partition(b" ")
        prompts = list(_PROMPTS.get(mechanism.upper(), ()))
        if initial:
            self._note_password()
        if not prompts:
            return b"504 only PLAIN and LOGIN"
        for prompt in prompts[1:] if initial else prompts:
            self._link.send(b"334 " + prompt + b"\r\n")
            if self._link.command().rstrip(b" \t") == b"*":  # RFC 4954, 4: the client gives up
                return b"501 as you like"
        self._note_password()
        return b"235 welcome"

    def _note_password(self) -> None:
        if self._link.tls is None:
            self._visit.password_in_clear = True
        else:
            self._visit.password_in_tls = True

    def _mail(self, argument: bytes) -> bytes:
        if self._link.tls is None:
            self._visit.mail_in_clear = True
        else:
            self._visit.mail_in_tls = True
        return b"250 ok"


def _unknown(argument: bytes) -> bytes:
    return b"502 not implemented"
