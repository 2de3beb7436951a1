"""UCSPI-TLS: the helper, its report, and forged ones."""

from __future__ import annotations

import contextlib
import hashlib
import select
import ssl

import pytest
from certificates import Certificate
from client import PATIENCE
from harness import Home, Variables
from tls_home import HASH, S6, SERVER, SSLSERVER
from ucspitls import Helper

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.facts import Tls
from qsmtpd.tls.external import describe
from qsmtpd.tls.settings import TlsSettings


def test_helper_and_a_required_certificate(home: Home) -> None:
    """UCSPITLS=@: TLS is required, and in it a certificate; relaying needs tlsclients."""
    client = Certificate("client")
    server = SERVER.save(home.path / "certificate")
    report = S6.replace(b"CERT_HASH\0", b"CERT_HASH=SHA256:%b\0" % client.fingerprint.encode())
    nothing = [S6.replace(b"CERT_HASH\0", b"CERT_HASH=%b\0" % none) for none in NOTHING]
    lacking = (S6, *nothing)
    for text, listed in (*((text, False) for text in lacking), (report, False), (report, True)):
        if listed:
            home.control("tlsclients", f"sha256:{client.fingerprint}")
        with home.talk(helper=Helper(server, text), UCSPITLS="@") as talk:
            talk.reply()
            assert talk.ask(b"MAIL FROM:<>")[:3] == b"530"
            talk.starttls()
            if text in lacking:
                wanted = b"530 client certificate required (#5.7.0)"
                assert talk.ask(b"MAIL FROM:<>") == wanted
                continue
            assert talk.ask(b"MAIL FROM:<>") == b"250 ok"
            assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == (b"250" if listed else b"553")


def test_the_control_descriptor_stays_open_in_a_plain_session(home: Home) -> None:
    """sslserver takes its end for the end of us."""
    helper = Helper(SERVER.save(home.path / "certificate"), SSLSERVER)
    with home.talk(helper=helper, UCSPITLS="") as talk:
        talk.reply()
        assert talk.deliver().startswith(b"250 ok ")
        assert not select.select([helper.control], [], [], 0)[0]
        assert talk.ask(b"QUIT") == b"221 mx.example"
    assert helper.commands == b""


def test_no_child_has_the_descriptors_of_the_helper(home: Home) -> None:
    seen = home.path / "seen"
    queue = home.script(f"(ls /proc/$$/fd; env) >{seen}; cat >/dev/null; cat <&1 >/dev/null")
    helper = Helper(SERVER.save(home.path / "certificate"), S6)
    extra: Variables = {"UCSPITLS": "", "KEYFILE": "/key", "CERTFILE:mx": "/x", "QMAILQUEUE": queue}
    with home.talk(helper=helper, **extra) as talk:
        talk.reply()
        talk.starttls()
        assert talk.deliver().startswith(b"250 ok ")
    text = seen.read_text()
    assert not {"SSLCTLFD", "SSLREADFD", "SSLWRITEFD", "KEYFILE", "CERTFILE"} & {
        line.partition("=")[0].partition(":")[0] for line in text.splitlines()
    }
    fds = {int(word) for word in text.splitlines() if word.isdigit()}
    assert fds <= {0, 1, 2, 6, 10, 255}  # 10 or 255: the shell's own script


@pytest.mark.parametrize(
    "values", [{}, {"SSLCTLFD": "3"}, {"SSLCTLFD": "x", "SSLREADFD": "3", "SSLWRITEFD": "3"}]
)
def test_no_door_without_its_descriptors(home: Home, values: Variables) -> None:
    run = home.run(b"EHLO x\r\nSTARTTLS\r\nQUIT\r\n", UCSPITLS="", **values)
    assert b"STARTTLS" not in run.out
    assert run.codes == [220, 250, 502, 221]
    run = home.run(b"EHLO x\r\nQUIT\r\n", QSMTPD_TLS="ucspi", **values)
    assert run.event("tls")["verdict"] == "unavailable"


PEM = SERVER.pem.rstrip(b"\n")


OTHER = b"SHA256:" + b"5f" * 32
#: What others say of no certificate: s6-tlsd-io with BearSSL, and a hash of nothing.
NOTHING = (b"SHA256:" + b"0" * 64, b"SHA256:" + hashlib.sha256(b"").hexdigest().encode())
UCSPI_SSL = (b"SSL_VERSION_INTERFACE", b"ucspi-ssl")


def pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


@pytest.mark.parametrize(
    ("entries", "fingerprint"),
    [
        ([(b"SSL_PEER_CERT_HASH", HASH)], HASH[7:]),
        ([(b"SSL_PEER_CERT_HASH", None)], None),
        ([(b"SSL_PEER_CERT_HASH", b"SHA256:xyz")], None),
        ([(b"SSL_PEER_CERT_HASH", b"MD5:" + b"5f" * 32)], None),
        *(([(b"SSL_PEER_CERT_HASH", none)], None) for none in NOTHING),
        ([(b"SSL_PEER_CERT_HASH", b"SHA256:")], None),
        ([(b"SSL_PEER_CERT_HASH", b"")], None),
        ([(b"SSL_PEER_CERT_HASH", HASH + b"\n")], None),
        ([(b"SSL_PEER_CERT_HASH", HASH[:-1])], None),
        # A name that is said twice: one of them is forged.
        ([(b"SSL_PEER_CERT_HASH", HASH), (b"SSL_PEER_CERT_HASH", OTHER)], None),
        ([(b"SSL_PEER_CERT_HASH", None), (b"SSL_PEER_CERT_HASH", HASH)], None),
        # sslserver's dialect
        ([(b"SSL_VERSION_INTERFACE", b"ucspi-ssl"), (b"SSL_CLIENT_CERT", PEM)], HASH[7:]),
        ([(b"SSL_CLIENT_CERT", PEM)], None),
        ([(b"SSL_VERSION_INTERFACE", b"ucspi-ssl"), (b"SSL_PEER_CERT_HASH", HASH)], None),
        ([(b"SSL_VERSION_INTERFACE", b"other"), (b"SSL_CLIENT_CERT", PEM)], None),
        (
            [
                (b"SSL_VERSION_INTERFACE", b"ucspi-ssl"),
                (b"SSL_CLIENT_CERT", PEM),
                (b"SSL_CLIENT_CERT", PEM),
            ],
            None,
        ),
        # s6's report with the other dialect forged into it
        (
            [
                (b"SSL_PEER_CERT_HASH", OTHER),
                (b"SSL_VERSION_INTERFACE", b"ucspi-ssl"),
                (b"SSL_CLIENT_CERT", PEM),
            ],
            None,
        ),
        ([(b"SSL_VERSION_INTERFACE", b"ucspi-ssl"), (b"SSL_CLIENT_CERT", PEM[:-40])], None),
        ([(b"SSL_VERSION_INTERFACE", b"ucspi-ssl"), (b"SSL_CLIENT_CERT", b"x" + PEM)], None),
        ([(b"SSL_VERSION_INTERFACE", b"ucspi-ssl"), (b"SSL_CLIENT_CERT", PEM * 9)], None),
        # PEM around what is no certificate
        ([UCSPI_SSL, (b"SSL_CLIENT_CERT", pem(b""))], None),
        ([UCSPI_SSL, (b"SSL_CLIENT_CERT", pem(bytes(500)))], None),
        ([UCSPI_SSL, (b"SSL_CLIENT_CERT", pem(ssl.PEM_cert_to_DER_cert(PEM.decode())[:-1]))], None),
    ],
    ids=lambda value: type(value).__name__,  # the certificate differs in each process
)
def test_identity(entries: list[tuple[bytes, bytes | None]], fingerprint: bytes | None) -> None:
    assert describe(entries).fingerprint == fingerprint


@pytest.mark.parametrize(
    "report",
    [
        b"RELAYCLIENT=\0PATH=/evil\0LD_PRELOAD=/evil\0" + S6,
        S6[:-1] + b"SSL_X=" + b"A" * 20_000 + b"\0\0",
        b"SSL_PROTOCOL=TLSv1.3\r\nX-Evil: 1\0SSL_CIPHER=a) (b\nx\xff\0\0",
        b"=\0SSL_\0SSL_a=1\0" + b"SSL_" + b"B" * 100 + b"=1\0\0",
        b"\0\0",
    ],
)
def test_forged_reports_change_nothing(home: Home, report: bytes) -> None:
    helper = Helper(SERVER.save(home.path / "certificate"), report)
    with home.talk(helper=helper, UCSPITLS="") as talk:
        talk.reply()
        talk.starttls()
        assert talk.deliver().startswith(b"250 ok ")
        talk.ask(b"MAIL FROM:<a@b>")
        assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == b"553"
        talk.ask(b"QUIT")
        run = talk.ended()
    header = home.messages()[0].text.partition(b"Subject")[0]
    assert header.count(b"\n") == 3 and b"\nX-Evil" not in header
    assert header.isascii()
    assert run.event("tls")["verdict"] == "on"


@pytest.mark.slow
def test_a_report_without_end(home: Home) -> None:
    helper = Helper(SERVER.save(home.path / "certificate"), b"SSL_X=" + b"A" * 200_000)
    with home.talk(helper=helper, UCSPITLS="") as talk:
        talk.reply()
        with contextlib.suppress(OSError):
            talk.starttls()
            assert talk.reply() == b""
        assert talk.process.wait(PATIENCE) == 1


def test_a_report_that_goes_on_behind_its_end(home: Home) -> None:
    """Two NULs in a certified name end the report early, and hide the real certificate."""
    unlisted, listed = Certificate("unlisted"), Certificate("listed")
    home.control("tlsclients", f"sha256:{listed.fingerprint}")
    forged = (
        b"SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=X\0SSL_VERSION_INTERFACE=ucspi-ssl\0"
        b"SSL_CLIENT_S_DN_CN=x\0SSL_CLIENT_CERT=" + listed.pem + b"\0\0"
    )
    real = b"SSL_CLIENT_CERT=" + unlisted.pem + b"\0\0"
    honest = forged.replace(b"SSL_CLIENT_S_DN_CN=x\0", b"")
    for report, relay in ((forged + real, False), (honest, True)):
        helper = Helper(SERVER.save(home.path / "certificate"), report)
        with home.talk(helper=helper, UCSPITLS="?") as talk:
            talk.reply()
            talk.starttls()
            talk.ask(b"MAIL FROM:<a@b>")
            assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == (b"250" if relay else b"553")
            talk.ask(b"QUIT")
            log = talk.ended().event("tls")
        assert ("fingerprint" in log) == relay
        assert ("forged" in log.get("reason", "")) != relay


@pytest.mark.parametrize("entry", ["sha256:", *(none.decode() for none in NOTHING)])
def test_nobody_can_be_listed_by_the_hash_of_nothing(home: Home, entry: str) -> None:
    home.control("tlsclients", entry)
    run = home.run(b"", "--check", QSMTPD_TLS="external")
    assert b"control/tlsclients: " in run.out and b"is no SHA-256 fingerprint" in run.out


def test_an_address_that_looks_like_a_fingerprint(home: Home) -> None:
    """A fingerprint is listed, and an authority has certified a name that is spelled so."""
    home.control("tlsclients", HASH.decode(), "me@b.example")
    settings = TlsSettings(Settings(ControlFiles(bytes(home.path)), {}))
    for address, listed in ((HASH[7:], False), (HASH, False), (b"Me@b.example", True)):
        assert settings.judge(Tls(addresses=(address,))).listed == listed
