"""Which way to TLS a connection has: in this process, by a helper, or done in front."""

from __future__ import annotations

from time import monotonic

from ..net.descriptors import Gone, Timeout
from .errors import HandshakeFailed, NeverSpoke, Unavailable, explain
from .settings import EXTERNAL, IMPLICIT, OFF, STARTTLS, UCSPI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from ..facts import Tls
    from ..net.channel import Channel
    from .server_context import ServerContext
    from .settings import TlsSettings

    class TlsProvider(Protocol):
        """A way to get from plain text to TLS."""

        def prepare(self) -> None:
            """Make ready; the client has been told nothing yet.  Raises Unavailable."""

        def open(self, channel: Channel) -> Tls:
            """Do the handshake and change the channel's transport.  Raises HandshakeFailed."""


def external(tls: TlsSettings, environ: Mapping[bytes, bytes]) -> Tls | None:
    """What a front end says of the encryption that it does; None in every other mode."""
    if tls.mode != EXTERNAL:
        return None
    from .external import describe

    return tls.judge(describe(environ.items()))


def find(tls: TlsSettings) -> TlsProvider | None:
    """The provider of TLS, or None where there is none.  Raises Unavailable.

    That of this process is there when its files look right; that they are
    right is known when it is prepared.
    """
    if tls.problem is not None and tls.mode not in (OFF, EXTERNAL):
        raise Unavailable(tls.problem)
    if tls.mode == UCSPI:
        if tls.descriptors is None:
            raise Unavailable("SSLCTLFD, SSLREADFD and SSLWRITEFD are not three open descriptors")
        from .ucspitls import UcspiTlsProvider

        return UcspiTlsProvider(tls, tls.descriptors)
    if tls.mode in (STARTTLS, IMPLICIT):
        if not tls.pairs:
            raise Unavailable("there is no certificate")
        provider = OpensslProvider(tls)
        if provider.ready:
            return provider
        for pair in tls.pairs:
            problem = pair.problem()
            if problem is not None:
                raise Unavailable(problem)
        return provider
    assert tls.mode in (OFF, EXTERNAL)
    return None


class OpensslProvider:
    """TLS in this process: it needs nothing but a certificate.

    Most sessions are offered TLS and do not start it; so all that it needs
    (openssl.py), and pyOpenSSL above all, is imported when somebody does.
    """

    __slots__ = ("_settings", "_context")

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        # A warm server has it already (see context.py).
        self._context: ServerContext | None = settings.kept_context()

    @property
    def ready(self) -> bool:
        """Is there nothing left to prepare?"""
        return self._context is not None

    def prepare(self) -> None:
        """Import pyOpenSSL and load the certificates.  Raises Unavailable."""
        if self._context is not None:
            return
        load_library()
        from .context import keep

        try:
            self._context = keep(self._settings)
        except Unavailable:
            raise
        except Exception as error:
            raise Unavailable(explain(error)) from error

    def open(self, channel: Channel) -> Tls:
        """Do the handshake and go over to TLS.  Raises HandshakeFailed."""
        assert self._context is not None, "prepare() comes first"
        from .openssl import TlsTransport

        transport = TlsTransport(self._context.context, channel.transport)
        try:
            transport.handshake(monotonic() + self._settings.timeout)
        except Timeout as error:
            raise HandshakeFailed("the client took too long") from error
        except Gone as error:
            kind = HandshakeFailed if transport.heard else NeverSpoke
            raise kind("the client went away") from error
        channel.change_transport(transport)
        tls = transport.facts()
        tls.remarks += self._context.remarks
        return self._settings.judge(tls)


def load_library() -> None:
    """Import pyOpenSSL, and what is ours around it.  Raises Unavailable."""
    try:
        _import_threading()
        try:
            import OpenSSL.SSL  # noqa: F401
        except ImportError:
            # Our launcher started Python without site, and so without its packages.
            import site

            site.main()
        from . import context, openssl  # noqa: F401  (once we have said 220, no import may fail)
    except ImportError as error:
        raise Unavailable(f"pyOpenSSL cannot be imported: {error}") from error
    except Exception as error:  # one that does not fit the rest of the system, say
        raise Unavailable(explain(error)) from error


def _import_threading() -> None:
    """Import what pyOpenSSL does; no thread must have been started.

    It would make its inner state anew in each process that qsmtpd-server forks.  Without threads
    that stays right.  That it does nothing saves a session of a server with a certificate 0.2 to
    0.3 MB of copied memory and 5 to 11 % of the page faults (November 2026).
    """
    import os

    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        import threading  # noqa: F401
    finally:
        os.register_at_fork = register
