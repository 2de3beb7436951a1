"""dkimkey: the key of a signature in the DNS (RFC 6376, 3.6.1), and the signature itself.

Imported when it is needed: the library cryptography takes longer than a session; what it
reads the form of a key by would take as long again, so that is done here.  A record is
anybody's: what the library cannot make sense of is no key.
"""

from __future__ import annotations

from binascii import a2b_base64

from ..facts import ControlError
from ..smtp.taglist import FWS, parse, words
from .dkimresult import FAIL, PERMERROR, POLICY
from .dkimsignature import ED25519, Unverified

try:
    import cryptography as cryptography
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256
except MemoryError:
    raise
except Exception as error:  # whatever the file holds, or its reading says
    raise ControlError("Python's cryptography", f"cannot be imported: {error}") from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .dkimsignature import SignatureField

#: A key of 8192 bits has 1,400 characters.
RECORD_LIMIT = 4096  # bytes
#: RFC 8301, 3.2: fewer bits are no key, and up to 4096 have to be one.
LEAST_BITS, MOST_BITS = 1024, 8192
#: With a long one a verification takes a hundred times as long.
EXPONENT_BITS = 64
#: Of several records at one name (3.6.2.2) so many are tried.
KEYS_LIMIT = 4


class Key:
    """A key for a signature; `testing`: its domain is only testing DKIM."""

    __slots__ = ("testing", "_public")

    def __init__(self, tags: dict[bytes, bytes], field: SignatureField) -> None:
        self.testing = False
        flags = words(tags.get(b"t", b""))
        self.testing = b"y" in flags
        if not tags[b"p"]:
            raise Unverified(PERMERROR, "the key has been revoked")
        is_ed25519 = field.algorithm == ED25519
        if tags.get(b"k", b"rsa").lower() != (b"ed25519" if is_ed25519 else b"rsa"):
            raise Unverified(PERMERROR, "the key is for another algorithm")
        if b"h" in tags and b"sha256" not in words(tags[b"h"]):
            raise Unverified(PERMERROR, "the key is for another hash")
        if b"s" in tags and not {b"*", b"email"} & set(words(tags[b"s"])):
            raise Unverified(PERMERROR, "the key is not for mail")
        if b"s" in flags and field.subdomain:
            raise Unverified(PERMERROR, "the key is not for names below its domain")
        try:
            data = a2b_base64(tags[b"p"].translate(None, FWS), strict_mode=True)
            self._public: RSAPublicKey | Ed25519PublicKey = (
                Ed25519PublicKey.from_public_bytes(data) if is_ed25519 else _rsa_key(data)
            )
        except (MemoryError, Unverified):
            raise
        except Exception:
            raise Unverified(PERMERROR, "the key makes no sense") from None

    def fits(self, signature: bytes, digest: bytes) -> bool:
        """Is it the signature, by this key, of what has this SHA-256?"""
        try:
            if isinstance(self._public, Ed25519PublicKey):
                self._public.verify(signature, digest)  # RFC 8463, 3
            else:
                self._public.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))
        except InvalidSignature:
            return False
        return True


#: rsaEncryption, with no parameters (RFC 3279, 2.3.1).
_RSA = bytes.fromhex("06092a864886f70d010101")
_INTEGER, _BITS, _SEQUENCE = 0x02, 0x03, 0x30


def _rsa_key(der: bytes) -> RSAPublicKey:
    """A SubjectPublicKeyInfo (RFC 5280, 4.1), or the RSAPublicKey in it (RFC 8017, A.1.1).

    Raises ValueError, or Unverified where its numbers will not do.
    """
    inside, _ = _element(der, _SEQUENCE)
    if inside[:1] == bytes((_SEQUENCE,)):
        algorithm, rest = _element(inside, _SEQUENCE)
        if not algorithm.startswith(_RSA):
            raise Unverified(PERMERROR, "the key is for another algorithm")
        bits, _ = _element(rest, _BITS)
        inside, _ = _element(bits[1:], _SEQUENCE)
    modulus, rest = _element(inside, _INTEGER)
    exponent, _ = _element(rest, _INTEGER)
    n, e = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    size = n.bit_length()
    if size < LEAST_BITS:
        raise Unverified(POLICY, f"the key has {size} bits, too few")
    if size > MOST_BITS:
        raise Unverified(POLICY, f"the key has {size} bits, too many")
    if e.bit_length() > EXPONENT_BITS:
        raise Unverified(POLICY, "the exponent of the key is too large")
    return RSAPublicNumbers(e, n).public_key()


def _element(der: bytes, kind: int) -> tuple[bytes, bytes]:
    """The content of the element of this kind with which this begins (X.690, 8.1), and the rest."""
    if len(der) < 2 or der[0] != kind:
        raise ValueError("another element")
    length, start = der[1], 2
    if length >= 0x80:
        start += length - 0x80
        length = int.from_bytes(der[2:start], "big")
    if not start <= len(der) or length > len(der) - start:
        raise ValueError("half of an element")
    return der[start : start + length], der[start + length :]


def keys(records: Iterable[bytes], field: SignatureField) -> list[Key]:
    """The keys among these texts that can be that of a signature; there is one.

    Raises Unverified.
    """
    found: list[Key] = []
    problem = Unverified(PERMERROR, "there is no key")
    tried = 0
    for text in records:
        tags = parse(text) if len(text) <= RECORD_LIMIT else None
        if tags is None or b"p" not in tags or tags.get(b"v", b"DKIM1") != b"DKIM1":
            continue
        tried += 1
        if tried > KEYS_LIMIT:
            break
        try:
            found.append(Key(tags, field))
        except Unverified as error:
            problem = error
    if not found:
        raise problem
    return found


def verify(found: Iterable[Key], field: SignatureField, digest: bytes) -> None:
    """Does one of these keys fit?  Raises Unverified."""
    if not any(key.fits(field.signature, digest) for key in found):
        raise Unverified(FAIL, "the signature does not fit the header")
