"""What was said in clear must be forgotten after the handshake (RFC 3207, 4.2)."""

from __future__ import annotations

from ..check import Check, Finding, odd, safe, vulnerable
from ..errors import CouldNotTest
from ..probe import Probe
from ..protocol import Reply


def mail(probe: Probe) -> bytes:
    """MAIL, with the user's sender."""
    return b"MAIL FROM:<%b>" % probe.target.sender


def rcpt(probe: Probe) -> bytes:
    """RCPT, with the user's recipient, or one that everybody has (RFC 5321, 4.5.1)."""
    return b"RCPT TO:<%b>" % (probe.target.recipient or b"postmaster")


def helo(probe: Probe) -> Finding:
    """Is the EHLO of before TLS still good for MAIL inside TLS?"""
    survivor = probe.secured().ask(mail(probe))
    if not survivor.positive:
        return safe(f"MAIL inside TLS without a new EHLO is refused: {survivor}")
    control = _mail_without_hello(probe)
    if control is None:
        return odd("MAIL inside TLS needs no new EHLO; whether it ever needs one is not to be seen")
    if control.positive:
        return safe("this server never asks for EHLO")
    return vulnerable(f"MAIL without EHLO is refused ({control}), but that of before TLS counts")


def _mail_without_hello(probe: Probe) -> Reply | None:
    """The reply to MAIL in a session that never had an EHLO; None if the server wants TLS first."""
    dialogue = probe.greeted()
    if dialogue.ask(b"STARTTLS").code == 220:
        dialogue.start_tls()
        return dialogue.ask(mail(probe))
    reply = dialogue.ask(mail(probe))
    return None if reply.code == 530 else reply


def transaction(probe: Probe) -> Finding:
    """Does a MAIL of before TLS make RCPT valid inside TLS?"""
    dialogue = probe.offered()
    reply = dialogue.ask(mail(probe))
    if not reply.positive:
        return safe(f"no transaction can be begun before TLS: {reply}")
    reply = dialogue.ask(b"STARTTLS")
    if reply.code != 220:
        return safe(f"STARTTLS inside a transaction is refused: {reply}")
    dialogue.start_tls()
    survivor = dialogue.ask(rcpt(probe))
    control = probe.secured().ask(rcpt(probe))
    if survivor.code == control.code:
        return safe(f"RCPT inside TLS is answered as if there had been no MAIL: {survivor}")
    return vulnerable(f"RCPT after MAIL in clear: {survivor}; without MAIL: {control}")


def auth(probe: Probe) -> Finding:
    """Is who authenticated in clear still authenticated inside TLS?"""
    if not probe.target.user:
        raise CouldNotTest("needs --user")
    dialogue = probe.offered()
    reply = dialogue.authenticate()
    if reply.code == 535:  # RFC 4954, 6
        raise CouldNotTest("it refuses this user and password: 535")
    if reply.code != 235:
        return safe(f"AUTH in clear is refused: {reply}")
    reply = dialogue.ask(b"STARTTLS")
    if reply.code != 220:
        return safe(f"STARTTLS after AUTH is refused: {reply}")
    dialogue.start_tls()
    dialogue.hello()
    # RFC 4954, 4: who is authenticated gets 503.
    again = dialogue.authenticate()
    if again.code == 235:
        return safe("inside TLS AUTH was needed anew")
    if again.code == 503:
        return vulnerable("inside TLS a second AUTH is refused as one too many: the first survived")
    return odd(f"inside TLS the same AUTH is refused: {again}")


CHECKS = (
    Check(
        "state-helo",
        "EHLO before the handshake, MAIL after it.  The name that the client gave in clear may "
        "be somebody else's, so the server must forget it; it is compared with a session "
        "without any EHLO.  A server that never wants EHLO has nothing to forget.",
        helo,
    ),
    Check(
        "state-transaction",
        "MAIL before the handshake, RCPT after it.  A server that still knows the sender lets "
        "an attacker begin the client's transaction.  The reply is compared with that to the "
        "same RCPT without MAIL.",
        transaction,
    ),
    Check(
        "state-auth",
        "AUTH before the handshake, AUTH again after it; only with --user.  If the second is "
        "refused with 503 the server still knows the first, which anybody on the wire may have "
        "made.  The password crosses the network in clear if the server takes it.",
        auth,
        option="--user",
    ),
)
