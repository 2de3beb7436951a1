"""AUTH: the dialogue of RFC 4954 around a SASL mechanism."""

from __future__ import annotations

import binascii

from ..config.session import AUTH_LIMIT
from ..net.channel import LineTooLong
from ..smtp import replies
from ..smtp.command import content
from . import sasl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import AuthSettings
    from ..facts import Peer, Reply
    from ..net.channel import Channel
    from .sasl import Credentials


class Result:
    """What came of an AUTH: the reply, and who the client is or claimed to be.

    `verdict` is sasl.ACCEPTED, REFUSED or TEMPORARY, or None where nobody was
    asked because the exchange itself failed.
    """

    __slots__ = ("reply", "verdict", "user", "mechanism")

    def __init__(
        self, reply: Reply, verdict: str | None = None, user: bytes = b"", mechanism: bytes = b""
    ) -> None:
        self.reply = reply
        self.verdict = verdict
        self.user = user
        self.mechanism = mechanism


_REPLIES = {
    sasl.ACCEPTED: replies.AUTH_OK,
    sasl.REFUSED: replies.AUTH_FAILED,
    sasl.TEMPORARY: replies.AUTH_TEMPORARY,
}


class _Cancelled(Exception):
    """The client has sent `*`."""


def authenticate(channel: Channel, argument: bytes, settings: AuthSettings, peer: Peer) -> Result:
    """Carry out `AUTH argument`.  Raises what the channel raises, but LineTooLong."""
    name, _, initial = argument.partition(b" ")
    name, initial = name.upper(), initial.lstrip(b" ")
    if name not in settings.mechanisms:
        return Result(replies.AUTH_UNKNOWN)
    try:
        first = _decode_initial(initial)
        host = peer.local_host if settings.host is None else settings.host
        exchange = sasl.MECHANISMS[name](first, sasl.make_challenge(host))
        credentials = _converse(channel, exchange)
    except LineTooLong:
        return Result(replies.AUTH_TOO_LONG)
    except _Cancelled:
        return Result(replies.AUTH_CANCELLED)
    except (sasl.Malformed, binascii.Error):
        return Result(replies.AUTH_MALFORMED)
    verdict = sasl.check(credentials, settings, peer.environ)
    return Result(_REPLIES[verdict], verdict, credentials.user, name)


def _converse(channel: Channel, exchange: sasl.Exchange) -> Credentials:
    """Pass challenges and responses on until the mechanism has what it wants."""
    try:
        challenge = next(exchange)
        while True:
            channel.write(b"334 " + binascii.b2a_base64(challenge, newline=False) + b"\r\n")
            response = content(channel.line(AUTH_LIMIT))
            if response == b"*":
                raise _Cancelled
            challenge = exchange.send(_decode(response))
    except StopIteration as stop:
        credentials: Credentials = stop.value
        return credentials


def _decode_initial(text: bytes) -> bytes | None:
    """`=` stands for an empty initial response (RFC 4954, 4), and nothing for none."""
    if not text:
        return None
    return b"" if text == b"=" else _decode(text)


def _decode(text: bytes) -> bytes:
    """Base64 in its one right spelling; else binascii.Error."""
    decoded = binascii.a2b_base64(text, strict_mode=True)
    if binascii.b2a_base64(decoded, newline=False) != text:
        raise binascii.Error("not the canonical spelling")
    return decoded
