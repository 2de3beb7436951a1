"""Daemons of a test's own: each connection is served by a script, in a thread."""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from client import PATIENCE

#: Seconds for what was said before a connection was closed; who keeps one open has no more.
END = 1.0


class Line:
    """One connection, as the daemon has it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        self.socket = connection
        self._input = connection.makefile("rb")

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self) -> bytes:
        """The next line, with its LF; b"" at the end."""
        return self._input.readline()

    def take(self, number: int) -> bytes:
        """So many bytes, or what there is until the end."""
        return self._input.read(number)

    def wait_for_end(self) -> None:
        """Read until the other side has closed."""
        while self._input.read(65536):
            pass


Script = Callable[[Line], object]


class Peer:
    """A daemon at an address; a context manager, which hears to its end what it was told.

    `connections` counts its connections; `heard` has every line that a script has put there.
    """

    def __init__(self, script: Script, path: Path | None = None) -> None:
        self.script = script
        self.path = path
        self.connections = 0
        self.heard: list[bytes] = []
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        if self.path is None:
            listener = socket.create_server(("127.0.0.1", 0))
        else:
            self.path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(os.fspath(self.path))
            listener.listen()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    @property
    def address(self) -> str:
        """As a setting names it."""
        if self.path is not None:
            return f"unix:{self.path}"
        host, port, *_ = self._listener.getsockname()
        return f"inet:{host}:{port}"

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            server = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:  # who sees it can wait for it
                self._open[connection] = server
                server.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self.script(Line(connection))
        except OSError:  # the other side had enough
            pass
        finally:
            self._open.pop(connection, None)
            connection.close()

    def stop(self) -> None:
        """No more connections, and an end of those that there are."""
        for one in (self._listener, *list(self._open)):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._listener.close()

    def restart(self) -> None:
        """The daemon ends, and another one begins at the same address."""
        assert self.path is not None
        self.stop()
        self._listener = self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The other side has closed, or ended: what it still said on its way is heard."""
        with self._lock:
            servers = list(self._open.values())
        for server in servers:
            for _part in range(10):  # we may be stopped in one of them
                server.join(END / 10)
        self.stop()


#: The first lines of Dovecot's sockets: of an auth client's, and of userdb.
AUTH_HELLO = (
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\n"
    b"MECH\tSCRAM-SHA-256\tmutual-auth\nSPID\t7\nCUID\t1\nCOOKIE\tab\nDONE\n"
)
USERDB_HELLO = b"VERSION\t1\t2\nSPID\t7\n"


def userdb(*known: bytes) -> Script:
    """Dovecot's userdb socket: knows these; has a problem with a name that begins with `bad`."""

    def script(line: Line) -> None:
        line.say(USERDB_HELLO)
        assert line.hear() == b"VERSION\t1\t0\n"
        while text := line.hear():
            command, number, name, *rest = text[:-1].split(b"\t")
            assert (command, rest) == (b"USER", [b"service=smtp"])
            if name.startswith(b"bad"):
                line.say(b"FAIL\t%b\treason=no\x01tdatabase\n" % number)
            elif name in known:
                line.say(b"USER\t%b\tJoe\tuid=1\thome=/x\n" % number)
            else:
                line.say(b"NOTFOUND\t%b\n" % number)

    return script


def dovecot(answer: Callable[[list[bytes], Line], None], hello: bytes = AUTH_HELLO) -> Script:
    """Dovecot's auth socket: answer(fields, line) is called for each AUTH and CONT."""

    def script(line: Line) -> None:
        line.say(hello)
        assert line.hear() == b"VERSION\t1\t1\n"
        assert line.hear()[:5] == b"CPID\t"
        while text := line.hear():
            answer(text[:-1].split(b"\t"), line)

    return script


def passwords(**known: str) -> Script:
    """The same, with PLAIN and LOGIN for these users; it calls them by their names in full."""
    asked: dict[Line, list[bytes]] = {}

    def answer(fields: list[bytes], line: Line) -> None:
        command, number, *rest = fields
        said: bytes | None = None
        if command == b"AUTH":
            asked[line] = [rest[0]]
            if rest[-1].startswith(b"resp="):
                said = rest[-1][5:]
        else:
            (said,) = rest
        given = asked[line]
        if said is not None:
            given.append(base64.b64decode(said, validate=True))
        questions = {b"PLAIN": [b""], b"LOGIN": [b"Username:", b"Password:"]}[given[0]]
        if len(given) <= len(questions):
            challenge = base64.b64encode(questions[len(given) - 1])
            line.say(b"CONT\t%b\t%b\n" % (number, challenge))
            return
        _, user, password = given if given[0] == b"LOGIN" else given[1].split(b"\0")
        if known.get(user.decode()) == password.decode():
            line.say(b"OK\t%b\tuser=%b@ok.example\n" % (number, user))
        else:
            line.say(b"FAIL\t%b\tuser=%b\n" % (number, user))

    return dovecot(answer)


def policy(
    answer: Callable[[dict[bytes, bytes]], bytes], seen: list[bytes] | None = None
) -> Script:
    """A server of Postfix's policy protocol: answer(attributes) is the value of action.

    `seen` gets each request as it came.
    """

    def script(line: Line) -> None:
        while first := line.hear():
            assert first == b"request=smtpd_access_policy\n"
            lines = [first]
            while (text := line.hear()) != b"\n":
                assert text.endswith(b"\n")
                lines.append(text)
            if seen is not None:
                seen.append(b"".join(lines))
            pairs = [text[:-1].partition(b"=") for text in lines]
            line.say(b"action=%b\n\n" % answer({name: value for name, _, value in pairs}))

    return script


def clamd(answer: Callable[[bytes], bytes]) -> Script:
    """ClamAV's daemon: answer(message) is what it says of a stream, with the LF."""

    def script(line: Line) -> None:
        command = line.hear()
        if command == b"nVERSION\n":
            line.say(b"ClamAV 1.4.6/1/now\n")
            return
        assert command == b"nINSTREAM\n"
        parts = []
        while size := int.from_bytes(line.take(4), "big"):
            parts.append(line.take(size))
        line.say(answer(b"".join(parts)))

    return script


def words(line: Line) -> list[bytes]:
    """The next command of Redis' protocol; [] at the end."""
    head = line.hear()
    if not head:
        return []
    assert head[:1] == b"*"
    found = []
    for _ in range(int(head[1:])):
        size = line.hear()
        assert size[:1] == b"$"
        found.append(line.take(int(size[1:]) + 2)[:-2])
    return found


def redis(line: Line) -> None:
    """A Redis server that keeps nothing."""
    queued = -1
    while said := words(line):
        if said[0] == b"MULTI":
            queued = 0
        elif queued >= 0 and said[0] != b"EXEC":
            queued += 1
            line.say(b"+QUEUED\r\n")
            continue
        elif said[0] == b"EXEC":
            line.say(b"*%d\r\n" % queued + b"+OK\r\n" * queued)
            queued = -1
            continue
        elif said[0] == b"MGET":
            line.say(b"*%d\r\n" % (len(said) - 1) + b"$-1\r\n" * (len(said) - 1))
            continue
        elif said[0] == b"TIME":
            line.say(b"*2\r\n$10\r\n%010d\r\n$1\r\n0\r\n" % time.time())
            continue
        elif said[0] == b"INFO":
            line.say(b"$22\r\nredis_version:7.0.15\r\n\r\n")
            continue
        line.say(b"+OK\r\n")


#: Of a head, its first line and the others, in their order.
Head = tuple[bytes, list[tuple[bytes, bytes]]]


def read_head(line: Line) -> Head:
    """A first line, and `Name: value` lines up to an empty one."""
    first, lines = line.hear(), []
    while (text := line.hear()) != b"\r\n":
        assert text.endswith(b"\r\n")
        name, colon, value = text[:-2].partition(b": ")
        assert colon
        lines.append((name, value))
    return first, lines


def spamd(answer: Callable[[Head, bytes], bytes]) -> Script:
    """SpamAssassin's daemon: answer(head, message) is all that it says of a message."""

    def script(line: Line) -> None:
        head = read_head(line)
        if head[0] == b"PING SPAMC/1.5\r\n":
            line.say(b"SPAMD/1.5 0 PONG\r\n")
            return
        assert head[0] == b"SYMBOLS SPAMC/1.5\r\n"
        line.say(answer(head, line.take(int(dict(head[1])[b"Content-length"]))))

    return script


def spam(score: bytes, tests: bytes = b"ONE,TWO", required: bytes = b"5.0") -> bytes:
    """What it says of a message with this score."""
    word = b"True" if float(score) >= float(required) else b"False"
    verdict = b"Spam: %b ; %b / %b" % (word, score, required)
    head = b"SPAMD/1.1 0 EX_OK\r\nContent-length: %d\r\n%b\r\n\r\n" % (len(tests) + 2, verdict)
    return head + tests + b"\r\n"


def rspamd(answer: Callable[[Head, bytes], bytes]) -> Script:
    """Rspamd: answer(head, message) is all that it says of a message."""

    def script(line: Line) -> None:
        head = read_head(line)
        if head[0] == b"GET /ping HTTP/1.0\r\n":
            line.say(b"HTTP/1.1 200 OK\r\nServer: rspamd/3.4\r\nContent-Length: 6\r\n\r\npong\r\n")
            return
        assert head[0] == b"POST /checkv2 HTTP/1.0\r\n"
        line.say(answer(head, line.take(int(dict(head[1])[b"Content-Length"]))))

    return script


def http(body: bytes, status: bytes = b"200 OK", *lines: bytes) -> bytes:
    """An answer over HTTP."""
    head = [b"HTTP/1.1 " + status, *lines, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*head, b"", body])
