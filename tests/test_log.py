"""Where log lines go: a pipe, a terminal, a full disk, syslog; and who is named there."""

from __future__ import annotations

import os
import pty
import resource
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from child import Command
from client import PATIENCE, Client
from harness import BIN, Home
from run import parse_events, parse_log

from qsmtpd.log import Log, write
from qsmtpd.net.syslog import Syslog
from qsmtpd.net.ucspi import read_peer

# -- a descriptor ----------------------------------------------------------------


def fill(pipe: int) -> None:
    """Write until the pipe is full, whole pages at a time."""
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, b"-" * 4096)
    except BlockingIOError:
        os.set_blocking(pipe, True)


@pytest.mark.parametrize("raw", [False, True])
def test_a_line_fits_into_one_free_page(raw: bool) -> None:
    """However long its fields are: poll() promises no more of a pipe."""
    reader, writer = os.pipe()
    log = Log(writer)
    for last in range(250, 256):
        fill(writer)
        assert len(os.read(reader, 4096)) == 4096
        if raw:
            log.raw(b"x" * 10_000)
        else:
            log.line("x", **{f"k{n:02}": "x" * (last if n == 15 else 251) for n in range(17)})
        assert log.dropped == 0
        os.set_blocking(reader, False)
        found = b""
        try:
            while data := os.read(reader, 1 << 20):
                found += data
        except BlockingIOError:
            os.set_blocking(reader, True)
        assert len(found.lstrip(b"-")) <= 4096
        assert found.endswith(b"\n")
    for fd in (reader, writer):
        os.close(fd)


def test_a_terminal_that_nobody_reads(home: Home) -> None:
    """As of `docker -t`."""
    ours, theirs = pty.openpty()
    commands = b"RCPT TO:<a@b>\r\n" * 400
    process = subprocess.Popen(
        [BIN / "qsmtpd"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**home.environ, "MAXERRORS": "9999"},
    )
    os.close(theirs)
    out, _ = process.communicate(commands + b"QUIT\r\n", PATIENCE)
    assert out.count(b"503 ") == 400
    assert out.endswith(b"221 mx.example\r\n")
    seen = os.read(ours, 4096).decode().replace("\r\n", "\n")
    assert next(iter(parse_events(seen)))["command"] == "RCPT"
    os.close(ours)


def test_a_terminal_of_another_user_that_nobody_reads() -> None:
    """It cannot be opened anew, so each byte waits for its room."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    code = """
import os
from qsmtpd.log import Log
os.setuid(12345)
log = Log()
while not log.dropped:
    log.line("x", number="1" * 70)
"""
    ours, theirs = pty.openpty()
    os.fchmod(theirs, 0o600)
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, timeout=PATIENCE)
    os.close(theirs)
    assert done.returncode == 0
    line = b"event=x number=" + b"1" * 70 + b"\r\n"
    assert os.read(ours, 4096).startswith(line * 9)
    os.close(ours)


def test_after_half_a_line_the_next_one_begins_anew() -> None:
    """A disk is full in the middle of a line, and then is not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tempfile.TemporaryFile() as file:
        log = Log(file.fileno())
        log.line("first")
        try:  # Python ignores SIGXFSZ
            size = os.fstat(file.fileno()).st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
            log.line("second")
            log.line("third")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.line("fourth")
        log.line("fifth")
        file.seek(0)
        lines = file.read().splitlines()
    wanted = [b"event=first", b"event", b"event=fourth dropped=2", b"event=fifth"]
    assert lines == wanted


def test_a_format_whose_plugin_is_switched_off(home: Home) -> None:
    """Then refusals are logged in the usual one."""
    run = home.run(
        b"RCPT TO:<a@b>\r\nQUIT\r\n", LOGFORMAT="spamcontrol", QSMTPD_PLUGINS="-spamcontrollog"
    )
    assert run.event("refused")["command"] == "RCPT"


# -- syslog ------------------------------------------------------------------------


def listening(path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(str(path))
    server.settimeout(PATIENCE)
    if kind == socket.SOCK_STREAM:
        server.listen()
    return server


def test_a_syslogd_that_is_restarted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Syslog(str(path))
    assert not log.write(b"zeroth"), "there is none yet"
    for number in range(3):
        with listening(path) as server:
            assert log.write(b"first %d" % number), "not one is lost"
            assert log.write(b"second")
            assert server.recv(9999).endswith(b"]: first %d" % number)
            assert server.recv(9999).endswith(b"]: second")
        path.unlink()
        assert not log.write(b"in vain")


def test_a_syslogd_that_does_not_read(tmp_path: Path) -> None:
    with listening(tmp_path / "log") as server:
        log = Syslog(str(tmp_path / "log"))
        sent = 0
        while log.write(b"x" * 4000):
            sent += 1
        assert sent
        for _ in range(sent):
            server.recv(9999)
        assert log.write(b"x")


def test_a_syslogd_with_a_stream(tmp_path: Path) -> None:
    """Each line has a NUL behind it; half a line is never followed by another."""
    with listening(tmp_path / "log", socket.SOCK_STREAM) as server:
        log = Syslog(str(tmp_path / "log"))
        assert log.write(b"one")
        connection, _ = server.accept()
        assert log.write(b"two")
        while log.write(b"x" * 4000):
            pass
        connection.settimeout(PATIENCE)
        received = b""
        while data := connection.recv(65536):
            received += data
            if received.endswith(b"\0") or b"two" not in received:
                connection.setblocking(False)
                try:
                    data = connection.recv(1, socket.MSG_PEEK)
                except BlockingIOError:
                    break
                connection.settimeout(PATIENCE)
        first, second, *more = received.split(b"\0")
        assert first.endswith(b"]: one")
        assert second.endswith(b"]: two")
        assert all(line.endswith(b"]: " + b"x" * 4000) for line in more[:-1])
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "dangling link", "FIFO", "file", "directory", "refuses"])
def test_what_is_no_syslog(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "dangling link":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "file":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "refuses":
        listening(path).close()
    log = Syslog(str(path))
    assert not log.write(b"x")
    assert log.problem()


def test_a_long_line_is_one_datagram(tmp_path: Path) -> None:
    with listening(tmp_path / "log") as server:
        assert Syslog(str(tmp_path / "log")).write(b"x" * 4094)
        assert server.recv(9999).count(b"x") == 4094


def test_lines_of_any_form_are_cut() -> None:
    """As the status lines of qsmtpd-server are."""
    code = "from qsmtpd.log import write; write(b'x' * 9999)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"x" * 4094 + b"\n"
    assert write.__doc__


# -- descriptor 2 is the client -----------------------------------------------------


@pytest.mark.parametrize("same", [True, False])
def test_a_socket_as_descriptor_2(home: Home, same: bool) -> None:
    """The client's own is not written to; any other is."""
    ours, theirs = socket.socketpair()
    log, other = socket.socketpair()
    with ours, theirs, log, other:
        process = subprocess.Popen(
            [BIN / "qsmtpd"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=(theirs if same else other).fileno(),
            env=home.environ,
        )
        theirs.close()
        other.close()
        ours.sendall(b"RCPT TO:<a@b>\r\nQUIT\r\n")
        ours.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: ours.recv(9999), b""))
        assert said == b"220 mx.example ESMTP\r\n503 MAIL first (#5.5.1)\r\n221 mx.example\r\n"
        assert process.wait(PATIENCE) == 0
        logged = b"".join(iter(lambda: log.recv(9999), b"")).decode()
        assert (len(list(parse_events(logged))) == 2) != same


def test_check_says_where_the_log_goes(home: Home) -> None:
    out = home.run(b"", "--check").out.decode()
    (line,) = [line for line in out.splitlines() if line.startswith("ok: log = descriptor 2 (")]
    assert "/dev/log" in line


# -- who is there, where no variable says so ------------------------------------------

INET = [
    (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    (socket.AF_INET6, "::1", "::1"),
    (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
]


@pytest.mark.parametrize(("family", "address", "shown"), INET)
def test_the_kernel_says_who_is_there(
    home: Home, family: socket.AddressFamily, address: str, shown: str
) -> None:
    """For the log and for Received; `by` is me.  It gives no right and no variable."""
    for name in [name for name in home.environ if name.startswith("TCP")] + ["PROTO"]:
        del home.environ[name]
    home.environ["QMAILQUEUE"] = home.script(
        'env | grep -E "^(TCP|RELAY)" >"$SPOOL/variables"; exec "$ORACLE"\n'
    )
    home.environ["ORACLE"] = str(Path(__file__).parent / "programs/oracle")
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client:
            served, _ = listener.accept()
            with tempfile.TemporaryFile() as log, served:
                fd = served.fileno()
                process = subprocess.Popen(
                    [BIN / "qsmtpd"], stdin=fd, stdout=fd, stderr=log, env=home.environ
                )
                served.close()
                client.sendall(
                    b"MAIL FROM:<a@b>\r\nRCPT TO:<x@no.example>\r\nRCPT TO:<x@ok.example>\r\n"
                    b"DATA\r\nx\r\n.\r\nQUIT\r\n"
                )
                client.shutdown(socket.SHUT_WR)
                said = b"".join(iter(lambda: client.recv(9999), b""))
                assert process.wait(PATIENCE) == 0
                log.seek(0)
                session = parse_log(log.read().decode().splitlines()[-1])
            assert session["ip"] == session["local_ip"] == shown
            assert session["port"] == str(client.getsockname()[1])
            assert session["local_port"] == str(listener.getsockname()[1])
    assert b"553 " in said
    (message,) = home.messages()
    first, second, *_ = message.text.splitlines()
    assert b"unknown" in first and f"({shown})".encode() in first
    assert second.startswith(b"  by mx.example with ")
    assert (home.spool / "variables").read_text() == ""


def test_a_socket_of_no_network_and_no_socket() -> None:
    first, second = socket.socketpair()
    reader, writer = os.pipe()
    with first, second:
        for fd in (first.fileno(), reader):
            peer = read_peer({}, fd)
            assert (peer.ip, peer.port, peer.local_ip) == (b"unknown", None, None)
    with socket.socket() as listener:  # inetd's `wait`: nobody is there
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert read_peer({}, listener.fileno()).ip == b"unknown"
    for fd in (reader, writer):
        os.close(fd)


def test_a_variable_goes_before_the_kernel() -> None:
    """Also one that says no address: a proxy stands in between."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as client:
        for name in (b"TCPREMOTEIP", b"REMOTE_HOST", b"SOCAT_PEERADDR"):
            assert read_peer({name: b"192.0.2.7"}, client.fileno()).ip == b"192.0.2.7"
            assert read_peer({name: b"nonsense"}, client.fileno()).ip == b"unknown"
        assert read_peer({}, client.fileno()).ip == b"127.0.0.1"
        assert client.getpeername()  # it is open still, and as it was


# -- one socket on 1 and 2 that is nobody's client: systemd's journal, or 2>&1 -----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("qsmtpd", ["--nonsense"], b"unknown argument"),
        ("qsmtpd-server", ["a..b", "25"], b"a..b"),
        ("qsmtpd-checkpassword", ["--add"], b"usage"),
        ("qsmtpd-maildir", ["--nonsense"], b"QSMTPD_MAILDIR"),
        ("qsmtpd-qmqpc", ["--nonsense"], b"unknown argument"),
        ("starttls-probe", ["--nonsense"], b"usage"),
    ],
)
def test_only_who_has_a_client_keeps_still(
    home: Home, program: str, arguments: list[str], says: bytes
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command: Command = [BIN / program, *arguments]
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=theirs.fileno(),
            stderr=theirs.fileno(),
            env=home.environ,
            timeout=PATIENCE,
            check=False,
        )
        theirs.close()
        said = b"".join(iter(lambda: ours.recv(65536), b""))
    assert says in said


def test_the_log_of_a_server_goes_to_the_journal(home: Home) -> None:
    """As systemd starts it: /dev/null on 0, one socket on 1 and 2."""
    ours, theirs = socket.socketpair()
    command: Command = [BIN / "qsmtpd-server", "-1vHRl", "mx.example", "127.0.0.1", "0"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=theirs.fileno(),
        stderr=theirs.fileno(),
        env=home.environ,
    )
    theirs.close()
    with ours, ours.makefile("rb") as lines:
        port = next(int(line) for line in lines if line.strip().isdigit())
        with Client.connect(port) as client:
            client.reply()
            client.quit()
        assert any(b"event=session" in line for line in lines)
        process.terminate()
        assert process.wait(PATIENCE) == 0
