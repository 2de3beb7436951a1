"""The end of data: which bytes does the server take for it?

Only CRLF . CRLF ends a message (RFC 5321, 4.1.1.4).  A server that takes less
for the end reads the rest of the message as commands: what another server let
through as text becomes a second message (SMTP smuggling, CVE-2023-51764 to
-51766).  These checks send messages, so they run only for a recipient whom the
user gives.
"""

from __future__ import annotations

from functools import partial

from ..check import Check, Finding, safe, vulnerable
from ..connection import Closed, Trouble
from ..dialogue import Dialogue
from ..errors import CouldNotTest
from ..probe import Probe
from ..protocol import Reply

#: (the name of the check, the bytes); only CRLF . CRLF itself is not here.
SEQUENCES = (
    ("lf-dot-lf", b"\n.\n"),
    ("lf-dot-cr", b"\n.\r"),
    ("cr-dot-lf", b"\r.\n"),
    ("cr-dot-cr", b"\r.\r"),
    ("lf-dot-crlf", b"\n.\r\n"),
    ("cr-dot-crlf", b"\r.\r\n"),
    ("crlf-dot-lf", b"\r\n.\n"),
    ("crlf-dot-cr", b"\r\n.\r"),
    ("crlf-nul-dot-crlf", b"\r\n\0.\r\n"),
    ("crlf-dot-nul-crlf", b"\r\n.\0\r\n"),
    ("crlf-dot-crcrlf", b"\r\n.\r\r\n"),
    ("crlf-dot-space-crlf", b"\r\n. \r\n"),
    ("crlf-dot-dot-crlf", b"\r\n..\r\n"),
)


def smuggle(probe: Probe, sequence: bytes) -> Finding:
    """Send one message that contains the sequence and, behind it, another message."""
    target = probe.target
    if not target.recipient:
        raise CouldNotTest("needs --smuggling")
    dialogue = _ready(probe)
    envelope = (b"MAIL FROM:<%b>" % target.sender, b"RCPT TO:<%b>" % target.recipient)
    for command, code in (*((line, 250) for line in envelope), (b"DATA", 354)):
        reply = dialogue.ask(command)
        if reply.code != code:
            verb = command.partition(b" ")[0].decode()
            raise CouldNotTest(f"it refuses {verb}: {reply}")
    header = b"From: <%b>\r\nTo: <%b>\r\n" % (target.sender, target.recipient)
    first = header + b"Subject: starttls-probe, end of data\r\n\r\ntext"
    second = header + b"Subject: starttls-probe, smuggled\r\n\r\ntext\r\n.\r\n"
    commands = b"\r\n".join((*envelope, b"DATA")) + b"\r\n"
    dialogue.link.send(first + sequence + commands + second)
    replies: list[Reply] = []
    try:
        replies.append(dialogue.reply())
    except Closed:
        return safe("it closed the connection: no message")
    dialogue.link.send(b"QUIT\r\n")
    replies += dialogue.rest()
    data_replies = [reply for reply in replies if reply.code not in (221, 421)]
    shown = " ".join(map(str, replies))
    if len(data_replies) > 1:
        messages = _messages(data_replies)
        return vulnerable(f"text was taken for commands; messages accepted: {messages} ({shown})")
    return safe(f"messages accepted: {1 if replies[0].positive else 0} ({shown})")


def _messages(replies: list[Reply]) -> int:
    """How many messages were accepted: 2xx at the beginning, and after each 354."""
    accepted = int(replies[0].code // 100 == 2)
    for before, reply in zip(replies, replies[1:], strict=False):
        accepted += before.code == 354 and reply.code // 100 == 2
    return accepted


def _ready(probe: Probe) -> Dialogue:
    """A session in which MAIL may follow: inside TLS where there is TLS, and with AUTH."""
    dialogue = probe.greeted()
    if b"STARTTLS" in dialogue.hello().keywords():
        try:
            dialogue.secure()
        except Trouble as trouble:
            raise CouldNotTest(f"TLS failed: {trouble}") from trouble
        dialogue.hello()
        if probe.target.user:
            reply = dialogue.authenticate()
            if reply.code != 235:
                raise CouldNotTest(f"it refuses AUTH: {reply}")
    return dialogue


CHECKS = tuple(
    Check(
        "smuggle-" + name,
        f"A message contains {sequence!r} and behind it MAIL, RCPT, DATA and a second message, "
        "before its true end.  Counted is what the server answers: one reply is right, be it "
        "yes or no; more of them say that text of the message was taken for commands.",
        partial(smuggle, sequence=sequence),
        needs_tls=False,
        option="--smuggling",
    )
    for name, sequence in SEQUENCES
)
