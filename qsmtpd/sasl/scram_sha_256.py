"""SCRAM-SHA-256 (RFC 7677): carried out by a helper, which has the keys of the users.

Only who the client says it is, is read here, for the log.
"""

from __future__ import annotations

from . import ACCEPTED, TEMPORARY, Answer, Context, Malformed, Message, checked_user

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    # SMTP has no place for a word of the server in its 235 (RFC 4954, 4).
    if answer.verdict == ACCEPTED and (yield answer.message):
        raise Malformed
    return Answer(answer.verdict, user)


def _line(message: bytes) -> bytes:
    """A message, which the helper is given as a line."""
    if any(byte < 32 or byte == 127 for byte in message):
        raise Malformed
    return message
