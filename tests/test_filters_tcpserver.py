"""Filters that tcpserver's rules or the control files switch on, for some clients only.

A client's address on the loopback network says which of the rules it is subject
to.  What the filters then say is in transcripts/filters-*.txt.
"""

from __future__ import annotations

import subprocess

import pytest
from client import PATIENCE
from harness import Home, Variables, needs, wait_for
from listeners import Listener, tcpserver

pytestmark = pytest.mark.slow


def rcpt(
    listener: Listener, source: str, sender: bytes = b"a@b.com", to: bytes = b"x@ok.example"
) -> bytes:
    """The reply to a recipient."""
    mail = b"MAIL FROM:<%b>" % sender
    return listener.session(b"EHLO client", mail, b"RCPT TO:<%b>" % to, source=source)[-1]


def test_rules_choose(home: Home) -> None:
    """The variables of filters, and what the client may do, differ from one to the next."""
    home.control("badmailfrom", "@spam.com")
    home.control("others", "@other.com")
    rules = [
        '127.0.0.2:allow,QSMTPD_PLUGINS="-badmailfrom"',
        '127.0.0.3:allow,QSMTPD_PLUGINS="badmailfrom badmailfrom=others"',
        '127.0.0.4:allow,RBLSMTPD="-%IP% is bad"',
        '127.0.0.5:allow,HELOCHECK="=",TCPREMOTEHOST="client"',
        '127.0.0.6:allow,HELOCHECK="=",TCPREMOTEHOST="mx.a.com"',
        '127.0.0.7:allow,RELAYCLIENT="",REPLY_BADMAILFROM="ask 1234"',
        '127.0.0.8:allow,HELOCHECK="a"',
        ":allow",
    ]
    listed = b"553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)"
    with tcpserver(home, *rules) as listener:
        assert rcpt(listener, "127.0.0.1", b"x@spam.com") == listed
        assert rcpt(listener, "127.0.0.2", b"x@spam.com") == b"250 ok"
        assert rcpt(listener, "127.0.0.3", b"x@spam.com") == b"250 ok"
        assert rcpt(listener, "127.0.0.3", b"x@other.com") == listed
        assert rcpt(listener, "127.0.0.4") == b"553 127.0.0.4 is bad (#5.7.1)"
        assert rcpt(listener, "127.0.0.5") == b"250 ok"
        wrong_name = b"550 sorry, invalid HELO/EHLO greeting (#5.7.1)"
        assert rcpt(listener, "127.0.0.6") == wrong_name
        assert rcpt(listener, "127.0.0.7", to=b"x@far.example") == b"250 ok"
        ask = b"553 sorry, your envelope sender is in my badmailfrom list ask 1234 (#5.7.1)"
        assert rcpt(listener, "127.0.0.7", b"x@spam.com") == ask
        broken = b"421 unable to read controls (#4.3.0)"
        assert listener.session(source="127.0.0.8") == [broken]
        refused = listener.events("refused")
        assert [(event["ip"], event["by"]) for event in refused] == [
            ("127.0.0.1", "badmailfrom"),
            ("127.0.0.3", "badmailfrom"),
            ("127.0.0.4", "rblsmtpd"),
            ("127.0.0.6", "helocheck"),
            ("127.0.0.7", "badmailfrom"),
        ]


def test_rblsmtpd_says_what_the_real_one_says(home: Home) -> None:
    """The same variable, and the same code and text, from the program whose variable it is."""
    program = needs("rblsmtpd")
    for text in ("-go away", "go away", "-", "x" * 300):
        environ: Variables = {"RBLSMTPD": text, "TCPREMOTEIP": "192.0.2.1"}
        commands = b"MAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n"
        done = subprocess.run(
            [program, "-r", "none.invalid", "false"],
            input=commands,
            env={"PATH": "/usr/bin:/bin", **environ},
            capture_output=True,
            timeout=PATIENCE,
        )
        theirs = done.stdout.split(b"\r\n")[2]
        ours = home.run(commands, **environ).lines[2]
        assert ours[:4] == theirs[:4]
        if text != "-":  # it has no text then, and we have one
            assert ours[: len(theirs)] == theirs
            assert ours[len(theirs) :] in (b" (#5.7.1)", b" (#4.7.1)")


def test_greetdelay(home: Home) -> None:
    """Who waits is served, and it was a wait; who may relay need not, nor who is sent away."""
    rules = [
        '127.0.0.2:allow,SMTPD_GREETDELAY="1"',
        '127.0.0.3:allow,GREETDELAY="-50"',
        '127.0.0.4:allow,GREETDELAY="-50",RELAYCLIENT=""',
        ":allow",
    ]
    with tcpserver(home, *rules) as listener:
        assert rcpt(listener, "127.0.0.2") == b"250 ok"
        assert rcpt(listener, "127.0.0.4") == b"250 ok"
        with listener.client("127.0.0.3") as early:
            early.send(b"EHLO early\r\n")
            assert early.rest() == b"554 SMTP protocol violation (#5.5.1)\r\n"
        wait_for(lambda: len(listener.events("session")) == 3)
        waited, relayed, dropped = listener.events("session")
    assert float(waited["seconds"]) >= 1
    assert float(relayed["seconds"]) < 40
    assert float(dropped["seconds"]) < 40
    assert dropped["end"] == "dropped-by-greetdelay"


@pytest.mark.parametrize(
    ("files", "environ", "wrong"),
    [
        ({}, {"HELOCHECK": "a"}, "HELOCHECK: is neither empty nor one of . ! = A M"),
        ({"badhelo": "x["}, {}, "control/badhelo: line 1: 'x[' has a [ without a ]"),
        ({"badmailfrom": "@*.com="}, {}, "control/badmailfrom: line 1: '@*.com=' has both"),
        ({"badrcptto": "x[b-a]"}, {}, "control/badrcptto: line 1: 'x[b-a]' has a range"),
        ({"greetdelay": "5s"}, {}, "control/greetdelay: is '5s', which is not a number"),
    ],
)
def test_the_check_says_what_is_wrong(
    home: Home, files: dict[str, str], environ: Variables, wrong: str
) -> None:
    """And a session says 421, not for one filter only: nobody has to guess which one works."""
    for name, line in files.items():
        home.control(name, line)
    run = home.run(b"", "--check", **environ)
    assert run.status == 1
    assert f"\nwrong: {wrong}" in run.out.decode()
    assert home.run(b"QUIT\r\n", **environ).codes == [421]
