"""The users of qsmtpd-checkpassword: the lines of control/smtpusers, and what they accept.

One user a line, in one of three kinds:

    joe:scrypt:14:8:5:SALT:KEY     a salted hash: serves PLAIN and LOGIN
    ann:cram:SECRET                the password itself: serves CRAM-MD5 as well
    sue:scram:100000:SALT:STORED:SERVER    keys (RFC 5802, 3): serve SCRAM as well
    :seed:SEED                     of the salts that users have who are not there

What follows the numbers is in hexadecimal.  There is nothing else in the file,
and every line ends in a LF: what is not as it should be is damage, and then
nobody is let in, rather than somebody by a line that was cut.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os

from ..config.files import USERS
from ..facts import ControlError
from ..smtp.sasl import scram
from . import prepare

FILE = USERS
NAME_LIMIT = 255  # bytes
SECRET_LIMIT = 1024  # bytes

#: log2 N, r, p.  OWASP's Password Storage Cheat Sheet counts these as equal to
#: (17, 8, 1), and they take 16 MB in place of 128, which softlimit would refuse.
PARAMETERS = (14, 8, 5)
#: Another version may have written others; outside of these they are damage.
LEAST_PARAMETERS = (10, 8, 1)
MOST_PARAMETERS = (20, 32, 32)
SALT_SIZE = 16
KEY_SIZE = 32
SEED_SIZE = 32
#: Of SCRAM, which its clients have to compute as well; RFC 7677 asks for 4096.
ITERATIONS = 100_000
LEAST_ITERATIONS, MOST_ITERATIONS = 4096, 1_000_000
_SEED = b"seed"


class Hashed:
    """A password of which only the scrypt hash (RFC 7914) is known."""

    __slots__ = ("parameters", "salt", "key")
    kind = b"scrypt"

    def __init__(self, parameters: tuple[int, int, int], salt: bytes, key: bytes) -> None:
        self.parameters = parameters
        self.salt = salt
        self.key = key

    @classmethod
    def of(cls, password: bytes) -> Hashed:
        """A new entry for this password, with a salt of its own."""
        salt = os.urandom(SALT_SIZE)
        return cls(PARAMETERS, salt, _scrypt(password, PARAMETERS, salt))

    @classmethod
    def parse(cls, fields: list[bytes]) -> Hashed:
        """The entry that these fields are; raises ValueError."""
        *numbers, salt, key = fields
        log_n, r, p = (_number(number, 2) for number in numbers)
        entry = cls((log_n, r, p), binascii.unhexlify(salt), binascii.unhexlify(key))
        bounds = zip(LEAST_PARAMETERS, entry.parameters, MOST_PARAMETERS, strict=True)
        if not all(least <= number <= most for least, number, most in bounds):
            raise ValueError("parameters")
        if len(entry.salt) != SALT_SIZE or len(entry.key) != KEY_SIZE:
            raise ValueError("sizes")
        return entry

    def fields(self) -> list[bytes]:
        """What `parse` takes."""
        numbers = [b"%d" % number for number in self.parameters]
        return [*numbers, binascii.hexlify(self.salt), binascii.hexlify(self.key)]

    def is_password(self, password: bytes) -> bool:
        """Whether it is; compared, like everything here, in the same time wherever it differs."""
        return hmac.compare_digest(self.key, _scrypt(password, self.parameters, self.salt))


class Secret:
    """A password that is kept as it is, since CRAM-MD5 cannot do with less."""

    __slots__ = ("secret",)
    kind = b"cram"

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    @classmethod
    def parse(cls, fields: list[bytes]) -> Secret:
        """The entry that this one field is; raises ValueError."""
        (field,) = fields
        entry = cls(binascii.unhexlify(field))
        if not is_secret(entry.secret):
            raise ValueError("secret")
        return entry

    def fields(self) -> list[bytes]:
        """What `parse` takes."""
        return [binascii.hexlify(self.secret)]

    def is_password(self, password: bytes) -> bool:
        """Whether it is."""
        return hmac.compare_digest(self.secret, password)

    def is_response(self, response: bytes, challenge: bytes) -> bool:
        """Whether this is the keyed digest of the challenge, in hexadecimal (RFC 2195)."""
        digest = hmac.digest(self.secret, challenge, "md5")
        return hmac.compare_digest(binascii.hexlify(digest), response.lower())


class Scram:
    """The keys of SCRAM-SHA-256, of which nobody has the password, nor can play the client."""

    __slots__ = ("keys",)
    kind = b"scram"

    def __init__(self, keys: scram.Keys) -> None:
        self.keys = keys

    @classmethod
    def of(cls, password: bytes) -> Scram:
        """A new entry for this password, with a salt of its own.

        Raises ValueError where clients would not send it as it is, and NoLibrary.
        """
        prepared = prepare.prepared(password)
        if prepared is None:
            raise ValueError("SASLprep")
        return cls(scram.Keys.of(prepared, os.urandom(SALT_SIZE), ITERATIONS))

    @classmethod
    def parse(cls, fields: list[bytes]) -> Scram:
        """The entry that these fields are; raises ValueError."""
        number, *others = fields
        salt, stored, server = map(binascii.unhexlify, others)
        iterations = _number(number, len(b"%d" % MOST_ITERATIONS))
        if not LEAST_ITERATIONS <= iterations <= MOST_ITERATIONS:
            raise ValueError("iterations")
        if (len(salt), len(stored), len(server)) != (SALT_SIZE, scram.SIZE, scram.SIZE):
            raise ValueError("sizes")
        return cls(scram.Keys(iterations, salt, stored, server))

    def fields(self) -> list[bytes]:
        """What `parse` takes."""
        keys = self.keys
        return [
            b"%d" % keys.iterations,
            *map(binascii.hexlify, (keys.salt, keys.stored, keys.server)),
        ]

    def is_password(self, password: bytes) -> bool:
        """Whether it is, or another spelling of it."""
        prepared = prepare.prepared_or_not(password)
        keys = scram.Keys.of(prepared or password, self.keys.salt, self.keys.iterations)
        return hmac.compare_digest(keys.stored, self.keys.stored) and prepared is not None


Entry = Hashed | Secret | Scram
KINDS: dict[bytes, type[Entry]] = {entry.kind: entry for entry in (Hashed, Secret, Scram)}


class Users(dict[bytes, Entry]):
    """Each user's entry; and the seed, which is b"" until there is one with SCRAM."""

    seed = b""


# What is checked in place of an entry that is not there, so that a client
# cannot tell by its watch which users there are.  The first two have no password.
_NOBODY_HASHED = Hashed(PARAMETERS, bytes(SALT_SIZE), bytes(KEY_SIZE))
_NOBODY_SCRAM = Scram(
    scram.Keys(ITERATIONS, bytes(SALT_SIZE), bytes(scram.SIZE), bytes(scram.SIZE))
)
_NOBODY_SECRET = Secret(b"nobody")


def accepts_password(users: Users, name: bytes, password: bytes) -> bool:
    """Whether this is the user's password.

    It costs one hash of each kind that the file has, whoever it is; scrypt if it has none.
    """
    entry = users.get(name)
    kinds = {type(entry) for entry in users.values()}
    right = False
    if Hashed in kinds or Scram not in kinds:
        hashed = entry if isinstance(entry, Hashed) else _NOBODY_HASHED
        right = hashed.is_password(password) and hashed is entry
    if Scram in kinds:
        keys = entry if isinstance(entry, Scram) else _NOBODY_SCRAM
        right = (keys.is_password(password) and keys is entry) or right
    if isinstance(entry, Secret):
        right = entry.is_password(password)
    # No entry is made with an empty password; one made elsewhere does not count either.
    return right and password != b""


def accepts_response(users: Users, name: bytes, response: bytes, challenge: bytes) -> bool:
    """Whether this is the user's answer to the challenge of CRAM-MD5.

    Of a hash it cannot be computed: such a user is refused like an unknown one.
    """
    entry = users.get(name)
    secret = entry if isinstance(entry, Secret) else _NOBODY_SECRET
    return secret.is_response(response, challenge) and secret is entry


def is_name(name: bytes) -> bool:
    """Whether a user can be called so: no colon, no control character, not too long."""
    return 0 < len(name) <= NAME_LIMIT and b":" not in name and not _has_control(name)


def is_secret(password: bytes) -> bool:
    """Whether a password can be kept: not empty, no control character, not too long."""
    return 0 < len(password) <= SECRET_LIMIT and not _has_control(password)


def parse(content: bytes) -> Users:
    """The users of a file.  Raises ControlError, which names the line and nothing of it."""
    *lines, rest = content.split(b"\n")
    users = Users()
    for number, line in enumerate(lines, 1):
        name, _, entry = line.partition(b":")
        kind, _, fields = entry.partition(b":")
        try:
            if not name and kind == _SEED and not users.seed:
                users.seed = _seed(fields)
                continue
            if not is_name(name) or name in users:
                raise ValueError("name")
            users[name] = KINDS[kind].parse(fields.split(b":"))
        except (KeyError, ValueError):
            raise ControlError("control/" + FILE, f"line {number} is damaged") from None
    if rest:
        raise ControlError("control/" + FILE, "its last line is cut off")
    return users


def serialize(users: Users) -> bytes:
    """The file that `parse` takes, in the order of the names."""
    seed = b":%b:%b\n" % (_SEED, binascii.hexlify(users.seed)) if users.seed else b""
    return seed + b"".join(
        b":".join([name, entry.kind, *entry.fields()]) + b"\n"
        for name, entry in sorted(users.items())
    )


def _scrypt(password: bytes, parameters: tuple[int, int, int], salt: bytes) -> bytes:
    log_n, r, p = parameters
    n = 1 << log_n
    # What OpenSSL takes for these parameters; its own limit is too low for some.
    memory = 128 * r * (n + p + 2)
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=KEY_SIZE)


def _seed(field: bytes) -> bytes:
    seed = binascii.unhexlify(field)
    if len(seed) != SEED_SIZE:
        raise ValueError("seed")
    return seed


def _number(field: bytes, digits: int) -> int:
    # int() would take "+5", " 5", "05" and "1_0".
    if not (field.isdigit() and len(field) <= digits) or field.startswith(b"0"):
        raise ValueError("number")
    return int(field)


def _has_control(text: bytes) -> bool:
    return any(byte < 32 or byte == 127 for byte in text)
