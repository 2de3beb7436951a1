"""The filter qmqpqueue: messages that go to a hub without a queue program, in whole sessions."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import PATIENCE
from daemons import Line
from harness import Home, wait_for
from hubs import ANSWERS, LARGE, NOTHING_THERE, Hub, closes_after, full, says, silent, take_request
from listeners import Server, make_rules, state, tcpserver
from netstrings import ns, split

pytestmark = pytest.mark.slow

__all__ = ["full"]

ENVELOPE = b"MAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\n"
TEXT = b"Subject: x\r\n\r\nhi\r\n"
MAIL = ENVELOPE + b"DATA\r\n" + TEXT + b".\r\n"
CHUNKED = ENVELOPE + b"BDAT 10\r\n" + TEXT[:10] + b"BDAT %d LAST\r\n" % (len(TEXT) - 10) + TEXT[10:]
QUIT = b"QUIT\r\n"
FAILED = b"451 communication with mail server failed (#4.4.2)"
NO_HUB = b"451 connection to mail server rejected (#4.4.1)"
#: Behind the three replies that a message of MAIL has before.
VERDICT = 3


@pytest.fixture
def oracle(home: Home) -> str:
    """The path of a queue program."""
    return home.environ["QMAILQUEUE"]


@pytest.fixture
def hub(home: Home, oracle: str) -> Iterator[Hub]:
    """One that takes all, and is the only one; there is no queue program."""
    home.environ.update(QMQPQUEUE="on")
    del home.environ["QMAILQUEUE"]
    with Hub() as hub:
        home.control("qmqpservers", hub.where)
        yield hub


def verdict(home: Home, session: bytes = MAIL, **environ: str) -> bytes:
    """The reply to a message of a session."""
    return home.run(session + QUIT, **environ).lines[-2]  # type: ignore[arg-type]


def handed(hub: Hub) -> tuple[bytes, bytes, list[bytes]]:
    """The only request: sender, text without our Received, recipients."""
    ((text, sender, *recipients),) = hub.taken
    assert text.startswith(b"Received: ")
    return sender, text[text.index(b"\nSubject") + 1 :], recipients


# -- sessions of every kind ------------------------------------------------------


@pytest.mark.parametrize("session", [MAIL, CHUNKED])
def test_a_message(home: Home, hub: Hub, session: bytes) -> None:
    hub.answer = ns(b"Kok 1795746571 qp 4711")
    run = home.run(session + QUIT)
    assert run.lines[-2].startswith(b"250 ok ")
    assert handed(hub) == (b"a@b", b"Subject: x\n\nhi\n", [b"x@ok.example"])
    (event,) = run.events("message")
    assert (event["verdict"], event["exit"], event["hub"]) == ("accepted", "0", hub.where)
    assert event["answer"] == "ok 1795746571 qp 4711"
    assert run.events("plugin") == []


def test_qmtp_and_qmqp(home: Home, hub: Hub) -> None:
    text = b"Subject: x\n\nhi\n"
    inner = ns(b"x@ok.example") + ns(b"y@ok.example")
    package = ns(b"\n" + text) + ns(b"a@b") + ns(inner)
    run = home.run(package, program="qsmtpd-qmtpd")
    assert [said[:3] for said in split(run.out)] == [b"Kok", b"Kok"]
    assert handed(hub) == (b"a@b", text, [b"x@ok.example", b"y@ok.example"])
    hub.taken.clear()
    hub.answer = ns(b"Dnever 5.1.1")
    package = ns(ns(text) + ns(b"") + ns(b"z@else.example"))
    run = home.run(package, program="qsmtpd-qmqpd", QMQPCLIENT="")
    assert split(run.out) == [b"Dnever 5.1.1"]
    assert handed(hub) == (b"", text, [b"z@else.example"])


@pytest.mark.parametrize("size", [65535, 65536, 65537, len(LARGE)])
def test_sizes(home: Home, hub: Hub, size: int) -> None:
    """In memory and in a file, of which nothing is left."""
    folder = home.path / "tmp"
    folder.mkdir()
    text = b"Subject: x\n\n" + LARGE[: size - 13] + b"\n"
    session = MAIL.replace(TEXT, text.replace(b"\n", b"\r\n"))
    assert verdict(home, session, TMPDIR=str(folder)).startswith(b"250 ")
    assert handed(hub)[1] == text
    assert list(folder.iterdir()) == []


#: What starts a program, and says then how much memory that took (KB).
MEASURED = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
print(os.wait4(pid, 0)[2].ru_maxrss)
"""


def test_memory_is_flat(home: Home, hub: Hub) -> None:
    """A message of 8 MB takes no more than one of 100 KB."""
    most = []
    for size in (100_000, len(LARGE)):
        text = TEXT + LARGE[:size].replace(b"\n", b"\r\n")
        session = home.path / "session"
        session.write_bytes(MAIL.replace(TEXT, text) + QUIT)
        with session.open("rb") as data:
            done = subprocess.run(
                [sys.executable, "-c", MEASURED, home.program("qsmtpd")],
                stdin=data,
                capture_output=True,
                env=home.environ,
                check=True,
            )
        most.append(int(done.stdout.split()[-1]))
    assert len(hub.taken) == 2 and most[1] - most[0] < 2048, most  # KB


# -- what an answer means --------------------------------------------------------

WORDS = {
    b"9:Znot now!,": b"451 not now!",
    b"1:Z,": b"451 mail server temporarily rejected message (#4.3.0)",
    b"6:Dnever,": b"554 never",
    b"2:D ,": b"554 mail server permanently rejected message (#5.3.0)",
    b"3:D \r,": b"554 mail server permanently rejected message (#5.3.0)",
    ns(b"D" + b"x" * 1000): b"554 " + b"x" * 254,
    ns(b"Z a\r\n250 \xffok  "): b"451 a 250 ok",
}


def test_answers(home: Home, hub: Hub) -> None:
    """As of qsmtpd-qmqpc; all in one session, and never one of another message."""
    expected = {answer: b"250 " if code == 0 else FAILED for answer, code in ANSWERS}
    expected |= {answer: b"554 " for answer, code in ANSWERS if code == 31}
    expected |= {answer: b"451 " for answer, code in ANSWERS if code == 71}
    expected |= WORDS
    answers = list(expected)

    def script(line: Line) -> None:
        hub.answer = answers[len(hub.taken)]
        hub._take(line)

    hub.script = script
    with Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        run = home.run(MAIL * len(answers) + QUIT)
    lines = run.lines[1:-1]
    for number, answer in enumerate(answers):
        assert lines[4 * number + VERDICT].startswith(expected[answer]), answer
    assert other.connections == 0 and len(hub.taken) == len(answers)
    for event, answer in zip(run.events("message"), answers, strict=True):
        accepted = expected[answer] == b"250 "
        assert event["verdict"] == ("accepted" if accepted else "refused")
        assert ("ambiguous" in event) == (expected[answer] == FAILED)


def test_an_answer_before_all_was_sent(home: Home, hub: Hub) -> None:
    """It is none where it says yes, and the message is not there."""
    large = MAIL.replace(TEXT, TEXT + LARGE.replace(b"\n", b"\r\n"))
    for answer, said in ((b"3:Kok,", FAILED), (b"6:Dnever,", b"554 never"), (b"x", FAILED)):
        hub.script = says(answer, 1)
        with Hub() as other:
            home.control("qmqpservers", hub.where, other.where)
            assert verdict(home, large) == said
            assert other.connections == 0


def test_never_two_hubs_with_one_message(home: Home, hub: Hub) -> None:
    """Wherever it closes, it may have it; all in one session."""
    assert verdict(home).startswith(b"250 ")
    whole = len(ns(b"".join(map(ns, hub.taken[0]))))
    numbers = [*range(1, whole, 9), whole]
    ends = iter(numbers)
    hub.script = lambda line: closes_after(next(ends))(line)
    with Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        run = home.run(MAIL * len(numbers) + QUIT)
        assert other.connections == 0
    assert run.lines[1:-1][VERDICT::4] == [FAILED] * len(numbers)
    (first, *_) = run.events("plugin")
    assert first["hub"] == hub.where and first["result"].startswith(f"fails after {whole} bytes: ")


# -- which hub -------------------------------------------------------------------


def test_the_next_hub_where_one_is_dead(home: Home, hub: Hub) -> None:
    home.control("qmqpservers", NOTHING_THERE, hub.where)
    run = home.run(MAIL + QUIT)
    assert run.lines[-2].startswith(b"250 ") and len(hub.taken) == 1
    (event,) = run.events("plugin")
    assert event["plugin"] == "qmqpqueue" and event["hub"] == NOTHING_THERE
    assert event["result"] == "cannot be reached: Connection refused"
    home.control("qmqpservers", NOTHING_THERE, "127.0.0.2:1")
    assert verdict(home) == NO_HUB


def test_a_silent_hub(home: Home, hub: Hub) -> None:
    """One deadline for all; the next is not asked, and the session goes on."""
    hub.script = silent
    with Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        run = home.run(MAIL + b"NOOP\r\n" + QUIT, QMQPCTIMEOUT="1")
        assert run.lines[-3:-1] == [FAILED, b"250 ok"]
        assert other.connections == 0
    assert "ambiguous" in run.events("message")[0]


def test_rotated(home: Home, hub: Hub) -> None:
    """All messages of a session are shared: of 40, one in 2^39 tests would send all to one."""
    with Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        assert verdict(home, MAIL * 3).startswith(b"250 ")
        assert (hub.connections, other.connections) == (3, 0)
        home.run(MAIL * 40 + QUIT, QMQPCORDER="rotated", MAXERRORS="0")
        assert hub.connections + other.connections == 43 and other.connections


# -- what goes nowhere -----------------------------------------------------------


def test_aborted_and_refused(home: Home, hub: Hub) -> None:
    """Nothing is sent before all of it is there, and taken."""
    cut = ENVELOPE + b"DATA\r\n" + TEXT
    assert home.run(cut).events("message")[0]["verdict"] == "aborted"
    home.run(CHUNKED[: CHUNKED.index(b"BDAT 8")] + b"RSET\r\n" + QUIT)
    assert verdict(home, MAIL, DATABYTES="3").startswith(b"552 ")
    assert b" 250 ok " in home.run(b"", "--explain", "to=x@ok.example").out
    assert hub.connections == 0


CHANGING = """
    from qsmtpd.decision import DECLINED, Changes, decline, discard

    class Plugin:
        spool = True
        def __init__(self, settings):
            pass
        def data_post(self, client, envelope, message):
            if envelope.sender == b"gone@b":
                return discard(b"not wanted")
            new = message.replacement()
            new.write(b"Subject: other\\n\\nthis\\n")
            return decline(changes=Changes(message=new, sender=b"s@b", recipients=[b"r@b", b"q@b"]))
"""


def test_changes_and_discard(home: Home, hub: Hub) -> None:
    home.plugin("changing", CHANGING)
    home.control("plugins", "changing")
    assert verdict(home).startswith(b"250 ")
    assert handed(hub) == (b"s@b", b"Subject: other\n\nthis\n", [b"r@b", b"q@b"])
    run = home.run(MAIL.replace(b"a@b", b"gone@b") + QUIT)
    assert run.lines[-2].startswith(b"250 ") and hub.connections == 1
    assert run.events("message")[0]["verdict"] == "discarded"


def test_no_place_for_a_file(home: Home, hub: Hub) -> None:
    """A short message needs none; nothing of a long one is sent."""
    long = MAIL.replace(TEXT, TEXT + LARGE[:200_000].replace(b"\n", b"\r\n"))
    run = home.run(long + MAIL + QUIT, TMPDIR=str(home.path / "none"))
    assert run.lines[1:-1][VERDICT] == b"451 qq trouble creating files in queue (#4.3.0)"
    assert run.lines[-2].startswith(b"250 ") and hub.connections == 1
    assert "No such file or directory" in run.events("plugin")[0]["result"]


def test_a_full_disk(home: Home, hub: Hub) -> None:
    """A file may not grow beyond 64 KB."""
    long = MAIL.replace(TEXT, TEXT + LARGE.replace(b"\n", b"\r\n"))
    command: list[str | Path] = ["sh", "-c", 'ulimit -f 64; exec "$0"', home.program("qsmtpd")]
    run = home.launch(command, home.environ, "pipe").whole([long + QUIT])
    assert run.lines[-2] == b"451 qq write error or disk full (#4.3.0)"
    assert hub.connections == 0


# -- TERM ------------------------------------------------------------------------


def pending(pid: int) -> bool:
    """Is a signal on its way to this process?"""
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(line.split()[1], 16) for line in status.splitlines() if "Pnd:" in line)


def test_term_while_a_hub_has_the_message(home: Home, hub: Hub) -> None:
    """Its answer is waited for, and heard."""
    has, may_answer = threading.Event(), threading.Event()

    def script(line: Line) -> None:
        hub.taken.append(take_request(line))
        has.set()
        may_answer.wait(PATIENCE)
        line.say(b"6:Dlater,")

    hub.script = script
    child = home.talk()
    child.send(MAIL)
    assert has.wait(PATIENCE)
    child.process.send_signal(signal.SIGTERM)
    wait_for(lambda: not pending(child.process.pid))
    may_answer.set()
    said = child.rest()
    assert b"\r\n554 later\r\n" in said and said.endswith(b"\r\n")
    assert len(hub.taken) == 1


def test_term_while_no_hub_is_reached(home: Home, hub: Hub, full: str) -> None:
    """Nothing was sent: the session ends, and nothing is anywhere."""
    home.control("qmqpservers", full)
    child = home.talk()
    child.send(ENVELOPE + b"DATA\r\n")
    for _ in range(4):
        child.reply()
    child.send_each(TEXT + b".\r\n")
    wait_for(lambda: state(child.process.pid) == "S")
    child.process.send_signal(signal.SIGTERM)
    assert child.rest().startswith(b"421 ")


# -- warm, by rules, and what is wrong -------------------------------------------


def test_warm(home: Home, hub: Hub) -> None:
    """Many clients in one process, one with a hub's refusal; nothing stays open."""
    with Server(home, "-c", "1", "-b", "1") as server:
        for number in range(20):
            hub.answer = b"6:Dnever," if number == 7 else b"3:Kok,"
            with server.client() as client:
                client.reply()
                said = client.deliver()
                assert said == b"554 never" if number == 7 else said.startswith(b"250 ")
                client.quit()
        assert len({event["qp"] for event in server.events("message")}) == 1, "one process"
    assert len(hub.taken) == 20


def test_off_for_some(home: Home, hub: Hub, oracle: str) -> None:
    """By a rule, whose mail goes to the queue program; so does all without a switch."""
    home.environ["QMAILQUEUE"] = oracle
    rules = make_rules(home.path / "r.cdb", '127.0.0.2:allow,QMQPQUEUE="off"', ":allow")
    with Server(home, "-x", str(rules)) as server:
        for source, queued in (("127.0.0.1", 0), ("127.0.0.2", 1)):
            with server.client(source) as client:
                client.reply()
                assert client.deliver().startswith(b"250 ")
            assert len(home.messages()) == queued
    assert len(hub.taken) == 1
    del home.environ["QMQPQUEUE"]
    assert verdict(home).startswith(b"250 ")
    assert (len(hub.taken), len(home.messages())) == (1, 2)


def test_by_control_files(home: Home, hub: Hub) -> None:
    """Its own file; or a line of control/plugins, with options for what is set."""
    del home.environ["QMQPQUEUE"]
    home.control("qmqpqueue", "on")
    assert verdict(home).startswith(b"250 ")
    (home.control_dir / "qmqpqueue").unlink()
    home.control("others", NOTHING_THERE)
    home.control("plugins", "qmqpqueue qmqpservers=others")
    assert verdict(home) == NO_HUB
    home.control("plugins", "qmqpqueue")
    assert verdict(home).startswith(b"250 ")
    assert len(hub.taken) == 2


WRONG = {
    "qmqpqueue": ("", "On", "on off", "x", "1"),
    "qmqpservers": ("", "# none", "a:x", "192.0.2.300", "\ufeffhub"),
    "qmqpcorder": ("", "x"),
    "qmqpctimeout": ("", "0", "x", "1s"),
    "qmqpcconnect": ("", "0", "-1"),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in WRONG for v in WRONG[n]])
def test_what_makes_no_sense(home: Home, hub: Hub, name: str, value: str) -> None:
    """No session begins, and --check says why."""
    if name == "qmqpqueue":
        del home.environ["QMQPQUEUE"]
    home.control(name, value)
    assert home.run(MAIL).lines == [b"421 unable to read controls (#4.3.0)"]
    check = home.run(b"", "--check")
    assert check.status == 1 and f"wrong: control/{name}: ".encode() in check.out


def test_no_hub_is_set(home: Home, hub: Hub) -> None:
    (home.control_dir / "qmqpservers").unlink()
    assert home.run(MAIL).lines == [b"421 unable to read controls (#4.3.0)"]
    (line,) = said_by_check(home)
    assert line.startswith("wrong: control/qmqpservers: is missing")


def said_by_check(home: Home, **environ: str) -> list[str]:
    said = home.run(b"", "--check", **environ).out  # type: ignore[arg-type]
    lines = said.decode().splitlines()
    return [line for line in lines if not line.startswith("ok: ")]


def test_check(home: Home, hub: Hub) -> None:
    """It reaches the hubs, and wants no queue program."""
    hub.script = silent
    assert said_by_check(home) == []
    assert said_by_check(home, QMAILQUEUE="/x") == [
        "warning: QMAILQUEUE: does nothing: qmqpqueue takes each message"
    ]
    (line,) = said_by_check(home, QMQPQUEUE="off")
    assert line.startswith("wrong: queue program: ")
    hub.script = lambda line: None
    (line, wrong) = said_by_check(home)
    assert "closes the connection at once" in line
    assert wrong == "wrong: control/qmqpservers: names no hub that can be reached"


def test_under_tcpserver(home: Home, hub: Hub) -> None:
    with tcpserver(home, ":allow") as server, server.client() as client:
        client.reply()
        assert client.deliver().startswith(b"250 ")
    assert len(hub.taken) == 1
