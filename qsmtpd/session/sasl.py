"""AUTH without SMTP: the SASL mechanisms, and the checkpassword program.

A mechanism is a generator: it yields challenges, is sent responses, and
returns Credentials; neither is base64 here.  Whether they are good is for the
checkpassword program to say: it reads them on fd 3 and answers by its exit
status (https://cr.yp.to/checkpwd/interface.html).  No password is ever in the
environment, in an argument, in the log or in the text of an exception.
"""

from __future__ import annotations

import posix as os
from time import time

from ..child.query import ask
from ..child.spawn import child_environ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from ..config.session import AuthSettings

    Exchange = Generator[bytes, bytes, "Credentials"]
    Mechanism = Callable[[bytes | None, bytes], Exchange]

ACCEPTED, REFUSED, TEMPORARY = "accepted", "refused", "temporary"


class Malformed(Exception):
    """A response that the mechanism cannot have."""


class Credentials:
    """Who the client says it is, and its proof.

    Without a `challenge` the proof is a password; with one, the digest that
    CRAM-MD5 makes of it.
    """

    __slots__ = ("user", "proof", "challenge")

    def __init__(self, user: bytes, proof: bytes, challenge: bytes = b"") -> None:
        # NUL separates the fields on fd 3, and a name is shown in the log and
        # in the Received line.
        if not user or not proof or b"\0" in proof or any(c < 32 or c == 127 for c in user):
            raise Malformed
        self.user = user
        self.proof = proof
        self.challenge = challenge


def plain(initial: bytes | None, challenge: bytes) -> Exchange:
    """PLAIN (RFC 4616): authorization identity NUL user NUL password.

    The first field is not used: a client is who it can prove to be.
    """
    response = (yield b"") if initial is None else initial
    fields = response.split(b"\0")
    if len(fields) != 3:
        raise Malformed
    return Credentials(fields[1], fields[2])


def login(initial: bytes | None, challenge: bytes) -> Exchange:
    """LOGIN: two questions.  The name may come as the initial response."""
    user = (yield b"Username:") if initial is None else initial
    password = yield b"Password:"
    return Credentials(user, password)


def cram_md5(initial: bytes | None, challenge: bytes) -> Exchange:
    """CRAM-MD5 (RFC 2195): user SPACE digest; the server begins."""
    if initial is not None:
        raise Malformed
    response = yield challenge
    user, _, digest = response.rpartition(b" ")
    if len(digest) != 32 or digest.strip(b"0123456789abcdef"):
        raise Malformed
    return Credentials(user, digest, challenge)


MECHANISMS: dict[bytes, Mechanism] = {b"LOGIN": login, b"PLAIN": plain, b"CRAM-MD5": cram_md5}


def make_challenge(host: bytes) -> bytes:
    """A challenge for CRAM-MD5 that was never given before, in the form of RFC 2195."""
    random = int.from_bytes(os.urandom(8), "big")
    return b"<%d.%d.%x@%b>" % (os.getpid(), time(), random, host)


def check(credentials: Credentials, settings: AuthSettings, environ: Mapping[bytes, bytes]) -> str:
    """Ask the checkpassword program: ACCEPTED, REFUSED or TEMPORARY.

    `environ` is that of the connection.  The program's fd 0 is /dev/null, its
    fd 1 is the log; only exit 0 is a yes, only exit 1 a no.  One that takes
    longer than the timeout is ended.
    """
    fields = _fields(credentials, settings)
    answer = ask(settings.command, child_environ(environ), settings.timeout, fields, search=True)
    if answer.status == 0:
        return ACCEPTED
    return REFUSED if answer.status == 1 else TEMPORARY


def _fields(credentials: Credentials, settings: AuthSettings) -> bytes:
    """What the program reads: each field with a NUL behind it.

    The third field is there only where CRAM-MD5 can be: checkpassword's own
    third one is a timestamp, which nobody sends.  SPAMCONTROL, s/qmail and
    sagredo send response, challenge; Krysztof's patch, netqmail-auth and
    IndiMail have them the other way round, also where there is no challenge.
    """
    user, proof, challenge = credentials.user, credentials.proof, credentials.challenge
    if b"CRAM-MD5" not in settings.mechanisms:
        return b"%b\0%b\0" % (user, proof)
    if settings.krysztof and challenge:
        return b"%b\0%b\0%b\0" % (user, challenge, proof)
    return b"%b\0%b\0%b\0" % (user, proof, challenge)
