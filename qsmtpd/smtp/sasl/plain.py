"""PLAIN (RFC 4616): authorization identity NUL user NUL password.

A client is who it can prove to be: as another it is refused.
"""

from __future__ import annotations

from . import REFUSED, Answer, Context, Credentials, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Exchange


def exchange(initial: bytes | None, context: Context) -> Exchange:
    response = (yield b"") if initial is None else initial
    fields = response.split(b"\0")
    if len(fields) != 3:
        raise Malformed
    identity, user, password = fields
    credentials = Credentials(user, password)
    if identity not in (b"", user):
        return Answer(REFUSED, user)
    answer: Answer = yield credentials
    return answer
