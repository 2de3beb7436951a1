"""--explain, and the test kit, say what a real session would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from child import Command
from client import PATIENCE
from harness import BIN, PROGRAMS, ROOT, Home, Variables, wait_until_read
from plugin_lines import PLUGINS, decide, label

MESSAGE = "Subject: a dry run\n\nqsmtpd --explain\n"
TO = ("x@ok.example", "y@elsewhere.example", "z@ok.example")

#: What is set up: control files, variables, and what --explain is told.
SETTINGS: dict[str, tuple[dict[str, str], Variables, list[str]]] = {
    "nothing": ({}, {}, []),
    "relay": ({}, {"RELAYCLIENT": ""}, []),
    "relay with a suffix": ({}, {"RELAYCLIENT": "@gate"}, []),
    "no rcpthosts for them": ({"rcpthosts": "other.example"}, {}, []),
    "badmailfrom": ({"badmailfrom": "@bad.example"}, {}, ["from=a@bad.example"]),
    "badmailfrom, another": ({"badmailfrom": "@bad.example"}, {}, ["from=a@good.example"]),
    "reject at connect": ({"plugins": decide(at="connect", say="reject", text="no")}, {}, []),
    "drop at helo": ({"plugins": decide(at="helo", say="drop", text="no")}, {}, ["helo=x"]),
    "reject at helo": ({"plugins": decide(at="helo", say="reject", text="no")}, {}, ["helo=x"]),
    "no helo": ({"plugins": decide(at="helo", say="reject", text="no")}, {}, []),
    "defer at mail": ({"plugins": decide(at="mail", say="defer", text="a%0ab")}, {}, []),
    "postponed": (
        {"plugins": decide(at="connect", say="reject", text="no"), "postpone": "rcpt"}, {}, []
    ),
    "postponed to data": (
        {"plugins": decide(at="rcpt", say="reject", text="no")}, {"POSTPONE": "data"}, []
    ),
    "reject one": ({"plugins": decide(at="rcpt", say="reject", text="no", of=TO[0])}, {}, []),
    "header": ({"plugins": decide(at="header", say="reject", text="no")}, {}, []),
    "drop at header": ({"plugins": decide(at="header", say="drop", text="no")}, {}, []),
    "data_post": ({"plugins": decide(at="data_post", say="defer", text="no", spool="yes")}, {}, []),
    "trouble at rcpt": ({"plugins": f"{PLUGINS}/misbehave.py at=rcpt how=raise"}, {}, []),
    "trouble at body": ({"plugins": f"{PLUGINS}/misbehave.py at=body how=nonsense"}, {}, []),
    "trouble at connect": ({"plugins": f"{PLUGINS}/misbehave.py at=connect how=exit"}, {}, []),
    "trouble of an observer": ({"plugins": f"{PLUGINS}/misbehave.py at=ok how=raise"}, {}, []),
    "does not stop": (
        {"plugins": f"{PLUGINS}/misbehave.py timeout=1 at=mail how=swallow"}, {}, []
    ),
    "takes long": ({"plugins": f"{PLUGINS}/misbehave.py timeout=1 at=mail how=doze"}, {}, []),
    "header lines": ({"plugins": decide(at="mail", header="X-A:%20b")}, {}, []),
    "another recipient": (
        {"plugins": "builtins\n" + decide(at="rcpt", to="other@ok.example")}, {}, []
    ),
    "immune": (
        {"plugins": decide(at="rcpt", say="reject", text="no", immune="listed")},
        {"IMMUNE": "1"},
        [],
    ),
    "auth": (
        {"plugins": decide(at="auth", say="decline")},
        {"SMTPAUTH": "", "AUTHCLEAR": "1"},
        ["user=joe", "helo=c.example"],
    ),
    "auth refused": (
        {"plugins": decide(at="auth", say="reject", text="not%20now")},
        {"SMTPAUTH": "", "AUTHCLEAR": "1"},
        ["user=joe", "helo=c.example"],
    ),
    "without rules": ({}, {"QSMTPD_PLUGINS": "-rcpthosts"}, []),
    "databytes": ({}, {"DATABYTES": "10"}, []),
    "hops": ({}, {"MAXHOPS": "1"}, []),
    "maxrecipients": ({}, {"MAXRECIPIENTS": "1"}, []),
    "two": (
        {
            "plugins": label(decide(at="mail", say="accept"), "a")
            + "\n"
            + label(decide(at="mail", say="reject", text="never"), "b")
        },
        {},
        [],
    ),
}  # fmt: skip


def masked(reply: bytes) -> bytes:
    return re.sub(rb"250 ok \d+ qp \d+", b"250 ok TIME qp PID", reply)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_replies_are_those_of_a_session(home: Home, name: str) -> None:
    controls, environ, told = SETTINGS[name]
    for file, text in controls.items():
        home.control(file, *text.split("\n"))
    explained = home.run(b"", "--explain", *told, *(f"to={to}" for to in TO), **environ)
    lines = explained.out.split(b"\n")
    replies = [masked(line[3:]) for line in lines if line.startswith(b"S: ")]
    commands = [line[3:] for line in lines if line.startswith(b"C: ")]
    assert explained.log == "" or name == "trouble", explained.log

    # The commands as they are printed, said to a real session.
    arguments = (str(PROGRAMS / "checker"), "true") if "SMTPAUTH" in environ else ()
    talk = home.talk(*arguments, SEEN=str(home.path / "seen"), **environ)
    heard = [talk.reply()]
    for command in commands:
        if command == b"(the message)":
            talk.send(MESSAGE.replace("\n", "\r\n").encode() + b".\r\n")
        else:
            if command.startswith(b"AUTH"):
                command = b"AUTH PLAIN AGpvZQBzZWNyZXQ="
            talk.send(command + b"\r\n")
        heard.append(talk.reply())
    run = talk.end(quit=False)
    assert [masked(reply) for reply in heard if reply] == last_lines(replies)
    assert explained.status == (len(home.messages()) != 1)
    if home.messages():
        (message,) = home.messages()
        found = [line[4:] for line in lines if line.startswith(b"    ")]
        assert all(recipient in found for recipient in message.recipients)
        head = message.text.partition(b"\n\n")[0].split(b"\n")[2:]
        assert [line[2:] for line in found if line.startswith(b"| ")][2:] == head
    assert b"\n" not in b"".join(heard)
    assert run.log


def last_lines(replies: list[bytes]) -> list[bytes]:
    return [line for line in replies if line[3:4] != b"-"]


def test_it_shows_what_each_plugin_says(home: Home) -> None:
    home.control(
        "plugins",
        label(decide(at="rcpt", say="reject", text="no", immune="relay"), "one"),
        label(decide(at="mail", say="decline", text="why%20not"), "two"),
    )
    run = home.run(b"", "--explain", "to=x@ok.example", "from=a@b", RELAYCLIENT="")
    text = re.sub(" +", " ", run.out.decode())
    assert "\n rcpt decide:one is not asked: the client is immune\n" in text
    assert "\n mail decide:two decline: why not\n" in text
    assert "\n rcpt relay accept" in text
    assert run.status == 0
    assert home.messages() == []


@pytest.mark.parametrize("names", ["SCRAM-SHA-256", "EXTERNAL", "FOO"])
def test_a_user_whom_no_password_lets_in(home: Home, names: str) -> None:
    """Whatever mechanisms a session has: here it is PLAIN."""
    home.control("authmechanisms", names)
    home.control("dovecotauth", "/nonexistent")
    for switch in (None, "!", "!+cram"):
        run = home.run(b"", "--explain", "user=joe", "to=x@no.example", SMTPAUTH=switch)
        assert run.status == 0 and b"\nS: 235 ok, go ahead" in run.out


def test_a_pause_is_told_and_not_waited_for(home: Home) -> None:
    home.plugin(
        "slow",
        """
        from qsmtpd.decision import DECLINED

        def mail(client, envelope):
            client.pause(3000)
            assert client.speaks(20) is False
            return DECLINED
        """,
    )
    home.control("plugins", "slow")
    run = home.run(b"", "--explain", "to=x@ok.example")
    assert b"waits 3000 seconds" in run.out
    assert b"waits 20 seconds" in run.out
    assert run.status == 0


@pytest.mark.parametrize(
    "words", [[], ["to"], ["from=a@b"], ["to=x", "ip=1", "ip=2"], ["to=x", "message=/nonexistent"]]
)
def test_what_cannot_be_explained(home: Home, words: list[str]) -> None:
    run = home.run(b"", "--explain", *words)
    assert run.status == 111
    assert run.out == b""
    assert run.log


def test_a_message_from_a_file(home: Home) -> None:
    path = home.path / "message"
    path.write_bytes(b"From: me\n\n.\nFrom here\n..\nno end")
    home.control("plugins", f"{PLUGINS}/record.py")
    line = decide(at="header", header="X-A:%20b")
    home.control("plugins", line)
    run = home.run(b"", "--explain", "to=x@ok.example", f"message={path}")
    assert b"    | X-A: b\n    | From: me\n" in run.out
    broken = home.run(b"", "--explain", "to=x@ok.example", QSMTPD_PLUGINS="nonesuch")
    assert broken.status == 111
    assert "nonesuch" in broken.log


# -- the test kit ------------------------------------------------------------

TEST = """
import pytest
from qsmtpd.testing import converse
from qsmtpd.facts import ControlError, Tls

SAY = ["EHLO c.example", "MAIL FROM:<a@b.example>", "RCPT TO:<x@ok.example>", "DATA",
       "Subject: x\\n\\n.dot\\n\\u00e9\\n", "NOOP", "QUIT"]


def test_all_is_well():
    talk = converse("PLUGINS/decide.py at=mail header=X-A:%20b", SAY)
    assert talk.replies[0] == "220 mx.example ESMTP"
    assert talk.replies[1].startswith("250-mx.example\\n250-PIPELINING\\n")
    assert talk.replies[4] == "354 go ahead"
    assert talk.replies[5].startswith("250 ok ")
    assert talk.replies[6:] == ["250 ok", "221 mx.example"]
    (message,) = talk.messages
    assert (message.sender, message.recipients) == ("a@b.example", ["x@ok.example"])
    assert message.text.startswith("Received: from client.example (HELO c.example) (192.0.2.1)")
    assert message.text.endswith("X-A: b\\nSubject: x\\n\\n.dot\\n\\\\xc3\\\\xa9\\n")
    assert any("event=plugin" in line for line in talk.log)
    assert talk.pauses == []


def test_a_refusal_and_what_follows():
    talk = converse(["PLUGINS/decide.py at=data say=reject text=no"], SAY)
    # The message is left out where DATA was refused.
    assert talk.replies[4:] == ["554 no (#5.7.1)", "250 ok", "221 mx.example"]
    assert talk.messages == []


def test_settings():
    talk = converse("builtins", SAY, environ={"RELAYCLIENT": ""}, controls={"rcpthosts": "none"})
    assert len(talk.messages) == 1
    talk = converse("builtins", SAY, controls={"rcpthosts": "none"})
    assert talk.replies[3].startswith("553 ")


def test_tls_and_auth():
    say = ["EHLO x", "AUTH PLAIN AGpvZQBzZWNyZXQ=", "MAIL FROM:<a@b>", "RCPT TO:<x@far.example>"]
    talk = converse("PLUGINS/record.py", say, tls=Tls(b"TLSv1.3", b"X"),
                    environ={"SMTPAUTH": ""}, checkpassword=["true"])
    assert talk.replies[2].startswith("235 ")
    assert talk.replies[4] == "250 ok"
    assert any("user=joe" in line and "tls=yes" in line for line in talk.log)


def test_trouble():
    talk = converse("PLUGINS/misbehave.py at=mail how=raise", SAY)
    assert talk.replies[2] == "451 policy trouble, try again later (#4.3.0)"
    assert any("plugin=misbehave hook=mail" in line for line in talk.log)
    assert talk.replies[-1] == "221 mx.example"


def test_one_that_does_not_stop_when_told_twice():
    talk = converse("PLUGINS/misbehave.py timeout=1 at=mail how=swallow-twice", SAY)
    assert talk.replies[2:] == ["421 policy trouble, try again later (#4.3.0)"]


def test_broken():
    with pytest.raises(ControlError):
        converse("PLUGINS/nonesuch.py", SAY)
    with pytest.raises(ControlError):
        converse("PLUGINS/misbehave.py at=start how=exit", SAY)


def test_it_is_read_anew(tmp_path):
    plugin = tmp_path / "mine.py"
    for text in (b"one", b"twofold"):
        plugin.write_text(
            "from qsmtpd.decision import reject\\n"
            f"def mail(client, envelope):\\n    return reject({text!r})\\n")
        talk = converse(str(plugin), ["MAIL FROM:<>"])
        assert talk.replies[1] == f"550 {text.decode()} (#5.7.1)"
"""


@pytest.mark.slow
def test_the_test_kit_elsewhere(tmp_path: Path) -> None:
    """Somebody's own pytest, in somebody's own directory."""
    (tmp_path / "test_mine.py").write_text(TEST.replace("PLUGINS", str(PLUGINS)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={"PATH": str(BIN) + ":/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout.decode()
    assert b"8 passed" in done.stdout


@pytest.mark.parametrize(
    "words", [["--explain", "to=x@ok.example"], ["--hooks"], ["--version"], ["--help"]]
)
def test_nobody_reads_what_it_says(home: Home, words: list[str]) -> None:
    """As `head` that has seen enough: it ends, and says no more; a full disk it names."""
    program = str(home.program("qsmtpd"))
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe, open("/dev/full", "wb") as full:
        for out, said in ((pipe, b""), (full, b"qsmtpd: No space left on device\n")):
            done = subprocess.run(
                [program, *words], stdout=out, stderr=subprocess.PIPE, env=home.environ
            )
            assert (done.returncode, done.stderr) == (111, said)


def test_interrupted_by_hand(home: Home) -> None:
    """^C where a message is awaited: it ends by the signal, as programs do, and shows no code."""
    command: Command = [BIN / "qsmtpd", "--explain", "to=x@ok.example", "message=-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=home.environ
    ) as child:
        assert child.stdin is not None and child.stderr is not None
        child.stdin.write(b"x\n")
        wait_until_read(child.stdin)
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE) == -signal.SIGINT
        assert child.stderr.read() == b""
