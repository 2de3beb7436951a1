"""A small mail server for the tests of starttls-probe: sound, or with one fault.

It speaks from one thread per connection, on the loopback interface only.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from client import PATIENCE

from qsmtpd.probe.listen import certificates, kinds

CERTIFICATES = certificates.make(["localhost", "127.0.0.1"])
USER, PASSWORD = b"user", b"secret-password"
#: Seconds for what is taken as an injected message: nothing more comes, and who waits is to go on.
SWALLOWING = 0.5


@dataclass
class Faults:
    """What is wrong with the server.  As it stands: nothing.

    `survivors` gets what each read of the current buffer brought, STARTTLS and
    what stands behind it; it returns the bytes that outlive the handshake.
    """

    survivors: Callable[[list[bytes]], bytes] = lambda reads: b""
    complaint: bytes = b""  # sent inside TLS if bytes were discarded
    keeps_late_text: bool = False  # what comes in clear after the 220
    greets_again: bool = False
    refuses_injection: bytes = b""
    keeps: frozenset[str] = frozenset()  # of helo, mail, auth, chunks
    announces_again: bool = False
    takes_second: bool = False
    takes_argument: bool = False
    auth_in_clear: bytes = b""  # announced before TLS
    takes_auth_in_clear: bool = False
    goes_on_in_clear: bool = False
    complains_in_clear: bool = False
    handshake_timeout: float | None = None
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    certificate: str = kinds.GOOD
    ends_of_data: tuple[bytes, ...] = (b"\r\n.\r\n",)
    messages: int = 99  # so many are taken in all
    starttls: bool = True
    wants_helo: bool = True
    chunking: bool = True
    leaves_chunks: bool = False  # the bytes of one that is refused are not read


@dataclass
class Session:
    """What the server knows of its client."""

    helo: bool = False
    mail: bool = False
    rcpt: bool = False
    auth: bool = False
    chunks: bool = False


@dataclass
class Server:
    """A running server: its port, the messages that it took, the handshakes that it began."""

    port: int
    handshakes: int = 0
    messages: list[bytes] = field(default_factory=list)


class Gone(Exception):
    """The client left."""


class Conversation:
    """One connection."""

    def __init__(self, sock: socket.socket, faults: Faults, server: Server) -> None:
        self.sock, self.faults, self.server = sock, faults, server
        self.reads: list[bytes] = []  # what is in the buffer, read by read
        self.buffer = b""
        self.session = Session()
        self.tls = False
        self.kept = False  # did anything outlive the handshake?

    def read(self) -> None:
        data = self.sock.recv(4096)
        if not data:
            raise Gone
        self.reads.append(data)
        self.buffer += data

    def line(self) -> bytes:
        while b"\n" not in self.buffer:
            self.read()
        line, _, self.buffer = self.buffer.partition(b"\n")
        if not self.buffer:
            self.reads.clear()
        return line.rstrip(b"\r")

    def say(self, *lines: bytes) -> None:
        self.sock.sendall(b"".join(line + b"\r\n" for line in lines))

    def run(self) -> None:
        self.say(b"220 faulty.invalid ESMTP")
        while True:
            verb, _, argument = self.line().partition(b" ")
            method = getattr(self, "do_" + verb.decode("ascii", "replace").lower(), None)
            if method is None:
                self.say(b"500 what?")
            else:
                method(argument)

    def do_ehlo(self, argument: bytes) -> None:
        self.session = Session(helo=True, auth=self.session.auth)
        lines = [b"faulty.invalid", b"SIZE"]
        if self.faults.chunking:
            lines.append(b"CHUNKING")
        if self.faults.starttls and (not self.tls or self.faults.announces_again):
            lines.append(b"STARTTLS")
        if self.tls:
            lines.append(b"AUTH PLAIN")
        elif self.faults.auth_in_clear:
            lines.append(b"AUTH " + self.faults.auth_in_clear)
        self.say(*(b"250-" + line for line in lines[:-1]), b"250 " + lines[-1])

    do_lhlo = do_ehlo

    def do_noop(self, argument: bytes) -> None:
        self.say(b"250 ok")

    def do_rset(self, argument: bytes) -> None:
        self.session.mail = self.session.rcpt = False
        self.say(b"250 ok")

    def do_hang(self, argument: bytes) -> None:
        while True:
            self.read()

    def do_quit(self, argument: bytes) -> None:
        self.say(b"221 bye")
        raise Gone

    def do_mail(self, argument: bytes) -> None:
        if self.faults.wants_helo and not self.session.helo:
            self.say(b"503 EHLO first")
        else:
            self.session.mail = True
            self.say(b"250 ok")

    def do_rcpt(self, argument: bytes) -> None:
        self.session.rcpt = self.session.mail
        self.say(b"250 ok" if self.session.mail else b"503 MAIL first")

    def do_data(self, argument: bytes) -> None:
        if not self.session.rcpt:
            self.say(b"503 RCPT first")
            return
        self.say(b"354 go")
        self.swallow()
        while True:
            found = [
                (at, end) for end in self.faults.ends_of_data if (at := self.buffer.find(end)) >= 0
            ]
            if found:
                break
            self.read()
        at, end = min(found)
        accepted = len(self.server.messages) < self.faults.messages
        if accepted:
            self.server.messages.append(self.buffer[:at])
        self.buffer = self.buffer[at + len(end) :]
        self.session.mail = self.session.rcpt = False
        self.say(b"250 accepted" if accepted else b"451 enough")

    def do_bdat(self, argument: bytes) -> None:
        size, _, last = argument.partition(b" ")
        if not (self.session.rcpt or (self.tls and self.session.chunks)):
            if not self.faults.leaves_chunks:
                self.take(int(size))
            self.say(b"503 RCPT first")
            return
        self.swallow()
        self.take(int(size))
        self.session.chunks = not last
        self.say(b"250 ok")

    def swallow(self) -> None:
        """A message begins: one that was injected has no end."""
        if self.kept:
            self.sock.settimeout(SWALLOWING)

    def take(self, size: int) -> None:
        while len(self.buffer) < size:
            self.read()
        self.buffer = self.buffer[size:]

    def do_auth(self, argument: bytes) -> None:
        announced = self.faults.auth_in_clear == b"PLAIN"
        if not (self.tls or announced or self.faults.takes_auth_in_clear):
            self.say(b"538 TLS first")
            return
        if self.session.auth:
            self.say(b"503 once is enough")
            return
        response = argument.partition(b" ")[2]
        if not response:
            self.say(b"334 ")
            response = self.line()
        self.session.auth = response == base64.b64encode(b"\0" + USER + b"\0" + PASSWORD)
        self.say(b"235 ok" if self.session.auth else b"535 no")

    def do_starttls(self, argument: bytes) -> None:
        if not self.faults.starttls:
            self.say(b"502 no")
        elif self.tls and not self.faults.takes_second:
            self.say(b"503 already")
        elif argument and not self.faults.takes_argument:
            self.say(b"501 no argument")
        elif self.buffer and self.faults.refuses_injection:
            self.say(self.faults.refuses_injection)
            raise Gone
        else:
            self.say(b"220 go")
            if not self.tls and not argument:
                self.handshake()

    def handshake(self) -> None:
        self.server.handshakes += 1
        injected = bool(self.buffer)
        self.buffer, self.reads = self.faults.survivors(self.reads), []
        context = _context(self.faults)
        if self.faults.keeps_late_text:
            text = self.sock.recv(4096, socket.MSG_PEEK).partition(b"\x16")[0]
            self.buffer += self.sock.recv(len(text)) if text else b""
        plain = self.sock.dup()  # wrap_socket closes what it fails on
        self.sock.settimeout(self.faults.handshake_timeout)
        try:
            self.sock = context.wrap_socket(self.sock, server_side=True)
        except TimeoutError:
            plain.close()
            raise Gone from None
        except OSError:
            self.fail(plain)
            return
        plain.close()
        self.sock.settimeout(PATIENCE)
        self.tls, self.kept = True, bool(self.buffer)
        kept, old = self.faults.keeps, self.session
        self.session = Session(
            helo="helo" in kept and old.helo,
            mail="mail" in kept and old.mail,
            auth="auth" in kept and old.auth,
            chunks="chunks" in kept and old.chunks,
        )
        if self.faults.greets_again:
            self.say(b"220 hello again")
        if injected and self.faults.complaint:
            self.say(self.faults.complaint)

    def fail(self, plain: socket.socket) -> None:
        """The handshake came to nothing: close, or do what one should not."""
        self.sock = plain
        if self.faults.complains_in_clear:
            self.say(b"454 TLS failed")
        if not self.faults.goes_on_in_clear:
            raise Gone


def _context(faults: Faults) -> ssl.SSLContext:
    context = CERTIFICATES.contexts[faults.certificate]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = faults.oldest
        context.maximum_version = faults.newest
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _serve(sock: socket.socket, faults: Faults, server: Server) -> None:
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    conversation = Conversation(sock, faults, server)
    with contextlib.suppress(Gone, OSError):
        conversation.run()
    conversation.sock.close()


@contextlib.contextmanager
def serving(faults: Faults) -> Iterator[Server]:
    """A server with these faults."""
    with scripted(lambda sock, server: _serve(sock, faults, server)) as server:
        yield server


@contextlib.contextmanager
def scripted(serve: Callable[[socket.socket, Server], None]) -> Iterator[Server]:
    """A server that treats each connection as `serve` says; it has to close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener.getsockname()[1])

        def accept() -> None:
            while True:
                try:
                    sock = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=serve, args=(sock, server), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        thread.join()
