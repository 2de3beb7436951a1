"""dkimsignature: a DKIM-Signature field (RFC 6376, 3.5): what it says, and what it is over."""

from __future__ import annotations

from binascii import a2b_base64

from ..net.dns.message import domain, mail_domain
from ..smtp.canonical import relaxed_field, simple_field
from ..smtp.header import is_name
from ..smtp.taglist import FWS, parse, without_value, words
from .dkimresult import NEUTRAL, PERMERROR, POLICY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Fields = Sequence[tuple[bytes, bytes]]

NAME = b"dkim-signature"
#: One with a key of 4096 bits has some 700 bytes, and the names of what it signs.
LENGTH_LIMIT = 16 * 1024
DIGEST_SHOWN = 8  # characters of b= (RFC 8601, 2.7.1, by RFC 6008)
#: By how much a clock may be wrong (seconds).
CLOCK_SLACK = 300
_REQUIRED = (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
_HOST = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
_DIGITS = b"0123456789"
RSA, ED25519, RSA_SHA1 = b"rsa-sha256", b"ed25519-sha256", b"rsa-sha1"


class Unverified(Exception):
    """Why a signature is no pass: one of dkimresult.RESULTS, and a text for people."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(result, reason)
        self.result = result
        self.reason = reason


class SignatureField:
    """What it says.  `problem` is why it cannot be verified, or None; the rest then may lack.

    `key_name` is where its key is in the DNS.  `relaxed_header` and `relaxed_body` say in
    which form it is over them; `names` are the fields that it is over, in lower case; `length`
    is how much of the body, or None: all.
    """

    __slots__ = (
        *("domain", "selector", "algorithm", "digest", "problem", "key_name", "relaxed_header"),
        *("relaxed_body", "names", "length", "body_hash", "signature", "subdomain", "_place"),
    )

    def __init__(self, fields: Fields, place: int, now: float) -> None:
        self.domain = self.selector = self.algorithm = self.digest = b""
        self.key_name = self.body_hash = self.signature = b""
        self.relaxed_header = self.relaxed_body = self.subdomain = False
        self.names: list[bytes] = []
        self.length: int | None = None
        self.problem: Unverified | None = None
        self._place = place
        try:
            self._read(fields[place][1].partition(b":")[2], now)
            self._expect_author(fields)
        except Unverified as problem:
            self.problem = problem

    def _read(self, text: bytes, now: float) -> None:
        if len(text) > LENGTH_LIMIT:
            raise Unverified(NEUTRAL, "the signature is too long")
        tags = parse(text)
        if tags is None:
            raise Unverified(NEUTRAL, "the signature is no list of tags")
        self._name(tags)
        for tag in _REQUIRED:
            if not tags.get(tag):
                raise Unverified(NEUTRAL, f"the signature has no {tag.decode('ascii')}=")
        if tags[b"v"] != b"1":
            raise Unverified(NEUTRAL, "the signature is of another version")
        if not self.domain:
            raise Unverified(NEUTRAL, "d= is no domain")
        if not self.key_name:
            raise Unverified(NEUTRAL, "s= is no selector")
        if self.algorithm == RSA_SHA1:  # RFC 8301, 3.1
            raise Unverified(PERMERROR, "rsa-sha1 is not to be used")
        if self.algorithm not in (RSA, ED25519):
            raise Unverified(NEUTRAL, "a= is no algorithm that is known")
        self._read_forms(tags.get(b"c", b"simple").lower())
        if b"q" in tags and b"dns/txt" not in words(tags[b"q"]):
            raise Unverified(NEUTRAL, "q= names no way to the key that is known")
        self.signature, self.body_hash = _base64(tags, b"b"), _base64(tags, b"bh")
        self.names = words(tags[b"h"])
        if not all(map(is_name, self.names)):
            raise Unverified(NEUTRAL, "h= is no list of names")
        self._read_user(tags.get(b"i"))
        self.length = _number(tags, b"l", 76)
        self._read_times(tags, now)

    def _name(self, tags: dict[bytes, bytes]) -> None:
        """What a result is to be named by, also where the rest makes no sense."""
        self.algorithm = tags.get(b"a", b"").lower()
        self.digest = b"".join(tags.get(b"b", b"").split())[:DIGEST_SHOWN]
        self.selector = tags.get(b"s", b"")
        found = mail_domain(tags.get(b"d", b""))
        if found is not None and not found.strip(_HOST):
            self.domain = found
            name = domain(self.selector + b"._domainkey." + found)
            if name is not None and not name.strip(_HOST):
                self.key_name = name

    def _read_forms(self, forms: bytes) -> None:
        header, _, body = forms.partition(b"/")
        if not {header, body or b"simple"} <= {b"simple", b"relaxed"}:
            raise Unverified(NEUTRAL, "c= is no canonicalization that is known")
        self.relaxed_header, self.relaxed_body = header == b"relaxed", body == b"relaxed"

    def _read_user(self, user: bytes | None) -> None:
        """i=, whose domain is d= or below it."""
        if user is None:
            return
        _, at, name = user.rpartition(b"@")
        found = mail_domain(name)
        if not at or found is None or not (b"." + found).endswith(b"." + self.domain):
            raise Unverified(PERMERROR, "the domain of i= is not below d=")
        self.subdomain = found != self.domain

    def _read_times(self, tags: dict[bytes, bytes], now: float) -> None:
        start, end = _number(tags, b"t", 12), _number(tags, b"x", 12)
        if start is not None and end is not None and end <= start:
            raise Unverified(NEUTRAL, "the signature expires before it begins")
        if end is not None and end < now - CLOCK_SLACK:
            raise Unverified(POLICY, "the signature has expired")
        if start is not None and start > now + CLOCK_SLACK:
            raise Unverified(POLICY, "the signature is of the future")

    def _expect_author(self, fields: Fields) -> None:
        """Each From has to be signed (5.4): of several, readers show another one (8.15)."""
        count = sum(name == b"from" for name, _ in fields)
        if self.names.count(b"from") < max(1, count):
            raise Unverified(PERMERROR, "a From line is not signed")

    def signed(self, fields: Fields, canonical: Callable[[int, bool], bytes]) -> list[bytes]:
        """The texts that it is over, in their order; canonical(number, relaxed) is a field's.

        Of several fields with a name the last one comes first; a name that is there more often
        than its fields are says that there are no more (5.4.2).
        """
        places: dict[bytes, list[int]] = {}
        for place, (name, _) in enumerate(fields):
            if place != self._place:
                places.setdefault(name, []).append(place)
        texts = [
            canonical(places[name].pop(), self.relaxed_header)
            for name in self.names
            if places.get(name)
        ]
        name, colon, value = fields[self._place][1].partition(b":")
        own = name + colon + without_value(value.removesuffix(b"\n"), b"b")
        own = relaxed_field(own) if self.relaxed_header else simple_field(own)
        return [*texts, own.removesuffix(b"\r\n")]


def _base64(tags: dict[bytes, bytes], tag: bytes) -> bytes:
    try:
        return a2b_base64(tags[tag].translate(None, FWS), strict_mode=True)
    except ValueError:
        raise Unverified(NEUTRAL, f"{tag.decode('ascii')}= is no base64") from None


def _number(tags: dict[bytes, bytes], tag: bytes, digits: int) -> int | None:
    text = tags.get(tag)
    if text is None:
        return None
    if not 0 < len(text) <= digits or text.strip(_DIGITS):
        raise Unverified(NEUTRAL, f"{tag.decode('ascii')}= is no number")
    return int(text)
