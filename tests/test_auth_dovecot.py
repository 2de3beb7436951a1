"""AUTH through Dovecot: it says who is in, and nothing else does."""

from __future__ import annotations

import base64
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client import PATIENCE
from daemons import AUTH_HELLO, Line, Peer, Script, dovecot, passwords
from harness import Home, Variables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listeners import Server, clocked
from run import Run
from tls_home import SERVER

pytestmark = pytest.mark.slow

OFFERED = b"250 AUTH PLAIN LOGIN SCRAM-SHA-256"
RIGHT = b"AUTH PLAIN " + base64.b64encode(b"\0joe\0secret")
WRONG = b"AUTH PLAIN " + base64.b64encode(b"\0joe\0wrong!")
IN = b"235 ok, go ahead (#2.0.0)"
NO = b"535 authentication failed (#5.7.1)"
NOT_NOW = b"454 problem with child and I can't auth (#4.3.0)"
UNKNOWN = b"504 auth type unimplemented (#5.5.1)"


@pytest.fixture
def place(home: Home) -> Home:
    """A home whose AUTH is Dovecot's, in clear to be simple; Dovecot is not there yet."""
    SERVER.save(home.control_dir / "servercert.pem")
    home.environ.update(SMTPAUTH="", AUTHCLEAR="1", AUTHDELAY="0", MAXERRORS="100")
    home.control("dovecotauth", f"unix:{home.path}/auth")
    return home


@pytest.fixture
def peer(place: Home) -> Iterator[Peer]:
    """Dovecot is there, and knows joe."""
    with Peer(passwords(joe="secret"), place.path / "auth") as peer:
        yield peer


def run(home: Home, *lines: bytes, **environ: Any) -> Run:
    """A session of these lines; its log has no passwords (see run.py)."""
    return home.run(b"\r\n".join((*lines, b"QUIT", b"")), **environ)


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


# -- what is announced -------------------------------------------------------


def test_only_inside_tls(peer: Peer, place: Home) -> None:
    del place.environ["AUTHCLEAR"]
    with place.talk() as talk:
        talk.reply()
        talk.send(b"EHLO me\r\n")
        assert b"AUTH" not in b"".join(talk.lines())
        assert talk.ask(RIGHT) == b"538 auth not available without TLS (#5.3.3)"
        assert peer.connections == 0
        talk.starttls()
        assert talk.ask(b"EHLO me") == OFFERED
        assert talk.ask(b"EHLO me") == OFFERED
        assert peer.connections == 1  # once for all of them
        assert talk.ask(RIGHT) == IN
        assert b"AUTH" not in talk.ask(b"EHLO me")


@pytest.mark.parametrize(
    ("environ", "offered", "asked"),
    [
        ({}, OFFERED, 1),
        ({"SMTPAUTH": "!"}, OFFERED, 1),
        ({"SMTPAUTH": "cram"}, b"250 AUTH CRAM-MD5", 0),
        ({"SMTPAUTH": "!+cram"}, b"250 AUTH LOGIN PLAIN CRAM-MD5", 0),
        ({"AUTHMECHANISMS": "scram-sha-1 PLAIN"}, b"250 AUTH SCRAM-SHA-1 PLAIN", 0),
        ({"SMTPAUTH": "-"}, None, 0),
        ({"SMTPAUTH": None}, None, 0),
        ({"SMTPAUTH": None, "REQUIRE_AUTH": "1"}, OFFERED, 1),
        ({"DOVECOTAUTH": ""}, None, 0),
    ],
)
def test_names(
    peer: Peer, place: Home, environ: dict[str, str | None], offered: bytes | None, asked: int
) -> None:
    """All that Dovecot has, or those that are named: then it is not asked."""
    done = run(place, b"EHLO me", **environ)
    assert [line for line in done.lines if b" AUTH" in line or b"-AUTH" in line] == (
        [] if offered is None else [offered]
    )
    assert peer.connections == asked


def test_what_nobody_has(peer: Peer, place: Home) -> None:
    assert (
        run(place, b"AUTH FOO", b"AUTH FOO x", b"AUTH", b"AUTH EXTERNAL =").lines[1:-1]
        == [UNKNOWN] * 4
    )
    unsaid = run(place, b"AUTH se/cret x")
    assert unsaid.lines[1] == UNKNOWN and "se/cret" not in unsaid.log
    named = {"AUTHMECHANISMS": "PLAIN CRAM-MD5"}
    assert run(place, b"AUTH LOGIN", b"AUTH CRAM-MD5", **named).lines[1:-1] == [UNKNOWN] * 2


@pytest.mark.parametrize("flag", [b"anonymous", b"private"])
def test_nobody_comes_in_without_a_name(place: Home, flag: bytes) -> None:
    hello = b"VERSION\t1\t1\nMECH\tANONYMOUS\t" + flag + b"\nMECH\tPLAIN\tplaintext\nDONE\n"

    def welcome(fields: list[bytes], line: Line) -> None:
        line.say(b"OK\t1\tuser=anonymous\tanonymous\n")

    with Peer(dovecot(welcome, hello), place.path / "auth"):
        done = run(place, b"EHLO x", b"AUTH ANONYMOUS " + b64(b"x"))
    assert b"250 AUTH PLAIN" in done.lines and done.lines[-2] == UNKNOWN


# -- an exchange -------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ([RIGHT], [235]),
        ([WRONG], [535]),
        ([b"auth plain " + b64(b"\0joe\0secret")], [235]),
        ([b"AUTH PLAIN", b64(b"\0joe\0secret")], [334, 235]),
        ([b"AUTH LOGIN", b64(b"joe"), b64(b"secret")], [334, 334, 235]),
        ([b"AUTH LOGIN " + b64(b"joe"), b64(b"secret")], [334, 235]),
        ([b"AUTH LOGIN", b64(b"joe"), b64(b"wrong!")], [334, 334, 535]),
        ([b"AUTH LOGIN", b64(b"joe"), b"*", RIGHT], [334, 334, 501, 235]),
        ([b"AUTH LOGIN", b"!", RIGHT], [334, 501, 235]),
        ([b"AUTH LOGIN", b"x" * 20000, RIGHT], [334, 500, 235]),
        ([b"AUTH PLAIN =="], [501]),
        ([WRONG, WRONG, RIGHT], [535, 535, 235]),
        ([RIGHT, RIGHT], [235, 503]),
    ],
)
def test_exchanges(peer: Peer, place: Home, lines: list[bytes], codes: list[int]) -> None:
    done = run(place, *lines)
    assert done.codes == [220, *codes, 221]


def test_who_is_in(peer: Peer, place: Home) -> None:
    """The user is the one whom Dovecot names; and may send anywhere."""
    mail = (b"MAIL FROM:<joe@ok.example>", b"RCPT TO:<x@no.example>", b"DATA", b"x", b".")
    done = run(place, RIGHT, *mail)
    assert done.codes == [220, 235, 250, 250, 354, 250, 221]
    assert b"(joe@ok.example@192.0.2.1)" in place.messages()[0].text
    event = done.event("auth")
    assert (event["verdict"], event["user"]) == ("accepted", "joe@ok.example")
    assert event["mechanism"] == "PLAIN" and "reason" not in event
    assert run(place, WRONG, *mail[:2]).codes == [220, 535, 250, 553, 221]


def test_three_failures(peer: Peer, place: Home) -> None:
    done = run(place, WRONG, WRONG, WRONG, RIGHT)
    assert done.codes == [220, 535, 535, 421]
    assert [event["user"] for event in done.events("auth")] == ["joe"] * 3


def test_what_dovecot_is_told(place: Home) -> None:
    asked: list[list[bytes]] = []

    def answer(fields: list[bytes], line: Line) -> None:
        asked.append(fields)
        line.say(b"FAIL\t1\n")

    with Peer(dovecot(answer), place.path / "auth"):
        ports = {"TCPREMOTEPORT": "4711", "TCPLOCALPORT": "587"}
        run(place, RIGHT, b"AUTH PLAIN =", b"AUTH PLAIN", **ports)
        run(place, RIGHT, TCPREMOTEIP=None, TCPLOCALIP="x", TCPREMOTEPORT="1\t2")
        with place.talk() as talk:
            talk.reply()
            talk.starttls()
            talk.ask(RIGHT)
    facts = [b"nologin", b"lip=192.0.2.9", b"rip=192.0.2.1", b"lport=587", b"rport=4711"]
    begin = [b"AUTH", b"1", b"PLAIN", b"service=smtp"]
    last = b"resp=" + b64(b"\0joe\0secret")
    assert asked[0] == [*begin, *facts, last]
    assert asked[1] == [*begin, *facts, b"resp="]
    assert asked[2] == [*begin, *facts]
    assert asked[3] == [*begin, b"nologin", last]
    assert asked[4] == [*begin, *facts[:3], b"secured=tls", last]


def test_a_last_word_of_dovecots(place: Home) -> None:
    """What a mechanism has still to say is a challenge, and its response is empty (RFC 4954, 4)."""

    def answer(fields: list[bytes], line: Line) -> None:
        if fields[0] == b"AUTH":
            line.say(b"CONT\t1\t" + b64(b"r=1") + b"\n")
        elif fields[2]:
            line.say(b"CONT\t1\t" + b64(b"v=proof") + b"\n")
        else:
            line.say(b"OK\t1\tuser=joe\n")

    with Peer(dovecot(answer), place.path / "auth"):
        done = run(place, b"AUTH SCRAM-SHA-256 " + b64(b"n,,n=joe"), b64(b"p=x"), b"")
        assert done.lines[1:-1] == [b"334 " + b64(b"r=1"), b"334 " + b64(b"v=proof"), IN]
        cut = run(
            place, b"AUTH SCRAM-SHA-256 " + b64(b"n,,n=joe"), b64(b"p=x"), b"*", b"MAIL FROM:<>"
        )
        assert cut.codes == [220, 334, 334, 501, 250, 221]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("answer", "reply", "verdict", "reason"),
    [
        (b"FAIL\t1\tuser=joe", NO, "refused", None),
        (b"FAIL\t1", NO, "refused", None),
        (b"FAIL\t1\ttemp", NOT_NOW, "temporary", "temp_fail"),
        (b"FAIL\t1\tuser=joe\tcode=temp_fail", NOT_NOW, "temporary", "temp_fail"),
        (b"FAIL\t1\tcode=authz_fail", NO, "refused", "authz_fail"),
        (b"FAIL\t1\tuser_disabled", NO, "refused", "user_disabled"),
        (b"FAIL\t1\tcode=pass_expired", NO, "refused", "pass_expired"),
        (b"FAIL\t1\tcode=\xff\tx", NO, "refused", "\xff"),
        (b"OK\t1\tuser=joe\tnologin", NO, "refused", "nologin"),
        (b"OK\t1\tuser=joe\tnologin\tproxy", IN, "accepted", None),
        (b"OK\t1", NOT_NOW, "temporary", "talks nonsense"),
        (b"OK\t2\tuser=joe", NOT_NOW, "temporary", "talks nonsense"),
        (b"OK\t1\tuser=a\x01nb", NOT_NOW, "temporary", "talks nonsense"),
        (b"235 ok", NOT_NOW, "temporary", "talks nonsense"),
        (b"", NOT_NOW, "temporary", "talks nonsense"),
        (b"x" * 10_000_000, NOT_NOW, "temporary", "answers too long"),
    ],
    ids=range(16),
)
def test_answers(
    place: Home, answer: bytes, reply: bytes, verdict: str, reason: str | None
) -> None:
    with Peer(dovecot(lambda _, line: line.say(answer + b"\n")), place.path / "auth"):
        done = run(place, RIGHT, b"MAIL FROM:<>", b"RCPT TO:<x@no.example>")
        codes = run(place, RIGHT, ENHANCEDSTATUSCODES="on").lines[1][:9]
    assert done.lines[1] == reply
    assert done.lines[3][:3] == (b"250" if reply == IN else b"553")
    assert codes == {IN: b"235 2.7.0", NO: b"535 5.7.8", NOT_NOW: b"454 4.7.0"}[reply]
    event = done.event("auth")
    assert (event["verdict"], event.get("reason")) == (verdict, reason)


# -- Dovecot is not there ----------------------------------------------------


def closes(line: Line) -> None:
    """At once."""


def half(line: Line) -> None:
    line.say(AUTH_HELLO[:-3])


def nonsense(line: Line) -> None:
    line.say(b"220 mx.example ESMTP\r\n")
    line.wait_for_end()


def flood(line: Line) -> None:
    line.say(b"VERSION\t1\t1\n" + b"MECH\tX\n" * 1_500_000)


@pytest.mark.sample(3)
@pytest.mark.parametrize("script", [None, closes, half, nonsense, flood])
def test_no_dovecot(place: Home, script: Script | None) -> None:
    """Nothing is announced, AUTH and mail that wants it are for later; other mail flows."""
    peer = None if script is None else Peer(script, place.path / "auth")
    done = run(place, b"EHLO x", b"EHLO x", RIGHT, b"MAIL FROM:<>")
    wanted = run(place, b"EHLO x", b"MAIL FROM:<>", SMTPAUTH="!")
    early = run(place, b"MAIL FROM:<>", SMTPAUTH="!")
    named = run(place, b"EHLO x", b"MAIL FROM:<>", SMTPAUTH="!", AUTHMECHANISMS="PLAIN")
    check = place.run(b"", "--check")
    if peer is not None:
        peer.stop()
    assert done.codes == [220, 250, 250, 454, 250, 221]
    assert b"AUTH" not in done.out and done.lines[-3] == NOT_NOW
    daemon, temporary = done.event("daemon"), done.event("auth")
    assert daemon["reason"] and temporary["reason"] and temporary["verdict"] == "temporary"
    assert (daemon["setting"], daemon["socket"]) == ("dovecotauth", f"unix:{place.path}/auth")
    assert wanted.lines[-2] == NOT_NOW
    assert early.codes == [220, 530, 221]
    assert b"250 AUTH PLAIN" in named.lines and named.codes == [220, 250, 530, 221]
    what = f"wrong: control/dovecotauth: unix:{place.path}/auth gives no answer: "
    assert check.status == 1 and what.encode() in check.out


@pytest.mark.slow
@pytest.mark.parametrize("hello", [b"", AUTH_HELLO[:-1], AUTH_HELLO])
def test_slow(place: Home, hello: bytes) -> None:
    def script(line: Line) -> None:
        line.say(hello)
        line.wait_for_end()

    with Peer(script, place.path / "auth"):
        done = run(place, b"EHLO x", RIGHT, AUTHTIMEOUT="1")
    assert done.lines[-2] == NOT_NOW
    assert OFFERED not in done.lines or hello == AUTH_HELLO
    assert done.events("auth")[-1]["reason"] == "timeout"
    assert 1 <= float(done.event("session")["seconds"]) < PATIENCE


@pytest.mark.slow
def test_a_client_that_thinks(place: Home) -> None:
    """Its time is not Dovecot's."""
    clock = place.file("clock", "0")

    def answer(fields: list[bytes], line: Line) -> None:
        if fields[0] == b"AUTH":
            line.say(b"CONT\t1\t\n")
        else:
            line.say(b"OK\t1\tuser=joe\n")

    command = clocked(clock, "qsmtpd.main", "monotonic")
    with (
        Peer(dovecot(answer), place.path / "auth"),
        place.launch(command, {**place.environ, "AUTHTIMEOUT": "60"}) as talk,
    ):
        talk.reply()
        assert talk.ask(b"AUTH PLAIN") == b"334 "
        clock.write_text("100")  # longer than Dovecot may take
        assert talk.ask(b64(b"\0joe\0secret")) == IN


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("within", [True, False])
def test_restarted_in_between(peer: Peer, place: Home, alive: bool, within: bool) -> None:
    end = peer.restart if alive else peer.stop
    with place.talk() as talk:
        talk.reply()
        assert talk.ask(b"EHLO x") == OFFERED
        if within:
            assert talk.ask(b"AUTH LOGIN", b64(b"joe"))[:3] == b"334"
            end()
            assert talk.ask(b64(b"secret")) == NOT_NOW
        else:
            end()
        assert talk.ask(RIGHT) == (IN if alive else NOT_NOW)
        assert (talk.ask(b"EHLO x") == OFFERED) == (not alive)  # it is remembered


def test_cancelled_for_dovecot_too(place: Home) -> None:
    over = threading.Event()

    def answer(fields: list[bytes], line: Line) -> None:
        line.say(b"CONT\t1\t\n")
        assert line.hear() == b""
        over.set()

    with Peer(dovecot(answer), place.path / "auth"), place.talk() as talk:
        talk.reply()
        talk.ask(b"AUTH PLAIN")
        assert talk.ask(b"*")[:3] == b"501"
        assert over.wait(PATIENCE)
        assert talk.ask(b"NOOP") == b"250 ok"


@pytest.mark.parametrize("command", [b"EHLO x", RIGHT])
def test_term_while_dovecot_thinks(place: Home, command: bytes) -> None:
    asked = threading.Event()

    def script(line: Line) -> None:
        if command == RIGHT:
            line.say(AUTH_HELLO)
            line.hear()
        line.hear()
        line.hear()
        asked.set()
        line.wait_for_end()

    with Peer(script, place.path / "auth"):
        talk = place.talk()
        talk.reply()
        talk.send(command + b"\r\n")
        assert asked.wait(PATIENCE)
        talk.process.send_signal(signal.SIGTERM)
        done = talk.ended()
    assert done.lines[-1] == b"421 shutting down, try again later (#4.3.2)"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.sampled_from([b"CONT\t1\tYQ==\n", b"FAIL\t1\n", b"OK\t1\t", b"\n", b"OK\t1\tuser=joe"])
        | st.binary(max_size=30),
        max_size=4,
    )
)
@pytest.mark.slow
def test_only_ok_lets_in(place: Home, texts: list[bytes]) -> None:
    """Whatever it says, and in whatever pieces."""
    said = b"".join(texts)

    def script(line: Line) -> None:
        line.say(AUTH_HELLO)
        for _ in range(3):
            line.hear()
        for text in texts:
            line.say(text)

    with Peer(script, place.path / "auth"):
        done = run(place, RIGHT, b64(b"x"), b"*", b"*")
    assert 421 not in done.codes
    if 235 in done.codes:
        assert b"OK\t1\t" in said and b"user=" in said


# -- settings ----------------------------------------------------------------


def test_two_to_ask(peer: Peer, place: Home) -> None:
    """A program and Dovecot: neither is asked."""
    what = "is set, and so is a checkpassword program in the arguments: only one can be asked"
    ways: dict[str, Variables] = {
        "control/dovecotauth": {},
        "DOVECOTAUTH": {"DOVECOTAUTH": "/x"},
    }
    for name, environ in ways.items():
        done = place.run(b"EHLO x\r\n", "cat", "true", **environ)
        assert done.lines == [b"421 unable to read controls (#4.3.0)"]
        check = place.run(b"", "--check", "cat", "true", **environ)
        assert check.status == 1 and f"wrong: {name}: {what}\n".encode() in check.out
    done = place.run(b"EHLO x\r\n", "cat", "true", DOVECOTAUTH="")
    assert b"250 AUTH LOGIN PLAIN" in done.lines
    assert place.run(b"", "--check", "cat", "true", DOVECOTAUTH="").status == 0


def test_check(peer: Peer, place: Home) -> None:
    check = place.run(b"", "--check")
    answers = f"ok: Dovecot's auth socket = {peer.address} (it has PLAIN LOGIN SCRAM-SHA-256)\n"
    assert check.status == 0 and answers.encode() in check.out
    for names, lack in {
        "PLAIN CRAM-MD5": "AUTHMECHANISMS: has CRAM-MD5, which Dovecot has not",
        "PLAIN EXTERNAL": "AUTHMECHANISMS: has EXTERNAL, and nobody is asked for a certificate",
        "PLAIN a/b": "AUTHMECHANISMS: has 'a/b', which is no name of a mechanism",
    }.items():
        check = place.run(b"", "--check", AUTHMECHANISMS=names)
        assert check.status == 1 and f"wrong: {lack}".encode() in check.out
    check = place.run(b"", "--check", SMTPAUTH="cram")
    assert check.status == 1
    assert b"wrong: SMTPAUTH: has CRAM-MD5, which Dovecot has not" in check.out
    check = place.run(b"", "--check", SMTPAUTH=None)
    idle = b"warning: SMTPAUTH: is not set, so Dovecot is never asked about passwords"
    assert check.status == 0 and idle in check.out
    peer.script = dovecot(lambda *_: None, b"VERSION\t1\t1\nMECH\tX\tanonymous\nDONE\n")
    check = place.run(b"", "--check")
    what = f"{peer.address} has no mechanism for a client"
    assert check.status == 1 and f"wrong: control/dovecotauth: {what}\n".encode() in check.out


# -- qsmtpd-server -----------------------------------------------------------


@pytest.mark.slow
def test_a_process_remembers(place: Home) -> None:
    """What Dovecot had counts until it is there again: AUTH alone is refused, and for now."""
    with (
        Peer(passwords(joe="secret"), place.path / "auth") as peer,
        Server(place, "--spare", "1", "--sessions", "50") as server,
    ):
        assert server.session(b"EHLO x", RIGHT, b"QUIT")[1:3] == [OFFERED, IN]
        peer.stop()
        assert server.session(b"EHLO x", RIGHT, b"QUIT")[1:3] == [OFFERED, NOT_NOW]
        assert peer.connections == 2


def test_what_is_remembered(tmp_path: Path) -> None:
    """A list for a minute; that there was no answer, for less, and the last list still counts."""
    from qsmtpd.net import dovecotauth as protocol
    from qsmtpd.net.daemon import parse_address

    with Peer(passwords(), tmp_path / "auth") as peer:
        server = protocol.Server(parse_address(peer.address.encode()))
        names = (b"PLAIN", b"LOGIN", b"SCRAM-SHA-256")
        assert [server.mechanisms(PATIENCE) for _ in range(3)] == [(names, None)] * 3
        assert peer.connections == 1
        peer.stop()
        server._ask_at = 0.0
        again, trouble = server.mechanisms(PATIENCE)
        assert again == names and trouble in ("Connection refused", "No such file or directory")
        assert server.mechanisms(PATIENCE) == (names, None)
        other = protocol.Server(parse_address(peer.address.encode()))
        assert other.mechanisms(PATIENCE) == (None, trouble)
        assert other.mechanisms(PATIENCE) == (None, None)
