"""clamd, spamd and rspamd of Debian's: what is refused, and what is added to the header."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator

import pytest
from harness import Home, wait_for
from listeners import Listener, Server, tcpserver
from run import Run
from scanners import EICAR, GTUBE, Clamd, Rspamd, Scanner, Spamd

pytestmark = pytest.mark.interop

TAKEN = b"250 ok TIME qp PID"
NOW = b"451 a mail filter gives no answer now (#4.3.0)"


def mail(subject: bytes = b"plain", body: bytes = b"This is plain.", head: bytes = b"") -> bytes:
    """A message, as it is stored."""
    return b"From: a@b.example\nSubject: %b\n%b\n%b\n" % (subject, head, body)


def send(home: Home, *messages: bytes, **environ: str) -> Run:
    """One session with these messages."""
    pieces = [b"EHLO client.example"]
    for message in messages:
        pieces += [b"MAIL FROM:<a@b.example>", b"RCPT TO:<x@ok.example>", b"DATA"]
        pieces.append(message.replace(b"\n", b"\r\n") + b".")
    variables: dict[str, object] = {**environ}
    text = b"".join(piece + b"\r\n" for piece in [*pieces, b"QUIT"])
    return home.run(text, **variables)  # type: ignore[arg-type]


def verdicts(run: Run) -> list[bytes]:
    """What was said of each message."""
    lines = iter(run.lines)
    return [next(lines) for line in lines if line.startswith(b"354 ")]


def stored(home: Home) -> list[bytes]:
    """The messages that were queued, behind our Received."""
    return [message.body for message in home.messages()]


KINDS: dict[str, type[Scanner]] = {"clamd": Clamd, "spamd": Spamd, "rspamd": Rspamd}


@pytest.fixture
def start(home: Home) -> Iterator[Callable[..., Scanner]]:
    """Starts one of them, which its filter asks, with these options of its line."""
    running: list[Scanner] = []

    def begin(name: str, options: str = "") -> Scanner:
        scanner = KINDS[name]()
        running.append(scanner)
        scanner.__enter__()
        home.control(name, f"{scanner.address} {options}")
        return scanner

    yield begin
    for scanner in running:
        scanner.__exit__()


Start = Callable[..., Scanner]


def test_clamd(home: Home, start: Start) -> None:
    start("clamd")
    forged = mail(head=b"X-Virus-Status: Clean (said who?)\nx-virus-scanned: yes\n")
    run = send(home, mail(body=EICAR), forged, mail(body=b"x" * 70 + b"\n" + EICAR))
    name = Clamd.VIRUS.encode()
    virus = b"554 message has a virus: %b (#5.7.1)" % name
    assert verdicts(run) == [virus, TAKEN, virus]
    assert stored(home) == [b"X-Virus-Status: Clean\n" + mail()]
    events = run.events("message")
    assert [event.get("by") for event in events] == ["clamd", None, "clamd"]
    assert run.events("plugin")[0]["found"] == Clamd.VIRUS


@pytest.mark.parametrize("beyond", ["pass", "refuse"])
def test_a_stream_beyond_the_limit_of_clamd(home: Home, start: Start, beyond: str) -> None:
    """Its StreamMaxLength is 1 MB: it says so in the middle of a message, and closes."""
    start("clamd", f"beyond={beyond}")
    run = send(home, mail(body=b"\n".join([b"x" * 70] * 100_000)), mail())
    large = TAKEN if beyond == "pass" else b"552 message is too large to be checked (#5.3.4)"
    assert verdicts(run) == [large, TAKEN]
    assert run.events("plugin")[0]["result"] == "too large for it"


def test_spamd(home: Home, start: Start) -> None:
    start("spamd", "reject=100")
    forged = mail(b"a spammy one", head=b"X-Spam-Flag: NO\nX-Spam-Anything: x\n")
    run = send(home, mail(body=GTUBE), forged, mail())
    assert verdicts(run) == [
        b"554 message is spam, with a score of 1000.0 (#5.7.1)",
        TAKEN,
        TAKEN,
    ]
    # T_CLIENT: it has taken the client's address from our Received.
    yes = (
        b"X-Spam-Status: Yes, score=7.0 required=5.0\n\ttests=T_CLIENT,T_SPAMMY\n"
        b"X-Spam-Level: *******\nX-Spam-Flag: YES\n"
    )
    no = b"X-Spam-Status: No, score=0.0 required=5.0\n\ttests=T_CLIENT\n"
    assert stored(home) == [yes + mail(b"a spammy one"), no + mail()]
    scores = [event["score"] for event in run.events("plugin") if "score" in event]
    assert scores == ["1000.0", "7.0", "0.0"]


@pytest.mark.parametrize(
    ("options", "environ", "reply"),
    [
        ("", {}, TAKEN),
        ("reject=verdict", {}, b"554 message is spam, with a score of 7.0 (#5.7.1)"),
        ("reject=6.9", {}, b"554 message is spam, with a score of 7.0 (#5.7.1)"),
        ("reject=7.1", {}, TAKEN),
        ("reject=verdict user=nobody", {}, b"554 message is spam, with a score of 7.0 (#5.7.1)"),
        ("reject=verdict", {"RELAYCLIENT": ""}, TAKEN),
        ("reject=verdict size=40", {}, TAKEN),
    ],
)
def test_options_of_spamd(
    home: Home, start: Start, options: str, environ: dict[str, str], reply: bytes
) -> None:
    start("spamd", options)
    assert verdicts(send(home, mail(b"spammy"), **environ)) == [reply]


def test_rspamd(home: Home, start: Start) -> None:
    rspamd = start("rspamd")
    forged = mail(b"a spammy one", head=b"X-Spam: No\nX-Spamd-Bar: ---\n")
    run = send(home, mail(body=GTUBE), forged, mail(b"later"), mail(b"hello"))
    assert verdicts(run) == [
        b"554 Gtube pattern (#5.7.1)",
        TAKEN,
        b"451 Come back later (#4.7.1)",
        TAKEN,
    ]
    spammy, hello = (text.split(b"\nFrom: ")[0] for text in stored(home))
    assert {line for line in spammy.split(b"\n") if not line.startswith(b"\t")} == {
        b"X-Spam-Status: Yes, score=7.00",
        b"X-Spamd-Bar: +++++++",
        b"X-Spam-Level: *******",
        b"X-Spamd-Result: default: False [7.00 / 15.00];",
        b"X-Spam: Yes",
    }
    assert b"X-Spam-Status: No, score=1.00" in hello and b"X-Spam: " not in hello
    # What it was told, and by which id its log knows the message.
    event = run.events("plugin")[0]
    (line,) = [line for line in rspamd.log().splitlines() if f"qid: <{event['id']}>" in line]
    assert "ip: 192.0.2.1, from: <a@b.example>" in line and "rcpts: <x@ok.example>" in line
    actions = [event["action"] for event in run.events("plugin") if "action" in event]
    assert actions == ["reject", "add header", "soft reject", "no action"]


def test_what_rspamd_changes(home: Home, start: Start) -> None:
    start("rspamd")
    gone = mail(b"gone", head=b"X-Gone: one\nX-Stays: x\nx-gone: two\n", body=b"X-Gone: body")
    run = send(home, mail(b"rename"), gone, mail(b"nowhere"))
    assert verdicts(run) == [TAKEN] * 3
    renamed, without = stored(home)
    assert b"\nSubject: *** SPAM *** rename\n" in renamed and b"Subject: rename" not in renamed
    assert without.endswith(b"\nFrom: a@b.example\nSubject: gone\nX-Stays: x\n\nX-Gone: body\n")
    discarded = run.events("message")[2]
    assert (discarded["verdict"], discarded["by"]) == ("discarded", "rspamd")
    assert [event["plugin"] for event in run.events("changed")] == ["rspamd", "rspamd"]


@pytest.mark.parametrize(
    ("options", "message", "reply"),
    [
        ("reject=never", mail(body=GTUBE), TAKEN),
        ("reject=5", mail(b"spammy"), b"554 message is spam (#5.7.1)"),
        ("reject=7.5", mail(b"spammy"), TAKEN),
        ("size=40", mail(body=GTUBE), TAKEN),
        ("headers=no", mail(b"spammy"), TAKEN),
        ("settings=none", mail(b"spammy"), TAKEN),
    ],
)
def test_options_of_rspamd(
    home: Home, start: Start, options: str, message: bytes, reply: bytes
) -> None:
    start("rspamd", options)
    assert verdicts(send(home, message)) == [reply]
    if options in ("size=40", "headers=no"):
        assert stored(home) == [message]


@pytest.mark.parametrize("name", KINDS)
def test_check(home: Home, start: Start, name: str) -> None:
    scanner = start(name)
    done = home.run(b"", "--check")
    said = {"clamd": "ClamAV ", "spamd": "SPAMD/1.5", "rspamd": "rspamd/"}[name]
    ok = f"ok: {name}'s socket = {scanner.address} (it answers {said}"
    assert done.status == 0 and ok.encode() in done.out
    scanner.stop()
    done = home.run(b"", "--check")
    assert done.status == 1 and f"wrong: control/{name}: ".encode() in done.out
    other = "rspamd" if name == "spamd" else "spamd"
    with KINDS[other]() as wrong:
        home.control(name, wrong.address)
        done = home.run(b"", "--check")
    complaint = f"wrong: control/{name}: {wrong.address} gives no answer: "
    assert done.status == 1 and complaint.encode() in done.out


#: Of each what it refuses, what it is told then, and a part of what it adds to others.
REFUSED = {
    "clamd": (mail(body=EICAR), "554 message has a virus", b"X-Virus-Status: Clean\n"),
    "spamd": (mail(body=GTUBE), "554 message is spam", b"X-Spam-Status: No, "),
    "rspamd": (mail(body=GTUBE), "554 Gtube pattern", b"X-Spam-Status: No, "),
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_restarted_in_between(home: Home, start: Start, name: str, warm: bool) -> None:
    """One connection of a client, which sees the daemon end and start again."""
    scanner = start(name, "reject=100" if name == "spamd" else "")
    refused, reply, added = REFUSED[name]
    listener: Listener = Server(home) if warm else tcpserver(home)

    def say(client: smtplib.SMTP, message: bytes) -> str:
        try:
            client.sendmail("a@b.example", ["x@ok.example"], message.replace(b"\n", b"\r\n"))
        except smtplib.SMTPDataError as error:
            assert isinstance(error.smtp_error, bytes)
            return f"{error.smtp_code} {error.smtp_error.decode()}"
        return "taken"

    with listener, smtplib.SMTP("127.0.0.1", listener.port) as client:
        assert say(client, mail()) == "taken"
        assert say(client, refused).startswith(reply)
        scanner.stop()
        assert say(client, mail()) == NOW.decode()
        assert say(client, refused) == NOW.decode()
        scanner.start()
        assert say(client, refused).startswith(reply)
        assert say(client, mail()) == "taken"
        client.quit()
        wait_for(lambda: listener.events("session"))
    texts = stored(home)
    assert len(texts) == 2 and all(added in text for text in texts)


def test_all_of_them(home: Home, start: Start) -> None:
    """One session with all, and a program: each refuses what it knows, and adds its lines."""
    for name in KINDS:
        start(name, "reject=100" if name == "spamd" else "")
    program = home.file("program", "#!/bin/sh\ngrep -q Viagra && exit 100\necho X-Grep: ok >&4\n")
    program.chmod(0o755)
    home.control("messagecheck", "program")
    gtube = mail(body=GTUBE)
    run = send(home, mail(body=EICAR), gtube, mail(body=b"Viagra"), mail())
    assert [line[:3] for line in verdicts(run)] == [b"554", b"554", b"554", b"250"]
    by = [event.get("by") for event in run.events("message")]
    assert by == ["clamd", "rspamd", "messagecheck", None]
    (text,) = stored(home)
    lines = [line.partition(b":")[0] for line in text.split(b"\n\n")[0].split(b"\n")]
    assert lines.index(b"X-Virus-Status") < lines.index(b"X-Grep") < lines.index(b"X-Spamd-Bar")
    assert text.count(b"X-Spam-Status: No") == 2
    only = send(home, gtube, QSMTPD_PLUGINS="-rspamd,-spamd")
    assert verdicts(only) == [TAKEN]
