"""A plugin in trouble: 451 and the session goes on, or 421; never a mail that passes unseen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from child import Child, session_members
from client import PATIENCE
from harness import PROGRAMS, Home, wait_for
from listeners import patched
from plugin_lines import PLUGINS, STARTS, limited
from run import Run
from tls_home import SERVER

pytestmark = pytest.mark.slow

TROUBLE = b"451 policy trouble, try again later (#4.3.0)"
HANGS = b"421 policy trouble, try again later (#4.3.0)"
#: base64 of NUL joe NUL secret.
JOE = b"AUTH PLAIN AGpvZQBzZWNyZXQ="
BODY = b"Subject: x\r\n\r\nhello\r\n.\r\n"

#: Where it goes wrong, and which command hears of it.
ANSWERED = {
    "connect": "RCPT",
    "helo": "EHLO",
    "capabilities": "EHLO",
    "auth": "AUTH",
    "mail": "MAIL",
    "rcpt": "RCPT",
    "data": "DATA",
    "header": "message",
    "body": "message",
    "data_post": "message",
    "queue": "DATA",
    "queue_pre": "message",
    "unknown": "XBAR",
    "command_xfoo": "XFOO",
}

#: What nobody hears of: there is nothing to refuse any more.
OBSERVERS = ("ok", "deny", "reset", "disconnect")
STAGES = (*ANSWERED, *OBSERVERS)
#: Trouble there does not keep mail out: nothing was asked of the plugin that mail depends on.
HARMLESS = ("capabilities", "auth", "unknown", "command_xfoo", *OBSERVERS)


def say(talk: Child) -> dict[str, bytes]:
    """A whole session, step by step: the last line of each reply, by its command."""
    replies = {"greeting": talk.reply()}

    def ask(name: str, command: bytes) -> bytes:
        talk.send(command)
        replies[name] = talk.reply()
        return replies[name]

    if not replies["greeting"].startswith(b"220"):
        return replies
    for name, command in (
        ("EHLO", b"EHLO c.example\r\n"),
        ("AUTH", JOE + b"\r\n"),
        ("MAIL", b"MAIL FROM:<a@no.example>\r\n"),
        ("RCPT", b"RCPT TO:<b@ok.example>\r\n"),
        ("DATA", b"DATA\r\n"),
        ("XBAR", b"XBAR\r\n"),
        ("XFOO", b"XFOO 1\r\n"),
        ("RSET", b"RSET\r\n"),
        ("NOOP", b"NOOP\r\n"),
        ("QUIT", b"QUIT\r\n"),
    ):
        reply = ask(name, command)
        if reply.startswith(b"354"):
            reply = ask("message", BODY)
        if reply == b"" or reply.startswith(b"421"):
            break
    return replies


class Case:
    """One session with one plugin that misbehaves."""

    def __init__(
        self, path: Path, stage: str, how: str, options: str = "timeout=1", **environ: Any
    ) -> None:
        path.mkdir()
        self.stage, self.how = stage, how
        self.home = Home(path)
        self.home.control("plugins", f"{PLUGINS}/misbehave.py {options} at={stage} how={how}")
        self.replies: dict[str, bytes] = {}
        self.environ = environ

    def run(self) -> Case:
        talk = self.start()
        self.replies = say(talk)
        self.end: Run = talk.end(quit=False)
        wait_for(lambda: not session_members(talk.pid))
        return self

    def start(self) -> Child:
        command = [*limited(self.stage, self.how), str(PROGRAMS / "checker"), "true"]
        seen = str(self.home.path / "seen")
        environ = {"SMTPAUTH": "", "AUTHCLEAR": "1", "SEEN": seen, **self.environ}
        return self.home.launch(command, {**self.home.environ, **environ})

    def __repr__(self) -> str:
        return f"{self.stage} {self.how}: {self.replies}\n{self.end.log}"

    @property
    def troubles(self) -> list[dict[str, str]]:
        found = self.end.events("trouble")
        assert all(line["plugin"] == "misbehave" for line in found), self
        return [line for line in found if line["hook"] == self.stage]


def cases(path: Path, stages: Iterable[str], hows: Iterable[str]) -> list[Case]:
    """Run them all at once: most of them only sleep."""
    hows = list(hows)
    path.mkdir(exist_ok=True)
    made = [Case(path / f"{stage}-{how}", stage, how) for stage in stages for how in hows]
    with ThreadPoolExecutor(len(made)) as pool:
        return list(pool.map(Case.run, made))


def troubled(case: Case) -> set[str]:
    """The commands that heard of it."""
    replies = dict(case.replies)
    if case.stage == "unknown":
        del replies["XFOO"]  # which is unknown, too
    return {name for name, reply in replies.items() if reply == TROUBLE}


def answered_with_451(case: Case) -> None:
    """The command that asked hears of it, and all others work."""
    home, replies, stage = case.home, case.replies, case.stage
    assert replies["greeting"] == b"220 mx.example ESMTP", case
    assert replies["NOOP"] == b"250 ok", case
    assert replies["QUIT"] == b"221 mx.example", case
    assert case.end.status == 0, case
    assert case.troubles, case
    assert case.end.event("session")["end"] == "quit", case
    expected = {ANSWERED[stage]} if stage in ANSWERED else set()
    if stage == "helo":
        expected.add("RCPT")  # who goes on without a greeting that was taken
    assert troubled(case) == expected, case
    assert len(home.messages()) == (stage in HARMLESS), case


#: At these, None is an answer; what observers return is nobody's business.
TOLERANT = {
    "none": ("body", "queue", *OBSERVERS),
    **dict.fromkeys(("nonsense", "true", "shapeless", "error"), OBSERVERS),
}


@pytest.mark.parametrize("how", ["raise", "exit", "nonsense", "none", "speechless"])
def test_what_comes_back_at_once(tmp_path: Path, how: str) -> None:
    """It raises, or returns what is no decision."""
    stages = [stage for stage in STAGES if stage not in TOLERANT.get(how, ())]
    for case in cases(tmp_path, stages, [how]):
        answered_with_451(case)
        assert "250 ok\n" not in case.end.log, case


@pytest.mark.parametrize("stage", ["capabilities", "rcpt", "body", "data_post", "queue"])
def test_what_comes_back_and_is_stranger(tmp_path: Path, stage: str) -> None:
    for case in cases(
        tmp_path, [stage], ["base", "memory", "recurse", "true", "shapeless", "error"]
    ):
        answered_with_451(case)


def test_what_takes_too_long(tmp_path: Path) -> None:
    """It sleeps, computes, or hears the alarm and says that all is well."""
    found = cases(tmp_path, STAGES, ["doze"])
    found += cases(tmp_path / "again", ["helo", "rcpt", "data_post", "queue"], ["swallow-once"])
    found += cases(tmp_path / "cpu", ["rcpt", "header", "ok"], ["spin"])
    for case in found:
        answered_with_451(case)
        assert case.troubles[0]["reason"] == "took more than 1 seconds", case


#: Which command hears 421.  An observer's command has its own reply, if that could be sent.
LAST = {
    **ANSWERED,
    "connect": "greeting",
    "ok": "EHLO AUTH",
    "deny": "XBAR XFOO",
    "reset": "XBAR",
}


def ended_with_421(case: Case) -> None:
    home, replies, stage = case.home, case.replies, case.stage
    *before, (last, reply) = replies.items()
    if stage == "disconnect":  # it has had the last reply, and hears nothing more
        assert replies["QUIT"] == b"221 mx.example", case
        assert case.end.out == b"", case
    else:
        assert reply == HANGS, case
        assert last in LAST[stage].split(), case
        assert not any(said.startswith(b"4") for _, said in before), case
    if stage == "reset":  # the message was queued before, and the client knows
        assert replies["message"].startswith(b"250 ok "), case
    assert len(home.messages()) == (
        stage in ("unknown", "command_xfoo", "deny", "reset", "disconnect")
    ), case
    ends = [line["end"] for line in case.end.events("session")]
    assert ends == (["plugin-hangs"] if stage != "disconnect" else ends), case
    assert case.troubles[-1]["reason"] == "does not stop", case


def test_what_cannot_be_stopped(tmp_path: Path) -> None:
    """It swallows the alarm."""
    for case in cases(tmp_path, STAGES, ["swallow"]):
        ended_with_421(case)


def ended_by_the_watchdog(case: Case) -> None:
    """The connection closes without a word, and the log says where the code was."""
    home, replies, stage = case.home, case.replies, case.stage
    if stage == "disconnect":  # it has had the last reply
        assert replies["QUIT"] == b"221 mx.example", case
    else:
        *_, (last, reply) = replies.items()
        assert reply == b"", case
        assert last in LAST[stage].split(), case
    assert case.end.status == 1, case
    assert "\nTimeout (0:00:0" in "\n" + case.end.log, case
    assert f'  File "{PLUGINS}/misbehave.py", line ' in case.end.log, case
    assert len(home.messages()) == (
        stage in ("unknown", "command_xfoo", "deny", "reset", "disconnect")
    ), case
    assert list(home.spool.glob("new.*")) == [], case


def test_what_never_comes_back(tmp_path: Path) -> None:
    """It hears no alarm: the watchdog ends it."""
    for case in cases(tmp_path, STAGES, ["hang"]):
        ended_by_the_watchdog(case)


def test_what_computes_in_c_or_takes_the_alarm_away(tmp_path: Path) -> None:
    for case in cases(tmp_path, ["data_post"], ["compute", "disarm"]):
        ended_by_the_watchdog(case)


def test_at_the_start(tmp_path: Path) -> None:
    """A plugin that cannot even be made: 421, and no mail; --check says why."""
    made = {}
    hows = ("raise", "exit", "speechless", "base", "memory", "no-control", "lost", "spin")
    for case in cases(tmp_path, ["start"], [*hows, "swallow-once", "swallow", "hang", "compute"]):
        made[case.how] = case
        hangs = case.how in ("hang", "compute")
        reply = HANGS if case.how == "swallow" else b"421 unable to read controls (#4.3.0)"
        assert case.replies == {"greeting": b"" if hangs else reply}, case
        assert case.end.status != 0, case
        if hangs:
            assert f'  File "{PLUGINS}/misbehave.py", line ' in case.end.log, case
        elif case.how == "swallow":
            assert case.end.event("trouble")["plugin"] == "misbehave", case
        else:
            reason = case.end.event("control")["reason"]
            assert "misbehave" in reason or case.how == "no-control", case
    spun = made["spin"].end.event("control")["reason"]
    assert spun == "misbehave takes more than 1 seconds to start"
    checked = made["raise"].home.run(b"", "--check")
    assert checked.status == 1
    assert b"misbehave: ValueError: on purpose" in checked.out


def test_settings_that_it_cannot_read_later(tmp_path: Path) -> None:
    """As for every other control file: 421, but not where a reply is due."""
    for case in cases(tmp_path, STAGES, ["no-control"]):
        if case.stage in OBSERVERS:
            answered_with_451(case)
            continue
        last = list(case.replies.values())[-1]
        assert last == b"421 unable to read controls (#4.3.0)", case
        assert case.end.event("control")["reason"] == "is unreadable", case
        assert len(case.home.messages()) == (case.stage in ("unknown", "command_xfoo")), case


def test_where_the_queue_program_has_refused(tmp_path: Path) -> None:
    """What queue_failed does wrong changes no reply."""
    (tmp_path / "queue").mkdir()
    queue = Home(tmp_path / "queue").script("exit 31")
    for how in ("raise", "exit", "nonsense", "no-control"):
        case = Case(tmp_path / how, "queue_failed", how, QMAILQUEUE=queue).run()
        assert case.replies["message"].startswith(b"554 mail server permanently rejected"), case
        assert case.replies["QUIT"] == b"221 mx.example", case
        assert [line["hook"] for line in case.troubles] == (
            ["queue_failed"] if how != "nonsense" else []
        ), case


def test_lost(tmp_path: Path) -> None:
    """It says that the client is gone: then so is its mail."""
    for case in cases(tmp_path, ["rcpt", "data_post", "queue", "body"], ["lost"]):
        assert list(case.replies.values())[-1].startswith(b"421 "), case
        assert case.home.messages() == [], case


def test_what_it_says_is_for_the_log(tmp_path: Path) -> None:
    """A print, a write to fd 1 and a child's output: not one byte of it reaches the client."""
    for case in cases(tmp_path, STAGES, ["speak"]):
        said = b"".join(case.replies.values()) + case.end.out
        assert b"said" not in said, case
        for by in ("print", "write", "a child"):
            assert f"said by {by}\n" in case.end.log, case
        assert not troubled(case), case
        assert len(case.home.messages()) == 1, case


# -- in TLS ------------------------------------------------------------------


def in_tls(path: Path, stage: str, how: str) -> tuple[Child, bytes]:
    """A session in which it goes wrong inside TLS; what then still comes."""
    path.mkdir()
    home = Home(path)
    SERVER.save(home.control_dir / "servercert.pem")
    home.control("plugins", f"{PLUGINS}/misbehave.py timeout=1 at={stage} how={how}")
    talk = home.launch(limited(stage, how), home.environ)
    talk.reply()
    talk.starttls()
    said = b""
    try:
        for command in (b"EHLO c", b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA", b"NOOP"):
            said = talk.ask(command)
            if said.startswith(b"354"):
                said = talk.ask(BODY[:-2])
            if not said or said.startswith(b"421"):
                break
        else:
            assert talk.ask(b"QUIT").startswith(b"221 ")
    except OSError as error:
        said = f"{type(error).__name__} {error}".encode()
    wait_for(lambda: not list(home.spool.iterdir()))
    return talk, said


def test_in_tls(tmp_path: Path) -> None:
    stages = ("starttls", "data_post")
    wanted = [(stage, how) for stage in stages for how in ("raise", "doze", "swallow", "hang")]
    with ThreadPoolExecutor(len(wanted)) as pool:
        found = pool.map(lambda w: in_tls(tmp_path / "-".join(w), *w), wanted)
        for (stage, how), (talk, said) in zip(wanted, found, strict=True):
            context = (stage, how, said, talk.said)
            assert (TROUBLE in talk.said) == (how in ("raise", "doze")), context
            assert (HANGS in talk.said) == (how == "swallow"), context
            run = talk.ended()
            if how == "hang":
                # A plain byte would have been a TLS error of another kind.
                assert said == b"" or said.startswith(b"SSLEOFError"), context
                assert "misbehave.py" in run.log, context
                continue
            trouble = run.event("trouble")
            assert (trouble["plugin"], trouble["hook"]) == ("misbehave", stage)


def test_a_plugin_that_cannot_be_made_again_after_starttls(inside: Home) -> None:
    inside.plugin(
        "once",
        """
        made = []

        class Plugin:
            def __init__(self, settings):
                made.append(1)
                assert len(made) == 1

            def reset(self, client):
                pass
        """,
    )
    inside.control("plugins", "once")
    with inside.talk() as talk:
        talk.reply()
        talk.starttls()
        assert talk.reply() == b"421 unable to read controls (#4.3.0)"
        assert "once: AssertionError" in talk.ended().event("control")["reason"]


# -- around the plugin -------------------------------------------------------


def start(home: Home, stage: str, how: str) -> Child:
    home.control("plugins", f"{PLUGINS}/misbehave.py timeout=1 at={stage} how={how}")
    talk = home.launch(limited(stage, how), home.environ, "pipe")
    assert talk.reply().startswith(b"220 ")
    return talk


def test_a_hang_in_c_leaves_nothing(home: Home) -> None:
    """The queue program had the message, and not the envelope: it queues nothing, and ends."""
    talk = start(home, "data_post", "compute")
    assert talk.deliver(BODY[:-3]) == b""
    talk.end(quit=False)
    wait_for(lambda: not session_members(talk.pid))
    assert list(home.spool.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("how", ["doze", "hang", "spin"])
def test_a_signal_during_plugin_code(home: Home, number: int, how: str) -> None:
    """TERM waits for its time limit, and for the watchdog where it never returns."""
    limit = "timeout=1" if number == signal.SIGTERM else ""
    home.control("plugins", f"{PLUGINS}/misbehave.py at=data_post how={how} {limit}")
    talk = home.launch(limited("data_post", how), home.environ, "pipe")
    talk.reply()
    assert talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA") == b"354 go ahead"
    assert talk.send_each(BODY)
    os.kill(talk.pid, number)
    run = talk.end(quit=False)
    if number == signal.SIGKILL:
        assert run.status == -number
        assert run.out == b""
    elif how == "doze":
        assert run.codes == [451, 421]
        assert run.event("session")["end"] == "shutdown"
    wait_for(lambda: not session_members(talk.pid))
    assert list(home.spool.iterdir()) == []


def test_a_plugin_that_ends_the_process(home: Home) -> None:
    home.plugin(
        "leave",
        """
        import os

        def header(client, envelope, message):
            os._exit(0)
        """,
    )
    home.control("plugins", "leave")
    talk = home.talk(over="pipe")
    talk.reply()
    assert talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA") == b"354 go ahead"
    talk.send(BODY)
    run = talk.end(quit=False)
    assert run.out == b""
    wait_for(lambda: not session_members(talk.pid))
    assert list(home.spool.iterdir()) == []


def test_a_child_that_it_leaves_behind(home: Home) -> None:
    """The session ends all the same, and the child is left alone."""
    home.plugin(
        "fork",
        """
        import os, signal

        from qsmtpd.decision import DECLINED

        def connect(client):
            pid = os.fork()
            if pid == 0:
                os.close(0)
                os.close(1)
                os.close(2)
                os.setsid()
                signal.pause()
            open(os.environ['CHILD'], 'w').write(str(pid))
            return DECLINED
        """,
    )
    home.control("plugins", "fork")
    child = home.path / "child"
    talk = home.talk(CHILD=str(child))
    talk.reply()
    try:
        assert talk.ask(b"QUIT") == b"221 mx.example"
        assert talk.process.wait(PATIENCE) == 0
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)
    assert talk.end(quit=False).status == 0


def test_one_that_waits_for_every_child(home: Home) -> None:
    """It takes the queue program's exit status away: that is no 250."""
    home.plugin(
        "wait",
        """
        import signal

        from qsmtpd.decision import DECLINED

        def data(client, envelope):
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            return DECLINED
        """,
    )
    home.control("plugins", "wait")
    session = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n" + BODY + b"QUIT\r\n"
    run = home.run(session)
    assert run.codes == [220, 250, 250, 354, 451, 221]
    assert run.event("message")["ambiguous"] == "may be queued all the same"


def test_the_client_vanishes_during_a_pause(home: Home) -> None:
    home.plugin(
        "slow",
        """
        from qsmtpd.decision import DECLINED

        def data_post(client, envelope, message):
            print('pausing')
            client.pause(1.5)
            print('paused')
            return DECLINED
        """,
    )
    home.control("plugins", "slow timeout=1")  # the pause is not its own time
    talk = home.launch(limited("data_post", "slow"), home.environ)
    talk.reply()
    talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA")
    talk.send_each(BODY)
    wait_for(lambda: "pausing" in talk.log())
    run = talk.hang_up()
    assert "paused\n" in run.log
    assert run.events("trouble") == []
    # The end of data has come: as ever, the message is then taken, and nobody hears of it.
    assert [m.recipients for m in home.messages()] == [[b"x@ok.example"]]


def test_pauses_do_not_count(home: Home) -> None:
    home.plugin(
        "slow",
        """
        from qsmtpd.decision import DECLINED

        def mail(client, envelope):
            for _ in range(4):
                client.pause(0.4)
                client.speaks(0.1)
            return DECLINED

        def rcpt(client, envelope, recipient):
            client.pause(0.2)
            while True:
                pass
        """,
    )
    home.control("plugins", "slow timeout=1")
    talk = home.launch(limited("rcpt", "slow"), home.environ)
    talk.reply()
    assert talk.answers(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"NOOP") == [
        b"250 ok",
        TROUBLE,
        b"250 ok",
    ]
    run = talk.end()
    assert run.event("trouble")["hook"] == "rcpt"


def test_who_does_not_read_the_421(home: Home) -> None:
    """A client that does not read must not keep a plugin that does not stop."""
    home.plugin(
        "loud",
        """
        from qsmtpd.decision import accept

        def command_loud(client, argument):
            return accept(b'x' * 400)

        def command_hang(client, argument):
            while True:
                try:
                    while True:
                        pass
                except BaseException:
                    pass
        """,
    )
    home.control("plugins", "loud timeout=1")
    # The watchdog, which ends it, comes well behind the second alarm, also where we are stopped.
    late = "timelimit._start_watchdog = (lambda start: lambda _, fd: start(8.0, fd))"
    changes = (STARTS, "timelimit.GRACE = 0.2", f"{late}(timelimit._start_watchdog)")
    program = patched(*changes, package="qsmtpd.policy", program="qsmtpd")
    talk = home.launch(program, home.environ, "pipe")
    talk.reply()
    # More than a pipe holds; in one piece, or it would be waiting for us before HANG.
    talk.send(b"LOUD\r\n" * 200 + b"HANG\r\n")
    assert talk.process.wait(PATIENCE) != 0
    run = talk.end(quit=False)
    assert run.event("trouble")["reason"] == "does not stop"
    assert run.event("session")["end"] == "plugin-hangs"
    assert run.out.count(b"421 ") <= 1
