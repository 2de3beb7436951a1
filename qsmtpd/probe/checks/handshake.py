"""The handshake: when it fails, when it stalls, which versions, which certificate."""

from __future__ import annotations

import ssl
from time import monotonic

from ..check import Check, Finding, odd, safe, vulnerable
from ..connection import Babble, Closed, HandshakeFailed, Silent
from ..errors import CouldNotTest
from ..probe import Probe

#: Newest first.  SSL 2 and 3 are not among OpenSSL's any more.
_VERSIONS = (
    ssl.TLSVersion.TLSv1_3,
    ssl.TLSVersion.TLSv1_2,
    ssl.TLSVersion.TLSv1_1,
    ssl.TLSVersion.TLSv1,
)
#: As long as a TLS record's head, which it cannot be: no byte is left over.
_NO_HANDSHAKE = b"NOOP\n"
#: Seconds for a server to find out that a handshake is none.
_SETTLE = 1.0
_OLD = ("TLSv1.1", "TLSv1")
#: A TLS handshake record that is announced and never comes (RFC 8446, 5.1).
_STALLED = b"\x16\x03\x01\x02\x00"


def clear_after_failure(probe: Probe) -> Finding:
    """After a broken handshake, does the server go on in clear?"""
    dialogue = probe.offered()
    reply = dialogue.ask(b"STARTTLS")
    if reply.code != 220:
        raise CouldNotTest(f"it refuses STARTTLS: {reply}")
    dialogue.link.send(_NO_HANDSHAKE)
    replies = []
    try:
        if dialogue.link.comes(_SETTLE):
            replies.append(dialogue.reply())
        # A sound server takes RSET at any time (RFC 5321, 4.1.1.5).
        replies.append(dialogue.ask(b"RSET"))
        while not replies[-1].positive and dialogue.link.comes(_SETTLE):
            replies.append(dialogue.reply())
    except Babble:
        return safe("it answered with TLS, not in clear")  # an alert
    except (Closed, Silent) as trouble:
        end = str(trouble)
    if any(reply.positive for reply in replies):
        return vulnerable("commands are answered in clear after a failed handshake")
    if replies:
        return odd(f"after a failed handshake it complains in clear: {replies[0]}")
    return safe(f"nothing is answered in clear: {end}")


def stall(probe: Probe) -> Finding:
    """How long may a handshake stand still?  Waits at most target.slow seconds."""
    limit = probe.target.slow
    if not limit:
        raise CouldNotTest("needs --slow")
    dialogue = probe.offered()
    reply = dialogue.ask(b"STARTTLS")
    if reply.code != 220:
        raise CouldNotTest(f"it refuses STARTTLS: {reply}")
    start = monotonic()
    dialogue.link.send(_STALLED)
    try:
        dialogue.link.wait_for_close(limit)
    except Closed:
        return safe(f"closed after {monotonic() - start:.1f} s")
    return vulnerable(f"still open after {limit:g} s")


def versions(probe: Probe) -> Finding:
    """Which TLS versions does it take?"""
    taken = []
    for version in _VERSIONS:
        dialogue = probe.offered()
        reply = dialogue.ask(b"STARTTLS")
        if reply.code != 220:
            raise CouldNotTest(f"it refuses STARTTLS: {reply}")
        try:
            dialogue.start_tls(version)
        except Silent:
            raise
        except (HandshakeFailed, Closed):
            continue
        taken.append(version.name.replace("_", "."))
    if not taken:
        raise CouldNotTest("no single version was taken")
    shown = ", ".join(taken)
    if not set(taken).difference(_OLD):
        return vulnerable(f"nothing newer than the abandoned versions: {shown}")
    if set(taken).intersection(_OLD):
        return odd(f"abandoned versions are still on (RFC 8996): {shown}")
    return safe(f"{shown}; the old ones are off")


def certificate(probe: Probe) -> Finding:
    """Whose certificate is it, and for how long?  Information: odd at worst."""
    # The one part that needs a package from outside, imported where it is used.
    try:
        from ..x509 import describe
    except ImportError as error:
        raise CouldNotTest("needs the Python package cryptography") from error
    tls = probe.secured().link.tls
    encoded = tls.getpeercert(binary_form=True) if tls else None
    if not encoded:
        raise CouldNotTest("it has no certificate")
    text, faults = describe(encoded, probe.target.host)
    probe.evidence.note(text)
    return odd(f"{'; '.join(faults)}; {text}") if faults else safe(text)


CHECKS = (
    Check(
        "clear-after-failure",
        "After a handshake that failed the server must not take commands in clear on the same "
        "connection: client and server would not agree on whether they are protected.  To close "
        "is best; a complaint in clear is odd.",
        clear_after_failure,
    ),
    Check(
        "handshake-stall",
        "A handshake that begins and then stands still has to end some time, or every such "
        "connection holds a process for ever.  Only with --slow, which says how long to wait.",
        stall,
        option="--slow",
    ),
    Check(
        "tls-versions",
        "One handshake for each of TLS 1.3, 1.2, 1.1 and 1.0.  The last two are abandoned "
        "(RFC 8996): odd.  A server that takes nothing newer is vulnerable.",
        versions,
    ),
    Check(
        "certificate",
        "The certificate's names and its last day, for information: many clients do not look at "
        "them.  Another name or a past day is odd.  The chain is not verified.",
        certificate,
    ),
)
