"""What plugins change in qsmtpd-server's processes: put back, or the process is used no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from client import PATIENCE
from harness import ROOT, Home, wait_for
from listeners import Server, mail

ONE = ("--sessions", "100", "-c", "1")  # so that one process serves all in turn

#: What is changed, and what is looked at before and after it was put back.
PUT_BACK = {
    "umask": ("os.umask(0)", "open('/proc/self/status').readlines()[1]"),
    "directory": ("os.chdir('/tmp')", "os.getcwd()"),
    "handler": (
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.getsignal(signal.SIGCHLD)",
    ),
    "mask": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [])",
    ),
    "alarm": ("signal.alarm(1000)", "signal.getitimer(signal.ITIMER_REAL)"),
    "virtual": (
        "signal.setitimer(signal.ITIMER_VIRTUAL, 1000)",
        "signal.getitimer(signal.ITIMER_VIRTUAL)",
    ),
    "profile": (
        "signal.setitimer(signal.ITIMER_PROF, 1000, 1)",
        "signal.getitimer(signal.ITIMER_PROF)",
    ),
    "wakeup": (
        "import asyncio; loop = asyncio.new_event_loop()\n"
        "loop.add_signal_handler(signal.SIGUSR1, print)\n"
        "loop.remove_signal_handler(signal.SIGUSR1); loop.close()",
        "signal.set_wakeup_fd(PIPE, warn_on_full_buffer=False)",
    ),
    "limit": (
        "resource.setrlimit(resource.RLIMIT_NOFILE,"
        " (9, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
        "resource.getrlimit(resource.RLIMIT_NOFILE)",
    ),
    "environment": ("os.environ['PATH'] = 'x'; os.environ['NEW'] = 'y'", "dict(os.environ)"),
    "time zone": ("os.environ['TZ'] = 'XYZ-3'; time.tzset()", "time.localtime(0).tm_hour"),
    "locale": ("locale.setlocale(locale.LC_ALL, 'C')", "locale.setlocale(locale.LC_ALL)"),
    "sockets": ("socket.setdefaulttimeout(1)", "socket.getdefaulttimeout()"),
    "collector": ("gc.disable(); gc.set_threshold(1)", "gc.isenabled(), gc.get_threshold()"),
    "stream": ("sys.stdout = None", "type(sys.stdout)"),
    "trace": ("sys.settrace(lambda *_: None)", "sys.gettrace()"),
    "profiler": ("sys.setprofile(lambda *_: None)", "sys.getprofile()"),
}
#: What cannot be put back, and what it is called.
LEFT = {
    "nice": (
        "os.nice(1)\nif os.getuid() == 0: os.setresuid(65534, 65534, 65534)",
        ["nice", "user or groups"] if os.getuid() == 0 else ["nice"],
    ),
    "limit": (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99)); os.seteuid(65534)",
        ["limits (setrlimit)", "user or groups"],
    ),
    "thread": ("import threading; threading.Thread(target=input).start()", ["threads"]),
    "log": ("os.dup2(0, 2)", ["descriptors 0, 1 and 2"]),
    "input": ("os.close(0)", ["descriptors 0, 1 and 2"]),
}


def in_python(code: str) -> None:
    """Run it in a process of its own, whose input does not end."""
    head = """
import gc, locale, os, resource, signal, socket, sys, time
from qsmtpd.server.state import INTERPRETER, PROCESS, ProcessState, Standard
PIPE = os.pipe()[1]
os.set_blocking(PIPE, False)
signal.set_wakeup_fd(PIPE, warn_on_full_buffer=False)
locale.setlocale(locale.LC_ALL, "C.UTF-8")
"""
    end = "\nos._exit(0)\n"
    with subprocess.Popen(
        [sys.executable, "-c", head + code + end], stdin=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("what", PUT_BACK)
def test_put_back(what: str) -> None:
    change, look = PUT_BACK[what]
    in_python(f"""
before = ({look})
state = ProcessState(PROCESS + INTERPRETER)
assert state.restore() == []
{change}
assert ({look}) != before
{change}
assert state.restore() == []
assert ({look}) == before
""")


@pytest.mark.parametrize("what", LEFT)
def test_left(what: str) -> None:
    if "seteuid" in LEFT[what][0] and os.getuid() != 0:
        pytest.skip("not root")
    change, names = LEFT[what]
    in_python(f"""
state = ProcessState(PROCESS + INTERPRETER)
{change}
assert state.restore() == {names!r}, state.restore()
""")


def test_standard_descriptors() -> None:
    """Those of the master are put back, and whether they block."""
    in_python("""
before = [os.fstat(fd).st_ino for fd in range(3)]
state, standard = ProcessState(PROCESS), Standard()
os.dup2(1, 2), os.close(1), os.set_blocking(0, False)
assert state.restore() == ["descriptors 0, 1 and 2"]
standard.restore()
assert state.restore() == [] and os.get_blocking(0)
assert [os.fstat(fd).st_ino for fd in range(3)] == before
assert len(os.listdir("/proc/self/fd")) == 3 + 2 + 1  # the pipe, and the listing's own
""")


def a_plugin(home: Home, at_load: str, in_a_session: str = "pass") -> None:
    """It is the only one."""
    indented = "".join(f"    {line}\n" for line in in_a_session.splitlines())
    home.plugin(
        "mine",
        "import os, resource, signal, sys\nfrom qsmtpd.decision import *\n"
        f"{at_load}\ndef reset(client):\n{indented}\n",
    )
    home.control("plugins", "mine")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "count"),
    [
        ("signal.setitimer(signal.ITIMER_VIRTUAL, 0.05)", 1),
        ("signal.setitimer(signal.ITIMER_PROF, 0.05)", 1),
        ("os.dup2(os.open('/dev/null', os.O_WRONLY), 2)", 3),
        ("os.dup2(0, 2)", 3),
        ("os.dup2(0, 1)", 3),
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))", 1),
        ("for fd in range(3, 20):\n  try: os.dup2(0, fd)\n  except OSError: pass", 3),
    ],
)
def test_what_a_session_leaves(home: Home, change: str, count: int) -> None:
    """The next one has nothing of it, and each is logged."""
    if "range" in change:  # what it has open itself, and only that
        change = (
            "import socket\nfor fd in map(int, os.listdir('/proc/self/fd')):\n"
            "  try: kind = socket.socket(fileno=os.dup(fd)).family\n"
            "  except OSError: continue\n"
            "  if kind == socket.AF_UNIX: os.dup2(0, fd)"
        )
    a_plugin(home, "done = []", f"if done: return\ndone.append(1)\n{change}")
    with Server(home, *ONE) as server:
        for _ in range(3):
            mail(server.port)
        wait_for(lambda: server.busy() == 0)
        assert len(home.messages()) == 3
        ends = [line for line in server.said() if line.startswith("end ")]
        assert len({line.split()[1] for line in ends}) == count
        assert not server.events("trouble")


def size(pid: int) -> int:
    """The memory of a process (bytes)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


HEAVY = """
import os
from qsmtpd.decision import DECLINED
from typing import Optional

class _Fd:
    def __init__(self):
        self.fd = os.open("/dev/null", os.O_RDONLY)
    def __del__(self):
        os.close(self.fd)

class Plugin:
    BIG = bytearray(20_000_000)
    SMALL = [bytes(30) for _ in range(100_000)]
    ONE = open("/dev/null")
    OTHER = _Fd()
    def __init__(self, settings):
        pass
    def mail(self, client, envelope):
        return DECLINED

MAYBE = Optional[Plugin]
"""


@pytest.mark.slow
def test_old_plugins_are_let_go(home: Home) -> None:
    """20 MB and two descriptors in its class, and so many HUPs: no more than one or two of them."""
    home.plugin("mine", HEAVY)
    home.control("plugins", "mine")
    with Server(home, *ONE) as server:
        mail(server.port)
        sizes, files = [], []
        for _ in range(20):
            server.reload()
            sizes.append(size(server.pid))
            files.append(open_files(server.pid))
        mail(server.port)
        assert min(files[5:]) <= files[0]  # one may be of a process not yet reaped
        # malloc keeps what does not lie at the end: so it is not seen at once.
        assert max(sizes[5:]) - min(sizes[5:]) < 10_000_000
        assert max(sizes) - sizes[0] < 50_000_000


@pytest.mark.slow
def test_a_refused_reload_is_let_go(home: Home) -> None:
    """What was loaded in vain, and what goes on serving."""
    home.plugin("mine", HEAVY)
    home.control("plugins", "mine")
    with Server(home, *ONE) as server:
        mail(server.port)
        before, files = size(server.pid), open_files(server.pid)
        for number in range(10):
            # The trial, another process, has no fault to find.
            flag = home.path / "tried"
            home.plugin(
                "mine",
                HEAVY + f"if os.path.exists({str(flag)!r}): raise ValueError({number})\n"
                f"open({str(flag)!r}, 'w').close()\n",
            )
            flag.unlink(missing_ok=True)
            said = server.log().count("not read anew")
            server.signal(signal.SIGHUP)
            wait_for(lambda said=said: server.log().count("not read anew") > said)  # type: ignore[misc]
            mail(server.port)
        wait_for(lambda: open_files(server.pid) <= files)  # one may be of a process not yet reaped
        assert size(server.pid) - before < 50_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, signal.SIG_DFL)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.signal(signal.SIGHUP, lambda *_: 1)",
        "signal.set_wakeup_fd(-1)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))",
        "signal.signal(signal.SIGVTALRM, signal.SIG_DFL)\n"
        "signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)",
        "os.chdir('/')\nos.umask(0o777)",
        "os.dup2(0, 2)\nos.dup2(0, 1)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (6, 4096))",
    ],
)
def test_what_loading_changes(home: Home, change: str) -> None:
    """At the start and on HUP: the server serves, reaps, logs, reloads and ends as before."""
    if "NOFILE" in change:
        change = change.replace("4096", "resource.getrlimit(resource.RLIMIT_NOFILE)[1]")
    a_plugin(home, change)
    with Server(home, *ONE) as server:
        mail(server.port)
        server.reload()
        mail(server.port)
        wait_for(lambda: server.busy() == 0)
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
        mail(server.port)
        server.reload()
        mail(server.port)
        assert len(home.messages()) == 4
        assert os.readlink(f"/proc/{server.pid}/cwd") == str(home.path)
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "Umask:\t0022" in status.replace("Umask:\t0002", "Umask:\t0022")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "os.waitpid(-1, 0)"]
)
def test_a_plugin_that_takes_the_ends_of_processes(home: Home, change: str) -> None:
    """A worker that dies meanwhile is counted no more, although nobody can wait for it."""
    a_plugin(home, "")
    with Server(home, *ONE) as server, server.client() as client:
        assert client.reply().startswith(b"220 ")
        client.ask(b"NOOP")
        (worker,) = server.children()
        kill = f"os.kill({worker}, 9)\nwhile os.path.exists('/proc/{worker}/exe'): pass\n"
        only = f"if os.getppid() == {os.getpid()}:\n"
        indented = "".join(f"  {line}\n" for line in (change + "\n" + kill).splitlines())
        if "waitpid" in change:
            indented = "".join(f"  {line}\n" for line in (kill + change).splitlines())
        a_plugin(home, only + indented)
        server.reload()
        assert client.reply() == b""
        wait_for(lambda: server.busy() == 0)
        a_plugin(home, "")
        mail(server.port)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.slow
def test_what_cannot_be_put_back_is_refused(home: Home) -> None:
    """The trial of a HUP finds it; at the start, it is said."""
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()"
    a_plugin(home, "")
    with Server(home, *ONE) as server:
        a_plugin(home, thread)
        server.reload()
        assert "changes the server's threads when it is loaded; all is as read" in server.log()
        mail(server.port)
        assert Path(f"/proc/{server.pid}/status").read_text().count("Threads:\t1\n") == 1
    with Server(home, *ONE) as server:
        assert "warning: plugins: one of them changes the server's threads" in server.log()
        mail(server.port)


@pytest.mark.slow
def test_what_a_plugin_wants_for_itself(home: Home) -> None:
    """From when it is loaded until it is loaded no more: its variables, as in a cold child."""
    a_plugin(
        home,
        "os.environ['MINE'] = '1'",
        "open(os.environ['SPOOL'] + '/mine', 'a').write(os.environ.get('MINE', '-') + '\\n')",
    )
    with Server(home, *ONE) as server:
        mail(server.port)
        mail(server.port)
        source = (home.path / "plugins" / "mine.py").read_text()
        home.plugin("mine", source.replace("os.environ['MINE'] = '1'", ""))
        server.reload()
        mail(server.port)
        wait_for(lambda: server.busy() == 0)
        said = (home.spool / "mine").read_text().split()
        assert said[0] == "1" and said[-1] == "-" and set(said) == {"1", "-"}
