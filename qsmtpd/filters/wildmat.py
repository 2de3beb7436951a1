"""wildmat: patterns for addresses and names, and the lists that are made of them.

A pattern is that of INN's wildmat, and so SPAMCONTROL's: `*` is any text, `?`
any one byte, `[a-z]` one of these and `[^a-z]` one of the others, `\\x` is x
itself; a `]` that is to be one of them comes first.  Unlike there, case never
matters: there it mattered in patterns and nowhere else.

A client chooses the text.  So a match never goes back behind a `*`: it makes
at most as many steps as text and pattern have bytes, multiplied.
"""

from __future__ import annotations

from ..smtp.address import entry_forms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config.settings import Settings
    from .expression import Expression

    #: What stands between two stars: text, or the bytes that each place may have.
    Part = bytes | tuple[frozenset[int], ...]

_OTHERS = frozenset(b"?[\\")
_WILD = _OTHERS | frozenset(b"*")
PATTERN_LIMIT = 1000  # bytes; an address has 900
_ANY = frozenset(range(256))


#: What an entry of a list begins with that is a regular expression.
EXPRESSION = b"re:"
#: Of one list, since a client's address may have to be compared with all of them.
EXPRESSIONS_LIMIT = 500
PLACES_LIMIT = 10000  # of all of them together


def is_wild(text: bytes) -> bool:
    """Has it a character that means something in a pattern?"""
    return not _WILD.isdisjoint(text)


class Pattern:
    """One pattern.  Raises ValueError, saying what is wrong with it."""

    __slots__ = ("_parts",)

    def __init__(self, pattern: bytes) -> None:
        if len(pattern) > PATTERN_LIMIT:
            raise ValueError(f"is longer than {PATTERN_LIMIT} bytes")
        self._parts: list[Part]
        if _OTHERS.isdisjoint(pattern):  # most patterns: this is much faster
            self._parts = [*pattern.lower().split(b"*")]
        else:
            self._parts = [_part(places) for places in _parse(pattern)]

    def matches(self, text: bytes) -> bool:
        """Does the whole text match?"""
        text = text.lower()
        first, last = self._parts[0], self._parts[-1]
        if len(self._parts) == 1:
            return len(text) == len(first) and _is_at(first, text, 0)
        start, end = len(first), len(text) - len(last)
        if start > end or not _is_at(first, text, 0) or not _is_at(last, text, end):
            return False
        for part in self._parts[1:-1]:
            # The leftmost place is the best one: it leaves most to what follows.
            start = _find(part, text, start, end)
            if start < 0:
                return False
            start += len(part)
        return True


def _parse(pattern: bytes) -> list[list[frozenset[int]]]:
    """What each place between two stars may be, in lower case."""
    parts: list[list[frozenset[int]]] = [[]]
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        at += 1
        if byte == b"*":
            parts.append([])
        elif byte == b"?":
            parts[-1].append(_ANY)
        elif byte == b"[":
            members, at = _class(pattern, at)
            parts[-1].append(members)
        else:
            if byte == b"\\":
                byte = pattern[at : at + 1]
                at += 1
                if not byte:
                    raise ValueError("ends with a \\")
            parts[-1].append(frozenset(byte.lower()))
    return parts


def _class(pattern: bytes, at: int) -> tuple[frozenset[int], int]:
    """(the bytes of a class, where it ends); it begins at `at`, behind the bracket."""
    others = pattern.startswith(b"^", at)
    at += others
    members = bytearray()
    start = at
    while at == start or not pattern.startswith(b"]", at):
        if at >= len(pattern):
            raise ValueError("has a [ without a ]")
        low = high = pattern[at]
        if pattern.startswith(b"-", at + 1) and at + 2 < len(pattern) and pattern[at + 2] != 0x5D:
            high = pattern[at + 2]
            at += 2
        if high < low:
            raise ValueError("has a range that goes backwards")
        members += bytes(range(low, high + 1))
        at += 1
    folded = frozenset(members.lower())
    return (_ANY - folded if others else folded), at + 1


def _part(places: list[frozenset[int]]) -> Part:
    """As text, where it can be no other: bytes.find is faster than our steps."""
    if all(len(place) == 1 for place in places):
        return bytes(byte for place in places for byte in place)
    return tuple(places)


def _is_at(part: Part, text: bytes, at: int) -> bool:
    if isinstance(part, bytes):
        return text.startswith(part, at)
    for place in part:
        if text[at] not in place:
            return False
        at += 1
    return True


def _find(part: Part, text: bytes, start: int, end: int) -> int:
    if isinstance(part, bytes):
        return text.find(part, start, end)
    first = part[0]
    for at in range(start, end - len(part) + 1):
        if text[at] in first and _is_at(part, text, at):
            return at
    return -1


def _expression(entry: bytes, kept: dict[object, object]) -> Expression:
    """The regular expression of an entry.  Raises ValueError."""
    from .expression import Expression

    found = kept.get(entry)
    if not isinstance(found, Expression):
        found = kept[entry] = Expression(entry[len(EXPRESSION) :])
    return found


class Listing:
    """A list of names, as badmailfrom, badrcptto and badhelo are.  Raises ControlError.

    The entries come with a number, which grows.  An entry is a name, which
    matches as it is written, or a pattern, which matches as such as well: the
    address literal `@[192.0.2.1]` is both.  What begins with `@` is for the
    domain, all else for the whole name.  `re:` begins a regular expression
    (expression.py), which is for the whole name.  An entry behind a `!` takes
    back what the ones before it have said.

    Expressions are kept for others who share the control files: to make one
    costs more than to match it.
    """

    __slots__ = ("_exact", "_patterns")

    def __init__(self, settings: Settings, file: str, entries: Iterable[tuple[int, bytes]]) -> None:
        expressions = places = 0
        self._exact: dict[bytes, tuple[int, bool]] = {}
        self._patterns: list[tuple[int, bool, bool, Pattern | Expression]] = []
        for number, entry in entries:
            listed = not entry.startswith(b"!")
            name = entry if listed else entry[1:]
            try:
                if name.startswith(EXPRESSION):
                    expression = _expression(name, settings.files.kept)
                    expressions += 1
                    places += expression.places
                    if expressions > EXPRESSIONS_LIMIT:
                        raise ValueError(f"is one expression more than {EXPRESSIONS_LIMIT}")
                    if places > PLACES_LIMIT:
                        what = f"makes {places} places of all expressions, more than {PLACES_LIMIT}"
                        raise ValueError(what)
                    self._patterns.append((number, listed, False, expression))
                    continue
                forms = entry_forms(name)
                for form in forms:
                    self._exact[form] = number, listed  # a later entry takes the place
                if is_wild(name):
                    of_domain = name.startswith(b"@")
                    # The members of a class are bytes, and none of them a letter of UTF-8.
                    for form in (name, *forms[1:]) if b"[" not in name else (name,):
                        self._patterns.append((number, listed, of_domain, Pattern(form)))
            except ValueError as error:
                raise settings.bad_entry(file, entry, str(error)) from error

    def last(self, name: bytes, domain: bytes = b"") -> tuple[int, bool]:
        """The last entry that matches: (its number, is the name listed?); else (-1, False).

        Both are in lower case; `domain` is that of the name, with its `@`.  A
        name without one may stand there itself.
        """
        found = -1, False
        for exact in (name, domain) if domain else (name,):
            found = max(found, self._exact.get(exact, found))
        for number, listed, of_domain, pattern in reversed(self._patterns):
            if number < found[0]:
                break
            if pattern.matches(domain if of_domain else name):
                return number, listed
        return found

    def last_of(self, addresses: Iterable[bytes]) -> tuple[int, bool]:
        """The same of an address in all its spellings: the last entry that matches one."""
        found = -1, False
        for address in addresses:
            _, at, domain = address.rpartition(b"@")
            found = max(found, self.last(address, at + domain))
        return found
