"""EXTERNAL (RFC 4422, appendix A): who the client is, its certificate has said already.

Its response is the identity that it wants to act as: empty, or the user that
control/tlsclients names for its certificate.
"""

from __future__ import annotations

from . import ACCEPTED, REFUSED, Answer, Context, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Exchange


def exchange(initial: bytes | None, context: Context) -> Exchange:
    response = (yield b"") if initial is None else initial
    if b"\0" in response:
        raise Malformed
    assert context.certified is not None
    same = response in (b"", context.certified)
    return Answer(ACCEPTED if same else REFUSED, context.certified)
