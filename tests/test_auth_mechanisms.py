"""AUTH: mechanisms by their names, and EXTERNAL, by the certificate that the client has shown."""

from __future__ import annotations

import base64
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Certificate
from child import Child
from client import PATIENCE, client_context
from harness import Home, needs
from hypothesis import given
from hypothesis import strategies as st
from listeners import Listener, tcpserver
from msmtp import msmtp
from tls_home import AUTHORITY, SERVER
from ucspitls import Helper

from qsmtpd.smtp import sasl

pytestmark = pytest.mark.slow

JOE = Certificate("joe", issuer=AUTHORITY, address="Joe@b.example")
RIGHT = base64.b64encode(b"\0joe\0secret")
FAILED = b"535 authentication failed (#5.7.1)"
UNKNOWN = b"504 auth type unimplemented (#5.5.1)"


# -- the list --------------------------------------------------------------


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("names", "announced"),
    [
        ("PLAIN", b"PLAIN"),
        ("cram-md5 Plain", b"CRAM-MD5 PLAIN"),
        (" PLAIN\tLOGIN ", b"PLAIN LOGIN"),
        ("EXTERNAL PLAIN", b"PLAIN"),  # without a certificate
        ("EXTERNAL", None),
    ],
)
@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("switch", ["", "!"])
def test_the_list(
    submission: Home, names: str, announced: bytes | None, file: bool, switch: str
) -> None:
    submission.environ["SMTPAUTH"] = switch
    if file:
        submission.control("authmechanisms", "# ours", *names.split())
    else:
        submission.environ["AUTHMECHANISMS"] = names
    done = submission.run(
        b"EHLO me\r\nAUTH LOGIN *\r\nMAIL FROM:<>\r\nQUIT\r\n", *submission.arguments
    )
    found = [line[9:] for line in done.lines if line[4:].startswith(b"AUTH")]
    assert found == ([] if announced is None else [announced])
    login = 501 if announced is not None and b"LOGIN" in announced else 504
    assert done.codes == [220, 250, login, 530 if switch else 250, 221]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("names", "switch", "wrong"),
    [
        ("PLAIN FOO", "", "AUTHMECHANISMS: has 'FOO', none of LOGIN, PLAIN, CRAM-MD5, "),
        ("PLAIN,LOGIN", "", "AUTHMECHANISMS: has 'PLAIN,LOGIN', none of "),
        ("PLAIN plain", "!", "AUTHMECHANISMS: has 'plain' twice"),
        ("", "", "AUTHMECHANISMS: names no mechanism"),
        ("PLAIN", "+cram", "SMTPAUTH: names mechanisms, and so does AUTHMECHANISMS"),
        ("PLAIN", "!cram", "SMTPAUTH: names mechanisms, and so does AUTHMECHANISMS"),
    ],
)
def test_a_list_that_makes_no_sense(submission: Home, names: str, switch: str, wrong: str) -> None:
    submission.environ.update(SMTPAUTH=switch, AUTHMECHANISMS=names)
    done = submission.run(b"QUIT\r\n", *submission.arguments)
    assert done.lines == [b"421 unable to read controls (#4.3.0)"]
    check = submission.run(b"", "--check", *submission.arguments)
    assert check.status == 1 and f"wrong: {wrong}".encode() in check.out


def test_where_auth_is_off_the_list_means_nothing(submission: Home) -> None:
    del submission.environ["SMTPAUTH"]
    submission.environ["AUTHMECHANISMS"] = "FOO"
    assert submission.run(b"AUTH PLAIN\r\nQUIT\r\n", *submission.arguments).codes == [220, 502, 221]
    check = submission.run(b"", "--check", *submission.arguments)
    assert b"warning: SMTPAUTH: is not set, so AUTHMECHANISMS means nothing" in check.out


def test_what_cannot_be_had_is_wrong_and_not_announced(submission: Home) -> None:
    submission.environ["AUTHMECHANISMS"] = "EXTERNAL PLAIN"
    assert submission.run(b"EHLO me\r\nAUTH PLAIN\r\nQUIT\r\n").codes == [220, 250, 504, 221]
    check = submission.run(b"", "--check")
    assert check.status == 1
    for wrong in (
        b"EXTERNAL, and nobody is asked for a certificate: no clientca.pem",
        b"PLAIN, and there is no checkpassword program in the arguments",
    ):
        assert b"wrong: AUTHMECHANISMS: has " + wrong in check.out


# -- EXTERNAL --------------------------------------------------------------


@pytest.fixture
def external(submission: Home) -> Home:
    """Certificates are asked for, and that of joe has a user; EXTERNAL is all that there is."""
    submission.environ.update(SMTPAUTH="!", AUTHMECHANISMS="EXTERNAL", AUTHCLEAR="0")
    submission.arguments = []
    submission.control_dir.joinpath("clientca.pem").write_bytes(AUTHORITY.pem)
    submission.control("tlsclients", "joe@b.example  joe")
    JOE.save(submission.path / "client.pem")
    return submission


def connect(home: Home, path: Path | None = None) -> Child:
    """In TLS, with a certificate."""
    talk = home.talk(*home.arguments)
    talk.reply()
    talk.starttls(client_context(path or home.path / "client.pem"))
    return talk


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ([b"AUTH EXTERNAL ="], [b"235"]),
        ([b"AUTH EXTERNAL", b""], [b"334 ", b"235"]),
        ([b"auth external " + base64.b64encode(b"joe")], [b"235"]),
        ([b"AUTH EXTERNAL", base64.b64encode(b"joe")], [b"334 ", b"235"]),
        ([b"AUTH EXTERNAL " + base64.b64encode(b"ann")], [FAILED]),
        ([b"AUTH EXTERNAL " + base64.b64encode(b"Joe")], [FAILED]),
        ([b"AUTH EXTERNAL " + base64.b64encode(b"joe@b.example")], [FAILED]),
        ([b"AUTH EXTERNAL " + base64.b64encode(b"jo\0e")], [b"501"]),
        ([b"AUTH EXTERNAL", b"*"], [b"334 ", b"501"]),
        ([b"AUTH EXTERNAL", b"!"], [b"334 ", b"501"]),
        ([b"AUTH EXTERNAL " + b"A" * 12300], [b"500"]),
        ([b"AUTH PLAIN " + RIGHT], [UNKNOWN]),
    ],
)
def test_external(external: Home, lines: list[bytes], codes: list[bytes]) -> None:
    with connect(external) as talk:
        assert talk.ask(b"EHLO me") == b"250 AUTH EXTERNAL"
        for line, code in zip(lines, codes, strict=True):
            assert talk.ask(line).startswith(code)
        good = codes[-1] == b"235"
        reply = talk.ask(b"MAIL FROM:<joe@ok.example>")
        assert reply == (b"250 ok" if good else b"530 Authorization required (#5.7.1)")
        talk.ask(b"QUIT")
        log = talk.ended()
    events = log.events("auth")
    if good or FAILED in codes:
        (event,) = events
        assert event["verdict"] == ("accepted" if good else "refused")
        assert (event["mechanism"], event["user"]) == ("EXTERNAL", "joe")
    else:
        assert not events


def test_the_user_of_a_certificate_is_the_user(external: Home) -> None:
    with connect(external) as talk:
        talk.ask(b"EHLO me")
        assert talk.ask(b"AUTH EXTERNAL =")[:3] == b"235"
        assert talk.deliver(sender=b"joe@ok.example", recipient=b"x@no.example")[:3] == b"250"
    (message,) = external.messages()
    assert b" (HELO me) (joe@192.0.2.1)\n  by mx.example with ESMTPSA tls " in message.text


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("entries", "user"),
    [
        (["joe@b.example"], None),
        ([f"sha256:{JOE.fingerprint} jf"], b"jf"),
        ([f"sha256:{JOE.fingerprint}", "joe@b.example joe"], b"joe"),
        (["joe@b.example joe", f"SHA256:{JOE.fingerprint.upper()}\tjf"], b"jf"),
        (["ann@b.example joe"], None),
        (["joe@b.example joe # ours"], None),
        (["joe@b.example #ours"], None),
        (["joe@b.example joe", "joe@b.example ann"], b"joe"),
        ([f"sha256:{'0' * 64} joe"], None),
    ],
)
def test_whose_certificate_it_is(external: Home, entries: list[str], user: bytes | None) -> None:
    external.control("tlsclients", *entries)
    with connect(external) as talk:
        last = talk.ask(b"EHLO me")
        assert (last == b"250 AUTH EXTERNAL") == (user is not None)
        reply = talk.ask(b"AUTH EXTERNAL =")
        assert reply[:3] == (b"235" if user is not None else b"504")
        talk.ask(b"QUIT")
        log = talk.ended()
    assert [event["user"].encode() for event in log.events("auth")] == ([user] if user else [])


@pytest.mark.parametrize(
    ("certificate", "clear"),
    [
        (Certificate("joe", issuer=Certificate("x"), address="joe@b.example"), "0"),
        (Certificate("joe", address="joe@b.example"), "1"),
        (Certificate("ann", issuer=AUTHORITY, address="ann@b.example"), "0"),
        (None, "1"),
    ],
)
def test_nobody_else_is_offered_it(
    external: Home, certificate: Certificate | None, clear: str
) -> None:
    """Not by a certificate that is not verified, or not listed; nor in clear, whatever is set."""
    path = external.path / "other.pem"
    if certificate is not None:
        certificate.save(path)
    with external.talk(AUTHCLEAR=clear) as talk:
        talk.reply()
        assert talk.ask(b"EHLO me") == b"250 STARTTLS"
        assert talk.ask(b"AUTH EXTERNAL =")[:3] == (b"504" if clear == "1" else b"538")
        talk.starttls(client_context(path if certificate is not None else None))
        assert not talk.ask(b"EHLO me").startswith(b"250 AUTH")
        assert talk.ask(b"AUTH EXTERNAL =") == UNKNOWN
        assert talk.ask(b"MAIL FROM:<a@b>")[:3] == b"530"


def test_a_helper_says_whose_certificate_it_is(external: Home) -> None:
    external.control("tlsclients", f"sha256:{JOE.fingerprint} joe")
    report = b"SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=X\0SSL_PEER_CERT_HASH=SHA256:%b\0\0"
    helper = Helper(SERVER.save(external.path / "certificate"), report % JOE.fingerprint.encode())
    with external.talk(helper=helper, UCSPITLS="") as talk:
        talk.reply()
        talk.starttls()
        assert talk.ask(b"EHLO me") == b"250 AUTH EXTERNAL"
        assert talk.ask(b"AUTH EXTERNAL =")[:3] == b"235"


def test_the_check_of_external(external: Home) -> None:
    assert external.run(b"", "--check").status == 0
    for file, lack in (
        ("tlsclients", b"no entry of control/tlsclients names a user"),
        ("clientca.pem", b"nobody is asked for a certificate: no clientca.pem"),
        ("servercert.pem", b"there is no TLS"),
    ):
        (external.control_dir / file).unlink()
        check = external.run(b"", "--check")
        assert check.status == 1
        assert b"wrong: AUTHMECHANISMS: has EXTERNAL, and " + lack in check.out
    external.environ["QSMTPD_TLS"] = "external"  # what that asks for, nobody knows here
    external.control("tlsclients", f"sha256:{JOE.fingerprint} joe")
    assert external.run(b"", "--check").status == 0


@given(st.binary(max_size=30))
def test_what_external_takes(response: bytes) -> None:
    """Nothing but the empty identity and the user's own."""
    exchange = sasl.MECHANISMS[b"EXTERNAL"].begin(response, sasl.Context(certified=b"joe"))
    try:
        next(exchange)
    except sasl.Malformed:
        assert b"\0" in response
    except StopIteration as stop:
        accepted = stop.value.verdict == sasl.ACCEPTED
        assert accepted == (response in (b"", b"joe")) and stop.value.user == b"joe"
    else:
        raise AssertionError("it asks for more")


# -- real clients ----------------------------------------------------------


@pytest.fixture
def listener(external: Home) -> Iterator[Listener]:
    with tcpserver(external) as it:
        yield it


@pytest.mark.slow
def test_smtplib(listener: Listener, external: Home) -> None:
    client = smtplib.SMTP("127.0.0.1", listener.port, timeout=PATIENCE)
    client.starttls(context=client_context(external.path / "client.pem"))
    client.ehlo()
    with pytest.raises(smtplib.SMTPAuthenticationError):
        client.auth("EXTERNAL", lambda challenge=None: "ann")
    client.auth("EXTERNAL", lambda challenge=None: "joe")
    client.sendmail("joe@ok.example", ["x@no.example"], "Subject: x\n\n")
    client.quit()
    assert len(external.messages()) == 1


@pytest.mark.interop
@pytest.mark.parametrize(("user", "good"), [("joe", True), ("ann", False)])
def test_msmtp(listener: Listener, external: Home, user: str, good: bool) -> None:
    path = external.path / "client.pem"
    keys = (f"tls_cert_file {path}", f"tls_key_file {path}")
    done = msmtp(external.path, listener.port, "auth external", f"user {user}", *keys)
    assert (done.returncode == 0) == good, done.stderr
    assert len(external.messages()) == good


@pytest.mark.interop
def test_curl(listener: Listener, external: Home) -> None:
    path = external.path / "client.pem"
    done = subprocess.run(
        [
            needs("curl"),
            "-sS",
            "-k",
            "--ssl-reqd",
            f"smtp://joe;AUTH=EXTERNAL@127.0.0.1:{listener.port}",
        ]
        + ["--cert", str(path), "--mail-from", "joe@ok.example", "--mail-rcpt", "x@no.example"]
        + ["-T", "-"],
        input=b"Subject: x\r\n\r\nhi\r\n",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(external.messages()) == 1
