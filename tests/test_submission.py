"""Submission: who may send as whom, what is hidden, and what a header lacks."""

from __future__ import annotations

import re

import pytest
from cdbs import make_cdb
from harness import Home, Variables
from test_auth import MAIL, PASSWORD, RIGHT, b64, run

from qsmtpd.session.message import HEADER, HEADER_LIMIT, MessageStream
from qsmtpd.smtp.header import add_missing


def test_the_queue_program_knows_the_user(submission: Home) -> None:
    dump = submission.path / "dump"
    queue = submission.script(f"env >{dump}; cat >/dev/null; cat <&1 >/dev/null")
    name = b64(b"\0joe\0secret")
    run(submission, b"AUTH PLAIN " + name, *MAIL, b".", QMAILQUEUE=queue, TCPREMOTEINFO="ident")
    environ = dict(line.split("=", 1) for line in dump.read_text().splitlines())
    assert environ["TCPREMOTEINFO"] == environ["AUTHUSER"] == "joe"
    assert environ["AUTHPROTOCOL"] == "PLAIN"
    assert PASSWORD not in dump.read_text()


def test_an_address_can_be_hidden(submission: Home) -> None:
    session = (b"EHLO laptop.home", b"AUTH PLAIN " + RIGHT, *MAIL, b".")
    run(submission, *session, AUTHHIDE="1")
    run(submission, b"EHLO laptop.home", MAIL[0], b"RCPT TO:<x@ok.example>", b"DATA", b".")
    hidden, shown = (message.text for message in submission.messages())
    assert hidden.startswith(b"Received: from unknown (joe@unknown)\n  by mx.example with ESMTPA;")
    assert shown.startswith(b"Received: from client.example (HELO laptop.home) (192.0.2.1)\n")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("rule", "sender", "allowed"),
    [
        ("", b"any@ok.example", True),
        ("", b"any@no.example", False),
        ("", b"local", False),
        ("own.example", b"any@OWN.example", True),
        ("own.example", b"any@not.own.example", False),
        ("=", b"joe", True),
        ("=", b"joe@ok.example", False),
        ("?", b"joe@ok.example", False),
        ("!", b"joe@one.example", True),
        ("!", b"x@two.example", True),
        ("!", b"notjoe@one.example", False),
        ("!", b"x@sub.two.example", False),
        ("!", b"", True),
    ],
)
def test_which_senders_a_user_may_use(
    submission: Home, rule: str, sender: bytes, allowed: bool
) -> None:
    submission.control("mailfromrules", "joe:Joe@one.example,@two.example", "192.0.2.:@no.example")
    mail = b"MAIL FROM:<" + sender + b">"
    rcpt = b"RCPT TO:<x@else.example>"
    done = run(submission, b"AUTH PLAIN " + RIGHT, mail, rcpt, LOCALMFCHECK=rule)
    assert done.codes == [220, 235, 250, 250 if allowed else 553, 221]
    if not allowed:
        assert b"553 sorry, invalid sender address specified (#5.7.1)" in done.lines
    # It is no business of those who may not relay.
    done = run(submission, mail, b"RCPT TO:<x@ok.example>", LOCALMFCHECK=rule)
    assert done.codes == [220, 250, 250, 221]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("192.0.2.1", True),
        ("192.0.", True),
        ("192.0", False),
        ("=client.example", True),
        ("=.example", True),
        ("=", True),
        ("ident", True),
        ("ident@192.0.2.1", True),
        ("other", False),
    ],
)
def test_keys_of_the_rules(home: Home, key: str, allowed: bool) -> None:
    home.control("mailfromrules", f"{key}:@own.example")
    session = b"MAIL FROM:<x@own.example>\r\nRCPT TO:<x@else.example>\r\nQUIT\r\n"
    environ: Variables = {"RELAYCLIENT": "", "TCPREMOTEINFO": "ident", "LOCALMFCHECK": "!"}
    assert home.run(session, **environ).codes == [220, 250, 250 if allowed else 553, 221]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("2001:db8:1::2", True),
        ("2001:db8:1::", True),
        ("2001:db8:1:", True),
        ("2001:", True),
        ("2001:db8", False),
        ("2001:db8:2:", False),
        ("joe@2001:db8:1::2", False),
        ("ident@2001:db8:1::2", True),
    ],
)
@pytest.mark.parametrize("cdb", [False, True])
def test_keys_of_the_rules_for_ipv6(home: Home, key: str, allowed: bool, cdb: bool) -> None:
    if cdb:
        make_cdb(home.control_dir / "mailfromrules.cdb", {key.encode(): b"@own.example"})
    else:
        home.control("mailfromrules", f"{key}:@own.example")
    session = b"MAIL FROM:<x@own.example>\r\nRCPT TO:<x@else.example>\r\nQUIT\r\n"
    environ: Variables = {"RELAYCLIENT": "", "TCPREMOTEINFO": "ident", "LOCALMFCHECK": "!"}
    done = home.run(session, **environ, TCPREMOTEIP="2001:DB8:1:0::2")
    assert done.codes == [220, 250, 250 if allowed else 553, 221]


def test_missing_header_lines_are_added(submission: Home) -> None:
    lines = (b"AUTH PLAIN " + RIGHT, *MAIL, b"Subject: x", b"", b"body", b".")
    run(submission, *lines)
    run(submission, *lines, SUBMISSIONHEADER="fill")
    plain, filled = (message.body for message in submission.messages())
    assert plain == b"Subject: x\n\nbody\n"
    assert re.fullmatch(
        rb"Subject: x\nDate: \d+ \w{3} \d{4} [\d:]{8} -0000\n"
        rb"Message-ID: <\d+\.\d+@mx\.example>\n\nbody\n",
        filled,
    )
    # Not for mail from elsewhere.
    submission.clear()
    foreign = (MAIL[0], b"RCPT TO:<x@ok.example>", b"DATA", b"Subject: x", b"", b".")
    run(submission, *foreign, SUBMISSIONHEADER="fill")
    assert submission.messages()[0].body == b"Subject: x\n\n"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"A: 1\n\nbody\n", b"A: 1\nDate: now\n\nbody\n"),
        (b"A: 1\n", b"A: 1\nDate: now\n"),
        (b"A: 1", b"A: 1\nDate: now\n"),
        (b"\nbody\n", b"Date: now\n\nbody\n"),
        (b"", b"Date: now\n"),
        (b"DATE: x\n\nDate: y\n", b"DATE: x\n\nDate: y\n"),
        (b"Date \t: x\n\n", b"Date \t: x\n\n"),
        (b"X-Date: x\n\nDate: y\n", b"X-Date: x\nDate: now\n\nDate: y\n"),
        (b"no header at all\nmore\n", b"no header at all\nmore\n"),
        (b"A: 1\n\n\n\n", b"A: 1\nDate: now\n\n\n\n"),
    ],
)
def test_missing_lines_of_a_header(text: bytes, result: bytes) -> None:
    assert filled([text], b"Date: now\n") == result
    assert filled([bytes((byte,)) for byte in text], b"Date: now\n") == result


def filled(parts: list[bytes], line: bytes) -> bytes:
    """A message that comes in these parts, with the line in its header where that is whole."""
    message = MessageStream()
    found = b""
    for part, last in [*((part, False) for part in parts), (b"", True)]:
        for event, text in message.feed(part, last):
            if event is HEADER and message.whole:
                text = add_missing(text, {b"date": line})
            found += text
    return found


def test_an_endless_header_is_left_alone() -> None:
    text = b"A: 1\n" * (HEADER_LIMIT // 5 + 1)
    parts = [text[n : n + 65536] for n in range(0, len(text), 65536)]
    assert filled([*parts, b"\nbody"], b"Date: now\n") == text + b"\nbody"
