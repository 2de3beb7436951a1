"""What OAUTHBEARER and XOAUTH2 share: fields with a ^A behind each, and a token (RFC 6750)."""

from __future__ import annotations

from . import REFUSED, Answer, Broken, Credentials, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Exchange

_KEY = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_VALUE = frozenset(range(32, 127)) | frozenset(b"\t\r\n")
_TOKEN = _KEY | frozenset(b"0123456789-._~+/")


def fields(text: bytes) -> dict[bytes, bytes]:
    """`key=value ^A key=value ^A ^A` -> what each key says (RFC 7628, 3.1).  Raises Malformed."""
    pairs = text.split(b"\1")
    if len(pairs) < 3 or pairs[-2:] != [b"", b""]:
        raise Malformed
    found: dict[bytes, bytes] = {}
    for pair in pairs[:-2]:
        key, equals, value = pair.partition(b"=")
        if not equals or not key or not _KEY.issuperset(key) or key in found:
            raise Malformed
        if not _VALUE.issuperset(value):
            raise Malformed
        found[key] = value
    return found


def token(auth: bytes) -> bytes:
    """The token of `Bearer TOKEN` (RFC 6750, 2.1).  Raises Malformed."""
    scheme, _, text = auth.partition(b" ")
    text = text.lstrip(b" ")
    if (
        scheme.lower() != b"bearer"
        or not text.strip(b"=")
        or not _TOKEN.issuperset(text.rstrip(b"="))
    ):
        raise Malformed
    return text


def judge(user: bytes, auth: bytes, why: bytes) -> Exchange:
    """Have the token judged.  A client whose token is refused is told why, and answers that."""
    answer: Answer = yield Credentials(user, token(auth))
    if answer.verdict == REFUSED:
        try:
            yield why  # the response is ^A, empty or `*`: it changes nothing
        except Broken:
            pass
    return answer
