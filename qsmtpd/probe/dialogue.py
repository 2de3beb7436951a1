"""One session with the server under test."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Sequence

from . import connection
from .connection import Connection, Trouble
from .errors import CouldNotTest
from .protocol import Reply, read_reply
from .target import Target

#: After these the server takes no commands but data: nothing more is to be asked.
SWALLOWS = (334, 354)
#: What is asked inside TLS, with and without an injection before it.
CONTROL = (b"NOOP", b"QUIT")


class Dialogue:
    """One session with the server, from its greeting on.  Methods raise Trouble.

    `surplus` is the number of replies that this server sends after a handshake
    without having been asked.
    """

    def __init__(self, target: Target, link: Connection, surplus: int) -> None:
        self.link = link
        self._target = target
        self._surplus = surplus

    def reply(self) -> Reply:
        """The next reply."""
        return read_reply(self.link)

    def ask(self, command: bytes) -> Reply:
        """Send a command, without its CRLF; return the reply."""
        self.link.send(command + b"\r\n")
        return self.reply()

    def hello(self) -> Reply:
        """Say EHLO, or its like; return what the server announces.  Raises CouldNotTest."""
        name = self._target.helo or self.link.literal()
        reply = self.ask(self._target.protocol.hello + b" " + name)
        if not reply.positive:
            raise CouldNotTest(f"it refuses {self._target.protocol.hello.decode()}: {reply}")
        return reply

    def offer(self) -> Reply:
        """Say EHLO and see that STARTTLS is announced.  Raises CouldNotTest."""
        reply = self.hello()
        if b"STARTTLS" not in reply.keywords():
            raise CouldNotTest("it does not offer STARTTLS")
        return reply

    def start_tls(self, version: ssl.TLSVersion | None = None) -> None:
        """Shake hands, after its 220.  Raises HandshakeFailed."""
        self.link.start_tls(connection.context(version), name=self._target.sni)
        for _ in range(self._surplus):
            self.reply()

    def secure(self) -> None:
        """STARTTLS as it should be done.  Raises CouldNotTest."""
        reply = self.ask(b"STARTTLS")
        if reply.code != 220:
            raise CouldNotTest(f"it refuses STARTTLS: {reply}")
        self.start_tls()

    def answers(self, commands: Sequence[bytes]) -> list[Reply]:
        """Ask these, the last being QUIT; return all replies until the end.

        A server that is in step gives one reply for each.  The end is its 221,
        its closing, its silence, or a reply after which it takes data.  Raises
        Trouble where there is no reply at all.
        """
        replies = [self.ask(commands[0])]
        try:
            for command in commands[1:]:
                if replies[-1].code in SWALLOWS:
                    return replies
                replies.append(self.ask(command))
        except Trouble:
            return replies  # it is in the evidence
        return replies if replies[-1].code in (221, *SWALLOWS) else replies + self.rest()

    def rest(self) -> list[Reply]:
        """All replies until the server says 221, closes or is silent."""
        replies: list[Reply] = []
        try:
            while not replies or replies[-1].code != 221:
                replies.append(self.reply())
        except Trouble:
            pass  # it is in the evidence
        return replies

    def authenticate(self) -> Reply:
        """AUTH PLAIN (RFC 4616) with the user's password; return the reply."""
        secret = base64.b64encode(b"\0" + self._target.user + b"\0" + self._target.password)
        self.link.evidence.hide(secret)
        return self.ask(b"AUTH PLAIN " + secret)
