"""SASL (RFC 4422): the mechanisms of AUTH, without SMTP, base64, descriptors, clock or settings.

Each mechanism is a file with a generator function, exchange(initial, context).
`initial` is the client's first response, None where AUTH came without one.  The
generator yields what it wants next:

    bytes         a challenge: it is sent the client's response to it
    Credentials   a question to who knows the user: it is sent the Answer
    Message       the same, where the mechanism is not carried out here: what the
                  client has said is passed on to a peer, whose Answer is the next
                  challenge or the verdict

and returns the last Answer.  It raises Malformed for a response that the
mechanism cannot have.  While it waits for a response it may be thrown Broken:
the client has cancelled the exchange, or sent what is no response at all.  One
that has a verdict by then returns it; the others need not catch it.

A mechanism that a peer carries out is so four lines (relay.py), whatever the
peer is: it is another object that takes questions (session/verifiers.py).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    #: What it is sent is the response (bytes) to a challenge, the Answer to a question.
    Exchange = Generator["bytes | Credentials | Message", Any, "Answer"]

ACCEPTED, REFUSED, TEMPORARY = "accepted", "refused", "temporary"

#: Who is asked: the program in the arguments; nobody, for the certificate has said it; the
#: program of tokens; the helper that carries out SCRAM.
CHECKPASSWORD, CERTIFICATE = "checkpassword", "certificate"
TOKENS, SCRAM = "tokenprogram", "scramprogram"
DOVECOT = "dovecot"  # its auth socket, in place of the program


class Mechanism:
    """A row of the table: the file of the mechanism, and who is asked."""

    __slots__ = ("file", "asks")

    def __init__(self, file: str, asks: str) -> None:
        self.file = file
        self.asks = asks

    def begin(self, initial: bytes | None, context: Context) -> Exchange:
        """A new exchange."""
        module = __import__(f"{__name__}.{self.file}", None, None, ["exchange"])
        exchange: Callable[[bytes | None, Context], Exchange] = module.exchange
        return exchange(initial, context)


MECHANISMS = {
    b"LOGIN": Mechanism("login", CHECKPASSWORD),
    b"PLAIN": Mechanism("plain", CHECKPASSWORD),
    b"CRAM-MD5": Mechanism("cram_md5", CHECKPASSWORD),
    b"EXTERNAL": Mechanism("external", CERTIFICATE),
    b"SCRAM-SHA-256": Mechanism("scram_sha_256", SCRAM),
    b"OAUTHBEARER": Mechanism("oauthbearer", TOKENS),
    b"XOAUTH2": Mechanism("xoauth2", TOKENS),
}
#: Any mechanism that Dovecot carries out.
RELAYED = Mechanism("relay", DOVECOT)


_NAME = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class Malformed(Exception):
    """A response that the mechanism cannot have."""


class Broken(Exception):
    """Instead of a response there came none: it was cancelled, too long, or not base64."""


class Context:
    """What an exchange is told of the session.

    `challenge` is one for CRAM-MD5 that was never given before; `certified`, the
    user that control/tlsclients names for the client's certificate.
    """

    __slots__ = ("challenge", "certified")

    def __init__(self, challenge: bytes = b"", certified: bytes | None = None) -> None:
        self.challenge = challenge
        self.certified = certified


class Answer:
    """What somebody who was asked has said, and in the end what came of the exchange.

    `verdict` is ACCEPTED, REFUSED or TEMPORARY, or None: it goes on.  `user` is
    who the client is or claimed to be.  `message` is for the client: the next
    challenge, or with ACCEPTED what the mechanism still has to say, if anything.
    """

    __slots__ = ("verdict", "user", "message")

    def __init__(self, verdict: str | None, user: bytes = b"", message: bytes = b"") -> None:
        self.verdict = verdict
        self.user = user
        self.message = message


class Credentials:
    """Who the client says it is, and its proof.  Raises Malformed.

    Without a `challenge` the proof is a password or a token; with one, the
    digest that CRAM-MD5 makes of it.
    """

    __slots__ = ("user", "proof", "challenge")

    def __init__(self, user: bytes, proof: bytes, challenge: bytes = b"") -> None:
        # NUL separates the fields of a checkpassword program.
        if not proof or b"\0" in proof:
            raise Malformed
        self.user = checked_user(user)
        self.proof = proof
        self.challenge = challenge


class Message:
    """What the client has said, for a peer that carries out the mechanism; None: nothing yet."""

    __slots__ = ("text",)

    def __init__(self, text: bytes | None) -> None:
        self.text = text


def is_name(name: bytes) -> bool:
    """Is it the name of a mechanism (RFC 4422, 3.1)?"""
    return 0 < len(name) <= 20 and _NAME.issuperset(name)


def checked_user(user: bytes) -> bytes:
    """The name as it is.  Raises Malformed where it cannot stand in the log and in Received."""
    if not user or any(byte < 32 or byte == 127 for byte in user):
        raise Malformed
    return user
