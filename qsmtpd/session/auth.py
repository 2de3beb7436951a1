"""AUTH: the dialogue of RFC 4954 around an exchange of a SASL mechanism (qsmtpd/smtp/sasl/)."""

from __future__ import annotations

import binascii
import posix as os
from time import time

from ..config.session import AUTH_LIMIT
from ..facts import Lost
from ..net.channel import LineTooLong
from ..smtp import replies, sasl
from ..smtp.command import content
from ..smtp.sasl import ACCEPTED, REFUSED, TEMPORARY, Answer
from .verifiers import verifier_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import AuthSettings
    from ..facts import Client, Reply
    from ..net.channel import Channel
    from .verifiers import Verifier


class Result:
    """What came of an AUTH: the reply, and who the client is or claimed to be.

    `verdict` is ACCEPTED, REFUSED or TEMPORARY, or None where the exchange
    itself failed before there was one; `reason` says for the log why, if
    whoever was asked has.
    """

    __slots__ = ("reply", "verdict", "user", "mechanism", "reason")

    def __init__(
        self,
        reply: Reply,
        verdict: str | None = None,
        user: bytes = b"",
        mechanism: bytes = b"",
        reason: str | bytes | None = None,
    ) -> None:
        self.reply = reply
        self.verdict = verdict
        self.user = user
        self.mechanism = mechanism
        self.reason = reason


_REPLIES = {
    ACCEPTED: replies.AUTH_OK,
    REFUSED: replies.AUTH_FAILED,
    TEMPORARY: replies.AUTH_TEMPORARY,
}


class _Broken(sasl.Broken):
    """The client has sent no response: what it is told, or how it was lost."""

    def __init__(self, reply: Reply, lost: Lost | None = None) -> None:
        super().__init__()
        self.reply = reply
        self.lost = lost


def authenticate(
    channel: Channel, argument: bytes, settings: AuthSettings, client: Client
) -> Result:
    """Carry out `AUTH argument`.

    Raises what the channel raises, but LineTooLong; where there is a verdict already,
    which has to be logged and counted, that is left to whoever reads on.
    """
    name, _, initial = argument.partition(b" ")
    name, initial = name.upper(), initial.lstrip(b" ")
    verifier: Verifier
    if settings.dovecot is not None and name != b"EXTERNAL":
        from .dovecot import Dovecot

        mechanism = sasl.RELAYED
        verifier = Dovecot(settings, settings.dovecot, client)
        if not verifier.has(name):
            verifier.close()
            return Result(replies.AUTH_UNKNOWN)
    elif name in (settings.offered(client.tls) or ()):
        mechanism = sasl.MECHANISMS[name]
        verifier = verifier_of(mechanism.asks, settings, client.peer.environ)
    else:
        return Result(replies.AUTH_UNKNOWN)
    host = client.peer.local_host if settings.host is None else settings.host
    certified = None if client.tls is None else client.tls.user
    context = sasl.Context(_make_challenge(host), certified)
    try:
        exchange = mechanism.begin(_decode_initial(initial), context)
        answer, broken = _converse(channel, exchange, verifier)
    except _Broken as broken:
        if broken.lost is not None:
            raise broken.lost from None
        return Result(broken.reply)
    except sasl.Malformed:
        return Result(replies.AUTH_MALFORMED)
    finally:
        verifier.close()
    assert answer.verdict is not None
    reply = _REPLIES[answer.verdict]
    if broken is not None and broken.lost is None:
        reply = broken.reply
    return Result(reply, answer.verdict, answer.user, name, verifier.reason)


def _converse(
    channel: Channel, exchange: sasl.Exchange, verifier: Verifier
) -> tuple[Answer, _Broken | None]:
    """Give the mechanism what it asks for until it has what it wants.

    Returns also what came instead of a response, where that changed nothing.
    """
    broken = None
    try:
        wanted = next(exchange)
        while True:
            if not isinstance(wanted, bytes):
                wanted = exchange.send(verifier.ask(wanted))
                continue
            channel.write(b"334 " + binascii.b2a_base64(wanted, newline=False) + b"\r\n")
            try:
                response = _response(channel)
            except _Broken as error:
                broken = error
                wanted = exchange.throw(error)
            else:
                wanted = exchange.send(response)
    except StopIteration as stop:
        return stop.value, broken


def _response(channel: Channel) -> bytes:
    """The next line, decoded.  Raises _Broken, and of Lost nothing but that."""
    try:
        line = content(channel.line(AUTH_LIMIT))
    except LineTooLong:
        raise _Broken(replies.AUTH_TOO_LONG) from None
    except Lost as lost:
        raise _Broken(replies.AUTH_CANCELLED, lost) from lost
    if line == b"*":
        raise _Broken(replies.AUTH_CANCELLED)
    return _decode(line)


def _decode_initial(text: bytes) -> bytes | None:
    """`=` stands for an empty initial response (RFC 4954, 4), and nothing for none."""
    if not text:
        return None
    return b"" if text == b"=" else _decode(text)


def _decode(text: bytes) -> bytes:
    """Base64 in its one right spelling; else _Broken."""
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        decoded = b""
    if binascii.b2a_base64(decoded, newline=False) != text:
        raise _Broken(replies.AUTH_MALFORMED)
    return decoded


def _make_challenge(host: bytes) -> bytes:
    """A challenge for CRAM-MD5 that was never given before, in the form of RFC 2195."""
    random = int.from_bytes(os.urandom(8), "big")
    return b"<%d.%d.%x@%b>" % (os.getpid(), time(), random, host)
