"""TLS: three doors, and nothing comes through from before."""

from __future__ import annotations

import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator

import pytest
from certificates import Certificate
from conversation import Conversation, Helper, client_context, readable
from harness import BIN, PATIENCE, Home, Listener, wait_for
from test_servers import needs

from qsmtpd.tls.environ import describe

AUTHORITY = Certificate("authority.example")
SERVER = Certificate("mx.example")
SERVER_RSA = Certificate("mx.example", "rsa")
SSLSERVER = (
    b"SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=TLS_AES_256_GCM_SHA384\0SSL_VERSION_INTERFACE=ucspi-ssl\0\0"
)
S6 = (
    b"SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=TLS_AES_256_GCM_SHA384\0SSL_TLS_SNI_SERVERNAME\0"
    b"SSL_PEER_CERT_HASH\0SSL_PEER_CERT_SUBJECT\0\0"
)
MAIL = b"MAIL FROM:<evil@x>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nevil\r\n.\r\n"

Open = Callable[..., Conversation]


@pytest.fixture
def inside(home: Home) -> Home:
    """A home with a certificate."""
    SERVER.save(home.control_dir / "servercert.pem")
    return home


@pytest.fixture(params=["inside", "sslserver", "s6"])
def door(request: pytest.FixtureRequest, home: Home) -> Open:
    """Starts a conversation with a STARTTLS door of each kind."""
    path = SERVER.save(home.path / "certificate")
    if request.param == "inside":
        SERVER.save(home.control_dir / "servercert.pem")

    def start(**environ: str) -> Conversation:
        if request.param == "inside":
            return Conversation(home, **environ)
        report = SSLSERVER if request.param == "sslserver" else S6
        return Conversation(home, Helper(path, report), **{"UCSPITLS": "", **environ})

    return start


def deliver(conversation: Conversation) -> None:
    assert conversation.ask(b"MAIL FROM:<a@b>") == b"250 ok"
    assert conversation.ask(b"RCPT TO:<x@ok.example>") == b"250 ok"
    assert conversation.ask(b"DATA") == b"354 go ahead"
    assert conversation.ask(b"Subject: x\r\n\r\nhi\r\n.").startswith(b"250 ok ")


# -- the dialogue ----------------------------------------------------------


def test_starttls(door: Open, home: Home) -> None:
    with door() as talk:
        assert talk.reply() == b"220 mx.example ESMTP"
        assert talk.ask(b"EHLO me") == b"250 STARTTLS"
        assert talk.ask(b"STARTTLS x") == b"501 no parameters allowed (#5.5.4)"
        talk.starttls()
        assert talk.ask(b"EHLO me") == b"250 SIZE 0"
        assert talk.ask(b"STARTTLS") == b"503 TLS is active already (#5.5.1)"
        deliver(talk)
        assert talk.ask(b"QUIT") == b"221 mx.example"
        run = talk.ended()  # a proper end: close_notify, or this would be an error
    assert run.status == 0
    assert run.event("tls")["protocol"] == "TLSv1.3"
    assert run.event("tls")["cipher"] == "TLS_AES_256_GCM_SHA384"
    (message,) = home.messages()
    assert b" with ESMTPS tls TLS_AES_256_GCM_SHA384\n  (TLSv1.3); " in message.text


def test_close_notify_follows_quit(inside: Home) -> None:
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls()
        assert talk.ask(b"QUIT") == b"221 mx.example"
        assert talk.socket.recv(1) == b""  # ssl raises where close_notify is missing


def test_no_starttls_in_a_transaction(door: Open) -> None:
    with door() as talk:
        talk.reply()
        talk.ask(b"MAIL FROM:<a@b>")
        assert talk.ask(b"STARTTLS") == b"503 no STARTTLS during mail transaction (#5.5.1)"
        talk.ask(b"RSET")
        talk.starttls()
        assert talk.ask(b"RCPT TO:<x@ok.example>") == b"503 MAIL first (#5.5.1)"


@pytest.mark.parametrize("environ", [{"UCSPITLS": "-"}, {"QSMTPD_TLS": "off"}])
def test_starttls_turned_off(inside: Home, environ: dict[str, str]) -> None:
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
def test_tls_required(inside: Home, environ: dict[str, str]) -> None:
    wanted = b"530 Must issue a STARTTLS command first (#5.7.0)"
    with Conversation(inside, **environ) as talk:
        talk.reply()
        for command in (b"MAIL FROM:<>", b"RCPT TO:<x>", b"DATA", b"VRFY x", b"HELP", b"FOO"):
            assert talk.ask(command) == wanted
        assert talk.ask(b"NOOP") == b"250 ok"
        assert talk.ask(b"RSET") == b"250 flushed"
        assert talk.ask(b"HELO x") == b"250 mx.example"
        assert talk.ask(b"EHLO x") == b"250 STARTTLS"
        talk.starttls()
        deliver(talk)
    run = inside.run(b"MAIL FROM:<>\r\nQUIT\r\n", FORCETLS="0")
    assert run.codes == [220, 250, 221]


# -- versions, certificates, names -----------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["RSA", "ECDSA"])
def test_both_kinds_of_key(inside: Home, version: ssl.TLSVersion, kind: str) -> None:
    (inside.control_dir / "servercert2.pem").write_bytes(SERVER_RSA.pem)
    (inside.control_dir / "serverkey2.pem").write_bytes(SERVER_RSA.key_pem)
    context = client_context(version=version)
    if version == ssl.TLSVersion.TLSv1_2:
        context.set_ciphers(f"{kind}+AESGCM" if kind == "ECDSA" else "ECDHE-RSA-AES256-GCM-SHA384")
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls(context)
        deliver(talk)
        assert isinstance(talk.socket, ssl.SSLSocket)
        presented = talk.socket.getpeercert(binary_form=True)
        talk.ask(b"QUIT")
        log = talk.ended().event("tls")
    assert log["protocol"] == version.name.replace("_", ".")
    if version == ssl.TLSVersion.TLSv1_2:
        expected = SERVER if kind == "ECDSA" else SERVER_RSA
        assert presented == ssl.PEM_cert_to_DER_cert(expected.pem.decode())
        assert f"({log['protocol']} {log['cipher']}); " in inside.messages()[0].text.decode()


def test_old_versions_are_refused(inside: Home) -> None:
    context = client_context(version=ssl.TLSVersion.TLSv1_1)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with Conversation(inside) as talk:
        talk.reply()
        with pytest.raises(ssl.SSLError):
            talk.starttls(context)
        assert talk.process.wait(PATIENCE) == 1
    with Conversation(inside, TLSMINIMUM="TLSv1.1") as talk:
        talk.reply()
        talk.starttls(context)
        deliver(talk)


def test_ciphers(inside: Home) -> None:
    (inside.control_dir / "tlsserverciphers").write_text(
        "TLS_CHACHA20_POLY1305_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256\n"
    )
    for version, cipher in (
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (ssl.TLSVersion.TLSv1_3, "TLS_CHACHA20_POLY1305_SHA256"),
    ):
        with Conversation(inside) as talk:
            talk.reply()
            talk.starttls(client_context(version=version))
            assert isinstance(talk.socket, ssl.SSLSocket)
            assert talk.socket.cipher()[0] == cipher  # type: ignore[index]
    run = inside.run(b"STARTTLS\r\nQUIT\r\n", TLSCIPHERS="NO-SUCH-CIPHER")
    assert run.codes == [220, 454, 221]


@pytest.mark.parametrize(
    ("asked", "presented"),
    [
        ("one.example", "one.example"),
        ("ONE.example", "one.example"),
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

        name = type("C", (), {"get_servername": lambda self: b"../one.example"})()
        assert module._choose(name, None) is None  # type: ignore[arg-type]
        return
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls(name=asked)
        deliver(talk)
        assert isinstance(talk.socket, ssl.SSLSocket)
        der = talk.socket.getpeercert(binary_form=True)
        assert presented.encode() in (der or b"")
        if asked:
            assert f"sni={asked}" in inside.messages()[0].text.decode()


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
        with Conversation(inside, TLSALPN=setting) as talk:
            talk.reply()
            talk.starttls(context)
            assert isinstance(talk.socket, ssl.SSLSocket)
            assert talk.socket.selected_alpn_protocol() == selected
            assert talk.ask(b"NOOP") == b"250 ok"
    context = client_context()
    context.set_alpn_protocols(["http/1.1"])
    with Conversation(inside, TLSALPN="smtp") as talk:
        talk.reply()
        with pytest.raises(ssl.SSLError, match="no application protocol"):
            talk.starttls(context)
        assert "smtp" in talk.ended().event("tls")["reason"]


def test_a_browser_inside_tls(inside: Home) -> None:
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls()
        assert talk.ask(b"POST / HTTP/1.1") == b"421 this is an SMTP server (#4.5.0)"


# -- client certificates ---------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "signed", "revoked", "relay"),
    [
        ("fingerprint", True, False, True),
        ("fingerprint", False, False, True),  # pinned: who signed it does not matter
        ("address", True, False, True),
        ("address", False, False, False),  # anybody can certify an address to himself
        ("address", True, True, False),
        ("other", True, False, False),  # a good certificate by itself gives no right
        ("none", True, False, False),
    ],
)
def test_client_certificates(
    inside: Home, listed: str, signed: bool, revoked: bool, relay: bool
) -> None:
    client = Certificate("client", issuer=AUTHORITY if signed else None, address="me@b.example")
    (inside.control_dir / "clientca.pem").write_bytes(AUTHORITY.pem)
    if revoked:
        crl = AUTHORITY.revocation_list(client)
        (inside.control_dir / "clientcrl.pem").write_bytes(crl)
    entry = {
        "fingerprint": "SHA256:" + client.fingerprint.upper(),
        "address": "Me@b.example",
        "other": "you@b.example",
    }.get(listed)
    if entry:
        inside.control("tlsclients", "# who may relay", entry)
    path = client.save(inside.path / "client.pem")
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls(client_context(path))
        assert talk.ask(b"MAIL FROM:<a@b>") == b"250 ok"
        assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == (b"250" if relay else b"553")
        talk.ask(b"QUIT")
        log = talk.ended().event("tls")
    assert log["fingerprint"] == client.fingerprint
    assert log.get("listed") == ("yes" if relay else None)


def test_no_certificate_is_asked_for_without_an_authority(inside: Home) -> None:
    path = Certificate("client").save(inside.path / "client.pem")
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls(client_context(path))
        talk.ask(b"QUIT")
        assert "fingerprint" not in talk.ended().event("tls")


def test_a_good_list_is_no_danger_to_others(inside: Home) -> None:
    good, bad = (Certificate("client", issuer=AUTHORITY, address=f"{n}@x.y") for n in "gb")
    (inside.control_dir / "clientca.pem").write_bytes(AUTHORITY.pem)
    (inside.control_dir / "clientcrl.pem").write_bytes(AUTHORITY.revocation_list(bad))
    inside.control("tlsclients", "g@x.y", "b@x.y")
    path = good.save(inside.path / "client.pem")
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls(client_context(path))
        talk.ask(b"MAIL FROM:<a@b>")
        assert talk.ask(b"RCPT TO:<x@no.example>") == b"250 ok"


@pytest.mark.parametrize("entry", ["sha256:abc", "nonsense", "sha256:" + "g" * 64])
def test_a_bad_list_of_clients(inside: Home, entry: str) -> None:
    inside.control("tlsclients", entry)
    assert inside.run(b"").lines == [b"421 unable to read controls (#4.3.0)"]


def test_helper_and_a_required_certificate(home: Home) -> None:
    """UCSPITLS=@: TLS is required, and in it a certificate; relaying needs tlsclients."""
    client = Certificate("client")
    server = SERVER.save(home.path / "certificate")
    report = S6.replace(b"CERT_HASH\0", b"CERT_HASH=SHA256:%b\0" % client.fingerprint.encode())
    for text, listed in ((S6, False), (report, False), (report, True)):
        if listed:
            home.control("tlsclients", f"sha256:{client.fingerprint}")
        with Conversation(home, Helper(server, text), UCSPITLS="@") as talk:
            talk.reply()
            assert talk.ask(b"MAIL FROM:<>")[:3] == b"530"
            talk.starttls()
            if text is S6:
                wanted = b"530 client certificate required (#5.7.0)"
                assert talk.ask(b"MAIL FROM:<>") == wanted
                continue
            assert talk.ask(b"MAIL FROM:<>") == b"250 ok"
            assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == (b"250" if listed else b"553")


# -- injection: CVE-2011-0411 ----------------------------------------------

PAYLOADS = {
    "mail": MAIL,
    "lf only": MAIL.replace(b"\r\n", b"\n"),
    "half a line": b"MAIL FROM:<evil@x",
    "ehlo group": b"EHLO evil\r\nNOOP\r\n",
    "tls record": b"\x16\x03\x01\x00\x05hello",
    "for later": b"AUTH PLAIN AGEAYg==\r\nMAIL FROM:<evil@x>\r\n",
    "longer than the buffer": b"NOOP " + b"x" * 200_000 + b"\r\n" + MAIL,
}


def no_trace_of_it(talk: Conversation, home: Home) -> None:
    """The handshake succeeds and nothing was executed, or there is no session at all."""
    try:
        talk.handshake()
    except (OSError, ssl.SSLError):
        run = talk.ended()
        assert run.status == 1
    else:
        # Its own reply, which no command in a payload has, and not one further on.
        assert talk.ask(b"HELP")[:3] == b"214"
        assert talk.ask(b"RCPT TO:<x@ok.example>") == b"503 MAIL first (#5.5.1)"
        deliver(talk)
        assert talk.ask(b"QUIT") == b"221 mx.example"
        run = talk.ended()
        assert run.out == b""
    assert [message.sender for message in home.messages()] in ([], [b"a@b"])
    home.clear()
    assert not [line for line in run.log.splitlines() if "evil" in line]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_injected_in_one_segment(door: Open, home: Home, payload: bytes) -> None:
    with door() as talk:
        talk.reply()
        talk.send_pieces(b"EHLO me\r\nSTARTTLS\r\n" + payload[:60_000])
        assert talk.reply() == b"250 STARTTLS"
        assert talk.line() == b"220 Ready to start TLS (#5.7.0)"
        try:
            talk.send(payload[60_000:])
        except OSError:
            pass
        no_trace_of_it(talk, home)


def test_what_was_discarded_is_logged(door: Open, home: Home) -> None:
    with door() as talk:
        talk.reply()
        talk.send(b"STARTTLS\r\n" + MAIL)
        talk.line()
        talk.handshake()
        talk.ask(b"QUIT")
        assert talk.ended().event("starttls")["discarded"] == str(len(MAIL))


@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
def test_injected_split_at_every_byte(door: Open, home: Home, ending: bytes) -> None:
    line = b"STARTTLS" + ending
    whole = line + b"EHLO evil\r\nMAIL FROM:<evil@x>\r\n"
    for cut in range(1, len(whole), 1 if ending == b"\r\n" else 5):
        with door() as talk:
            talk.reply()
            talk.send_pieces(whole[:cut], whole[cut:])
            assert talk.line() == b"220 Ready to start TLS (#5.7.0)"
            no_trace_of_it(talk, home)


@pytest.mark.parametrize("payload", [b"EHLO evil\r\n", MAIL, b"x"])
def test_sent_after_the_220(door: Open, home: Home, payload: bytes) -> None:
    """It is still in the kernel when the handshake begins, and is no ClientHello."""
    with door() as talk:
        talk.reply()
        assert talk.ask(b"STARTTLS") == b"220 Ready to start TLS (#5.7.0)"
        talk.send(payload)
        no_trace_of_it(talk, home)


def test_pipelined_commands_go_on_where_there_is_no_tls(home: Home) -> None:
    """After 501, 503 and 454 the session is still plain, and in step."""
    (home.control_dir / "servercert.pem").write_bytes(SERVER.pem + SERVER_RSA.key_pem)
    run = home.run(
        b"STARTTLS x\r\nNOOP\r\nSTARTTLS\r\nNOOP\r\nMAIL FROM:<>\r\nSTARTTLS\r\nNOOP\r\nQUIT\r\n"
    )
    assert run.codes == [220, 501, 250, 454, 250, 250, 503, 250, 221]


def test_injection_refused(door: Open, home: Home) -> None:
    with door(STARTTLSINJECTION="refuse") as talk:
        talk.reply()
        talk.send(b"STARTTLS\r\nNOOP\r\n")
        assert talk.line() == b"503 nothing may follow STARTTLS (#5.5.1)"
        run = talk.ended()
        assert (run.out, run.status) == (b"", 1)
        assert run.event("session")["end"] == "starttls-injection"
    with door(STARTTLSINJECTION="refuse") as talk:
        talk.reply()
        talk.starttls()
        deliver(talk)


# -- what survives ---------------------------------------------------------


def test_nothing_survives_but_what_the_server_said(door: Open, home: Home) -> None:
    with door(RELAYCLIENT="", MAXERRORS="2") as talk:
        talk.reply()
        talk.ask(b"EHLO before.example")
        talk.ask(b"MAIL FROM:<before@x>")
        talk.ask(b"RCPT TO:<x@ok.example>")
        talk.ask(b"RSET")
        assert talk.ask(b"FOO") == b"502 unimplemented (#5.5.1)"
        talk.starttls()
        assert talk.ask(b"DATA") == b"503 MAIL first (#5.5.1)"  # the second error
        deliver_relayed(talk)
        assert talk.ask(b"FOO") == b"502 unimplemented (#5.5.1)"
        assert talk.ask(b"FOO") == b"502 unimplemented (#5.5.1)"
        assert talk.ask(b"FOO") == b"421 too many errors (#4.7.0)"
    (message,) = home.messages()
    assert b"before" not in message.text
    assert b"HELO" not in message.text
    assert b" with SMTP tls TLS_" in message.text  # no EHLO since the handshake
    assert message.recipients == [b"y@no.example"]


def deliver_relayed(talk: Conversation) -> None:
    assert talk.ask(b"MAIL FROM:<a@b>") == b"250 ok"
    assert talk.ask(b"RCPT TO:<y@no.example>") == b"250 ok"
    assert talk.ask(b"DATA") == b"354 go ahead"
    assert talk.ask(b".").startswith(b"250 ok ")


def test_error_counters_go_on(door: Open) -> None:
    with door(MAXERRORS="1") as talk:
        talk.reply()
        talk.ask(b"FOO")
        talk.starttls()
        assert talk.ask(b"FOO") == b"421 too many errors (#4.7.0)"


# -- trouble ---------------------------------------------------------------


def test_a_handshake_that_stalls(door: Open) -> None:
    with door(TLSTIMEOUT="1") as talk:
        talk.reply()
        talk.ask(b"STARTTLS")
        run = talk.ended()
    assert (run.out, run.status) == (b"", 1)
    assert run.event("tls")["verdict"] == "failed"
    assert run.event("session")["end"] == "tls-failed"


def test_the_client_goes_away_in_the_handshake(inside: Home) -> None:
    with Conversation(inside) as talk:
        talk.reply()
        talk.ask(b"STARTTLS")
        talk.send(b"\x16\x03\x01")
        talk.socket.shutdown(socket.SHUT_WR)
        run = talk.ended()
    assert (run.out, run.status) == (b"", 1)
    assert run.event("tls")["reason"] == "the client went away"


@pytest.mark.parametrize("end", ["cut", "close_notify"])
def test_cut_off_in_data(inside: Home, end: str) -> None:
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls()
        talk.ask(b"MAIL FROM:<a@b>")
        talk.ask(b"RCPT TO:<x@ok.example>")
        talk.ask(b"DATA")
        talk.send(b"Subject: half\r\n\r\nof a message\r\n")
        assert isinstance(talk.socket, ssl.SSLSocket)
        if end == "close_notify":
            talk.socket = talk.socket.unwrap()
        talk.socket.shutdown(socket.SHUT_WR)
        run = talk.ended()
    assert run.event("message")["verdict"] == "aborted"
    assert inside.messages() == []


def test_records_of_one_byte(inside: Home) -> None:
    with Conversation(inside) as talk:
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
        with Conversation(inside, QMAILQUEUE=queue) as talk:
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
        command = [BIN / "python3", "-IS", "-X", "importtime", "-c", code, str(BIN.parent.parent)]
        return subprocess.run(
            command, input=session, capture_output=True, env=inside.environ, check=False
        ).stderr.decode()

    plain = importtime(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n")
    assert len(inside.messages()) == 1
    for module in ("OpenSSL", "ssl", "cryptography", "site"):
        assert f"| {module}\n" not in plain.replace("|   ", "| "), module
    assert "OpenSSL" not in plain
    assert "OpenSSL" in importtime(b"STARTTLS\r\n")


# -- door 2: the helper ----------------------------------------------------


def test_the_control_descriptor_stays_open_in_a_plain_session(home: Home) -> None:
    """sslserver takes its end for the end of us."""
    helper = Helper(SERVER.save(home.path / "certificate"), SSLSERVER)
    with Conversation(home, helper, UCSPITLS="") as talk:
        talk.reply()
        deliver(talk)
        assert not readable(helper._control, 0.0)
        assert talk.ask(b"QUIT") == b"221 mx.example"
    assert helper.commands == b""


def test_no_child_has_the_descriptors_of_the_helper(home: Home) -> None:
    seen = home.path / "seen"
    queue = home.script(f"(ls /proc/$$/fd; env) >{seen}; cat >/dev/null; cat <&1 >/dev/null")
    helper = Helper(SERVER.save(home.path / "certificate"), S6)
    extra = {"UCSPITLS": "", "KEYFILE": "/key", "CERTFILE:mx": "/x", "QMAILQUEUE": queue}
    with Conversation(home, helper, **extra) as talk:
        talk.reply()
        talk.starttls()
        deliver(talk)
    text = seen.read_text()
    assert not {"SSLCTLFD", "SSLREADFD", "SSLWRITEFD", "KEYFILE", "CERTFILE"} & {
        line.partition("=")[0].partition(":")[0] for line in text.splitlines()
    }
    fds = {int(word) for word in text.splitlines() if word.isdigit()}
    assert fds <= {0, 1, 2, 6, 10, 255}  # 10 or 255: the shell's own script


@pytest.mark.parametrize(
    "values", [{}, {"SSLCTLFD": "3"}, {"SSLCTLFD": "x", "SSLREADFD": "3", "SSLWRITEFD": "3"}]
)
def test_no_door_without_its_descriptors(home: Home, values: dict[str, str]) -> None:
    run = home.run(b"EHLO x\r\nSTARTTLS\r\nQUIT\r\n", UCSPITLS="", **values)
    assert b"STARTTLS" not in run.out
    assert run.codes == [220, 250, 502, 221]
    run = home.run(b"EHLO x\r\nQUIT\r\n", QSMTPD_TLS="ucspi", **values)
    assert run.event("tls")["verdict"] == "unavailable"


PEM = SERVER.pem.rstrip(b"\n")
HASH = b"SHA256:" + SERVER.fingerprint.encode()
OTHER = b"SHA256:" + b"0" * 64


@pytest.mark.parametrize(
    ("entries", "fingerprint"),
    [
        ([(b"SSL_PEER_CERT_HASH", HASH)], HASH[7:]),
        ([(b"SSL_PEER_CERT_HASH", None)], None),
        ([(b"SSL_PEER_CERT_HASH", b"SHA256:xyz")], None),
        ([(b"SSL_PEER_CERT_HASH", b"MD5:" + b"0" * 64)], None),
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
    ],
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
    with Conversation(home, helper, UCSPITLS="") as talk:
        talk.reply()
        talk.starttls()
        deliver(talk)
        talk.ask(b"MAIL FROM:<a@b>")
        assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == b"553"
        talk.ask(b"QUIT")
        run = talk.ended()
    header = home.messages()[0].text.partition(b"Subject")[0]
    assert header.count(b"\n") == 3 and b"\nX-Evil" not in header
    assert header.isascii()
    assert run.event("tls")["verdict"] == "on"


def test_a_report_without_end(home: Home) -> None:
    helper = Helper(SERVER.save(home.path / "certificate"), b"SSL_X=" + b"A" * 200_000)
    with Conversation(home, helper, UCSPITLS="") as talk:
        talk.reply()
        with pytest.raises((OSError, EOFError)):
            talk.starttls()
            talk.reply()
        assert talk.process.wait(PATIENCE) == 1


# -- door 3 and implicit TLS -----------------------------------------------


def test_implicit(inside: Home) -> None:
    with Conversation(inside, SMTPS="1") as talk:
        assert not readable(talk.socket, 0.2)  # not a byte before the handshake
        talk.handshake()
        assert talk.reply() == b"220 mx.example ESMTP"
        assert talk.ask(b"EHLO me") == b"250 SIZE 0"
        assert talk.ask(b"STARTTLS") == b"503 TLS is active already (#5.5.1)"
        deliver(talk)
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
    front = {"SSL_PROTOCOL": "TLSv1.2", "SSL_CIPHER": "ECDHE-RSA-AES256-GCM-SHA384"}
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
    claims = {
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


# -- real programs ---------------------------------------------------------


@pytest.fixture(params=["starttls", "implicit"])
def listener(request: pytest.FixtureRequest, inside: Home) -> Iterator[tuple[Listener, str]]:
    (inside.control_dir / "servercert2.pem").write_bytes(SERVER_RSA.pem + SERVER_RSA.key_pem)
    environ = {k: v for k, v in inside.environ.items() if not k.startswith("TCP")}
    command = [needs("tcpserver"), "-1", "-HRl", "mx.example", "127.0.0.1", "0", BIN / "qsmtpd"]
    with Listener(command, {**environ, "QSMTPD_TLS": request.param}, inside.path / "log") as it:
        yield it, request.param


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


@pytest.mark.parametrize("front", ["stunnel4", "socat"])
def test_behind_a_front_end(home: Home, front: str) -> None:
    """Door 3, with programs that say nothing of the encryption."""
    certificate = SERVER.save(home.path / "server.pem")
    port = free_port()
    if front == "stunnel4":
        settings = home.path / "stunnel.conf"
        settings.write_text(
            f"foreground = yes\npid =\n[smtps]\naccept = 127.0.0.1:{port}\n"
            f"cert = {certificate}\nexec = {BIN / 'qsmtpd'}\nexecArgs = qsmtpd\n"
        )
        command = [needs(front), str(settings)]
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_warm_server_knows_beforehand(home: Home) -> None:
    (home.control_dir / "servercert.pem").write_bytes(SERVER.pem + SERVER_RSA.key_pem)
    command = [BIN / "qsmtpd-server", "-1", "127.0.0.1", "0"]
    with Listener(command, home.environ, home.path / "log") as listener:
        assert "event=tls" in listener.log() and "verdict=unavailable" in listener.log()
        client = smtplib.SMTP("127.0.0.1", listener.port, timeout=PATIENCE)
        assert client.docmd("STARTTLS")[0] == 454
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
    front = {
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


def test_no_resumption_no_compression_no_renegotiation(inside: Home) -> None:
    """One process serves one connection: nothing of a session is of use to another."""
    context = client_context(version=ssl.TLSVersion.TLSv1_2)
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls(context)
        assert isinstance(talk.socket, ssl.SSLSocket)
        assert talk.socket.compression() is None
        session = talk.socket.session
        assert session is not None and not session.has_ticket and session.id == b""
    environ = {k: v for k, v in inside.environ.items() if not k.startswith("TCP")}
    command = [BIN / "qsmtpd-server", "-1", "127.0.0.1", "0"]
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


def test_a_report_that_goes_on_behind_its_end(home: Home) -> None:
    """Two NULs in a certified name end the report early, and hide the real certificate."""
    stranger, listed = Certificate("stranger"), Certificate("listed")
    home.control("tlsclients", f"sha256:{listed.fingerprint}")
    forged = (
        b"SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=X\0SSL_VERSION_INTERFACE=ucspi-ssl\0"
        b"SSL_CLIENT_S_DN_CN=x\0SSL_CLIENT_CERT=" + listed.pem + b"\0\0"
    )
    real = b"SSL_CLIENT_CERT=" + stranger.pem + b"\0\0"
    honest = forged.replace(b"SSL_CLIENT_S_DN_CN=x\0", b"")
    for report, relay in ((forged + real, False), (honest, True)):
        helper = Helper(SERVER.save(home.path / "certificate"), report)
        with Conversation(home, helper, UCSPITLS="?") as talk:
            talk.reply()
            talk.starttls()
            talk.ask(b"MAIL FROM:<a@b>")
            assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == (b"250" if relay else b"553")
            talk.ask(b"QUIT")
            log = talk.ended().event("tls")
        assert ("fingerprint" in log) == relay
        assert ("forged" in log.get("reason", "")) != relay


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
    with Conversation(inside) as talk:
        talk.reply()
        talk.starttls(name="one.example")
        talk.ask(b"QUIT")
        assert "one.example" in talk.ended().event("tls")["reason"]


def test_a_certificate_that_cannot_be_parsed_gives_no_right() -> None:
    from qsmtpd.tls import inside as module

    class Odd:
        def to_cryptography(self) -> object:
            raise RuntimeError("7 is not a valid X509 version")

    assert module._addresses(Odd()) == ()  # type: ignore[arg-type]
