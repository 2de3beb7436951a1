"""OAUTHBEARER (RFC 7628): a token in place of a password; the identity is the user."""

from __future__ import annotations

from . import REFUSED, Answer, Context, Malformed, bearer, gs2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Exchange

#: RFC 7628, 3.2.2.
REASON = b'{"status":"invalid_token"}'


def exchange(initial: bytes | None, context: Context) -> Exchange:
    response = (yield b"") if initial is None else initial
    header, separator, text = response.partition(b"\1")
    flag, user, rest = gs2.split(header)
    if not separator or rest:
        raise Malformed
    said = bearer.fields(text)
    if b"auth" not in said:
        raise Malformed
    if flag == gs2.BINDS:
        return Answer(REFUSED, user)
    answer: Answer = yield from bearer.judge(user, said[b"auth"], REASON)
    return answer
