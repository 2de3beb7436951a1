"""Whoever is refused in the middle of what he sends hears why, and not of a reset."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import ssl
import subprocess
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from client import PATIENCE, Client
from harness import Home, needs, wait_for
from listeners import Listener, Server, patched, state, tcpserver
from records import TEXT, Records, context
from tls_home import S6, SERVER
from ucspitls import Helper

from qsmtpd.net import drain
from qsmtpd.net.descriptors import Descriptors

BARE_LF = b"451 See https://cr.yp.to/docs/smtplf.html."
LINES = (b"x" * 70 + b"\r\n") * 20_000
#: 3 MB with a bare LF in the middle, as from a client that does not look before its end.
MESSAGE = LINES + b"bare\nLF\r\n" + LINES + b".\r\n"

#: The programs; after the last reply they read on for longer than a client may be stopped.
LINGERS = f"drain.SECONDS = drain.GRACE = {PATIENCE}"
COLD = patched(LINGERS, package="qsmtpd.net", program="qsmtpd")
WARM = patched(LINGERS, package="qsmtpd.net")

Start = Callable[[Home], Listener]
LISTENERS: dict[str, Start] = {
    "tcpserver": lambda home: tcpserver(home, run=COLD),
    "qsmtpd-server": lambda home: Server(home, run=WARM),
    "several sessions": lambda home: Server(home, "--sessions", "9", run=WARM),
}


# -- how it ends -----------------------------------------------------------


class Time:
    """A client that sends `size` bytes each `pause` seconds, and a clock that only waits move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int, pause: float) -> None:
        self._now = 0.0
        self._sent = 0
        self._size = size
        self._pause = pause
        self._ours, self._theirs = socket.socketpair()
        monkeypatch.setattr(drain, "waits", self)
        monkeypatch.setattr(drain, "monotonic", lambda: self._now)

    def drain(self, rate: int) -> tuple[float, int]:
        """How long it took (seconds), and how many bytes came."""
        with self._ours, self._theirs:
            drain.drain(self._ours.fileno(), self._ours.fileno(), rate)
        return self._now, self._sent

    def wait(self, poll: select.poll, deadline: float) -> list[int]:
        """What the module takes for that of waits."""
        if self._now + self._pause > deadline:
            self._now = deadline
            return []
        self._now += self._pause
        self._sent += self._size
        self._theirs.sendall(b"x" * self._size)
        return [self._ours.fileno()]


@pytest.mark.parametrize(
    ("rate", "size", "pause", "seconds", "read"),
    [
        (500, 1, 99.0, 1.0, 0),  # silence
        (0, 1, 99.0, 5.0, 0),
        (500, 100, 0.25, 1.0, 300),  # slower than the minimum rate
        (0, 100, 0.25, 5.0, 1900),
        (500, 1000, 0.25, 5.0, 19_000),
        (500, 65536, 0.0, 0.0, 16 * 1024 * 1024),  # no end
    ],
)
def test_limits(
    monkeypatch: pytest.MonkeyPatch, rate: int, size: int, pause: float, seconds: float, read: int
) -> None:
    took, got = Time(monkeypatch, size, pause).drain(rate)
    assert took == pytest.approx(seconds)
    assert read <= got <= read + size


def test_what_has_come_while_we_were_stopped_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stands still for longer than its limit resets no connection by that."""
    clock = iter((0.0,))
    monkeypatch.setattr(drain, "monotonic", lambda: next(clock, 99.0))
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"x" * 100_000)
        drain.drain(ours.fileno(), ours.fileno(), 500)
        ours.close()
        assert theirs.recv(1) == b""  # with something unread it would be a reset


def test_who_has_always_a_byte_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is over that is not waited for, but for so many reads."""
    ours, theirs = socket.socketpair()
    sent = 0

    def wait(poll: select.poll, deadline: float) -> list[int]:
        nonlocal sent
        sent += theirs.send(b"x")
        return [ours.fileno()]

    clock = iter((0.0,))
    monkeypatch.setattr(drain, "monotonic", lambda: next(clock, 99.0))
    monkeypatch.setattr(drain, "waits", SimpleNamespace(wait=wait))
    with ours, theirs:
        drain.drain(ours.fileno(), ours.fileno(), 500)
    assert sent == drain.LATE == 256


@pytest.mark.parametrize("kind", ["terminal", "file"])
def test_what_is_left_of_a_terminal_or_a_file_is_for_others(tmp_path: Path, kind: str) -> None:
    ends = []
    if kind == "terminal":
        ends = list(pty.openpty())
        tty.setraw(ends[1])
        os.write(ends[0], b"for the shell")
        fd = ends[1]
    else:
        path = tmp_path / "input"
        path.write_bytes(b"for the shell")
        fd = os.open(path, os.O_RDWR)
        ends = [fd]
    Descriptors(fd, fd).drain(True, 0)
    assert os.read(fd, 99) == b"for the shell"
    for end in ends:
        os.close(end)


def test_after_a_clean_end_nothing_is_touched() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Descriptors(theirs.fileno(), theirs.fileno()).drain(False, 0)
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)


def test_two_pipes_are_closed_and_read_to_the_end() -> None:
    reader, to_us = os.pipe()
    from_us, writer = os.pipe()
    shared = os.dup(to_us)
    thread = threading.Thread(target=Descriptors(reader, writer).drain, args=(True, 0))
    thread.start()
    assert os.read(from_us, 1) == b""
    os.write(to_us, b"x" * 200_000)
    os.close(to_us)
    os.close(shared)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for fd in (reader, from_us):
        os.close(fd)


# -- the program -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "STARTTLS"])
def test_a_message_is_refused_in_its_middle(inside: Home, listener: str, tls: bool) -> None:
    with LISTENERS[listener](inside) as server:
        for _ in range(3):
            with server.client() as client:
                client.reply()
                if tls:
                    client.starttls()
                client.ask(b"MAIL FROM:<a@b>", b"RCPT TO:<x@ok.example>", b"DATA")
                client.socket.sendall(MESSAGE)  # raises where the connection is reset
                assert client.reply() == BARE_LF
                assert client.socket.recv(1) == b""  # close_notify, in TLS
    assert inside.messages() == []


@pytest.mark.interop
@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("tls", [[], ["--ssl-reqd", "--insecure"]], ids=["plain", "STARTTLS"])
def test_curl(inside: Home, listener: str, tls: list[str]) -> None:
    message = inside.file("message", MESSAGE[:-3])
    with LISTENERS[listener](inside) as server:
        sender = ["--mail-from", "a@b.example", "--mail-rcpt", "x@ok.example"]
        url = f"smtp://127.0.0.1:{server.port}/me.example"
        for _ in range(3):
            done = subprocess.run(
                [needs("curl"), "-sSv", *tls, *sender, "-T", str(message), url],
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            assert b"< " + BARE_LF in done.stderr
            assert b"reset" not in done.stderr


@pytest.mark.slow
def test_more_than_quit(home: Home) -> None:
    with Server(home, run=WARM) as server, server.client() as client:
        client.reply()
        client.socket.sendall(b"QUIT\r\n" + LINES)
        assert client.reply() == b"221 mx.example"
        assert client.socket.recv(1) == b""


@pytest.mark.slow
def test_a_refusal_before_the_session(home: Home) -> None:
    (home.control_dir / "me").unlink()
    with Server(home, run=WARM) as server, server.client() as client:
        client.socket.sendall(LINES)
        assert client.reply() == b"421 unable to read controls (#4.3.0)"
        assert client.socket.recv(1) == b""


@pytest.mark.slow
def test_it_counts_until_it_is_closed(home: Home) -> None:
    with Server(home, "-c", "1", run=WARM) as server, server.client() as first:
        first.reply()
        first.socket.sendall(b"GET / HTTP/1.0\r\n")
        assert first.reply().startswith(b"421 ")
        assert first.socket.recv(1) == b""
        with server.client() as second:
            assert not select.select([second.socket], [], [], 0)[0]
            assert server.busy() == 1
            first.close()
            assert second.reply() == b"220 mx.example ESMTP"


@pytest.mark.slow
def test_the_listener_waits_for_nobody(home: Home) -> None:
    """One connection too many, with bytes that come before it is accepted, and no end of it."""
    run = patched("listener.LOOPBACK = ()")
    with Server(home, "-C", "1", run=run) as server, server.client() as first:
        assert first.reply().startswith(b"220 ")
        server.signal(signal.SIGSTOP)
        wait_for(lambda: state(server.pid) == "T")
        with server.client() as second:
            second.socket.sendall(b"EHLO me\r\n")
            server.signal(signal.SIGCONT)
            assert second.reply().startswith(b"421 too many connections")
            assert second.socket.recv(1) == b""
            with server.client("127.0.0.2") as third:  # while the second one stays
                assert third.reply().startswith(b"220 ")
            assert isinstance(second.socket, socket.socket)
            assert second.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


# -- a helper in front -----------------------------------------------------


#: A client, and what waits for the exit status of its qsmtpd.
Behind = tuple[Client, Callable[[], int]]


@pytest.fixture(params=["ucspi", "external"])
def behind(request: pytest.FixtureRequest, home: Home) -> Iterator[Behind]:
    """A session behind a helper that gives up as soon as its pipe to us has no reader.

    So does s6-tlsd-io, with libtls, even if it has something of ours in its
    hands.  This one always has, when we say 221.
    """
    path = SERVER.save(home.path / "certificate")
    if request.param == "ucspi":
        environ = {**home.environ, "UCSPITLS": ""}
        talk = home.launch(COLD, environ, helper=Helper(path, S6, gives_up=True))
        talk.reply()
        talk.starttls()
        yield talk, lambda: talk.process.wait(PATIENCE)
        return
    helper = Helper(path, b"", gives_up=True)
    ours, theirs = socket.socketpair()
    fds = helper.in_front(theirs)
    environ = {**home.environ, "SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": "X"}
    process = subprocess.Popen(
        COLD,
        stdin=fds[0],
        stdout=fds[1],
        stderr=subprocess.DEVNULL,
        env=environ,
    )
    for fd in fds:
        os.close(fd)
    with Client(ours) as client:
        client.handshake()
        client.reply()
        yield client, lambda: process.wait(PATIENCE)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_quit_behind_a_helper(behind: Behind, home: Home) -> None:
    client, status = behind
    client.ask(b"MAIL FROM:<a@b>", b"RCPT TO:<x@ok.example>", b"DATA")
    client.send(b"Subject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n")
    assert client.reply().startswith(b"250 ok ")
    assert client.reply() == b"221 mx.example"
    assert client.socket.recv(1) == b""
    client.close()
    assert status() == 0
    assert len(home.messages()) == 1


# -- inside TLS ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("more", [b"", LINES], ids=["alone", "with more behind it"])
def test_an_alert_is_sent(inside: Home, more: bytes) -> None:
    """RFC 8446, 6.2: of a record that cannot be decrypted, bad_record_mac."""
    keys = inside.path / "keys"
    with Server(inside) as server, server.client() as client:
        client.reply()
        client.starttls(context(keys))
        assert client.ask(b"NOOP") == b"250 ok"
        records = Records(client.tls, keys, sent=1)
        assert records.send(b"\x17\x03\x03\0\x40" + b"x" * 64 + more)
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            client.socket.recv(1)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [False, True])
def test_key_updates_without_end(inside: Home, wanted: bool) -> None:
    keys = inside.path / "keys"
    with inside.talk(MINDATARATE="999999999") as talk:
        talk.reply()
        talk.starttls(context(keys))
        assert talk.ask(b"NOOP") == b"250 ok"
        records = Records(talk.tls, keys, sent=1)
        # Some are nothing special, and the session goes on.
        few = b"".join(records.key_update(wanted) for _ in range(20))
        assert records.send(few + records.record(TEXT, b"NOOP\r\n"))
        assert talk.reply() == b"250 ok"
        while records.send(b"".join(records.key_update(wanted) for _ in range(50))):
            # What is answered must be read, and is no text.
            while select.select([talk.socket], [], [], 0)[0]:
                try:
                    if not os.read(talk.tls.fileno(), 65536):
                        break
                except ConnectionResetError:  # it has closed with some of ours unread
                    break
        run = talk.ended()
    assert run.event("session")["end"] == "tls-without-text"


@pytest.mark.slow
def test_turns_without_text(inside: Home) -> None:
    """A record that comes in a few hundred pieces is none that anybody sends."""
    keys = inside.path / "keys"
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(context(keys))
        assert talk.ask(b"NOOP") == b"250 ok"
        record = Records(talk.tls, keys, sent=1).record(TEXT, b"NOOP\r\n" * 200)
        talk.socket = socket.socket(fileno=talk.tls.detach())
        talk.send_each(*(record[n : n + 1] for n in range(len(record))))
        run = talk.ended()
    assert run.event("session")["end"] == "tls-without-text"
    assert run.event("session")["commands"] == "2"
