"""RELAYCLIENT in the environment of programs: of whom may relay at that moment, and of nobody else.

Wrappers of the queue program, as qmail-scanner and simscan, decide by it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Certificate
from client import Client, client_context
from harness import PROGRAMS, Home
from listeners import Listener, Server, make_rules, tcpserver
from tls_home import AUTHORITY, SERVER

RIGHT = b"AUTH PLAIN " + base64.b64encode(b"\0joe\0secret")
WRONG = b"AUTH PLAIN " + base64.b64encode(b"\0joe\0wrong!")
ABSENT = "absent"
#: Each client has the right of its own rule.
RULES = [
    '127.0.0.2:allow,RELAYCLIENT=""',
    '127.0.0.3:allow,RELAYCLIENT="@gate.example"',
    ":allow",
]
NOBODY, EMPTY, SUFFIX = "127.0.0.1", "127.0.0.2", "127.0.0.3"
TELL = 'echo "%s ${RELAYCLIENT-absent} ${AUTHUSER-nobody}" >>%s\n'


@pytest.fixture
def told(home: Home) -> Path:
    """A home whose programs write here what they are told."""
    path = home.path / "told"
    path.touch()
    SERVER.save(home.control_dir / "servercert.pem")
    home.environ |= {
        "QMAILQUEUE": home.script(TELL % ("queue", path) + f"exec {PROGRAMS / 'oracle'}\n"),
        "RCPTCHECK": home.script(TELL % ("rcptcheck", path) + "exit 0\n"),
        "RCPTCHECKRELAYCLIENT": "1",
        "SMTPAUTH": "",
        "AUTHCLEAR": "1",
        "AUTHDELAY": "0",
        "SEEN": str(home.path / "seen"),
        "AUTHUSER": "forged",
        "SMTPAUTHUSER": "forged",
    }
    check = home.script(TELL % ("checkpassword", path) + f"exec {PROGRAMS / 'checker'} true\n")
    home.arguments = [check]
    return path


@pytest.fixture(params=["server", "tcpserver", "sessions"])
def listener(request: pytest.FixtureRequest, home: Home, told: Path) -> Iterator[Listener]:
    if request.param == "tcpserver":
        with tcpserver(home, *RULES) as found:
            yield found
        return
    cdb = make_rules(home.path / "rules.cdb", *RULES)
    more = ["--sessions", "100"] if request.param == "sessions" else []
    with Server(home, "-x", str(cdb), *more) as server:
        yield server


def sent(client: Client, home: Home) -> list[bytes]:
    """Send a message to two recipients of ours; how the queue program got their addresses."""
    before = len(home.messages())
    recipients = [b"RCPT TO:<x@ok.example>", b"RCPT TO:<y@ok.example>"]
    for command in (b"MAIL FROM:<a@b.example>", *recipients, b"DATA", b"."):
        assert client.ask(command)[:1] in b"23"
    return home.messages()[before].recipients


@pytest.mark.sample(3)
def test_who_may_relay_at_that_moment(listener: Listener, home: Home, told: Path) -> None:
    """One after the other, so that a process that serves several has had the others."""
    for source, value, suffix in [
        (SUFFIX, "@gate.example", b"@gate.example"),
        (NOBODY, ABSENT, b""),
        (EMPTY, "", b""),
        (NOBODY, ABSENT, b""),
    ]:
        told.write_text("")
        recipients = [box + b"@ok.example" + suffix for box in (b"x", b"y")]
        with listener.client(source) as client:
            client.reply()
            assert client.ask(WRONG)[:3] == b"535"
            assert sent(client, home) == recipients
            assert client.ask(RIGHT)[:3] == b"235"
            assert sent(client, home) == recipients
            client.starttls()
            assert sent(client, home) == recipients  # and the right of AUTH is gone again
        proven = "" if value == ABSENT else value
        line, proof = f"{value} nobody", f"{proven} nobody"
        assert told.read_text().splitlines() == [
            f"checkpassword {ABSENT} nobody",
            f"rcptcheck {line}",
            f"rcptcheck {line}",
            f"queue {line}",
            f"checkpassword {ABSENT} nobody",
            f"rcptcheck {proof}",
            f"rcptcheck {proof}",
            f"queue {proven} joe",
            f"rcptcheck {line}",
            f"rcptcheck {line}",
            f"queue {line}",
        ]


def test_a_certificate_and_a_plugin(home: Home, told: Path) -> None:
    own = Certificate("joe", issuer=AUTHORITY, address="joe@ok.example")
    home.file("control/clientca.pem", AUTHORITY.pem)
    home.control("tlsclients", "joe@ok.example")
    home.plugin(
        "rights",
        """
        from qsmtpd.decision import DECLINED

        def mail(client, envelope):
            client.relay = {b"take@b": None, b"give@b": b"@gate"}.get(envelope.sender, client.relay)
            return DECLINED
        """,
    )
    home.control("plugins", "rights", "builtins")
    with home.talk(*home.arguments) as talk:
        talk.reply()
        for sender in (b"a@b", b"give@b", b"take@b"):
            rcpt = b"RCPT TO:<x@ok.example>"
            assert talk.ask(b"MAIL FROM:<" + sender + b">", rcpt, b"DATA", b".")[:3] == b"250"
        talk.starttls(client_context(own.save(home.path / "own.pem")))
        assert talk.ask(b"MAIL FROM:<a@b>", rcpt, b"DATA", b".")[:3] == b"250"
        assert talk.ask(b"MAIL FROM:<take@b>", rcpt, b"DATA", b".")[:3] == b"250"
    values = [line.split(" ")[1] for line in told.read_text().splitlines() if line[0] == "q"]
    assert values == [ABSENT, "@gate", ABSENT, "", ABSENT]
    assert home.messages()[1].recipients == [b"x@ok.example@gate"]


@pytest.mark.parametrize(
    "lines", [["relay", "relay:2", "builtins"], ["rcpthosts", "relay", "relay:2", "builtins"]]
)
def test_a_suffix_is_added_once(home: Home, lines: list[str]) -> None:
    home.control("plugins", *lines)
    rcpt = [b"RCPT TO:<x@ok.example>", b"RCPT TO:<x@far.example>"]
    session = b"\r\n".join([b"MAIL FROM:<>", *rcpt, b"DATA", b".", b"QUIT", b""])
    assert home.run(session, RELAYCLIENT="@gate").codes == [220, 250, 250, 250, 354, 250, 221]
    assert home.messages()[0].recipients == [b"x@ok.example@gate", b"x@far.example@gate"]


def test_an_answer_of_before_does_not_count(home: Home, told: Path) -> None:
    """recipients remembers what a program has said: of the same client with the same rights."""
    program = home.script('test "${RELAYCLIENT-absent}" = ""')
    home.control("recipients", f"ok.example|{program}")
    home.control("plugins", "recipients immune=none", "builtins")
    rcpt = b"RCPT TO:<x@ok.example>"
    session = [b"MAIL FROM:<>", rcpt, b"RSET", RIGHT, b"MAIL FROM:<>", rcpt, b"QUIT", b""]
    done = home.run(b"\r\n".join(session), *home.arguments, RCPTCHECK=None)
    assert done.codes == [220, 250, 550, 250, 235, 250, 250, 221]


def test_hostile_values(home: Home, told: Path) -> None:
    """What begins like a function is for no shell of before 2014."""
    session = [b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA", b".", b"QUIT", b""]
    home.run(b"\r\n".join(session), RELAYCLIENT="() { :;}; touch pwned", RCPTCHECK=None)
    assert told.read_text() == f"queue {ABSENT} nobody\n"
    assert not Path("pwned").exists() and not (home.path / "pwned").exists()
