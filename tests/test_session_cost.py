"""What a session costs, counted: system calls, settings looked up.

Of all our processes; those of the queue program do not count, from the moment
when there is a process for it.  The clients wait for each reply.
"""

from __future__ import annotations

import re
import sys

import pytest
from client import Client
from harness import BIN, PROGRAMS, Home, needs, wait_for
from listeners import Server, make_rules
from syscalls import calls, connections, ours, strace

pytestmark = pytest.mark.slow

MESSAGE = b"Subject: x\r\n\r\n" + (b"x" * 62 + b"\r\n") * 16 + b"."
REFUSED = [b"EHLO me.example", b"MAIL FROM:<a@b.example>", b"RCPT TO:<x@no.example>", b"QUIT"]
ACCEPTED = [*REFUSED[:2], b"RCPT TO:<x@ok.example>", b"DATA", MESSAGE, b"QUIT"]
#: load -> what the client says; the maximum of system calls of a session in a process of
#: qsmtpd-server, and of a cold child beyond those of an interpreter that does nothing.  Of
#: the former there are 20, 28 and 64 (November 2026); a busy machine wakes a process more often.
LOADS = {
    "greeting, QUIT": ([b"QUIT"], 24, 320),
    "refused at RCPT": (REFUSED, 33, 335),
    "a message of 1 KB": (ACCEPTED, 75, 410),
}
#: The first sessions, at a time, so that there are processes for all others, are not counted;
#: of so many more the mean is.
FIRST, COUNTED = 3, 10


def talk(client: Client, commands: list[bytes]) -> None:
    assert client.reply() == b"220 mx.example ESMTP"
    *said, goodbye = client.answers(*commands)
    assert goodbye == b"221 mx.example"
    assert client.rest() == b""
    if said:
        assert said[-1].startswith((b"553 ", b"250 ok "))


@pytest.mark.parametrize("load", LOADS)
def test_system_calls_in_a_warm_process(home: Home, load: str) -> None:
    commands, limit, _ = LOADS[load]
    trace = home.path / "trace"
    traced = strace(needs("strace"), trace)
    with Server(home, "-Q", command=traced) as server:
        clients = [server.client() for _ in range(FIRST)]
        for client in clients:
            client.reply()
            client.ask(b"EHLO me.example")
        for client in clients:
            assert client.ask(b"QUIT") == b"221 mx.example"
            client.close()
        wait_for(lambda: len(server.events("session")) == FIRST)
        for _ in range(COUNTED + 1):
            with server.client() as client:
                talk(client, commands)
        server.signal(15)
        server.wait()
    assert len(home.messages()) == (COUNTED + 1 if commands is ACCEPTED else 0)
    lines = ours(trace, home.environ["QMAILQUEUE"])
    accepted = connections(lines)
    assert len(accepted) == FIRST + COUNTED + 1
    counted = calls(lines[accepted[FIRST] : accepted[FIRST + COUNTED]])
    assert len(counted) // COUNTED <= limit, "\n".join(calls(lines[accepted[-2] : accepted[-1]]))
    # Nothing is imported, and no control file is read or looked for.
    for line in counted:
        assert not re.search(r"\.(py|pyc|so)\"|/control/", line), line


@pytest.mark.parametrize("load", LOADS)
def test_system_calls_of_a_cold_child(home: Home, load: str) -> None:
    commands, _, limit = LOADS[load]
    counts = []
    for program in (f"{BIN}/python3 -IS -c pass", str(BIN / "qsmtpd")):
        trace = home.path / "trace"
        wrapper = home.script(f"exec {needs('strace')} -f -qq -o {trace} {program}\n")
        with home.launch([wrapper], home.environ) as child:
            if "qsmtpd" in program:
                talk(child, commands)
            else:
                child.rest()
            child.ended()
        counts.append(len(calls(ours(trace, home.environ["QMAILQUEUE"]))))
    bare, whole = counts
    assert whole - bare <= limit


def test_no_setting_is_looked_up_in_a_warm_session(home: Home) -> None:
    """With rules, which have plans of their own: those are made before a client comes."""
    looked_up = home.path / "looked up"
    rules = make_rules(home.path / "rules.cdb", '127.0.0.2:allow,DATABYTES="5000"', ":allow")
    counting = (sys.executable, PROGRAMS / "counts_lookups", looked_up)
    with Server(home, "-x", str(rules), run=counting) as server:
        made = looked_up.read_text()
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
            for commands, _, _ in LOADS.values():
                with server.client(source) as client:
                    talk(client, commands)
        sessions = len(server.events("session"))
    assert sessions == 9
    assert {line.split()[0] for line in made.splitlines()} == {str(server.pid)}
    assert "DATABYTES" in made
    assert looked_up.read_text() == made
