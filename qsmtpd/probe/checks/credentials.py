"""Passwords before TLS."""

from __future__ import annotations

from ..check import Check, Finding, odd, safe, vulnerable
from ..probe import Probe

#: Mechanisms that give the password, or something as good, to everybody on the wire.
_READABLE = frozenset((b"PLAIN", b"LOGIN", b"XOAUTH2", b"OAUTHBEARER"))


def auth_in_clear(probe: Probe) -> Finding:
    """Is AUTH announced, or taken, before TLS?  No password is sent."""
    dialogue = probe.greeted()
    offered = set(dialogue.hello().keywords().get(b"AUTH", b"").split(b" ")) - {b""}
    readable = sorted(offered & _READABLE)
    if readable:
        return vulnerable(f"announced in clear: {b' '.join(readable).decode()}")
    reply = dialogue.ask(b"AUTH PLAIN")
    if reply.code == 334:
        dialogue.ask(b"*")  # RFC 4954, 4: the client gives up
        return vulnerable("AUTH PLAIN is taken in clear, though it is not announced")
    if offered:
        names = b" ".join(sorted(offered)).decode("ascii", "backslashreplace")
        return odd(f"only mechanisms that do not show the password are announced: {names}")
    return safe(f"not announced, and refused: {reply}")


CHECKS = (
    Check(
        "auth-in-clear",
        "Before TLS the server should neither announce nor take AUTH with a readable password "
        "(RFC 4954, 4 and 9).  A server that does lets its clients give their passwords to the "
        "wire, and lets an attacker who strips STARTTLS wait for them.",
        auth_in_clear,
        needs_tls=False,
    ),
)
