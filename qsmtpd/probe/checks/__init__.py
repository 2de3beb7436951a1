"""The checks of a server, in the order in which they are run."""

from __future__ import annotations

from ..check import Check
from . import chunking, credentials, handshake, injection, smuggling, starttls, state

#: The control experiment: it comes first, and always.
FIRST = starttls.CHECKS[0]

CHECKS: tuple[Check, ...] = (
    *injection.CHECKS,
    *state.CHECKS,
    *chunking.CHECKS,
    *starttls.CHECKS[1:],
    *credentials.CHECKS,
    *handshake.CHECKS,
    *smuggling.CHECKS,
)
