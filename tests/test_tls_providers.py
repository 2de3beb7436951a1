"""The other ways to TLS, and real servers and clients through all of them."""

from __future__ import annotations

import smtplib
import socket
import subprocess
from collections.abc import Iterator

import pytest
from child import Command
from client import PATIENCE, client_context
from harness import BIN, Home, Variables, needs, wait_for
from listeners import Listener, tcpserver
from ports import free_port
from tls_home import HASH, SERVER, SERVER_RSA

pytestmark = pytest.mark.slow


def test_implicit(inside: Home) -> None:
    with inside.talk(SMTPS="1") as talk:
        talk.handshake()  # which fails where a byte was sent before
        assert talk.reply() == b"220 mx.example ESMTP"
        assert talk.ask(b"EHLO me") == b"250 SMTPUTF8"
        assert talk.ask(b"STARTTLS") == b"503 TLS is active already (#5.5.1)"
        assert talk.deliver().startswith(b"250 ok ")
        assert talk.ask(b"QUIT") == b"221 mx.example"
        assert talk.ended().status == 0
    assert b" with ESMTPS tls TLS_" in inside.messages()[0].text


@pytest.mark.parametrize("data", [b"EHLO plain\r\n", b""])
def test_plain_text_to_implicit_tls(inside: Home, data: bytes) -> None:
    run = inside.run(data, SMTPS="1")
    assert run.status == 1
    assert b"220" not in run.out and b"EHLO" not in run.out


def test_implicit_without_a_certificate(home: Home) -> None:
    run = home.run(b"", QSMTPD_TLS="implicit")
    assert (run.out, run.status) == (b"", 111)
    assert home.run(b"", "--check", QSMTPD_TLS="implicit").status == 1


def test_external(home: Home) -> None:
    front: Variables = {"SSL_PROTOCOL": "TLSv1.2", "SSL_CIPHER": "ECDHE-RSA-AES256-GCM-SHA384"}
    session = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n"
    run = home.run(session, **front, FORCETLS="1")
    assert run.codes == [220, 250, 250, 250, 354, 250, 221]
    assert b"STARTTLS" not in run.out
    text = home.messages()[0].text
    assert b" with ESMTPS\n  (TLSv1.2 ECDHE-RSA-AES256-GCM-SHA384); " in text
    # stunnel and socat say nothing: the administrator does
    home.clear()
    run = home.run(session, QSMTPD_TLS="external", FORCETLS="1")
    assert b" with ESMTPS\n  (TLS); " in home.messages()[0].text
    assert run.event("tls")["cipher"] == "unknown"


def test_claims_of_tls_are_dropped_in_every_other_mode(inside: Home) -> None:
    seen = inside.path / "seen"
    claims: Variables = {
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": "X",
        "SSL_PEER_CERT_HASH": HASH.decode(),
    }
    inside.control("tlsclients", HASH.decode())
    queue = inside.script(f"env >{seen}; cat >/dev/null; cat <&1 >/dev/null")
    session = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nRCPT TO:<x@no.example>\r\nDATA\r\n.\r\n"
    for mode, relayed in (("starttls", False), ("off", False), ("external", True)):
        run = inside.run(session, QMAILQUEUE=queue, QSMTPD_TLS=mode, **claims)
        assert run.codes == [220, 250, 250, 250 if relayed else 553, 354, 250]
        assert ("SSL_PROTOCOL" in seen.read_text()) == relayed


@pytest.fixture(params=["starttls", "implicit"])
def listener(request: pytest.FixtureRequest, inside: Home) -> Iterator[tuple[Listener, str]]:
    (inside.control_dir / "servercert2.pem").write_bytes(SERVER_RSA.pem + SERVER_RSA.key_pem)
    inside.environ["QSMTPD_TLS"] = request.param
    with tcpserver(inside) as it:
        yield it, request.param


@pytest.mark.interop
def test_swaks(listener: tuple[Listener, str], inside: Home) -> None:
    server, mode = listener
    how = "--tls" if mode == "starttls" else "--tlsc"
    to = ["--to", "x@ok.example", "--from", "a@b.example", "--server", "127.0.0.1"]
    for version in ("tlsv1_2", "tlsv1_3"):
        done = subprocess.run(
            [needs("swaks"), how, "--tls-protocol", version, *to, "--port", str(server.port)],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    assert len(inside.messages()) == 2
    assert all(b" with ESMTPS" in message.text for message in inside.messages())


def test_smtplib(listener: tuple[Listener, str], inside: Home) -> None:
    server, mode = listener
    if mode == "implicit":
        client: smtplib.SMTP = smtplib.SMTP_SSL(
            "127.0.0.1", server.port, context=client_context(), timeout=PATIENCE
        )
    else:
        client = smtplib.SMTP("127.0.0.1", server.port, timeout=PATIENCE)
        client.starttls(context=client_context())
    client.sendmail("a@b", ["x@ok.example"], "Subject: x\r\n\r\nhi\r\n")
    client.quit()
    assert len(inside.messages()) == 1


def test_s_client(listener: tuple[Listener, str], inside: Home) -> None:
    server, mode = listener
    options = ["-starttls", "smtp"] if mode == "starttls" else []
    client = subprocess.Popen(
        [needs("openssl"), "s_client", *options, "-quiet", "-connect", f"127.0.0.1:{server.port}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert client.stdin is not None and client.stdout is not None
    client.stdin.write(
        b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n"
    )
    client.stdin.flush()
    assert b"221 mx.example\r\n" in client.stdout.read()
    client.wait(PATIENCE)
    assert len(inside.messages()) == 1


@pytest.mark.interop
@pytest.mark.parametrize("front", ["stunnel4", "socat"])
def test_behind_a_front_end(home: Home, front: str) -> None:
    """TLS in front, by programs that say nothing of the encryption."""
    certificate = SERVER.save(home.path / "server.pem")
    port = free_port()
    if front == "stunnel4":
        settings = home.path / "stunnel.conf"
        settings.write_text(
            f"foreground = yes\npid =\n[smtps]\naccept = 127.0.0.1:{port}\n"
            f"cert = {certificate}\nexec = {BIN / 'qsmtpd'}\nexecArgs = qsmtpd\n"
        )
        command: Command = [needs(front), str(settings)]
    else:
        listen = f"OPENSSL-LISTEN:{port},bind=127.0.0.1,cert={certificate},verify=0,fork"
        command = [needs(front), listen, f"EXEC:{BIN / 'qsmtpd'}"]
    environ = {k: v for k, v in home.environ.items() if not k.startswith("TCPREMOTE")}
    del environ["PROTO"]
    log = (home.path / "log").open("wb")
    process = subprocess.Popen(
        command,
        env={**environ, "QSMTPD_TLS": "external"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        wait_for(lambda: accepts(port))
        client = smtplib.SMTP_SSL(
            "127.0.0.1", port, context=client_context(), timeout=PATIENCE, local_hostname="me"
        )
        client.sendmail("a@b", ["x@ok.example"], "Subject: x\r\n\r\nhi\r\n")
        client.quit()
    finally:
        process.terminate()
        process.wait(PATIENCE)
    (message,) = home.messages()
    assert b" (HELO me) (127.0.0.1)\n" in message.text
    assert b" with ESMTPS\n  (TLS); " in message.text


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_warm_server_knows_beforehand(home: Home) -> None:
    (home.control_dir / "servercert.pem").write_bytes(SERVER.pem + SERVER_RSA.key_pem)
    command: Command = [BIN / "qsmtpd-server", "-1", "127.0.0.1", "0"]
    with Listener(command, home.environ, home.path / "log") as listener:
        assert "event=tls" in listener.log() and "verdict=unavailable" in listener.log()
        client = smtplib.SMTP("127.0.0.1", listener.port, timeout=PATIENCE)
        client.ehlo()
        assert not client.has_extn("starttls")
        client.quit()
    SERVER.save(home.control_dir / "servercert.pem")
    with Listener(command, home.environ, home.path / "log") as listener:
        assert "event=tls" not in listener.log()
        client = smtplib.SMTP("127.0.0.1", listener.port, timeout=PATIENCE)
        client.starttls(context=client_context())
        client.sendmail("a@b", ["x@ok.example"], "Subject: x\r\n\r\n")
        client.quit()
    assert len(home.messages()) == 1


@pytest.mark.parametrize(
    "value", ["TLSv1.3\r\nX-Evil: 1", "TLSv1.3\x00", "TLSv1.3" + "A" * 20_000, "TLSv1.3) (\x7fé\n"]
)
def test_forged_variables_change_nothing(home: Home, value: str) -> None:
    front: Variables = {
        "SSL_PROTOCOL": value.replace("\x00", " "),
        "SSL_CIPHER": value.replace("\x00", " "),
        "SSL_TLS_SNI_SERVERNAME": value.replace("\x00", " "),
        "SSL_PEER_CERT_HASH": "SHA256:" + value.replace("\x00", " "),
        "SSL_PEER_CERT_SUBJECT": value.replace("\x00", " "),
    }
    session = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n"
    run = home.run(session, QSMTPD_TLS="external", **front)
    assert run.codes == [220, 250, 250, 250, 354, 250, 221]
    header = home.messages()[0].text.partition(b"hi\n")[0]
    assert header.count(b"\n") == 3 and b"\nX-Evil" not in header and header.isascii()
    assert all(len(line) < 998 for line in header.split(b"\n"))
    assert "fingerprint" not in run.event("tls")
