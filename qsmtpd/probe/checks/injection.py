"""Plaintext behind STARTTLS: is it carried out as if it had come inside TLS?

Whoever sits on the wire can add bytes to the client's STARTTLS.  A server that
keeps them in its buffer takes them for the first commands of the protected
session (CVE-2011-0411).  After each injection the probe asks the two commands
of dialogue.CONTROL inside TLS and compares the replies with those of a session
in which nothing was injected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import sleep

from ..check import Check, Finding, odd, safe, vulnerable
from ..connection import GAP, Closed, NotTls, Trouble
from ..dialogue import CONTROL, SWALLOWS
from ..errors import CouldNotTest
from ..probe import Probe
from ..protocol import Reply

#: Two commands at least: a server that answers both has carried them out, one
#: that sends a single error has only complained.  EHLO's reply cannot be mistaken.
_MARK = b"EHLO injected.invalid\r\nNOOP\r\n"


@dataclass(frozen=True)
class Injection:
    """What to send in clear.  EHLO stands for LHLO too.

    The segments are sent one by one.  If they bring the session's first EHLO,
    its reply is to be read, too.
    """

    segments: tuple[bytes, ...]
    with_hello: bool = False


SEGMENT = Injection((b"STARTTLS\r\n" + _MARK,))
SPLIT = Injection((b"STARTTLS\r", b"\n" + _MARK))
LATE = Injection((b"STARTTLS\r\n", _MARK))
PIPELINED = Injection((b"EHLO probe.invalid\r\nSTARTTLS\r\n" + _MARK,), with_hello=True)
#: Without a line end: what comes first inside TLS would complete it.
HALF_LINE = Injection((b"STARTTLS\r\nEHLO injected.",))
AUTH = Injection((b"STARTTLS\r\nNOOP\r\nAUTH PLAIN\r\n",))


def data(probe: Probe, command: bytes = b"DATA") -> Injection:
    """The injection of a message's beginning; its end is never sent."""
    recipient = probe.target.recipient or b"postmaster"  # RFC 5321, 4.5.1: everybody has one
    mail = b"MAIL FROM:<%b>\r\nRCPT TO:<%b>\r\n" % (probe.target.sender, recipient)
    return Injection((b"STARTTLS\r\nEHLO injected.invalid\r\n%b%b\r\n" % (mail, command),))


def chunk(probe: Probe) -> Injection:
    """The same by BDAT: a chunk of a million bytes, and not the last one (RFC 3030)."""
    return data(probe, b"BDAT 1000000")


def replies_after(probe: Probe, injection: Injection) -> list[Reply] | Finding:
    """Inject, shake hands, ask CONTROL: its replies, or the finding where it came to none."""
    dialogue = probe.greeted() if injection.with_hello else probe.offered()
    hello = probe.target.protocol.hello
    dialogue.link.send(*(segment.replace(b"EHLO", hello) for segment in injection.segments))
    try:
        if injection.with_hello:
            refusal = dialogue.reply()
            if not refusal.positive:
                return safe(f"refused: {refusal}")
        reply = dialogue.reply()
    except Closed:
        return safe("it closed the connection instead of starting TLS")
    if reply.code != 220:
        return safe(f"it refused STARTTLS: {reply}")
    if len(injection.segments) > 1:
        sleep(GAP)  # the last one is to be read alone, too
    try:
        dialogue.start_tls()
    except NotTls as trouble:
        if trouble.text[:1] in (b"4", b"5"):
            return safe("it complained in clear; TLS did not come about")
        return odd("it answered in clear behind its 220; TLS did not come about")
    except Trouble as trouble:
        return safe(f"TLS did not come about: {trouble}")
    try:
        return dialogue.answers(CONTROL)
    except Closed:
        return safe("it closed the connection after the handshake")


def carried_out(replies: list[Reply], extra: int) -> bool:
    """Are the extra replies the answers to injected commands, not one single complaint?"""
    return extra > 1 or (extra == 1 and replies[0].positive)


def judge(probe: Probe, replies: list[Reply]) -> Finding:
    """Compare the replies after an injection with those without one."""
    shown = " ".join(map(str, replies))
    if any(reply.code in SWALLOWS for reply in replies):
        return vulnerable(f"injected bytes swallow what follows: {shown}")
    extra = probe.extra(replies)
    if carried_out(replies, extra):
        return vulnerable(f"injected commands were carried out inside TLS: {shown}")
    if extra > 0:
        return odd(f"a reply that nobody asked for inside TLS: {shown}")
    if replies[0].positive and len(replies[0].lines) > 1:
        return vulnerable(f"a NOOP was answered like an injected EHLO: {shown}")
    if not replies[0].positive and probe.control[probe.surplus].positive:
        return odd(f"after the injection it refused a harmless command: {shown}")
    if extra < 0:
        return odd(f"after the injection it said less than usual: {shown}")
    return safe("the bytes were discarded")


def inject(probe: Probe, make: Callable[[Probe], Injection]) -> Finding:
    """The finding of one kind of injection."""
    injection = make(probe)
    outcome = replies_after(probe, injection)
    if isinstance(outcome, Finding):
        return outcome
    return judge(probe, outcome)


def reply_offset(probe: Probe) -> Finding:
    """Is there a reply too many, after a clean handshake or after a discarded injection?"""
    if probe.surplus:
        shown = " ".join(map(str, probe.control))
        return vulnerable(f"{probe.surplus} too many after a clean handshake: {shown}")
    outcome = replies_after(probe, SEGMENT)
    if isinstance(outcome, Finding):
        return safe("one reply for each command; with bytes behind STARTTLS there is no TLS")
    extra = probe.extra(outcome)
    if carried_out(outcome, extra) or outcome[-1].code in SWALLOWS:
        raise CouldNotTest("injected commands are carried out; see inject-segment")
    if extra > 0:
        shown = " ".join(map(str, outcome))
        return vulnerable(f"an injection leaves a reply too many: {shown}")
    return safe("one reply for each command")


def _check(name: str, explanation: str, make: Callable[[Probe], Injection]) -> Check:
    return Check(name, explanation, partial(inject, make=make), injection=True)


CHECKS = (
    _check(
        "inject-segment",
        "Two commands stand behind STARTTLS in the same TCP segment.  Whoever sits on the wire "
        "can add them.  A server that keeps them carries them out inside TLS, in the name of "
        "the client; RFC 3207, 6 and CVE-2011-0411.",
        lambda probe: SEGMENT,
    ),
    _check(
        "inject-split",
        "The same, but the first segment ends inside the line end of STARTTLS and the second "
        "brings the rest and the commands.  It finds a server that empties its buffer only "
        "before the read that completed the command.",
        lambda probe: SPLIT,
    ),
    _check(
        "inject-late",
        "The commands come in a segment of their own right after STARTTLS, before the "
        "handshake.  A sound server's TLS takes them for a broken handshake, or they are "
        "discarded.",
        lambda probe: LATE,
    ),
    _check(
        "inject-pipelined",
        "EHLO, STARTTLS and the commands come in one segment, as a pipelined group.  It finds a "
        "server whose pipelining reads commands ahead.",
        lambda probe: PIPELINED,
    ),
    _check(
        "inject-half-line",
        "The beginning of a line without its end stands behind STARTTLS.  A server that empties "
        "its queue of commands, but not the line it is reading, glues the client's first "
        "protected command to it.",
        lambda probe: HALF_LINE,
    ),
    _check(
        "inject-auth",
        "AUTH PLAIN without a response stands behind STARTTLS.  A server that carries it out "
        "takes the client's first protected line for the response: whoever injected it chooses "
        "how the session goes on.",
        lambda probe: AUTH,
    ),
    _check(
        "inject-data",
        "MAIL, RCPT and DATA stand behind STARTTLS.  A server that carries them out takes what "
        "the client says inside TLS, its password too, for the text of a message to whom the "
        "attacker likes.  The probe never sends the end of such a message.",
        data,
    ),
    _check(
        "inject-bdat",
        "The same with BDAT in place of DATA: a chunk of a million bytes, which needs no line to "
        "end it.",
        chunk,
    ),
    Check(
        "reply-offset",
        "After the handshake each command has one reply.  A server that sends one more (a "
        "second greeting, a complaint about injected bytes) makes the client take every reply "
        "for that of the next command, and an attacker's command may be answered where the "
        "client's own was refused.",
        reply_offset,
    ),
)
