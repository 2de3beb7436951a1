"""AUTH: OAUTHBEARER and XOAUTH2, and the program that says whether a token is good."""

from __future__ import annotations

import base64
import json
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from certificates import Certificate
from child import Command
from client import PATIENCE, client_context
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness import ROOT, Home, needs, wait_for
from listeners import Listener, tcpserver
from msmtp import msmtp
from run import Run

pytestmark = pytest.mark.slow

FAILED = b"535 authentication failed (#5.7.1)"
TOKEN = "eyJhbGciOi.secret-_~+/=="
#: What a right client says, by mechanism.
FORMS = {
    "OAUTHBEARER": "n,a={user},\1host=mx.example\1port=587\1auth=Bearer {token}\1\1",
    "XOAUTH2": "user={user}\1auth=Bearer {token}\1\1",
}
#: What it answers to the reason of a refusal.
DUMMIES = {"OAUTHBEARER": b"AQ==", "XOAUTH2": b""}
REASONS = {
    "OAUTHBEARER": {"status": "invalid_token"},
    "XOAUTH2": {"status": "401", "schemes": "bearer"},
}
MECHANISMS = sorted(FORMS)


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def said(mechanism: str, user: str = "joe", token: str = TOKEN) -> bytes:
    return b64(FORMS[mechanism].format(user=user, token=token))


@pytest.fixture
def tokens(submission: Home) -> Home:
    """The program keeps what it was given, and knows one token."""
    right = f"joe\0{TOKEN}\0".encode().hex()
    program = submission.script(
        'od -An -v -tx1 <&3 | tr -d " \\n" >>seen; echo >>seen\n'
        f'case $(tail -1 seen) in {right}) exit 0 ;; esac\nexit "${{NO:-1}}"\n'
    )
    submission.environ.update(
        AUTHMECHANISMS="OAUTHBEARER XOAUTH2", TOKENPROGRAM=program, MAXAUTHFAILURES="100"
    )
    submission.arguments = []
    return submission


def seen(home: Home) -> list[bytes]:
    path = home.path / "seen"
    return [bytes.fromhex(line) for line in path.read_text().split()] if path.exists() else []


def run(home: Home, *lines: bytes, **environ: Any) -> Run:
    done = home.run(b"\r\n".join((*lines, b"QUIT", b"")), **environ)
    assert TOKEN not in done.log and b64(TOKEN)[4:-4].decode() not in done.log
    assert TOKEN.encode() not in done.out
    return done


@pytest.mark.sample(4)
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("early", [False, True])
def test_a_right_token(tokens: Home, mechanism: str, early: bool) -> None:
    name = mechanism.encode()
    lines = [b"AUTH " + name + b" " + said(mechanism)]
    if not early:
        lines = [b"AUTH " + name, said(mechanism)]
    done = run(tokens, *lines, b"MAIL FROM:<a@b>", b"RCPT TO:<x@no.example>")
    assert done.codes == [220, *([] if early else [334]), 235, 250, 250, 221]
    assert seen(tokens) == [f"joe\0{TOKEN}\0".encode()]
    event = done.event("auth")
    assert (event["verdict"], event["mechanism"], event["user"]) == ("accepted", mechanism, "joe")


@pytest.mark.sample(4)
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("dummy", [None, b"AQ==", b"", b"*", b"!", b"A" * 13000])
def test_a_wrong_token(tokens: Home, mechanism: str, dummy: bytes | None) -> None:
    """The client is told why in a challenge; whatever it answers, it has failed."""
    answer = DUMMIES[mechanism] if dummy is None else dummy
    command = b"AUTH " + mechanism.encode() + b" " + said(mechanism, token="x" + TOKEN)
    done = run(tokens, command, answer, b"MAIL FROM:<a@b>", b"RCPT TO:<x@no.example>")
    code = {b"*": 501, b"!": 501, b"A" * 13000: 500}.get(answer, 535)
    assert done.codes == [220, 334, code, 250, 553, 221]
    challenge = done.lines[1].removeprefix(b"334 ")
    assert json.loads(base64.b64decode(challenge, validate=True)) == REASONS[mechanism]
    event = done.event("auth")
    assert (event["verdict"], event["mechanism"], event["user"]) == ("refused", mechanism, "joe")


def test_no_failure_is_free(tokens: Home) -> None:
    """Neither one that is cancelled, nor one whose client has gone before it was told."""
    guess = b"AUTH XOAUTH2 " + said("XOAUTH2", token="guess")
    done = run(tokens, guess, b"*", guess, b"*", guess, b"*", MAXAUTHFAILURES="3")
    assert done.codes == [220, 334, 501, 334, 501, 334, 421]
    assert [event["verdict"] for event in done.events("auth")] == ["refused"] * 3
    assert done.event("session")["end"] == "auth-failures"
    for form, line in ("qsmtpd", "verdict=refused"), ("spamcontrol", "Reject::AUTH::xoauth2"):
        with tokens.talk(LOGFORMAT=form) as talk:
            talk.reply()
            assert talk.ask(guess)[:4] == b"334 "
            talk.close()
            talk.process.wait(PATIENCE)
            assert line in talk.log() and "end=client-gone" in talk.log()


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_program_that_cannot_tell(tokens: Home, mechanism: str) -> None:
    command = b"AUTH " + mechanism.encode() + b" " + said(mechanism, token="x")
    done = run(tokens, command, b"NOOP", NO="111")
    assert done.codes == [220, 454, 250, 221]
    assert done.event("auth")["verdict"] == "temporary"
    done = run(tokens, command, b"NOOP", TOKENPROGRAM="/no/such/program")
    assert done.codes == [220, 454, 250, 221]


@pytest.mark.slow
def test_long_tokens(tokens: Home) -> None:
    """Up to the limit of AUTH, 12288 bytes in base64, and no more."""
    longest = "x" * (9216 - len(FORMS["XOAUTH2"].format(user="joe", token="")))
    line = said("XOAUTH2", token=longest)
    assert len(line) == 12288
    done = run(tokens, b"AUTH XOAUTH2", line, b"", b"AUTH XOAUTH2", line + b"AAAA", b"NOOP")
    assert done.codes == [220, 334, 334, 535, 334, 500, 250, 221]
    assert seen(tokens) == [f"joe\0{longest}\0".encode()]


def test_only_inside_tls(tokens: Home) -> None:
    command = b"AUTH XOAUTH2 " + said("XOAUTH2")
    done = run(tokens, b"EHLO me", command, AUTHCLEAR="0")
    assert done.codes == [220, 250, 538, 221] and b"250-AUTH" not in done.out
    tokens.environ["AUTHCLEAR"] = "0"
    with tokens.talk() as talk:
        talk.reply()
        talk.starttls()
        assert talk.ask(b"EHLO me") == b"250 AUTH OAUTHBEARER XOAUTH2"
        assert talk.ask(command)[:3] == b"235"


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("program", "wrong"),
    [
        (None, "tokenprogram: there is no program, and XOAUTH2 needs it"),
        (" ", "tokenprogram: there is no program, and XOAUTH2 needs it"),
        ("no-such-program", "tokenprogram: no-such-program is not to be found in PATH"),
        ("/etc/passwd", "tokenprogram: /etc/passwd is not executable"),
        ("/bin/true", "tokenprogram: /bin/true says yes to every"),
    ],
)
def test_the_check(tokens: Home, program: str | None, wrong: str) -> None:
    assert tokens.run(b"", "--check").status == 0
    check = tokens.run(b"", "--check", TOKENPROGRAM=program)
    assert check.status == 1 and f"wrong: {wrong}".encode() in check.out
    if program is None:
        done = run(tokens, b"EHLO me", b"AUTH XOAUTH2 x", TOKENPROGRAM=program)
        assert done.codes == [220, 250, 502, 221] and b"AUTH" not in done.out


# -- the example -----------------------------------------------------------

CHECK_TOKEN = ROOT / "man/examples/tokens/check-token"
KEYS = {
    "RS256": Certificate("issuer", "rsa"),
    "PS384": Certificate("issuer", "rsa"),
    "ES256": Certificate("issuer"),
}
ED25519 = Ed25519PrivateKey.generate()
CLAIMS = {"iss": "https://id.example", "aud": "smtp", "email": "joe", "exp": 0, "sub": "17"}


def sign(algorithm: str = "ES256", key: Any = None, **claims: Any) -> str:
    """A token of an hour; a claim that is None is not in it."""
    every = {**CLAIMS, "exp": int(time.time()) + 3600, **claims}
    key = key or (ED25519 if algorithm == "EdDSA" else KEYS[algorithm].key)
    return jwt.encode({k: v for k, v in every.items() if v is not None}, key, algorithm)


@pytest.fixture
def issuer(tmp_path: Path) -> Path:
    """The issuer's key, and files that are none."""
    for name, certificate in KEYS.items():
        (tmp_path / name).write_bytes(certificate.pem)
    public = ED25519.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "EdDSA").write_bytes(public)
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def check(
    key: Path, token: str, user: str = "joe", *program: str, claim: str = "", raw: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """The example's answer; `raw` is all that stands on descriptor 3."""
    options = ["--claim", claim] if claim else []
    command: Command = ["sh", "-c", 'exec 3<&0 </dev/null "$@"', "sh", sys.executable, CHECK_TOKEN]
    done = subprocess.run(
        [*command, *options, "https://id.example", "smtp", str(key), *program],
        input=raw or f"{user}\0{token}\0".encode(),
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert not token or token.encode() not in done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [*KEYS, "EdDSA"])
def test_the_example_takes_tokens_of_its_issuer(issuer: Path, algorithm: str) -> None:
    assert check(issuer / algorithm, sign(algorithm)).returncode == 0
    assert check(issuer / algorithm, sign(algorithm), "ann").returncode == 1
    done = check(issuer / algorithm, sign(algorithm), "joe", "sh", "-c", "echo run; exit 7")
    assert (done.returncode, done.stdout) == (7, b"run\n")
    assert check(issuer / algorithm, sign(algorithm, aud=["imap", "smtp"])).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "token",
    [
        sign(exp=int(time.time()) - 60),
        sign(exp=None),
        sign(iss="https://other.example"),
        sign(iss=None),
        sign(aud="imap"),
        sign(aud=None),
        sign(email="ann"),
        sign(email=None),
        sign(email=["joe"]),
        sign(nbf=int(time.time()) + 3600),
        sign(key=Certificate("issuer").key),  # somebody else's
        jwt.encode({**CLAIMS, "exp": 2**33}, "", "none"),
        sign("RS256"),
        sign()[:-1],
        sign()[:-8],
        sign() + "A",
        sign().replace(".", "..", 1),
        "",
        "x",
        "a.b.c",
        "." * 5000,
    ],
)  # fmt: skip
def test_the_example_refuses(issuer: Path, token: str) -> None:
    assert check(issuer / "ES256", token).returncode == 1


@pytest.mark.slow
def test_the_public_key_is_no_secret(issuer: Path) -> None:
    """Who knows it, as everybody may, cannot sign with it (RFC 8725, 2.1)."""
    import hmac

    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    claims = json.dumps({**CLAIMS, "exp": 2**33}).encode()
    text = head + b"." + base64.urlsafe_b64encode(claims).rstrip(b"=")
    for name in (*KEYS, "EdDSA"):
        digest = hmac.digest((issuer / name).read_bytes(), text, "sha256")
        token = text + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")
        assert check(issuer / name, token.decode()).returncode == 1


@pytest.mark.slow
def test_the_example_whatever_the_library_raises(
    issuer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyJWT 2.6, which is Debian's, lets RecursionError through for deep JSON in a header."""
    lines = (
        "class InvalidTokenError(Exception): ...\ndef decode(token, *rest, **options): raise {}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(issuer))
    for error, status in (("RecursionError(token)", 1), ("MemoryError", 111)):
        (issuer / "jwt.py").write_text(lines.format(error))
        assert check(issuer / "ES256", sign()).returncode == status


@pytest.mark.slow
def test_the_example_where_it_cannot_tell(issuer: Path) -> None:
    for name in ("nosuch", "empty"):
        assert check(issuer / name, sign()).returncode == 111
    assert check(issuer / "ES256", sign(), "joe", "/no/such/program").returncode == 111
    for raw in (b"joe", b"joe\0x", b"x" * 20_000):
        assert check(issuer / "ES256", "", raw=raw).returncode == 2
    assert check(issuer / "ES256", "", raw=b"j\xff\0x\0").returncode == 1
    assert check(issuer / "ES256", sign(), "17", claim="sub").returncode == 0
    assert check(issuer / "ES256", sign(), "joe", claim="sub").returncode == 1


# -- real clients, and the example -----------------------------------------


@pytest.fixture
def with_example(tokens: Home, issuer: Path) -> Home:
    program = f"{sys.executable} {CHECK_TOKEN} https://id.example smtp {issuer / 'ES256'} true"
    tokens.environ.update(TOKENPROGRAM=program, SMTPAUTH="!", AUTHCLEAR="0")
    return tokens


@pytest.fixture
def listener(with_example: Home) -> Iterator[Listener]:
    with tcpserver(with_example) as it:
        yield it


def logged(listener: Listener, mechanism: str, verdict: str) -> None:
    """The log of the one AUTH."""
    wait_for(lambda: listener.events("session"))
    (event,) = listener.events("auth")
    assert (event["mechanism"], event["verdict"], event["user"]) == (mechanism, verdict, "joe")


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("good", [True, False])
def test_smtplib(listener: Listener, tokens: Home, mechanism: str, good: bool) -> None:
    token = sign() if good else sign(aud="imap")
    client = smtplib.SMTP("127.0.0.1", listener.port, timeout=PATIENCE)
    client.starttls(context=client_context())
    client.ehlo()
    first = FORMS[mechanism].format(user="joe", token=token)

    def answer(challenge: bytes | None = None) -> str:
        return first if challenge is None else base64.b64decode(DUMMIES[mechanism]).decode()

    if good:
        client.auth(mechanism, answer)
        client.sendmail("joe@ok.example", ["x@no.example"], "Subject: x\n\n")
    else:
        with pytest.raises(smtplib.SMTPAuthenticationError) as failed:
            client.auth(mechanism, answer)
        assert failed.value.smtp_code == 535
    client.quit()
    assert len(tokens.messages()) == good
    logged(listener, mechanism, "accepted" if good else "refused")


@pytest.mark.interop
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("good", [True, False])
def test_curl(with_example: Home, mechanism: str, good: bool) -> None:
    token = sign() if good else sign(iss="https://other.example")
    with_example.environ["AUTHMECHANISMS"] = mechanism  # of both it takes OAUTHBEARER
    with tcpserver(with_example) as listener:
        done = subprocess.run(
            [needs("curl"), "-sS", "-k", "--ssl-reqd", f"smtp://127.0.0.1:{listener.port}"]
            + ["-u", "joe:", "--oauth2-bearer", token]
            + ["--mail-from", "joe@ok.example", "--mail-rcpt", "x@no.example", "-T", "-"],
            input=b"Subject: x\r\n\r\nhi\r\n",
            capture_output=True,
            check=False,
        )
        assert (done.returncode == 0) == good, done.stderr
        assert len(with_example.messages()) == good
        logged(listener, mechanism, "accepted" if good else "refused")


@pytest.mark.interop
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("good", [True, False])
def test_msmtp(listener: Listener, tokens: Home, mechanism: str, good: bool) -> None:
    token = sign() if good else sign(exp=1)
    login = (f"auth {mechanism.lower()}", "user joe", f"password {token}")
    done = msmtp(tokens.path, listener.port, *login)
    assert (done.returncode == 0) == good, done.stderr
    assert len(tokens.messages()) == good
    logged(listener, mechanism, "accepted" if good else "refused")
