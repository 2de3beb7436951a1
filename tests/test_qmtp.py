"""qsmtpd-qmtpd and qsmtpd-qmqpd: whole conversations, each a few lines to read."""

from __future__ import annotations

import re

import odd_files
import pytest
from harness import Home
from netstrings import MESSAGE, handed, package, verdicts

NOT_OURS = b"Dsorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
BAD_RECIPIENT = b"Dsorry, I can't handle that recipient (#5.1.3)"
BARE_LF = b"ZSee https://cr.yp.to/docs/smtplf.html."


def test_a_verdict_for_each_recipient(home: Home) -> None:
    run = home.run(
        package(b"x@ok.example", b"y@no.example", b"z@ok.example") + package(b"local"),
        program="qsmtpd-qmtpd",
    )
    assert verdicts(run.out) == [b"Kok", NOT_OURS, b"Kok", b"Kok"]
    assert run.status == 0
    first, second = home.messages()
    assert (first.sender, first.recipients) == (b"a@b.example", [b"x@ok.example", b"z@ok.example"])
    assert first.body == second.body == MESSAGE
    assert second.recipients == [b"local"]
    pattern = (
        rb"Received: from client\.example \(192\.0\.2\.1\)\n"
        rb"  by mx\.example with QMTP; \d+ \w+ \d{4} [\d:]{8} -0000\n" + re.escape(MESSAGE)
    )
    assert re.fullmatch(pattern, first.text)
    assert [line["verdict"] for line in run.events("message")] == ["accepted"] * 2
    assert run.events("message")[0]["proto"] == "QMTP"
    assert run.event("refused")["command"] == "RCPT"
    session = run.event("session")
    assert (session["end"], session["proto"]) == ("quit", "QMTP")
    assert (session["messages"], session["refused"]) == ("2", "1")


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("message", "verdict", "queued"),
    [
        (b"\nSubject: x\n\nhello\n", b"Kok", b"Subject: x\n\nhello\n"),
        (b"\nno end", b"Kok", b"no end"),
        (b"\na\r\nb\rc\n", b"Kok", b"a\r\nb\rc\n"),
        (b"\n", b"Kok", b""),
        (b"\rSubject: x\r\n\r\nhello\r\n", b"Kok", b"Subject: x\n\nhello\n"),
        (b"\rno end", b"Kok", b"no end"),
        (b"\ra\rb\r\r\nc\r", b"Kok", b"a\rb\r\nc\r"),
        (b"\r", b"Kok", b""),
        (b"\ra\nb\r\n", BARE_LF, None),
        (b"\r\n", BARE_LF, None),
        (b"Subject: x\n", b"Dthe message begins neither with LF nor with CR (#5.6.0)", None),
        (b"", b"Dthe message begins neither with LF nor with CR (#5.6.0)", None),
    ],
)
def test_line_ends(home: Home, message: bytes, verdict: bytes, queued: bytes | None) -> None:
    sent = package(b"x@ok.example", message=message) + package(b"y@ok.example")
    run = home.run(sent, program="qsmtpd-qmtpd", dribble=len(sent) % 2 == 0)
    assert verdicts(run.out) == [verdict, b"Kok"]
    assert [m.body for m in home.messages()] == [*([] if queued is None else [queued]), MESSAGE]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["qsmtpd-qmtpd", "qsmtpd-qmqpd"])
def test_a_bare_lf_may_be_normalized(home: Home, program: str) -> None:
    sent = package(b"x@ok.example", message=b"\ra\nb\r\nc")
    if program == "qsmtpd-qmqpd":
        sent = handed(b"x@ok.example", message=b"a\nb\r\nc")
    run = home.run(sent, program=program, BARELF="normalize", QMQPCLIENT="")
    assert verdicts(run.out) == [b"Kok"]
    expected = b"a\nb\nc" if program == "qsmtpd-qmtpd" else b"a\nb\r\nc"
    assert home.messages()[0].body == expected


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("recipient", "environ", "verdict", "queued"),
    [
        (b"x@OK.example", {}, b"Kok", b"x@OK.example"),
        (b"x@a.sub.example", {}, b"Kok", b"x@a.sub.example"),
        (b"", {}, b"Kok", b""),  # as in SMTP, and in qmail-qmtpd
        (b"x@no.example", {"RELAYCLIENT": ""}, b"Kok", b"x@no.example"),
        (b"x@no.example", {"RELAYCLIENT": ".hub"}, b"Kok", b"x@no.example.hub"),
        (b"x@no.example", {"QMQPCLIENT": ""}, NOT_OURS, None),
        (b"x\0@ok.example", {}, BAD_RECIPIENT, None),
        (b"x\n@ok.example", {}, BAD_RECIPIENT, None),
        (b"x" * 889 + b"@ok.example", {}, BAD_RECIPIENT, None),
        (b"x" * 888 + b"@ok.example", {}, b"Kok", b"x" * 888 + b"@ok.example"),
    ],
)
def test_recipients(
    home: Home, recipient: bytes, environ: dict[str, str], verdict: bytes, queued: bytes | None
) -> None:
    run = home.run(package(recipient), program="qsmtpd-qmtpd", **environ)  # type: ignore[arg-type]
    assert verdicts(run.out) == [verdict]
    expected = [] if queued is None else [[queued]]
    assert [m.recipients for m in home.messages()] == expected


@pytest.mark.slow
@pytest.mark.parametrize("sender", [b"a\0b@c.example", b"a\nb@c.example", b"a" * 900])
def test_senders_that_are_none(home: Home, sender: bytes) -> None:
    both = b"x@ok.example", b"y@no.example"
    run = home.run(package(*both, sender=sender), program="qsmtpd-qmtpd")
    assert verdicts(run.out) == [b"Dunacceptable sender (#5.1.7)"] * 2
    run = home.run(handed(*both, sender=sender), program="qsmtpd-qmqpd", QMQPCLIENT="")
    assert verdicts(run.out) == [b"Dsorry, I can't accept addresses like that (#5.1.3)"]
    assert home.messages() == []


def test_no_recipient(home: Home) -> None:
    run = home.run(package() + package(b"x@ok.example"), program="qsmtpd-qmtpd")
    assert verdicts(run.out) == [b"Kok"]
    run = home.run(handed(), program="qsmtpd-qmqpd", QMQPCLIENT="")
    assert verdicts(run.out) == [b"Dsorry, there is no recipient (#5.5.1)"]
    assert len(home.messages()) == 1


def test_too_many_recipients(home: Home) -> None:
    recipients = [b"%d@ok.example" % number for number in range(5)]
    run = home.run(package(*recipients), program="qsmtpd-qmtpd", MAXRECIPIENTS="3")
    assert verdicts(run.out) == [b"Kok"] * 3 + [b"Zsorry, too many recipients (#4.5.3)"] * 2
    assert home.messages()[0].recipients == recipients[:3]
    assert run.event("refused")["to"] == "3@ok.example"
    home.clear()
    run = home.run(handed(*recipients), program="qsmtpd-qmqpd", QMQPCLIENT="", MAXRECIPIENTS="3")
    assert verdicts(run.out) == [b"Dsorry, too many recipients (#5.5.3)"]
    assert home.messages() == []


@pytest.mark.slow
def test_databytes(home: Home) -> None:
    too_big = b"Dsorry, that message size exceeds my databytes limit (#5.3.4)"
    for message, verdict in (
        (b"\n" + b"x" * 100, b"Kok"),
        (b"\n" + b"x" * 101, too_big),
        (b"\r" + b"\r\n" * 100, b"Kok"),
        (b"\r" + b"\r\n" * 101, too_big),
    ):
        run = home.run(
            package(b"x@ok.example", message=message) + package(b"y@ok.example"),
            program="qsmtpd-qmtpd",
            DATABYTES="100",
        )
        assert verdicts(run.out) == [verdict, b"Kok"]
    run = home.run(
        handed(b"x@ok.example", message=b"x" * 101),
        program="qsmtpd-qmqpd",
        DATABYTES="100",
        QMQPCLIENT="",
    )
    assert verdicts(run.out) == [too_big]


@pytest.mark.sample(9)
@pytest.mark.parametrize(
    ("clients", "environ", "taken"),
    [
        ([], {}, False),
        ([], {"RELAYCLIENT": ""}, False),
        ([], {"QMQPCLIENT": ""}, True),
        ([], {"QMQPCLIENT": "1", "RELAYCLIENT": ".hub"}, True),
        ([], {"QMQPCLIENT": "0"}, False),
        (["192.0.2.1"], {}, True),
        (["192.0.2.2", "192.0.3."], {}, False),
        (["192.0.2."], {}, True),
        (["192.0.2.0/30"], {}, True),
        (["192.0.2.4/30"], {}, False),
        (["192.0.2.1/32"], {}, True),
        (["192.0.2.0/24"], {"TCPREMOTEIP": "192.0.3.1"}, False),
        (["192.0.2.0/24"], {"TCPREMOTEIP": "2001:db8::1"}, False),
        (["192.0.2.0/24"], {"TCPREMOTEIP": "::ffff:192.0.2.9"}, True),
        (["192.0.2.0/24"], {"TCPREMOTEIP": None}, False),
        (["2001:db8::/33"], {"TCPREMOTEIP": "2001:db8:7fff::1"}, True),
        (["2001:db8::/33"], {"TCPREMOTEIP": "2001:db8:8000::1"}, False),
        (["2001:DB8::1"], {"TCPREMOTEIP": "2001:db8::1"}, True),
        (["2001:db8:"], {"TCPREMOTEIP": "2001:db8::1"}, True),
        (["2001:db8::"], {"TCPREMOTEIP": "2001:db8::1"}, True),
        (["0.0.0.0/0"], {"TCPREMOTEIP": "2001:db8::1"}, False),
        (["0.0.0.0/0"], {}, True),
    ],
)
def test_who_is_a_client(
    home: Home, clients: list[str], environ: dict[str, str | None], taken: bool
) -> None:
    home.control("qmqpclients", "# ours", *clients)
    run = home.run(handed(b"x@no.example"), program="qsmtpd-qmqpd", **environ)  # type: ignore[arg-type]
    if taken:
        suffix = (environ.get("RELAYCLIENT") or "").encode()
        assert verdicts(run.out) == [b"Kok"]
        assert home.messages()[0].recipients == [b"x@no.example" + suffix]
        assert home.messages()[0].body == MESSAGE
        assert b"with QMQP;" in home.messages()[0].text
        assert (run.status, run.event("session")["end"]) == (0, "quit")
    else:
        assert verdicts(run.out) == [
            b"Zsorry, you are not one of the clients of this server (#4.7.1)"
        ]
        assert home.messages() == []
        assert (run.status, run.event("session")["end"]) == (1, "not-listed")


def test_who_is_no_client_is_to_come_again(home: Home) -> None:
    """With another list he may be one: the log and observers have it as what it is."""
    source = """
    class Plugin:
        def __init__(self, settings):
            self._log = settings.log
        def deny(self, client, ruling):
            self._log(at=ruling.stage, said=ruling.reply)
    """
    home.plugin("observer", source)
    home.control("plugins", "observer", "builtins")
    run = home.run(handed(b"x@ok.example"), program="qsmtpd-qmqpd")
    text = "Zsorry, you are not one of the clients of this server (#4.7.1)"
    assert verdicts(run.out) == [text.encode()]
    refused, session, seen = (run.event(name) for name in ("refused", "session", "plugin"))
    assert refused["reply"] == session["reply"] == text
    assert refused["proto"] == session["proto"] == "QMQP"
    assert (seen["at"], seen["said"]) == ("connect", "450 " + text[1:])


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("program", "proto"),
    [("qsmtpd", None), ("qsmtpd-qmtpd", "QMTP"), ("qsmtpd-qmqpd", "QMQP")],
)
@pytest.mark.parametrize(
    ("environ", "end"),
    [
        ({"DATABYTES": "x"}, "control"),
        ({"DATABYTES": "x", "SMTPS": "1"}, "control"),
        ({"SMTPS": "1"}, "tls-unavailable"),
        ({"QMAILHOME": "/nonexistent"}, "control"),
    ],
)
def test_what_was_to_be_spoken_is_in_the_log(
    home: Home, program: str, proto: str | None, environ: dict[str, str], end: str
) -> None:
    """Also of sessions that do not begin."""
    home.control("qmqpclients", "192.0.2.1")
    run = home.run(b"", program=program, **environ)  # type: ignore[arg-type]
    event = run.event("session")
    assert (event["end"], event.get("proto")) == (end, proto)


@pytest.mark.sample(18)
@pytest.mark.parametrize(
    "entry",
    [
        *("192.0.2", "192.0.2.256", "192.0.2.01", "192.0.2.1.", "192.0..", "."),
        *("192.0.2.0/33", "192.0.2.0/", "192.0.2.0/x", "192.0.2.0/08", "192.0.2.1/24"),
        *("192.0.2.0/24/8", "192.0.2/24", "192.0.2.0/-1", "192.0.2.0/1_0", "192.0.2.0/24 # ours"),
        *("2001:db8::/129", "2001:db8::1/32", "2001:db8::g", "2001:db8::%eth0", "[2001:db8::1]"),
        *("fe80::%1/64", "mail.example.org", ".example.org", "\ufeff192.0.2.1", "a:b/32", "/"),
        *("2001:db8:0::1", "2001:db8:0::/48", "2001:0db8:", "fffff:", ":::", "192.0.2.0."),
    ],
)
def test_entries_that_are_no_clients(home: Home, entry: str) -> None:
    """The session and --check say so in the same words, and nobody is let in."""
    home.control("qmqpclients", "192.0.2.1", entry)
    run = home.run(handed(b"x@ok.example"), program="qsmtpd-qmqpd")
    assert verdicts(run.out) == [b"Zunable to read controls (#4.3.0)"]
    assert (run.status, home.messages()) == (1, [])
    event = run.event("control")
    assert event["name"] == "control/qmqpclients" and event["reason"].startswith("line 2: ")
    checked = home.run(b"", "--check", "--quiet", program="qsmtpd-qmqpd")
    assert f"wrong: {event['name']}: {event['reason']}" in checked.out.decode().splitlines()
    assert checked.status == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entries", "environ", "kind", "said"),
    [
        (None, {}, "wrong", "control/qmqpclients: is missing, so every client is refused"),
        ([], {}, "wrong", "control/qmqpclients: has no entry, so every client is refused"),
        (["192.0.2.1 "], {}, "warning", "control/qmqpclients: line 1 ends in white space"),
        (["::/0"], {}, "warning", "control/qmqpclients: has a network of all addresses"),
        (None, {"QMQPCLIENT": "1"}, "warning", "QMQPCLIENT: is set: who is served may send"),
        (["192.0.2.1"], {"SMTPAUTH": "!"}, "wrong", "SMTPAUTH: wants AUTH, which there is not"),
        (["192.0.2.1"], {"FORCETLS": "1"}, "wrong", "FORCETLS or UCSPITLS: wants TLS, and it"),
    ],
)
def test_check(
    home: Home, entries: list[str] | None, environ: dict[str, str], kind: str, said: str
) -> None:
    if entries is not None:
        home.control("qmqpclients", *entries)
    (home.control_dir / "rcpthosts").unlink()
    run = home.run(b"", "--check", program="qsmtpd-qmqpd", **environ)  # type: ignore[arg-type]
    faults = [line for line in run.out.decode().splitlines() if line.startswith(kind)]
    assert any(line.startswith(f"{kind}: {said}") for line in faults), run.out
    assert run.status == (kind == "wrong")


def test_check_of_qmtp(home: Home) -> None:
    assert home.run(b"", "--check", program="qsmtpd-qmtpd").status == 0
    run = home.run(b"", "--check", program="qsmtpd-qmtpd", SMTPAUTH="!")
    assert b"wrong: SMTPAUTH: wants AUTH" in run.out
    run = home.run(b"", "--check", program="qsmtpd-qmtpd", DATABYTES="1073741825")
    assert b"warning: databytes: is more than the 1073741824 bytes above" in run.out
    (home.control_dir / "rcpthosts").unlink()
    run = home.run(b"", "--check", program="qsmtpd-qmtpd")
    assert b"wrong: control/rcpthosts: is missing, so every recipient is refused" in run.out


@pytest.mark.slow
@pytest.mark.parametrize("program", ["qsmtpd-qmtpd", "qsmtpd-qmqpd"])
def test_other_arguments(home: Home, program: str) -> None:
    assert home.run(b"", "--version", program=program).out.startswith(program.encode() + b" ")
    assert home.run(b"", "--help", program=program).out.startswith(b"usage: " + program.encode())
    assert b"rcpthosts" in home.run(b"", "--hooks", program=program).out
    for wrong in ("--explain", "cat", "-c", ""):
        run = home.run(package(b"x@ok.example"), wrong, program=program)
        assert (run.status, run.out) == (111, b"")
        assert run.log.startswith(f"{program}: unknown argument\n")
    assert home.run(b"", "--check", "cat", program=program).status == 111


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in odd_files.KINDS if k != "unreadable"])
def test_a_list_of_clients_that_is_none(home: Home, kind: str) -> None:
    """Nobody is let in; and what cannot be read is not called missing, too."""
    odd_files.make(kind, home.control_dir / "qmqpclients")
    run = home.run(handed(b"x@ok.example"), program="qsmtpd-qmqpd")
    checked = home.run(b"", "--check", "--quiet", program="qsmtpd-qmqpd")
    assert verdicts(run.out) == [b"Zunable to read controls (#4.3.0)"]
    faults = [line for line in checked.out.decode().splitlines() if line.startswith("wrong")]
    assert faults == [f"wrong: control/qmqpclients: {run.event('control')['reason']}"]


@pytest.mark.slow
def test_ten_thousand_clients(home: Home) -> None:
    home.control("qmqpclients", *(f"10.{n >> 8}.{n & 255}.1" for n in range(10_000)), "192.0.2.1")
    run = home.run(handed(b"x@no.example"), program="qsmtpd-qmqpd")
    assert verdicts(run.out) == [b"Kok"]
