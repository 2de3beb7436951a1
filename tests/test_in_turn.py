"""Two clients, one after the other, in one process: the second finds nothing of the first.

What the second hears, what is logged of it and what is queued is, byte for byte, what a
process gives that has had no other client.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cdbs import make_cdb
from client import Client
from harness import PROGRAMS, Home, Message, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listeners import Server, make_rules
from tls_home import SERVER

READY = b"220 Ready to start TLS"
#: What is never the same: processes, times, and the client's port.
VARYING = re.compile(
    rb"(?:\b(?:pid|qp|(?:local_)?port)[= ]\d+|\bok \d{9,}|\bseconds=[\d.]+|::\d+\b)"
)
DATE = re.compile(rb"; \d+ \w+ \d+ [\d:]+ [-+]\d+|\bqsmtpd-?\d+|\(qmail \d+")

# -- a server with a filter for everything -----------------------------------------

CONTROLS: dict[str, list[bytes]] = {
    "badmailfrom": [b"bad@b.example", b"@bad.example", b"!+@plus.example"],
    "badrcptto": [b"bad@ok.example"],
    "badhelo": [b"bad.example"],
    "databytes": [b"3000"],
    "greetdelay": [b"0"],
    "recipients": [b"@ok.example:users.cdb", b"!*"],
    "requiredheaders": [b"Subject"],
    "loopcheck": [b"1"],
    "smtputf8": [b"on"],
    "plugins": [b"mine", b"builtins"],
    "tarpitcount": [b"2"],
    "tarpitdelay": [b"999"],
}
VARIABLES = {
    "AUTHRESULTS": "",
    "DKIM": "",
    "KARMALIMIT": "4",
    "BOUNCECHECK": "",
    "MAXNOTIMPL": "4",
    "HELOCHECK": "",
    "LOCALMFCHECK": "",
    "MAXRECIPIENTS": "4",
    "MAXERRORS": "8",
    "SMTPAUTH": "",
    "AUTHCLEAR": "1",
    "AUTHDELAY": "0",
    "POSTPONE": "rcpt",
}
RULES = (
    '127.0.0.2:allow,RELAYCLIENT="@suffix.example"',
    '127.0.0.3:allow,LOGFORMAT="spamcontrol",DATABYTES="20",POSTPONE="data"',
    '127.0.0.4:allow,RBLSMTPD="-listed",MAXERRORS="3"',
    '127.0.0.5:allow,QSMTPD_PLUGINS="-helocheck, -mine",QUEUEENV="spamcontrol",UCSPITLS="-"',
    "127.0.0.6:deny",
    '127.0.0.7:allow,TIMEOUTSMTPD="1",RELAYCLIENT=""',
    ":allow",
)
#: It notes, counts, adds header lines, logs, and postpones a refusal.
PLUGIN = """
from qsmtpd.decision import DECLINED, Decision, accept, decline, defer, reject

class Plugin:
    def __init__(self, settings):
        self._settings = settings
        self._seen = []

    def helo(self, client, name):
        client.notes["helo"] = name
        self._seen.append(name)
        if name == b"late.example":
            return reject(b"not you")
        return Decision("decline", header=(b"X-Helo: " + name,)) if name.isalnum() else DECLINED

    def auth(self, client, user, mechanism):
        client.notes["user"] = user
        return DECLINED

    def mail(self, client, envelope):
        self._seen.append(envelope.sender)
        client.counters.karma -= envelope.sender.startswith(b"k")
        seen = b" ".join(sorted(str(note).encode() for note in client.notes.items()))
        return Decision("decline", header=(b"X-Seen: " + seen.replace(b"\\n", b"?"),))

    def rcpt(self, client, envelope, recipient):
        self._seen.append(recipient)
        self._settings.log(seen=b",".join(self._seen), karma=client.counters.karma)
        return DECLINED

    def command_xnote(self, client, argument):
        client.notes["x"] = argument
        return accept(b"noted " + b",".join(self._seen))

    def data_post(self, client, envelope, message):
        return DECLINED
"""


def equip(home: Home) -> Home:
    """A home in which as much as possible is on."""
    SERVER.save(home.control_dir / "servercert.pem")
    for name, lines in CONTROLS.items():
        home.control(name, *lines)
    home.plugin("mine", PLUGIN)
    users = (b":x@ok.example", b":\xc3\xbc@ok.example")
    make_cdb(home.path / "users.cdb", dict.fromkeys(users, b""))
    make_rules(home.path / "rules.cdb", *RULES)
    home.arguments = [str(PROGRAMS / "checker"), "true"]
    home.environ |= {**VARIABLES, "SEEN": str(home.path / "seen")}
    return home


# -- sessions ------------------------------------------------------------------------

TLS = "STARTTLS"
#: What is sent in turn while the replies invite to it.
Command = list[bytes | str]
COMMANDS: list[Command] = [
    [b"EHLO me"],
    [b"HELO other.example"],
    [b"EHLO bad.example"],
    [b"EHLO late.example"],
    [b"EHLO [127.0.0.1]"],
    [TLS],
    [b"AUTH PLAIN AGpvZQBzZWNyZXQ="],
    [b"AUTH PLAIN AGpvZQB3cm9uZw=="],
    [b"AUTH LOGIN", b"*"],
    [b"AUTH LOGIN", b"am9l", b"c2VjcmV0"],
    [b"MAIL FROM:<a@b.example>"],
    [b"MAIL FROM:<k@b.example> SIZE=15 BODY=8BITMIME"],
    [b"MAIL FROM:<>"],
    [b"MAIL FROM:<bad@b.example>"],
    [b"MAIL FROM:<u+s@plus.example>"],
    [b"MAIL FROM:<\xc3\xbc@b.example> SMTPUTF8"],
    [b"RCPT TO:<x@ok.example>"],
    [b"RCPT TO:<y@ok.example>"],
    [b"RCPT TO:<\xc3\xbc@ok.example>"],
    [b"RCPT TO:<bad@ok.example>"],
    [b"RCPT TO:<x@else.example>"],
    [b"DATA", b"Subject: x\r\n\r\nhi\r\n."],
    [b"DATA", b"No: subject\r\n\r\nhi\r\n."],
    [b"DATA", b"Delivered-To: x@ok.example\r\nSubject: x\r\n\r\n\r\n."],
    [b"DATA", b"Subject: long\r\n\r\n" + b"x" * 4000 + b"\r\n."],
    [b"BDAT 14 LAST\r\nSubject: x\r\n\r\n"],
    [b"BDAT 12\r\nSubject: x\r\n"],
    [b"RSET"],
    [b"NOOP"],
    [b"VRFY x"],
    [b"XNOTE some words"],
    [b"NONSENSE"],
    [b"\xff"],
    [b"GET / HTTP/1.1"],
    [b"x" * 3000],
]
MESSAGE: list[Command] = [[b"MAIL FROM:<a@b.example>"], [b"RCPT TO:<x@ok.example>"], COMMANDS[21]]
#: How a session ends: commands, and what is sent last.
BEGIN: list[Command] = [[b"MAIL FROM:<a@b.example>"], [b"RCPT TO:<x@ok.example>"]]
LAST: dict[str, tuple[list[Command], bytes]] = {
    "quit": ([], b"QUIT\r\n"),
    "close": ([], b""),
    "half a line": ([], b"MAIL FROM:<so"),
    "in data": ([*BEGIN, [b"DATA"]], b"Subject: x\r\nhal"),
    "in bdat": (BEGIN, b"BDAT 99 LAST\r\nSubject"),
}
ADDRESSES = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"]


@dataclass
class Session:
    """What a client does; `pipelined`: it does not wait for replies."""

    address: str
    commands: list[Command]
    end: str
    pipelined: bool = False


@dataclass
class Trace:
    """What came of it: replies, log lines, messages, and which process had it."""

    said: bytes
    logged: list[bytes]
    queued: list[Message]
    pid: bytes


def play(server: Server, home: Home, session: Session) -> Trace:
    """Have it, and wait for its end."""
    for path in home.spool.iterdir():
        path.unlink(missing_ok=True)  # a program that was given half a message removes it
    before = len(server.raw())
    with server.client(session.address) as client:
        said = _talk(client, session)
    wait_for(lambda: END.search(server.raw(), before))
    log = server.raw()[before:]
    queued = [
        Message(p.with_suffix(".message").read_bytes(), p.read_bytes())
        for p in sorted(home.spool.glob("[0-9]*.envelope"), key=lambda p: p.stat().st_mtime_ns)
    ]
    ended = END.search(log)
    assert ended is not None
    log = _without_digits(log[: ended.end()])
    lines = [line for line in log.splitlines() if not line.startswith(b"qsmtpd-server:")]
    return Trace(
        VARYING.sub(b"-", said),
        [VARYING.sub(b"-", line) for line in lines],
        [Message(DATE.sub(b"; -", m.text), m.envelope) for m in queued],
        ended[1] or b"",
    )


def _without_digits(log: bytes) -> bytes:
    """Of the bytes that a client is sent, those are not counted that say a queue program's pid."""
    digits = sum(map(len, re.findall(rb'reply="250 ok \d+ qp (\d+)"', log)))
    return re.sub(rb"\bbytes_out=(\d+)", lambda m: b"bytes_out=%d" % (int(m[1]) - digits), log)


#: The end of a session, in the log; of one that a rule denies, there is only the listener's line.
END = re.compile(rb"(?m)^(?:event=session pid=(\d+) .*|qsmtpd-server: deny (\d+) .*)\n")


def _talk(client: Client, session: Session) -> bytes:
    said = [client.reply()]
    pending = b""
    commands, last = LAST.get(session.end, ([], b""))
    for command in [*session.commands, *commands] if said[0].startswith(b"220") else ():
        if session.pipelined:
            if command != [TLS]:
                pending += b"".join(map(_wire, command))
        else:
            try:
                if not _step(client, command, said):
                    break
            except OSError:
                if session.end != "timeout":  # that comes also where we are stopped in a handshake
                    raise
                return b"\n".join(said)
    client.send(pending + last)
    if session.end == "reset":
        assert isinstance(client.socket, socket.socket)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, *bytes(7))))
        return b""
    if session.end in ("quit", "timeout"):
        said.append(client.rest())
        return b"\n".join(said)
    in_tls = isinstance(client.socket, ssl.SSLSocket)
    with suppress(OSError):  # it has been refused, and the connection is closed
        client.socket.shutdown(socket.SHUT_WR)
    rest = client.rest()  # after the end of its own TLS, that is noise
    return b"\n".join([*said, b"" if in_tls else rest])


def _step(client: Client, command: Command, said: list[bytes]) -> bool:
    """A command and its reply, and what follows if it was welcome.  False at the end."""
    for piece in command:
        if piece == TLS:
            lines = [client.ask(b"STARTTLS")]
            if lines[0].startswith(READY):
                try:
                    client.handshake()
                except OSError:  # the server's time was over
                    return False
        else:
            client.send(_wire(piece))
            lines = client.lines()
        said += lines
        if not lines or not lines[-1]:
            return False
        if lines[-1][:1] != b"3":
            break
    return True


def _wire(piece: bytes | str) -> bytes:
    assert isinstance(piece, bytes)
    return piece if piece.startswith(b"BDAT") else piece + b"\r\n"


SESSIONS = st.builds(
    Session,
    st.one_of(st.just(""), st.sampled_from(ADDRESSES)),  # that of the one before, or any
    st.one_of(
        st.lists(st.sampled_from(COMMANDS), max_size=12),
        st.lists(st.sampled_from(COMMANDS), max_size=5).map(lambda some: some + MESSAGE),
    ),
    st.sampled_from(list(LAST)),
    st.booleans(),
)
#: The first may also reset the connection: what came of it is not looked at.
FIRST = st.builds(
    Session,
    st.sampled_from(ADDRESSES),
    st.lists(st.sampled_from(COMMANDS), max_size=15),
    st.sampled_from([*LAST, "reset"]),
    st.booleans(),
)


@contextmanager
def servers(path: Path) -> Iterator[tuple[Callable[[Session], Trace], Callable[[Session], Trace]]]:
    """One that has all sessions in one process, one that has each in a process of its own."""
    homes = []
    for name in ("turn", "fresh"):
        (path / name).mkdir()
        homes.append(equip(Home(path / name)))
    rules = [str(home.path / "rules.cdb") for home in homes]
    turn = Server(homes[0], "-x", rules[0], "-c", "1", "--sessions", "100000")
    fresh = Server(homes[1], "-x", rules[1], "-c", "1", "--sessions", "1")
    with turn, fresh:
        yield (
            lambda session: play(turn, homes[0], session),
            lambda session: play(fresh, homes[1], session),
        )


RELAYED: Command = [b"RCPT TO:<x@else.example>"]
OTHER: list[Command] = [[b"EHLO me"], MESSAGE[0], RELAYED, *MESSAGE[1:]]
#: First sessions that leave as much as they can.
LEAVERS = [
    Session("127.0.0.2", [[b"EHLO me"], MESSAGE[0], RELAYED], "in data"),
    Session("127.0.0.1", [[b"EHLO me"], COMMANDS[6], MESSAGE[0], RELAYED], "in bdat"),
    Session("127.0.0.7", [[b"EHLO me"], [TLS], [b"EHLO me"], COMMANDS[6], *MESSAGE[:2]], "timeout"),
    Session("127.0.0.3", [[b"EHLO late.example"], [b"AUTH LOGIN", b"am9l"]], "reset"),
    Session("127.0.0.1", [MESSAGE[0], *[RELAYED] * 3, MESSAGE[1]], "quit"),
    Session("127.0.0.4", [[b"EHLO bad.example"], *MESSAGE, [b"XNOTE it"], [b"NONSENSE"]], "quit"),
]


@pytest.mark.parametrize(
    "examples",
    [pytest.param(40, marks=pytest.mark.slow), pytest.param(5000, marks=pytest.mark.long)],
)
def test_in_turn(tmp_path: Path, examples: int) -> None:
    """Any session after any other one."""
    together = 0
    with servers(tmp_path) as (in_turn, alone):

        @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        @given(FIRST, SESSIONS)
        def check(first: Session, second: Session) -> None:
            nonlocal together
            before = in_turn(first)
            second.address = second.address or first.address
            found = in_turn(second)
            together += before.pid == found.pid
            assert_same(found, alone(second))

        check()
    assert together > examples / 4  # else this says nothing


def assert_same(found: Trace, expected: Trace) -> None:
    assert found.said == expected.said
    assert found.logged == expected.logged
    assert found.queued == expected.queued


@pytest.mark.slow
def test_after_those_that_leave_much(tmp_path: Path) -> None:
    with servers(tmp_path) as (in_turn, alone):
        for first in LEAVERS:
            for address in {"127.0.0.1", first.address}:
                other = Session(address, OTHER, "quit")
                assert in_turn(first).pid
                assert_same(in_turn(other), alone(other))
