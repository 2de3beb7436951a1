"""The header that SCRAM and OAUTHBEARER begin with (RFC 5801, 4): flag, identity, and the rest."""

from __future__ import annotations

from . import Malformed

#: Channel binding: the client cannot, it could and thinks that we cannot, it does.
CANNOT, COULD, BINDS = b"n", b"y", b"p"


def split(message: bytes) -> tuple[bytes, bytes, bytes]:
    """A message -> the flag, the identity that the client wants to act as, and what follows.

    The identity is b"" where there is none.  Raises Malformed.
    """
    flag, comma, message = message.partition(b",")
    identity, second, rest = message.partition(b",")
    if not (comma and second):
        raise Malformed
    if flag.startswith(b"p=") and len(flag) > 2:
        flag = BINDS
    elif flag not in (CANNOT, COULD):
        raise Malformed
    if identity:
        if not identity.startswith(b"a="):
            raise Malformed
        identity = name(identity[2:])
    return flag, identity, rest


def name(text: bytes) -> bytes:
    """A saslname (RFC 5802, 5.1): `,` and `=` are written =2C and =3D.  Raises Malformed."""
    first, *others = text.split(b"=")
    parts = [first]
    for part in others:
        if part[:2] not in (b"2C", b"3D"):
            raise Malformed
        parts.append((b"," if part[:2] == b"2C" else b"=") + part[2:])
    found = b"".join(parts)
    try:
        found.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed from None
    if not found or b"\0" in found or b"," in text:
        raise Malformed
    return found
