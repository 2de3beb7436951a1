"""Door 1: TLS in this process.

Most sessions see it and do not go through; so all that is behind it, and
pyOpenSSL above all, is imported when somebody does.
"""

from __future__ import annotations

from time import monotonic

from ..channel import Gone, Timeout
from .errors import HandshakeFailed, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from OpenSSL import SSL

    from ..channel import Channel
    from ..facts import Tls
    from .settings import TlsSettings


class InsideDoor:
    """The door that needs nothing but a certificate."""

    __slots__ = ("_settings", "_context")

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        # A warm server has it already (see context.py).
        self._context: SSL.Context | None = settings.kept_context()

    @property
    def ready(self) -> bool:
        """Is there nothing left to prepare?"""
        return self._context is not None

    def prepare(self) -> None:
        """Import pyOpenSSL and load the certificates.  Raises Unavailable."""
        if self._context is not None:
            return
        from .context import explain, keep

        try:
            try:
                import OpenSSL.SSL  # noqa: F401
            except ImportError:
                # Our launcher started Python without site, and so without its packages.
                import site

                site.main()
            from . import tunnel  # noqa: F401  (once we have said 220, no import may fail)

            self._context = keep(self._settings)
        except Unavailable:
            raise
        except ImportError as error:
            raise Unavailable(f"pyOpenSSL cannot be imported: {error}") from error
        except Exception as error:  # one that does not fit the rest of the system, say
            raise Unavailable(explain(error)) from error

    def open(self, channel: Channel) -> Tls:
        """Do the handshake and go over to TLS.  Raises HandshakeFailed."""
        assert self._context is not None, "prepare() comes first"
        from .tunnel import Tunnel

        tunnel = Tunnel(self._context, channel.transport)
        try:
            tunnel.handshake(monotonic() + self._settings.timeout)
        except Timeout as error:
            raise HandshakeFailed("the client took too long") from error
        except Gone as error:
            raise HandshakeFailed("the client went away") from error
        channel.change_transport(tunnel)
        return self._settings.judge(tunnel.facts())
