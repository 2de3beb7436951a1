"""Which door this connection has."""

from __future__ import annotations

from .errors import Unavailable
from .settings import EXTERNAL, IMPLICIT, OFF, STARTTLS, UCSPI, ucspi_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..channel import Channel
    from ..control import Settings
    from ..facts import Tls
    from .settings import TlsSettings

    class Door(Protocol):
        """A way to get from plain text to TLS."""

        def prepare(self) -> None:
            """Make ready; the client has been told nothing yet.  Raises Unavailable."""

        def open(self, channel: Channel) -> Tls:
            """Do the handshake and change the channel's transport.  Raises HandshakeFailed."""


def external(settings: Settings, tls: TlsSettings) -> Tls | None:
    """What a front end says of the encryption that it does; None in every other mode."""
    if tls.mode != EXTERNAL:
        return None
    from .environ import describe

    return tls.judge(describe(settings.environ.items()))


def find(settings: Settings, tls: TlsSettings) -> Door | None:
    """The door of this connection, or None where there is none.  Raises Unavailable.

    A door of the first kind is there when its files look right; that they are
    right is known when it is prepared.
    """
    if tls.mode == UCSPI:
        descriptors = ucspi_descriptors(settings)
        if descriptors is None:
            raise Unavailable("SSLCTLFD, SSLREADFD and SSLWRITEFD are not three open descriptors")
        from .helper import HelperDoor

        return HelperDoor(tls, descriptors)
    if tls.mode in (STARTTLS, IMPLICIT):
        if not tls.pairs:
            raise Unavailable("there is no certificate")
        from .inside import InsideDoor

        inside = InsideDoor(tls)
        if inside.ready:
            return inside
        for pair in tls.pairs:
            problem = pair.problem()
            if problem is not None:
                raise Unavailable(problem)
        return inside
    assert tls.mode in (OFF, EXTERNAL)
    return None
