"""The messages of SCRAM-SHA-256 (RFC 5802, RFC 7677), as a server has them.

Without channel binding: a client may say that it cannot bind (`n`), or that it
could and thinks that we cannot (`y`), which is right, for no -PLUS is announced.

    client  n,,n=user,r=NONCE
    server  r=NONCE+MORE,s=SALT,i=ITERATIONS
    client  c=biws,r=NONCE+MORE,p=PROOF
    server  v=SIGNATURE

What cannot be such a message raises Malformed; a proof that is wrong, another's
nonce or a header that has changed since is a None.
"""

from __future__ import annotations

import binascii

from . import Malformed, gs2

SIZE = 32  # bytes of each key
NONCE_LIMIT = 512  # bytes of the client's
_PRINTABLE = frozenset(range(33, 127)) - frozenset(b",")
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Keys:
    """What a server keeps of a password (RFC 5802, 3): it cannot play the client with it."""

    __slots__ = ("iterations", "salt", "stored", "server")

    def __init__(self, iterations: int, salt: bytes, stored: bytes, server: bytes) -> None:
        self.iterations = iterations
        self.salt = salt
        self.stored = stored
        self.server = server

    @classmethod
    def of(cls, password: bytes, salt: bytes, iterations: int) -> Keys:
        """Those of a password, which is prepared by SASLprep already."""
        import hashlib  # here: a session reads the first message alone
        import hmac

        salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
        stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        return cls(iterations, salt, stored, hmac.digest(salted, b"Server Key", "sha256"))


class ClientFirst:
    """The first message of a client.  Raises Malformed.

    `user` is who it says it is, `identity` whom it wants to act as, or b"";
    `header` and `bare` are its two parts (RFC 5802, 7).
    """

    __slots__ = ("user", "identity", "binds", "header", "bare", "nonce")

    def __init__(self, message: bytes) -> None:
        flag, self.identity, self.bare = gs2.split(message)
        self.binds = flag == gs2.BINDS
        self.header = message[: len(message) - len(self.bare)]
        name, self.nonce = _attributes(self.bare, b"n", b"r")
        self.user = gs2.name(name)
        if not 0 < len(self.nonce) <= NONCE_LIMIT or not _PRINTABLE.issuperset(self.nonce):
            raise Malformed


class Server:
    """The server's side of an exchange, from the client's first message on.

    `nonce` is what is added to the client's, at random; `challenge` is the
    server's first message.
    """

    __slots__ = ("challenge", "_first", "_nonce", "_keys")

    def __init__(self, first: ClientFirst, nonce: bytes, keys: Keys) -> None:
        self._first = first
        self._nonce = first.nonce + nonce
        self._keys = keys
        salt = binascii.b2a_base64(keys.salt, newline=False)
        self.challenge = b"r=%b,s=%b,i=%d" % (self._nonce, salt, keys.iterations)

    def verify(self, message: bytes) -> bytes | None:
        """The client's last message -> the server's, or None.  Raises Malformed."""
        import hashlib
        import hmac

        without, mark, proof = message.rpartition(b",p=")
        binding, nonce = _attributes(without, b"c", b"r")
        given = _base64(proof)
        header = _base64(binding)
        if not mark or len(given) != SIZE:
            raise Malformed
        said = b",".join((self._first.bare, self.challenge, without))
        mask = hmac.digest(self._keys.stored, said, "sha256")
        key = bytes(a ^ b for a, b in zip(given, mask, strict=True))
        right = hmac.compare_digest(hashlib.sha256(key).digest(), self._keys.stored)
        signature = hmac.digest(self._keys.server, said, "sha256")
        if not right or header != self._first.header or nonce != self._nonce:
            return None
        return b"v=" + binascii.b2a_base64(signature, newline=False)


def _attributes(text: bytes, *wanted: bytes) -> list[bytes]:
    """The values of `a=VALUE,b=VALUE`, which begins with these; extensions may follow."""
    parts = [part.partition(b"=") for part in text.split(b",")]
    names = [name for name, _, _ in parts]
    if tuple(names[: len(wanted)]) != wanted:
        raise Malformed
    if not all(equals and len(name) == 1 and name in _LETTERS for name, equals, _ in parts):
        raise Malformed
    return [value for _, _, value in parts[: len(wanted)]]


def _base64(text: bytes) -> bytes:
    """Base64 in its one right spelling.  Raises Malformed."""
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise Malformed from None
    if binascii.b2a_base64(decoded, newline=False) != text:
        raise Malformed
    return decoded
