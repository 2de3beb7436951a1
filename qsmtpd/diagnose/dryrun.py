"""A whole session without a network: for `qsmtpd --explain`, and for tests of plugins.

The client is a list of commands; the session, the hooks and the plugins are
the real ones.  Nothing is queued: the back end only remembers what it was
given.  Nobody waits: pauses are remembered, too.
"""

from __future__ import annotations

import sys
from time import monotonic

from ..child.queue import Verdict
from ..config.session import SessionSettings
from ..net.channel import Channel
from ..policy import stages
from ..policy.spec import Entry
from ..session import run
from ..session.dialogue import Smtp
from ..session.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from OpenSSL import SSL

    from ..config.settings import Settings
    from ..facts import Client, Envelope, Outcome, Peer, Tls
    from ..log import Log
    from ..tls.provider import TlsProvider

    Watch = Callable[[bytes], None]


class Memory:
    """A back end that queues nothing, and takes whatever it is given: `messages`."""

    #: For the reply: no process of this number is anybody's queue program.
    pid: int = 0

    def __init__(self) -> None:
        #: (sender, recipients, the message with our Received and what plugins added)
        self.messages: list[tuple[bytes, list[bytes], bytes]] = []
        self._text = b""

    def open(self, client: Client, envelope: Envelope) -> Memory:
        """The hook `queue`."""
        self._text = b""
        return self

    def feed(self, data: bytes) -> None:
        """More of the message."""
        self._text += data

    def commit(self, sender: bytes, recipients: list[bytes]) -> Verdict:
        """All of it has come."""
        self.messages.append((sender, list(recipients), self._text))
        return Verdict(True, exit="0")

    def abort(self) -> None:
        """It is not to be delivered."""

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()


class Script:
    """The transport of a client that says one thing after the other.

    `commands` are lines without CRLF.  What follows DATA is the message, and
    is left out where DATA was refused.  Behind STARTTLS, if that was answered
    220, the client goes on in TLS.  `sent` and `heard` are shown what is said,
    and what is answered with LF between its lines.
    """

    def __init__(self, commands: Sequence[bytes], sent: Watch, heard: Watch) -> None:
        self._commands = list(commands)
        self._sent = sent
        self._heard = heard
        self._last = b""
        self._said = b""
        self._answer = b""
        self._tls: _TlsClient | None = None

    def read(self, deadline: float) -> bytes:
        """The next command, or what TLS sends before it; b"" at the end."""
        if self._tls is not None and not self._tls.shake_hands():
            return self._tls.outgoing()
        self._tell()
        if self._last.upper() == b"STARTTLS" and self._answer.startswith(b"220"):
            self._last = b""
            self._tls = _TlsClient()
            return self.read(deadline)
        command = self._next()
        if self._tls is None or not command:
            return command
        return self._tls.encrypted(command)

    def _next(self) -> bytes:
        if self._last[:4].upper() == b"DATA" and not self._answer.startswith(b"354"):
            del self._commands[:1]
        if not self._commands:
            self._last = b""
            return b""
        after_data = self._answer.startswith(b"354")
        self._last = self._commands.pop(0)
        self._sent(self._last)
        return _stuffed(self._last) if after_data else self._last + b"\r\n"

    def write(self, data: bytes, deadline: float) -> None:
        """What the server says."""
        if self._tls is None:
            self._said += data
            return
        self._said += self._tls.decrypted(data)
        if self._tls.closed:  # close_notify is the last thing to be written
            self._tell()

    def close(self, deadline: float) -> None:
        """It has said everything."""
        self._tell()

    def drain(self, wait: bool, rate: int) -> None:
        """It has heard everything."""

    def _tell(self) -> None:
        self._answer = self._said.rstrip(b"\r\n").replace(b"\r\n", b"\n")
        if self._said:
            self._heard(self._answer)
            self._said = b""


class _TlsClient:
    """The client's side of TLS, in memory: it verifies nothing, and offers ALPN `smtp`.

    `closed`: the server has sent close_notify.  Methods raise SSL.Error where TLS fails.
    """

    def __init__(self) -> None:
        from OpenSSL import SSL  # now: most scripts need no TLS

        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_alpn_protos([b"smtp"])
        self._tls: SSL.Connection = SSL.Connection(context, None)
        self._tls.set_connect_state()
        self._want_read: type[Exception] = SSL.WantReadError
        self._end: type[Exception] = SSL.ZeroReturnError
        self.closed = False

    def shake_hands(self) -> bool:
        """Go on with the handshake; is it done on this side?"""
        try:
            self._tls.do_handshake()
        except self._want_read:
            return False
        return True

    def outgoing(self) -> bytes:
        """What is to be sent; b"" where that is nothing."""
        try:
            return self._tls.bio_read(1 << 20)
        except self._want_read:
            return b""

    def encrypted(self, text: bytes) -> bytes:
        """What sends this text, behind what the handshake has left to be sent."""
        self._tls.sendall(text)
        return self.outgoing()

    def decrypted(self, data: bytes) -> bytes:
        """The text in what was received."""
        while data:
            data = data[self._tls.bio_write(data) :]
        text = b""
        try:
            while True:
                text += self._tls.recv(1 << 14)
        except self._want_read:
            pass
        except self._end:
            self.closed = True
        return text


class DryRun:
    """A session to come: run() it once.  Raises ControlError.

    `tls` is the encryption that it is to believe in; `checkpassword`, the
    program with its arguments that AUTH asks; `provider`, how STARTTLS gets TLS.
    """

    def __init__(
        self,
        lookup: Settings,
        peer: Peer,
        log: Log,
        tls: Tls | None = None,
        checkpassword: Sequence[bytes] = (),
        provider: TlsProvider | None = None,
    ) -> None:
        self.back_end = Memory()
        self.pauses: list[float] = []
        self._peer = peer
        self._tls = tls
        settings = SessionSettings.load(lookup, checkpassword)
        self._plan = Plan(Smtp, settings, lookup, log, [_in_front(self.back_end)])
        self._plan.provider = provider
        self.hooks = self._plan.plugins.hooks()

    def run(
        self,
        commands: Sequence[bytes],
        sent: Watch,
        heard: Watch,
        leave: Callable[[int], object] = sys.exit,
        waits: bool = False,
    ) -> Outcome:
        """Say these commands (see Script).  leave(status) ends it all where a plugin does not.

        `waits`: pauses are made, as in a real session, and not remembered.
        """
        script = Script(commands, sent, heard)
        channel = Channel(script) if waits else _Impatient(script, self.pauses)
        return run.run(
            channel,
            self._peer,
            self._plan,
            self.hooks,
            self._tls,
            leave,
            monotonic(),
            dry_run=True,
        )


class _Impatient(Channel):
    """Nobody is there to wait, or to speak too early."""

    __slots__ = ("_pauses",)

    def __init__(self, transport: Script, pauses: list[float]) -> None:
        super().__init__(transport)
        self._pauses = pauses

    def pause(self, seconds: float) -> None:
        self.flush()
        self._pauses.append(seconds)

    def speaks(self, seconds: float) -> bool:
        self._pauses.append(seconds)
        return False


def _in_front(memory: Memory) -> Entry:
    """The plugin that takes the message before any other back end does."""
    return Entry("nowhere", {stages.QUEUE: memory.open})


def _stuffed(message: bytes) -> bytes:
    """A message as a client sends it (RFC 5321, 4.5.2)."""
    text = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if not text.endswith(b"\r\n"):
        text += b"\r\n"
    if text.startswith(b"."):
        text = b"." + text
    return text.replace(b"\r\n.", b"\r\n..") + b".\r\n"
