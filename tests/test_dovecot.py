"""A real Dovecot, of Debian: who may log in, by each mechanism, and who exists."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dovecot import Dovecot
from harness import Home, needs, wait_for
from listeners import Listener, Server, tcpserver
from msmtp import msmtp
from scramp import ScramClient
from test_auth_dovecot import IN, NO, NOT_NOW, RIGHT, WRONG
from tls_home import SERVER

pytestmark = pytest.mark.interop


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


def scram(message: str) -> bytes:
    return b"AUTH SCRAM-SHA-256 " + b64(message.encode())


OFFERED = b"250 AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256"


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    """It knows joe, and some who are something special."""
    with Dovecot(
        "joe:secret::::::",
        "ann@ok.example:other::::::",
        "gone:secret::::::nologin=y",
        "far:secret::::::allow_nets=198.51.100.0/24",
        "alias:secret::::::user=joe",
    ) as dovecot:
        yield dovecot


@pytest.fixture
def place(home: Home, dovecot: Dovecot) -> Home:
    """A home that asks it, both about users and about recipients."""
    SERVER.save(home.control_dir / "servercert.pem")
    home.environ.update(SMTPAUTH="", AUTHDELAY="0")
    home.control("dovecotauth", dovecot.auth)
    return home


def test_check(place: Home, dovecot: Dovecot) -> None:
    place.control("dovecotusers", dovecot.users)
    check = place.run(b"", "--check")
    assert check.status == 0, check.out
    assert b"(it has PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256)" in check.out
    assert b"ok: Dovecot's userdb socket = " in check.out
    wrong = place.run(b"", "--check", DOVECOTUSERS=dovecot.auth)
    assert wrong.status == 1 and b"gives no answer: is no userdb socket" in wrong.out
    dovecot.stop()
    dead = place.run(b"", "--check")
    assert dead.status == 1 and dead.out.count(b" gives no answer: ") == 2


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_swaks(place: Home, mechanism: str) -> None:
    with tcpserver(place) as listener:
        for password, status in (("secret", 0), ("wrong!", 28)):
            done = subprocess.run(
                [needs("swaks"), "--tls", "--server", "127.0.0.1", "--port", str(listener.port)]
                + ["--to", "x@no.example", "--from", "joe@ok.example"]
                + ["--auth", mechanism, "--auth-user", "joe", "--auth-password", password],
                capture_output=True,
                check=False,
            )
            assert done.returncode == status, done.stdout
            assert (b"<** 535 " in done.stdout) == (status != 0) or b"<~* 535 " in done.stdout
        assert "secret" not in listener.log()
    (message,) = place.messages()
    assert b"(joe@127.0.0.1)" in message.text


@pytest.mark.parametrize("mechanism", ["plain", "login", "scram-sha-256"])
def test_msmtp(place: Home, tmp_path: Path, mechanism: str) -> None:
    with tcpserver(place) as listener:
        for password in ("secret", "wrong!"):
            login = (f"auth {mechanism}", "user joe", f"password {password}")
            done = msmtp(tmp_path, listener.port, *login)
            assert (done.returncode == 0) == (password == "secret"), done.stderr
            assert (b"535 authentication failed" in done.stderr) == (password != "secret")
        events = listener.events("auth")
    assert [event["verdict"] for event in events] == ["accepted", "refused"]
    assert {event["mechanism"] for event in events} == {mechanism.upper()}
    assert len(place.messages()) == 1


@pytest.mark.parametrize(
    ("user", "reply", "named", "reason"),
    [
        ("joe", IN, "joe", None),
        ("JOE", IN, "joe", None),  # Dovecot's auth_username_format
        ("alias", IN, "joe", None),
        ("nobody", NO, "nobody", None),
        ("gone", NO, "gone", "nologin"),
        ("far", NO, "far", None),
        ("a b", NO, "a b", None),
    ],
)
def test_users(place: Home, user: str, reply: bytes, named: str | None, reason: str | None) -> None:
    response = base64.b64encode(f"\0{user}\0secret".encode())
    done = place.run(b"AUTH PLAIN " + response + b"\r\nQUIT\r\n", AUTHCLEAR="1")
    assert done.lines[1] == reply
    event = done.event("auth")
    assert (event["user"], event.get("reason")) == (named, reason)


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        # in another order
        ([scram("c=biws,r=abc,p=AAAA")], [535]),
        ([scram("n,,n=joe,r=abc"), b64(b"n,,n=joe,r=abc")], [334, 535]),
        ([b"AUTH LOGIN", b64(b"x"), b64(b"joe")], [334, 334, 535]),
        # cut off
        ([scram("n,,n=joe")], [535]),
        ([scram("n,,n=joe,r=abc"), b64(b"c=biws,r=abc")], [334, 535]),
        ([b"AUTH PLAIN " + b64(b"\0joe")], [535]),
        ([b"AUTH PLAIN " + b64(b"\0joe\0secret")[:-1]], [501]),
        ([b"AUTH LOGIN", b""], [334, 535]),
        # too long
        ([b"AUTH PLAIN " + b64(b"\0joe\0" + b"x" * 9000)], [535]),
        ([b"AUTH PLAIN " + b"A" * 12292], [500]),
        ([scram("n,,n=joe,r=" + "x" * 9000), b"*"], [334, 501]),
        ([b"AUTH LOGIN", b"A" * 12292], [334, 500]),
        # another's name, and names with what is no name
        ([b"AUTH PLAIN " + b64(b"ann@ok.example\0joe\0secret")], [535]),
        ([b"AUTH PLAIN " + b64(b"\0jo\te\0secret")], [535]),
        ([b"AUTH PLAIN " + b64(b"\0jo\ne\tuser=ann\0secret")], [535]),
        # cancelled
        ([b"AUTH SCRAM-SHA-256", b"*"], [334, 501]),
        ([b"AUTH LOGIN", b64(b"joe"), b"*"], [334, 334, 501]),
        ([b"AUTH ANONYMOUS " + b64(b"joe")], [504]),
    ],
)
def test_what_is_no_exchange(place: Home, lines: list[bytes], codes: list[int]) -> None:
    """And after each the right password, which is right."""
    place.environ.update(AUTHCLEAR="1")
    done = place.run([line + b"\r\n" for line in (*lines, RIGHT, b"QUIT")])
    assert done.codes == [220, *codes, 235, 221]


def test_scram(place: Home) -> None:
    """By an independent client; what it has said once is of no use again."""
    place.environ.update(AUTHCLEAR="1")
    with place.talk() as talk:
        talk.reply()
        client = ScramClient(["SCRAM-SHA-256"], "joe", "secret")
        begin = scram(client.get_client_first())
        client.set_server_first(base64.b64decode(talk.ask(begin)[4:]).decode())
        final = b64(client.get_client_final().encode())
        proof = talk.ask(final)
        client.set_server_final(base64.b64decode(proof[4:]).decode())  # raises for a wrong one
        assert talk.ask(b"") == IN
    for last in (b"*", b"!"):
        with place.talk() as talk:  # the proof is Dovecot's last word, and wants an answer
            talk.reply()
            client = ScramClient(["SCRAM-SHA-256"], "joe", "secret")
            reply = talk.ask(scram(client.get_client_first()))
            client.set_server_first(base64.b64decode(reply[4:]).decode())
            assert talk.ask(b64(client.get_client_final().encode()))[:3] == b"334"
            assert talk.ask(last)[:3] == b"501"
            assert talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@no.example>")[:3] == b"553"
    with place.talk() as talk:
        talk.reply()
        assert talk.ask(begin)[:3] == b"334"
        assert talk.ask(final) == NO


def test_dead_slow_and_restarted(place: Home, dovecot: Dovecot) -> None:
    place.environ.update(AUTHCLEAR="1", MAXAUTHFAILURES="100")
    with place.talk() as talk:
        talk.reply()
        assert talk.ask(b"EHLO x") == OFFERED
        assert talk.ask(WRONG) == NO
        dovecot.stop()
        assert talk.ask(RIGHT) == NOT_NOW
        dovecot.start()
        assert talk.ask(WRONG) == NO
        assert talk.ask(b"AUTH LOGIN", b"am9l")[:3] == b"334"
        dovecot.restart()  # who has been asked before that, answers yet
        assert talk.ask(b"d3Jvbmch") == NO
        assert talk.ask(b"AUTH LOGIN", b"am9l")[:3] == b"334"
        dovecot.kill()
        assert talk.ask(b"c2VjcmV0") == NOT_NOW
        assert talk.ask(WRONG) == NO
    with place.talk(AUTHTIMEOUT="1") as talk:
        talk.reply()
        pid = dovecot.suspend()
        assert talk.ask(RIGHT) == NOT_NOW
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: talk.ask(RIGHT) == IN)


@pytest.mark.parametrize("warm", [False, True])
def test_recipients(place: Home, dovecot: Dovecot, warm: bool) -> None:
    place.control("dovecotusers", dovecot.users)
    place.control("rcpthosts", "ok.example", "other.example")

    def start() -> Listener:
        return Server(place) if warm else tcpserver(place)

    def rcpt(*boxes: bytes) -> list[bytes]:
        names = [b"RCPT TO:<%b>" % box for box in boxes]
        return [reply[:3] for reply in listener.session(b"MAIL FROM:<>", *names, b"QUIT")[2:-1]]

    with start() as listener:
        listener.session(b"NOOP", b"QUIT")
        asked = (b"ann@ok.example", b"Ann-list@OK.example", b"joe@ok.example", b"joe", b"x@y")
        assert rcpt(*asked) == [b"250", b"250", b"550", b"250", b"553"]
        assert rcpt(b"ann@other.example", b"a\tb@ok.example") == [b"550", b"550"]
        dovecot.restart()
        assert rcpt(b"ann@ok.example") == [b"250"]
        with listener.client() as client:
            client.reply()
            assert client.ask(b"MAIL FROM:<>", b"RCPT TO:<ann@ok.example>")[:3] == b"250"
            dovecot.kill()
            assert client.ask(b"RCPT TO:<joe@ok.example>")[:3] == b"550"
            dovecot.kill()
            dovecot.stop()
            assert client.ask(b"RCPT TO:<ben@ok.example>")[:3] == b"451"
            assert client.ask(b"RCPT TO:<ann@ok.example>")[:3] == b"250"
        dovecot.start()
    place.environ["DOVECOTUSERSTIMEOUT"] = "1"
    with start() as listener:
        wait_for(lambda: rcpt(b"ann@ok.example") == [b"250"])
        pid = dovecot.suspend()
        assert rcpt(b"ann@ok.example", b"ben@ok.example") == [b"451", b"451"]
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: rcpt(b"ann@ok.example") == [b"250"])
