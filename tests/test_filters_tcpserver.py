"""Whole sessions through tcpserver, whose rules or the control files switch a filter on.

The client is smtplib, or a plain socket where it has to misbehave.  Its address
on the loopback network says which of the rules it is subject to.
"""

from __future__ import annotations

import base64
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from harness import BIN, PATIENCE, PROGRAMS, Home, Listener, parse_log, wait_for
from test_servers import needs

MESSAGE = b"Subject: x\r\n\r\nbody\r\n"
#: What a rule gives to clients whose host name tcpserver does not know.
NAMED = 'TCPREMOTEHOST="mx.a.com"'


class Service:
    """A tcpserver with rules, started when it is first needed."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stack = ExitStack()
        self._listener: Listener | None = None
        self.rules: list[str] = []

    def start(self) -> Listener:
        if self._listener is None:
            cdb = self._home.path / "rules.cdb"
            subprocess.run(
                [needs("tcprules"), cdb, f"{cdb}.new"],
                input="".join(rule + "\n" for rule in self.rules).encode(),
                check=True,
            )
            environ = {
                name: value
                for name, value in self._home.environ.items()
                if not name.startswith("TCP") and name != "PROTO"
            }
            command = [needs("tcpserver"), "-1", "-HR", "-l", "mx.example", "-x", cdb]
            self._listener = self._stack.enter_context(
                Listener(
                    [*command, "127.0.0.1", "0", BIN / "qsmtpd"], environ, self._home.path / "log"
                )
            )
        return self._listener

    @contextmanager
    def socket(self, client: str) -> Iterator[socket.socket]:
        """A connection from this address."""
        to = "127.0.0.1", self.start().port
        with socket.create_connection(to, PATIENCE, (client, 0)) as connection:
            yield connection

    def smtp(self, client: str, helo: str = "client") -> smtplib.SMTP:
        """A client that has said EHLO."""
        smtp = smtplib.SMTP(timeout=PATIENCE, local_hostname=helo, source_address=(client, 0))
        smtp.connect("127.0.0.1", self.start().port)
        smtp.ehlo()
        return smtp

    def mail(self, client: str, sender: str = "a@b.com", helo: str = "client") -> tuple[int, str]:
        """Try to send one message to two recipients; the last reply to RCPT, or to DATA."""
        with self.smtp(client, helo) as smtp:
            assert smtp.mail(sender) == (250, b"ok")
            for recipient in ("x@ok.example", "y@ok.example"):
                code, text = smtp.rcpt(recipient)
            if code == 250:
                code, text = smtp.data(MESSAGE)
        return code, text.decode()

    def events(self, name: str) -> list[dict[str, str]]:
        lines = [line for line in self.start().log().splitlines() if line.startswith("event=")]
        return [fields for fields in map(parse_log, lines) if fields["event"] == name]

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def service(home: Home) -> Iterator[Service]:
    service = Service(home)
    yield service
    service.stop()


def test_badmailfrom(service: Service, home: Home) -> None:
    home.control(
        "badmailfrom", "@spam.com", "*@*.spam.com", "!good@*", "@a.com=", "~a.com", "@b.com+"
    )
    service.rules = [
        f"127.0.0.2:allow,{NAMED}",
        '127.0.0.3:allow,RELAYCLIENT="",REPLY_BADMAILFROM="ask 1234"',
        ":allow",
    ]
    refused = 553, "sorry, your envelope sender is in my badmailfrom list (#5.7.1)"
    assert service.mail("127.0.0.1", "x@SPAM.com") == refused
    assert service.mail("127.0.0.1", "x@sub.spam.com") == refused
    assert service.mail("127.0.0.1", "x@a.com") == refused
    assert service.mail("127.0.0.1", "x@b.com") == refused
    assert service.mail("127.0.0.2", "x@c.com") == refused
    code, text = service.mail("127.0.0.3", "x@spam.com")
    assert (code, text) == (
        553,
        "sorry, your envelope sender is in my badmailfrom list ask 1234 (#5.7.1)",
    )
    assert home.messages() == []
    senders = [
        ("127.0.0.1", "good@spam.com"),
        ("127.0.0.1", "x@c.com"),
        ("127.0.0.2", "x@a.com"),
        ("127.0.0.3", "x@b.com"),
    ]
    for client, sender in senders:
        assert service.mail(client, sender)[0] == 250
    assert [message.sender.decode() for message in home.messages()] == [s for _, s in senders]
    assert {event["by"] for event in service.events("refused")} == {"badmailfrom"}


def test_badrcptto(service: Service, home: Home) -> None:
    home.control("badrcptto", "*", "!y@ok.example")
    service.rules = ['127.0.0.2:allow,RELAYCLIENT=""', ":allow"]
    for client in ("127.0.0.1", "127.0.0.2"):
        with service.smtp(client) as smtp:
            smtp.mail("a@b.com")
            text = b"sorry, your envelope recipient is in my badrcptto list (#5.7.1)"
            assert smtp.rcpt("x@ok.example") == (553, text)
            assert smtp.rcpt("Y@ok.example") == (250, b"ok")
            assert smtp.data(MESSAGE)[0] == 250
    assert [message.recipients for message in home.messages()] == [[b"Y@ok.example"]] * 2
    assert [event["by"] for event in service.events("refused")] == ["badrcptto"] * 2


def test_helocheck(service: Service, home: Home) -> None:
    service.rules = [
        f'127.0.0.2:allow,HELOCHECK="=",{NAMED}',
        f'127.0.0.3:allow,HELOCHECK="=",{NAMED},RELAYCLIENT=""',
        '127.0.0.4:allow,HELOCHECK="."',
        '127.0.0.5:allow,HELOCHECK="A"',
        f'127.0.0.6:allow,HELOCHECK="=",{NAMED},IMMUNE="1"',
        ":allow",
    ]
    wrong = 550, "sorry, invalid HELO/EHLO greeting (#5.7.1)"
    assert service.mail("127.0.0.2", helo="mx.b.com") == wrong
    assert service.mail("127.0.0.2", helo="MX.a.com")[0] == 250
    for client in ("127.0.0.3", "127.0.0.6"):
        assert service.mail(client, helo="mx.b.com")[0] == 250
    with service.socket("127.0.0.4") as connection, connection.makefile("rb") as replies:
        connection.sendall(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n")
        assert [line[:3] for line in replies] == [b"220", b"250", b"550", b"221"]
    with service.socket("127.0.0.5") as connection, connection.makefile("rb") as replies:
        assert list(replies) == [b"421 unable to read controls (#4.3.0)\r\n"]
    wait_for(lambda: service.events("control"))
    assert service.events("control")[0]["reason"] == "A and M need DNS, which is not done yet"
    assert [event["by"] for event in service.events("refused")] == ["helocheck"] * 3
    assert len(home.messages()) == 3


def test_badhelo_alone(service: Service, home: Home) -> None:
    home.control("badhelo", "*.dialup.*", "7.dialup.a.com!")
    service.rules = ['127.0.0.2:allow,HELOCHECK="!"', ":allow"]
    assert service.mail("127.0.0.1", helo="8.dialup.a.com")[0] == 550
    assert service.mail("127.0.0.1", helo="7.dialup.a.com")[0] == 250
    assert service.mail("127.0.0.2", helo="8.dialup.a.com")[0] == 250


def test_rblsmtpd(service: Service, home: Home) -> None:
    service.rules = [
        '127.0.0.2:allow,RBLSMTPD="-%IP% is bad"',
        '127.0.0.3:allow,RBLSMTPD="come again",RELAYCLIENT=""',
        '127.0.0.4:allow,RBLSMTPD=""',
        '127.0.0.6:allow,RBLSMTPD="-bad",IMMUNE="1"',
        '127.0.0.5:allow,RBLSMTPD="[RBL info] http://bl.example/?127.0.0.5"',
        ":allow",
    ]
    assert service.mail("127.0.0.2") == (553, "127.0.0.2 is bad (#5.7.1)")
    assert service.mail("127.0.0.3") == (451, "come again (#4.7.1)")
    assert home.messages() == []
    for client in ("127.0.0.1", "127.0.0.4", "127.0.0.6"):
        assert service.mail(client)[0] == 250
    assert not any(b"X-RBL-Info" in message.text for message in home.messages())
    home.clear()
    assert service.mail("127.0.0.5")[0] == 250
    (message,) = home.messages()
    assert message.text.count(b"X-RBL-Info") == 1
    assert b"\nX-RBL-Info: http://bl.example/?127.0.0.5\nSubject: x\n" in message.text
    assert {event["by"] for event in service.events("refused")} == {"rblsmtpd"}


def test_who_logs_in_may_come_from_a_bad_host(home: Home) -> None:
    home.environ.update(
        SMTPAUTH="", AUTHCLEAR="1", SEEN=str(home.path / "seen"), RBLSMTPD="-bad host"
    )
    rcpt = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nRSET\r\n"
    login = b"AUTH PLAIN " + base64.b64encode(b"\0joe\0secret") + b"\r\n"
    commands = b"EHLO me\r\n" + rcpt + login + rcpt + b"QUIT\r\n"
    run = home.run(commands, str(PROGRAMS / "checker"), "true")
    assert run.codes == [220, 250, 250, 553, 250, 235, 250, 250, 250, 221]


def test_rblsmtpd_says_what_the_real_one_says(service: Service, home: Home) -> None:
    """The same variable, and the same code and text, from the program whose variable it is."""
    program = needs("rblsmtpd")
    for text in ("-go away", "go away", "-", "x" * 300):
        environ = {"RBLSMTPD": text, "TCPREMOTEIP": "192.0.2.1"}
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


def test_greetdelay(service: Service) -> None:
    service.rules = [
        '127.0.0.2:allow,SMTPD_GREETDELAY="1"',
        '127.0.0.3:allow,SMTPD_GREETDELAY="50",DROP_PRE_GREET="1"',
        '127.0.0.4:allow,GREETDELAY="-50",RELAYCLIENT=""',
        '127.0.0.5:allow,GREETDELAY="-1"',
        '127.0.0.7:allow,GREETDELAY="-50"',
        '127.0.0.6:allow,GREETDELAY="50",IMMUNE="1"',
        ":allow",
    ]
    service.start()
    # Who waits is served, and it was a wait.
    for client in ("127.0.0.2", "127.0.0.5"):
        start = time.monotonic()
        assert service.mail(client)[0] == 250
        assert time.monotonic() - start >= 1
    # Who may relay does not wait: 50 seconds are more than this test has.
    start = time.monotonic()
    for client in ("127.0.0.4", "127.0.0.6"):
        assert service.mail(client)[0] == 250
    # Who speaks first is sent away, and need not wait for that either.
    for client in ("127.0.0.3", "127.0.0.7"):
        with service.socket(client) as connection, connection.makefile("rb") as replies:
            connection.sendall(b"EHLO early\r\n")
            assert list(replies) == [b"554 SMTP protocol violation (#5.5.1)\r\n"]
    assert time.monotonic() - start < 40
    # Or it waits to the end, and nothing of what it has said is lost.
    start = time.monotonic()
    with service.socket("127.0.0.2") as connection, connection.makefile("rb") as replies:
        connection.sendall(b"HELO early\r\nMAIL FROM:<>\r\nQUIT\r\n")
        assert [line[:3] for line in replies] == [b"220", b"250", b"250", b"221"]
    assert time.monotonic() - start >= 1
    wait_for(lambda: len(service.events("session")) == 7)
    ends = [event["end"] for event in service.events("session")]
    assert ends.count("dropped-by-greetdelay") == 2
    (early,) = service.events("plugin")
    assert early["plugin"] == "greetdelay"
    assert float(early["early"]) < 1
    assert early["ip"] == "127.0.0.2"


@pytest.mark.parametrize(
    ("files", "environ", "wrong"),
    [
        ({}, {"HELOCHECK": "A"}, "HELOCHECK: A and M need DNS"),
        ({"badhelo": "x["}, {}, "control/badhelo: b'x[' has a [ without a ]"),
        ({"badmailfrom": "@*.com="}, {}, "control/badmailfrom: b'@*.com=' has both"),
        ({"badrcptto": "x[b-a]"}, {}, "control/badrcptto: b'x[b-a]' has a range"),
        ({"greetdelay": "5s"}, {}, "GREETDELAY: is not a number"),
    ],
)
def test_the_check_says_what_is_wrong(
    home: Home, files: dict[str, str], environ: dict[str, str], wrong: str
) -> None:
    """And a session says 421, not for one filter only: nobody has to guess which one works."""
    for name, line in files.items():
        home.control(name, line)
    run = home.run(b"", "--check", **environ)
    assert run.status == 1
    assert f"\nwrong: {wrong}" in run.out.decode()
    assert home.run(b"QUIT\r\n", **environ).codes == [421]


def test_localmfcheck(service: Service, home: Home) -> None:
    home.control("mailfromrules", "127.0.0.5:@its.example,one@other.example")
    service.rules = [
        '127.0.0.2:allow,RELAYCLIENT="",LOCALMFCHECK=""',
        '127.0.0.3:allow,RELAYCLIENT="",LOCALMFCHECK="a.example",REPLY_SENDERINVALID="not yours"',
        '127.0.0.4:allow,RELAYCLIENT="",TCPREMOTEINFO="joe@a.example",LOCALMFCHECK="="',
        '127.0.0.5:allow,RELAYCLIENT="",LOCALMFCHECK="!"',
        ':allow,LOCALMFCHECK=""',
    ]
    refused = 553, "sorry, invalid sender address specified (#5.7.1)"
    assert service.mail("127.0.0.2", "x@no.example") == refused
    text = "sorry, invalid sender address specified not yours (#5.7.1)"
    assert service.mail("127.0.0.3", "x@b.example") == (553, text)
    assert service.mail("127.0.0.4", "joe@b.example") == refused
    assert service.mail("127.0.0.5", "two@other.example") == refused
    senders = [
        ("127.0.0.1", "x@no.example"),  # who may not relay is not asked
        ("127.0.0.2", "x@ok.example"),
        ("127.0.0.3", "x@a.example"),
        ("127.0.0.4", "joe@a.example"),
        ("127.0.0.5", "one@other.example"),
        ("127.0.0.5", "x@its.example"),
    ]
    for client, sender in senders:
        assert service.mail(client, sender)[0] == 250
    assert [message.sender.decode() for message in home.messages()] == [s for _, s in senders]
    assert {event["by"] for event in service.events("refused")} == {"localmfcheck"}


def test_plugins_for_a_client(service: Service, home: Home) -> None:
    """QSMTPD_PLUGINS in the rules."""
    home.control("badmailfrom", "@spam.com")
    home.control("others", "@other.com")
    service.rules = [
        '127.0.0.2:allow,QSMTPD_PLUGINS="-badmailfrom"',
        '127.0.0.3:allow,QSMTPD_PLUGINS="badmailfrom badmailfrom=others"',
        ":allow",
    ]
    for client, sender, code in (
        ("127.0.0.1", "x@spam.com", 553),
        ("127.0.0.2", "x@spam.com", 250),
        ("127.0.0.3", "x@spam.com", 250),
        ("127.0.0.3", "x@other.com", 553),
    ):
        assert service.mail(client, sender)[0] == code
