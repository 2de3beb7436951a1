"""SCRAM-SHA-256 (RFC 7677): carried out by a helper, which has the keys of the users.

Only who the client says it is, is read here, for the log.
"""

from __future__ import annotations

from . import (
    ACCEPTED,
    REFUSED,
    TEMPORARY,
    Answer,
    Broken,
    Context,
    Malformed,
    Message,
    checked_user,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from . import Exchange


def exchange(initial: bytes | None, context: Context) -> Exchange:
    from .scram import ClientFirst

    first = (yield b"") if initial is None else initial
    user = checked_user(ClientFirst(first).user)
    answer: Answer = yield Message(_line(first))
    if answer.verdict is None:
        answer = yield Message(_line((yield answer.message)))
        if answer.verdict is None:
            return Answer(TEMPORARY, user)
    if answer.verdict == ACCEPTED and not (yield from _takes(answer.message)):
        return Answer(REFUSED, user)  # and no trial of a password that nobody hears of
    return Answer(answer.verdict, user)


def _takes(proof: bytes) -> Generator[bytes, bytes, bool]:
    """Does the client take the server's proof?  SMTP has no place for it in a 235 (RFC 4954, 4)."""
    try:
        return not (yield proof)
    except Broken:
        return False


def _line(message: bytes) -> bytes:
    """A message, which the helper is given as a line."""
    if any(byte < 32 or byte == 127 for byte in message):
        raise Malformed
    return message
