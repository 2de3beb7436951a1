"""ENHANCEDSTATUSCODES (RFC 2034): a code in front of every reply that must have one.

Every transcript is had again with the switch on; what the server says is compared,
line by line, with what it says without.
"""

from __future__ import annotations

import re

import pytest
from harness import Home
from transcripts import Transcript, load

from qsmtpd.facts import Reply
from qsmtpd.smtp import replies

CONSTANTS = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}
#: What a HELO or an EHLO is answered, or the beginning of that.
HELLO = (
    rb"mx\.example|welcome to mx|PIPELINING|8BITMIME|CHUNKING|SMTPUTF8|LIMITS |SIZE |STARTTLS|AUTH "
)
#: Transcripts in which a HELO is refused, or a plugin has a line of its own for EHLO.
OTHERS = {
    "plugins-decisions: a refused HELO counts until another is taken",
    "chunking: EHLO that is refused gives up what has come, and both are logged",
}


def parts(line: bytes) -> tuple[bytes, bytes]:
    """(code and separator, the text without the status that stands behind it)"""
    return line[:4], re.sub(rb" \(#[245]\.\d+\.\d+\)\Z", b"", line[4:])


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_reply_has_a_code_of_its_class(name: str) -> None:
    reply = CONSTANTS[name]
    before, wire = reply.wire(), reply.enhanced().wire()
    assert reply.wire() == before
    code, text = parts(before)
    if reply.code < 400 and reply.code >= 300:
        assert wire == before
    else:
        assert re.fullmatch(re.escape(code) + code[:1] + rb"\.\d\.\d{1,2} " + re.escape(text), wire)
    assert reply.enhanced() == reply
    assert reply.enhanced().error == reply.error
    assert reply.enhanced().end == reply.end


@pytest.mark.parametrize(
    ("reply", "wire"),
    [
        (replies.SENDER_OK, b"250 2.1.0 ok"),
        (replies.RECIPIENT_OK, b"250 2.1.5 ok"),
        (replies.AUTH_OK, b"235 2.7.0 ok, go ahead"),
        (replies.TLS_READY, b"220 2.0.0 Ready to start TLS"),
        (replies.AUTH_FAILED, b"535 5.7.8 authentication failed"),
        (Reply(451, b"5.7.1", b"a\nb"), b"451-4.7.1 a\r\n451 4.7.1 b"),
        (Reply(550, b"", b"no"), b"550 5.0.0 no"),
        # Texts of programs, which have their own, or what is none.
        (Reply(550, b"5.7.1", b"5.1.1 no such user"), b"550 5.7.1 no such user"),
        (Reply(550, b"", b"5.1.1 no such user"), b"550 5.1.1 no such user"),
        (Reply(550, b"5.07.1", b"no"), b"550 5.0.0 no"),
        (Reply(550, b"", b"1.2.3.4 is listed"), b"550 5.0.0 1.2.3.4 is listed"),
    ],
)
def test_some_of_them(reply: Reply, wire: bytes) -> None:
    assert reply.enhanced().wire() == wire
    assert reply.enhanced().of(None).wire() == wire


@pytest.mark.sample(20, 3)
@pytest.mark.parametrize("transcript", list(load()), ids=lambda transcript: transcript.name)
def test_every_transcript(home: Home, transcript: Transcript) -> None:
    over = transcript.modes[0][0]
    ready = b"220 2.0.0 Ready to start TLS"
    run = transcript.play(home, over, False, ready, ENHANCEDSTATUSCODES="on")
    lines = [line for line in run.lines if line != b"250-ENHANCEDSTATUSCODES"]
    assert len(lines) == len(transcript.said)
    greeting = True
    for line, usual in zip(lines, transcript.said, strict=True):
        code, text = parts(usual)
        bare = greeting or code[:1] == b"3" or re.match(HELLO, text)
        if line == usual and (bare or transcript.name in OTHERS):
            greeting = greeting and code[3:] == b"-"
            continue
        assert not greeting
        found = re.fullmatch(rb"(([245])\d\d[ -])\2\.\d{1,3}\.\d{1,3} (.*)", line)
        assert found, line
        text = text.replace(b"TIME qp PID", b"")
        assert (found[1], re.sub(rb"\d+ qp \d+\Z", b"", found[3])) == (code, text)


@pytest.mark.parametrize(
    ("at", "sent", "wire"),
    [
        ("connect", b"", b"421 go away (#4.7.1)"),
        ("helo", b"HELO x", b"421 go away (#4.7.1)"),
        ("helo", b"EHLO x", b"421 go away (#4.7.1)"),
        ("mail", b"MAIL FROM:<a@b>", b"421 4.7.1 go away"),
        ("unknown", b"XYZZY", b"421 4.7.1 go away"),
    ],
)
@pytest.mark.parametrize("switch", ["on", "off"])
def test_a_last_reply_is_in_the_log_as_it_is_sent(
    home: Home, at: str, sent: bytes, wire: bytes, switch: str
) -> None:
    """RFC 2034, 3: there is none in a greeting or in what HELO and EHLO are answered."""
    source = f"""
    from qsmtpd.decision import drop
    def {at}(*facts):
        return drop(b"go away", 421, b"4.7.1")
    """
    home.plugin("away", source)
    home.control("plugins", "away", "builtins")
    run = home.run(sent + b"\r\nNOOP\r\n", ENHANCEDSTATUSCODES=switch)
    if switch == "off":
        wire = b"421 go away (#4.7.1)"
    assert run.lines[-1] == wire
    for name in ("refused", "session"):
        assert run.event(name)["reply"].encode() == wire
