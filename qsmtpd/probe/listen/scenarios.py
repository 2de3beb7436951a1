"""The scenarios of the fake server: what it does, and how the client is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..check import Finding, odd, safe, vulnerable
from ..errors import CouldNotTest
from .kinds import EXPIRED, GOOD, SELF_SIGNED, WRONG_NAME
from .visit import DONE, Visit

_AUTH = b"AUTH PLAIN LOGIN"
_STARTTLS = b"STARTTLS"
#: OpenSSL's words for a client that does not know who signed the certificate.
_UNKNOWN = "UNKNOWN_CA"


@dataclass(frozen=True)
class Scenario:
    """One way to treat a client.

    `clear` and `inside` are what EHLO announces before and in TLS; `greeted` and
    `injected` are sent in one segment with the greeting, and with the 220 to
    STARTTLS.  `judge` takes the visit, whether the client was told to insist on
    TLS with a good certificate, and the visit of `sound`, None where that was not
    played: who leaves in peace, too, has not shown that it notices anything.  It
    raises CouldNotTest.
    """

    name: str
    explanation: str
    judge: Callable[[Visit, bool, Visit | None], Finding]
    clear: tuple[bytes, ...] = (_STARTTLS, _AUTH)
    inside: tuple[bytes, ...] = (_AUTH,)
    greeted: bytes = b""
    refuses: bool = False
    injected: bytes = b""
    certificate: str = GOOD
    injection: bool = False


def _in_clear(visit: Visit, strict: bool) -> Finding | None:
    """The finding for a client that did without TLS, or None."""
    if visit.password_in_clear:
        return vulnerable("it sent its password in clear")
    if visit.mail_in_clear:
        if strict:
            return vulnerable("it sent mail in clear, though it was told to insist on TLS")
        return odd("it sent mail in clear; who is on the wire can make it do so and read along")
    return None


def _handshake(visit: Visit) -> None:
    """See that there was a handshake, good or bad.  Raises CouldNotTest."""
    if not visit.starttls:
        raise CouldNotTest("it did not use STARTTLS")
    if not visit.handshake:
        raise CouldNotTest("it left before the handshake")


def _tls(visit: Visit) -> None:
    """See that TLS came about.  Raises CouldNotTest."""
    _handshake(visit)
    if visit.handshake != DONE:
        raise CouldNotTest(f"it broke off the handshake: {visit.handshake}; see --ca")


def _takes_the_good(sound: Visit | None) -> None:
    """See that it goes on with a good certificate, if that is known.  Raises CouldNotTest."""
    if sound is not None and sound.handshake and not sound.talked_in_tls:
        raise CouldNotTest("it does not go on with a good certificate, either; see --name and --ca")


def _goes_on(sound: Visit | None) -> None:
    """See that it has something to lose, if that is known.  Raises CouldNotTest."""
    if sound is not None and not sound.gave and (sound.talked_in_tls or not sound.handshake):
        raise CouldNotTest("it gives neither password nor mail in peace, either; see sound")


def _sound(visit: Visit, strict: bool, sound: Visit | None) -> Finding:
    found = _in_clear(visit, strict)
    if found is not None:
        return found
    _tls(visit)
    if not visit.talked_in_tls:
        raise CouldNotTest("it left when it had seen a good certificate; see --name and --ca")
    return safe("it used TLS")


def _response(visit: Visit, strict: bool, sound: Visit | None) -> Finding:
    if visit.hasty:
        return vulnerable("inside TLS it took the injected reply for the answer to its command")
    if visit.password_in_tls:
        return vulnerable("it used AUTH, which only the injected reply announced")
    _handshake(visit)
    found = _in_clear(visit, strict)
    if found is not None:
        return found
    if visit.talked_in_tls:
        return safe("it did not take the injected reply")
    _takes_the_good(sound)
    if visit.handshake == DONE:
        return safe("it left instead of taking the injected reply")
    if "CERTIFICATE" in visit.handshake or _UNKNOWN in visit.handshake:
        _tls(visit)
    return safe(f"it broke off the handshake: {visit.handshake}")


def _no_auth(visit: Visit, strict: bool, sound: Visit | None) -> Finding:
    found = _in_clear(visit, strict)
    if found is not None:
        return found
    _tls(visit)
    if visit.password_in_tls:
        return vulnerable("it used AUTH, which was announced only before TLS")
    _takes_the_good(sound)
    if visit.mail_in_tls and not visit.hello_in_tls:
        return odd("it said no EHLO inside TLS (RFC 3207, 4.2)")
    if sound is not None and not sound.password_in_tls:
        raise CouldNotTest("it uses no AUTH inside TLS where it could, either; see sound")
    return safe("it did not use AUTH")


def _no_tls(visit: Visit, strict: bool, sound: Visit | None) -> Finding:
    if not visit.hello_in_clear:
        raise CouldNotTest("it left before it said EHLO")
    return _early(visit, strict, sound)


def _early(visit: Visit, strict: bool, sound: Visit | None) -> Finding:
    found = _in_clear(visit, strict)
    if found is not None:
        return found
    _goes_on(sound)
    return safe("it did not go on in clear")


def _bad_certificate(visit: Visit, strict: bool, sound: Visit | None) -> Finding:
    found = _in_clear(visit, strict)
    if found is not None:
        return found
    _handshake(visit)
    if visit.password_in_tls:
        return vulnerable("it gave its password to a server with a bad certificate")
    if visit.mail_in_tls:
        if strict:
            return vulnerable("it gave mail to a server with a bad certificate, told to insist")
        return odd("it took the bad certificate; it knows nothing of who is at the other end")
    if visit.talked_in_tls:
        return odd("it took the bad certificate, but gave neither password nor mail")
    _takes_the_good(sound)
    if visit.handshake == DONE:
        return safe("it left after it had seen the certificate")
    return safe(f"it broke off the handshake: {visit.handshake}")


def _otherwise_good(visit: Visit, strict: bool, sound: Visit | None) -> Finding:
    """As _bad_certificate, for one whose signature a client has to trust to see the fault."""
    if _UNKNOWN in visit.handshake and not (visit.mail_in_clear or visit.password_in_clear):
        _tls(visit)
    return _bad_certificate(visit, strict, sound)


#: The control experiment: it comes first.
SOUND = "sound"

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        SOUND,
        "A server without tricks, and a certificate for the right name, signed by the authority "
        "that --ca writes.  It shows what the client does in peace: what it does not do here it "
        "cannot be tested for.",
        _sound,
    ),
    Scenario(
        "response-injection",
        "Behind its 220 to STARTTLS, in the same segment, the server sends the answer to an "
        "EHLO that has not been asked.  Whoever sits on the wire can add it.  A client that "
        "keeps it in its buffer takes it for an answer that came inside TLS.",
        _response,
        inside=(),
        injected=b"250-injected.invalid\r\n250 AUTH PLAIN LOGIN\r\n",
        injection=True,
    ),
    Scenario(
        "stripped",
        "EHLO does not announce STARTTLS, but AUTH: what a client sees when somebody on the "
        "wire has removed it.  Does it go on in clear, does it send its password?",
        _no_tls,
        clear=(_AUTH,),
    ),
    Scenario(
        "refused",
        "STARTTLS is announced, and answered 454.  Does the client go on in clear, does it send "
        "its password?",
        _no_tls,
        refuses=True,
    ),
    Scenario(
        "no-auth-after-tls",
        "AUTH is announced before TLS, but no more inside.  A client that uses it still has not "
        "forgotten what it heard in clear (RFC 3207, 4.2).",
        _no_auth,
        inside=(),
    ),
    Scenario(
        "preauth",
        "Behind the greeting, in the same segment, comes an answer to EHLO in advance: already "
        "authenticated, no STARTTLS.  The true answer, which announces it, follows the EHLO.  "
        "A client that believes the first one sees no way to TLS, as with IMAP's PREAUTH.",
        _early,
        greeted=b"250 already authenticated\r\n",
    ),
    Scenario(
        "wrong-name",
        "The certificate is signed by the authority, but for another name.  To see that, the "
        "client has to trust the authority: see --ca.",
        _otherwise_good,
        certificate=WRONG_NAME,
    ),
    Scenario(
        "expired",
        "The certificate is for the right name and signed by the authority, but its last day is "
        "past.",
        _otherwise_good,
        certificate=EXPIRED,
    ),
    Scenario(
        "self-signed",
        "The certificate is for the right name, but signed by itself: anybody can make one.",
        _bad_certificate,
        certificate=SELF_SIGNED,
    ),
)
