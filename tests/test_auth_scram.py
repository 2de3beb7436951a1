"""AUTH SCRAM-SHA-256: the dialogue, the helper that has the keys, and its users."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import smtplib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from child import Child, Command
from client import PATIENCE, client_context
from harness import BIN, Home, wait_for
from listeners import Listener, tcpserver
from msmtp import msmtp
from scramp import ScramClient, ScramMechanism

from qsmtpd.checkpassword import users
from qsmtpd.child.conversation import Conversation
from qsmtpd.config.files import ControlFiles
from qsmtpd.config.session import AuthSettings
from qsmtpd.config.settings import Settings
from qsmtpd.diagnose.auth import check_auth
from qsmtpd.diagnose.report import Report

pytestmark = pytest.mark.slow

PROGRAM = BIN / "qsmtpd-checkpassword"
PASSWORD = "secret"
FAILED = b"535 authentication failed (#5.7.1)"
TEMPORARY = b"454 problem with child and I can't auth (#4.3.0)"
SALT, STORED, SERVER, ITERATIONS = ScramMechanism("SCRAM-SHA-256").make_auth_info(
    PASSWORD, iteration_count=4096, salt=bytes(range(16))
)
#: By an implementation that is not ours, and with few iterations.
JOE = ":".join(["joe", "scram", str(ITERATIONS), SALT.hex(), STORED.hex(), SERVER.hex()])
SEED = ":seed:" + "5e" * 32
ANN = "ann:cram:" + PASSWORD.encode().hex()
BOB = "bob:scrypt:10:8:1:" + "00" * 16 + ":" + "00" * 32


@pytest.fixture
def scram(submission: Home) -> Home:
    """joe has SCRAM, ann CRAM-MD5 and bob neither; joe's PLAIN is asked of the same file."""
    submission.control("smtpusers", SEED, JOE, ANN, BOB)
    submission.arguments = [str(PROGRAM), "true"]
    submission.environ.update(
        AUTHMECHANISMS="SCRAM-SHA-256 PLAIN LOGIN",
        SCRAMPROGRAM=f"{PROGRAM} --scram",
        MAXAUTHFAILURES="100",
    )
    return submission


def client(user: str = "joe", password: str = PASSWORD, nonce: str | None = None) -> ScramClient:
    return ScramClient(["SCRAM-SHA-256"], user, password, c_nonce=nonce)


def b64(text: str | bytes) -> bytes:
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


def challenge(reply: bytes) -> str:
    """What stands behind 334."""
    assert reply.startswith(b"334 "), reply
    return base64.b64decode(reply[4:], validate=True).decode()


def first(user: str = "joe", header: str = "n,,", nonce: str = "abc") -> bytes:
    return b"AUTH SCRAM-SHA-256 " + b64(f"{header}n={user},r={nonce}")


def log_in(talk: Child, by: ScramClient, early: bool = True, header: str = "n,,") -> bytes:
    """A whole exchange, as far as it goes; the last reply."""
    begin = by.get_client_first().replace("n,,", header, 1)
    if early:
        reply = talk.ask(b"AUTH SCRAM-SHA-256 " + b64(begin))
    else:
        assert talk.ask(b"AUTH SCRAM-SHA-256") == b"334 "
        reply = talk.ask(b64(begin))
    if not reply.startswith(b"334"):
        return reply
    by.set_server_first(challenge(reply))
    reply = talk.ask(b64(by.get_client_final()))
    if not reply.startswith(b"334"):
        return reply
    by.set_server_final(challenge(reply))  # it raises for a server that has not the keys
    return talk.ask(b"")


def start(home: Home, **environ: str) -> Child:
    home.environ.update(environ)
    talk = home.talk(*home.arguments)
    talk.reply()
    return talk


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


# -- the helper ------------------------------------------------------------


def helper(home: Home, *lines: bytes) -> subprocess.CompletedProcess[bytes]:
    """Its whole run, with all lines at once."""
    return subprocess.run(
        [PROGRAM, "--scram"],
        input=b"".join(line + b"\n" for line in lines),
        capture_output=True,
        env=home.environ,
        timeout=PATIENCE,
        check=False,
    )


def test_the_helper_by_itself(scram: Home) -> None:
    with subprocess.Popen(
        [PROGRAM, "--scram"],
        env=scram.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        by = client()
        child.stdin.write(by.get_client_first().encode() + b"\n")
        child.stdin.flush()
        by.set_server_first(child.stdout.readline().decode().removesuffix("\n"))
        child.stdin.write(by.get_client_final().encode() + b"\n")
        child.stdin.flush()
        by.set_server_final(child.stdout.readline().decode().removesuffix("\n"))
        assert child.wait(PATIENCE) == 0


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], 0),
        ([b""], 0),
        ([b"n,,n=joe"], 0),
        ([b"p=x,,n=joe,r=abc", b""], 0),
        ([b"n,a=ann,n=joe,r=abc", b""], 0),
        ([b"n,,n=joe,r=abc"], 1),
        ([b"n,,n=joe,r=abc", b"c=biws"], 1),
        ([b"n,,n=joe,r=abc", b"c=biws,r=abc,p=" + b64(bytes(32))], 1),
        ([b"n,,n=joe,r=abc" + b"x" * 20_000], 0),
        ([b"n,,n=joe,r=abc", b"x" * 100_000], 1),
    ],
)
def test_what_the_helper_refuses(scram: Home, lines: list[bytes], said: int) -> None:
    done = helper(scram, *lines)
    assert (done.returncode, done.stdout.count(b"\n"), done.stderr) == (1, said, b"")


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (None, b"control/smtpusers: is not there"),
        ([], b"control/smtpusers: has nobody with --scram"),
        ([ANN], b"control/smtpusers: has nobody with --scram"),
        ([SEED, JOE[:-1]], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace("4096", "4095")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace("4096", "1000001")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace("4096", "04096")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace("4096", "+4096")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE + ":00"], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace(":scram:", ":SCRAM:")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, SEED, JOE], b"control/smtpusers: line 2 is damaged"),
        ([SEED[:-2], JOE], b"control/smtpusers: line 1 is damaged"),
        ([":seed:", JOE], b"control/smtpusers: line 1 is damaged"),
    ],
)
def test_a_file_with_which_nothing_can_be_told(
    scram: Home, entries: list[str] | None, said: bytes
) -> None:
    if entries is None:
        (scram.control_dir / "smtpusers").unlink()
    else:
        scram.control("smtpusers", *entries)
    done = helper(scram, b"n,,n=joe,r=abc")
    assert (done.returncode, done.stdout) == (111, b"")
    assert done.stderr == b"qsmtpd-checkpassword: " + said + b"\n"
    with start(scram) as talk:
        assert talk.ask(first()) == TEMPORARY


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("script", "reply"),
    [
        ("exit 1", FAILED),
        ("exit 111", TEMPORARY),
        ("exit 0", TEMPORARY),  # a yes to nothing
        ("echo s; exit 0", TEMPORARY),
        ("read x; echo s; read x; exit 0", TEMPORARY),  # without a proof of its own
        ("read x; echo s; read x; echo; exit 0", TEMPORARY),
        ("read x; echo s; read x; printf v; exit 0", TEMPORARY),
        ("read x; echo s; read x; echo v; exit 1", FAILED),
        ("read x; echo s; read x; echo v; exit 3", TEMPORARY),
        ("read x; echo s; read x; echo v; kill -KILL $$", TEMPORARY),
        ("read x; echo s; read x; echo v; exit 0", b"334 dg=="),
        ("read x; echo s; read x; echo v; echo w; exit 0", b"334 dg=="),
        ("read x; echo s; echo v; read x; exit 0", b"334 dg=="),
        # Longer than a reply may be: also where it comes at once, with its end.
        ("read x; printf '%20000s\\n' s >$0.long; exec cat $0.long", TEMPORARY),
        ("kill -KILL $$", TEMPORARY),
        ("exec 0<&- 1>&-; exit 1", FAILED),
    ],
)
def test_helpers(scram: Home, script: str, reply: bytes) -> None:
    with start(scram, SCRAMPROGRAM=scram.script(script)) as talk:
        found = talk.ask(first())
        if found == b"334 cw==":
            found = talk.ask(b64("final"))
        assert found == reply
        if reply.startswith(b"334"):
            assert talk.ask(b"")[:3] == b"235"
        talk.ask(b"QUIT")
        assert talk.ended().children == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "sleep 60",
        "trap '' TERM; sleep 60",
        "printf half; sleep 60",
        "exec 1>&-; sleep 60",
        "while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
        "read x; echo s; read x; sleep 60",
        "read x; echo s; read x; echo v; sleep 60",
        "read x; echo s; read x; echo v; exec 1>&-; sleep 60",
        "read x; echo s; read x; while :; do echo vvvvvvvvvvvvvvvvvvvvvvvvvv; done",
    ],
)
def test_helpers_that_hang(scram: Home, script: str) -> None:
    with start(scram, SCRAMPROGRAM=scram.script(script), AUTHTIMEOUT="1") as talk:
        found = talk.ask(first())
        if found == b"334 cw==":
            found = talk.ask(b64("final"))
        assert found == TEMPORARY
        talk.ask(b"QUIT")
        assert talk.ended().children == []


@pytest.mark.slow
def test_what_is_there_at_the_deadline() -> None:
    """Who was stopped until then himself has still to look."""
    child = Conversation([b"echo", b"s"], {b"PATH": os.fsencode(os.environ["PATH"])}, 100)
    assert child.status(time.monotonic() + PATIENCE) == 0
    assert child.hear(time.monotonic()) == b"s"
    assert child.hear(time.monotonic()) is None
    child.close()


@pytest.mark.slow
def test_a_helper_that_is_not_there(scram: Home) -> None:
    with start(scram, SCRAMPROGRAM="/no/such/helper") as talk:
        assert talk.ask(first()) == TEMPORARY


@pytest.mark.slow
def test_what_the_helper_inherits(scram: Home) -> None:
    dump = scram.path / "dump"
    program = scram.script(
        f"(cd /proc/$$/fd; for fd in *; do echo $fd $(readlink $fd); done; env) >{dump};"
        " echo to the log >&2; exit 1"
    )
    scram.environ.update(SCRAMPROGRAM=program, RELAYCLIENT="", AUTHUSER="boss", KEYFILE="/key")
    with start(scram) as talk:
        assert talk.ask(first()) == FAILED
        talk.ask(b"QUIT")
        assert "to the log" in talk.ended().log
    lines = dump.read_text().splitlines()
    fds = {int(line.split()[0]): line.split()[-1] for line in lines if line[:1].isdigit()}
    script = {fd for fd, target in fds.items() if target.endswith(".0")}
    assert set(fds) - script <= {0, 1, 2, 3}
    assert fds[0].startswith("pipe:")
    names = {line.partition("=")[0] for line in lines}
    assert not names & {"RELAYCLIENT", "AUTHUSER", "KEYFILE"} and "TCPREMOTEIP" in names


# -- the users file --------------------------------------------------------


def edit(home: Home, *arguments: str | bytes, text: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [PROGRAM, *arguments],
        input=text.encode("utf-8", "surrogateescape"),
        capture_output=True,
        env=home.environ,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.slow
def test_adding_and_removing(scram: Home) -> None:
    path = scram.control_dir / "smtpusers"
    path.unlink()
    assert edit(scram, "--add", "ann", text=PASSWORD).returncode == 0
    assert b"seed" not in path.read_bytes()
    assert edit(scram, "--add", "--scram", "joe", text=PASSWORD).returncode == 0
    seed = path.read_bytes().splitlines()[0]
    assert seed.startswith(b":seed:") and len(seed) == 6 + 64
    assert edit(scram, "--list").stdout == b"ann:scrypt\njoe:scram\n"
    assert PASSWORD.encode() not in path.read_bytes()
    assert PASSWORD.encode().hex().encode() not in path.read_bytes()
    with start(scram) as talk:
        assert log_in(talk, client())[:3] == b"235"
    assert edit(scram, "--add", "--scram", "joe", text="another").returncode == 0
    with start(scram) as talk:
        assert log_in(talk, client()) == FAILED
        assert log_in(talk, client(password="another"))[:3] == b"235"
    # The seed stays, or who is made up would change.
    assert edit(scram, "--remove", "joe").returncode == 0
    assert edit(scram, "--add", "--scram", "sue", text=PASSWORD).returncode == 0
    assert path.read_bytes().splitlines()[0] == seed


@pytest.mark.slow
def test_passwords_that_are_not_ascii(scram: Home) -> None:
    """Each client sends its own spelling; SASLprep makes one of them (RFC 4013)."""
    composed, apart, wide = "p\xe4ss\xa0\u2163", "pa\u0308ss IV", "\uff50a\u0308ss I\uff36"
    assert edit(scram, "--add", "--scram", "joe", text=apart).returncode == 0
    for password in (composed, apart, wide):
        with start(scram) as talk:
            assert log_in(talk, client(password=password))[:3] == b"235"
        with start(scram) as talk:
            assert talk.ask(b"AUTH PLAIN " + b64(f"\0joe\0{password}"))[:3] == b"235"
    for other in (b"p\xe4ss IV", "p\xe4ss iv".encode(), "p\xe4ss\u0007IV".encode()):
        with start(scram) as talk:
            assert talk.ask(b"AUTH PLAIN " + b64(b"\0joe\0" + other)) == FAILED


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("name", "password", "said"),
    [
        ("joe", "\u0627\x31", "this password: SASLprep refuses it"),  # RFC 4013, 3
        ("joe", "\ue000", "this password: SASLprep refuses it"),
        ("joe", "\udcff", "this password: SASLprep refuses it"),
        ("joe", "\xad", "this password: SASLprep refuses it"),  # nothing is left of it
        ("jose\u0301", "x", "this name: SASLprep changes it"),
        ("\ue000", "x", "this name: SASLprep changes it"),
        ("a:b", "x", "a name has 1 to 255 bytes, no colon and no control character"),
        ("joe", "", "no password"),
    ],
    ids=ascii,
)
def test_what_clients_cannot_say(scram: Home, name: str, password: str, said: str) -> None:
    before = (scram.control_dir / "smtpusers").read_bytes()
    done = edit(scram, "--add", "--scram", name, text=password)
    assert done.returncode == 1
    assert said.encode() in done.stderr or password == ""
    assert (scram.control_dir / "smtpusers").read_bytes() == before


@pytest.mark.slow
def test_without_the_library(scram: Home) -> None:
    """What is ASCII needs none; the rest is refused, to nobody else's harm."""
    assert edit(scram, "--add", "bob", text="p\xe4ss").returncode == 0
    assert edit(scram, "--add", "--scram", "sue", text="p\xe4ss").returncode == 0
    code = (
        "import sys; sys.modules['scramp'] = None; from qsmtpd.checkpassword import main;"
        "main.main(sys.argv[1:])"
    )

    def run(*arguments: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
        command: Command = ["sh", "-c", 'exec 3<&0; exec "$@"', "sh", BIN / "python3", "-c", code]
        return subprocess.run(
            [*command, *arguments], input=text, capture_output=True, env=scram.environ, check=False
        )

    done = run("--add", "--scram", "joe", text="p\xe4ss".encode())
    assert done.returncode == 1 and b"what is not ASCII takes Python's scramp: " in done.stderr
    assert run("--add", "--scram", "joe", text=b"secret").returncode == 0
    assert run("true", text=b"joe\0secret\0").returncode == 0
    done = run("true", text="bob\0p\xe4ss\0".encode())
    assert done.returncode == 0 and b"for users of SCRAM it takes Python's scramp" in done.stderr
    assert run("true", text="sue\0p\xe4ss\0".encode()).returncode == 1


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([SEED, JOE, ANN, BOB], {"scrypt": 1, "pbkdf2_hmac": 1}),
        ([SEED, JOE, ANN], {"pbkdf2_hmac": 1}),
        ([ANN, BOB], {"scrypt": 1}),
        ([ANN], {"scrypt": 1}),
    ],
)
@pytest.mark.parametrize("password", [b"secret", b"wrong!", "p\xe4ss".encode(), b"\xff"])
def test_each_user_costs_the_same(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], expected: dict[str, int], password: bytes
) -> None:
    """Whoever it is, and whatever the password: one slow hash of each kind in the file."""
    known = users.parse("".join(line + "\n" for line in lines).encode())
    count: dict[str, int] = {}
    real = hashlib.pbkdf2_hmac

    def scrypt(*arguments: Any, **options: Any) -> bytes:
        count["scrypt"] = count.get("scrypt", 0) + 1
        return bytes(31) + b"x"

    def pbkdf2_hmac(name: str, text: bytes, salt: bytes, iterations: int) -> bytes:
        count["pbkdf2_hmac"] = count.get("pbkdf2_hmac", 0) + 1
        return real(name, text, salt, min(iterations, ITERATIONS))  # quick

    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", pbkdf2_hmac)
    for user in (b"joe", b"ann", b"bob", b"nobody", b""):
        count.clear()
        right = users.accepts_password(known, user, password)
        assert right == (password == b"secret" and user in known and user != b"bob")
        assert count == expected


# -- the check -------------------------------------------------------------


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("entries", "program", "said"),
    [
        ([SEED, JOE], None, None),
        ([SEED, JOE, ANN], None, b"warning: control/smtpusers: has users without --scram"),
        ([ANN], None, b"wrong: control/smtpusers: has users without --scram"),
        ([], None, b"warning: control/smtpusers: has no users"),
        (None, None, b"wrong: control/smtpusers: is missing"),
        ([SEED], None, b"warning: control/smtpusers: has no users"),
        ([JOE], None, b"wrong: control/smtpusers: has no line :seed:, so all SCRAM fails"),
        ([SEED, JOE], "", b"wrong: scramprogram: there is no program, and SCRAM-SHA-256 needs it"),
        ([SEED, JOE], "no-such", b"wrong: scramprogram: no-such is not to be found in PATH"),
        ([SEED, JOE], str(PROGRAM), b"wrong: scramprogram: is qsmtpd-checkpassword without --sc"),
        ([SEED, JOE], "/bin/true", b"wrong: scramprogram: /bin/true says yes"),
    ],
)
def test_the_check(
    scram: Home, entries: list[str] | None, program: str | None, said: bytes | None
) -> None:
    scram.environ["AUTHMECHANISMS"] = "SCRAM-SHA-256"
    if program is not None:
        scram.environ["SCRAMPROGRAM"] = program
    if entries is None:
        (scram.control_dir / "smtpusers").unlink()
    else:
        scram.control("smtpusers", *entries)
    done = scram.run(b"", "--check")
    assert done.status == (said is not None and said.startswith(b"wrong"))
    assert said is None or said in done.out


@pytest.mark.parametrize("front", ["env ", ""])
def test_the_check_where_the_helper_has_the_file_to_itself(
    scram: Home, monkeypatch: pytest.MonkeyPatch, front: str
) -> None:
    """Behind sudo it may run as another user: that this one cannot read it is not wrong then."""
    access = os.access

    def is_allowed(path: Any, *how: Any, **more: Any) -> bool:
        return not os.fsencode(path).endswith(b"smtpusers") and access(path, *how, **more)

    monkeypatch.setattr(os, "access", is_allowed)
    settings = Settings(
        ControlFiles(os.fsencode(scram.path)),
        {
            b"PATH": b"/usr/bin:/bin",
            b"SMTPAUTH": b"",
            b"AUTHMECHANISMS": b"SCRAM-SHA-256",
            b"SCRAMPROGRAM": f"{front}{PROGRAM} --scram".encode(),
        },
    )
    report = Report()
    check_auth(report, settings, AuthSettings(settings), None, False)
    assert list(report.lines["wrong"]) == []
    said = any("smtpusers: is not for this user" in line for line in report.lines["warning"])
    assert said == (front != "")


@pytest.mark.slow
def test_the_helper_of_our_own_is_the_default(scram: Home) -> None:
    del scram.environ["SCRAMPROGRAM"]
    scram.environ["PATH"] = f"{BIN}:{scram.environ['PATH']}"
    with start(scram) as talk:
        assert log_in(talk, client())[:3] == b"235"


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
