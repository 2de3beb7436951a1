"""AUTH: relaying follows a proof, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import smtplib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificate
from child import Command
from client import PATIENCE, client_context
from harness import BIN, Home, Variables, needs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listeners import tcpserver
from msmtp import msmtp
from run import Run
from ucspitls import Helper

from qsmtpd.config.session import AUTH_LIMIT

SERVER = Certificate("mx.example")
PASSWORD = "secret"
RIGHT = base64.b64encode(b"\0joe\0secret")
WRONG = base64.b64encode(b"\0joe\0wrong!")


MAIL = (b"MAIL FROM:<joe@ok.example>", b"RCPT TO:<x@no.example>", b"DATA")


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


def seen(home: Home) -> list[bytes]:
    """What the checker was given, each time."""
    path = home.path / "seen"
    return [bytes.fromhex(line) for line in path.read_text().split()] if path.exists() else []


def run(home: Home, *lines: bytes, **environ: Any) -> Run:
    """A session of these lines; no password may be in the log."""
    done = home.run(b"\r\n".join((*lines, b"QUIT", b"")), *home.arguments, **environ)
    for secret in (b"secret", b"wrong!", RIGHT, WRONG, b64(b"secret"), b64(b"wrong!")):
        assert secret.decode() not in done.log
        assert secret not in done.out
    return done


# -- the dialogue ----------------------------------------------------------


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("switch", "announced", "required"),
    [
        (None, None, False),
        ("-", None, False),
        ("", b"LOGIN PLAIN", False),
        ("!", b"LOGIN PLAIN", True),
        ("+cram", b"LOGIN PLAIN CRAM-MD5", False),
        ("cram", b"CRAM-MD5", False),
        ("crammd5", b"CRAM-MD5", False),
        ("!cram", b"CRAM-MD5", True),
        ("!+cram", b"LOGIN PLAIN CRAM-MD5", True),
    ],
)
def test_the_switch(
    submission: Home, switch: str | None, announced: bytes | None, required: bool
) -> None:
    submission.environ.pop("SMTPAUTH")
    environ: Variables = {} if switch is None else {"SMTPAUTH": switch}
    done = run(submission, b"EHLO me", b"AUTH FOO", b"MAIL FROM:<>", **environ)
    lines = [line[4:] for line in done.lines]
    assert (
        (b"AUTH " + announced in lines)
        if announced
        else not any(line.startswith(b"AUTH") for line in lines)
    )
    assert done.codes == [220, 250, 504 if announced else 502, 530 if required else 250, 221]


@pytest.mark.parametrize(
    ("number", "switch", "announced", "required"),
    [
        ("1", None, b"LOGIN PLAIN", True),
        ("10", "+cram", b"LOGIN PLAIN CRAM-MD5", True),
        ("1", "!cram", b"CRAM-MD5", True),
        ("0", None, None, False),
        ("0", "", b"LOGIN PLAIN", False),
        ("00", "!", b"LOGIN PLAIN", True),
    ],
)
def test_require_auth(
    submission: Home, number: str, switch: str | None, announced: bytes | None, required: bool
) -> None:
    """A number of jms1's and qmailtoaster's, whose run scripts set nothing else."""
    done = run(submission, b"EHLO me", b"MAIL FROM:<>", SMTPAUTH=switch, REQUIRE_AUTH=number)
    found = [line[9:] for line in done.lines if line[4:].startswith(b"AUTH")]
    assert found == ([] if announced is None else [announced])
    assert done.codes == [220, 250, 530 if required else 250, 221]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("switch", "number", "wrong"),
    [
        ("-", "1", "REQUIRE_AUTH: is set, and SMTPAUTH=- switches AUTH off"),
        (None, "yes", "REQUIRE_AUTH: "),
        (None, "", "REQUIRE_AUTH: "),
    ],
)
def test_require_auth_that_makes_no_sense(
    submission: Home, switch: str | None, number: str, wrong: str
) -> None:
    environ: Variables = {"SMTPAUTH": switch, "REQUIRE_AUTH": number}
    assert run(submission, **environ).lines == [b"421 unable to read controls (#4.3.0)"]
    check = submission.run(b"", "--check", *submission.arguments, **environ)
    assert check.status == 1 and b"wrong: " + wrong.encode() in check.out


def test_an_unknown_switch(submission: Home) -> None:
    assert run(submission, SMTPAUTH="yes").lines == [b"421 unable to read controls (#4.3.0)"]


def test_no_program_no_auth(submission: Home) -> None:
    submission.arguments = []
    done = run(submission, b"EHLO x", b"AUTH PLAIN " + RIGHT)
    assert done.codes == [220, 250, 502, 221]
    assert done.event("refused")["command"] == "AUTH"  # and nothing of its argument: see run()
    check = submission.run(b"", "--check")
    assert check.status == 1 and b"wrong: SMTPAUTH: is set" in check.out
    check = submission.run(b"", "--check", SMTPAUTH=None, REQUIRE_AUTH="1")
    assert check.status == 1 and b"wrong: REQUIRE_AUTH: is set" in check.out


@pytest.mark.parametrize(
    ("lines", "codes", "fields"),
    [
        ([b"AUTH PLAIN " + RIGHT], [235], b"joe\0secret\0"),
        ([b"AUTH plain", RIGHT], [334, 235], b"joe\0secret\0"),
        ([b"AUTH PLAIN " + b64(b"joe\0joe\0secret")], [235], b"joe\0secret\0"),
        ([b"AUTH LOGIN", b64(b"joe"), b64(b"secret")], [334, 334, 235], b"joe\0secret\0"),
        ([b"auth login " + b64(b"joe"), b64(b"secret")], [334, 235], b"joe\0secret\0"),
        ([b"AUTH PLAIN " + WRONG], [535], b"joe\0wrong!\0"),
        ([b"AUTH LOGIN", b64(b"joe"), b64(b"x y")], [334, 334, 535], b"joe\0x y\0"),
    ],
)
def test_exchanges(submission: Home, lines: list[bytes], codes: list[int], fields: bytes) -> None:
    done = run(submission, *lines)
    assert done.codes == [220, *codes, 221]
    assert seen(submission) == [fields]


@pytest.mark.parametrize("identity", [b"else", b"JOE", b"joe ", b"joe@ok.example"])
@pytest.mark.parametrize("proof", [b"secret", b"wrong!"])
def test_who_would_be_another_is_refused(submission: Home, identity: bytes, proof: bytes) -> None:
    """RFC 4616, 2: the authorization identity; nobody may act as somebody else here."""
    response = b64(identity + b"\0joe\0" + proof)
    done = run(submission, b"AUTH PLAIN " + response, b"AUTH PLAIN", response)
    assert done.codes == [220, 535, 334, 535, 221]
    assert [line["user"] for line in done.events("auth")] == ["joe", "joe"]
    assert seen(submission) == []


def test_the_challenges(submission: Home) -> None:
    done = run(submission, b"AUTH LOGIN", b64(b"joe"), b"*", b"AUTH PLAIN", b"*")
    assert done.lines[1:-1] == [
        b"334 VXNlcm5hbWU6",
        b"334 UGFzc3dvcmQ6",
        b"501 auth exchange canceled (#5.0.0)",
        b"334 ",
        b"501 auth exchange canceled (#5.0.0)",
    ]
    assert seen(submission) == []


@pytest.mark.parametrize("order", ["response", "challenge"])
@pytest.mark.parametrize("host", [False, True])
def test_cram_md5(submission: Home, order: str, host: bool) -> None:
    environ: Variables = {**submission.environ, "SMTPAUTH": "+cram", "CRAMORDER": order}
    arguments = submission.arguments
    if host:
        environ["AUTHARGV"] = "host"
        arguments = ["name.example", *arguments]
    talk = submission.talk(*arguments, **environ)
    talk.reply()
    challenge = talk.ask(b"AUTH CRAM-MD5")
    text = base64.b64decode(challenge[4:])
    name = b"name.example" if host else b"mx.example"
    assert re.fullmatch(rb"<\d+\.\d+\.[0-9a-f]+@" + name + b">", text)
    digest = hmac.new(b"secret", text, hashlib.md5).hexdigest().encode()
    assert talk.ask(b64(b"joe " + digest)) == b"535 authentication failed (#5.7.1)"
    assert talk.ask(b"AUTH PLAIN " + RIGHT)[:3] == b"235"
    talk.end()
    first, second = seen(submission)
    proof = [digest, text] if order == "response" else [text, digest]
    assert first == b"joe\0" + b"\0".join(proof) + b"\0"
    assert second == b"joe\0secret\0\0"


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "line",
    [
        b"PLAIN =",
        b"PLAIN  =",
        b"LOGIN =\r\n" + b64(b"secret"),
        b"CRAM-MD5 =",
        b"PLAIN " + RIGHT + b" x",
        b"PLAIN " + RIGHT + b"=",
        b"PLAIN " + RIGHT[:-2],
        b"PLAIN AG!E=",
        b"PLAIN " + b64(b"joe\0secret"),
        b"PLAIN " + b64(b"\0joe\0secret\0"),
        b"PLAIN " + b64(b"\0\0secret"),
        b"PLAIN " + b64(b"\0joe\0"),
        b"PLAIN " + b64(b"\0jo\ne\0secret"),
        b"PLAIN AGpvZQBzZWNyZXT=",  # a spelling of base64 that is not the right one
        b"PLAIN \xff",
        b"LOGIN " + b64(b"jo\0e") + b"\r\n" + b64(b"secret"),
        b"CRAM-MD5 " + b64(b"joe"),
    ],
)
def test_malformed(submission: Home, line: bytes) -> None:
    done = run(submission, b"AUTH " + line, b"NOOP", SMTPAUTH="+cram")
    assert b"501 malformed auth input (#5.5.4)" in done.lines
    assert done.codes[-2:] == [250, 221]
    assert seen(submission) == []


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ([b"AUTH LOGIN ", b64(b"joe"), b64(b"secret")], [334, 334, 235]),
        ([b"AUTH LOGIN\t", b64(b"joe") + b" ", b64(b"secret") + b" \t"], [334, 334, 235]),
        ([b"AUTH LOGIN  " + b64(b"joe") + b" ", b64(b"secret")], [334, 235]),
        ([b"AUTH PLAIN ", RIGHT], [334, 235]),
        ([b"AUTH  PLAIN   " + RIGHT + b"\t "], [235]),
        ([b"AUTH PLAIN", RIGHT + b" "], [334, 235]),
        ([b"AUTH PLAIN \t", b"* ", b"AUTH PLAIN " + RIGHT], [334, 501, 235]),
        ([b"AUTH ", b"AUTH PLAIN", b" ", b"AUTH PLAIN " + RIGHT], [504, 334, 501, 235]),
    ],
)
def test_blanks_are_no_response(submission: Home, lines: list[bytes], codes: list[int]) -> None:
    """RFC 5321, 4.1.1, and RFC 4954, 4: only `=` is an empty initial response."""
    done = run(submission, *lines)
    assert done.codes == [220, *codes, 221]
    assert seen(submission) == [b"joe\0secret\0"]


def test_long_and_odd_lines(submission: Home) -> None:
    longest = b"AUTH PLAIN " + b64(b"\0joe\0" + b"p" * 9000)
    done = run(
        submission,
        longest,
        b"AUTH PLAIN " + b"A" * 100_000,
        b"NOOP",
        b"AUTH PLAIN",
        b"A" * 100_000,
        b"NOOP",
        b"AUTH",
        b"AUTH \0PLAIN",
        b"AUTH  PLAIN " + RIGHT,
    )
    assert done.codes == [220, 535, 500, 250, 334, 500, 250, 504, 501, 235, 221]
    assert seen(submission)[0] == b"joe\0" + b"p" * 9000 + b"\0"


def test_sequence(submission: Home) -> None:
    done = run(
        submission,
        b"MAIL FROM:<a@b>",
        b"AUTH PLAIN " + RIGHT,
        b"RSET",
        b"AUTH PLAIN " + RIGHT,
        b"AUTH PLAIN " + RIGHT,
        b"EHLO me",
        b"MAIL FROM:<a@b> AUTH=joe+40x",
        b"MAIL FROM:<a@b> AUTH=<>",
        b"MAIL FROM:<a@b> AUTH=a+0Ab",
        b"MAIL FROM:<a@b> AUTH=a+4",
    )
    again, inside = b"503 you're already authenticated (#5.5.0)", b"503 no auth during mail"
    assert done.codes == [220, 250, 503, 250, 235, 503, 250, 250, 250, 501, 501, 221]
    assert again in done.lines and any(line.startswith(inside) for line in done.lines)
    assert not any(b"AUTH" in line for line in done.lines[6:10])  # no need to offer it now


def test_failures_never_add_up_to_a_yes(submission: Home) -> None:
    attempts = [
        b"AUTH PLAIN " + WRONG,
        b"AUTH LOGIN\r\n" + b64(b"joe") + b"\r\n" + b64(b"wrong!"),
        b"AUTH CRAM-MD5\r\n" + b64(b"joe " + b"0" * 32),
        b"AUTH FOO",
        b"AUTH PLAIN =",
    ]
    done = run(submission, *attempts * 3, SMTPAUTH="+cram", MAXAUTHFAILURES="100")
    assert 235 not in done.codes
    assert done.codes[-1] == 221
    assert len(seen(submission)) == 9


def test_the_third_failure_is_the_last(submission: Home) -> None:
    done = run(submission, *[b"AUTH PLAIN " + WRONG] * 4)
    assert done.codes == [220, 535, 535, 421]
    assert done.lines[-1] == b"421 too many authentication failures (#4.7.0)"
    assert done.status == 1
    lines = done.events("auth")
    assert [line["verdict"] for line in lines] == ["refused"] * 3
    assert {line["ip"] for line in lines} == {"192.0.2.1"}
    assert {line["user"] for line in lines} == {"joe"}
    assert done.event("session")["end"] == "auth-failures"


def test_a_failure_costs_time(submission: Home) -> None:
    done = run(submission, b"AUTH PLAIN " + WRONG, AUTHDELAY="1")
    assert float(done.event("session")["seconds"]) >= 1


# -- the checkpassword program ---------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 235),
        ("exit 1", 535),
        ("exit 2", 454),
        ("exit 3", 454),
        ("exit 111", 454),
        ("exit 255", 454),
        ("kill -KILL $$", 454),
        ("kill -TERM $$", 454),
        ("sleep 30 & kill -STOP $$", 454),
        ("sleep 30", 454),
        ("cat <&3 >/dev/null; exit 1", 535),
    ],
)
def test_only_exit_0_is_a_yes(submission: Home, script: str, code: int) -> None:
    submission.arguments = [submission.script(script)]
    limit = "1" if "sleep" in script else "60"
    done = run(submission, b"AUTH PLAIN " + RIGHT, b"NOOP", AUTHTIMEOUT=limit)
    assert done.codes == [220, code, 250, 221]
    verdict = {235: "accepted", 535: "refused", 454: "temporary"}[code]
    assert done.event("auth")["verdict"] == verdict
    assert done.children == []


def test_a_program_that_is_not_there(submission: Home) -> None:
    submission.arguments = ["/nonexistent/checkpassword"]
    assert run(submission, b"AUTH PLAIN " + RIGHT).codes == [220, 454, 221]


def test_what_the_program_inherits(submission: Home) -> None:
    dump = submission.path / "dump"
    submission.arguments = [
        submission.script(
            f"(cd /proc/$$/fd; for fd in *; do echo $fd $(readlink $fd); done; env) >{dump};"
            " echo to the log; exit 0"
        )
    ]
    helper = Helper(SERVER.save(submission.path / "certificate"), b"\0\0")
    submission.environ.update(UCSPITLS="", KEYFILE="/key", LD_DEBUG_OUTPUT="/x")
    with submission.talk(*submission.arguments, helper=helper) as talk:
        talk.reply()
        assert talk.ask(b"AUTH PLAIN " + RIGHT)[:3] == b"235"
        talk.ask(b"QUIT")
        log = talk.ended().log
    lines = dump.read_text().splitlines()
    fds = {int(line.split()[0]): line.split()[-1] for line in lines if line[:1].isdigit()}
    script = {fd for fd, target in fds.items() if target.endswith(".0")}
    assert set(fds) - script <= {0, 1, 2, 3}
    assert fds[0] == "/dev/null" and fds[3].startswith("pipe:")
    assert "to the log" in log and "SSLCTLFD=" not in dump.read_text()
    assert "KEYFILE" not in dump.read_text() and PASSWORD not in dump.read_text()
    assert "LD_DEBUG" not in dump.read_text()


@pytest.mark.slow
def test_a_relative_home(submission: Home) -> None:
    """It is below where we were started: we go there, and so the programs find it no more."""
    submission.control("smtpusers", b"joe:cram:" + b"secret".hex().encode())
    arguments = [str(BIN / "qsmtpd-checkpassword"), "true"]
    environ = {**submission.environ, "QMAILHOME": submission.path.name}
    start: Command = ["env", "-C", submission.path.parent, BIN / "qsmtpd"]
    lines = [b"AUTH PLAIN " + RIGHT, *MAIL, b"x", b".", b"QUIT", b""]
    done = submission.launch([*start, *arguments], environ, "pipe").whole([b"\r\n".join(lines)])
    assert done.codes == [220, 235, 250, 250, 354, 250, 221]
    check = submission.launch([*start, "--check", *arguments], environ, "pipe").whole([b""])
    assert check.status == 0
    explain: Command = [*start, "--explain", "to=x@ok.example"]
    assert submission.launch(explain, environ, "pipe").whole([b""]).status == 0


# -- TLS -------------------------------------------------------------------


def test_never_in_clear_by_default(submission: Home) -> None:
    del submission.environ["AUTHCLEAR"]
    done = run(submission, b"EHLO me", b"AUTH PLAIN " + RIGHT, b"AUTH LOGIN", b64(b"joe"))
    assert done.codes == [220, 250, 538, 538, 502, 221]
    assert b"AUTH" not in done.out.partition(b"538")[0]
    assert seen(submission) == []
    with submission.talk(*submission.arguments) as talk:
        talk.reply()
        assert talk.ask(b"EHLO me") == b"250 STARTTLS"
        talk.starttls()
        assert talk.ask(b"EHLO me") == b"250 AUTH LOGIN PLAIN"
        assert talk.ask(b"AUTH PLAIN " + RIGHT)[:3] == b"235"
        assert talk.ask(b"MAIL FROM:<a@b>") == b"250 ok"
        assert talk.ask(b"RCPT TO:<x@no.example>") == b"250 ok"
        assert talk.ask(b"DATA")[:3] == b"354"
        assert talk.ask(b".")[:3] == b"250"
    text = submission.messages()[0].text
    assert b" (HELO me) (joe@192.0.2.1)\n  by mx.example with ESMTPSA tls " in text


def test_auth_does_not_survive_starttls(submission: Home) -> None:
    with submission.talk(*submission.arguments, SMTPAUTH="!") as talk:
        talk.reply()
        assert talk.ask(b"AUTH PLAIN " + RIGHT)[:3] == b"235"
        assert talk.ask(b"MAIL FROM:<a@b>") == b"250 ok"
        assert talk.ask(b"RCPT TO:<x@no.example>") == b"250 ok"
        talk.ask(b"RSET")
        talk.starttls()
        assert talk.ask(b"MAIL FROM:<a@b>") == b"530 Authorization required (#5.7.1)"
        assert talk.ask(b"AUTH PLAIN " + WRONG)[:3] == b"535"
        assert talk.ask(b"MAIL FROM:<a@b>")[:3] == b"530"
        assert talk.ask(b"AUTH PLAIN " + RIGHT)[:3] == b"235"
        assert talk.ask(b"MAIL FROM:<a@b>") == b"250 ok"


def test_starttls_inside_auth_is_a_response(submission: Home) -> None:
    done = run(submission, b"AUTH LOGIN", b"STARTTLS", b"NOOP")
    assert done.codes[1] == 334 and 220 not in done.codes[1:]


def test_failures_are_counted_across_starttls(submission: Home) -> None:
    with submission.talk(*submission.arguments) as talk:
        talk.reply()
        for _ in range(2):
            assert talk.ask(b"AUTH PLAIN " + WRONG)[:3] == b"535"
        talk.starttls()
        assert talk.ask(b"AUTH PLAIN " + WRONG)[:3] == b"421"


# -- relaying follows a proof, and nothing else ----------------------------

COMMANDS = {
    "ehlo": b"EHLO me",
    "rset": b"RSET",
    "right": b"AUTH PLAIN " + RIGHT,
    "wrong": b"AUTH PLAIN " + WRONG,
    "cancel": b"AUTH LOGIN\r\n*",
    "nonsense": b"AUTH PLAIN =",
    "mail": b"MAIL FROM:<a@b> AUTH=joe",
    "rcpt": b"RCPT TO:<x@no.example>",
    "quoted": b'RCPT TO:<"AUTH PLAIN"@no.example>',
}


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    words=st.lists(st.sampled_from(sorted(COMMANDS)), max_size=12),
    clear=st.booleans(),
    relay=st.booleans(),
)
def test_who_may_relay(submission: Home, words: list[str], clear: bool, relay: bool) -> None:
    environ: Variables = {"AUTHCLEAR": "1" if clear else "0", "MAXAUTHFAILURES": "100"}
    if relay:
        environ["RELAYCLIENT"] = ""
    done = run(submission, *(COMMANDS[word] for word in words), **environ)
    proven = transaction = False
    codes = iter(done.codes[1:])
    for word in words:
        code = next(codes)
        if word == "cancel" and code == 334:
            code = next(codes)
        elif word == "cancel":
            assert next(codes) == 502  # `*` by itself
        if word == "right" and clear and not transaction:
            assert code == (503 if proven else 235)
            proven = True
        elif word == "mail":
            transaction = code == 250
        elif word in ("ehlo", "rset"):
            transaction = False
        elif word in ("rcpt", "quoted") and transaction:
            assert code == (250 if relay or proven else 553)


def test_base64_is_strict() -> None:
    assert AUTH_LIMIT == 12288


# -- real clients ----------------------------------------------------------


@pytest.fixture(params=["starttls", "implicit"])
def port(request: pytest.FixtureRequest, submission: Home) -> object:
    del submission.environ["AUTHCLEAR"]
    submission.environ.update(QSMTPD_TLS=request.param, SMTPAUTH="!+cram", FORCETLS="1")
    with tcpserver(submission) as it:
        yield it.port, request.param
        assert PASSWORD not in it.log() and RIGHT.decode() not in it.log()


@pytest.mark.interop
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks(port: tuple[int, str], submission: Home, mechanism: str) -> None:
    number, mode = port
    how = "--tls" if mode == "starttls" else "--tlsc"
    for password, status in ((PASSWORD, 0), ("wrong!", 28)):
        done = subprocess.run(
            [needs("swaks"), how, "--server", "127.0.0.1", "--port", str(number)]
            + ["--to", "x@no.example", "--from", "joe@ok.example"]
            + ["--auth", mechanism, "--auth-user", "joe", "--auth-password", password],
            capture_output=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
    assert len(submission.messages()) == 1


@pytest.mark.slow
def test_smtplib(port: tuple[int, str], submission: Home) -> None:
    number, mode = port
    if mode == "implicit":
        client: smtplib.SMTP = smtplib.SMTP_SSL(
            "127.0.0.1", number, context=client_context(), timeout=PATIENCE
        )
    else:
        client = smtplib.SMTP("127.0.0.1", number, timeout=PATIENCE)
        client.starttls(context=client_context())
    with pytest.raises(smtplib.SMTPSenderRefused):
        client.sendmail("joe@ok.example", ["x@no.example"], "Subject: x\n\n")
    client.ehlo()
    client.user, client.password = "joe", PASSWORD
    client.auth("PLAIN", client.auth_plain)
    client.sendmail("joe@ok.example", ["x@no.example"], "Subject: x\n\n")
    client.quit()
    assert len(submission.messages()) == 1


@pytest.mark.interop
def test_msmtp(port: tuple[int, str], submission: Home, tmp_path: Path) -> None:
    number, mode = port
    login = ("auth plain", "user joe", f"tls_starttls {'on' if mode == 'starttls' else 'off'}")
    done = msmtp(tmp_path, number, *login, f"password {PASSWORD}")
    assert done.returncode == 0, done.stderr
    assert msmtp(tmp_path, number, *login, "password wrong!").returncode != 0
    (message,) = submission.messages()
    assert message.recipients == [b"x@no.example"]


@pytest.mark.interop
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_the_checker_of_our_own(submission: Home, mechanism: str) -> None:
    """From a new user to a message, with nothing but what comes with qsmtpd."""
    kind = ["--cram"] if mechanism == "CRAM-MD5" else []
    add: Command = [BIN / "qsmtpd-checkpassword", "--add", *kind, "joe"]
    subprocess.run(add, input=PASSWORD.encode() + b"\n", env=submission.environ, check=True)
    assert PASSWORD.encode() not in (submission.control_dir / "smtpusers").read_bytes()
    submission.environ["SMTPAUTH"] = "!+cram"
    check = submission.run(b"", "--check", str(BIN / "qsmtpd-checkpassword"), "true")
    assert check.status == 0, check.out
    submission.arguments = [str(BIN / "qsmtpd-checkpassword"), "true"]
    with tcpserver(submission) as listener:
        for password, status in ((PASSWORD, 0), ("wrong!", 28)):
            done = subprocess.run(
                [needs("swaks"), "--tls", "--server", "127.0.0.1", "--port", str(listener.port)]
                + ["--to", "x@no.example", "--from", "joe@ok.example"]
                + ["--auth", mechanism, "--auth-user", "joe", "--auth-password", password],
                capture_output=True,
                check=False,
            )
            assert done.returncode == status, done.stdout
        assert PASSWORD not in listener.log()
    assert len(submission.messages()) == 1


@pytest.mark.slow
def test_who_cannot_be_checked_is_slowed_down_too(submission: Home) -> None:
    submission.arguments = [submission.script("exit 3")]
    assert run(submission, *[b"AUTH PLAIN " + RIGHT] * 4).codes == [220, 454, 454, 421]
    done = run(submission, b"AUTH PLAIN " + RIGHT, AUTHDELAY="1")
    assert float(done.event("session")["seconds"]) >= 1


def test_an_inherited_user_is_nobody(submission: Home) -> None:
    dump = submission.path / "dump"
    queue = submission.script(f"env >{dump}; cat >/dev/null; cat <&1 >/dev/null")
    session = (MAIL[0], b"RCPT TO:<x@ok.example>", b"DATA", b".")
    run(submission, *session, QMAILQUEUE=queue, AUTHUSER="boss", QUEUEENV="spamcontrol")
    assert "AUTHUSER" not in dump.read_text()


def test_what_we_say_of_a_message_is_never_cut_off(submission: Home) -> None:
    user = b64(b"\0" + "é".encode() * 128 + b"\0secret")
    submission.arguments = [submission.script("exit 0")]
    done = run(
        submission,
        b"EHLO " + b'"' * 300,
        b"AUTH PLAIN " + user,
        b"MAIL FROM:<" + b"\xe9" * 400 + b">",
        b"RCPT TO:<" + b"\xe9" * 400 + b">",
        b"DATA",
        b".",
    )
    line = done.event("message")
    assert {"verdict", "qp", "exit", "size", "reply", "rcpts"} <= set(line)
