"""A mechanism that a peer carries out: what the client says is passed on, and what the peer says.

What a peer says along with its yes is a last challenge, to which the response
is empty: SMTP has no place for it in its 235 (RFC 4422, 3.6; RFC 4954, 4).
"""

from __future__ import annotations

from . import ACCEPTED, Answer, Context, Malformed, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Exchange


def exchange(initial: bytes | None, context: Context) -> Exchange:
    answer: Answer = yield Message(initial)
    while answer.verdict is None:
        answer = yield Message((yield answer.message))
    if answer.verdict == ACCEPTED and answer.message and (yield answer.message):
        raise Malformed
    return answer
