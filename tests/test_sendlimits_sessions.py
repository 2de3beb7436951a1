"""sendlimits in whole sessions: under tcpserver and in qsmtpd-server, many at once, days later."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filters import build, client
from harness import PROGRAMS, Home, Variables, wait_for
from listeners import Listener, Server, clocked, tcpserver

from qsmtpd.diagnose.counts import show_counts
from qsmtpd.facts import Envelope
from qsmtpd.policy.store.counts import listed
from qsmtpd.policy.store.sqlite import SqliteStore

pytestmark = pytest.mark.slow

HOUR, DAY = 3600 + 300, 86400 + 7200
JOE = b"AUTH PLAIN AGpvZQBzZWNyZXQ="
MAIL = (b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>")
MESSAGE = (*MAIL, b"DATA", b"hello\r\n.")
OVER = b"452 sorry, no more than %b (#4.7.1)"


@pytest.fixture
def limited(home: Home) -> Home:
    return limits(home)


def limits(home: Home) -> Home:
    """A home whose users and relay clients have limits."""
    home.environ |= {"QSMTPD_STORE": "store", "SMTPAUTH": "", "AUTHCLEAR": "1"}
    home.environ["SEEN"] = str(home.path / "seen")
    home.arguments = [str(PROGRAMS / "checker"), "true"]
    home.control("sendlimits", "user:* messages=2/hour recipients=5/day", "client:* messages=3/day")
    return home


def counts(home: Home, *arguments: str, status: int = 0) -> str:
    """What `qsmtpd --counts` prints."""
    run = home.run(b"", "--counts", *arguments)
    assert run.status == status, run
    return run.out.decode()


def rows(home: Home) -> dict[str, tuple[int | None, int | None]]:
    """Messages and recipients by who and window."""
    found = json.loads(counts(home, "--json"))["counts"]
    return {f"{row['who']} {row['window']}": (row["messages"], row["recipients"]) for row in found}


@pytest.mark.parametrize("warm", [False, True])
def test_hours_and_days_later(limited: Home, warm: bool) -> None:
    clock = limited.file("clock", "0")

    def later(seconds: int) -> None:
        other = clock.with_name("clock.new")
        other.write_text(str(float(clock.read_text()) + seconds))
        other.rename(clock)

    def session(*commands: bytes) -> list[bytes]:
        return [reply[:3] for reply in listener.session(b"EHLO x", JOE, *commands, b"QUIT")[3:-1]]

    if warm:
        run = clocked(clock, "qsmtpd.server.main")
        made: Listener = Server(limited, "-c", "2", run=run)
    else:
        made = tcpserver(limited, run=clocked(clock, "qsmtpd.main"))
    taken, refused = [b"250", b"250", b"354", b"250"], [b"250", b"452"]
    with made as listener:
        assert session(*MESSAGE, *MESSAGE, *MAIL, b"RSET", *MAIL) == [
            *taken, *taken, *refused, b"250", *refused,
        ]  # fmt: skip
        assert session(*MAIL) == refused
        later(3000)
        assert session(*MAIL) == refused
        later(HOUR - 3000)
        assert session(*MESSAGE, *MESSAGE, *MAIL) == [*taken, *taken, *refused]
        later(HOUR)
        assert session(*MESSAGE, *MAIL) == [*taken, *refused], "the day is full"
        reply = listener.session(b"EHLO x", JOE, *MAIL, b"QUIT")[-2]
        assert reply == OVER % b"5 recipients a day"
        later(DAY)
        assert session(*MESSAGE) == taken
        assert len(limited.messages()) == 6
        log = [line for line in listener.events("plugin") if line["who"] == "user:joe"]
        assert {line["limit"] for line in log} == {"2 messages an hour", "5 recipients a day"}
        assert listener.events("trouble") == []


@pytest.mark.parametrize("warm", [False, True])
def test_fifty_sessions_at_once(limited: Home, warm: bool) -> None:
    """Each that was told 250 is queued and counted, and none is beyond the limit."""
    limited.control("sendlimits", "client:* messages=20/hour")
    limited.environ |= {"RELAYCLIENT": "", "STORETIMEOUT": "60"}
    made = Server(limited, "-c", "50", "-C", "50") if warm else tcpserver(limited)

    def one(_: int) -> bytes:
        with listener.client() as talk:
            talk.reply()
            return talk.answers(b"EHLO x", *MESSAGE)[-1][:3]

    with made as listener:
        with ThreadPoolExecutor(50) as pool:
            last = list(pool.map(one, range(50)))
        wait_for(lambda: len(listener.events("session")) == 50)
        assert last.count(b"250") == 20 == len(limited.messages())
        assert listener.events("trouble") == []
        assert not [line for line in listener.events("plugin") if "store" in line]
    assert rows(limited) == {"client:127.0.0.1 hour": (20, None)}


def test_fifty_processes_count_what_is_queued(tmp_path: Path) -> None:
    """Also where half of it fails behind the count; nothing twice, nothing not at all."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "sendlimits").write_text("user:* messages=400/hour recipients=800/day")
    environ: Variables = {"QSMTPD_STORE": str(tmp_path / "store"), "STORETIMEOUT": "60"}

    def work(number: int) -> int:
        """How many recipients it has sent to: below 256."""
        plugin, who = build("sendlimits", tmp_path, **environ), client(user=b"joe")
        sent = 0
        for turn in range(20):
            envelope = Envelope(b"a@b")
            envelope.recipients = [b"r@x"] * (1 + turn % 3)
            if plugin.queue_pre(who, envelope).verdict != "decline" or turn % 2:
                plugin.queue_failed(who, envelope)
            else:
                sent += len(envelope.recipients)
        return sent

    sent = in_processes(work, 50)
    store = SqliteStore(os.fsencode(tmp_path / "store"), 1)
    store.deadline = time.monotonic() + 60
    found = {(name, span): what.value for name, span, what in listed(store, int(time.time()))}
    assert found[b"user:joe\0recipients", 86400] == sent <= 800
    assert sent > 400, "limits were reached, and not by what was taken back"


def in_processes(work: Callable[[int], int], number: int) -> int:
    """The sum of what work() returns in so many processes at once."""
    children = []
    for one in range(number):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.write(writer, b"%d" % work(one))
            finally:
                os._exit(0)
        os.close(writer)
        children.append((pid, reader))
    total = 0
    for pid, reader in children:
        said = os.read(reader, 100)
        os.close(reader)
        os.waitpid(pid, 0)
        total += int(said)
    return total


def test_a_message_is_counted_whether_its_client_hears_of_it_or_not(limited: Home) -> None:
    """It is gone before the reply; the message is queued, so it counts."""
    limited.environ["RELAYCLIENT"] = ""
    waiting = limited.path / "waiting"
    queue = limited.script(
        f"cat >/dev/null; cat <&1 >/dev/null; : >{waiting}; read line <{limited.path}/go"
    )
    os.mkfifo(limited.path / "go")
    talk = limited.talk(QMAILQUEUE=queue)
    talk.reply()
    talk.send(b"\r\n".join(MESSAGE) + b"\r\n")
    wait_for(waiting.exists)
    talk.close()
    (limited.path / "go").write_text("\n")
    assert talk.end(quit=False).event("message")["verdict"] == "accepted"
    assert rows(limited) == {"client:192.0.2.1 day": (1, None)}


def test_killed_at_the_worst_time(limited: Home) -> None:
    """Counted and not queued: too much is counted, never too little."""
    limited.environ["RELAYCLIENT"] = ""
    queue = limited.script("cat >/dev/null; kill -9 $PPID; exit 0")
    run = limited.run(b"\r\n".join(MESSAGE) + b"\r\n", QMAILQUEUE=queue)
    assert run.status == -signal.SIGKILL
    assert rows(limited) == {"client:192.0.2.1 day": (1, None)}


@pytest.mark.parametrize("warm", [False, True])
def test_without_a_store(limited: Home, warm: bool) -> None:
    """What a process has counted holds: for its sessions in turn, or for the only one."""
    limited.control("sendlimits", "client:* messages=2/day")
    limited.environ |= {"RELAYCLIENT": "", "QSMTPD_STORE": "control"}
    with Server(limited, "-c", "1") if warm else tcpserver(limited) as listener:
        said = listener.session(*MESSAGE, *MESSAGE, *MAIL, b"QUIT")
        assert [reply[:3] for reply in said[4:-1:4]] == [b"250", b"250"]
        assert said[-2] == OVER % b"2 messages a day"
        again = listener.session(*MAIL, b"QUIT")[-2]
        assert again == (OVER % b"2 messages a day" if warm else b"250 ok")
        (line,) = [line for line in listener.events("plugin") if "store" in line]
        assert line["then"] == "the counts of this process hold"


# -- the command ---------------------------------------------------------------


def send(home: Home, recipients: int = 1) -> None:
    """A message of the client that may relay, whose address is TCPREMOTEIP."""
    to = b"RCPT TO:<c@d.example>\r\n" * recipients
    run = home.run(b"MAIL FROM:<a@b>\r\n" + to + b"DATA\r\n.\r\nQUIT\r\n", RELAYCLIENT="")
    assert run.codes[-2] in (250, 503)


def test_what_is_shown(limited: Home) -> None:
    limited.control(
        "sendlimits", "client:* messages=2/day messages=9/hour recipients=4/day",
        "client:2001:db8: recipients=10/hour",
    )  # fmt: skip
    send(limited, 3)
    limited.environ["TCPREMOTEIP"] = "2001:db8::5"
    send(limited)
    before = counts(limited).splitlines()
    assert before == [
        "who                   window  messages  recipients  more in",
        "client:192.0.2.1      hour         1/9           -        -",
        "client:192.0.2.1      day          1/2         3/4        -",
        "client:2001:db8::/64  hour           -        1/10        -",
    ]
    limited.environ["TCPREMOTEIP"] = "192.0.2.1"
    send(limited)
    one, full, other = json.loads(counts(limited, "--json"))["counts"]
    assert (one["window"], one["recipients"], one["recipients_limit"]) == ("hour", None, None)
    assert DAY - 7200 < full.pop("more_in") <= DAY
    assert full == {
        "who": "client:192.0.2.1", "window": "day", "messages": 2, "messages_limit": 2,
        "recipients": 4, "recipients_limit": 4,
    }  # fmt: skip
    assert other["who"] == "client:2001:db8::/64" and other["more_in"] is None
    line = counts(limited).splitlines()[2]
    assert line.startswith("client:192.0.2.1      day          2/2         4/4  2")
    # Without the filter there are still counts, and no limits.
    (limited.control_dir / "sendlimits").unlink()
    assert "client:192.0.2.1      day            2           4        -\n" in counts(limited)


def test_what_is_forgotten(limited: Home) -> None:
    for number in (1, 2, 3):
        limited.environ["TCPREMOTEIP"] = f"192.0.2.{number}"
        send(limited)
    limited.environ["TCPREMOTEIP"] = "2001:db8::1"
    send(limited)
    said = counts(limited, "--reset", "client:192.0.2.2", "client:2001:db8::77")
    assert said == "reset: client:192.0.2.2\nreset: client:2001:db8::77\n"
    assert [*rows(limited)] == ["client:192.0.2.1 day", "client:192.0.2.3 day"]
    said = counts(limited, "--reset", "client:192.0.2.2", "joe", "client:192.0.2.1", status=1)
    assert said == (
        "nothing was counted: client:192.0.2.2\nnothing was counted: joe\nreset: client:192.0.2.1\n"
    )
    assert counts(limited, "--reset", "--all") == "nothing is counted any more\n"
    assert counts(limited) == "nothing is counted\n"
    assert json.loads(counts(limited, "--json")) == {"counts": []}


ODD = ["joe", "j\x1b[31m o", "\u202egro.elpmaxe", "a\\b", "jörg", "\udcff", "x" * 255, "'\"$(id)`"]


def test_names_are_safe_and_can_be_said_again(limited: Home) -> None:
    """No byte of a name moves the cursor, or turns the text around; each can be reset as shown."""
    plugin = build("sendlimits", limited.path, QSMTPD_STORE=str(limited.path / "store"))
    for name in ODD:
        who = client(user=name.encode("utf-8", "surrogateescape"))
        envelope = Envelope(b"a@b")
        envelope.recipients = [b"c@d"]
        assert plugin.queue_pre(who, envelope).verdict == "decline"
    table = counts(limited)
    assert all(line.isprintable() for line in table.splitlines())
    assert r"user:j\x1b[31m o" in table and "user:jörg" in table and r"user:a\x5cb" in table
    shown = {row["who"] for row in json.loads(counts(limited, "--json"))["counts"]}
    assert len(shown) == len(ODD)
    said = counts(limited, "--reset", *shown)
    assert said.count("reset: ") == len(ODD) and "nothing" not in said
    assert {line.removeprefix("reset: ") for line in said.splitlines()} == shown
    assert counts(limited) == "nothing is counted\n"


def test_what_goes_wrong(limited: Home) -> None:
    def wrong(*arguments: str) -> str:
        run = limited.run(b"", "--counts", *arguments)
        assert (run.status, run.out) == (111, b""), run
        return run.log

    store = limited.path / "store"
    for arguments in ([], ["--json"], ["--reset", "joe"], ["--reset", "--all"]):
        assert wrong(*arguments) == f"qsmtpd: {store}: missing: is not there\n"
        assert not store.exists(), "a store of root's would be of no use to others"
    for arguments in (
        ["--reset"], ["--all"], ["joe", "--json"], ["--x"], ["--reset", "joe", "--all"],
        ["--reset", "joe", "-x"],
    ):  # fmt: skip
        assert wrong(*arguments).startswith("usage: qsmtpd --counts [--json] ")
    store.mkdir()
    assert wrong() == f"qsmtpd: {store}: foreign: is no regular file\n"
    store.rmdir()
    store.write_bytes(b"x" * 9999)
    assert wrong().startswith(f"qsmtpd: {store}: corrupt: ")
    store.unlink()
    send(limited)
    limited.control("sendlimits", "joe")
    assert wrong().startswith("qsmtpd: control/sendlimits: line 1: ")
    limited.environ["QSMTPD_STORE"] = ""
    assert wrong() == "qsmtpd: QSMTPD_STORE: is empty, and names no file\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_as_another_user() -> None:
    """Who may not read it is told whose it is; root leaves it usable for its owner."""
    import _sqlite3  # noqa: F401
    import pwd  # noqa: F401  # here the other user may not read Python's own files

    owner, other = 65531, 65532
    place = tempfile.TemporaryDirectory()  # that of a test is not for others to enter
    limited = limits(Home(Path(place.name)))
    limited.path.chmod(0o755)
    store = limited.path / "store"
    send(limited)
    os.chown(store, owner, owner)
    os.chown(limited.path, owner, owner)
    assert "client:192.0.2.1" in counts(limited)
    environ = {os.fsencode(name): os.fsencode(text) for name, text in limited.environ.items()}
    home = os.fsencode(limited.path)

    def ask(user: int) -> tuple[int, str]:
        """What it says to this user: its status, and what it prints."""
        printed = limited.path / f"printed.{user}"
        fd = os.open(printed, os.O_WRONLY | os.O_CREAT)
        pid = os.fork()
        if not pid:
            status = 99
            try:
                os.dup2(fd, 1)
                os.dup2(fd, 2)
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
                status = show_counts(environ, home, [])
            finally:
                os._exit(status)
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), printed.read_text()

    assert ask(owner) == (0, counts(limited))
    status, said = ask(other)
    assert status == 111
    assert said.startswith(f"qsmtpd: {store}: denied: ")
    assert said.endswith(f" (it belongs to user {owner})\n")
    place.cleanup()


def test_while_sessions_run(limited: Home) -> None:
    """Somebody writes all the time: what is shown is what there was at some moment."""
    plugin = build("sendlimits", limited.path, QSMTPD_STORE=str(limited.path / "store"))
    limited.control("sendlimits", "user:* messages=1000/hour recipients=1000/hour")
    plugin = build("sendlimits", limited.path, QSMTPD_STORE=str(limited.path / "store"))
    pid = os.fork()
    if not pid:
        try:
            while True:
                envelope = Envelope(b"a@b")
                envelope.recipients = [b"c@d"]
                plugin.queue_pre(client(user=b"joe"), envelope)
        finally:
            os._exit(1)
    try:
        wait_for((limited.path / "store").exists)
        wait_for(lambda: "user:joe hour" in rows(limited))
        for _ in range(5):
            messages, recipients = rows(limited)["user:joe hour"]
            assert messages == recipients
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
