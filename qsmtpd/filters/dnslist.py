"""dnslist: lists in the DNS (RFC 5782): how they are configured, and what their answers mean.

A line of the control file is `zone [weight] [pattern...]`: the weight, 1 where none
is said, is what a listing in this zone counts; a negative one counts for the client.
With patterns only an answer that matches one of them is a listing.  A pattern is an
address whose parts are a number, `*`, or in brackets numbers and ranges, separated
by commas: `127.0.0.[2-4,9]`.

Lists answer with addresses in 127/8.  One in 127.255.255/24 says that the list does
not answer us (Spamhaus and others), one outside of 127/8 comes from whoever has the
name of a list that is dead, or from a resolver that lies: neither is a listing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings

    #: The numbers that each of the four parts of an address may be.
    Pattern = tuple[frozenset[int], ...]

#: Each is a question for every client.
ENTRIES_LIMIT = 50
WEIGHT_LIMIT = 1000
#: 64 bytes are for an IPv6 address in nibbles, and a name has at most 253 (RFC 1035, 3.1).
ZONE_LIMIT = 253 - 64
PATTERN_LIMIT = 255  # bytes
_ANY = frozenset(range(256))
_LABEL = b"abcdefghijklmnopqrstuvwxyz0123456789-_"


class Entry:
    """A line: the zone in lower case and without a last dot, its weight and its patterns."""

    __slots__ = ("zone", "weight", "patterns")

    def __init__(self, zone: bytes, weight: int, patterns: tuple[Pattern, ...]) -> None:
        self.zone = zone
        self.weight = weight
        self.patterns = patterns

    def holds(self, address: bytes) -> bool:
        """Is this answer, an IPv4 address, a listing?"""
        parts = [int(part) for part in address.split(b".")]
        if is_error(address):
            return False
        return not self.patterns or any(
            all(part in wanted for part, wanted in zip(parts, pattern, strict=True))
            for pattern in self.patterns
        )


def is_error(address: bytes) -> bool:
    """Does this answer, an IPv4 address, say nothing of who was asked about?"""
    return not address.startswith(b"127.") or address.startswith(b"127.255.255.")


def entries(settings: Settings, file: str) -> list[Entry]:
    """The lines of a control file.  Raises ControlError."""
    found: list[Entry] = []
    for line in settings.lines(file) or ():
        try:
            if len(found) == ENTRIES_LIMIT:
                raise ValueError(f"is one more than {ENTRIES_LIMIT}")
            found.append(parse(line))
        except ValueError as error:
            raise settings.bad_entry(file, line, str(error)) from error
    return found


def parse(line: bytes) -> Entry:
    """One line.  Raises ValueError, saying what is wrong with it."""
    zone, *words = [word for word in line.replace(b"\t", b" ").split(b" ") if word] or [b""]
    weight = 1
    if words and not words[0].removeprefix(b"-").strip(b"0123456789"):
        weight = _weight(words.pop(0))
    return Entry(_zone(zone), weight, tuple(map(parse_pattern, words)))


def _weight(word: bytes) -> int:
    digits = word.removeprefix(b"-")
    if not 0 < len(digits) <= 4 or int(digits) > WEIGHT_LIMIT:
        raise ValueError(f"has a weight that is no number from -{WEIGHT_LIMIT} to {WEIGHT_LIMIT}")
    return int(word)


def _zone(word: bytes) -> bytes:
    zone = word.lower().removesuffix(b".")
    labels = zone.split(b".")
    if not all(0 < len(label) <= 63 and not label.strip(_LABEL) for label in labels):
        raise ValueError("does not begin with the name of a zone")
    if len(labels) < 2 or labels[-1].isdigit():
        raise ValueError("begins with a name that is no zone, as bl.example.org is one")
    if len(zone) > ZONE_LIMIT:
        raise ValueError(f"has a zone that is longer than {ZONE_LIMIT} bytes")
    return zone


def parse_pattern(word: bytes) -> Pattern:
    """One pattern.  Raises ValueError, saying what is wrong with it."""
    parts = word.split(b".")
    if len(word) > PATTERN_LIMIT or len(parts) != 4:
        raise ValueError("has what is neither a weight nor a pattern, as 127.0.0.[2-4] is one")
    pattern = tuple(_part(part) for part in parts)
    if 127 not in pattern[0] or all(
        p == {n} for p, n in zip(pattern, (127, 255, 255), strict=False)
    ):
        raise ValueError("has a pattern of addresses that are no listing")
    return pattern


def _part(text: bytes) -> frozenset[int]:
    """The numbers of a part of a pattern."""
    if text == b"*":
        return _ANY
    if not text.startswith(b"["):
        return frozenset((_number(text),))
    if not text.endswith(b"]"):
        raise ValueError("has a [ without a ]")
    found: set[int] = set()
    for item in text[1:-1].split(b","):
        low, dash, high = item.partition(b"-")
        first, last = _number(low), _number(high if dash else low)
        if last < first:
            raise ValueError("has a range that goes backwards")
        found.update(range(first, last + 1))
    return frozenset(found)


def _number(text: bytes) -> int:
    if not (0 < len(text) <= 3 and text.isdigit() and int(text) < 256):
        raise ValueError("has a pattern with what is no number up to 255")
    return int(text)
