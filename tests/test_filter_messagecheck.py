"""The filter messagecheck: a program that is asked about each message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filters import TAKEN, build, client, logged, say, script
from harness import Home, Variables
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.decision import Decision, check_header_line
from qsmtpd.facts import Client, ControlError, Envelope
from qsmtpd.filters.messagecheck import _fields
from qsmtpd.policy.spool import SpooledMessage

pytestmark = pytest.mark.slow

NOW = b"451 a mail filter gives no answer now (#4.3.0)"
MESSAGE = b"Subject: hello\n\nbody\n"


def decide(
    home: Home,
    program: Path | str,
    message: bytes = MESSAGE,
    who: Client | None = None,
    envelope: Envelope | None = None,
    **environ: Any,
) -> Decision:
    """What the filter decides where this is the program."""
    with open(home.path / "log", "ab") as file:
        log = os.dup(file.fileno())
    plugin = build("messagecheck", home.path, log, MESSAGECHECK=os.fsencode(program), **environ)
    spooled = SpooledMessage()
    spooled.spool.write(message)
    spooled.file = spooled.spool.reader()
    envelope = envelope or Envelope(b"a@b.example")
    envelope.recipients = envelope.recipients or [b"x@ok.example"]
    decision: Decision = plugin.data_post(who or client(), envelope, spooled)
    return decision


def check(home: Home, text: str, message: bytes = MESSAGE, **environ: Any) -> bytes:
    """What the client is told where the program is this script."""
    return say("data_post", decide(home, script(home.path, text), message, **environ))


@pytest.mark.parametrize(
    ("status", "reply"),
    [
        (0, TAKEN),
        (99, TAKEN),
        (100, b"554 message was refused (#5.7.1)"),
        (111, b"451 message cannot be checked now (#4.7.1)"),
        *((status, NOW) for status in (1, 2, 31, 71, 112, 126, 127, 255)),
    ],
)
def test_exit_status(home: Home, status: int, reply: bytes) -> None:
    assert check(home, f"exit {status}") == reply
    events = logged(home.path / "log")
    assert [event["result"] for event in events] == ([f"exit {status}"] if reply == NOW else [])


@pytest.mark.parametrize("fail", ["defer", "pass", "refuse"])
@pytest.mark.parametrize(
    ("text", "result"), [("kill -9 $$", "signal 9"), ("exec sleep 1000", "timeout")]
)
def test_no_answer(home: Home, text: str, result: str, fail: str) -> None:
    never = b"554 a mail filter gives no answer (#5.3.0)"
    said = {"defer": NOW, "pass": TAKEN, "refuse": never}[fail]
    limit = "1" if result == "timeout" else "60"
    assert check(home, text, MESSAGECHECKTIMEOUT=limit, MESSAGECHECKFAIL=fail) == said
    (event,) = logged(home.path / "log")
    assert event["result"] == result and event["program"] == str(home.path / "check")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("echo no cats >&4; exit 100", b"554 no cats (#5.7.1)"),
        ("echo no cats now >&4; exit 111", b"451 no cats now (#4.7.1)"),
        (r"printf 'a\r\n250 ok\033 (#2.0.0)\n' >&4; exit 100",
         b"554 a 250 ok ( #2.0.0) (#5.7.1)"),
        ("head -c 300000 /dev/zero | tr '\\0' x >&4; exit 100",
         b"554 " + b"x" * 200 + b" (#5.7.1)"),
        ("echo to the log; echo and this >&2; exit 100", b"554 message was refused (#5.7.1)"),
    ],
)  # fmt: skip
def test_words(home: Home, text: str, reply: bytes) -> None:
    assert check(home, text) == reply


def test_what_it_has(home: Home) -> None:
    """The message, from its beginning, in a file that it cannot change; its descriptors."""
    text = f"ls -l /proc/$$/fd >{home.path}/fds; cat >{home.path}/told; echo x >&0 || exit 99"
    assert check(home, text, MESSAGE * 10_000) == TAKEN
    assert (home.path / "told").read_bytes() == MESSAGE * 10_000
    listing = (home.path / "fds").read_text().splitlines()[1:]
    places = dict(line.rpartition(" -> ")[0].split()[-1:] + [line.rpartition(" -> ")[2]]
                  for line in listing)  # fmt: skip
    assert {"0", "1", "2", "4"} == {fd for fd in places if len(fd) == 1}  # a shell has its own
    assert "(deleted)" in places["0"] and "pipe:" in places["4"]


def test_it_may_leave_the_message_unread(home: Home) -> None:
    for text in ("exit 0", "exec <&-; exit 0", "head -c 1 >/dev/null; exit 0"):
        assert check(home, text, MESSAGE * 100_000) == TAKEN


def test_its_environment(home: Home) -> None:
    program = script(home.path, f"env -0 >{home.path}/told")
    environ: Variables = {"LD_PRELOAD": "/nowhere", "SMTPAUTHUSER": "forged", "YOURS": "yes"}
    envelope = Envelope(b"a@b.example")
    envelope.recipients = [b"x@ok.example", b"y@ok.example"]
    decide(home, program, who=client(user=b"joe", **environ), envelope=envelope)
    pairs = (line.partition(b"=") for line in (home.path / "told").read_bytes().split(b"\0"))
    told = {name: value for name, _, value in pairs}
    expected = {
        b"SENDER": b"a@b.example",
        b"RECIPIENTS": b"x@ok.example\ny@ok.example",
        b"SIZE": b"%d" % len(MESSAGE),
        b"HELO": b"client.example",
        b"RELAYCLIENT": b"",
        b"TCPREMOTEINFO": b"joe",
        b"SMTPAUTHUSER": b"joe",
        b"SMTP_AUTH_USER": b"joe",
        b"YOURS": b"yes",
    }
    assert {name: told.get(name) for name in expected} == expected
    assert b"LD_PRELOAD" not in told


@pytest.mark.parametrize("place", ["sender", "recipient", "helo", "user"])
def test_functions(home: Home, place: str) -> None:
    program = script(home.path, f"touch {home.path}/ran")
    envelope = Envelope(b"() { :; }; x" if place == "sender" else b"a@b.example")
    envelope.recipients = [b"() { :; }; x@ok.example" if place == "recipient" else b"x@ok.example"]
    who = client(
        helo=b"() { :; }; x" if place == "helo" else b"x",
        user=b"() { :; }; x" if place == "user" else None,
    )
    decision = decide(home, program, who=who, envelope=envelope)
    text = b"554 sorry, that cannot be passed to our message check (#5.7.1)"
    assert say("data_post", decision) == text
    assert not (home.path / "ran").exists()


def test_very_many_recipients(home: Home) -> None:
    """More than a variable can hold: the program cannot be told, so there is no answer."""
    envelope = Envelope(b"a@b.example")
    for number, said in ((900, TAKEN), (1100, NOW)):
        envelope.recipients = [b"%099d" % number for number in range(number)]
        decision = decide(home, script(home.path, "exit 0"), envelope=envelope)
        assert say("data_post", decision) == said
    assert logged(home.path / "log")[-1]["result"] == "too many recipients"


@pytest.mark.parametrize(
    ("beyond", "reply"),
    [
        ("pass", TAKEN),
        ("defer", b"451 message is too large to be checked now (#4.3.4)"),
        ("refuse", b"552 message is too large to be checked (#5.3.4)"),
    ],
)
def test_size(home: Home, beyond: str, reply: bytes) -> None:
    limits: Variables = {"MESSAGECHECKSIZE": str(len(MESSAGE)), "MESSAGECHECKBEYOND": beyond}
    no = b"554 message was refused (#5.7.1)"
    assert check(home, "exit 100", **limits) == no
    assert check(home, "exit 100", MESSAGE + b"x", **limits) == reply
    assert check(home, "exit 100", MESSAGE + b"x", MESSAGECHECKSIZE="0") == no


def test_its_header_lines(home: Home) -> None:
    text = r"printf 'X-A: one\nX-B: two\n  folded\nno line\n\nX-C: \r\n:x\nX-D: end' >&4"
    decision = decide(home, script(home.path, text))
    assert decision.header == (b"X-A: one", b"X-B: two\n  folded", b"X-C: ", b"X-D: end")
    # None of a message that is refused.
    assert decide(home, script(home.path, text + "; exit 100")).header == ()
    many = decide(home, script(home.path, "yes 'X-A: x' | head -n 100000 >&4"))
    assert many.header == (b"X-A: x",) * 50


@given(st.binary(max_size=200) | st.text("X:\n \t\r\0a", max_size=60).map(str.encode))
def test_any_header_lines(text: bytes) -> None:
    for line in _fields(text):
        check_header_line(line)


@pytest.mark.parametrize("names", ["X:", "a b\x01", "*", "X*Y", "\xff"])
def test_what_is_no_name(home: Home, names: str) -> None:
    with pytest.raises(ControlError, match="MESSAGECHECKHEADERS"):
        decide(home, "/bin/true", MESSAGECHECKHEADERS=names)


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


#: What may stand in the place of a program, and how it is made there.
KINDS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "not executable": lambda path: path.write_text("exit 0"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "fifo": lambda path: os.mkfifo(path),
    "no script": lambda path: executable(path, "exit 0"),
    "no interpreter": lambda path: executable(path, "#!/nowhere\n"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_program(home: Home, kind: str) -> None:
    """One that is not there is refused at the start; the others are no answer; --check says so."""
    KINDS[kind](home.path / "program")
    home.control("messagecheck", "program")
    done = home.run(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nx: y\r\n.\r\nQUIT\r\n")
    if kind in ("missing", "dangling"):
        assert done.lines == [b"421 unable to read controls (#4.3.0)"]
    else:
        assert done.lines[4] == NOW
        assert done.event("plugin")["result"].startswith("cannot be started: ")
    assert home.messages() == []
    checked = home.run(b"", "--check")
    assert checked.status == 1 and b"wrong: control/messagecheck: program " in checked.out


def test_a_session(home: Home) -> None:
    """Lines are added and forged ones removed; the queue has exactly the rest."""
    program = home.path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "text = sys.stdin.buffer.read()\n"
        "os.write(4, b'X-Check: %d\\n' % len(text))\n"
        "sys.exit(100 if b'bad' in text else 0)\n"
    )
    program.chmod(0o755)
    home.control("messagecheck", "program")
    message = b"Subject: x\r\nX-Check: forged\r\n\r\n.. dots\r\n%b\r\n.\r\n"
    commands = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n"
    done = home.run(
        b"".join(commands + message % word for word in (b"bad", b"good")) + b"QUIT\r\n",
        MESSAGECHECKHEADERS="x-CHECK",
    )
    assert done.codes[4] == 554 and done.lines[8] == b"250 ok TIME qp PID"
    (stored,) = home.messages()
    assert stored.body == b"X-Check: 24\nSubject: x\n\n. dots\ngood\n"
    assert done.events("message")[0]["by"] == "messagecheck"
    off = home.run(commands + message % b"bad" + b"QUIT\r\n", MESSAGECHECK="")
    assert off.lines[4] == b"250 ok TIME qp PID"
    assert b"X-Check: forged" in home.messages()[-1].body


def test_where_the_message_is(home: Home) -> None:
    """In TMPDIR, without a name; where that is nowhere, no message is taken, and no other."""
    home.control("messagecheck", "program")
    executable(home.path / "program", f"#!/bin/sh\nls -l /proc/self/fd/0 >{home.path}/seen\n")
    commands = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nx: y\r\n.\r\nQUIT\r\n"
    folder = home.path / "tmp"
    folder.mkdir()
    assert home.run(commands, TMPDIR=str(folder)).codes[4] == 250
    seen = (home.path / "seen").read_text()
    assert f" -> {folder}/qsmtpd-" in seen and "(deleted)" in seen
    assert not list(folder.iterdir())
    for place in (home.path / "nowhere", home.path / "program"):
        assert home.run(commands, TMPDIR=str(place)).lines[3].startswith(b"451 ")
    assert home.run(commands, TMPDIR="").codes[4] == 250
