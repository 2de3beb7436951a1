"""CVE-2011-0411: nothing from before the handshake is carried out or survives."""

from __future__ import annotations

import ssl

import pytest
from child import Child
from harness import Home
from tls_home import SERVER, SERVER_RSA, Start

pytestmark = pytest.mark.slow

MAIL = b"MAIL FROM:<evil@x>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nevil\r\n.\r\n"


PAYLOADS = {
    "mail": MAIL,
    "lf only": MAIL.replace(b"\r\n", b"\n"),
    "half a line": b"MAIL FROM:<evil@x",
    "ehlo group": b"EHLO evil\r\nNOOP\r\n",
    "tls record": b"\x16\x03\x01\x00\x05hello",
    "for later": b"AUTH PLAIN AGEAYg==\r\nMAIL FROM:<evil@x>\r\n",
    "longer than the buffer": b"NOOP " + b"x" * 200_000 + b"\r\n" + MAIL,
}


def no_trace_of_it(talk: Child, home: Home) -> None:
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
        assert talk.deliver().startswith(b"250 ok ")
        assert talk.ask(b"QUIT") == b"221 mx.example"
        run = talk.ended()
        assert run.out == b""
    assert [message.sender for message in home.messages()] in ([], [b"a@b"])
    home.clear()
    assert not [line for line in run.log.splitlines() if "evil" in line]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_injected_in_one_segment(provider: Start, home: Home, payload: bytes) -> None:
    with provider() as talk:
        talk.reply()
        talk.send_each(b"EHLO me\r\nSTARTTLS\r\n" + payload[:60_000])
        assert talk.reply() == b"250 STARTTLS"
        assert talk.line() == b"220 Ready to start TLS (#5.7.0)"
        talk.send(payload[60_000:])
        no_trace_of_it(talk, home)


def test_what_was_discarded_is_logged(provider: Start, home: Home) -> None:
    with provider() as talk:
        talk.reply()
        talk.send(b"STARTTLS\r\n" + MAIL)
        talk.line()
        talk.handshake()
        talk.ask(b"QUIT")
        assert talk.ended().event("starttls")["discarded"] == str(len(MAIL))


@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
def test_injected_split_at_every_byte(provider: Start, home: Home, ending: bytes) -> None:
    line = b"STARTTLS" + ending
    whole = line + b"EHLO evil\r\nMAIL FROM:<evil@x>\r\n"
    for cut in range(1, len(whole), 1 if ending == b"\r\n" else 5):
        with provider() as talk:
            talk.reply()
            talk.send_each(whole[:cut], whole[cut:])
            assert talk.line() == b"220 Ready to start TLS (#5.7.0)"
            no_trace_of_it(talk, home)


@pytest.mark.parametrize("payload", [b"EHLO evil\r\n", MAIL, b"x"])
def test_sent_after_the_220(provider: Start, home: Home, payload: bytes) -> None:
    """It is still in the kernel when the handshake begins, and is no ClientHello."""
    with provider() as talk:
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


def test_injection_refused(provider: Start, home: Home) -> None:
    with provider(STARTTLSINJECTION="refuse") as talk:
        talk.reply()
        talk.send(b"STARTTLS\r\nNOOP\r\n")
        assert talk.line() == b"503 nothing may follow STARTTLS (#5.5.1)"
        run = talk.ended()
        assert (run.out, run.status) == (b"", 1)
        assert run.event("session")["end"] == "starttls-injection"
    with provider(STARTTLSINJECTION="refuse") as talk:
        talk.reply()
        talk.starttls()
        assert talk.deliver().startswith(b"250 ok ")


def test_nothing_survives_but_what_the_server_said(provider: Start, home: Home) -> None:
    with provider(RELAYCLIENT="", MAXERRORS="2") as talk:
        talk.reply()
        talk.ask(b"EHLO before.example")
        talk.ask(b"MAIL FROM:<before@x>")
        talk.ask(b"RCPT TO:<x@ok.example>")
        talk.ask(b"RSET")
        assert talk.ask(b"FOO") == b"502 unimplemented (#5.5.1)"
        talk.starttls()
        assert talk.ask(b"DATA") == b"503 MAIL first (#5.5.1)"  # the second error
        assert talk.deliver(b"", recipient=b"y@no.example").startswith(b"250 ok ")
        assert talk.ask(b"FOO") == b"502 unimplemented (#5.5.1)"
        assert talk.ask(b"FOO") == b"502 unimplemented (#5.5.1)"
        assert talk.ask(b"FOO") == b"421 too many errors (#4.7.0)"
    (message,) = home.messages()
    assert b"before" not in message.text
    assert b"HELO" not in message.text
    assert b" with SMTP tls TLS_" in message.text  # no EHLO since the handshake
    assert message.recipients == [b"y@no.example"]


def test_error_counters_go_on(provider: Start) -> None:
    with provider(MAXERRORS="1") as talk:
        talk.reply()
        talk.ask(b"FOO")
        talk.starttls()
        assert talk.ask(b"FOO") == b"421 too many errors (#4.7.0)"
