"""greylistkey: by what greylisting knows a client, a sender and a recipient again.

A sender's address may be another one with each message: for that, its local part is folded.

    prvs=TAG=local, btv1==TAG==local      BATV: local
    SRS0=HASH=TT=domain=local             SRS: without hash and time stamp, which change
    SRS1=HASH=first==HASH=TT=domain=local
    list-bounces+joe=example.org          VERP and extensions: what is before the `+`
    list-return-123-joe=example.org       a word with a digit, and one of 4 or more letters
                                          from a to f, is `#`

A word is what has letters and digits.  A local part of one word, as joe2, is no list's: of
it only each run of digits is `#`, unless it has 16 characters or more.
"""

from __future__ import annotations

from _blake2 import blake2b  # hashlib loads all of OpenSSL's
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

_SIZE = 16  # bytes of a key
_DIGITS, _HEX = b"0123456789", b"abcdef"
_LETTERS = frozenset(_DIGITS + b"abcdefghijklmnopqrstuvwxyz" + bytes(range(128, 256)))
_NUMBER = b"#"
_HEX_WORD, _LONG_WORD = 4, 16  # bytes
_BATV = (b"prvs=", b"btv1=", b"msprvs1=")
_SRS0, _SRS1, _SEPARATORS = b"srs0", b"srs1", b"=-+"
#: A forwarded bounce of a list: so deep are these within each other, and no deeper.
_DEPTH = 3


def network(ip: bytes, ipv4: int, ipv6: int) -> bytes | None:
    """The network of an address, with so many bits, as 192.0.2.0/24; None of what is none."""
    family, all_bits, bits = (AF_INET6, 128, ipv6) if b":" in ip else (AF_INET, 32, ipv4)
    try:
        number = int.from_bytes(inet_pton(family, ip.decode("ascii")))
    except (OSError, ValueError):
        return None
    number = number >> (all_bits - bits) << (all_bits - bits)
    text = inet_ntop(family, number.to_bytes(all_bits // 8))
    return b"%b/%d" % (text.encode("ascii"), bits)


def key(*parts: bytes) -> bytes:
    """What these are kept by.  None of them has a NUL, as no address has."""
    return blake2b(b"\0".join(parts), digest_size=_SIZE).digest()


def folded(sender: bytes) -> bytes:
    """A sender, in lower case, as it is the same with the next message; the null sender is."""
    local, at, domain = sender.rpartition(b"@")
    return sender if not at else _folded(local, _DEPTH) + at + domain


def _folded(local: bytes, depth: int) -> bytes:
    for tag in _BATV:
        if depth and local.startswith(tag):
            rest = local[len(tag) :].lstrip(b"=")
            _, equals, core = rest.partition(b"=")
            return _folded(core.lstrip(b"=") if equals else rest.partition(b"/")[0], depth - 1)
    if depth and local[4:5] and local[4:5] in _SEPARATORS:
        if local.startswith(_SRS0):
            parts = local[5:].split(b"=", 3)
            if len(parts) == 4:
                return b"srs0=%b=%b" % (parts[2], _folded(parts[3], depth - 1))
        elif local.startswith(_SRS1):
            parts = local[5:].split(b"=", 2)
            parts = [parts[1], *parts[2][1:].split(b"=", 3)] if len(parts) == 3 else []
            if len(parts) == 5:
                return b"srs1=%b=%b=%b" % (parts[0], parts[3], _folded(parts[4], depth - 1))
    return _without_numbers(local[: local.find(b"+", 1)] if b"+" in local[1:] else local)


def _without_numbers(local: bytes) -> bytes:
    words, others = [bytearray()], []  # there is one more of the first
    for byte in local:
        if byte in _LETTERS:
            words[-1].append(byte)
        else:
            others.append(byte)
            words.append(bytearray())
    if len(words) == 1 and len(local) < _LONG_WORD:
        return _without_digits(local)
    found = bytearray(_word(words[0]))
    for other, word in zip(others, words[1:], strict=True):
        found.append(other)
        found += _word(word)
    return bytes(found)


def _word(word: bytearray) -> bytes:
    is_hex = len(word) >= _HEX_WORD and not word.strip(_HEX)
    return _NUMBER if is_hex or any(digit in word for digit in _DIGITS) else bytes(word)


def _without_digits(word: bytes) -> bytes:
    found = bytearray()
    for byte in word:
        if byte not in _DIGITS:
            found.append(byte)
        elif not found.endswith(_NUMBER):
            found += _NUMBER
    return bytes(found)
