"""The DMARC Policy Record of a domain (RFC 9989, 4.7 and 4.8): what its text says.

Anybody can publish one.  What is no record, is none; of one that is, what makes no sense
does not count, nor do tags that nobody knows, among them pct, rf and ri of RFC 7489.  A tag
that is there twice makes no sense (RFC 6376, 3.2).
"""

from __future__ import annotations

NONE, QUARANTINE, REJECT = POLICIES = ("none", "quarantine", "reject")
#: A longer record is not read (bytes): a list of URIs has some hundred.
LENGTH_LIMIT = 4096
_WSP = b" \t"
_LETTERS = b"abcdefghijklmnopqrstuvwxyz"
_SCHEME = _LETTERS + b"0123456789+-."
_HEX = b"0123456789ABCDEFabcdef"
#: RFC 3986, 2.2 and 2.3, but for `!` and `,`, which are written as %21 and %2C there.
_URI = _LETTERS + _LETTERS.upper() + b"0123456789-._~:/?#[]@$&'()*+;=%"


class Record:
    """What a domain says: three policies, and what they are applied with.

    `p` is the policy for the domain itself, `sp` for the names below it, `np` for those of
    them that do not exist, with p where the record has none of its own; `has_np`: it has.
    `psd` is `y`, `n` or `u`; `testing`: one degree less is wanted (t=y); `strict_dkim` and
    `strict_spf`: only the same domain will do (adkim=s, aspf=s).

    `problem` is b"", or why no policy can be told, nor even that there is none.
    """

    __slots__ = (
        *("p", "sp", "np", "has_np", "psd", "testing"),
        *("strict_dkim", "strict_spf", "problem"),
    )

    def __init__(self, tags: dict[bytes, bytes | None]) -> None:
        def word(name: bytes, words: tuple[str, ...], usual: str) -> str:
            found = (tags.get(name) or b"").lower().decode("ascii", "replace")
            return found if found in words else usual

        self.psd = word(b"psd", ("y", "n", "u"), "u")
        self.testing = word(b"t", ("y", "n"), "n") == "y"
        self.strict_dkim = word(b"adkim", ("r", "s"), "r") == "s"
        self.strict_spf = word(b"aspf", ("r", "s"), "r") == "s"
        self.problem = b""
        self.p = word(b"p", POLICIES, "")
        self.sp = word(b"sp", POLICIES, "")
        self.np = word(b"np", POLICIES, "")
        wrong = [
            name
            for name, found in ((b"p", self.p), (b"sp", self.sp), (b"np", self.np))
            if not found and (name in tags or name == b"p")
        ]
        if wrong:  # RFC 9989, 4.10.1: as if it had p=none, or as if there were no DMARC
            self.p, self.sp, self.np = NONE, "", ""
            if not _has_uri(tags.get(b"rua") or b""):
                self.problem = b"the record has no valid " + wrong[0]
        self.has_np = bool(self.np)
        self.sp = self.sp or self.p
        self.np = self.np or self.sp

    @property
    def may_reject(self) -> bool:
        """Is there a name for which it says reject?"""
        return REJECT in (self.p, self.sp, self.np) and not self.testing

    def applied(self, policy: str) -> str:
        """What is to be done of a policy of its: one degree less where it is a test."""
        if self.testing and policy != NONE:
            return POLICIES[POLICIES.index(policy) - 1]
        return policy


def is_record(text: bytes) -> bool:
    """Does a text begin with the tag that makes it one?"""
    name, _, value = text[:LENGTH_LIMIT].partition(b";")[0].partition(b"=")
    # 4.8: no blanks stand before the first tag; DMARC1 is case-sensitive, and v is not.
    return name.rstrip(_WSP) in (b"v", b"V") and value.strip(_WSP) == b"DMARC1"


def read(text: bytes) -> Record:
    """What a text says that is_record()."""
    if len(text) > LENGTH_LIMIT:
        found = Record({})
        found.problem = b"the record is longer than %d bytes" % LENGTH_LIMIT
        return found
    tags: dict[bytes, bytes | None] = {}
    for part in text.split(b";"):
        name, equals, value = part.partition(b"=")
        name = name.strip(_WSP).lower()
        if equals and name:
            tags[name] = None if name in tags else value.strip(_WSP)
    return Record(tags)


def _has_uri(urls: bytes) -> bool:
    """Does a list of reporting URIs have one that is written as one (RFC 3986, 3)?"""
    return any(_is_uri(url.strip(_WSP)) for url in urls.split(b","))


def _is_uri(text: bytes) -> bool:
    text = _without_size(text)
    scheme, colon, rest = text.partition(b":")
    scheme = scheme.lower()
    if not colon or not scheme or scheme[:1].strip(_LETTERS) or scheme.strip(_SCHEME):
        return False
    _, *escapes = rest.split(b"%")
    return not rest.translate(None, _URI) and all(
        len(escape) >= 2 and not escape[:2].strip(_HEX) for escape in escapes
    )


def _without_size(text: bytes) -> bytes:
    """A URI without the size that RFC 7489 allowed behind it, as in `!10m`."""
    url, mark, size = text.rpartition(b"!")
    digits = size[:-1] if size[-1:].lower() in (b"k", b"m", b"g", b"t") else size
    return url if mark and digits.isdigit() else text
