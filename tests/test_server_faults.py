"""qsmtpd-server when things go wrong: killed processes, no descriptors, signals at work.

The names F01 to F10 are those of a catalogue of faults of pre-forking servers.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from certificates import Certificate
from child import Command
from client import PATIENCE, Client, client_context
from harness import BIN, Home, wait_for
from listeners import HANDS_OVER, Server, gone, mail, make_rules, patched
from ports import free_port
from tls_home import SERVER

pytestmark = pytest.mark.slow

SEVERAL = ("--sessions", "100")
ALONE = ("--sessions", "1")
each_way = pytest.mark.parametrize("options", [ALONE, ("--spare", "2"), SEVERAL], ids=str)


def cpu(pid: int) -> float:
    """The seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def refuses(port: int) -> bool:
    """Is nobody listening there?"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def worker_of(server: Server, client: Client) -> int:
    """The process that serves a client which has been greeted."""
    line = server.events("message")
    assert client.deliver().startswith(b"250 ")
    wait_for(lambda: len(server.events("message")) > len(line))
    return int(server.events("message")[-1]["pid"])


def in_data(client: Client) -> None:
    """As far as the middle of a message."""
    for command in (b"MAIL FROM:<a@b>", b"RCPT TO:<x@ok.example>", b"DATA"):
        assert client.ask(command)[:1] in b"23"
    client.send(b"Subject: x\r\n\r\nhalf")


# -- F01, F02, F03 ---------------------------------------------------------


@each_way
def test_f01_a_killed_worker(home: Home, options: tuple[str, ...]) -> None:
    with Server(home, *options) as server, server.client() as one, server.client() as other:
        for client in (one, other):
            assert client.reply().startswith(b"220 ")
        victim = worker_of(server, one)
        in_data(one)
        in_data(other)
        os.kill(victim, signal.SIGKILL)
        assert one.reply() == b""
        other.send(b"\r\n.\r\n")
        assert other.reply().startswith(b"250 ")
        wait_for(lambda: f"end {victim} status 9" in server.said())
        mail(server.port)
        assert len(home.messages()) == 3
        other.quit()


def test_f02_workers_that_die_unused(home: Home) -> None:
    """They are not forked again and again, and clients are served meanwhile."""
    with Server(home, "--spare", "1") as server:
        seen: set[int] = set()
        started = time.monotonic()
        while len(seen) < 5:
            wait_for(lambda: set(server.children()) - seen)
            for pid in server.children():
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
        # The waits between the five were 0.1, 0.2, 0.4 and 0.8 seconds.
        assert time.monotonic() - started > 1.4
        wait_for(lambda: server.log().count("died unused: status 9") == 5)
        mail(server.port)
        # A connection that is served ends the suspicion.
        wait_for(lambda: server.children())


def test_f02_a_dead_worker_that_cannot_be_reaped(home: Home) -> None:
    """As under strace: a tracer hears of its end first.  The master waits without looking."""
    seize, wait_all = 0x4206, 0x40000000  # PTRACE_SEIZE, __WALL
    with Server(home, "--spare", "1") as server:
        wait_for(server.children)
        (worker,) = server.children()
        if ctypes.CDLL(None, use_errno=True).ptrace(seize, worker, 0, 0) != 0:
            pytest.skip("may not trace")
        before = cpu(server.pid)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.children() not in ([], [worker]))  # the next one
        end = time.monotonic() + 1
        wait_for(lambda: time.monotonic() > end)
        assert cpu(server.pid) - before < 0.3
        mail(server.port)
        assert "died unused" not in server.log()
        os.waitpid(worker, wait_all)
        wait_for(lambda: f"process {worker} died unused: status 9" in server.log())


def test_a_listening_socket_that_somebody_has_shut_down(home: Home) -> None:
    """Who shares it can do that; poll() then returns at once."""
    environ = {k: v for k, v in home.environ.items() if k != "PROTO" and k[:3] != "TCP"}
    with socket.socket() as listener, (home.path / "log").open("wb") as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        handed = str(listener.fileno())
        server = subprocess.Popen(
            [sys.executable, "-c", HANDS_OVER, handed, BIN / "qsmtpd-server", "-H", "-", "-"],
            env=environ,
            pass_fds=[listener.fileno()],
            stderr=log,
        )
        try:
            mail(listener.getsockname()[1])
            before = cpu(server.pid)
            listener.shutdown(socket.SHUT_RDWR)
            wait_for(lambda: (home.path / "log").read_text().count("cannot accept: Invalid") >= 2)
            assert cpu(server.pid) - before < 0.3
        finally:
            server.terminate()
            assert server.wait(PATIENCE) == 0


def test_f03_no_descriptors(home: Home) -> None:
    """accept() that fails is not tried again at once, and it works when it can."""
    with Server(home) as server:
        mail(server.port)
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (5, hard))
        before = cpu(server.pid)
        with server.client() as client:
            wait_for(lambda: server.log().count("cannot accept: Too many open files") >= 3)
            assert cpu(server.pid) - before < 0.3
            # Meanwhile it handles signals and reaps.
            for pid in server.children():
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert client.reply().startswith(b"220 ")
            client.quit()


def test_no_descriptor_for_a_client_who_was_handed_over(home: Home) -> None:
    """It cannot be served, and that is in the log; the next one is."""
    with Server(home) as server:
        mail(server.port)
        wait_for(lambda: server.busy() == 0)
        (pid,) = server.children()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))
        with server.client() as client:
            client.reply()
            client.send(b"NOOP\r\n")
            assert client.rest() == b""
        (event,) = wait_for(lambda: server.events("trouble"))
        assert event["pid"] == str(pid) and "Too many open files" in str(event)
        wait_for(lambda: server.busy() == 0)
        mail(server.port)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_standard_descriptors_that_are_closed(home: Home, closed: str) -> None:
    """The listening socket does not take their place, so nobody takes it for the log."""
    port = free_port()
    command: Command = ["sh", "-c", f'exec "$@" {closed}', "sh", BIN / "qsmtpd-server", "-vH"]
    environ = {k: v for k, v in home.environ.items() if k != "PROTO" and k[:3] != "TCP"}
    server = subprocess.Popen(
        [*command, "127.0.0.1", str(port)], env=environ, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: not refuses(port))
        for _ in range(2):
            mail(port)
        before = cpu(server.pid)
        mail(port)
        assert cpu(server.pid) - before < 0.3
        assert len(home.messages()) == 3
        links = [os.readlink(f"/proc/{server.pid}/fd/{fd}") for fd in range(3)]
        assert not [link for link in links if link.startswith("socket:")]
    finally:
        server.terminate()
        assert server.wait(PATIENCE) == 0


@pytest.mark.parametrize("word", ["nonsense", ".-1", ""])
def test_a_process_that_makes_no_sense(home: Home, word: str) -> None:
    """Whatever it says to the master: that goes on, and has nothing more to do with it."""
    a_plugin(
        home,
        "import os, socket\n"
        "def disconnect(client):\n"
        " for fd in range(3, 20):\n"
        "  try: kind = os.readlink(f'/proc/self/fd/{fd}')\n"
        "  except OSError: continue\n"
        "  if kind[:7] != 'socket:': continue\n"
        "  it = socket.socket(fileno=os.dup(fd))\n"
        f"  if it.family == socket.AF_UNIX: it.send({word.encode()!r})\n"
        "  it.close()\n",
    )
    with Server(home, *SEVERAL, "-c", "1") as server:
        assert processes(server, 3) == 3
        wait_for(lambda: server.busy() == 0)
        assert not server.events("trouble")


# -- F04, F05: signals -----------------------------------------------------


@each_way
def test_f04_reload(home: Home, options: tuple[str, ...]) -> None:
    """HUP: running sessions go on as they began, new ones have everything new."""
    SERVER.save(home.control_dir / "servercert.pem")
    with Server(home, *options) as server, server.client() as old:
        assert old.reply() == b"220 mx.example ESMTP"
        in_data(old)
        home.control("me", "new.example")
        home.control("rcpthosts", "new.example")
        other = Certificate("new.example")
        other.save(home.control_dir / "servercert.pem")
        server.reload()
        old.send(b"\r\n.\r\n")
        assert old.reply().startswith(b"250 ")
        assert old.ask(b"MAIL FROM:<>") == b"250 ok"
        assert old.ask(b"RCPT TO:<x@ok.example>") == b"250 ok"
        for _ in range(3):
            with server.client() as new:
                assert new.reply() == b"220 new.example ESMTP"
                new.starttls()
                seen = new.tls.getpeercert(binary_form=True)
                assert seen is not None
                assert hashlib.sha256(seen).hexdigest() == other.fingerprint
                assert new.ask(b"MAIL FROM:<>") == b"250 ok"
                assert new.ask(b"RCPT TO:<x@ok.example>").startswith(b"553 ")
        assert old.ask(b"HELO x") == b"250 mx.example"


def test_f04_what_was_before_a_reload_is_let_go(home: Home) -> None:
    a_plugin(home, "BIG = [None] * 1_000_000\ndef reset(client): pass\n")  # 8 MB

    def size(server: Server) -> int:
        status = Path(f"/proc/{server.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    with Server(home) as server:
        server.reload()
        before = size(server)
        for _ in range(5):
            server.reload()
        assert size(server) - before < 20_000_000
        mail(server.port)


@each_way
def test_f05_terminate(home: Home, options: tuple[str, ...]) -> None:
    """Nobody new, who is there may finish, then the end."""
    with Server(home, "--drain", "60", *options) as server, server.client() as client:
        assert client.reply().startswith(b"220 ")
        in_data(client)
        server.signal(signal.SIGTERM)
        wait_for(lambda: refuses(server.port))
        wait_for(lambda: len(server.children()) == 1)  # the idle ones have gone
        client.send(b"\r\n.\r\n")
        assert client.reply().startswith(b"250 ")
        assert client.rest() == b"421 shutting down, try again later (#4.3.2)\r\n"
        assert server.wait() == 0
    assert len(home.messages()) == 1


@pytest.mark.parametrize("again", [False, True])
def test_f05_sessions_that_do_not_end(home: Home, again: bool) -> None:
    """They are ended after the bound, or at a second TERM."""
    # A process that is stopped when it is asked to end is not killed so soon.
    run = patched("master.GRACE = 60.0")
    with (
        Server(home, "--drain", "60" if again else "1", run=run) as server,
        server.client() as client,
    ):
        assert client.reply().startswith(b"220 ")
        in_data(client)
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        if again:
            wait_for(lambda: refuses(server.port))
            server.signal(signal.SIGTERM)
        assert client.reply() == b"421 shutting down, try again later (#4.3.2)"
        assert server.wait() == 0
        assert again or time.monotonic() - started >= 1
    assert not list(home.spool.glob("[0-9]*.message"))


# -- F06: nothing is carried over ------------------------------------------

LOGIN = b"AUTH PLAIN AGpvZQBzZWNyZXQ="


@pytest.fixture
def several(home: Home) -> Home:
    """Logins, and a rule that gives rights to one address and breaks a setting for another."""
    make_rules(
        home.path / "rules.cdb",
        '127.0.0.4:allow,RELAYCLIENT="",DATABYTES="1000"',
        '127.0.0.5:allow,DATABYTES="nonsense"',
        ":allow",
    )
    checker = Path(__file__).parent / "programs" / "checker"
    home.arguments = [str(checker), "true"]
    home.environ |= {"SMTPAUTH": "", "AUTHCLEAR": "1"}
    return home


ONE = (*SEVERAL, "--spare", "1", "-c", "1")  # so that one process serves all in turn


def test_f06_rights(several: Home) -> None:
    options = (*ONE, "-x", str(several.path / "rules.cdb"))
    with Server(several, *options) as server:

        def session(address: str, *commands: bytes) -> list[bytes]:
            with server.client(address) as client:
                assert client.reply().startswith(b"220 ")
                replies = [client.ask(command) for command in commands]
                client.quit()
            return replies

        relay = (b"MAIL FROM:<>", b"RCPT TO:<x@else.example>")
        refused = b"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
        assert session("127.0.0.1", *relay)[1] == refused
        assert session("127.0.0.1", b"EHLO x", LOGIN, *relay)[1:] == [
            b"235 ok, go ahead (#2.0.0)",
            b"250 ok",
            b"250 ok",
        ]
        assert session("127.0.0.1", *relay)[1] == refused
        assert session("127.0.0.4", *relay)[1] == b"250 ok"
        assert session("127.0.0.4", b"MAIL FROM:<> SIZE=1001")[0].startswith(b"552 ")
        assert session("127.0.0.1", b"MAIL FROM:<> SIZE=1001", relay[1]) == [b"250 ok", refused]
        # Half a transaction is nobody else's.
        session("127.0.0.4", *relay)
        assert session("127.0.0.1", relay[1], b"DATA") == [
            b"503 MAIL first (#5.5.1)",
            b"503 MAIL first (#5.5.1)",
        ]
        pids = {event["pid"] for event in server.events("session")}
        assert len(pids) == 1
        # No line of the log names somebody else.
        assert {e["ip"] for e in server.events("session")} == {"127.0.0.1", "127.0.0.4"}


def test_a_rule_that_sets_an_address_to_nonsense(several: Home) -> None:
    """Even bytes that are no text: the session knows what to do with that."""
    cdb = several.path / "rules.cdb"
    rule = b'127.0.0.2:allow,TCPREMOTEIP="\xff"\n'
    subprocess.run(["tcprules", cdb, several.path / "new"], input=rule, check=True)
    with Server(several, *ONE, "-x", str(cdb)) as server, server.client("127.0.0.2") as client:
        assert client.reply().startswith(b"220 ")
        client.quit()
        wait_for(lambda: server.events("session"))
        assert server.events("session")[0]["ip"] == "unknown"


def test_a_rule_that_is_longer_than_a_packet(several: Home) -> None:
    """It comes to the process whole, or to one that need not be sent it."""
    cdb = several.path / "rules.cdb"
    make_rules(cdb, f'127.0.0.2:allow,X="{"x" * 70_000}",DATABYTES="1"', ":allow")
    with Server(several, *ONE, "-x", str(cdb)) as server:
        for address, reply in (("1", b"250 "), ("2", b"552 "), ("2", b"552 "), ("1", b"250 ")):
            wait_for(server.children)
            with server.client("127.0.0." + address) as client:
                client.reply()
                assert client.ask(b"MAIL FROM:<> SIZE=2").startswith(reply)
                client.quit()


def test_a_status_line_is_no_longer_than_the_log_takes(several: Home) -> None:
    """A name from a rule may be of any length, and the log's pipe all but full."""
    cdb = several.path / "rules.cdb"
    make_rules(cdb, f'127.0.0.2:deny,TCPREMOTEHOST="{"x" * 100_000}"', ":allow")
    pipe, log = os.pipe()
    os.set_blocking(log, False)
    environ = {k: v for k, v in several.environ.items() if k != "PROTO" and k[:3] != "TCP"}
    command: Command = [BIN / "qsmtpd-server", "-1vH", "-x", cdb, "127.0.0.1", "0"]
    server = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=log)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        os.set_blocking(log, True)  # which it shares with the server
        with Client.connect(port, "127.0.0.2") as client:
            assert client.reply() == b""
        mail(port)
        assert max(map(len, os.read(pipe, 65536).splitlines())) < 4096
    finally:
        server.terminate()
        assert server.wait(PATIENCE) == 0
        os.close(pipe)
        os.close(log)


def test_f06_an_abnormal_end_is_the_end_of_the_process(several: Home) -> None:
    options = (*ONE, "-x", str(several.path / "rules.cdb"))
    with Server(several, *options) as server:
        for address, greeting in (("1", b"220 "), ("5", b"421 "), ("1", b"220 "), ("1", b"220 ")):
            with server.client("127.0.0." + address) as client:
                assert client.reply().startswith(greeting)
                if greeting == b"220 ":
                    client.quit()
        wait_for(lambda: len(server.events("session")) == 4)
        first, second, third, fourth = (event["pid"] for event in server.events("session"))
        assert first == second != third == fourth


def test_f06_so_many_sessions_and_no_more(home: Home) -> None:
    with Server(home, "--sessions", "3", "--spare", "0", "-c", "1") as server:
        for _ in range(7):
            mail(server.port)
        pids = [event["pid"] for event in server.events("message")]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def in_python(code: str) -> None:
    """Run it in a process of its own."""
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=PATIENCE)


def test_f06_the_process_itself() -> None:
    in_python(
        """
import os, signal
from qsmtpd.config.files import ControlFiles
from qsmtpd.server.worker import _ProcessState
os.umask(0o027); os.chdir("/")
before = _ProcessState(ControlFiles(b'/nonexistent'))
os.umask(0); os.chdir("/tmp")
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 1000)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
assert before.is_restored()
assert os.umask(0) == 0o027 and os.getcwd() == "/"
assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL == signal.getsignal(signal.SIGCHLD)
assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
"""
    )


@pytest.mark.parametrize("left", ["os.dup(0)", "os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '0')"])
def test_f06_what_is_left_over(left: str) -> None:
    """A descriptor or a process: then it is no good any more."""
    in_python(
        f"""
import os
from qsmtpd.config.files import ControlFiles
from qsmtpd.server.worker import _ProcessState
before = _ProcessState(ControlFiles(b'/nonexistent'))
assert before.is_restored()
{left}
assert not before.is_restored()
"""
    )


def a_plugin(home: Home, code: str) -> None:
    """It is the only one."""
    home.plugin("mine", "from qsmtpd.decision import *\n" + code)
    home.control("plugins", "mine")


def processes(server: Server, sessions: int) -> int:
    """How many processes have served so many sessions of one mail."""
    for _ in range(sessions):
        mail(server.port)
    wait_for(lambda: len(server.events("session")) == sessions)
    assert {event["end"] for event in server.events("session")} == {"quit"}
    return len({event["pid"] for event in server.events("session")})


@pytest.mark.parametrize("names", ["-h", "-H"])
def test_f06_files_that_qsmtpd_has_open(several: Home, names: str) -> None:
    """The cdb files of rules and of controls are no reason to give up a process."""
    cdb = several.path / "rules.cdb"
    make_rules(several.control_dir / "morercpthosts.cdb", "more.example:allow")
    with Server(several, *ONE, names, "-x", str(cdb)) as server:
        assert processes(server, 5) == 1
        # A new file: opened in its place.
        make_rules(cdb, '127.0.0.1:allow,DATABYTES="1"', ":allow")
        for _ in range(2):
            with server.client() as client:
                client.reply()
                assert client.ask(b"MAIL FROM:<> SIZE=2").startswith(b"552 ")
                assert client.ask(b"RCPT TO:<x@no.example>").startswith(b"503 ")
                client.quit()
        wait_for(lambda: len(server.events("session")) == 7)
        assert len({event["pid"] for event in server.events("session")}) == 1


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("class Plugin:\n def __init__(self, s): self.f = open('/dev/null')\n", 1),
        ("import os\nkept = []\ndef reset(client): kept.append(os.dup(2))", 3),
        ("import os\ndef reset(client): assert os.environ.setdefault('L', 'x' * 9) != 'old'", 1),
        (
            "import threading, time\n"
            "def reset(client): threading.Thread(target=time.sleep, args=(60,)).start()",
            3,
        ),
    ],
    ids=["cycle", "descriptor", "environment", "thread"],
)
def test_f06_what_a_plugin_leaves(home: Home, code: str, count: int) -> None:
    a_plugin(home, code + " def reset(self, client): pass" * code.startswith("class"))
    with Server(home, *ONE) as server:
        assert processes(server, 3) == count
        assert not server.events("trouble")


@pytest.mark.parametrize(
    "code",
    [
        "def reset(client): raise ValueError",
        "def deny(client, ruling): pass\ndef disconnect(client): 1 / 0",
        "def capabilities(client): return 5",
        "def ok(client, ruling): raise SystemExit",
    ],
)
def test_f06_a_plugin_in_trouble_is_the_end_of_the_process(home: Home, code: str) -> None:
    """Even if the client notices nothing, and ends the session by QUIT."""
    a_plugin(home, code)
    with Server(home, *ONE) as server:
        if "capabilities" in code:  # refused, so no mail
            for _ in range(3):
                with server.client() as client:
                    client.reply()
                    assert client.ask(b"EHLO x").startswith(b"451 ")
                    client.quit()
            wait_for(lambda: len(server.events("session")) == 3)
            assert len({event["pid"] for event in server.events("session")}) == 3
        else:
            assert processes(server, 3) == 3
        assert len(server.events("trouble")) >= 3


def test_f06_trouble_before_starttls(home: Home) -> None:
    """The session after it begins anew; the process is the same."""
    SERVER.save(home.control_dir / "servercert.pem")
    a_plugin(home, "def deny(client, ruling): 1 / 0")
    with Server(home, *ONE) as server:
        for _ in range(2):
            with server.client() as client:
                client.reply()
                assert client.ask(b"RCPT TO:<x@ok.example>").startswith(b"503 ")
                client.starttls()
                assert client.ask(b"QUIT").startswith(b"221 ")
        wait_for(lambda: len(server.events("session")) == 2)
        first, second = (event["pid"] for event in server.events("session"))
        assert first != second


def test_idle_processes_cost_no_time(home: Home) -> None:
    """What a rush has left waits, and is let go after a while; nobody looks all the time."""
    with Server(home, *SEVERAL, "--spare", "2", run=patched("pool.IDLE = 0.5")) as server:
        clients = [server.client() for _ in range(6)]
        for client in clients:
            assert client.reply().startswith(b"220 ")
        for client in clients:
            client.quit()
        before = cpu(server.pid)
        wait_for(lambda: len(server.children()) == 2)
        end = time.monotonic() + 1
        wait_for(lambda: time.monotonic() > end)
        assert len(server.children()) == 2
        assert cpu(server.pid) - before < 0.3
        mail(server.port)


# -- F07 (see also test_client_limit), F08 ---------------------------------


@each_way
def test_f08_counters_of_the_killed(home: Home, options: tuple[str, ...]) -> None:
    with Server(home, *options, "-C", "20", run=patched("listener.LOOPBACK = ()")) as server:
        for _ in range(3):
            clients = [server.client() for _ in range(20)]
            for client in clients:
                assert client.reply().startswith(b"220 ")
            for client in clients[:10]:  # the others are held
                assert client.ask(b"NOOP") == b"250 ok"
            with server.client() as client:
                assert client.reply().startswith(b"421 ")
            for pid in server.children():
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: server.busy() == 0)
            for client in clients:
                client.close()
            wait_for(lambda: len(server.events("session")) % 21 == 0)
        mail(server.port)


# -- F09, F10 --------------------------------------------------------------


@each_way
def test_f09_a_dead_master(home: Home, options: tuple[str, ...]) -> None:
    """The idle ones go at once; who serves finishes that session, and no other."""
    with Server(home, *options) as server, server.client() as client:
        assert client.reply().startswith(b"220 ")
        busy = worker_of(server, client)
        in_data(client)
        idle = [pid for pid in server.children() if pid != busy]
        server.signal(signal.SIGKILL)
        assert server.wait() == -9
        for pid in idle:
            wait_for(lambda pid=pid: gone(pid))  # type: ignore[misc]
        assert refuses(server.port)
        assert not gone(busy)
        client.send(b"\r\n.\r\n")
        assert client.reply().startswith(b"250 ")
        client.quit()
        wait_for(lambda: gone(busy))
    assert len(home.messages()) == 2


def server_random(port: int) -> bytes:
    """The random of a ServerHello (RFC 8446, 4.1.3), and what of it OpenSSL does not show."""
    with Client.connect(port) as client:
        client.reply()
        client.ask(b"STARTTLS")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        engine = client_context().wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            engine.do_handshake()
        client.send(outgoing.read())
        answer = b""
        while len(answer) < 43:
            answer += client.socket.recv(4096)
    assert answer[0] == 22 and answer[5] == 2
    return answer[11:43]


@pytest.mark.parametrize("options", [(), ("--spare", "2")], ids=str)
def test_f10_randomness(home: Home, options: tuple[str, ...]) -> None:
    """No two processes have the same state of OpenSSL's generator."""
    SERVER.save(home.control_dir / "servercert.pem")
    with Server(home, *options) as server:
        found = [server_random(server.port) for _ in range(6)]
        assert len(set(found)) == 6
        wait_for(lambda: len(server.events("tls")) == 6)
        assert len({event["pid"] for event in server.events("tls")}) == 6


def test_f10_descriptors(home: Home) -> None:
    """Of the master's nothing is left in a process that serves, nor of another client."""
    for options in (ALONE, ("--spare", "2", *ALONE), SEVERAL):
        with Server(home, *options) as server, server.client() as one, server.client() as other:
            for client in (one, other):
                assert client.reply().startswith(b"220 ")
            for client in (one, other):
                pid = worker_of(server, client)
                links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
                assert links.count("/dev/null") == 1
                assert links.count(str(home.path / "server.log")) == 2
                # That by which a signal wakes it; the client's; and where a control
                # socket is still of use, that.
                assert len({link for link in links if link.startswith("pipe:")}) == 1
                more = 1 if options == SEVERAL else 0
                assert len(links) == 6 + more, links
                assert sum(link.startswith("socket:") for link in links) == 1 + more
            one.quit()
            other.quit()


def test_500_idle_connections(home: Home) -> None:
    """They are held while mail flows."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1200:
        pytest.skip("too few descriptors")
    with Server(home, "-c", "600") as server:
        clients = []
        for _ in range(500):
            clients.append(server.client())
            assert clients[-1].reply().startswith(b"220 ")
        for _ in range(10):
            mail(server.port)
        for client in (clients[0], clients[-1]):
            assert client.deliver().startswith(b"250 ")
        for client in clients:
            client.close()
        wait_for(lambda: server.busy() == 0)
    assert len(home.messages()) == 12


def private_dirty(pid: int) -> int:
    """The memory that is a process's own (bytes)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def test_memory_of_idle_connections(home: Home) -> None:
    """Private to each; the limits have room for another build of Python."""

    def each(server: Server) -> int:
        return int(statistics.median(map(private_dirty, server.children())))

    with Server(home, "-c", "10") as server:
        clients = [server.client() for _ in range(10)]
        for client in clients:
            client.reply()
            client.ask(b"EHLO x")
        assert each(server) < 2_400_000
        for client in clients:
            client.close()
    SERVER.save(home.control_dir / "servercert.pem")
    with Server(home, "-c", "10") as server:
        clients = [server.client() for _ in range(10)]
        for client in clients:
            client.reply()
            client.starttls()
            client.ask(b"EHLO x")
        assert each(server) < 3_500_000
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("while True:\n    try:\n        time.sleep(9)\n    except BaseException: pass", "hangs"),
        ("os._exit(7)", "ends a process: status 1792"),
    ],
)
def test_f04_a_plugin_that_would_end_the_server(home: Home, code: str, said: str) -> None:
    """What HUP asks for is tried in a process of its own: the server serves on as before."""
    good = (
        "from qsmtpd.decision import DECLINED\ndef mail(client, envelope):\n    return DECLINED\n"
    )
    home.plugin("bad", good)
    home.control("plugins", "bad")
    start = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from qsmtpd.server import main, reload
reload.TRIAL_WAIT = 1.0
main.main(sys.argv[1:])
"""
    root = Path(__file__).parent.parent
    with Server(home, run=[sys.executable, "-c", start, root]) as server:
        mail(server.port)
        home.plugin("bad", f"import os, time\n{code}\n{good}")
        server.signal(signal.SIGHUP)
        mail(server.port)  # while it is tried
        wait_for(lambda: said in server.log())
        mail(server.port)
        assert "reading controls" not in server.log()
        home.plugin("bad", good + "\n")
        server.reload()
        mail(server.port)
