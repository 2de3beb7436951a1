"""LOGIN (draft-murchison-sasl-login-00): two questions.  The name may come as the initial response.

Outlook and older clients know no other.
"""

from __future__ import annotations

from . import Answer, Context, Credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Exchange


def exchange(initial: bytes | None, context: Context) -> Exchange:
    user = (yield b"Username:") if initial is None else initial
    password = yield b"Password:"
    answer: Answer = yield Credentials(user, password)
    return answer
