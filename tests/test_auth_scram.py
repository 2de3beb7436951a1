"""AUTH SCRAM-SHA-256: the dialogue, and real clients."""

from __future__ import annotations

import base64
import hashlib
import hmac
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import Command
from client import PATIENCE, client_context
from harness import Home, wait_for
from listeners import Listener, tcpserver
from msmtp import msmtp
from scram_home import (
    FAILED,
    PASSWORD,
    PROGRAM,
    SEED,
    STORED,
    b64,
    challenge,
    client,
    edit,
    first,
    log_in,
    start,
)

pytestmark = pytest.mark.slow


@pytest.mark.sample(4)
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("user", ["joe", "ann", "bob", "nobody", "joe=", "j,oe"])
def test_who_gets_in(scram: Home, user: str, early: bool) -> None:
    good = user == "joe"
    with start(scram) as talk:
        assert talk.ask(b"EHLO me") == b"250 AUTH SCRAM-SHA-256 PLAIN LOGIN"
        reply = log_in(talk, client(user), early)
        assert reply == (b"235 ok, go ahead (#2.0.0)" if good else FAILED)
        assert talk.ask(b"MAIL FROM:<a@b>") == b"250 ok"
        assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == (b"250" if good else b"553")
        talk.ask(b"QUIT")
        done = talk.ended()
    event = done.event("auth")
    assert event["mechanism"] == "SCRAM-SHA-256" and event["user"] == user
    assert event["verdict"] == ("accepted" if good else "refused")
    assert done.children == []


def test_a_wrong_password(scram: Home) -> None:
    with start(scram) as talk:
        for password in ("wrong!", "Secret", "secret "):
            assert log_in(talk, client(password=password)) == FAILED
        assert log_in(talk, client())[:3] == b"235"
        talk.ask(b"QUIT")
        done = talk.ended()
    assert [e["verdict"] for e in done.events("auth")] == ["refused"] * 3 + ["accepted"]


@pytest.mark.slow
def test_the_third_failure_is_the_last(scram: Home) -> None:
    with start(scram, MAXAUTHFAILURES="3") as talk:
        replies = [log_in(talk, client(password="wrong!")) for _ in range(3)]
        assert replies == [FAILED, FAILED, b"421 too many authentication failures (#4.7.0)"]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("header", "reply"),
    [
        ("n,,", b"235"),
        ("n,a=joe,", b"235"),
        ("n,a=ann,", FAILED),
        ("n,a=Joe,", FAILED),
        ("p=tls-unique,,", FAILED),
        ("p=tls-server-end-point,a=joe,", FAILED),
        ("x,,", b"501"),
        ("", b"501"),
    ],
)
def test_headers(scram: Home, header: str, reply: bytes) -> None:
    by = client()
    # What is signed is the header that was sent: so the client's own idea of it is replaced.
    by.get_client_first()
    with start(scram) as talk:
        found = talk.ask(first(header=header, nonce=by.c_nonce))
        if found.startswith(b"334"):
            by.client_first_bare = f"n=joe,r={by.c_nonce}"
            final = final_message(challenge(found), header, by.c_nonce)
            found = talk.ask(b64(final))
            found = talk.ask(b"") if found.startswith(b"334") else found
        assert found.startswith(reply)


def final_message(server_first: str, header: str, nonce: str, password: str = PASSWORD) -> str:
    """A client's last message by the formulas of RFC 5802, 3, for any header."""
    said = dict(part.split("=", 1) for part in server_first.split(","))
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(said["s"]), int(said["i"])
    )
    key = hmac.digest(salted, b"Client Key", "sha256")
    without = f"c={b64(header).decode()},r={said['r']}"
    message = f"n=joe,r={nonce},{server_first},{without}".encode()
    mask = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, mask, strict=True))
    return f"{without},p={b64(proof).decode()}"


@pytest.mark.slow
def test_y_is_for_who_could_bind(scram: Home) -> None:
    with start(scram) as talk:
        reply = talk.ask(first(header="y,,"))
        reply = talk.ask(b64(final_message(challenge(reply), "y,,", "abc")))
        assert challenge(reply).startswith("v=") and talk.ask(b"")[:3] == b"235"
    with start(scram) as talk:  # but who says it has to go on saying it
        reply = talk.ask(first(header="y,,"))
        assert talk.ask(b64(final_message(challenge(reply), "n,,", "abc"))) == FAILED


def test_nothing_can_be_replayed(scram: Home) -> None:
    """Each server's nonce is another, also for the same nonce of a client."""
    with start(scram) as talk:
        one = challenge(talk.ask(first()))
        final = b64(final_message(one, "n,,", "abc"))
        assert talk.ask(final)[:3] == b"334" and talk.ask(b"")[:3] == b"235"
    with start(scram) as talk:
        other = challenge(talk.ask(first()))
        assert other.split(",")[1:] == one.split(",")[1:] and other != one
        assert talk.ask(final) == FAILED
        assert talk.ask(final)[:3] == b"502"


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        # in another order
        ([b"AUTH SCRAM-SHA-256 " + b64("c=biws,r=abc,p=" + "A" * 43 + "=")], [b"501"]),
        ([first(), b64("n,,n=joe,r=abc")], [b"334", FAILED]),
        ([first(), b""], [b"334", FAILED]),
        # cut off
        ([b"AUTH SCRAM-SHA-256 " + b64("n,,n=joe")], [b"501"]),
        ([first(), b64("c=biws,r=abc")], [b"334", FAILED]),
        ([first(), b64("c=biws,r=abc")[:-1]], [b"334", b"501"]),
        # too long
        ([b"AUTH SCRAM-SHA-256 " + b"A" * 12289], [b"500"]),
        ([first(), b"A" * 12289], [b"334", b"500"]),
        ([first(nonce="x" * 513)], [b"501"]),
        ([first(nonce="x" * 512), b"*"], [b"334", b"501"]),
        ([first(user="x" * 9000)], [b"334"]),
        ([first(), b64("c=biws,r=abc,e=" + "x" * 9000 + ",p=" + "A" * 43 + "=")], [b"334", FAILED]),
        # cancelled
        ([b"AUTH SCRAM-SHA-256", b"*"], [b"334", b"501"]),
        ([first(), b"*"], [b"334", b"501"]),
        # what would be more lines for the helper
        ([first(user="jo\ne")], [b"501"]),
        ([first(), b64("c=biws\n,r=abc,p=" + "A" * 43 + "=")], [b"334", b"501"]),
        ([b"AUTH SCRAM-SHA-256 ="], [b"501"]),
        ([b"AUTH SCRAM-SHA-256 !"], [b"501"]),
    ],
)
def test_what_is_no_exchange(scram: Home, lines: list[bytes], codes: list[bytes]) -> None:
    with start(scram) as talk:
        for line, code in zip(lines, codes, strict=True):
            assert talk.ask(line).startswith(code)
        if codes[-1] != b"334":
            assert log_in(talk, client())[:3] == b"235"
        else:
            talk.ask(b"*")
        talk.ask(b"QUIT")
        assert talk.ended().children == []


@pytest.mark.sample(4)
@pytest.mark.parametrize("last", [b"*", b64("x"), b"!", b"A" * 13000])
def test_the_last_word_is_the_servers(scram: Home, last: bytes) -> None:
    """Who does not take its proof with an empty response, is not logged in, and has failed.

    Else a password could be tried without a line in the log.
    """
    with start(scram) as talk:
        final = final_message(challenge(talk.ask(first())), "n,,", "abc")
        assert talk.ask(b64(final))[:3] == b"334"
        assert talk.ask(last)[:3] in (b"501", b"500", b"535")
        talk.ask(b"MAIL FROM:<a@b>")
        assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == b"553"
        talk.ask(b"QUIT")
        event = talk.ended().event("auth")
    assert (event["verdict"], event["user"]) == ("refused", "joe")


def test_who_goes_at_the_last_word_has_failed(scram: Home) -> None:
    with start(scram) as talk:
        final = final_message(challenge(talk.ask(first())), "n,,", "abc")
        assert talk.ask(b64(final))[:3] == b"334"
        talk.end_input()
        done = talk.ended()
    assert done.event("auth")["verdict"] == "refused" and done.children == []


def test_a_client_that_goes_leaves_no_helper(scram: Home) -> None:
    talk = start(scram)
    assert talk.ask(first())[:3] == b"334"
    (helper,) = talk.children()
    talk.close()
    talk.process.wait(PATIENCE)
    wait_for(lambda: not Path(f"/proc/{helper}").exists())


def test_only_inside_tls(scram: Home) -> None:
    with start(scram, AUTHCLEAR="0") as talk:
        assert talk.ask(b"EHLO me") == b"250 STARTTLS"
        assert talk.ask(first())[:3] == b"538"
        talk.starttls()
        assert talk.ask(b"EHLO me") == b"250 AUTH SCRAM-SHA-256 PLAIN LOGIN"
        assert log_in(talk, client())[:3] == b"235"


@pytest.mark.slow
def test_the_same_entry_serves_plain_and_login(scram: Home) -> None:
    for lines, code in (
        ([b"AUTH PLAIN " + b64("\0joe\0secret")], b"235"),
        ([b"AUTH LOGIN", b64("joe"), b64("secret")], b"235"),
        ([b"AUTH PLAIN " + b64("\0joe\0wrong!")], b"535"),
        ([b"AUTH PLAIN " + b64(b"\0joe\0" + STORED.hex().encode())], b"535"),
    ):
        with start(scram) as talk:
            assert talk.ask(*lines)[:3] == code


# -- who is not there ------------------------------------------------------


@pytest.mark.slow
def test_an_unknown_user_looks_like_a_known_one(scram: Home) -> None:
    """The salt is made up, and the same at each time; an edit of the file changes none."""

    def ask(*names: str) -> dict[str, list[str]]:
        with start(scram) as talk:
            found = {}
            for user in names:
                nonce, *rest = challenge(talk.ask(first(user))).split(",")
                assert nonce.startswith("r=abc") and len(nonce) == len("r=abc") + 24
                assert talk.ask(b"*")[:3] == b"501"
                found[user] = rest
        return found

    def add(name: str, *kind: str) -> None:
        command: Command = [PROGRAM, "--add", *kind, name]
        subprocess.run(command, input=b"secret\n", env=scram.environ, check=True)

    add("joe", "--scram")
    names = ("joe", "ann", "bob", "nobody", "other")
    before = ask(*names)
    add("new", "--scram")
    subprocess.run([PROGRAM, "--remove", "bob"], env=scram.environ, check=True)
    assert ask(*names) == before
    salts = {rest[0] for rest in before.values()}
    assert len(salts) == 5 and {len(base64.b64decode(salt[2:])) for salt in salts} == {16}
    assert {rest[1] for rest in before.values()} == {"i=100000"}
    # Who has another seed, makes up others.
    content = (scram.control_dir / "smtpusers").read_bytes()
    scram.control("smtpusers", content.replace(SEED.encode(), b":seed:" + b"77" * 32).rstrip())
    assert ask("nobody") != {"nobody": before["nobody"]}
    assert ask("joe") == {"joe": before["joe"]}


# -- real clients ----------------------------------------------------------


@pytest.fixture
def listener(scram: Home) -> Iterator[Listener]:
    assert edit(scram, "--add", "--scram", "joe", text=PASSWORD).returncode == 0
    scram.environ.update(SMTPAUTH="!", AUTHCLEAR="0")
    with tcpserver(scram) as it:
        yield it


@pytest.mark.slow
@pytest.mark.parametrize("password", [PASSWORD, "wrong!"])
def test_smtplib(listener: Listener, scram: Home, password: str) -> None:
    """Python's client, with the messages of scramp."""
    smtp = smtplib.SMTP("127.0.0.1", listener.port, timeout=PATIENCE)
    smtp.starttls(context=client_context())
    smtp.ehlo()
    by = client(password=password)

    def answer(text: bytes | None = None) -> str:
        if text is None:
            return str(by.get_client_first())
        if text.startswith(b"r="):
            by.set_server_first(text.decode())
            return str(by.get_client_final())
        by.set_server_final(text.decode())
        return ""

    if password == PASSWORD:
        smtp.auth("SCRAM-SHA-256", answer)
        smtp.sendmail("joe@ok.example", ["x@no.example"], "Subject: x\n\n")
    else:
        with pytest.raises(smtplib.SMTPAuthenticationError) as failed:
            smtp.auth("SCRAM-SHA-256", answer)
        assert failed.value.smtp_code == 535
    smtp.quit()
    assert len(scram.messages()) == (password == PASSWORD)


@pytest.mark.interop
@pytest.mark.parametrize("password", [PASSWORD, "wrong!"])
def test_msmtp(listener: Listener, scram: Home, password: str) -> None:
    """By GNU SASL."""
    login = ("auth scram-sha-256", "user joe", f"password {password}")
    done = msmtp(scram.path, listener.port, *login)
    assert (done.returncode == 0) == (password == PASSWORD), done.stderr
    assert len(scram.messages()) == (password == PASSWORD)
    wait_for(lambda: listener.events("session"))
    (event,) = listener.events("auth")
    assert (event["mechanism"], event["user"]) == ("SCRAM-SHA-256", "joe")
