"""The conversation with a daemon: whatever it says, or does not, there is an end to it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from child import Command
from client import PATIENCE
from daemons import Line, Peer
from harness import BIN, ROOT
from hypothesis import given
from hypothesis import strategies as st
from odd_files import bound_by_rights

from qsmtpd import waits
from qsmtpd.net import daemon as daemon_module
from qsmtpd.net.daemon import INET, INET6, PATH_LIMIT, UNIX, Daemon, NoAnswer, parse_address

pytestmark = pytest.mark.slow

SHORT = 0.2  # seconds, for who does not answer
MOST = 1000


@pytest.fixture
def meet(tmp_path: Path) -> Iterator[Callable[[Callable[[Line], None]], Daemon]]:
    """A conversation with a script."""
    peers: list[Peer] = []

    def start(
        script: Callable[[Line], None], seconds: float = PATIENCE, most: int = MOST
    ) -> Daemon:
        peers.append(Peer(script, tmp_path / f"socket.{len(peers)}"))
        return Daemon(parse_address(peers[-1].address.encode()), seconds, most)

    yield start
    for peer in peers:
        peer.stop()


# -- addresses ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "family", "target"),
    [
        (b"/run/dovecot/auth", UNIX, b"/run/dovecot/auth"),
        (b"unix:/run/dovecot/auth", UNIX, b"/run/dovecot/auth"),
        (b"unix:private/auth", UNIX, b"private/auth"),
        (b"private/auth", UNIX, b"private/auth"),
        (b"/run/a:b", UNIX, b"/run/a:b"),
        (b"/" + b"x" * (PATH_LIMIT - 2), UNIX, b"/" + b"x" * (PATH_LIMIT - 2)),
        (b"/\xff\xfe", UNIX, b"/\xff\xfe"),
        (b"inet:127.0.0.1:1", INET, ("127.0.0.1", 1)),
        (b"inet:localhost:65535", INET, ("127.0.0.1", 65535)),
        (b"inet:[::1]:025", INET6, ("::1", 25)),
    ],
)
def test_addresses(text: bytes, family: str, target: object) -> None:
    address = parse_address(text)
    assert (address.text, address.family, address.target) == (text, family, target)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"unix:",
        b"unix:/" + b"x" * (PATH_LIMIT - 1),
        b"/" + b"x" * (PATH_LIMIT - 1),
        b"inet:",
        b"inet:127.0.0.1",
        b"inet:127.0.0.1:",
        b"inet:127.0.0.1:0",
        b"inet:127.0.0.1:65536",
        b"inet:127.0.0.1: 25",
        b"inet:127.0.0.1:+25",
        b"inet:127.0.0.1:2_5",
        b"inet:127.0.0.1:" + "٣".encode(),
        b"inet:127.0.0.1:" + b"1" * 5000,
        b"inet:127.1:25",
        b"inet::25",
        b"inet:::1:25",
        b"inet:[127.0.0.1]:25",
        b"inet:[::1%lo]:25",
        b"inet:[::1:25",
        b"inet:mail.example:25",
        b"inet:\xff:25",
        b"inet:127.0.0.1\0:25",
    ],
)
def test_what_is_no_address(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(has|names) "):
        parse_address(text)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda text: b"inet:" + text))
def test_any_text(text: bytes) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert address.text == text and len(address.target) > 0


# -- nobody there ------------------------------------------------------------


def test_no_socket(tmp_path: Path) -> None:
    """Of each kind of path; none of them is waited for."""
    file, fifo, link, loop = (tmp_path / name for name in ("file", "fifo", "link", "loop"))
    file.write_bytes(b"")
    os.mkfifo(fifo)
    link.symlink_to(tmp_path / "nowhere")
    loop.symlink_to(loop)
    dead, datagrams = tmp_path / "dead", tmp_path / "datagrams"
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(dead))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(datagrams))
        for path, reason in {
            file: "Connection refused",
            fifo: "Connection refused",
            tmp_path: "Connection refused",
            dead: "Connection refused",
            link: "No such file or directory",
            tmp_path / "none": "No such file or directory",
            file / "below": "Not a directory",
            loop: "Too many levels of symbolic links",
            datagrams: "Protocol wrong type for socket",
        }.items():
            with pytest.raises(NoAnswer) as error:
                Daemon(parse_address(os.fsencode(path)), PATIENCE, MOST)
            assert str(error.value) == reason, path


def test_a_socket_of_others(tmp_path: Path) -> None:
    with Peer(Line.wait_for_end, tmp_path / "socket") as peer:
        (tmp_path / "socket").chmod(0)
        with bound_by_rights(), pytest.raises(NoAnswer, match="^Permission denied$"):
            Daemon(parse_address(peer.address.encode()), PATIENCE, MOST)


def test_no_port() -> None:
    with socket.socket() as bound:  # and it does not listen
        bound.bind(("127.0.0.1", 0))
        address = b"inet:127.0.0.1:%d" % bound.getsockname()[1]
        with pytest.raises(NoAnswer, match="^Connection refused$"):
            Daemon(parse_address(address), PATIENCE, MOST)


@pytest.mark.parametrize("family", ["unix", "inet"])
def test_a_queue_that_is_full(tmp_path: Path, family: str) -> None:
    """Nobody accepts: connect() can only be tried again, or takes until its own time is over."""
    with socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET) as listener:
        listener.bind(str(tmp_path / "socket") if family == "unix" else ("127.0.0.1", 0))
        listener.listen(0)
        name = str(tmp_path / "socket")
        if family == "inet":
            name = f"inet:127.0.0.1:{listener.getsockname()[1]}"
        address = parse_address(name.encode())
        waiting: list[Daemon] = []
        with pytest.raises(NoAnswer, match="^timeout$"):
            while len(waiting) < 10:
                waiting.append(Daemon(address, SHORT, MOST))
        if family == "unix":  # and one that gets through when there is room again
            listener.accept()[0].close()
            Daemon(address, PATIENCE, MOST).close()
        for daemon in waiting:
            daemon.close()


# -- a conversation ----------------------------------------------------------


def echo(line: Line) -> None:
    while text := line.hear():
        line.say(text)


@pytest.mark.parametrize("path", [True, False])
def test_lines(tmp_path: Path, path: bool) -> None:
    with Peer(echo, tmp_path / "socket" if path else None) as peer:
        daemon = Daemon(parse_address(peer.address.encode()), PATIENCE, MOST)
        for text in (b"", b"x", b"\0\xff\t\r", b"x" * 500):
            daemon.send(text + b"\n")
            assert daemon.line() == text
        daemon.send(b"a\nb\nc\n")
        assert [daemon.line() for _ in range(3)] == [b"a", b"b", b"c"]
        assert peer.connections == 1


def test_numbers_of_bytes(meet: Callable[..., Daemon]) -> None:
    daemon = meet(lambda line: line.say(b"abcdef\nrest"))
    assert (daemon.exactly(0), daemon.exactly(2), daemon.line()) == (b"", b"ab", b"cdef")
    assert daemon.exactly(1) == b"r"
    assert daemon.rest() == b"est"
    assert daemon.rest() == b""


def test_byte_by_byte(meet: Callable[..., Daemon]) -> None:
    def dribble(line: Line) -> None:
        for byte in b"one\ntwo\n":
            line.say(bytes((byte,)))

    daemon = meet(dribble)
    assert (daemon.line(), daemon.exactly(3), daemon.rest()) == (b"one", b"two", b"\n")


def test_much_to_send(meet: Callable[..., Daemon]) -> None:
    """More than any buffer holds, to one who begins to read late."""

    def count(line: Line) -> None:
        size = 0
        while not (data := line.socket.recv(1 << 20)).endswith(b"\n"):
            size += len(data)
        line.say(b"%d\n" % (size + len(data)))

    daemon = meet(count)
    daemon.send(b"x" * (16 << 20) + b"\n")
    assert daemon.line() == b"%d" % ((16 << 20) + 1)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_the_limit_of_bytes(data: bytes, most: int) -> None:
    """All that came within the limit is returned, and nothing beyond it is kept."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        daemon = attached(ours, most)
        if len(data) <= most:
            assert daemon.rest() == data
        else:
            with pytest.raises(NoAnswer, match="^answers too long$"):
                daemon.rest()


def attached(connection: socket.socket, most: int) -> Daemon:
    """A conversation over what is connected already."""
    import _socket
    import select

    daemon = Daemon.__new__(Daemon)
    daemon._committed = False
    daemon._socket = _socket.socket(fileno=os.dup(connection.fileno()))
    daemon._socket.setblocking(False)
    daemon._left, daemon._room, daemon._input = PATIENCE, most, bytearray()
    daemon._poll = select.poll()
    daemon._poll.register(daemon._socket, select.POLLIN)
    return daemon


READS: dict[str, Callable[[Daemon], object]] = {
    "line": Daemon.line,
    "exactly": lambda daemon: daemon.exactly(100),
    "rest": Daemon.rest,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (lambda line: line.wait_for_end(), "timeout"),
        (lambda line: (line.say(b"half"), line.wait_for_end()), "timeout"),
        (lambda line: None, "closed the connection"),
        (lambda line: line.say(b"half"), "closed the connection"),
    ],
    ids=["silent", "half, then silent", "closes", "half, then closes"],
)
def test_no_answer(
    meet: Callable[..., Daemon],
    read: Callable[[Daemon], object],
    script: Callable[[Line], None],
    reason: str,
) -> None:
    daemon = meet(script, SHORT if reason == "timeout" else PATIENCE)
    if read is Daemon.rest and reason != "timeout":
        assert read(daemon) in (b"", b"half")  # for that it is the end
        return
    began = time.monotonic()
    with pytest.raises(NoAnswer, match=f"^{reason}$"):
        read(daemon)
    assert reason != "timeout" or time.monotonic() - began > SHORT / 2
    for anything in (Daemon.line, lambda daemon: daemon.send(b"x")):
        with pytest.raises(NoAnswer, match="^closed the connection$"):
            anything(daemon)
    assert not daemon.renew(PATIENCE, MOST)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_without_end(meet: Callable[..., Daemon], read: Callable[[Daemon], object]) -> None:
    """10 MB without a line's end, and more: no more than the limit is ever read."""

    def flood(line: Line) -> None:
        for _ in range(160):
            line.say(b"x" * 65536)

    daemon = meet(flood, PATIENCE, 99)
    with pytest.raises(NoAnswer, match="^answers too long$"):
        read(daemon)


def test_one_time_limit_for_all(
    meet: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then gains no time; what we do in between costs none."""
    passed = 0.0  # seconds, by a clock that we move
    for module in (daemon_module, waits):
        monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + passed)
    wait = waits.wait

    def wait_long(poll: select.poll, deadline: float) -> list[int]:
        nonlocal passed
        ready = wait(poll, deadline)
        passed += PATIENCE / 8
        return ready

    monkeypatch.setattr(waits, "wait", wait_long)

    def trickle(line: Line) -> None:
        line.say(b"first\n")
        while line.hear():
            line.say(b"x")

    daemon = meet(trickle, PATIENCE)
    assert daemon.line() == b"first"
    passed += PATIENCE  # a client that takes its time
    for _ in range(2):
        daemon.send(b"\n")
        assert daemon.exactly(1) == b"x"
    with pytest.raises(NoAnswer, match="^timeout$"):
        for _ in range(100):
            daemon.send(b"\n")
            daemon.exactly(1)


def test_what_is_there_at_the_deadline(meet: Callable[..., Daemon]) -> None:
    """Who was stopped until then himself has still to look."""
    said, over = threading.Event(), threading.Event()

    def script(line: Line) -> None:
        line.say(b"no\n")
        said.set()
        over.wait(PATIENCE)

    daemon, silent = meet(script), meet(Line.wait_for_end)
    assert said.wait(PATIENCE)
    assert not daemon.keeps_still(0.0)
    assert silent.keeps_still(0.0)
    over.set()


def test_a_peer_that_does_not_read(meet: Callable[..., Daemon]) -> None:
    over = threading.Event()
    daemon = meet(lambda line: over.wait(PATIENCE), SHORT)
    with pytest.raises(NoAnswer, match="^timeout$"):
        daemon.send(b"x" * (16 << 20))
    over.set()


def many() -> Iterator[bytes]:
    """More than any buffer holds, and it has no end."""
    while True:
        yield b"x" * 65536


def test_what_is_offered(meet: Callable[..., Daemon]) -> None:
    """Sent in parts, whatever their sizes, and all of it."""
    parts = [b"", b"ab", b"c" * (1 << 20), b"", b"\n"]
    daemon = meet(lambda line: line.say(b"%d\n" % len(line.hear())))
    assert daemon.offer(parts)
    assert daemon.line() == b"%d" % (3 + (1 << 20))


@pytest.mark.parametrize("family", ["unix", "inet"])
@pytest.mark.parametrize("closes", [False, True])
def test_an_answer_before_all_is_sent(tmp_path: Path, family: str, closes: bool) -> None:
    """Who has enough says so, and reads no more, or closes the connection behind it."""

    def script(line: Line) -> None:
        line.socket.recv(1000)
        line.say(b"enough\n")
        if not closes:
            over.wait(PATIENCE)

    over = threading.Event()
    with Peer(script, tmp_path / "socket" if family == "unix" else None) as peer:
        daemon = Daemon(parse_address(peer.address.encode()), PATIENCE, MOST)
        assert not daemon.offer(many())
        assert daemon.line() == b"enough"
        over.set()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (lambda line: line.socket.recv(1000), "closed the connection|Connection reset by peer"),
        (lambda line: line.say(b"x" * 10_000_000), "answers too long"),
    ],
    ids=["ends", "never stops"],
)
def test_offered_to_one_that(
    meet: Callable[..., Daemon], script: Callable[[Line], None], reason: str
) -> None:
    daemon = meet(script)
    with pytest.raises(NoAnswer, match=f"^({reason})$"):
        while True:
            daemon.offer(many())
            daemon.line()


def test_offered_to_one_that_does_not_read(meet: Callable[..., Daemon]) -> None:
    over = threading.Event()
    daemon = meet(lambda line: over.wait(PATIENCE), SHORT)
    with pytest.raises(NoAnswer, match="^timeout$"):
        daemon.offer(many())
    over.set()


def test_again_on_the_same_connection(meet: Callable[..., Daemon]) -> None:
    closing = socket.socketpair()

    def script(line: Line) -> None:
        line.say(line.hear())
        line.say(line.hear() + b"unasked\n")
        closing[1].recv(1)
        line.say(b"more\n")

    daemon = meet(script, PATIENCE, 10)
    daemon.send(b"1234567\n")
    assert daemon.line() == b"1234567"
    assert daemon.renew(PATIENCE, 100)
    daemon.send(b"again\n")
    assert daemon.line() == b"again"
    while daemon.renew(PATIENCE, 100):
        pass  # until that comes which nobody has asked for
    closing[0].close()


# -- asked to end ------------------------------------------------------------

ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from qsmtpd import waits
from qsmtpd.facts import Shutdown
from qsmtpd.net.daemon import Daemon, parse_address
waits.listen()
daemon = Daemon(parse_address(sys.argv[2].encode()), 1000, 1000)
daemon.send(b"hello\\n")
try:
    daemon.line()
except Shutdown:
    print("asked to end")
"""


def test_term_ends_a_wait(tmp_path: Path) -> None:
    waiting = socket.socketpair()

    def script(line: Line) -> None:
        waiting[1].sendall(line.hear())
        line.wait_for_end()

    with Peer(script, tmp_path / "socket") as peer:
        command: Command = [BIN / "python3", "-IS", "-c", ASK, str(ROOT), peer.address]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert waiting[0].recv(10) == b"hello\n"
        child.send_signal(signal.SIGTERM)
        assert child.communicate(timeout=PATIENCE)[0] == b"asked to end\n"
