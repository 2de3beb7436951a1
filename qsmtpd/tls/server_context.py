"""What TLS in this process needs, once it is made; context.py makes it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from OpenSSL import SSL


class ServerContext:
    """What OpenSSL needs to be a server, and what of the settings it does without.

    `remarks` are for the log of each handshake; `wrong` are files that cannot be
    used, and why.
    """

    __slots__ = ("context", "remarks", "wrong")

    def __init__(self, context: SSL.Context) -> None:
        self.context = context
        self.remarks: list[str] = []
        self.wrong: list[tuple[str, str]] = []
