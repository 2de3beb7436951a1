"""What qsmtpd is given as fds 0, 1 and 2, what it makes of them, and clients that are slow."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cdbs import make_cdb
from child import descriptors
from client import PATIENCE
from harness import BIN, Home, Variables
from run import parse_log

pytestmark = pytest.mark.slow

QSMTPD = str(BIN / "qsmtpd")
MESSAGE = b"MAIL FROM:<a@no.example>\r\nRCPT TO:<b@ok.example>\r\nDATA\r\nx\r\n.\r\n"
REPLIES = [220, 250, 250, 354, 250, 221]


def codes(out: bytes) -> list[int]:
    return [int(line[:3]) for line in out.splitlines() if line[3:4] == b" "]


# -- missing descriptors ---------------------------------------------------


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_closed_at_start(home: Home, closed: str) -> None:
    redirections = " ".join(f"{fd}>&-" for fd in closed)
    with tempfile.TemporaryFile() as log:
        run = subprocess.run(
            ["sh", "-c", f'exec "$0" {redirections}', QSMTPD],
            input=MESSAGE + b"QUIT\r\n",
            stdout=subprocess.PIPE,
            stderr=log,
            env=home.environ,
            timeout=PATIENCE,
        )
        log.seek(0)
        logged = log.read()
    if closed == "2":
        assert codes(run.stdout) == REPLIES
        assert run.returncode == 0
        assert len(home.messages()) == 1
    else:
        assert run.stdout == b""
        assert run.returncode == 111
        assert home.messages() == []
    assert b"Traceback" not in logged


@contextmanager
def running(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the test."""
    child = subprocess.Popen(command or [QSMTPD], **options)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def queue_of(child: subprocess.Popen[bytes]) -> int:
    (pid,) = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return int(pid)


def test_closed_stderr_is_not_closed_for_the_queue(home: Home) -> None:
    """Else the first file that it opens is fd 2, and its complaints are written into that."""
    # wc reads all of the message before it does anything else.
    environ = {**home.environ, "QMAILQUEUE": str(shutil.which("wc"))}
    command = ["sh", "-c", 'exec "$0" 2>&-', QSMTPD]
    with running(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(MESSAGE.partition(b"x\r\n")[0])
        child.stdin.flush()
        while not child.stdout.readline().startswith(b"354 "):
            pass
        found = descriptors(queue_of(child))
        assert sorted(found) == [0, 1, 2, 6]
        assert found[2] == "/dev/null"
        ours = descriptors(child.pid)
        assert ours[0] == ours[1] == ours[2] == "/dev/null"


# -- what is left where the client was -------------------------------------


@pytest.mark.parametrize("over", ["pipe", "socket"])
def test_the_client_is_taken_away(home: Home, over: str) -> None:
    """Whatever a program prints goes to the log, and whatever it reads is at its end."""
    talk = home.talk(over=over)
    assert talk.reply().startswith(b"220 ")
    found = talk.descriptors()
    assert found[0] == "/dev/null"
    assert found[1] == found[2]
    client = {fd: what for fd, what in found.items() if what.startswith(f"{over}:")}
    assert client
    for fd, what in found.items():
        if fd > 2:
            info = Path(f"/proc/{talk.pid}/fdinfo/{fd}").read_text()
            (flags,) = re.findall(r"(?m)^flags:\s+0(\d+)$", info)
            assert int(flags, 8) & os.O_CLOEXEC, what
    # Not where a program that we start has its own.
    assert min(client) >= 10 or over == "pipe"
    talk.end()


def test_inherited_descriptors_go_no_further(home: Home) -> None:
    read, write = os.pipe()
    environ = {**home.environ, "QMAILQUEUE": str(shutil.which("wc"))}
    ours, theirs = socket.socketpair()
    high = fcntl.fcntl(write, fcntl.F_DUPFD, 200)
    taken = [fcntl.fcntl(write, fcntl.F_DUPFD, fd) for fd in (6, 10, 11)]
    passed = [read, write, high, *taken]
    with running(stdin=theirs, stdout=theirs, env=environ, pass_fds=passed) as child:
        theirs.close()
        replies = ours.makefile("rb")
        ours.sendall(MESSAGE.partition(b"x\r\n")[0])
        while not replies.readline().startswith(b"354 "):
            pass
        assert set(passed) <= set(descriptors(child.pid))
        assert sorted(descriptors(queue_of(child))) == [0, 1, 2, 6]
        replies.close()
        ours.close()
    for fd in passed:
        os.close(fd)


# -- kinds of descriptors --------------------------------------------------


def test_dev_null(home: Home) -> None:
    with open("/dev/null", "r+b") as null, tempfile.TemporaryFile() as log:
        run = subprocess.run([QSMTPD], stdin=null, stdout=null, stderr=log, env=home.environ)
        assert run.returncode == 1
        log.seek(0)
        assert parse_log(log.read().decode().rstrip("\n"))["end"] == "client-gone"


@pytest.mark.parametrize("shared", [False, True])
def test_files(home: Home, shared: bool) -> None:
    """In and out may be files, even one and the same."""
    path = home.path / "session"
    sent = MESSAGE + b"QUIT\r\n"
    path.write_bytes(sent)
    with path.open("r+b") as file, (home.path / "out").open("wb") as other:
        out = os.open(path, os.O_WRONLY | os.O_APPEND) if shared else other.fileno()
        run = subprocess.run(
            [QSMTPD], stdin=file, stdout=out, stderr=subprocess.DEVNULL, env=home.environ
        )
    assert run.returncode == 0
    written = path.read_bytes().removeprefix(sent) or (home.path / "out").read_bytes()
    assert codes(written) == REPLIES
    assert len(home.messages()) == 1


def test_full_disk_as_output(home: Home) -> None:
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            [QSMTPD],
            input=MESSAGE,
            stdout=full,
            stderr=subprocess.PIPE,
            env=home.environ,
        )
    assert run.returncode == 1
    assert home.messages() == []


@pytest.mark.parametrize("hangup", [False, True])
def test_terminal(home: Home, hangup: bool) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    child = subprocess.Popen(
        [QSMTPD], stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=home.environ
    )
    os.close(slave)
    seen = b""
    sent = MESSAGE[:-1] if hangup else MESSAGE + b"QUIT\r\n"
    for byte in sent:
        os.write(master, bytes((byte,)))
    wanted = REPLIES[:4] if hangup else REPLIES
    while codes(seen) != wanted:
        assert select.select([master], [], [], PATIENCE)[0], seen
        seen += os.read(master, 4096)
    os.close(master)
    _, log = child.communicate(timeout=PATIENCE)
    assert child.returncode == (1 if hangup else 0)
    assert (b"end=client-gone" in log) == hangup
    assert len(home.messages()) == (not hangup)


@pytest.mark.parametrize("over", ["pipe", "socket"])
@pytest.mark.parametrize("nonblocking", [True, False])
def test_blocking_or_not(home: Home, over: str, nonblocking: bool) -> None:
    """O_NONBLOCK may be inherited, and comes and goes with others: we neither need nor set it."""
    if over == "pipe":
        child_in, to_child = os.pipe()
        from_child, child_out = os.pipe()
    else:
        first, second = socket.socketpair()
        child_in = child_out = second.detach()
        to_child = from_child = first.detach()
    for fd in {child_in, child_out}:
        os.set_blocking(fd, not nonblocking)
    child = subprocess.Popen(
        [QSMTPD], stdin=child_in, stdout=child_out, stderr=subprocess.DEVNULL, env=home.environ
    )
    body = b"y" * 998 + b"\r\n"
    sent = MESSAGE.replace(b"x\r\n", body * 500)
    seen = b""
    while codes(seen) != REPLIES[:-1]:
        poll = select.poll()
        poll.register(from_child, select.POLLIN)
        if sent:
            poll.register(to_child, select.POLLIN | select.POLLOUT)
        ready = dict(poll.poll(PATIENCE * 1000))
        assert ready
        if ready.get(to_child, 0) & select.POLLOUT:
            sent = sent[os.write(to_child, sent[:4000]) :]
        if ready.get(from_child, 0) & select.POLLIN:
            seen += os.read(from_child, 4096)
    os.write(to_child, b"QUIT\r\n")
    assert child.wait(PATIENCE) == 0
    for fd in {child_in, child_out}:
        assert os.get_blocking(fd) != nonblocking
    for fd in {child_in, child_out, to_child, from_child}:
        os.close(fd)
    (message,) = home.messages()
    assert message.body == body.replace(b"\r\n", b"\n") * 500


# -- the log ---------------------------------------------------------------


def fill(pipe: int) -> int:
    """Write until the pipe is full, whole pages at a time; how many bytes that were."""
    os.set_blocking(pipe, False)
    count = 0
    try:
        while True:
            count += os.write(pipe, b"-" * 4095 + b"\n")
    except BlockingIOError:
        os.set_blocking(pipe, True)
        return count


def test_full_log(home: Home) -> None:
    """Nobody reads the log: the mail goes on; when somebody does, it is told how much is lost."""
    read, write = os.pipe()
    filled = fill(write)
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(
        [QSMTPD], stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=write, env=home.environ
    )
    theirs.close()
    replies = ours.makefile("rb")
    ours.sendall(MESSAGE + b"RCPT TO:<x>\r\n" + MESSAGE)
    seen = [replies.readline()[:3] for _ in range(10)]
    assert seen == [b"220", b"250", b"250", b"354", b"250", b"503", b"250", b"250", b"354", b"250"]
    assert len(home.messages()) == 2
    assert os.get_blocking(write)
    while filled:
        filled -= len(os.read(read, filled))
    ours.sendall(MESSAGE + b"QUIT\r\n")
    assert child.wait(PATIENCE) == 0
    os.close(write)
    with os.fdopen(read) as log:
        first, second = (parse_log(line.rstrip("\n")) for line in log)
    assert first["event"] == "message"
    assert first["dropped"] == "3"
    assert second["event"] == "session"
    assert "dropped" not in second
    replies.close()
    ours.close()


@pytest.mark.parametrize("kind", ["no reader", "/dev/full", "/dev/null", "read-only"])
def test_log_that_cannot_be_written(home: Home, kind: str) -> None:
    if kind == "no reader":
        read, log = os.pipe()
        os.close(read)
    elif kind == "read-only":
        log = os.open("/dev/null", os.O_RDONLY)
    else:
        log = os.open(kind, os.O_WRONLY)
    run = subprocess.run(
        [QSMTPD], input=MESSAGE + b"QUIT\r\n", stdout=subprocess.PIPE, stderr=log, env=home.environ
    )
    os.close(log)
    assert codes(run.stdout) == REPLIES
    assert run.returncode == 0
    assert len(home.messages()) == 1


@pytest.mark.parametrize("kind", ["full", "no reader", "closed"])
def test_maildir_with_a_log_that_cannot_be_written(home: Home, kind: str) -> None:
    """The embedded queue program says why it refuses, and where it cannot, it still refuses."""
    message_in, message_out = os.pipe()
    envelope_in, envelope_out = os.pipe()
    log_read, log = os.pipe()
    if kind == "full":
        fill(log)
    else:
        os.close(log_read)
    maildir = home.path / "Maildir"
    child = subprocess.Popen(
        ["sh", "-c", 'exec "$0"' + " 2>&-" * (kind == "closed"), str(BIN / "qsmtpd-maildir")],
        stdin=message_in,
        stdout=envelope_in,
        stderr=log,
        env={**home.environ, "QSMTPD_MAILDIR": str(maildir)},
    )
    os.write(message_out, b"text\n")
    os.write(envelope_out, b"F\0Tx@ok.example\0")
    for fd in (message_in, message_out, envelope_in, envelope_out):
        os.close(fd)
    try:
        assert child.wait(PATIENCE) == 54
    finally:
        child.kill()
        child.wait()
        os.close(log)
        if kind == "full":
            os.close(log_read)
    assert [path for path in maildir.rglob("*") if path.is_file()] == []


# -- slow clients ----------------------------------------------------------

#: Whoever goes on sending after the last reply is too slow, and soon cut off.
IN_DATA = b"MAIL FROM:<>\r\nRCPT TO:<b@ok.example>\r\nDATA\r\n"
NO_GRACE: Variables = {"MINDATARATE": "999999999"}


# What is too slow is decided by the channel, see test_channel.py; here is what becomes of it.


@pytest.mark.parametrize("data", [False, True])
def test_silence(home: Home, data: bool) -> None:
    """In the middle of a command, and of the data."""
    talk = home.talk(TIMEOUTSMTPD="1", ahead=IN_DATA + b"x\r\n.\r" if data else b"NO")
    replies = [talk.reply() for _ in range(5 if data else 2)]
    assert replies[-1] == b"421 timeout (#4.4.2)"
    run = talk.ended()
    assert (run.out, run.status) == (b"", 1)
    assert run.event("session")["end"] == "timeout"
    assert 1 <= float(run.event("session")["seconds"]) < 30
    assert [event["verdict"] for event in run.events("message")] == ["aborted"] * data
    assert run.children == []
    assert home.messages() == []


def test_data_rate(home: Home) -> None:
    """Nobody sends a message this fast in pieces, each of which is awaited."""
    talk = home.talk(TIMEOUTSMTPD="1", MINDATARATE="999999999", ahead=IN_DATA)
    while talk.send_each(b"x" * 20):
        pass
    run = talk.ended()
    assert run.codes[-2:] == [354, 421] and run.lines[-1] == b"421 timeout (#4.4.2)"
    assert 1 <= float(run.event("message")["seconds"]) < 30
    assert run.children == []
    assert home.messages() == []
    whole = IN_DATA + b"Subject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n"
    run = home.talk(TIMEOUTSMTPD="1", MINDATARATE="999999999", ahead=whole).ended()
    assert run.codes[-2:] == [250, 221]  # only after TIMEOUTSMTPD


@pytest.mark.parametrize("data", [False, True])
def test_session_limit(home: Home, data: bool) -> None:
    """However busy the client is."""
    ahead = IN_DATA if data else b""
    talk = home.talk(SESSION_TIMEOUT="1", MAXJUNK="99999999", ahead=ahead, **NO_GRACE)
    talk.reply()
    if data:
        # As far as the 354, but where it has been stopped before that for so long.
        while (last := talk.reply())[:4] in (b"250 ", b"354 "):
            while last[:4] == b"354 " and talk.send_each(b"text\r\n"):
                pass
    else:
        while (last := talk.ask(b"NOOP")) == b"250 ok":
            pass
    assert last == b"421 session time limit reached (#4.4.2)"
    run = talk.ended()
    assert run.out == b""
    assert run.event("session")["end"] == "session-limit"
    assert 0.9 <= float(run.event("session")["seconds"]) < 30
    assert run.status == 1
    assert home.messages() == []


@pytest.mark.parametrize("over", ["pipe", "socket", "non-blocking pipe", "TCP"])
def test_client_that_never_reads(home: Home, over: str) -> None:
    environ = {**home.environ, "TIMEOUTSMTPD": "1", "MAXJUNK": "99999999"}
    listener = socket.create_server(("127.0.0.1", 0))
    if over == "TCP":
        ours = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
    else:
        ours, theirs = socket.socketpair()
    ends = []
    out = theirs.fileno()
    if over.endswith("pipe"):
        ends = list(os.pipe())
        out = ends[1]
        os.set_blocking(out, over == "pipe")
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [QSMTPD], stdin=theirs.fileno(), stdout=out, stderr=log, env=environ
        )
        theirs.close()
        ours.settimeout(PATIENCE)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100_000):
                ours.sendall(b"HELP\r\n" * 1000)
        assert child.wait(PATIENCE) == 1
        log.seek(0)
        assert parse_log(log.read().decode().rstrip("\n"))["end"] == "client-gone"
    for fd in ends:
        os.close(fd)
    ours.close()
    listener.close()


def test_terminal_that_never_reads(home: Home) -> None:
    """A terminal that was stopped with ^S: it takes less than any write of ours."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    read, write = os.pipe()
    child = subprocess.Popen(
        [QSMTPD],
        stdin=read,
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env={**home.environ, "TIMEOUTSMTPD": "1", "MAXJUNK": "99999999"},
    )
    for fd in (slave, read):
        os.close(fd)
    try:
        os.write(write, b"HELP\r\n" * 5000)
        assert child.wait(PATIENCE) == 1
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        os.close(master)
        os.close(write)


def test_the_session_limit_holds_for_a_client_that_never_stops(home: Home) -> None:
    """Data that is always there must not keep the clock from being looked at."""
    slow = home.script("while head -c 4096 | grep -q .; do sleep 0.05; done; exit 1\n")
    talk = home.talk(QMAILQUEUE=slow, SESSION_TIMEOUT="1", ahead=IN_DATA, **NO_GRACE)
    block = b"x" * 62 + b"\r\n"
    while talk.send(block * 1024):
        pass  # until it has closed
    talk.process.wait(PATIENCE)
    run = talk.end(quit=False)
    assert run.event("session")["end"] == "session-limit"
    assert home.messages() == []


def test_a_recipient_with_many_dots_costs_little(home: Home) -> None:
    make_cdb(home.control_dir / "morercpthosts.cdb", {})
    dots = b"RCPT TO:<u@" + b"." * 880 + b">\r\n"
    run = home.run(b"MAIL FROM:<>\r\n" + dots * 200 + b"QUIT\r\n")
    assert run.codes.count(553) == 200
    assert float(run.event("session")["seconds"]) < 30
