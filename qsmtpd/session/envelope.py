"""MAIL and RCPT: from their arguments to an envelope."""

from __future__ import annotations

from ..facts import Envelope
from ..smtp import replies
from ..smtp.address import (
    BadParameter,
    check_xtext,
    parse_parameters,
    parse_path,
    parse_size,
    split_literal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import Limits


class Refused(Exception):
    """The argument makes no sense, or too much of it: the `reply`."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


def sender(argument: bytes, limits: Limits) -> Envelope:
    """The argument of MAIL -> an envelope without recipients.  Raises Refused."""
    try:
        address, parameters = _path(argument, limits)
        size = parse_size(parameters[b"SIZE"]) if b"SIZE" in parameters else 0
        if b"AUTH" in parameters:
            # Nothing is done with it: who the client is, is known.
            check_xtext(parameters[b"AUTH"])
        body = parameters.get(b"BODY", b"7BIT") or b""
        if body.upper() not in (b"7BIT", b"8BITMIME"):  # RFC 6152, 2
            raise BadParameter(body)
    except BadParameter as error:
        raise Refused(replies.BAD_PARAMETER) from error
    if limits.data.databytes and size > limits.data.databytes:
        raise Refused(limits.data.too_big)
    return Envelope(address, parameters, size)


def recipient(argument: bytes, limits: Limits) -> bytes:
    """The argument of RCPT -> an address.  Raises Refused."""
    try:
        return _path(argument, limits)[0]
    except BadParameter as error:
        raise Refused(replies.BAD_PARAMETER) from error


def _path(argument: bytes, limits: Limits) -> tuple[bytes, dict[bytes, bytes | None]]:
    """(the address, the parameters)"""
    address, rest = parse_path(argument)
    literal = split_literal(address)
    if literal is not None and limits.localiphost is not None:
        from ..net.ip import is_local

        box, text = literal
        if is_local(text):
            address = box + b"@" + limits.localiphost
    # The limit counts the NUL that ends an address in the envelope.
    if len(address) >= limits.address:
        raise Refused(replies.SYNTAX)
    return address, parse_parameters(rest)
