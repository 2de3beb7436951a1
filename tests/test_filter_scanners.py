"""The filters clamd, spamd and rspamd, with daemons that follow a script: tests/daemons.py."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import pytest
from client import PATIENCE
from daemons import Head, Line, Peer, Script, clamd, http, rspamd, spam, spamd
from filters import TAKEN, build, client, logged, open_log, say
from harness import Home
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.decision import Decision, check_header_line
from qsmtpd.facts import Client, ControlError, Envelope, Tls
from qsmtpd.filters.rspamd import encoded
from qsmtpd.filters.scan import field
from qsmtpd.net import http as http_client
from qsmtpd.net import rspamd as rspamd_client
from qsmtpd.net import spamd as spamd_client
from qsmtpd.net.daemon import NoAnswer, parse_address
from qsmtpd.policy.spool import Spool, SpooledMessage
from qsmtpd.smtp.header import parse_header

pytestmark = pytest.mark.slow

MESSAGE = b"From: a@b.example\nSubject: hello\n\nbody\n.\n"
FIRST = b"Received: from us\n  by mx; 1 Jan 2026\n"
NOW = b"451 a mail filter gives no answer now (#4.3.0)"
NEVER = b"554 a mail filter gives no answer (#5.3.0)"
NO_HEADERS: Head = (b"", [])
NO_ACTION = b'{"action": "no action", "score": 1, "required_score": 2}'


class Filter:
    """One of them, with its daemon; `peer` is that, `log` where it logs."""

    def __init__(self, home: Home, name: str, peer: Peer) -> None:
        self.home, self.name, self.peer = home, name, peer
        self.log = home.path / "log"
        self.options = ""
        self.message: SpooledMessage | None = None

    def ask(
        self,
        message: bytes = MESSAGE,
        who: Client | None = None,
        envelope: Envelope | None = None,
    ) -> Decision:
        """What it decides of this message."""
        self.home.control(self.name, f"{self.peer.address} {self.options}")
        plugin = build(self.name, self.home.path, open_log(self.log))
        spooled = self.message = SpooledMessage()
        spooled.spool.write(message)
        spooled.header = parse_header(message)
        spooled.file = spooled.spool.reader()
        spooled.file.read(5)  # as a plugin before it may have done
        spooled.first = FIRST
        envelope = envelope or Envelope(b"a@b.example")
        envelope.recipients = envelope.recipients or [b"x@ok.example"]
        decision: Decision = plugin.data_post(who or client(), envelope, spooled)
        return decision

    def says(self, message: bytes = MESSAGE, who: Client | None = None) -> bytes:
        """What the client is told."""
        return say("data_post", self.ask(message, who))

    def lines(self, message: bytes = MESSAGE) -> list[bytes]:
        """What it adds to the header of a message that it takes."""
        decision = self.ask(message)
        assert say("data_post", decision) == TAKEN
        return list(decision.header)

    def events(self) -> list[dict[str, str]]:
        return logged(self.log)


Start = Callable[[str, Script], Filter]


def keep(where: list[Any], what: object, answer: bytes) -> bytes:
    """This answer; what it answers is kept."""
    where.append(what)
    return answer


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    """Starts a daemon, which the filter of this name asks."""
    peers: list[Peer] = []

    def begin(name: str, script: Script) -> Filter:
        peers.append(Peer(script, home.path / f"socket.{len(peers)}"))
        return Filter(home, name, peers[-1])

    yield begin
    for peer in peers:
        peer.stop()


# -- none of them has an answer -----------------------------------------------

NAMES = ("clamd", "spamd", "rspamd")


def silent(line: Line) -> None:
    """It reads all, and says nothing."""
    line.wait_for_end()


def closes(line: Line) -> None:
    line.socket.recv(1)


#: Of each the beginning of an answer.
HALF = {
    "clamd": b"stream: OK",
    "spamd": spam(b"1.0")[:-5],
    "rspamd": http(NO_ACTION)[:-5],
}
#: How a daemon may fail; each is given its name.
FAILURES: dict[str, Callable[[str], Script]] = {
    "closes at once": lambda name: closes,
    "half, and closes": lambda name: lambda line: line.say(HALF[name]),
    "10 MB": lambda name: lambda line: line.say(b"x" * 10_000_000),
    "10 MB of lines": lambda name: lambda line: line.say(b"x: y\r\n" * 1_700_000),
    "garbage": lambda name: lambda line: line.say(bytes(range(256)) * 4),
    "empty lines": lambda name: lambda line: line.say(b"\r\n" * 100),
    "SMTP": lambda name: lambda line: line.say(b"220 mx.example ESMTP\r\n" * 2),
}


@pytest.mark.parametrize("fail", ["", "fail=defer", "fail=pass", "fail=refuse"])
@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("name", NAMES)
def test_no_answer(start: Start, name: str, how: str, fail: str) -> None:
    asked = start(name, FAILURES[how](name))
    asked.options = fail
    said = {"fail=pass": TAKEN, "fail=refuse": NEVER}.get(fail, NOW)
    decision = asked.ask()
    assert say("data_post", decision) == said and decision.header == ()
    (event,) = asked.events()
    assert event["server"] == asked.peer.address and event["result"]
    assert asked.peer.connections == 1


@pytest.mark.parametrize(("reads", "fail"), [(True, "defer"), (True, "pass"), (False, "refuse")])
@pytest.mark.parametrize("name", NAMES)
def test_too_late(start: Start, name: str, reads: bool, fail: str) -> None:
    """It says nothing; or does not even read, of more than any buffer holds."""
    over = threading.Event()
    asked = start(name, silent if reads else lambda line: over.wait(PATIENCE))
    asked.options = f"timeout=1 fail={fail} size=20000000"
    said = {"defer": NOW, "pass": TAKEN, "refuse": NEVER}[fail]
    assert asked.says(MESSAGE + b"x" * 10_000_000) == said
    assert asked.events()[0]["result"] == "timeout"
    over.set()


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_too_early(start: Start, name: str, reads: bool) -> None:
    """It has a verdict before it has been sent more than any buffer holds."""
    answer = {"clamd": b"stream: OK\n", "spamd": spam(b"1.0"), "rspamd": http(NO_ACTION)}[name]

    def script(line: Line) -> None:
        line.take(100)
        line.say(answer)
        if reads:
            line.wait_for_end()

    asked = start(name, script)
    asked.options = "size=20000000"
    assert asked.says(MESSAGE + b"x" * 10_000_000) == NOW
    assert asked.events()[0]["result"] == "answers before it has all of the message"


#: What is heard nevertheless.
EARLY = {
    "clamd": (b"stream: Virus FOUND\n", b"554 message has a virus: Virus (#5.7.1)", None),
    "spamd": (b"SPAMD/1.5 74 EX_TEMPFAIL\r\n", NOW, "says 74 EX_TEMPFAIL"),
    "rspamd": (http(b"{}", b"503 Busy"), NOW, "says 503 "),
}


@pytest.mark.parametrize("name", NAMES)
def test_early_and_heard(start: Start, name: str) -> None:
    answer, reply, result = EARLY[name]

    def script(line: Line) -> None:
        line.take(100)
        line.say(answer)
        line.wait_for_end()

    asked = start(name, script)
    asked.options = "size=20000000"
    assert asked.says(MESSAGE + b"x" * 10_000_000) == reply
    assert asked.events()[0].get("result") == result


@pytest.mark.parametrize("name", NAMES)
def test_nobody_there(start: Start, name: str) -> None:
    asked = start(name, closes)
    asked.peer.stop()
    assert asked.says() == NOW
    assert asked.events()[0]["result"] == "Connection refused"


@pytest.mark.parametrize("name", NAMES)
def test_half_a_connection(start: Start, name: str) -> None:
    """It reads on, has sent the half of an answer, and no more will come."""

    def script(line: Line) -> None:
        line.say(HALF[name])
        line.socket.shutdown(socket.SHUT_WR)
        line.wait_for_end()

    assert start(name, script).says() == NOW


# -- what all of them have ----------------------------------------------------

CLEAN = {
    "clamd": clamd(lambda message: b"stream: OK\n"),
    "spamd": spamd(lambda head, message: spam(b"1.0")),
    "rspamd": rspamd(lambda head, message: http(NO_ACTION)),
}


def heard_by(name: str, heard: list[bytes]) -> Script:
    """A daemon that keeps each message that it is shown."""
    if name == "clamd":
        return clamd(lambda message: keep(heard, message, b"stream: OK\n"))
    if name == "spamd":
        return spamd(lambda head, message: keep(heard, message, spam(b"1.0")))
    answer = http(NO_ACTION)
    return rspamd(lambda head, message: keep(heard, message, answer))


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 400_000])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown(start: Start, name: str, size: int) -> None:
    """Every byte of the message; to spamd our Received in front of it, to the others alone."""
    heard: list[bytes] = []
    message = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert start(name, heard_by(name, heard)).says(message) == TAKEN
    assert heard == [FIRST + message if name == "spamd" else message]


@pytest.mark.parametrize(
    ("beyond", "reply"),
    [
        ("", TAKEN),
        ("beyond=pass", TAKEN),
        ("beyond=defer", b"451 message is too large to be checked now (#4.3.4)"),
        ("beyond=refuse", b"552 message is too large to be checked (#5.3.4)"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_size(start: Start, name: str, beyond: str, reply: bytes) -> None:
    asked = start(name, CLEAN[name])
    asked.options = f"size={len(MESSAGE)} {beyond}"
    assert asked.says() == TAKEN
    assert asked.peer.connections == 1
    assert asked.says(MESSAGE + b"x") == reply
    assert asked.peer.connections == 1
    event = asked.events()[-1]
    assert (event["result"], event["size"]) == ("too large", str(len(MESSAGE) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_without_headers(start: Start, name: str) -> None:
    asked = start(name, CLEAN[name])
    asked.options = "headers=no"
    assert asked.lines() == []
    plugin = build(name, asked.home.path)
    assert plugin.header(None, None, None).remove == {}
    asked.home.control(name, asked.peer.address)
    assert build(name, asked.home.path).header(None, None, None).remove != {}


@pytest.mark.parametrize("name", NAMES)
def test_two_of_them(start: Start, home: Home, name: str) -> None:
    """Each is asked, and what one of them says decides; what they add is all there."""
    one, two = start(name, CLEAN[name]), start(name, CLEAN[name])
    dead = f"unix:{home.path}/nobody fail=pass"
    one.options = f"name=one\n{two.peer.address} name=two\n{dead}\n"
    alone = start(name, CLEAN[name]).lines()
    assert one.lines() == alone * 2
    assert (one.peer.connections, two.peer.connections) == (1, 1)
    one.options = f"name=one\n{dead}5 fail=refuse\n{two.peer.address}".replace("pass5 fail=", "")
    assert one.says() == NEVER
    assert (one.peer.connections, two.peer.connections) == (2, 1)


@pytest.mark.parametrize(
    "options",
    [
        "size=0",
        "size=x",
        "size=1k",
        "size=" + "9" * 21,
        "beyond=maybe",
        "headers=1",
        "timeout=0",
        "fail=maybe",
        "x=y",
        "size",
        "size=1 size=2",
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_option(home: Home, name: str, options: str) -> None:
    home.control(name, f"unix:/socket {options}")
    with pytest.raises(ControlError) as error:
        build(name, home.path)
    assert error.value.name == f"control/{name}" and "line 1: " in error.value.reason


@pytest.mark.parametrize("options", ["reject=x", "reject=1e3", "reject=nan", "reject=.", "user="])
def test_what_is_no_option_of_spamd(home: Home, options: str) -> None:
    home.control("spamd", f"unix:/socket {options}")
    with pytest.raises(ControlError):
        build("spamd", home.path)


@pytest.mark.parametrize("options", ["reject=x", "greylist=no", "user=x"])
def test_what_is_no_option_of_rspamd(home: Home, options: str) -> None:
    home.control("rspamd", f"unix:/socket {options}")
    with pytest.raises(ControlError):
        build("rspamd", home.path)


@pytest.mark.parametrize("name", NAMES)
def test_check(start: Start, name: str) -> None:
    """--check reaches each, says what it answers, and what it has to say against it."""
    asked = start(name, CLEAN[name])
    home = asked.home
    home.control(name, asked.peer.address)
    done = home.run(b"", "--check")
    says = {"clamd": "ClamAV 1.4.6/1/now", "spamd": "SPAMD/1.5", "rspamd": "rspamd/3.4"}[name]
    assert f"ok: {name}'s socket = {asked.peer.address} (it answers {says})\n".encode() in done.out
    assert done.status == 0, done.out
    for other in (closes, FAILURES["garbage"](name), FAILURES["10 MB"](name)):
        asked.peer.script = other
        done = home.run(b"", "--check")
        wrong = f"wrong: control/{name}: {asked.peer.address} gives no answer: "
        assert done.status == 1 and wrong.encode() in done.out
    asked.peer.stop()
    done = home.run(b"", "--check")
    assert done.status == 1 and b"gives no answer: Connection refused\n" in done.out
    home.control(name, "# none")
    done = home.run(b"", "--check")
    wrong = f"wrong: control/{name}: has no entry, so nobody is asked\n"
    assert done.status == 1 and wrong.encode() in done.out


@pytest.mark.parametrize("name", NAMES)
def test_explain(start: Start, name: str) -> None:
    """A dry run asks them, too, and says what each decides."""
    asked = start(name, CLEAN[name])
    asked.home.control(name, asked.peer.address)
    done = asked.home.run(b"", "--explain", "to=x@ok.example")
    assert done.status == 0 and f"data_post  {name} ".encode() in done.out
    asked.peer.stop()
    done = asked.home.run(b"", "--explain", "to=x@ok.example")
    assert done.status == 1 and b"S: " + NOW in done.out


@pytest.mark.parametrize("name", NAMES)
def test_term_while_it_scans(start: Start, name: str) -> None:
    """The client is told, and nothing is queued."""
    shown = threading.Event()

    def script(line: Line) -> None:
        line.take(10)
        shown.set()
        line.wait_for_end()

    asked = start(name, script)
    asked.home.control(name, asked.peer.address)
    with asked.home.talk() as talk:
        talk.reply()
        talk.send(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nx: y\r\n.\r\n")
        assert shown.wait(PATIENCE)
        talk.process.send_signal(signal.SIGTERM)
        assert talk.ended().lines[-1] == b"421 shutting down, try again later (#4.3.2)"
    assert asked.home.messages() == []


def test_check_of_one_that_decides_nothing(start: Start) -> None:
    asked = start("spamd", CLEAN["spamd"])
    what = b"with headers=no and reject=never is asked for the log alone"
    for options, warned in (("headers=no", True), ("", False), ("headers=no reject=5", False)):
        asked.home.control("spamd", f"{asked.peer.address} {options}")
        assert (what in asked.home.run(b"", "--check").out) == warned


# -- clamd --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (b"stream: OK\n", TAKEN),
        (b"stream: Eicar-Test-Signature FOUND\n",
         b"554 message has a virus: Eicar-Test-Signature (#5.7.1)"),
        (b"stream: A B FOUND FOUND\n", b"554 message has a virus: A B FOUND (#5.7.1)"),
        (b"stream: \xff\r\x01(#2.0.0) FOUND\n",
         b"554 message has a virus: ???( #2.0.0) (#5.7.1)"),
        (b"stream: " + b"x" * 2000 + b" FOUND\n",
         b"554 message has a virus: " + b"x" * 100 + b" (#5.7.1)"),
        (b"INSTREAM size limit exceeded. ERROR\n", TAKEN),
        (b"stream: Can't open file ERROR\n", NOW),
        (b"stream:  FOUND\n", NOW),
        (b"stream: FOUND\n", NOW),
        (b"stream: OK \n", NOW),
        (b"stream: ok\n", NOW),
        (b"OK\n", NOW),
        (b"UNKNOWN COMMAND\n", NOW),
        (b"\n", NOW),
    ],
)  # fmt: skip
def test_clamd(start: Start, answer: bytes, reply: bytes) -> None:
    asked = start("clamd", clamd(lambda message: answer))
    decision = asked.ask()
    assert say("data_post", decision) == reply
    clean = answer == b"stream: OK\n"
    assert decision.header == ((b"X-Virus-Status: Clean",) if clean else ())
    if b" FOUND" in answer and reply != NOW:
        assert asked.events()[0]["found"].encode("latin-1")[:9] == answer[8:-7][:9]


@pytest.mark.parametrize("beyond", ["defer", "refuse"])
def test_clamd_has_enough(start: Start, beyond: str) -> None:
    """It says so before it has read all, and closes the connection."""

    def script(line: Line) -> None:
        line.take(100_000)
        line.say(b"INSTREAM size limit exceeded. ERROR\n")

    asked = start("clamd", script)
    asked.options = f"beyond={beyond}"
    reply = {"defer": b"451 message is too large to be checked now (#4.3.4)",
             "refuse": b"552 message is too large to be checked (#5.3.4)"}[beyond]  # fmt: skip
    assert asked.says(b"x" * 5_000_000) == reply
    assert asked.events()[0]["result"] == "too large for it"


# -- spamd --------------------------------------------------------------------

SPAM = b"554 message is spam, with a score of %b (#5.7.1)"


@pytest.mark.parametrize(
    ("reject", "score", "refused"),
    [
        ("", b"1000.0", False),
        ("reject=never", b"1000.0", False),
        ("reject=verdict", b"4.9", False),
        ("reject=verdict", b"5.0", True),
        ("reject=7.5", b"7.4", False),
        ("reject=7.5", b"7.5", True),
        ("reject=10", b"9.9", False),
        ("reject=10", b"1000.0", True),
        ("reject=-1", b"-0.5", True),
        ("reject=-1", b"-1.1", False),
    ],
)
def test_spamd(start: Start, reject: str, score: bytes, refused: bool) -> None:
    asked = start("spamd", spamd(lambda head, message: spam(score)))
    asked.options = reject
    assert asked.says() == (SPAM % score if refused else TAKEN)
    event = asked.events()[0]
    shown = (event["score"], event["required"], event["tests"])
    assert shown == (score.decode(), "5.0", "ONE,TWO")


@pytest.mark.parametrize(
    ("score", "tests", "lines"),
    [
        (b"7.2", b"ONE,TWO", [b"X-Spam-Status: Yes, score=7.2 required=5.0\n\ttests=ONE,TWO",
                              b"X-Spam-Level: *******", b"X-Spam-Flag: YES"]),
        (b"0.9", b"", [b"X-Spam-Status: No, score=0.9 required=5.0\n\ttests=none"]),
        (b"-3.0", b"ONE", [b"X-Spam-Status: No, score=-3.0 required=5.0\n\ttests=ONE"]),
        (b"2000.0", b"ONE", [b"X-Spam-Status: Yes, score=2000.0 required=5.0\n\ttests=ONE",
                             b"X-Spam-Level: " + b"*" * 50, b"X-Spam-Flag: YES"]),
    ],
)  # fmt: skip
def test_lines_of_spamd(start: Start, score: bytes, tests: bytes, lines: list[bytes]) -> None:
    asked = start("spamd", spamd(lambda head, message: spam(score, tests)))
    assert asked.lines() == lines


@pytest.mark.parametrize(
    "tests",
    [
        b",".join(b"RULE_%d" % number for number in range(3000)),
        b"x" * 60000,
        b"A\r\nX-Forged: yes,B\n\nbody,\0,\xff",
        b"," * 1000,
    ],
)
def test_hostile_tests(start: Start, tests: bytes) -> None:
    """Whatever it says stays in one field, whose lines are not too long."""
    asked = start("spamd", spamd(lambda head, message: spam(b"1.0", tests)))
    status, _ = asked.lines()
    assert all(len(line) < 998 for line in status.split(b"\n"))
    found = message_from_bytes(status + b"\n\n")
    assert list(found) == ["X-Spam-Status"] and status.isascii() and b"\r" not in status


def test_user_of_spamd(start: Start) -> None:
    heads: list[Head] = []
    asked = start("spamd", spamd(lambda head, message: keep(heads, head, spam(b"1.0"))))
    asked.ask()
    asked.options = "user=joe"
    asked.ask()
    size = b"%d" % (len(FIRST) + len(MESSAGE))
    assert [lines for _, lines in heads] == [
        [(b"Content-length", size)],
        [(b"Content-length", size), (b"User", b"joe")],
    ]


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"SPAMD/1.1 79 Timeout: (30 second timeout while trying to SYMBOLS)\r\n\r\n",
         "says 79 Timeout: (30 second timeout while trying to SYMBOLS)"),
        (b"SPAMD/1.0 76 Bad header line\r\n", "says 76 Bad header line"),
        (b"SPAMD/1.1 0 EX_OK\r\n\r\n", "talks nonsense"),
        (b"SPAMD/1.1 0 EX_OK\r\nSpam: True\r\n\r\n", "talks nonsense"),
        (b"SPAMD/1.1 0 EX_OK\r\nSpam: Maybe ; 1.0 / 5.0\r\n\r\n", "talks nonsense"),
        (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; nan / 5.0\r\n\r\n", "talks nonsense"),
        (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1e9 / 5.0\r\n\r\n", "talks nonsense"),
        (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; " + b"9" * 30 + b" / 5.0\r\n\r\n", "talks nonsense"),
        (b"SPAMD/1.1 0 EX_OK\r\nContent-length: -1\r\nSpam: True ; 9.0 / 5.0\r\n\r\n",
         "talks nonsense"),
        (b"SPAMD/1.1 0 EX_OK\r\nContent-length: 99999\r\nSpam: True ; 9.0 / 5.0\r\n\r\n",
         "answers too long"),
        (b"SPAMD/1.1 0 EX_OK\r\nno colon\r\n\r\n", "talks nonsense"),
        (b"SPAMD/1.1\r\n\r\n", "talks nonsense"),
    ],
)  # fmt: skip
def test_no_answer_of_spamd(start: Start, answer: bytes, result: str) -> None:
    asked = start("spamd", spamd(lambda head, message: answer))
    assert asked.says() == NOW
    assert asked.events()[0]["result"] == result


def test_an_answer_of_spamd_without_a_length(start: Start) -> None:
    answer = b"SPAMD/1.0 0 EX_OK\r\nspam: False ; 1.0 / 5.0\r\n\r\nONE\r\n"
    asked = start("spamd", spamd(lambda head, message: answer))
    assert asked.lines()[0].endswith(b"tests=ONE")


@given(st.binary(max_size=30) | st.text("-.0123456789", max_size=24).map(str.encode))
def test_numbers(text: bytes) -> None:
    """What counts as a number is one, and none that is infinite."""
    if spamd_client.is_number(text):
        assert -1e20 < float(text) < 1e20
        assert set(text) <= set(b"-.0123456789")


# -- rspamd -------------------------------------------------------------------

Json = dict[str, Any]


def result(**more: Any) -> bytes:
    """An answer with these besides what it always has."""
    return http(json.dumps({"action": "no action", "score": 1.5, "required_score": 15, **more})
                .encode())  # fmt: skip


def told(start: Start, answer: bytes) -> Filter:
    return start("rspamd", rspamd(lambda head, message: answer))


@pytest.mark.parametrize(
    ("options", "more", "reply"),
    [
        ("", {"action": "no action"}, TAKEN),
        ("", {"action": "greylist"}, TAKEN),
        ("greylist=defer", {"action": "greylist"}, b"451 try again later (#4.7.1)"),
        ("", {"action": "add header"}, TAKEN),
        ("", {"action": "rewrite subject", "subject": "x"}, TAKEN),
        ("", {"action": "soft reject"}, b"451 try again later (#4.7.1)"),
        ("", {"action": "soft reject", "messages": {"smtp_message": "Ratelimit \"x\""}},
         b'451 Ratelimit "x" (#4.7.1)'),
        ("", {"action": "reject"}, b"554 message is spam (#5.7.1)"),
        ("", {"action": "reject", "messages": {"smtp_message": "Gtube pattern"}},
         b"554 Gtube pattern (#5.7.1)"),
        ("", {"action": "reject", "messages": {"smtp_message": "a\r\n250 ok \u00e9 (#2.0.0)"}},
         b"554 a??250 ok ?? ( #2.0.0) (#5.7.1)"),
        ("", {"action": "reject", "messages": {"smtp_message": "x" * 999}},
         b"554 " + b"x" * 200 + b" (#5.7.1)"),
        ("reject=never", {"action": "reject"}, TAKEN),
        ("reject=never", {"action": "soft reject"}, b"451 try again later (#4.7.1)"),
        ("reject=20", {"action": "reject", "score": 19.9}, TAKEN),
        ("reject=20", {"action": "no action", "score": 20}, b"554 message is spam (#5.7.1)"),
        ("", {"action": "quarantine"}, TAKEN),
        ("", {"action": "mine"}, NOW),
        ("fail=pass", {"action": "mine"}, TAKEN),
        ("", {"action": ""}, NOW),
        ("", {"action": "Reject"}, NOW),
    ],
)  # fmt: skip
def test_actions(start: Start, options: str, more: Json, reply: bytes) -> None:
    asked = told(start, result(**more))
    asked.options = options
    assert asked.says() == reply


def test_discard(start: Start) -> None:
    decision = told(start, result(action="discard")).ask()
    assert (decision.verdict, decision.text) == ("discard", b"rspamd wants it")


def test_what_rspamd_is_told(start: Start) -> None:
    heads: list[Head] = []
    asked = start("rspamd", rspamd(lambda head, message: keep(heads, head, result())))
    asked.options = "settings=outbound"
    who = client(user=b"joe", helo=b"client.example")
    who.tls = Tls(b"TLSv1.3", b"TLS_AES_256_GCM_SHA384")
    envelope = Envelope(b"a@b.example")
    envelope.recipients = [b"x@ok.example", b"a b\r\nUser: root@ok.example", b"\xc3\xb6@ok.example"]
    asked.ask(who=who, envelope=envelope)
    lines = heads[0][1]
    (id,) = [value for name, value in lines if name == b"Queue-Id"]
    assert lines == [
        (b"IP", b"192.0.2.1"),
        (b"Hostname", b"client.example"),
        (b"Helo", b"client.example"),
        (b"User", b"joe"),
        (b"TLS-Version", b"TLSv1.3"),
        (b"TLS-Cipher", b"TLS_AES_256_GCM_SHA384"),
        (b"From", b"<a@b.example>"),
        (b"Rcpt", b"<x@ok.example>"),
        (b"Rcpt", b"<a b??User: root@ok.example>"),
        (b"Rcpt", b"<\xc3\xb6@ok.example>"),
        (b"Queue-Id", id),
        (b"Settings-ID", b"outbound"),
        (b"Content-Length", b"%d" % len(MESSAGE)),
    ]
    (event,) = asked.events()
    assert event["id"] == id.decode()
    assert (event["action"], event["score"], event["required"]) == ("no action", "1.50", "15.00")


def test_lines_of_rspamd(start: Start) -> None:
    milter = {
        "add_headers": {
            "X-Spamd-Result": {"value": "default: False [1.50 / 15.00];\n\tA(1.00)[]", "order": 1},
            "X-Two": [{"value": "one", "order": 0}, {"value": "two"}, "three"],
            "X-Plain": "text",
        }
    }
    asked = told(start, result(action="add header", milter=milter, **{"dkim-signature": "v=1; a"}))
    assert asked.lines() == [
        b"X-Spamd-Result: default: False [1.50 / 15.00];\n\tA(1.00)[]",
        b"X-Two: one",
        b"X-Two: two",
        b"X-Two: three",
        b"X-Plain: text",
        b"DKIM-Signature: v=1; a",
        b"X-Spam: Yes",
    ]


def test_quarantine(start: Start) -> None:
    """For who delivers it, as with milters."""
    said = {"messages": {"smtp_message": "look at it"}}
    assert told(start, result(action="quarantine", **said)).lines() == [b"X-Quarantine: look at it"]
    assert told(start, result(action="quarantine")).lines() == [b"X-Quarantine: rspamd wants it"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "one\r\nX-Forged: yes"),
        ("X-A", "one\n\nbody"),
        ("X-A", "\n\n \n"),
        ("X-A", "\0\x01\x7f\u00e9\ud800"),
        ("X-A", "x" * 100_000),
        ("X-A", "x\n" * 10_000),
        ("X A", "text"),
        ("X-A: b", "text"),
        ("X-\u00c4", "text"),
        ("", "text"),
        ("X" * 1000, "text"),
        ("X-A\r\nX-Forged", "text"),
    ],
)
def test_hostile_lines_of_rspamd(start: Start, name: str, value: str) -> None:
    """What it says can neither end the header nor make another field, and stays short."""
    asked = told(start, result(milter={"add_headers": {name: value, "X-End": "x"}}))
    *before, last = asked.lines()
    assert last == b"X-End: x" and len(before) == (name == "X-A")
    for line in before:
        check_header_line(line)
        assert line.isascii() and len(line) < 50_000
        assert all(len(part) < 998 for part in line.split(b"\n"))
        assert list(message_from_bytes(line + b"\n\n")) == ["X-A"]


@pytest.mark.parametrize(
    "quoted", [b"\xff\xe9", b"\xed\xa0\x80", b"\0\x1b[2J\r\n", b"\xef\xbb\xbf"]
)
def test_bytes_of_a_message_in_what_rspamd_says(start: Start, quoted: bytes) -> None:
    """Its rules may put them there as they came; else a client could keep it from an answer."""
    says = b'{"action": "reject", "score": 9, "required_score": 2, "messages": '
    asked = told(start, http(says + b'{"smtp_message": "bad ' + quoted + b' one"}}'))
    reply = asked.says()
    assert reply.startswith(b"554 bad ?") and reply.endswith(b"? one (#5.7.1)")
    lines = says.replace(b"reject", b"no action").replace(b"messages", b"milter")
    asked = told(start, http(lines + b'{"add_headers": {"X-A": "bad ' + quoted + b' one"}}}'))
    (line,) = asked.lines()
    assert line.startswith(b"X-A: bad ?") and line.isascii()


def test_many_lines_of_rspamd(start: Start) -> None:
    many = {f"X-{number}": "x" for number in range(1000)}
    assert len(told(start, result(milter={"add_headers": many})).lines()) == 50


@pytest.mark.parametrize(
    ("more", "removed"),
    [
        ({"milter": {"remove_headers": {"x-one": 0}}}, [b"X-One"]),
        ({"milter": {"remove_headers": {"X-ONE": 1, "X-Nowhere": 0}}}, [b"X-One"]),
        ({"milter": {"remove_headers": {"X-Nowhere": 0, "": 0, "a b": 0}}}, []),
        ({"action": "rewrite subject", "subject": "***"}, [b"Subject"]),
        ({"action": "rewrite subject"}, []),
        ({"action": "add header", "subject": "***"}, []),
    ],
)
def test_what_rspamd_removes(start: Start, more: Json, removed: list[bytes]) -> None:
    asked = told(start, result(**more))
    text = b"From: a\nx-one: 1\n folded\nSubject: hello\nX-One : 2\n\nX-One: body\n"
    decision = asked.ask(text)
    if not removed:
        assert decision.changes is None
        return
    assert decision.changes is not None and isinstance(decision.changes.message, Spool)
    assert asked.message is not None
    asked.message.become(decision.changes.message)
    kept = b"".join(asked.message.spool.chunks())
    if removed == [b"X-One"]:
        assert kept == b"From: a\nSubject: hello\n\nX-One: body\n"
    else:
        assert kept == text.replace(b"Subject: hello\n", b"")
        assert decision.header == (b"Subject: ***",)
    asked.options = "headers=no"
    assert asked.ask(text).changes is None


@given(st.text(max_size=300))
def test_encoded_subject(text: str) -> None:
    """Whatever it is, a reader of RFC 2047 finds it again."""
    raw = text.encode("utf-8", "replace")
    line = field(b"Subject", encoded(raw))
    check_header_line(line)
    assert line.isascii() and all(len(part) < 998 for part in line.split(b"\n"))
    if not raw.isascii():
        value = message_from_bytes(line + b"\n\n")["Subject"]
        assert str(make_header(decode_header(value))) == raw.decode()
        assert all(len(word) <= 75 for word in line.split())


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (http(b'{"error": "not allowed"}', b"403 Forbidden"), "says 403 not allowed"),
        (http(b'{"error": "x"}'), "says 200 x"),
        (http(b"<html>", b"502 Bad Gateway"), "says 502"),
        (http(b"", b"500"), "says 500"),
        (http(b""), "talks nonsense"),
        (http(b"null"), "talks nonsense"),
        (http(b"[]"), "talks nonsense"),
        (http(b"{}"), "talks nonsense"),
        (http(b"[" * 100_000), "talks nonsense"),
        (http(b'{"a":' * 50_000), "talks nonsense"),
        (http(b"\xff\xfe"), "talks nonsense"),
        (http(b'{"action": "reject", "score": NaN, "required_score": 1}'), "talks nonsense"),
        (http(b'{"action": "reject", "score": 1e999, "required_score": 1}'), "talks nonsense"),
        (http(b'{"action": "reject", "score": %b, "required_score": 1}' % (b"9" * 5000)),
         "talks nonsense"),
        (http(b'{"action": "reject", "score": "1", "required_score": 1}'), "talks nonsense"),
        (http(b'{"action": 1, "score": 1, "required_score": 1}'), "talks nonsense"),
        (http(b'{"action": "no action", "score": 1, "required_score": 1, "milter": []}'),
         "talks nonsense"),
        (http(b'{"action": "no action", "score": 1, "required_score": 1,'
              b' "milter": {"add_headers": {"X": {"order": 1}}}}'), "talks nonsense"),
        (http(b'{"action": "no action", "score": 1, "required_score": 1,'
              b' "milter": {"add_headers": {"X": [[]]}}}'), "talks nonsense"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
         "answers in chunks, which HTTP/1.0 does not have"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", "talks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}", "talks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n{}", "talks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n{}", "answers too long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{}", "closed the connection"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "talks no HTTP"),
        (b"HTTP/2 200\r\n\r\n", "talks no HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n", "talks no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101, "talks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "talks no HTTP"),
    ],
)  # fmt: skip
def test_no_answer_of_rspamd(start: Start, answer: bytes, result: str) -> None:
    asked = told(start, answer)
    assert asked.says() == NOW
    assert asked.events()[0]["result"] == result


def test_an_answer_without_a_length(start: Start) -> None:
    """Over HTTP/1.0 it ends with the connection."""
    body = b'{"action": "no action", "score": 1, "required_score": 1}'
    assert told(start, b"HTTP/1.0 200 OK\n\n" + body).says() == TAKEN


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner),
)
KEYS = ("action", "score", "required_score", "messages", "milter", "subject", "dkim-signature")


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_json(answer: Json) -> None:
    """It makes a verdict, all of whose texts are bytes, or a ValueError; nothing else."""
    try:
        found = rspamd_client.Verdict(answer)
    except (KeyError, ValueError):
        return
    assert all(isinstance(part, bytes) for pair in found.add for part in pair)
    assert all(isinstance(part, bytes) for part in (found.action, found.text, found.subject))


def test_any_bytes(tmp_path: Path) -> None:
    """Whatever a daemon sends, there is an answer or NoAnswer."""
    texts = [b""]
    with Peer(lambda line: line.say(texts[0]), tmp_path / "socket") as peer:
        address = parse_address(peer.address.encode())

        @given(st.binary(max_size=200) | st.binary(max_size=200).map(b"HTTP/1.1 200\n".__add__))
        def tried(text: bytes) -> None:
            texts[0] = text
            try:
                answer = http_client.ask(address, PATIENCE, 1000, b"GET /")
            except NoAnswer:
                return
            assert text.endswith(answer.body)

        tried()
