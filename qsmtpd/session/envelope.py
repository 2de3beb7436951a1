"""MAIL and RCPT: from their arguments to an envelope."""

from __future__ import annotations

from ..config.session import UTF8_OFF
from ..facts import Envelope
from ..smtp import replies
from ..smtp.address import (
    check_xtext,
    parse_parameters,
    parse_path,
    parse_size,
    split_literal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.session import SessionSettings
    from ..facts import Reply


class BadPath(Exception):
    """An argument of MAIL or RCPT that makes no sense: the `reply`, the `address` if it has one."""

    def __init__(self, reply: Reply, address: bytes | None = None) -> None:
        super().__init__(reply)
        self.reply = reply
        self.address = address


def sender(argument: bytes, settings: SessionSettings) -> Envelope:
    """The argument of MAIL -> an envelope without recipients.  Raises BadPath."""
    address, parameters = _path(argument, settings)
    if not parameters:
        return Envelope(address)
    try:
        size = parse_size(parameters[b"SIZE"]) if b"SIZE" in parameters else 0
        if b"AUTH" in parameters:
            # Nothing is done with it: who the client is, is known.
            check_xtext(parameters[b"AUTH"])
        body = parameters.get(b"BODY", b"7BIT") or b""
        if body.upper() not in (b"7BIT", b"8BITMIME"):  # RFC 6152, 2
            raise ValueError(body)
        utf8 = b"SMTPUTF8" in parameters and settings.utf8 != UTF8_OFF
        if utf8 and parameters[b"SMTPUTF8"] is not None:  # RFC 6531, 3.4
            raise ValueError(parameters[b"SMTPUTF8"])
    except ValueError as error:
        raise BadPath(replies.BAD_PARAMETER, address) from error
    _check_bytes(address, parameters, utf8)
    if settings.data.databytes and size > settings.data.databytes:
        raise BadPath(settings.data.too_big, address)
    return Envelope(address, parameters, size, utf8)


def recipient(argument: bytes, settings: SessionSettings, utf8: bool) -> bytes:
    """The argument of RCPT -> an address; `utf8` is the envelope's.  Raises BadPath."""
    address, parameters = _path(argument, settings)
    if parameters or utf8:
        _check_bytes(address, parameters, utf8)
    return address


def address_of(address: bytes, settings: SessionSettings) -> bytes | None:
    """An address as it goes into the envelope, or None for one that is too long for it.

    One at an address literal of ours is at localiphost.
    """
    literal = split_literal(address) if address.endswith(b"]") else None
    if literal is not None and settings.localiphost is not None:
        from ..net.ip import is_local

        box, text = literal
        if is_local(text):
            address = box + b"@" + settings.localiphost
    # The limit counts the NUL that ends an address in the envelope.
    return address if len(address) < settings.limits.address else None


def _check_bytes(address: bytes, parameters: dict[bytes, bytes | None], utf8: bool) -> None:
    """With SMTPUTF8 all is to be UTF-8; without, only an address may have bytes over 127.

    Raises BadPath, and ControlError where a domain cannot be checked.
    """
    values = b"".join(value or b"" for value in parameters.values())
    if not utf8:
        if not values.isascii():
            raise BadPath(replies.BAD_PARAMETER, address)
        return
    from ..smtp.utf8 import check, check_address

    try:
        check_address(address)
    except ValueError as error:
        raise BadPath(replies.UTF8_ADDRESS, address) from error
    try:
        check(values)
    except ValueError as error:
        raise BadPath(replies.BAD_PARAMETER, address) from error


def _path(argument: bytes, settings: SessionSettings) -> tuple[bytes, dict[bytes, bytes | None]]:
    """(the address, the parameters)"""
    path, rest = parse_path(argument)
    address = address_of(path, settings)
    if address is None:
        raise BadPath(replies.SYNTAX)
    if not rest:
        return address, {}
    try:
        return address, parse_parameters(rest)
    except ValueError as error:
        raise BadPath(replies.BAD_PARAMETER, address) from error
