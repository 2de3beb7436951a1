"""TERM, INT and HUP in the middle of a session; waits of any length; what signals a parent left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from child import Child, Command
from client import PATIENCE
from harness import BIN, ROOT, Home, Variables, wait_for
from listeners import Server
from run import Run

from qsmtpd import waits
from qsmtpd.net import sockets
from qsmtpd.server import worker

pytestmark = pytest.mark.slow

LAST = b"421 shutting down, try again later (#4.3.2)"
IN_DATA = (b"MAIL FROM:<a@b>", b"RCPT TO:<x@ok.example>", b"DATA")
#: It has message and envelope, says so, and waits to be told to go on.
AT_WORK = 'cat >/dev/null; cat <&1 >/dev/null; echo $$ >"$SPOOL/at-work"; read go <"$SPOOL/go"\n'


def begin(home: Home, *commands: bytes, over: str = "socket", **environ: Any) -> Child:
    """A session after these commands."""
    talk = home.talk(over=over, **environ)
    assert talk.reply().startswith(b"220 ")
    if commands:
        talk.ask(*commands)
    return talk


def shut_down(run: Run, said: list[bytes]) -> None:
    """It has ended so, with this said and no more."""
    assert run.lines == said
    assert run.status == 1
    session = run.event("session")
    assert session["end"] == "shutdown"
    assert session.get("reply", "").encode() == (LAST if said else b"")
    assert run.children == []


@pytest.mark.parametrize("over", ["socket", "pipe"])
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_between_commands(home: Home, name: str, over: str) -> None:
    talk = begin(home, over=over)
    os.kill(talk.pid, getattr(signal, "SIG" + name))
    shut_down(talk.ended(), [LAST])


def test_term_and_hup_together_are_one_request(home: Home) -> None:
    """As systemd sends them (SendSIGHUP=)."""
    talk = begin(home)
    os.kill(talk.pid, signal.SIGTERM)
    os.kill(talk.pid, signal.SIGHUP)
    shut_down(talk.ended(), [LAST])


def test_in_a_message(home: Home) -> None:
    talk = begin(home, *IN_DATA)
    assert talk.send_each(b"x\r\n")
    os.kill(talk.pid, signal.SIGTERM)
    run = talk.ended()
    shut_down(run, [LAST])
    assert run.event("message")["verdict"] == "aborted"
    assert home.messages() == []


@pytest.fixture
def at_work(home: Home) -> Child:
    """A session whose queue program has all of the message; RSET and QUIT have been sent, too."""
    os.mkfifo(home.spool / "go")
    talk = begin(home, *IN_DATA, QMAILQUEUE=home.script(AT_WORK))
    talk.send(b"x\r\n.\r\nRSET\r\nQUIT\r\n")
    wait_for(lambda: (home.spool / "at-work").exists())
    return talk


def test_the_verdict_is_awaited_logged_and_told(home: Home, at_work: Child) -> None:
    """And no new command is looked at, though it has come."""
    os.kill(at_work.pid, signal.SIGTERM)
    (home.spool / "go").write_text("\n")
    run = at_work.ended()
    assert run.lines[0].startswith(b"250 ok ")
    assert run.lines[1:] == [LAST]
    assert run.event("message")["verdict"] == "accepted"
    session = run.event("session")
    assert (session["end"], session["messages"]) == ("shutdown", "1")


def test_the_verdict_is_awaited_within_its_bound(home: Home) -> None:
    os.mkfifo(home.spool / "go")
    talk = begin(home, *IN_DATA, QMAILQUEUE=home.script(AT_WORK), QUEUETIMEOUT="1")
    talk.send(b"x\r\n.\r\n")
    # It never is where it was stopped until its time was over.
    wait_for(lambda: (home.spool / "at-work").exists() or "event=message" in talk.log())
    os.kill(talk.pid, signal.SIGTERM)
    run = talk.ended()
    assert run.lines == [b"451 qq timeout (#4.3.0)", LAST]
    assert "ambiguous" in run.event("message")
    assert run.event("session")["end"] == "shutdown"


@pytest.mark.parametrize("again", ["TERM", "INT"])
def test_a_second_one_ends_it_at_once(home: Home, at_work: Child, again: str) -> None:
    os.kill(at_work.pid, signal.SIGTERM)
    status = Path(f"/proc/{at_work.pid}/status")
    # Its handler is gone once the first one has been seen.
    wait_for(lambda: f"{1 << signal.SIGTERM - 1:016x}" not in caught(status))
    os.kill(at_work.pid, getattr(signal, "SIG" + again))
    assert at_work.process.wait(PATIENCE) == -getattr(signal, "SIG" + again)
    (home.spool / "go").write_text("\n")
    at_work.ended()


def caught(status: Path) -> str:
    """The mask of the signals that it handles, of these three alone."""
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("SigCgt:")]
    return f"{int(line.split()[1], 16) & 1 << signal.SIGTERM - 1:016x}"


def test_a_queue_program_that_takes_nothing(home: Home) -> None:
    """It cannot have the whole message: it is ended."""
    talk = begin(home, *IN_DATA, QMAILQUEUE=home.script("exec sleep 1000\n"))
    talk.socket.settimeout(0.2)  # type: ignore[union-attr]
    with pytest.raises(TimeoutError):  # when all on the way is full
        while talk.send(b"x" * 70 + b"\r\n"):
            pass
    talk.socket.settimeout(PATIENCE)  # type: ignore[union-attr]
    os.kill(talk.pid, signal.SIGTERM)
    run = talk.ended()
    assert run.lines == [LAST]
    assert run.event("message")["verdict"] == "aborted"
    assert run.children == []


def test_a_client_that_does_not_read(home: Home) -> None:
    """It has some seconds for it."""
    talk = begin(home, MAXJUNK="99999999")
    talk.socket.settimeout(0.5)  # type: ignore[union-attr]
    with pytest.raises(TimeoutError):
        while talk.send(b"HELP\r\n" * 1000):
            pass
    os.kill(talk.pid, signal.SIGTERM)
    assert talk.process.wait(PATIENCE) == 1
    assert "end=shutdown" in talk.log()


def test_the_checkpassword_program(home: Home) -> None:
    """It is ended, and nobody is let in."""
    program = home.script('echo $$ >"$SPOOL/at-work"; exec sleep 1000\n')
    talk = home.talk(program, "true", SMTPAUTH="", AUTHCLEAR="1")
    assert talk.reply().startswith(b"220 ")
    talk.send(b"AUTH PLAIN AGpvZQBzZWNyZXQ=\r\n")
    wait_for(lambda: (home.spool / "at-work").exists())
    os.kill(talk.pid, signal.SIGTERM)
    shut_down(talk.ended(), [LAST])


@pytest.mark.parametrize(
    "setting", [{"ERRORDELAY": "1000", "SOFTERRORS": "0"}, {"GREETDELAY": "60"}], ids=str
)
def test_a_delay_is_cut_short(home: Home, setting: Variables) -> None:
    talk = home.talk(**setting)
    talk.send(b"X\r\nX\r\n" if "ERRORDELAY" in setting else b"")
    wait_for(lambda: "S (sleeping)" in Path(f"/proc/{talk.pid}/status").read_text())
    wait_for(lambda: caught(Path(f"/proc/{talk.pid}/status")) != "0" * 16)
    os.kill(talk.pid, signal.SIGTERM)
    assert talk.ended().lines[-1] == LAST


@pytest.mark.parametrize("data", [False, True])
def test_inside_tls(inside: Home, data: bool) -> None:
    """It is said there, with close_notify behind it."""
    talk = begin(inside)
    talk.starttls()
    assert talk.ask(*IN_DATA if data else (b"NOOP",))  # and so the server is there, too
    os.kill(talk.pid, signal.SIGTERM)
    assert talk.reply() == LAST
    run = talk.ended()
    assert run.event("session")["end"] == "shutdown"


@pytest.mark.parametrize("implicit", [False, True])
def test_in_the_handshake_nothing_is_said(inside: Home, implicit: bool) -> None:
    talk = inside.talk(QSMTPD_TLS="implicit") if implicit else begin(inside, b"STARTTLS")
    if implicit:
        talk.send_each(b"\x16")
    os.kill(talk.pid, signal.SIGTERM)
    shut_down(talk.ended(), [])


def test_at_any_moment(home: Home) -> None:
    """Before it is ready for it, TERM just ends it; and never is one missed."""
    for step in range(40):
        talk = home.talk()
        time.sleep(step * 0.003)
        os.kill(talk.pid, signal.SIGTERM)
        run = talk.ended()
        assert run.status in (-signal.SIGTERM, 1)
        assert run.status != 1 or run.lines[-1] == LAST


# -- a process of qsmtpd-server ------------------------------------------------

WAYS = pytest.mark.parametrize("options", [(), ("--sessions", "9")], ids=["one", "several"])


@WAYS
def test_a_worker_with_a_session(home: Home, options: tuple[str, ...]) -> None:
    with Server(home, "--spare", "0", *options) as server, server.client() as client:
        client.reply()
        client.ask(*IN_DATA)
        (pid,) = server.children()
        os.kill(pid, signal.SIGTERM)
        assert client.rest() == LAST + b"\r\n"
        wait_for(lambda: server.events("session"))
        assert server.events("message")[0]["verdict"] == "aborted"
        assert server.events("session")[0]["end"] == "shutdown"
        wait_for(lambda: pid not in server.children())
        assert server.session(b"QUIT")[0].startswith(b"220 ")


@WAYS
def test_an_idle_worker_ends_at_once(home: Home, options: tuple[str, ...]) -> None:
    with Server(home, "--spare", "1", *options) as server:
        (pid,) = wait_for(server.children)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: pid not in server.children())
        assert server.session(b"QUIT")[0].startswith(b"220 ")


def test_a_signal_just_before_an_idle_worker_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler has nothing to interrupt: the end is noticed after the time of one wait."""
    monkeypatch.setattr(sockets, "PATIENCE", 0.05)
    master, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with master, control:
        sockets.patient(control)
        monkeypatch.setattr(waits, "_idle", None)
        late = threading.Timer(0.01, monkeypatch.setattr, (waits, "_requested", True))
        late.start()
        assert worker._receive(control) is None
        late.join()


# -- waits that are longer than a system call takes -----------------------------

LONG = "9" * 20


def test_no_time_is_too_long(inside: Home) -> None:
    """poll() takes at most 24 days, and counts in milliseconds."""
    names = (
        "TIMEOUTSMTPD SESSION_TIMEOUT TLSTIMEOUT QUEUETIMEOUT QUEUEWRITETIMEOUT AUTHTIMEOUT"
        " MINDATARATE AUTHDELAY ERRORDELAY"
    )
    times: Variables = dict.fromkeys(names.split(), LONG)
    talk = inside.talk(inside.script("exit 0\n"), "true", SMTPAUTH="", **times)
    talk.reply()
    talk.starttls()
    assert talk.ask(b"AUTH PLAIN AGpvZQBzZWNyZXQ=").startswith(b"235 ")
    assert talk.ask(*IN_DATA) == b"354 go ahead"
    talk.send(b"x\r\n.\r\n")
    assert talk.reply().startswith(b"250 ok ")
    run = talk.end()
    assert run.status == 0
    assert run.events("trouble") == []


@pytest.mark.parametrize("seconds", ["3000000", "99999999"])
def test_a_long_drain(home: Home, seconds: str) -> None:
    with Server(home, "--drain", seconds) as server, server.client() as client:
        client.reply()
        client.ask(b"MAIL FROM:<a@b>")
        server.signal(signal.SIGTERM)
        wait_for(lambda: len(server.children()) == 1)
        assert client.ask(b"NOOP") == b"250 ok"
        assert client.ask(b"RSET") == b"250 flushed"
        assert server.wait() == 0
    assert "Traceback" not in server.log()


def test_the_probe_waits_as_long(home: Home) -> None:
    with Server(home) as server:
        done = subprocess.run(
            [BIN / "starttls-probe", "--timeout", "9999999", f"127.0.0.1:{server.port}"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert "Traceback" not in done.stderr
    assert "no STARTTLS" in done.stdout or done.returncode in (0, 2, 3)


# -- what a parent has left ------------------------------------------------------

BLOCKS = """
import os, signal, sys
every = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
for number in every:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, every)
os.execv(sys.argv[1], sys.argv[1:])
"""


def masks(pid: int) -> dict[str, set[int]]:
    """The signals that a process blocks, and that it ignores."""
    return masks_of(Path(f"/proc/{pid}/status").read_text())


def masks_of(status: str) -> dict[str, set[int]]:
    """The same of what is in its file `status`."""
    found = {}
    for line in status.splitlines():
        name, _, value = line.partition(":\t")
        if name in ("SigBlk", "SigIgn"):
            # But 32 and 33, which are glibc's own: its posix_spawn() has them ignored.
            found[name] = {n for n in range(1, 65) if int(value, 16) >> n - 1 & 1} - {32, 33}
    return found


OURS = {"SigBlk": set(), "SigIgn": {signal.SIGPIPE, signal.SIGXFSZ}}
#: As qmail-smtpd's queue program has it.
QUEUES = {"SigBlk": set(), "SigIgn": {signal.SIGPIPE}}


def test_a_child_of_a_parent_that_blocks_and_ignores_all(home: Home) -> None:
    command: Command = [sys.executable, "-c", BLOCKS, BIN / "qsmtpd"]
    environ = {**home.environ, "QMAILQUEUE": home.script("exec cat >/dev/null\n")}
    talk = home.launch(command, environ)
    assert talk.reply().startswith(b"220 ")
    assert masks(talk.pid) == OURS
    talk.ask(*IN_DATA)
    (queue,) = talk.children()
    wait_for(lambda: "cat" in Path(f"/proc/{queue}/comm").read_text())
    assert masks(queue) == QUEUES
    os.kill(talk.pid, signal.SIGTERM)
    shut_down(talk.ended(), [LAST])


def test_a_server_of_such_a_parent(home: Home) -> None:
    """It goes on after as many sessions as it serves at a time, and TERM ends it."""
    with Server(home, "-c", "2", command=[sys.executable, "-c", BLOCKS]) as server:
        for _ in range(4):
            assert server.session(b"QUIT")[1].startswith(b"221 ")
        with server.client() as client:
            client.reply()
            for pid in (server.pid, *server.children()):
                wait_for(lambda pid=pid: masks(pid) == OURS)  # type: ignore[misc]
            client.quit()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_maildir_of_such_a_parent(home: Home) -> None:
    reader, writer = os.pipe()
    environ = {**home.environ, "QSMTPD_MAILDIR": str(home.path / "m")}
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKS, BIN / "qsmtpd-maildir"], stdin=reader, env=environ
    )
    wait_for(lambda: (home.path / "m/cur").exists())  # it waits for the message
    assert masks(process.pid) == OURS
    process.terminate()
    assert process.wait(PATIENCE) == -signal.SIGTERM
    for fd in (reader, writer):
        os.close(fd)


def test_whom_a_checkpassword_of_such_a_parent_becomes(home: Home) -> None:
    program = str(BIN / "qsmtpd-checkpassword")
    subprocess.run([program, "--add", "joe"], input=b"secret\n", env=home.environ, check=True)
    home.file("login", b"joe\0secret\0\0")
    shows = home.script('exec grep -E "^Sig(Blk|Ign)" /proc/self/status\n')
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" 3<login', sys.executable, "-c", BLOCKS, program, shows],
        cwd=home.path,
        env=home.environ,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert masks_of(done.stdout.decode()) == {"SigBlk": set(), "SigIgn": set()}


def test_a_plugins_timer_works_in_a_child_of_such_a_parent(home: Home) -> None:
    plugins = ROOT / "tests/plugins"
    home.control("plugins", f"{plugins}/misbehave.py at=mail how=doze timeout=1")
    talk = home.launch([sys.executable, "-c", BLOCKS, BIN / "qsmtpd"], home.environ)
    talk.reply()
    assert talk.ask(b"MAIL FROM:<a@b>").startswith(b"451 policy trouble")
    talk.end()
