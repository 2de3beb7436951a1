"""UCSPI-TLS: a helper of the server does the encryption when asked.

We write one byte, `Y`, to the control descriptor.  From then on the helper owns
the client's socket; it does the handshake, reports it as NAME=value NUL … NUL
on the control descriptor, and we go on reading and writing plain text on two
pipes (ucspi-tls(2); s6-ucspitlsd has the same protocol).

The control descriptor is never closed in a plain session: to sslserver that
is an end, and it kills us.
"""

from __future__ import annotations

import os
import select
from time import monotonic

from .. import waits
from ..net.descriptors import Descriptors
from .errors import HandshakeFailed
from .external import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Tls
    from ..net.channel import Channel
    from .settings import TlsSettings

#: A report with a certificate is trusted if it does not go on for so long (seconds).
AFTERTHOUGHT = 0.1
BLOCK_LIMIT = 65536  # bytes; sslserver's report is a few thousand


class UcspiTlsProvider:
    """TLS by sslserver -n or s6-ucspitlsd."""

    __slots__ = ("_settings", "_control", "_read", "_write")

    def __init__(self, settings: TlsSettings, descriptors: tuple[int, int, int]) -> None:
        self._settings = settings
        self._control, self._read, self._write = descriptors

    def prepare(self) -> None:
        """There is nothing to prepare: the helper has the certificate."""

    def open(self, channel: Channel) -> Tls:
        """Have the helper do the handshake, and go over to its pipes.

        Raises HandshakeFailed.
        """
        deadline = monotonic() + self._settings.timeout
        try:
            os.write(self._control, b"Y")
        except OSError as error:
            raise HandshakeFailed(f"the helper is gone: {error.strerror}") from error
        # The client's socket is the helper's now, whatever comes of it.
        channel.change_transport(Descriptors(self._read, self._write))
        report, whole = self._report(deadline)
        channel.helper = True
        tls = describe(_entries(report))
        if tls.fingerprint is not None and not (whole and self._is_silent()):
            # The two NULs were not the end: they stood in a certified name,
            # and hide what the helper says of the certificate behind them.
            tls.fingerprint = None
            tls.remarks.append("the helper's report goes on behind its end: forged")
        return self._settings.judge(tls)

    def _report(self, deadline: float) -> tuple[bytes, bool]:
        """The report up to its two NULs, and whether nothing has come behind them."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        report = b""
        while b"\0\0" not in report:
            waits.check()
            if not waits.wait(poll, deadline):
                if monotonic() < deadline:
                    continue
                raise HandshakeFailed("the helper took too long")
            try:
                part = os.read(self._control, 4096)
            except BlockingIOError:
                continue
            except OSError as error:
                raise HandshakeFailed(f"the helper is gone: {error.strerror}") from error
            if not part:
                raise HandshakeFailed("the handshake failed, says the helper")
            report += part
            if len(report) > BLOCK_LIMIT:
                raise HandshakeFailed("the helper's report has no end")
        entries, _, rest = report.partition(b"\0\0")
        return entries, not rest

    def _is_silent(self) -> bool:
        """Does nothing more come on the control descriptor, for a moment?  Its end may."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        try:
            ready = waits.wait(poll, monotonic() + AFTERTHOUGHT)
            return not ready or not os.read(self._control, 1)
        except OSError:
            return True


def _entries(report: bytes) -> list[tuple[bytes, bytes | None]]:
    """`NAME=value` entries; a bare `NAME` is one that has no value (s6)."""
    entries = []
    for entry in report.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        entries.append((name, value if equals else None))
    return entries
