"""STARTTLS: from plain text to TLS, with nothing taken along (RFC 3207).

What a client sends behind STARTTLS, before the handshake, may have been put
there by somebody on the way (CVE-2011-0411).  What of it has been read is
thrown away by the channel; what is still on its way is read by the TLS engine
alone, to which it is no handshake.  Between the two nothing is read.
"""

from __future__ import annotations

from ..tls.errors import HandshakeFailed, NeverSpoke, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Reply, Tls
    from ..log import Log
    from ..net.channel import Channel
    from ..tls.provider import TlsProvider


def negotiate(channel: Channel, ready: Reply, provider: TlsProvider, log: Log) -> Tls | None:
    """Say 220, which is `ready`, and do the handshake; None where there is no TLS to be had now.

    Raises HandshakeFailed: then not another plain byte may be sent.
    """
    try:
        provider.prepare()
    except Unavailable as error:
        log.line("tls", verdict="unavailable", reason=str(error))
        return None
    channel.write(ready.wire() + b"\r\n")
    channel.flush()
    discarded = channel.discard()
    if discarded:
        log.line("starttls", discarded=discarded)
    return start(channel, provider, log)


def start(channel: Channel, provider: TlsProvider, log: Log, asked: bool = True) -> Tls:
    """The handshake, and its line in the log.  Raises HandshakeFailed.

    `asked`: the client has; who has said nothing at all, as a health check, has had no failure.
    """
    try:
        tls = provider.open(channel)
    except HandshakeFailed as error:
        if asked or not isinstance(error, NeverSpoke):
            log.line("tls", verdict="failed", reason=str(error))
        raise
    except Exception as error:
        # Whatever it was, the client is in the middle of a handshake.
        log.line("tls", verdict="failed", reason=f"{type(error).__name__}: {error}")
        raise HandshakeFailed from error
    log_tls(log, tls)
    return tls


def log_tls(log: Log, tls: Tls) -> None:
    """Say how the session is encrypted, and who the client has shown to be."""
    log.line(
        "tls",
        verdict="on",
        protocol=tls.protocol or "unknown",
        cipher=tls.cipher or "unknown",
        group=tls.group,
        sni=tls.sni,
        fingerprint=tls.fingerprint,
        listed="yes" if tls.listed else None,
        reason="; ".join(tls.remarks) or None,
    )
