"""The command STARTTLS itself: once, without arguments, and never in TLS (RFC 3207, 4)."""

from __future__ import annotations

from ..check import Check, Finding, odd, safe
from ..connection import Closed
from ..dialogue import CONTROL
from ..probe import Probe


def works(probe: Probe) -> Finding:
    """Does STARTTLS work at all?  Leaves the control replies in the probe."""
    dialogue = probe.secured()
    tls = dialogue.link.tls
    probe.control.extend(dialogue.answers(CONTROL))
    return safe(f"offered, and the handshake gives {tls.version() if tls else ''}")


def announced_again(probe: Probe) -> Finding:
    """Does EHLO inside TLS still announce STARTTLS?"""
    keywords = probe.secured().hello().keywords()
    if b"STARTTLS" in keywords:
        return odd("EHLO inside TLS announces STARTTLS (RFC 3207, 4.2: it must not)")
    return safe("not announced inside TLS")


def second(probe: Probe) -> Finding:
    """Is STARTTLS inside TLS refused?"""
    dialogue = probe.secured()
    dialogue.hello()
    try:
        reply = dialogue.ask(b"STARTTLS")
    except Closed:
        return safe("it closed the connection")
    if reply.positive:
        return odd(f"STARTTLS inside TLS is accepted: {reply}")
    return safe(f"refused: {reply}")


def argument(probe: Probe) -> Finding:
    """Is STARTTLS with an argument refused?"""
    dialogue = probe.offered()
    try:
        reply = dialogue.ask(b"STARTTLS now")
    except Closed:
        return safe("it closed the connection")
    if reply.positive:
        return odd(f"STARTTLS with an argument is accepted: {reply} (RFC 3207, 4: 501)")
    return safe(f"refused: {reply}")


CHECKS = (
    Check(
        "starttls",
        "Is STARTTLS announced, and does the handshake come to a good end?  This is the control "
        "experiment, too: what the server answers here, with nothing injected, is what the "
        "answers after an injection are compared with.",
        works,
        injection=True,
        needs_tls=False,
    ),
    Check(
        "starttls-again",
        "Inside TLS the server must not announce STARTTLS again (RFC 3207, 4.2).  One that does "
        "has not noticed that the session is a new one.",
        announced_again,
    ),
    Check(
        "starttls-twice",
        "STARTTLS inside TLS is to be refused.  A server that says 220 to it begins a handshake "
        "inside the handshake, or throws its session away without one.",
        second,
    ),
    Check(
        "starttls-argument",
        "STARTTLS has no parameters; with one it is to be answered 501 (RFC 3207, 4).",
        argument,
    ),
)
