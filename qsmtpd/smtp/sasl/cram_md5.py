"""CRAM-MD5 (RFC 2195): the server begins; user SPACE digest of its challenge."""

from __future__ import annotations

from . import Answer, Context, Credentials, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Exchange


def exchange(initial: bytes | None, context: Context) -> Exchange:
    if initial is not None:
        raise Malformed
    response = yield context.challenge
    user, _, digest = response.rpartition(b" ")
    if len(digest) != 32 or digest.strip(b"0123456789abcdef"):
        raise Malformed
    answer: Answer = yield Credentials(user, digest, context.challenge)
    return answer
