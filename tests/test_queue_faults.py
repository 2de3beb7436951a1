"""Whatever the queue program does, only its exit 0 after reading everything is a 250.

Every fault is followed by a good message in the same session: no fault may cost
more than its own message, or leave a process or a descriptor behind.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child import Child, descriptors
from client import Client
from harness import BIN, PROGRAMS, ROOT, Home, Variables, wait_for
from listeners import Server

pytestmark = pytest.mark.slow

ORACLE = PROGRAMS / "oracle"
SMALL = b"Subject: x\r\n\r\nsmall\r\n"
#: More than a pipe holds, so that it cannot be sent to a program that does not read.
BIG = b"0123456789" * 7 + b"\r\n"
BIG *= 5000
#: So many recipients that their envelope is longer than a pipe holds.
MANY = [b"%b%d@ok.example" % (b"x" * 880, n) for n in range(200)]
TEMPORARY = b"451 qq temporary problem (#4.3.0)"
CRASHED = b"451 qq crashed (#4.3.0)"
TIMEOUT = b"451 qq timeout (#4.3.0)"
READ_ERROR = b"451 qq read error (#4.3.0)"
#: qsmtpd without the shell script that starts it, which would change the environment.
DIRECT = [
    str(BIN / "python3"),
    "-IS",
    str(ROOT / "qsmtpd/start/__main__.py"),
    "qsmtpd.main",
]


def start(home: Home, **environ: Any) -> Child:
    talk = home.talk(**environ)
    assert talk.reply() == b"220 mx.example ESMTP"
    return talk


Fault = Callable[..., tuple[bytes, dict[str, str]]]


@pytest.fixture(params=["cold", "warm"])
def fault(request: pytest.FixtureRequest) -> Fault:
    """(home, script, body, leaves, **environ): one message to a queue program that does this.

    The reply, and what the log says.  Then the program is healed, and the next message must be
    taken.  `leaves` is how many processes the program leaves behind on purpose.
    """
    return {"cold": in_one_session, "warm": in_one_process}[request.param]


def in_one_session(
    home: Home, script: str, body: bytes = SMALL, leaves: int = 0, **environ: Any
) -> tuple[bytes, dict[str, str]]:
    """The next message is of the same client."""
    program, healed = faulty_program(home, script)
    talk = start(home, QMAILQUEUE=program, **environ)
    before = talk.descriptors()
    reply = talk.deliver(body)
    assert talk.children() == []
    assert talk.descriptors() == before
    is_refused(home, reply)
    healed.touch()
    is_accepted(home, taken(home, talk, b"after\r\n"))
    run = talk.end(leaves=leaves)
    assert run.status == 0
    for pid in run.children:
        os.kill(pid, signal.SIGKILL)
    assert len(run.children) == leaves
    assert "event=trouble" not in run.log
    faulty, *_, _ = run.events("message")
    return reply, of(faulty, reply)


def in_one_process(
    home: Home, script: str, body: bytes = SMALL, leaves: int = 0, **environ: Any
) -> tuple[bytes, dict[str, str]]:
    """The next message is of another client of qsmtpd-server, in the same process."""
    program, healed = faulty_program(home, script)
    home.environ |= {"QMAILQUEUE": program, **environ}
    with Server(home, "-c", "1") as server:
        replies: list[bytes] = []
        for source in ("127.0.0.1", "127.0.0.2"):
            with server.client(source) as client:
                assert client.reply() == b"220 mx.example ESMTP"
                if not replies:
                    replies.append(client.deliver(body))
                else:
                    replies.append(taken(home, client, b"after\r\n"))
                (worker,) = server.children()
                assert not Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
                (is_refused if not healed.exists() else is_accepted)(home, replies[-1])
                healed.touch()
                assert client.ask(b"QUIT") == b"221 mx.example"
            wait_for(lambda: len(server.events("session")) == len(replies))
        assert {event["pid"] for event in server.events("session")} == {str(worker)}
        assert server.events("trouble") == []
        faulty, *_, good = server.events("message")
        assert good["ip"] == "127.0.0.2"
    # The process that served is one of them until it has ended.
    wait_for(lambda: len(started_for(program)) <= leaves)
    left = started_for(program)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == leaves
    return replies[0], of(faulty, replies[0])


def started_for(program: str) -> list[int]:
    """The processes that have this queue program in their environment."""
    everybody = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in everybody if program.encode() in environment(pid)]


def environment(pid: int) -> bytes:
    """Of a process, b"" where it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def taken(home: Home, client: Client, body: bytes) -> bytes:
    """The reply to a message that is to be taken.

    The limits are short, for the fault.  One strikes also where a program was stopped for so
    long, and then the client tries again.
    """
    for _ in range(3):
        if (reply := client.deliver(body)) != TIMEOUT:
            break
        home.clear()
    return reply


def faulty_program(home: Home, script: str) -> tuple[str, Path]:
    """(a queue program that does this, the file with which it is healed)"""
    healed = home.path / "healed"
    return home.script(f"[ -e {healed} ] && exec {ORACLE}\n{script}"), healed


def is_refused(home: Home, reply: bytes) -> None:
    assert home.messages() == []
    assert re.fullmatch(rb"[245]\d\d [ -~]{1,500}", reply)


def is_accepted(home: Home, reply: bytes) -> None:
    assert re.fullmatch(rb"250 ok \d+ qp \d+", reply)
    assert [m.body for m in home.messages()] == [b"after\n"]


def of(event: dict[str, str], reply: bytes) -> dict[str, str]:
    """The line in the log, which says the same as the reply."""
    assert event["reply"].removesuffix("...") == reply.decode()[:256]
    assert event["verdict"] == ("accepted" if reply.startswith(b"250") else "refused")
    return event


# -- exits and signals -----------------------------------------------------

PERMANENT = {*range(11, 41), 115}
TEXTS = {
    11: "envelope address too long for qq (#5.1.3)",
    115: "envelope address too long for qq (#5.1.3)",
    31: "mail server permanently rejected message (#5.3.0)",
    51: "qq out of memory (#4.3.0)",
    52: "qq timeout (#4.3.0)",
    53: "qq write error or disk full (#4.3.0)",
    54: "qq read error (#4.3.0)",
    55: "qq unable to read configuration (#4.3.0)",
    56: "qq trouble making network connection (#4.3.0)",
    61: "qq trouble in home directory (#4.3.0)",
    **dict.fromkeys(range(62, 67), "qq trouble creating files in queue (#4.3.0)"),
    71: "mail server temporarily rejected message (#4.3.0)",
    72: "connection to mail server timed out (#4.4.1)",
    73: "connection to mail server rejected (#4.4.1)",
    74: "communication with mail server failed (#4.4.2)",
    81: "qq internal bug (#4.3.0)",
    91: "qq internal bug (#4.3.0)",
    120: "unable to exec qq (#4.3.0)",
}


#: What the fields' queue programs mean by some of them.
CONTENT = "sorry, invalid message content%s (#5.3.2)"
NO_KEY = "Private key file does not exist (#5.3.5)"
MEANINGS: dict[str, dict[int, str]] = {
    "stock": {},
    "spamcontrol": dict.fromkeys((32, 33, 34), CONTENT % " no thanks"),
    "indimail": {
        32: "SPAM or junk mail threshold exceeded (#5.7.1)",
        33: "Message contains virus (#5.7.1)",
        34: "Message contains banned attachment (#5.7.1)",
        35: NO_KEY,
        50: "unable to set uid/gid (#4.3.0)",
        79: "qq Envelope format error (#4.3.0)",
        91: "qq Envelope format error (#4.3.0)",
    },
    "sagredo": {32: NO_KEY},
}


@pytest.mark.parametrize("exits", MEANINGS)
def test_whose_exit_codes(home: Home, exits: str) -> None:
    """Only a few differ, and none of them makes a yes of a no, or a 5xx of a 4xx."""
    program = home.script("code=$(sed -n 's/^code //p')\ncat <&1 >/dev/null\nexit $code\n")
    talk = start(home, QMAILQUEUE=program, QUEUEEXITS=exits, REPLY_CONTENT="no thanks")
    texts = {**TEXTS, **MEANINGS[exits]}
    for code in (11, 31, 32, 33, 34, 35, 36, 50, 51, 79, 81, 91):
        reply = talk.deliver(b"code %d\r\n" % code).decode()
        if code in PERMANENT:
            assert reply == "554 " + texts.get(code, "qq permanent problem (#5.3.0)")
        else:
            assert reply == "451 " + texts.get(code, "qq temporary problem (#4.3.0)")
    assert talk.end().status == 0
    assert home.messages() == []


@pytest.mark.parametrize(
    ("environ", "status", "reply"),
    [
        ({"QUEUEEXITS": "spamcontrol"}, 0, "554 " + CONTENT % ""),
        ({"QUEUEEXITS": "spamcontrol", "REPLY_CONTENT": ""}, 0, "554 " + CONTENT % ""),
        ({"REPLY_CONTENT": "x" * 301}, 0, "554 qq permanent problem (#5.3.0)"),
        ({"QUEUEEXITS": "spamcontrol", "REPLY_CONTENT": "x" * 301}, 1, None),
        ({"QUEUEEXITS": "spamcontrol", "REPLY_CONTENT": "no\r\n250 ok"}, 1, None),
        ({"QUEUEEXITS": "SPAMCONTROL"}, 1, None),
        ({"QUEUEEXITS": ""}, 1, None),
    ],
)
def test_exit_code_settings(home: Home, environ: Variables, status: int, reply: str | None) -> None:
    session = b"MAIL FROM:<>\r\nRCPT TO:<b@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n"
    program = home.script("cat >/dev/null; cat <&1 >/dev/null; exit 33\n")
    run = home.run(session, QMAILQUEUE=program, **environ)
    assert run.status == status
    if reply is None:
        assert run.lines == [b"421 unable to read controls (#4.3.0)"]
        assert run.event("control")["name"] in environ
    else:
        assert run.lines[-2] == reply.encode()


def test_every_exit_code(home: Home) -> None:
    program = home.script("code=$(sed -n 's/^code //p')\ncat <&1 >/dev/null\nexit $code\n")
    talk = start(home, QMAILQUEUE=program)
    before = talk.descriptors()
    for code in range(256):
        reply = talk.deliver(b"code %d\r\n" % code).decode()
        if code == 0:
            assert re.fullmatch(r"250 ok \d+ qp \d+", reply)
        elif code in PERMANENT:
            assert reply == "554 " + TEXTS.get(code, "qq permanent problem (#5.3.0)")
        else:
            assert reply == "451 " + TEXTS.get(code, "qq temporary problem (#4.3.0)")
        assert talk.children() == []
    assert talk.descriptors() == before
    run = talk.end()
    assert [m["exit"] for m in run.events("message")] == [str(code) for code in range(256)]
    assert run.children == []


POINTS = {
    "start": "",
    "mid-body": "head -c 100000 >/dev/null",
    "mid-envelope": "cat >/dev/null; head -c 5 <&1 >/dev/null",
    "before-exit": "cat >/dev/null; cat <&1 >/dev/null",
}


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM", "XFSZ", "ABRT"])
@pytest.mark.parametrize("point", POINTS)
def test_signal(home: Home, fault: Fault, name: str, point: str) -> None:
    script = f"ulimit -c 0; {POINTS[point]}\nkill -{name} $$\n"
    reply, log = fault(home, script, body=BIG)
    assert reply == CRASHED
    assert log["exit"] == f"signal {getattr(signal, 'SIG' + name).value}"


def test_killed_in_a_long_envelope(home: Home) -> None:
    program = home.script("cat >/dev/null; head -c 70000 <&1 >/dev/null\nkill -KILL $$\n")
    talk = start(home, QMAILQUEUE=program)
    talk.ask(b"MAIL FROM:<>", *(b"RCPT TO:<%b>" % recipient for recipient in MANY))
    assert talk.answers(b"DATA", b"x\r\n.") == [b"354 go ahead", CRASHED]
    assert talk.children() == []
    talk.end()


def test_file_size_limit(home: Home, fault: Fault) -> None:
    """Python ignores SIGXFSZ; a queue program that relies on it must not inherit that."""
    reply, _ = fault(home, f"ulimit -f 1\nexec cat >{home.path}/big\n", body=BIG)
    assert reply == CRASHED


# -- programs that do not read, or not all ---------------------------------


@pytest.mark.parametrize(
    "script",
    [
        "exit 0",
        "sleep 0.2; exit 0",
        "exec <&-; cat <&1 >/dev/null",
        "exec </dev/null; cat <&1 >/dev/null",
        "head -c 10 >/dev/null; exec <&-; cat <&1 >/dev/null",
        "cat >/dev/null",
        "cat >/dev/null; sleep 0.2",
        "exec >&-; cat >/dev/null",
        "exec >/dev/null; cat",
        "cat >/dev/null; head -c 19 <&1 >/dev/null",  # all but the last NUL
    ],
)
@pytest.mark.parametrize("body", [SMALL, BIG, BIG * 3], ids=["small", "big", "1 MB"])
def test_exit_0_without_reading_it_all(home: Home, fault: Fault, script: str, body: bytes) -> None:
    reply, log = fault(home, script + "\n", body)
    assert reply == READ_ERROR
    assert log["exit"] == "0, but did not read everything"


@pytest.mark.parametrize("close", ["exec <&-", "head -c 10 >/dev/null; exec <&-"])
@pytest.mark.parametrize("body", [SMALL, BIG], ids=["small", "big"])
def test_who_closes_the_message_is_given_no_envelope(home: Home, close: str, body: bytes) -> None:
    """It might queue what it has: it is to see that nobody has said who it is for."""
    closed, envelope = home.path / "closed", home.path / "envelope"
    program = home.script(f"{close}; touch {closed}; cat <&1 >{envelope}\n")
    talk = start(home, QMAILQUEUE=program)
    talk.ask(b"MAIL FROM:<>", b"RCPT TO:<b@ok.example>", b"DATA")
    talk.send(SMALL)
    wait_for(closed.exists)
    assert talk.ask(body + b".") == READ_ERROR
    assert envelope.read_bytes() == b""
    run = talk.end()
    assert float(run.event("message")["seconds"]) < 60
    assert run.children == []


def test_closes_the_message_and_goes_on(home: Home) -> None:
    """A pipe that nobody reads any more is not one that is full: it is not waited for."""
    closed = home.path / "closed"
    program = home.script(f"exec <&-; touch {closed}; exec sleep 1000\n")
    talk = start(home, QMAILQUEUE=program)
    talk.ask(b"MAIL FROM:<>", b"RCPT TO:<b@ok.example>", b"DATA")
    wait_for(closed.exists)
    assert talk.ask(BIG + b".") == CRASHED
    run = talk.end()
    assert float(run.event("message")["seconds"]) < 60  # ten for an end by itself, and no more
    assert run.children == []


def test_closes_the_envelope_and_goes_on(home: Home) -> None:
    """Nobody reads that: it is as one who does not."""
    program = home.script("exec >&-; cat >/dev/null; exec sleep 1000\n")
    talk = start(home, QMAILQUEUE=program, QUEUETIMEOUT="1")
    assert talk.deliver(SMALL) == TIMEOUT
    run = talk.end()
    assert 1 <= float(run.event("message")["seconds"]) < 60
    assert run.children == []


@pytest.mark.parametrize("body", [SMALL, BIG], ids=["small", "big"])
def test_exit_53_without_reading(home: Home, fault: Fault, body: bytes) -> None:
    """A program that gives up early says why."""
    assert fault(home, "exit 53\n", body)[0] == b"451 qq write error or disk full (#4.3.0)"


def test_never_reads_big(home: Home, fault: Fault) -> None:
    reply, log = fault(home, "sleep 1000\n", BIG, QUEUEWRITETIMEOUT="1")
    assert reply == TIMEOUT
    assert log["exit"] == "timeout"
    assert "ambiguous" not in log
    assert 1 <= float(log["seconds"]) < 60


def test_never_reads_small(home: Home, fault: Fault) -> None:
    reply, log = fault(home, "sleep 1000\n", SMALL, QUEUETIMEOUT="1")
    assert reply == TIMEOUT
    assert 1 <= float(log["seconds"]) < 60


def test_never_exits(home: Home, fault: Fault) -> None:
    """It has read the whole envelope: it may have queued the message, and the log says so."""
    script = "cat >/dev/null; cat <&1 >/dev/null; sleep 1000\n"
    reply, log = fault(home, script, QUEUETIMEOUT="1")
    assert reply == TIMEOUT
    assert log["exit"] == "timeout"
    assert log["ambiguous"] == "may be queued all the same"
    assert 1 <= float(log["seconds"]) < 60


def test_never_reads_a_long_envelope(home: Home) -> None:
    """The last NUL was never written, so nothing is ambiguous."""
    program = home.script("cat >/dev/null; sleep 1000\n")
    talk = start(home, QMAILQUEUE=program, QUEUEWRITETIMEOUT="1")
    talk.ask(b"MAIL FROM:<>", *(b"RCPT TO:<%b>" % recipient for recipient in MANY))
    assert talk.answers(b"DATA", b"x\r\n.") == [b"354 go ahead", TIMEOUT]
    run = talk.end()
    assert "ambiguous" not in run.event("message")
    assert run.children == []


def test_reads_slowly(home: Home) -> None:
    """What makes progress is not ended: no wait is as long as the limit, all together are."""
    slowly = "for i in 1 2 3 4 5 6; do head -c 50000; sleep 0.3; done; cat"
    program = home.script(f"{{ {slowly}; }} | {ORACLE}\n")
    talk = start(home, QMAILQUEUE=program, QUEUEWRITETIMEOUT="1")
    assert taken(home, talk, BIG).startswith(b"250 ok ")
    run = talk.end()
    assert float(run.events("message")[-1]["seconds"]) > 1
    assert [m.body for m in home.messages()] == [BIG.replace(b"\r\n", b"\n")]


@pytest.mark.parametrize(
    ("script", "body", "ambiguous"),
    [
        ("kill -STOP $$", BIG, False),
        ("cat >/dev/null; cat <&1 >/dev/null; kill -STOP $$", SMALL, True),
        ("trap '' TERM; sleep 1000 & wait; sleep 1000", BIG, False),
    ],
    ids=["stopped at start", "stopped before exit", "TERM ignored"],
)
def test_must_be_killed(
    home: Home, fault: Fault, script: str, body: bytes, ambiguous: bool
) -> None:
    reply, log = fault(home, script + "\n", body, QUEUEWRITETIMEOUT="1", QUEUETIMEOUT="1")
    assert reply == TIMEOUT
    assert ("ambiguous" in log) == ambiguous
    assert float(log["seconds"]) < 60


def test_leaves_its_process_group(home: Home) -> None:
    """It can hide from the signal to its group, and is ended all the same."""
    program = home.path / "hides"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, time\n"
        "os.setpgid(0, os.getpgid(os.getppid()))\n"
        "time.sleep(1000)\n"
    )
    program.chmod(0o755)
    talk = start(home, QMAILQUEUE=str(program), QUEUETIMEOUT="1")
    assert talk.deliver(SMALL) == TIMEOUT
    assert talk.children() == []
    assert talk.end().children == []


@pytest.mark.parametrize("after", ["data", "too big"])
def test_ignores_an_abort(home: Home, after: str) -> None:
    program = home.script("sleep 1000\n")
    talk = start(home, QMAILQUEUE=program, DATABYTES="10")
    if after == "too big":
        assert talk.deliver(SMALL).startswith(b"552 ")
        assert talk.children() == []
    else:
        talk.ask(b"MAIL FROM:<>", b"RCPT TO:<b@ok.example>", b"DATA")
        talk.send(b"x")
    run = talk.end(quit=after == "too big")
    assert run.children == []
    assert float(run.event("message")["seconds"]) < 60


# -- grandchildren ---------------------------------------------------------

HOLDS = "exec 3<&0; sleep 1000 <&3 &\nexec 3<&-\n"


@pytest.mark.parametrize("code", [0, 53])
@pytest.mark.parametrize("body", [SMALL, BIG], ids=["small", "big"])
def test_grandchild_holds_the_pipes(home: Home, fault: Fault, code: int, body: bytes) -> None:
    script = HOLDS + f"cat >/dev/null; cat <&1 >/dev/null; exit {code}\n"
    reply, log = fault(home, script, body, leaves=1)
    assert reply.startswith(b"250 ok " if code == 0 else b"451 qq write error")
    assert float(log["seconds"]) < 60


@pytest.mark.parametrize("body", [SMALL, BIG], ids=["small", "big"])
def test_grandchild_holds_the_pipes_unread(home: Home, fault: Fault, body: bytes) -> None:
    """The pipes still have a reader, who will never read: that is no yes."""
    reply, log = fault(home, HOLDS + "exit 0\n", body, leaves=1)
    assert reply == READ_ERROR
    assert float(log["seconds"]) < 60


def test_grandchild_is_ended_with_its_group(home: Home, fault: Fault) -> None:
    reply, _ = fault(home, HOLDS + "sleep 1000\n", BIG, QUEUEWRITETIMEOUT="1")
    assert reply == TIMEOUT


# -- the error descriptor --------------------------------------------------


@pytest.mark.parametrize(
    ("printf", "reply"),
    [
        ("Dno, not here (#5.7.1)", b"554 no, not here (#5.7.1)"),
        ("Zcome again", b"451 come again"),
        ("no prefix", b"451 no prefix"),
        ("Dno\\r\\n250 ok", b"554 no 250 ok"),
        ("Dno\\n\\n", b"554 no"),
        ("Da\\0b\\033[31m\\377c\\177", b"554 a b [31m c"),
        ("", TEMPORARY),
        ("D", TEMPORARY),
        ("Dx", TEMPORARY),
        ("D\\r\\n\\r\\n", TEMPORARY),
        ("Z\\200\\201\\202", TEMPORARY),
        ("\\r\\n\\r\\n", TEMPORARY),
    ],
)
def test_custom_text(home: Home, fault: Fault, printf: str, reply: bytes) -> None:
    script = f"cat >/dev/null; cat <&1 >/dev/null; printf '{printf}' >&6; exit 82\n"
    assert fault(home, script)[0] == reply


@pytest.mark.parametrize(
    ("environ", "fd", "code", "custom"),
    [
        ({}, 6, 82, True),
        ({}, 6, 88, False),
        ({}, 6, 31, False),
        ({}, 6, 0, False),
        ({"ERROR_FD": "4"}, 4, 82, True),
        ({"ERROR_FD": "4"}, 4, 88, True),
        ({"ERROR_FD": "4"}, 4, 71, False),
        ({"ERROR_FD": "2"}, 2, 82, True),
        ({"ERROR_FD": "2"}, 2, 88, True),
        ({"ERROR_FD": "9"}, 9, 82, True),
        # As many as the pipes themselves need: each may be in the way of another.
        *(({"ERROR_FD": f"{fd}"}, fd, 82, True) for fd in (3, 5, 7, 8)),
    ],
)
def test_error_descriptor(
    home: Home, fault: Fault, environ: Variables, fd: int, code: int, custom: bool
) -> None:
    script = f"cat >/dev/null; cat <&1 >/dev/null; echo Dtext >&{fd}; exit {code}\n"
    reply, log = fault(home, script, **environ)
    assert (reply == b"554 text") == custom
    assert log["exit"] == str(code)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_long_text(home: Home, fault: Fault, when: str) -> None:
    """1 MB: its beginning is the reply, and nobody waits for anybody."""
    read = "cat >/dev/null; cat <&1 >/dev/null"
    write = "head -c 1000000 /dev/zero | tr '\\0' D >&6"
    script = f"{write}; {read}" if when == "before" else f"{read}; {write}"
    reply, log = fault(home, script + "; exit 82\n", BIG)
    assert reply == b"554 " + b"D" * 254
    assert float(log["seconds"]) < 60


def test_a_text_in_pieces(home: Home, fault: Fault) -> None:
    script = "printf Dt >&6; cat >/dev/null; printf ex >&6; cat <&1 >/dev/null; printf t >&6\n"
    assert fault(home, script + "exit 82\n")[0] == b"554 text"


ENDLESS = "cat >/dev/null; cat <&1 >/dev/null\n"


def test_a_text_without_end(home: Home, fault: Fault) -> None:
    script = ENDLESS + "exec cat /dev/zero >&6\n"
    reply, log = fault(home, script, QUEUETIMEOUT="1")
    assert reply == TIMEOUT
    assert 1 <= float(log["seconds"]) < 60


def test_a_grandchild_writes_without_end(home: Home, fault: Fault) -> None:
    script = ENDLESS + "printf Dtext >&6; cat /dev/zero >&6 2>/dev/null &\nexit 82\n"
    reply, log = fault(home, script)
    assert reply.startswith(b"554 text")
    assert float(log["seconds"]) < 60


# -- programs that cannot be started ---------------------------------------


@pytest.mark.parametrize("kind", ["missing", "not executable", "directory", "bad", "busy", "text"])
def test_cannot_be_started(home: Home, kind: str) -> None:
    program = home.path / "program"
    busy = None
    if kind == "directory":
        program.mkdir()
    elif kind != "missing":
        text = {"bad": b"#!/no/such/interpreter\n", "text": b"no program\n"}
        program.write_bytes(text.get(kind, Path("/bin/true").read_bytes()))
        program.chmod(0o644 if kind == "not executable" else 0o755)
        if kind == "busy":
            busy = program.open("ab")
    talk = start(home, QMAILQUEUE=str(program))
    before = talk.descriptors()
    for _ in range(3):
        assert talk.deliver(SMALL) == b"451 unable to exec qq (#4.3.0)"
        assert talk.descriptors() == before
        assert talk.children() == []
    assert talk.ask(b"DATA") == b"503 MAIL first (#5.5.1)"
    # The session is none the worse, and another program would be taken.
    if busy is not None:
        busy.close()
    elif kind == "directory":
        program.rmdir()
    else:
        program.unlink(missing_ok=True)
    if kind != "busy":
        program.symlink_to(ORACLE)
        assert talk.deliver(SMALL).startswith(b"250 ok ")
    run = talk.end()
    assert run.status == 0
    first = run.events("message")[0]
    assert first["exit"]
    assert first["verdict"] == "refused"


def test_few_descriptors(home: Home) -> None:
    """With every number of descriptors: a message taken whole, or a 451, and nothing leaks."""
    talk = start(home)
    before = talk.descriptors()
    soft, hard = resource.prlimit(talk.pid, resource.RLIMIT_NOFILE)
    replies = set()
    taken = 0
    for limit in range(3, 20):
        resource.prlimit(talk.pid, resource.RLIMIT_NOFILE, (limit, hard))
        reply = talk.deliver(SMALL)
        resource.prlimit(talk.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert reply.startswith((b"250 ok ", b"451 "))
        assert b"(#4.3.0)" in reply or reply.startswith(b"250")
        replies.add(re.sub(rb"\d{5,}|qp \d+", b"N", reply))
        taken += reply.startswith(b"250")
        assert len(home.messages()) == taken
        assert talk.descriptors() == before
        assert talk.children() == []
    assert b"451 qqt failure (#4.3.0)" in replies
    assert taken > 0
    assert talk.deliver(SMALL).startswith(b"250 ok ")
    assert talk.end().status == 0


def test_no_process_to_be_had(home: Home) -> None:
    if shutil.which("prlimit") is None or shutil.which("setpriv") is None:
        pytest.skip("no prlimit or no setpriv")
    command = ["prlimit", "--nproc=0", *DIRECT]
    if os.geteuid() == 0:
        # The limit does not bind root: be somebody else, who may still read all files.
        dac = "+dac_override"
        become = ["--reuid=65534", "--clear-groups", f"--inh-caps={dac}", f"--ambient-caps={dac}"]
        command = ["setpriv", *become, *command]
    talk = home.launch(command, home.environ)
    assert talk.reply() == b"220 mx.example ESMTP"
    before = talk.descriptors()
    for _ in range(3):
        assert talk.deliver(SMALL) == b"451 qqt failure (#4.3.0)"
        assert talk.descriptors() == before
    run = talk.end()
    assert run.status == 0
    assert run.events("message")[0]["exit"] == "Resource temporarily unavailable"


# -- what the program inherits ---------------------------------------------


def test_ignored_sigchld(home: Home) -> None:
    """With it, the kernel would throw the exit status away."""
    ignore = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    program = "; os.execv(sys.argv[1], sys.argv[1:])"
    talk = home.launch([sys.executable, "-c", ignore + program, *DIRECT], home.environ)
    assert talk.reply() == b"220 mx.example ESMTP"
    assert talk.deliver(SMALL).startswith(b"250 ok ")
    assert talk.end().status == 0


def test_descriptors_and_signals(home: Home) -> None:
    # wc reads all of the message before it does anything else.
    wc = shutil.which("wc")
    talk = start(home, QMAILQUEUE=wc)
    talk.ask(b"MAIL FROM:<>", b"RCPT TO:<b@ok.example>", b"DATA")
    (pid,) = talk.children()
    fds = descriptors(pid)
    assert sorted(fds) == [0, 1, 2, 6]
    assert all(fds[fd].startswith("pipe:") for fd in (0, 1, 6))
    assert len({fds[fd] for fd in (0, 1, 6)}) == 3
    assert fds[2] == talk.descriptors()[2]
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"(?m)^SigBlk:\s*0+$", status)
    # SIGPIPE is ignored in it, as qmail-smtpd has it, and nothing else
    # (32 and 33 are the C library's own).
    (ignored,) = re.findall(r"(?m)^SigIgn:\s*([0-9a-f]+)$", status)
    assert int(ignored, 16) & ~(3 << 31) == 1 << (signal.SIGPIPE - 1)
    assert os.getpgid(pid) == pid
    # A client that hangs up: the program sees the end of its input at once, so no
    # other process holds the writing end of a pipe.
    run = talk.end(quit=False)
    assert run.event("message")["verdict"] == "aborted"
    assert float(run.event("message")["seconds"]) < 60
    assert run.children == []


def dumped(home: Home, environ: Variables, *commands: bytes, odd: str = "A=b") -> dict[str, str]:
    """The environment of the queue program."""
    dump = home.path / "environ"
    program = home.script(f"cat /proc/$$/environ >{dump}\nexec {ORACLE}\n")
    full = {**home.environ, "QMAILQUEUE": program, **environ}
    talk = home.launch(["env", odd, *DIRECT], full)
    assert talk.reply() == b"220 mx.example ESMTP"
    talk.ask(*(commands or (b"MAIL FROM:<a@no.example>", b"RCPT TO:<b@ok.example>")))
    assert talk.ask(b"DATA", b".").startswith(b"250 ok ")
    talk.end()
    entries = os.fsdecode(dump.read_bytes()).split("\0")[:-1]
    found = dict(entry.split("=", 1) for entry in entries)
    assert len(found) == len(entries)
    assert found.pop("QMAILQUEUE") == program
    return found


def test_environment(home: Home) -> None:
    kept = {"RELAYCLIENT": "", "HOME": "/x", "LDAP": "z", "MAILFROM": "old"}
    gone = {
        "LD_LIBRARY_PATH": "/no",
        "LD_DEBUG_OUTPUT": "/no",
        "PYTHONPATH": "/no",
        "PYTHONSTARTUP": "/no",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BASH_FUNC_cat%%": "() { :; }",
        "HARMLESS": "() { :;}; echo no",
        "SSL_CIPHER": "y",
        "SSLCTLFD": "3",
        "SSLREADFD": "4",
        "SSLWRITEFD": "5",
        "UCSPITLS": "1",
        "CERTFILE": "/no",
        "KEYFILE": "/no",
        "CERTFILE:x": "/no",
        "KEYFILE:x": "/no",
        "DHFILE": "/no",
        "CADIR": "/no",
    }
    found = dumped(home, {**kept, **gone})
    expected = {**home.environ, **kept, "A": "b"}
    del expected["QMAILQUEUE"]
    assert found == expected


def test_environment_with_a_nameless_variable(home: Home) -> None:
    """Such a thing exists, and posix_spawn() of Python will not have it."""
    found = dumped(home, {}, odd="=x")
    assert "" not in found
    assert found["PROTO"] == "TCP"


HOSTILE = [
    "() { :;}; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    ";touch pwned;",
    "a=b&c|d'g",
    "-oQ/tmp",
    "\x7f\x1b[31m",
    "\xff\xfe",
    "*?{a,b}~",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_spamcontrol_environment(home: Home, text: str) -> None:
    lines = (f"EHLO {text}", f"MAIL FROM:<{text}>", f"RCPT TO:<{text}@ok.example>", "NOOP")
    commands = [line.encode() for line in lines]
    plain = dumped(home, {}, *commands)
    assert not {"HELOHOST", "MAILFROM", "RCPTTO"} & set(plain)
    found = dumped(home, {"QUEUEENV": "spamcontrol"}, *commands)
    assert set(found) - set(plain) == {"HELOHOST", "MAILFROM", "RCPTTO", "QUEUEENV"}
    for name in ("HELOHOST", "MAILFROM", "RCPTTO"):
        assert re.fullmatch(r"[A-Za-z0-9.@%+/=:?\[\]-]+", found[name])
    assert found["RCPTTO"].endswith("@ok.example")
    assert len(home.messages()) == 2


def test_spamcontrol_many_recipients(home: Home) -> None:
    """Linux takes no such long variable: whole addresses, as many as fit."""
    commands = [b"MAIL FROM:<>", *(b"RCPT TO:<%b>" % recipient for recipient in MANY)]
    found = dumped(home, {"QUEUEENV": "spamcontrol"}, *commands)
    listed = found["RCPTTO"].encode().split(b" ")
    assert listed == MANY[: len(listed)]
    assert 100 < len(listed) < 200
    (message,) = home.messages()
    assert len(message.recipients) == 200


@pytest.mark.parametrize("number", ["2147484", "99999999999999999999"])
def test_no_limit_is_too_long(home: Home, number: str) -> None:
    """A clock that no system call understands is still only a long time."""
    names = ("QUEUETIMEOUT", "QUEUEWRITETIMEOUT", "TIMEOUTSMTPD", "SESSION_TIMEOUT")
    slow = home.script(f"sleep 0.2; exec {ORACLE}\n")
    talk = start(home, QMAILQUEUE=slow, **dict.fromkeys(names, number))
    assert talk.deliver(BIG).startswith(b"250 ok ")
    run = talk.end()
    assert run.status == 0
    assert "trouble" not in run.log
