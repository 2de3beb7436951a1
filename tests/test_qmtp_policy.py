"""Filters, plugins, the queue program and the end of a session, in QMTP and QMQP."""

from __future__ import annotations

import os
import select
import signal
from typing import Any

import pytest
from child import Child
from client import client_context
from daemons import Peer, policy
from harness import BIN, PROGRAMS, Home, wait_for
from listeners import clocked
from milters import Answer, ScriptedMilter, packet
from netstrings import MESSAGE, handed, ns, package, verdicts
from tls_home import SERVER

ORACLE = PROGRAMS / "oracle"
QMTP, QMQP = "qsmtpd-qmtpd", "qsmtpd-qmqpd"
NOT_OURS = b"Dsorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
OURS, OTHERS = b"x@ok.example", b"y@no.example"

#: A plugin that says what it is asked, and refuses where its setting says so.
SAYS = """
    from qsmtpd.decision import DECLINED, Changes, decline, defer, discard, drop, reject

    class Plugin:
        spool = {spool}

        def __init__(self, settings):
            self.log = settings.log
            self.what = settings.line(None, "WHAT") or b""

        def _said(self, stage, client, *facts):
            self.log(stage=stage, about=repr(facts[0])[:60] if facts else "")
            verdict, _, at = self.what.partition(b" ")
            if at.decode() != stage:
                return DECLINED
            if verdict == b"raise":
                raise ValueError("no")
            kinds = dict(reject=reject, defer=defer, drop=drop, discard=discard)
            return kinds[verdict.decode()](b"because of " + at)

        def connect(self, client): return self._said("connect", client)
        def helo(self, client, name): return self._said("helo", client)
        def mail(self, client, envelope): return self._said("mail", client, envelope.sender)
        def rcpt(self, client, envelope, asked): return self._said("rcpt", client, asked)
        def data(self, client, envelope): return self._said("data", client, envelope.recipients)
        def header(self, client, envelope, message): return self._said("header", client)
        def body(self, client, envelope, chunk): self.log(stage="body", about=repr(chunk)[:60])
        def data_post(self, client, envelope, message): return self._said("data_post", client)
        def reset(self, client): self.log(stage="reset", about="")
        def disconnect(self, client): self.log(stage="disconnect", about="")
        def ok(self, client, ruling): self.log(stage="ok " + ruling.stage, about="")
        def deny(self, client, ruling): self.log(stage="deny " + ruling.stage, about="")
"""


@pytest.fixture
def says(home: Home) -> Home:
    home.plugin("says", SAYS.format(spool="False"))
    home.control("plugins", "says")
    return home


def exchange(home: Home, program: str, *recipients: bytes, **environ: Any) -> list[bytes]:
    """The verdicts on one package; the log is in home.last."""
    sent = package(*recipients) if program == QMTP else handed(*recipients)
    run = home.run(sent, program=program, QMQPCLIENT="", **environ)
    home.last = run  # type: ignore[attr-defined]
    return verdicts(run.out)


def test_the_order(says: Home) -> None:
    run = says.run(package(OURS, OTHERS) + package(OURS), program=QMTP)
    asked = [event["stage"] for event in run.events("plugin")]
    assert asked == [
        *("connect", "mail", "ok mail", "rcpt", "ok rcpt", "rcpt", "deny rcpt"),
        *("data", "header", "body", "data_post", "ok queue", "reset"),
        *("mail", "ok mail", "rcpt", "ok rcpt"),
        *("data", "header", "body", "data_post", "ok queue", "reset", "disconnect"),
    ]
    run = says.run(handed(OURS, OTHERS), program=QMQP, QMQPCLIENT="")
    asked = [event["stage"] for event in run.events("plugin")]
    assert asked == [
        *("connect", "mail", "ok mail", "rcpt", "ok rcpt", "rcpt", "ok rcpt"),
        *("data", "header", "body", "data_post", "ok queue", "reset", "disconnect"),
    ]


@pytest.mark.sample(11)
@pytest.mark.parametrize("stage", ["connect", "mail", "rcpt", "data", "header", "data_post"])
@pytest.mark.parametrize("verdict", ["reject", "defer", "drop", "raise"])
def test_refusals(says: Home, stage: str, verdict: str) -> None:
    """Each package has its verdicts; only what ends a session in SMTP ends it."""
    what = f"{verdict} {stage}"
    run = says.run(package(OURS, OTHERS) * 2, program=QMTP, WHAT=what)
    status = "5.7.1" if verdict == "reject" else "4.7.1"
    letter = "D" if verdict == "reject" else "Z"
    said = f"{letter}because of {stage} (#{status})".encode()
    if verdict == "raise":
        said = b"Zpolicy trouble, try again later (#4.3.0)"
    ends = verdict == "drop" or (stage == "connect" and verdict != "raise")
    if verdict == "raise" and stage == "connect":
        expected = [said, said] * 2  # it is said at the next question that has an answer
    elif ends or stage in ("connect", "mail", "rcpt"):
        expected = [said, said] * (1 if ends else 2)
    else:
        expected = [said, NOT_OURS] * 2
    if verdict == "drop" and stage in ("data", "header", "data_post"):
        expected = [said, said]
    assert verdicts(run.out) == expected, run.log
    assert says.messages() == []
    assert run.event("session")["end"] == ("dropped-by-says" if ends else "quit")


def test_a_message_that_is_discarded(home: Home) -> None:
    home.plugin("says", SAYS.format(spool="True"))
    home.control("plugins", "says")
    for program in (QMTP, QMQP):
        assert exchange(home, program, OURS, WHAT="discard data_post") == [b"Kok"]
        event = home.last.event("message")  # type: ignore[attr-defined]
        assert (event["verdict"], event["reason"]) == ("discarded", "because of data_post")
    assert home.messages() == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("program", [QMTP, QMQP])
def test_changes(home: Home, program: str) -> None:
    source = """
    from qsmtpd.decision import Changes, accept, decline

    class Plugin:
        spool = True

        def __init__(self, settings):
            pass

        def rcpt(self, client, envelope, asked):
            return decline(header=[b"X-To: " + asked])

        def data_post(self, client, envelope, message):
            new = message.replacement()
            new.write(message.file.read().upper())
            changes = Changes(new, b"new@b.example", [b"one@b.example", b"two@b.example"])
            return decline(above=[b"X-Above: x"], changes=changes)
    """
    home.plugin("changes", source)
    home.control("plugins", "changes")
    assert exchange(home, program, OURS) == [b"Kok"]
    (message,) = home.messages()
    assert message.sender == b"new@b.example"
    assert message.recipients == [b"one@b.example", b"two@b.example"]
    assert message.text.startswith(b"X-Above: x\nReceived: ")
    assert message.text.endswith(b"-0000\nX-To: x@ok.example\n" + MESSAGE.upper())


def test_one_verdict_of_many(says: Home) -> None:
    """In QMQP a refusal of one recipient is one of all, and one for good comes first."""
    says.control("badrcptto", "bad@ok.example")
    says.plugin(
        "late",
        """
        from qsmtpd.decision import DECLINED, defer

        def rcpt(client, envelope, asked):
            return defer(b"later") if asked.startswith(b"late") else DECLINED
        """,
    )
    says.control("plugins", "late")
    refusal = b"Dsorry, your envelope recipient is in my badrcptto list (#5.7.1)"
    late = b"Zlater (#4.7.1)"
    assert exchange(says, QMQP, OURS, b"late@ok.example", b"bad@ok.example") == [refusal]
    assert exchange(says, QMQP, OURS, b"late@ok.example") == [late]
    assert says.messages() == []
    three = OURS, b"late@ok.example", b"bad@ok.example"
    assert exchange(says, QMTP, *three) == [b"Kok", late, refusal]
    assert [m.recipients for m in says.messages()] == [[OURS]]


@pytest.mark.sample(7)
@pytest.mark.parametrize(
    ("environ", "verdict"),
    [
        ({"RBLSMTPD": "go away"}, b"Zgo away"),
        ({"RBLSMTPD": "-go away"}, b"Dgo away"),
        ({"HELOCHECK": "!"}, b"Dsorry, invalid HELO/EHLO greeting (#5.7.1)"),
        ({"HELOCHECK": "."}, b"Dsorry, invalid HELO/EHLO greeting (#5.7.1)"),
        ({"HELOCHECK": ""}, b"Kok"),
        ({"SMTPD_GREETDELAY": "50"}, b"Kok"),
        ({"SMTPAUTH": "!"}, b"DAuthorization required (#5.7.1)"),
        ({"FORCETLS": "1"}, b"Dsorry, TLS is required (#5.7.0)"),
        ({"MAXHOPS": "1"}, b"Kok"),
        ({"LOGFORMAT": "spamcontrol"}, b"Kok"),
        ({"QMAILHOME": "/nonexistent"}, None),
        ({"DATABYTES": "x"}, None),
    ],
)
def test_settings(home: Home, environ: dict[str, str], verdict: bytes | None) -> None:
    for program in (QMTP, QMQP):
        said = exchange(home, program, OURS, **environ)
        if program == QMQP and environ.keys() & {"RBLSMTPD", "HELOCHECK"}:
            assert said == [b"Kok"]  # these leave clients alone that may relay
        elif verdict is None:
            trouble = b"Zunable to read controls (#4.3.0)"
            assert said == ([] if program == QMTP else [trouble])
            assert home.last.status == 1  # type: ignore[attr-defined]
        else:
            assert [text[: len(verdict)] for text in said] == [verdict]
        if "LOGFORMAT" in environ:
            line = f"P:{program[7:11].upper()} S:192.0.2.1:client.example"
            assert line in home.last.log  # type: ignore[attr-defined]


@pytest.mark.sample(9)
@pytest.mark.parametrize("program", [QMTP, QMQP])
@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        ("exit 31", b"Dmail server permanently rejected message (#5.3.0)"),
        ("cat >/dev/null; exit 53", b"Zqq write error or disk full (#4.3.0)"),
        ("exit 0", b"Zqq read error (#4.3.0)"),
        ("cat >/dev/null; exit 0", b"Zqq read error (#4.3.0)"),
        ("cat >/dev/null; echo Dno >&6; exit 82", b"Dno"),
        ("cat >/dev/null; kill -9 $$", b"Zqq crashed (#4.3.0)"),
        (None, b"Zunable to exec qq (#4.3.0)"),
    ],
)
def test_queue_programs(home: Home, program: str, script: str | None, verdict: bytes) -> None:
    """All accepted recipients have its verdict, and those that are refused have theirs."""
    queue = "/nonexistent" if script is None else home.script(script + "\n")
    said = exchange(home, program, OURS, OURS, OTHERS, QMAILQUEUE=queue)
    assert said == ([verdict, verdict, NOT_OURS] if program == QMTP else [verdict])


def test_no_place_for_a_message(home: Home) -> None:
    """A short one needs none; with a longer one that has none, the session goes on."""
    long = b"\n" + b"x" * 70000
    sent = package(OURS, message=long) + package(OURS)
    run = home.run(sent, program=QMTP, TMPDIR="/nonexistent")
    assert verdicts(run.out) == [b"Ztrouble with the spool (#4.3.0)", b"Kok"]
    assert run.event("trouble")["error"] == "FileNotFoundError"
    limited = ["sh", "-c", f'ulimit -f 100; exec "{BIN / QMTP}"']
    sent = package(OURS, OTHERS, message=b"\r" + b"xyz\r\n" * 30000) + package(OURS)
    run = home.launch(limited, home.environ, "pipe").whole([sent])
    assert verdicts(run.out) == [b"Ztrouble with the spool (#4.3.0)", NOT_OURS, b"Kok"]
    assert len(home.messages()) == 2


@pytest.mark.slow
def test_a_long_message(home: Home) -> None:
    lines = b"0123456789abcdef\r\n" * 100_000
    for message in (b"\r" + lines, b"\n" + lines):
        assert verdicts(home.run(package(OURS, message=message), program=QMTP).out) == [b"Kok"]
    first, second = home.messages()
    assert first.body == lines.replace(b"\r\n", b"\n")
    assert second.body == lines


# -- filters that remember --------------------------------------------------------


def several(home: Home, program: str, *packages: tuple[bytes, ...], **environ: Any) -> list[bytes]:
    """The verdicts on packages, each its recipients; of a client that may relay."""
    if program == QMTP:
        sent = b"".join(package(*recipients) for recipients in packages)
        return verdicts(home.run(sent, program=QMTP, RELAYCLIENT="", **environ).out)
    said = []
    for recipients in packages:
        said += exchange(home, QMQP, *recipients, **environ)
    return said


@pytest.mark.slow
@pytest.mark.parametrize("program", [QMTP, QMQP])
def test_sendlimits(home: Home, program: str) -> None:
    """What is queued counts, with the recipients that were taken, and nothing else does."""
    home.environ["QSMTPD_STORE"] = "store"
    home.control("sendlimits", "client:* messages=3/day recipients=4/day")
    over = b"Zsorry, no more than %b a day (#4.7.1)"
    recipients, messages = over % b"4 recipients", over % b"3 messages"
    a, b, c = b"a@no.example", b"b@no.example", b"c@no.example"
    if program == QMTP:
        # Of the second package only those are taken for whom there is room.
        assert several(home, QMTP, (a, b), (a, b, c)) == [b"Kok"] * 4 + [recipients]
    else:
        # Where there is no room for one, nothing is queued and nothing counts.
        assert several(home, QMQP, (a, b), (a, b, c), (a, b)) == [b"Kok", recipients, b"Kok"]
    assert [len(message.recipients) for message in home.messages()] == [2, 2]
    assert several(home, program, (a,)) == [recipients]
    other = {"TCPREMOTEIP": "192.0.2.2"}
    full = home.script("cat >/dev/null; cat <&1 >/dev/null; exit 53\n")
    said = several(home, program, (a,), (a,), QMAILQUEUE=full, **other)
    assert said == [b"Zqq write error or disk full (#4.3.0)"] * 2
    assert several(home, program, (a,), (a,), (a,), (a,), **other) == [b"Kok"] * 3 + [messages]
    run = home.run(package(OURS) * 5, program=QMTP)  # who may not relay has no limit
    assert verdicts(run.out) == [b"Kok"] * 5


@pytest.mark.slow
def test_greylist(home: Home) -> None:
    """For the null sender it answers when the message comes, which here is at the same time."""
    clock = home.file("clock", "0")
    home.environ |= {"QSMTPD_STORE": "store", "GREYLIST": "60"}
    later = b"Zgreylisted, try again in 60 seconds (#4.7.1)"
    program = clocked(clock, "qsmtpd.qmtp.qmtpd")

    def sent(data: bytes) -> list[bytes]:
        return verdicts(home.launch(program, home.environ, "pipe").whole([data]).out)

    bounce = package(OURS, OTHERS, b"y@ok.example", sender=b"")
    mail = package(OURS, OTHERS)
    assert sent(bounce + mail) == [later, NOT_OURS, later, later, NOT_OURS]
    clock.write_text("61")
    # All recipients of a bounce have to be known, and of other mail each by itself.
    more = package(OURS, b"z@ok.example", sender=b"")
    other = package(b"z@ok.example", OURS)
    assert sent(bounce + mail + more + other) == [
        *(b"Kok", NOT_OURS, b"Kok"),
        *(b"Kok", NOT_OURS),
        *(later, later),
        *(later, b"Kok"),
    ]
    assert [(m.sender, m.recipients) for m in home.messages()] == [
        (b"", [OURS, b"y@ok.example"]),
        (b"a@b.example", [OURS]),
        (b"a@b.example", [OURS]),
    ]
    home.control("qmqpclients", "192.0.2.1")  # who may relay is not put off
    assert exchange(home, QMQP, b"new@ok.example") == [b"Kok"]


# -- other people's filters ---------------------------------------------------------


@pytest.mark.slow
def test_a_milter(home: Home) -> None:
    """It hears of no HELO; its refusal of a recipient, of a message, and what it adds."""
    answers: dict[bytes, Answer] = {
        b"R": lambda told: packet(b"r") if told.startswith(b"<no@") else packet(b"c"),
        b"E": packet(b"h", b"X-Seen", b"yes") + packet(b"c"),
    }
    no = b"no@ok.example"
    with ScriptedMilter(answers) as milter:
        home.control("milters", milter.address)
        first, refused, second = exchange(home, QMTP, OURS, no, b"y@ok.example")
        assert (first, refused[:1], second) == (b"Kok", b"D", b"Kok")
        assert milter.commands() == "OCMRRRTLNBEQ"
        assert milter.told(b"C") == [b"client.example\x004\0\x00192.0.2.1\0"]
        assert milter.told(b"M") == [b"<a@b.example>\0"]
        assert milter.macros(b"M")[0][b"{mail_addr}"] == b"a@b.example"
        (message,) = home.messages()
        assert b"\nX-Seen: yes\n" in message.text and len(message.recipients) == 2
        assert [text[:1] for text in exchange(home, QMQP, OURS, no)] == [b"D"]
        milter.answers[b"E"] = packet(b"y", b"451 4.7.1 not now")
        assert exchange(home, QMTP, OURS, no) == [b"Znot now (#4.7.1)", refused]
        assert exchange(home, QMQP, OURS) == [b"Znot now (#4.7.1)"]
    assert len(home.messages()) == 1


@pytest.mark.slow
def test_a_policy_server(home: Home) -> None:
    """It hears which protocol it is; clients of QMQP may relay, so it is not asked about them."""
    heard: list[dict[bytes, bytes]] = []

    def answer(facts: dict[bytes, bytes]) -> bytes:
        heard.append(facts)
        return b"DUNNO" if facts[b"recipient"] == OURS else b"REJECT go away"

    with Peer(policy(answer)) as server:
        home.control("policyservers", server.address)
        assert exchange(home, QMTP, OURS, b"y@ok.example") == [b"Kok", b"Dgo away (#5.7.1)"]
        assert exchange(home, QMQP, b"y@ok.example") == [b"Kok"]
    assert [facts[b"recipient"] for facts in heard] == [OURS, b"y@ok.example"]
    for facts in heard:
        assert (facts[b"protocol_name"], facts[b"protocol_state"]) == (b"QMTP", b"RCPT")
        assert facts[b"helo_name"] == b""


@pytest.mark.slow
def test_a_recipient_check(home: Home) -> None:
    """One that ends the session is the verdict for each recipient, also for those before."""
    check = home.script("case $RECIPIENT in no*) exit 100;; end*) exit 113;; esac\nexit 0\n")
    no = b"Dsorry, no mailbox here by that name (#5.1.1)"
    enough = b"Zyou have exceeded your messaging limits (#4.3.0)"
    both = package(OURS, b"no@ok.example") + package(OURS, b"end@ok.example") + package(OURS)
    run = home.run(both, program=QMTP, RCPTCHECK=check)
    assert verdicts(run.out) == [b"Kok", no, enough, enough]
    assert len(home.messages()) == 1


# -- the end -----------------------------------------------------------------


def start(home: Home, program: str, ahead: bytes = b"", **environ: str) -> Child:
    home.control("qmqpclients", "192.0.2.1")
    return home.launch([BIN / program], {**home.environ, **environ}, ahead=ahead)


@pytest.mark.sample(2)
@pytest.mark.parametrize("program", [QMTP, QMQP])
def test_implicit_tls(home: Home, program: str) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    with start(home, program, SMTPS="1", FORCETLS="1") as client:
        client.handshake(client_context())
        client.send(package(OURS) if program == QMTP else handed(OURS))
        assert verdicts(client.socket.recv(1000)) == [b"Kok"]
    assert b"with QM" in home.messages()[0].text
    assert b" tls TLS_AES" in home.messages()[0].text


@pytest.mark.sample(3)
@pytest.mark.parametrize("program", [QMTP, QMQP])
@pytest.mark.parametrize("begun", [False, True])
def test_term(home: Home, program: str, begun: bool) -> None:
    """What has not come whole is not answered in QMTP, and with Z in QMQP."""
    with start(home, program) as client:
        if program == QMTP:
            client.send(package(OURS))
            assert verdicts(client.socket.recv(1000)) == [b"Kok"]
        if begun:
            assert client.send_each(b"100:\nxx" if program == QMTP else b"100:9")
        else:
            wait_for(lambda: f"{client.pid}" and _sleeps(client.pid))
        client.process.send_signal(signal.SIGTERM)
        said = client.rest()
        said = said[said.find(b",") + 1 :] if program == QMTP else said
        expected = [] if program == QMTP else [b"Zshutting down, try again later (#4.3.2)"]
        assert verdicts(said) == expected
    assert "end=shutdown" in client.log()


def _sleeps(pid: int) -> bool:
    """Does it wait for its client?"""
    with open(f"/proc/{pid}/wchan") as file:
        return "poll" in file.read()


@pytest.mark.parametrize("program", [QMTP, QMQP])
def test_term_while_the_queue_program_has_the_message(home: Home, program: str) -> None:
    go, started = home.path / "go", home.path / "started"
    os.mkfifo(go)
    queue = home.script(f"{ORACLE} && echo >{started} && read x <{go}\n")
    with start(home, program, QMAILQUEUE=queue) as client:
        client.send(package(OURS) if program == QMTP else handed(OURS))
        wait_for(started.exists)
        client.process.send_signal(signal.SIGTERM)
        go.write_bytes(b"\n")
        assert verdicts(client.rest()) == [b"Kok"]
    assert len(home.messages()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", [QMTP, QMQP])
@pytest.mark.parametrize("sent", [b"", b"9", b"100:1", b"100:x"])
def test_who_is_silent(home: Home, program: str, sent: bytes) -> None:
    with start(home, program, sent, TIMEOUTSMTPD="1") as client:
        said = verdicts(client.rest())
    broken = program == QMQP and sent == b"100:x"
    assert said == ([] if program == QMTP or broken else [b"Ztimeout (#4.4.2)"])
    assert ("end=netstring" if broken else "end=timeout") in client.log()


@pytest.mark.slow
def test_who_is_slow(home: Home) -> None:
    """Less than the minimum rate, though always something."""
    with start(home, QMTP, b"100000:\n", TIMEOUTSMTPD="1", MINDATARATE="1000") as client:
        over = select.poll()
        over.register(client.socket.fileno(), select.POLLIN)
        while not over.poll(50):
            client.send(b"x")
        assert client.rest() == b""
    assert "end=timeout" in client.log()
    assert home.messages() == []


# -- memory ------------------------------------------------------------------

MB = 1024 * 1024
#: How much more than a message of 20 bytes anything may take.
ALLOWED = 2 * MB


def peak(home: Home, program: str, block: bytes, times: int) -> int:
    """What a message takes that is so many blocks, once the queue program has it."""
    done, go = home.path / "done", home.path / "go"
    done.unlink(missing_ok=True)
    if not go.exists():
        os.mkfifo(go)
    queue = home.script(f"cat >/dev/null; cat <&1 >/dev/null; echo >{done}; read x <{go}\n")
    size = len(block) * times
    if program == QMTP:
        head, rest = b"%d:\r" % (size + 1), b"," + ns(b"a@b") + ns(ns(OURS))
    else:
        inner, rest = b"%d:" % size, b"," + ns(b"a@b") + ns(OURS)
        head, rest = b"%d:%b" % (len(inner) + size + len(rest), inner), rest + b","
    with start(home, program, QMAILQUEUE=queue, MAXHOPS="9999999") as client:
        client.send(head)
        for _ in range(times):
            client.send(block)
        client.send(rest)
        wait_for(done.exists)
        used = client.peak_memory()
        go.write_bytes(b"\n")
        assert verdicts(client.socket.recv(1000)) == [b"Kok"]
    return used


@pytest.mark.slow
@pytest.mark.parametrize("program", [QMTP, QMQP])
@pytest.mark.parametrize("block", [b"\r\n", b"x", b"Received: x\r\n", b"\r"])
def test_memory_is_flat(home: Home, program: str, block: bytes) -> None:
    block *= 65536 // len(block)
    more = peak(home, program, block, 200) - peak(home, program, b"\r\n", 10)
    print(f"{more // 1024} KB more")
    assert more < ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize("program", [QMTP, QMQP])
def test_a_million_recipients(home: Home, program: str) -> None:
    """What says that there are so many is not read at all; as many as may be are no trouble."""
    many = b"12:x@ok.example," * 1_000_000
    message = b"2:\nx,1:a," if program == QMTP else b""
    head = b"%d:" % len(many) if program == QMTP else b"%d:2:\nx,1:a," % (len(many) + 9)
    with start(home, program) as client:
        client.send(message + head)
        assert client.rest() == b""
    assert "end=netstring-size" in client.log()
    run = home.run(message + head + many + b",,", program=program, QMQPCLIENT="")
    assert (run.out, run.event("session")["end"]) == (b"", "netstring-size")
    most = 1_048_576 // 3
    few = b"0:," * most
    if program == QMTP:
        sent = b"2:\nx,1:a,%d:%b," % (len(few), few)
        out = home.run(sent, program=program).out
        assert out.endswith(b"36:Zsorry, too many recipients (#4.5.3)," * (most - 1000))
        assert out.count(b":Kok ") == 1000
    else:
        sent = b"%d:2:\nx,1:a,%b," % (len(few) + 9, few)
        run = home.run(sent, program=program, QMQPCLIENT="")
        assert verdicts(run.out) == [b"Dsorry, too many recipients (#5.5.3)"]
        assert home.messages() == []
