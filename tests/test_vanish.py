"""Whoever vanishes, client or qsmtpd, at whatever byte: there is no half a message.

Nothing may be queued unless the whole end of data had arrived, and what is
queued is whole.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator

import pytest
from child import session_members
from client import PATIENCE, Client
from harness import BIN, PROGRAMS, Home, Variables, wait_for

pytestmark = pytest.mark.slow

#: Two messages: command or text, and the code of the reply to it.
STEPS: list[tuple[bytes, bytes]] = [
    (b"EHLO c.example\r\n", b"250"),
    (b"MAIL FROM:<a@no.example>\r\n", b"250"),
    (b"RCPT TO:<b@ok.example>\r\n", b"250"),
    (b"DATA\r\n", b"354"),
    (b"Subject: 1\r\n\r\n..\r\nx\r\n.\r\n", b"250"),
    (b"MAIL FROM:<>\r\n", b"250"),
    (b"RCPT TO:<c@ok.example>\r\n", b"250"),
    (b"DATA\r\n", b"354"),
    (b".\r\n", b"250"),
    (b"QUIT\r\n", b"221"),
]
SESSION = b"".join(sent for sent, _ in STEPS)
BODIES = [b"Subject: 1\n\n.\nx\n", b""]
ENVELOPES = [b"Fa@no.example\0Tb@ok.example\0\0", b"F\0Tc@ok.example\0\0"]
FIRST_END = SESSION.index(b"x\r\n.\r\n") + 6
SECOND_END = len(SESSION) - len(b"QUIT\r\n")
#: After each byte, or, as that takes long, each sixth and those around the end of a step.
ENDS = list(itertools.accumulate(len(sent) for sent, _ in STEPS))
NEAR = {end + more for end in ENDS for more in (-2, -1, 0, 1)}
OFFSETS = [n for n in range(len(SESSION) + 1) if n % 6 == 0 or n in NEAR]
AT = pytest.mark.parametrize(
    "offsets",
    [
        pytest.param(OFFSETS, id="near ends"),
        pytest.param(range(len(SESSION) + 1), id="every byte", marks=pytest.mark.long),
    ],
)


def ended(offset: int) -> int:
    """How many messages have their whole end of data in the first `offset` bytes."""
    return (offset >= FIRST_END) + (offset >= SECOND_END)


def queued(home: Home) -> int:
    """How many messages are there; each must be whole.  They are taken away."""
    messages = home.messages()
    home.clear()
    found = [(m.body, m.envelope) for m in messages]
    # In order of arrival, but two may have the same time stamp.
    expected = list(zip(BODIES, ENVELOPES, strict=True))[: len(found)]
    assert sorted(found) == sorted(expected)
    return len(found)


def settle(session: int) -> None:
    """Wait until every process of a session has ended by itself."""
    deadline = time.monotonic() + PATIENCE
    while session_members(session):
        assert time.monotonic() < deadline
        time.sleep(0.002)


@AT
@pytest.mark.parametrize("over", ["pipe", "socket"])
def test_end_of_input_at_every_byte(home: Home, over: str, offsets: Iterable[int]) -> None:
    """The client ends its side, and still hears the replies to all that it had said."""
    for offset in offsets:
        run = home.run(SESSION[:offset], over=over)
        assert queued(home) == ended(offset)
        assert run.children == []
        done = [code for end, code in _ends() if end <= offset]
        assert [b"%d" % code for code in run.codes] == [b"220", *done]
        assert run.status == (0 if offset == len(SESSION) else 1)
        end = run.event("session")
        assert end["end"] == ("quit" if offset == len(SESSION) else "client-gone")
        verdicts = [event["verdict"] for event in run.events("message")]
        begun = done.count(b"354")
        assert verdicts == ["accepted"] * ended(offset) + ["aborted"] * (begun - ended(offset))


def _ends() -> Iterator[tuple[int, bytes]]:
    """Where each step ends, and its reply's code."""
    end = 0
    for sent, code in STEPS:
        end += len(sent)
        yield end, code


@AT
def test_close_without_reading_at_every_byte(home: Home, offsets: Iterable[int]) -> None:
    """The client is gone with our replies unread: for a Unix socket, that is a reset."""
    for offset in offsets:
        talk = home.talk()
        talk.send_each(SESSION[:offset])
        run = talk.hang_up()
        assert queued(home) <= ended(offset)
        assert run.children == []
        if offset < len(SESSION):
            assert run.event("session")["end"] == "client-gone"
            assert run.status == 1


# -- TCP -------------------------------------------------------------------


class Server:
    """qsmtpd-server on a port of its own; its log lines can be waited for."""

    def __init__(self, home: Home) -> None:
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [str(BIN / "qsmtpd-server"), "-1", "127.0.0.1", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=write,
            env=home.environ,
            start_new_session=True,
        )
        os.close(write)
        self._log = os.fdopen(read)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def connect(self) -> Client:
        return Client.connect(self.port)

    def session_end(self) -> str:
        """Wait for the end of the next session; its line in the log."""
        for line in self._log:
            if line.startswith("event=session"):
                return line
        raise AssertionError("the server is gone")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._log.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    running = Server(home)
    yield running
    running.stop()
    settle(running.process.pid)


def reset(client: Client) -> None:
    assert isinstance(client.socket, socket.socket)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@AT
@pytest.mark.parametrize("wait", [True, False], ids=["replies read", "replies unread"])
def test_reset_at_every_byte(
    home: Home, server: Server, wait: bool, offsets: Iterable[int]
) -> None:
    for offset in offsets:
        client = server.connect()
        assert client.reply().startswith(b"220 ")
        left = offset
        for sent, code in STEPS:
            part = sent[:left]
            if not part:
                break
            client.send(part)
            left -= len(part)
            # The last command may still be on its way when the reset comes.
            if len(part) == len(sent) and (wait or left):
                assert client.reply().startswith(code)
        reset(client)
        end = server.session_end()
        count = queued(home)
        if wait:
            assert count == ended(offset)
            assert ("end=quit" in end) == (offset == len(SESSION))
        else:
            # Of one of them we do not know whether it was still read.
            assert ended(max(0, offset - 1)) <= count <= ended(offset)


def test_reset_with_everything_unread(home: Home, server: Server) -> None:
    """A client that says it all at once, and is gone before the greeting."""
    for offset in range(0, len(SESSION) + 1, 7):
        client = server.connect()
        client.send(SESSION[:offset])
        reset(client)
        server.session_end()
        assert queued(home) <= ended(offset)


def test_a_stopped_server_leaves_its_port(home: Home, server: Server) -> None:
    """A transaction goes on, but holds no listening socket: its backlog would swallow clients."""
    client = server.connect()
    assert client.reply().startswith(b"220 ")
    for number, (sent, code) in enumerate(STEPS[:5]):
        client.send(sent)
        assert client.reply().startswith(code)
        if number == 1:  # MAIL
            server.process.terminate()
            wait_for(lambda: refuses(server.port))
    assert client.reply().startswith(b"421 ")
    client.close()
    server.session_end()
    assert queued(home) == 1
    assert server.process.wait(PATIENCE) == 0


def refuses(port: int) -> bool:
    """Is nobody listening there?"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


# -- kill -9 ---------------------------------------------------------------


@AT
def test_killed_at_every_byte(home: Home, offsets: Iterable[int]) -> None:
    for offset in offsets:
        talk = home.talk(over="pipe")
        talk.send_each(SESSION[:offset])
        run = talk.kill()
        assert run.status == -9
        settle(talk.pid)
        assert queued(home) <= ended(offset)


def test_killed_with_the_maildir(home: Home) -> None:
    """Likewise the embedded queue program; nor is anything left in tmp/."""
    maildir = home.path / "Maildir"
    environ: Variables = {"QMAILQUEUE": str(BIN / "qsmtpd-maildir"), "QSMTPD_MAILDIR": str(maildir)}
    start = SESSION.index(b"DATA")
    for offset in range(start, FIRST_END + 1):
        talk = home.talk(over="pipe", **environ)
        talk.send_each(SESSION[:offset])
        talk.kill()
        settle(talk.pid)
        files = [path for path in maildir.rglob("*") if path.is_file()]
        assert all(path.parent.name == "new" for path in files)
        assert len(files) <= ended(offset)
        for path in files:
            assert path.read_bytes().endswith(b"\n" + BODIES[0])
            path.unlink()


def test_killed_in_a_long_envelope(home: Home) -> None:
    """An envelope of which only the beginning was written is none."""
    fifo = home.path / "go"
    os.mkfifo(fifo)
    waits = f"cat >$SPOOL/held; read go <{fifo}; exec {PROGRAMS / 'oracle'} <$SPOOL/held"
    talk = home.talk(QMAILQUEUE=home.script(waits))
    assert talk.reply().startswith(b"220 ")
    recipients = [b"RCPT TO:<%b%d@ok.example>" % (b"x" * 880, n) for n in range(200)]
    assert talk.ask(b"MAIL FROM:<>", *recipients, b"DATA") == b"354 go ahead"
    talk.send_each(b"x\r\n.\r\n")
    with fifo.open("w") as go:  # the program has read the message by now
        (child,) = talk.children()
        until_full(child)
        talk.kill()
        go.write("\n")
    settle(talk.pid)
    assert home.messages() == []


def until_full(child: int) -> None:
    """Wait until the child's envelope pipe takes no more."""
    fd = os.open(f"/proc/{child}/fd/1", os.O_WRONLY)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    deadline = time.monotonic() + PATIENCE
    while poll.poll(0):
        assert time.monotonic() < deadline
    os.close(fd)


def test_client_gone_while_the_queue_works(home: Home) -> None:
    """The end of data had arrived: the message is queued once, and the log knows."""
    fifo = home.path / "go"
    os.mkfifo(fifo)
    program = home.script(f"read go <{fifo}; exec {PROGRAMS / 'oracle'}")
    talk = home.talk(QMAILQUEUE=program)
    talk.send_each(SESSION[:FIRST_END])
    talk.close()
    fifo.write_text("\n")
    run = talk.ended()
    assert queued(home) == 1
    assert run.event("message")["verdict"] == "accepted"
    assert run.event("session")["end"] == "client-gone"
    assert run.event("session")["messages"] == "1"


def test_terminated_in_the_middle(home: Home) -> None:
    """These end it where it stands; TERM, HUP and INT do not: see test_shutdown.py."""
    for name in ("QUIT", "USR1", "ALRM"):
        talk = home.talk(over="pipe")
        talk.send_each(SESSION[: FIRST_END - 1])
        subprocess.run(["sh", "-c", f"kill -{name} {talk.pid}"], check=True)
        run = talk.ended()
        settle(talk.pid)
        assert run.status < 0
        assert home.messages() == []


def test_a_wide_random_sample(home: Home) -> None:
    """kill -9 some microseconds after the end of data: whole, or not at all."""
    counts = set()
    for step in range(60):
        talk = home.talk(over="pipe")
        talk.send_each(SESSION[: FIRST_END - 1])
        talk.send(SESSION[FIRST_END - 1 : FIRST_END])
        time.sleep(step * 0.0002)
        talk.kill()
        settle(talk.pid)
        counts.add(queued(home))
    assert counts <= {0, 1}
