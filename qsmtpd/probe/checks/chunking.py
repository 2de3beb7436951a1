"""BDAT (RFC 3030): are the bytes of a chunk ever commands, and does a chunk outlive STARTTLS?"""

from __future__ import annotations

from ..check import Check, Finding, odd, safe, vulnerable
from ..connection import Closed
from ..dialogue import CONTROL, Dialogue
from ..probe import Probe
from .state import mail, rcpt

_PART = b"BDAT 3\r\na\r\n"


def _offers_chunking(dialogue: Dialogue) -> bool:
    return b"CHUNKING" in dialogue.hello().keywords()


def commands(probe: Probe) -> Finding:
    """Are the bytes of a refused chunk carried out, without MAIL and without RCPT?"""
    refusal = None
    text = probe.target.protocol.hello + b" x\r\n"  # its reply cannot be mistaken
    for before in ((), (mail(probe),)):
        dialogue = probe.secured()
        if not _offers_chunking(dialogue):
            return safe("it does not offer CHUNKING")
        for command in before:
            dialogue.ask(command)
        dialogue.link.send(b"BDAT %d\r\n%b" % (len(text), text))
        refusal = dialogue.reply()
        if len(refusal.lines) > 1:
            return vulnerable("a chunk is not answered, and its bytes are carried out: EHLO")
        if refusal.positive:
            return odd(f"a chunk without recipients is taken: {refusal}")
        try:
            replies = dialogue.answers(CONTROL)
        except Closed:
            continue  # what it has not read it has not carried out
        if len(replies) > len(CONTROL):
            shown = " ".join(map(str, (refusal, *replies)))
            return vulnerable(f"the bytes of a refused chunk were carried out: {shown}")
    return safe(f"the bytes of a refused chunk are no commands: {refusal}")


def state(probe: Probe) -> Finding:
    """Does a chunk of before TLS belong to the message inside TLS?  No last chunk is sent."""
    dialogue = probe.offered()
    if not _offers_chunking(dialogue):
        return safe("it does not offer CHUNKING")
    for command in (mail(probe), rcpt(probe)):
        reply = dialogue.ask(command)
        if not reply.positive:
            return safe(f"no chunk can be sent before TLS: {reply}")
    dialogue.link.send(_PART)
    reply = dialogue.reply()
    if not reply.positive:
        return safe(f"a chunk before TLS is refused: {reply}")
    reply = dialogue.ask(b"STARTTLS")
    if reply.code != 220:
        return safe(f"STARTTLS between chunks is refused: {reply}")
    dialogue.start_tls()
    dialogue.link.send(_PART)
    survivor = dialogue.reply()
    if survivor.positive:
        return vulnerable(f"a message that was begun in clear goes on inside TLS: {survivor}")
    return safe(f"inside TLS there is no message to go on with: {survivor}")


CHECKS = (
    Check(
        "bdat-commands",
        "Inside TLS, a chunk whose bytes read EHLO, without MAIL and then without RCPT.  A "
        "server that refuses the chunk without reading its bytes carries them out as a "
        "command: who can choose the text of a message then speaks SMTP in its sender's name.",
        commands,
    ),
    Check(
        "state-bdat",
        "MAIL, RCPT and a first chunk before the handshake, another chunk after it.  A server "
        "that takes it lets an attacker begin the client's message.  The last chunk is never "
        "sent; the recipient is that of --smuggling, or postmaster.",
        state,
    ),
)
