"""TERM, HUP, USR1 and KILL at every system call of a session, for its process and for the master.

No mail is lost or invented, none is stored and not logged, and the client hears a verdict or
the end. `make test` takes some of these points, `make long` all.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from client import PATIENCE
from harness import Home, needs, wait_for
from listeners import Server, gone, mail

pytestmark = pytest.mark.slow
SESSION = (
    b"EHLO me",
    b"MAIL FROM:<a@b.example>",
    b"RCPT TO:<x@ok.example>",
    b"DATA",
    b"Subject: x\r\n\r\nhi\r\n.",
    b"QUIT",
)
#: Where in the replies, of which the greeting is the first, the verdict is.
VERDICT = 5
#: The oracle, with time for a signal while it has the message and nobody its verdict.
SLOW = """
exec 3<&1
new=$SPOOL/new.$$
trap 'rm -f "$new.message" "$new.envelope"' EXIT
cat >"$new.message"
cat <&3 >"$new.envelope"
[ "$(tail -c 2 "$new.envelope" | od -An -tx1)" = " 00 00" ] || exit 54
sleep 0.05
mv "$new.message" "$SPOOL/$$.message" && mv "$new.envelope" "$SPOOL/$$.envelope"
"""
ONE = ("-c", "1", "--sessions", "100", "--drain", "20")
#: One in so many points; all by hand.
each_point = pytest.mark.parametrize(
    "step", [13, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
)


@pytest.fixture
def slow(home: Home) -> Home:
    home.environ["QMAILQUEUE"] = home.script(SLOW)
    return home


@contextmanager
def traced(pid: int, *options: str | Path) -> Iterator[None]:
    """strace has this process, and none of those that it starts."""
    with subprocess.Popen(
        [needs("strace"), "-p", str(pid), *options], stderr=subprocess.PIPE
    ) as tracer:
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        if b"attached" not in line:
            pytest.skip(f"may not trace: {line!r}")
        try:
            yield
        finally:
            tracer.terminate()
            tracer.stderr.read()
            tracer.wait(PATIENCE)


def points(home: Home, pid: int, server: Server) -> list[tuple[str, int]]:
    """The system calls of a process in a session: the name, and which one of this name it is."""
    trace = home.path / "trace"
    with traced(pid, "-o", trace):
        assert talk(server)[VERDICT].startswith(b"250 ")
        wait_for(lambda: server.busy() == 0)
    names = re.findall(r"(?m)^(\w+)\(", trace.read_text())
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append((name, seen[name]))
    return found


def talk(server: Server) -> list[bytes]:
    """A session with a message: what is heard, up to the end."""
    heard: list[bytes] = []
    try:
        with server.client() as client:
            heard.append(client.reply())
            for command in SESSION:
                if (
                    not heard[-1]
                    or heard[-1].startswith(b"421")
                    or not client.send(command + b"\r\n")
                ):
                    break
                heard.append(client.reply())
            client.rest()  # the end comes
    except ConnectionRefusedError:
        pass
    return [line for line in heard if line]


def programs(home: Home) -> list[str]:
    """The queue programs that are running."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if home.environ["QMAILQUEUE"].encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            pass
    return found


def worker(server: Server) -> int:
    """The only process, idle."""
    wait_for(lambda: server.busy() == 0 and len(server.children()) == 1)
    (pid,) = server.children()
    return pid


def check(home: Home, server: Server, heard: list[bytes], before: int, killed: bool) -> None:
    """What was heard, what is stored, and what is logged since then agree."""
    wait_for(lambda: not programs(home))
    stored = len(home.messages())
    log = server.log()[before:]
    verdict = heard[VERDICT] if len(heard) > VERDICT else b""
    accepted = log.count("event=message") and log.count("verdict=accepted")
    what = f"{heard} {stored} {log}"
    assert stored <= 1, what
    if verdict.startswith(b"250 "):
        assert stored == 1, what
    elif verdict and "ambiguous" not in log:
        assert stored == 0, what
    assert accepted <= stored, what
    if stored and not killed:
        assert accepted or "ambiguous" in log, what
    if not killed and heard:
        assert log.count("event=session") == 1, what
    assert "event=trouble" not in log, what


@each_point
@pytest.mark.parametrize("name", ["TERM", "HUP", "USR1", "KILL"])
def test_the_process_of_a_session(slow: Home, name: str, step: int) -> None:
    with Server(slow, *ONE) as server:
        mail(server.port)
        found = points(slow, worker(server), server)
        assert len(found) > 30
        for call, number in found[::step]:
            slow.clear()
            mail(server.port)  # the next one is served, whatever was
            pid = worker(server)
            slow.clear()
            before = len(server.log())
            with traced(pid, "-o", "/dev/null", f"-einject={call}:signal={name}:when={number}"):
                heard = talk(server)
                wait_for(lambda: server.busy() == 0)
            check(slow, server, heard, before, name == "KILL")
            log = server.log()[before:]
            assert heard or name == "KILL"
            if not heard or not heard[-1].startswith((b"221 ", b"421 ")):
                assert name == "KILL" and f"end {pid} status 9" in log, f"{heard} {log}"


@each_point
@pytest.mark.parametrize("name", ["TERM", "HUP", "KILL"])
def test_the_master(tmp_path: Path, name: str, step: int) -> None:
    def one(call: str = "", number: int = 0) -> list[tuple[str, int]]:
        path = tmp_path / f"{call}.{number}"
        path.mkdir()
        home = Home(path)
        home.environ["QMAILQUEUE"] = home.script(SLOW)
        with Server(home, *ONE) as server:
            mail(server.port)
            (pid,) = [worker(server)]
            if not call:
                return points(home, server.pid, server)
            home.clear()
            before = len(server.log())
            inject = f"-einject={call}:signal={name}:when={number}"
            with traced(server.pid, "-o", "/dev/null", inject):
                heard = talk(server)
                wait_for(lambda: gone(pid) or server.busy() == 0)
                # Whom it has greeted and holds, it has with it.
                held = name == "KILL" and len(heard) <= 1
                check(home, server, heard, before, killed=held)
            if heard and not held:
                assert heard[-1].startswith((b"221 ", b"421 ")), heard
            if name == "HUP":
                assert heard
                mail(server.port)
            elif gone(server.pid):
                assert server.wait() == (0 if name == "TERM" else -9)
                wait_for(lambda: gone(pid))
        return []

    found = one()
    assert len(found) > 5
    for call, number in found[:: (step + 3) // 4]:
        one(call, number)
