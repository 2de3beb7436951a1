"""TLS in the process: the dialogue, certificates, versions, and what goes wrong."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess

import pytest
from certificates import Certificate
from child import Command
from client import PATIENCE, client_context
from harness import BIN, Home, Variables, needs
from listeners import Listener
from OpenSSL import SSL
from tls_home import SERVER, SERVER_RSA, Start

from qsmtpd.net.descriptors import Descriptors
from qsmtpd.tls.openssl import TlsTransport

pytestmark = pytest.mark.slow


def test_starttls(provider: Start, home: Home) -> None:
    with provider() as talk:
        assert talk.reply() == b"220 mx.example ESMTP"
        assert talk.ask(b"EHLO me") == b"250 STARTTLS"
        assert talk.ask(b"STARTTLS x") == b"501 no parameters allowed (#5.5.4)"
        talk.starttls()
        assert talk.ask(b"EHLO me") == b"250 SMTPUTF8"
        assert talk.ask(b"STARTTLS") == b"503 TLS is active already (#5.5.1)"
        assert talk.deliver().startswith(b"250 ok ")
        assert talk.ask(b"QUIT") == b"221 mx.example"
        run = talk.ended()  # a proper end: close_notify, or this would be an error
    assert run.status == 0
    assert run.event("tls")["protocol"] == "TLSv1.3"
    assert run.event("tls")["cipher"] == "TLS_AES_256_GCM_SHA384"
    (message,) = home.messages()
    trace = rb" with ESMTPS tls TLS_AES_256_GCM_SHA384\n  \(TLSv1\.3( group=[A-Za-z0-9]+)?\); "
    assert re.search(trace, message.text)


def test_close_notify_follows_quit(inside: Home) -> None:
    with inside.talk() as talk:
        talk.reply()
        talk.starttls()
        assert talk.ask(b"QUIT") == b"221 mx.example"
        assert talk.socket.recv(1) == b""  # ssl raises where close_notify is missing


def test_no_starttls_in_a_transaction(provider: Start) -> None:
    with provider() as talk:
        talk.reply()
        talk.ask(b"MAIL FROM:<a@b>")
        assert talk.ask(b"STARTTLS") == b"503 no STARTTLS during mail transaction (#5.5.1)"
        talk.ask(b"RSET")
        talk.starttls()
        assert talk.ask(b"RCPT TO:<x@ok.example>") == b"503 MAIL first (#5.5.1)"


@pytest.mark.parametrize("environ", [{"UCSPITLS": "-"}, {"QSMTPD_TLS": "off"}])
def test_starttls_turned_off(inside: Home, environ: Variables) -> None:
    run = inside.run(b"EHLO me\r\nSTARTTLS\r\nQUIT\r\n", **environ)
    assert b"250-STARTTLS" not in run.out and b"250 STARTTLS" not in run.out
    assert run.lines[-2:] == [b"502 unimplemented (#5.5.1)", b"221 mx.example"]


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", SERVER.pem, SERVER.key_pem, SERVER.pem + SERVER_RSA.key_pem]
)
def test_a_bad_certificate_never_stops_plain_mail(home: Home, content: bytes) -> None:
    (home.control_dir / "servercert.pem").write_bytes(content)
    run = home.run(
        b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n"
    )
    assert run.codes[-5:] == [250, 250, 354, 250, 221]
    assert len(home.messages()) == 1
    assert run.event("tls")["verdict"] == "unavailable"
    looks_right = b"CERTIFICATE" in content and b"PRIVATE" in content
    answer = b"454 TLS not available due to temporary reason (#5.7.3)"
    assert (answer in run.lines) == looks_right
    # and the administrator can know before
    check = home.run(b"", "--check")
    assert b"warning: tls: " in check.out


def test_an_unreadable_certificate(home: Home) -> None:
    (home.control_dir / "servercert.pem").symlink_to("servercert.pem")
    run = home.run(b"EHLO x\r\nQUIT\r\n")
    assert b"STARTTLS" not in run.out
    assert run.event("tls")["verdict"] == "unavailable"


@pytest.mark.parametrize("environ", [{"FORCETLS": ""}, {"FORCETLS": "1"}, {"UCSPITLS": "!"}])
def test_tls_required(inside: Home, environ: Variables) -> None:
    wanted = b"530 Must issue a STARTTLS command first (#5.7.0)"
    with inside.talk(**environ) as talk:
        talk.reply()
        for command in (b"MAIL FROM:<>", b"RCPT TO:<x>", b"DATA", b"VRFY x", b"HELP", b"FOO"):
            assert talk.ask(command) == wanted
        assert talk.ask(b"NOOP") == b"250 ok"
        assert talk.ask(b"RSET") == b"250 flushed"
        assert talk.ask(b"HELO x") == b"250 mx.example"
        assert talk.ask(b"EHLO x") == b"250 STARTTLS"
        talk.starttls()
        assert talk.deliver().startswith(b"250 ok ")
    run = inside.run(b"MAIL FROM:<>\r\nQUIT\r\n", FORCETLS="0")
    assert run.codes == [220, 250, 221]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["RSA", "ECDSA"])
def test_both_kinds_of_key(inside: Home, version: ssl.TLSVersion, kind: str) -> None:
    (inside.control_dir / "servercert2.pem").write_bytes(SERVER_RSA.pem)
    (inside.control_dir / "serverkey2.pem").write_bytes(SERVER_RSA.key_pem)
    context = client_context(version=version)
    if version == ssl.TLSVersion.TLSv1_2:
        context.set_ciphers(f"{kind}+AESGCM" if kind == "ECDSA" else "ECDHE-RSA-AES256-GCM-SHA384")
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(context)
        assert talk.deliver().startswith(b"250 ok ")
        presented = talk.tls.getpeercert(binary_form=True)
        talk.ask(b"QUIT")
        log = talk.ended().event("tls")
    assert log["protocol"] == version.name.replace("_", ".")
    if version == ssl.TLSVersion.TLSv1_2:
        expected = SERVER if kind == "ECDSA" else SERVER_RSA
        assert presented == ssl.PEM_cert_to_DER_cert(expected.pem.decode())
        assert f"({log['protocol']} {log['cipher']}" in inside.messages()[0].text.decode()


def test_old_versions_are_refused(inside: Home) -> None:
    context = client_context(version=ssl.TLSVersion.TLSv1_1)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with inside.talk() as talk:
        talk.reply()
        with pytest.raises(ssl.SSLError):
            talk.starttls(context)
        assert talk.process.wait(PATIENCE) == 1
    with inside.talk(TLSMINIMUM="TLSv1.1") as talk:
        talk.reply()
        talk.starttls(context)
        assert talk.deliver().startswith(b"250 ok ")


def test_ciphers(inside: Home) -> None:
    (inside.control_dir / "tlsserverciphers").write_text(
        "TLS_CHACHA20_POLY1305_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256\n"
    )
    for version, cipher in (
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (ssl.TLSVersion.TLSv1_3, "TLS_CHACHA20_POLY1305_SHA256"),
    ):
        with inside.talk() as talk:
            talk.reply()
            talk.starttls(client_context(version=version))
            if cipher.startswith("ECDHE") or hasattr(SSL.Context, "set_tls13_ciphersuites"):
                assert talk.tls.cipher()[0] == cipher  # type: ignore[index]
    run = inside.run(b"STARTTLS\r\nQUIT\r\n", TLSCIPHERS="NO-SUCH-CIPHER")
    assert run.codes == [220, 454, 221]


@pytest.mark.parametrize(
    ("asked", "presented"),
    [
        ("one.example", "one.example"),
        ("ONE.example", "one.example"),
        ("one.example.", "one.example"),
        ("two.example", "mx.example"),
        ("..", "mx.example"),
        (None, "mx.example"),
    ],
)
def test_certificates_by_name(inside: Home, asked: str | None, presented: str) -> None:
    folder = inside.control_dir / "servercerts" / "one.example"
    folder.mkdir(parents=True)
    Certificate("one.example").save(folder / "servercert.pem")
    if asked == "..":  # Python's ssl sends no such name
        from qsmtpd.tls import context as module

        for name in (b"../one.example", b"one.example..", b".one.example", b".", b"", b"a" * 254):
            assert module.folder(name) is None
        return
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(name=asked)
        assert talk.deliver().startswith(b"250 ok ")
        der = talk.tls.getpeercert(binary_form=True)
        assert presented.encode() in (der or b"")
        if asked:
            assert f"sni={asked}" in inside.messages()[0].text.decode()


GROUPS = pytest.mark.skipif(
    not hasattr(SSL.Connection, "get_group_name") or SSL.OPENSSL_VERSION_NUMBER < 0x30200000,
    reason="pyOpenSSL and its OpenSSL do not tell the group",
)


@GROUPS
@pytest.mark.parametrize(
    ("curve", "version", "group"),
    [
        ("prime256v1", ssl.TLSVersion.TLSv1_3, "secp256r1"),
        ("prime256v1", ssl.TLSVersion.TLSv1_2, "secp256r1"),
        ("X25519", ssl.TLSVersion.TLSv1_3, "x25519"),
    ],
)
def test_the_group_of_the_key_exchange(
    inside: Home, curve: str, version: ssl.TLSVersion, group: str
) -> None:
    context = client_context(version=version)
    context.set_ecdh_curve(curve)
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(context)
        assert talk.deliver().startswith(b"250 ok ")
        run = talk.end()
    assert run.event("tls")["group"] == group
    assert f" group={group})".encode() in inside.messages()[0].text


@GROUPS
def test_the_hybrid_group_comes_by_itself(inside: Home) -> None:
    """pyOpenSSL as the client, too: Python's ssl has an older OpenSSL."""
    client = SSL.Context(SSL.TLS_CLIENT_METHOD)
    with inside.talk() as talk:
        talk.reply()
        assert talk.ask(b"STARTTLS") == b"220 Ready to start TLS (#5.7.0)"
        assert isinstance(talk.socket, socket.socket)
        talk.socket.setblocking(True)
        tls = SSL.Connection(client, talk.socket)
        tls.set_connect_state()
        tls.do_handshake()
        group = tls.get_group_name()
        tls.sendall(b"QUIT\r\n")
        assert tls.recv(99) == b"221 mx.example\r\n"
        run = talk.hang_up()
    assert run.event("tls")["group"] == group
    if SSL.OPENSSL_VERSION_NUMBER >= 0x30500000:
        assert group == "X25519MLKEM768"


def test_no_group_in_a_key_exchange_without_one(inside: Home) -> None:
    SERVER_RSA.save(inside.control_dir / "servercert.pem")
    context = client_context(version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES256-GCM-SHA384")
    with inside.talk(TLSCIPHERS="AES256-GCM-SHA384") as talk:
        talk.reply()
        talk.starttls(context)
        run = talk.end()
    assert "group" not in run.event("tls")


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError])
def test_a_library_that_does_not_tell_the_group(error: type[Exception]) -> None:
    """pyOpenSSL before 26.0; any pyOpenSSL with an OpenSSL before 3.2."""

    class Old:
        def get_group_name(self) -> str:
            raise error

    transport = TlsTransport(SSL.Context(SSL.TLS_SERVER_METHOD), Descriptors(0, 1))
    transport._tls = Old()  # type: ignore[assignment]
    assert transport._group() is None


def test_alpn(inside: Home) -> None:
    offers: list[tuple[list[str], str, str | None]] = [
        (["smtp"], "any", "smtp"),
        (["http/1.1", "smtp"], "smtp", "smtp"),
        (["http/1.1"], "any", None),
        ([], "smtp", None),
    ]
    for protocols, setting, selected in offers:
        context = client_context()
        if protocols:
            context.set_alpn_protocols(protocols)
        with inside.talk(TLSALPN=setting) as talk:
            talk.reply()
            talk.starttls(context)
            assert talk.tls.selected_alpn_protocol() == selected
            assert talk.ask(b"NOOP") == b"250 ok"
    context = client_context()
    context.set_alpn_protocols(["http/1.1"])
    with inside.talk(TLSALPN="smtp") as talk:
        talk.reply()
        with pytest.raises(ssl.SSLError, match="no application protocol"):
            talk.starttls(context)
        assert "smtp" in talk.ended().event("tls")["reason"]


def test_a_browser_inside_tls(inside: Home) -> None:
    with inside.talk() as talk:
        talk.reply()
        talk.starttls()
        assert talk.ask(b"POST / HTTP/1.1") == b"421 this is an SMTP server (#4.5.0)"


def test_a_handshake_that_stalls(provider: Start) -> None:
    with provider(TLSTIMEOUT="1") as talk:
        talk.reply()
        talk.ask(b"STARTTLS")
        run = talk.ended()
    assert (run.out, run.status) == (b"", 1)
    assert run.event("tls")["verdict"] == "failed"
    assert run.event("session")["end"] == "tls-failed"


def test_the_client_goes_away_in_the_handshake(inside: Home) -> None:
    with inside.talk() as talk:
        talk.reply()
        talk.ask(b"STARTTLS")
        talk.send(b"\x16\x03\x01")
        talk.socket.shutdown(socket.SHUT_WR)
        run = talk.ended()
    assert (run.out, run.status) == (b"", 1)
    assert run.event("tls")["reason"] == "the client went away"


@pytest.mark.parametrize("end", ["cut", "close_notify"])
def test_cut_off_in_data(inside: Home, end: str) -> None:
    with inside.talk() as talk:
        talk.reply()
        talk.starttls()
        talk.ask(b"MAIL FROM:<a@b>")
        talk.ask(b"RCPT TO:<x@ok.example>")
        talk.ask(b"DATA")
        talk.send(b"Subject: half\r\n\r\nof a message\r\n")
        if end == "close_notify":
            talk.socket = talk.tls.unwrap()
        talk.socket.shutdown(socket.SHUT_WR)
        run = talk.ended()
    assert run.event("message")["verdict"] == "aborted"
    assert inside.messages() == []


def test_records_of_one_byte(inside: Home) -> None:
    with inside.talk() as talk:
        talk.reply()
        talk.starttls()
        for byte in b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nhi\r\n.\r\n":
            talk.send(bytes((byte,)))
        assert [talk.reply()[:3] for _ in range(5)] == [b"250", b"250", b"250", b"354", b"250"]
        talk.ask(b"QUIT")
    assert inside.messages()[0].text.endswith(b"\nhi\n")


def test_a_large_message_in_flat_memory(inside: Home) -> None:
    line = bytes(range(32, 127)).replace(b".", b"") * 10 + b"\r\n"
    count = 100_000_000 // len(line)
    script = "cat >/dev/null; cat <&1 >/dev/null; grep VmHWM /proc/$PPID/status >$SPOOL/peak"
    peaks = []
    for lines in (1, count):
        digest = inside.path / f"digest.{lines}"
        queue = inside.script(script.replace("cat >/dev/null", f"tail -n +5 | md5sum >{digest}"))
        with inside.talk(QMAILQUEUE=queue) as talk:
            talk.reply()
            talk.starttls()
            talk.ask(b"EHLO me")
            talk.ask(b"MAIL FROM:<a@b>")
            talk.ask(b"RCPT TO:<x@ok.example>")
            talk.ask(b"DATA")
            import hashlib

            expected = hashlib.md5()
            # the three lines of Received are cut off by tail, and one more
            talk.send(b"first\r\n")
            block, left = line * 1000, lines
            while left > 0:
                part = block[: min(left, 1000) * len(line)]
                talk.send(part)
                expected.update(part.replace(b"\r\n", b"\n"))
                left -= 1000
            assert talk.ask(b".").startswith(b"250 ok ")
        assert digest.read_text().split()[0] == expected.hexdigest()
        peaks.append(int((inside.spool / "peak").read_text().split()[1]))
    assert peaks[1] - peaks[0] <= 2048, peaks  # KB


def test_pyopenssl_is_imported_when_a_client_says_starttls(inside: Home) -> None:
    def importtime(session: bytes) -> str:
        code = "import sys; sys.path.insert(0, sys.argv[1]); from qsmtpd.main import main; main([])"
        command: Command = [
            BIN / "python3",
            "-IS",
            "-X",
            "importtime",
            "-c",
            code,
            str(BIN.parent.parent),
        ]
        return subprocess.run(
            command, input=session, capture_output=True, env=inside.environ, check=False
        ).stderr.decode()

    plain = importtime(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n")
    assert len(inside.messages()) == 1
    for module in ("OpenSSL", "ssl", "cryptography", "site"):
        assert f"| {module}\n" not in plain.replace("|   ", "| "), module
    assert "OpenSSL" not in plain
    assert "OpenSSL" in importtime(b"STARTTLS\r\n")


def test_no_resumption_no_compression_no_renegotiation(inside: Home) -> None:
    """One process serves one connection: nothing of a session is of use to another."""
    context = client_context(version=ssl.TLSVersion.TLSv1_2)
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(context)
        assert talk.tls.compression() is None
        session = talk.tls.session
        assert session is not None and not session.has_ticket and session.id == b""
    environ = {k: v for k, v in inside.environ.items() if not k.startswith("TCP")}
    command: Command = [BIN / "qsmtpd-server", "-1", "127.0.0.1", "0"]
    with Listener(command, environ, inside.path / "log") as listener:
        address = f"127.0.0.1:{listener.port}"
        options = ["-starttls", "smtp", "-tls1_2", "-connect", address]
        client = subprocess.Popen(
            [needs("openssl"), "s_client", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert client.stdin is not None and client.stdout is not None
        # The reply to the EHLO before STARTTLS is what it shows last of its own.
        while not (line := client.stdout.readline()).startswith(b"250 STARTTLS"):
            assert line
        client.stdin.write(b"R\n")  # s_client's own command: renegotiate
        client.stdin.flush()
        rest = client.stdout.read()
        assert b"RENEGOTIATING" in rest and b"no renegotiation" in rest
        client.wait(PATIENCE)


def test_an_encrypted_key_is_no_key(home: Home) -> None:
    """Nobody is there to be asked for its pass phrase."""
    key = SERVER.key_pem.replace(
        b"KEY-----\n", b"KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1
    )
    (home.control_dir / "servercert.pem").write_bytes(SERVER.pem + key)
    run = home.run(b"EHLO x\r\nSTARTTLS\r\nQUIT\r\n")
    assert run.codes == [220, 250, 502, 221]
    assert "encrypted" in run.event("tls")["reason"]


def test_a_broken_certificate_of_a_name_is_in_the_log(inside: Home) -> None:
    folder = inside.control_dir / "servercerts" / "one.example"
    folder.mkdir(parents=True)
    (folder / "servercert.pem").write_bytes(b"nonsense")
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(name="one.example")
        talk.ask(b"QUIT")
        assert "one.example" in talk.ended().event("tls")["reason"]
