"""Regular expressions of badmailfrom, badrcptto and badhelo, in linear time.

The syntax is that of POSIX's extended ones (and of qregex, a patch for qmail):
`.`, `[a-z]`, `[^a-z]`, `[[:alpha:]]`, `(a|b)`, `*`, `+`, `?`, `{2}`, `{2,}`,
`{2,4}`; `\\.` is a dot, and so for all other punctuation.  They have to match
the whole text; `^` and `$` at the ends may say so.  Case does not matter.

A client chooses the text.  Python's `re` goes back and tries again, for some
expressions longer than a client lives.  Here an expression becomes an
automaton (Glushkov's) whose states are its places that hold a byte, and a text
moves a set of states on, byte by byte: at most bytes times places, always.
Most texts do not hold what an expression wants literally, as `word` in
`.*word.*`, and are not looked at any further.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    #: nullable?, first places, last places: sets of places as the bits of a number
    Span = tuple[bool, int, int]

LENGTH_LIMIT = 255  # bytes of an expression
PLACES_LIMIT = 256  # what `{2,4}` stands for, written out
DEPTH_LIMIT = 10  # of parentheses
STEPS_LIMIT = 4096  # to make the automaton
#: The maximum number of sets of states that an expression remembers what follows.
MEMORY = 100

_ANY = frozenset(range(256))
_CLASSES = {
    b"alnum": b"abcdefghijklmnopqrstuvwxyz0123456789",
    b"alpha": b"abcdefghijklmnopqrstuvwxyz",
    b"blank": b" \t",
    b"digit": b"0123456789",
    b"lower": b"abcdefghijklmnopqrstuvwxyz",
    b"punct": b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    b"space": b" \t\n\v\f\r",
    b"upper": b"abcdefghijklmnopqrstuvwxyz",
    b"xdigit": b"0123456789abcdef",
}


class Node:
    """A part of an expression, as it is written: see the three kinds below."""

    __slots__ = ()


class One(Node):
    """One byte of these."""

    __slots__ = ("members",)

    def __init__(self, members: frozenset[int]) -> None:
        self.members = members


class Choice(Node):
    """One of these sequences."""

    __slots__ = ("sequences",)

    def __init__(self, sequences: list[list[Node]]) -> None:
        self.sequences = sequences


class Repeat(Node):
    """A part, at least so often and at most so often (None: any number of times)."""

    __slots__ = ("part", "least", "most")

    def __init__(self, part: Node, least: int, most: int | None) -> None:
        self.part = part
        self.least = least
        self.most = most


class Expression:
    """One regular expression.  Raises ValueError, saying what is wrong with it."""

    __slots__ = (
        "_literal",
        "_members",
        "_follow",
        "_first",
        "_last",
        "_nullable",
        "_steps",
        "_masks",
        "_after",
    )

    def __init__(self, text: bytes) -> None:
        if len(text) > LENGTH_LIMIT:
            raise ValueError(f"is longer than {LENGTH_LIMIT} bytes")
        self._members: list[frozenset[int]] = []  # what each place may hold
        self._follow: list[int] = []  # the places that may come behind it
        self._steps = 0
        tree = _Parser(text).whole()
        self._literal = _literal(tree)
        self._nullable, self._first, self._last = self._span(tree)
        self._masks: dict[int, int] = {}  # the places that may hold this byte
        self._after: dict[int, int] = {}  # what may come behind a set of places

    def matches(self, text: bytes) -> bool:
        """Does the whole text match?"""
        text = text.lower()
        if self._literal not in text:
            return False
        possible, state = self._first, 0
        for byte in text:
            state = possible & self._mask(byte)
            if not state:
                return False
            possible = self._following(state)
        return bool(state & self._last) if text else self._nullable

    def may_hold(self, byte: int) -> bool:
        """Can a text that matches have this byte in it?"""
        return any(byte in members for members in self._members)

    @property
    def places(self) -> int:
        """How many places it has, written out: what it costs is in proportion to it."""
        return len(self._members)

    def _mask(self, byte: int) -> int:
        mask = self._masks.get(byte)
        if mask is None:
            mask = sum(1 << place for place, own in enumerate(self._members) if byte in own)
            self._masks[byte] = mask
        return mask

    def _following(self, state: int) -> int:
        possible = self._after.get(state)
        if possible is None:
            possible, rest = 0, state
            while rest:
                place = rest.bit_length() - 1
                possible |= self._follow[place]
                rest ^= 1 << place
            if len(self._after) >= MEMORY:
                self._after.clear()
            self._after[state] = possible
        return possible

    def _span(self, node: Node) -> Span:
        self._steps += 1
        if self._steps > STEPS_LIMIT:
            raise ValueError("is too large, written out")
        if isinstance(node, One):
            return self._place(node.members)
        if isinstance(node, Repeat):
            return self._repeated(node)
        assert isinstance(node, Choice)
        nullable, first, last = False, 0, 0
        for sequence in node.sequences:
            span = self._chain(self._span(part) for part in sequence)
            nullable, first, last = nullable or span[0], first | span[1], last | span[2]
        return nullable, first, last

    def _place(self, members: frozenset[int]) -> Span:
        bit = 1 << len(self._members)
        if len(self._members) >= PLACES_LIMIT:
            raise ValueError(f"has more than {PLACES_LIMIT} places, written out")
        self._members.append(members)
        self._follow.append(0)
        return False, bit, bit

    def _repeated(self, node: Repeat) -> Span:
        parts = [self._span(node.part) for _ in range(node.least)]
        if node.most is None:
            if not parts:
                _, first, last = self._span(node.part)
                parts.append((True, first, last))
            self._connect(parts[-1][2], parts[-1][1])
        else:
            for _ in range(node.most - node.least):
                _, first, last = self._span(node.part)
                parts.append((True, first, last))
        return self._chain(parts)

    def _chain(self, parts: Iterable[Span]) -> Span:
        nullable, first, last = True, 0, 0
        for part_nullable, part_first, part_last in parts:
            self._connect(last, part_first)
            first |= part_first if nullable else 0
            last = part_last | (last if part_nullable else 0)
            nullable = nullable and part_nullable
        return nullable, first, last

    def _connect(self, places: int, behind: int) -> None:
        while places:
            place = places.bit_length() - 1
            self._follow[place] |= behind
            places ^= 1 << place


def _literal(node: Node) -> bytes:
    """The longest text that all that matches has in it, in lower case; perhaps b""."""
    if isinstance(node, Repeat):
        return _literal(node.part) if node.least else b""
    if isinstance(node, One):
        return bytes(node.members) if len(node.members) == 1 else b""
    assert isinstance(node, Choice)
    if len(node.sequences) != 1:
        return b""
    best = run = b""
    for part in node.sequences[0]:
        own = _literal(part)
        run = run + own if isinstance(part, One) and own else b""
        best = max(best, own, run, key=len)
    return best


class _Parser:
    """From the text of an expression to what it is made of.  Raises ValueError."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = int(text.startswith(b"^"))
        self._depth = 0

    def whole(self) -> Node:
        node = self._choice()
        if self._at < len(self._text):
            raise ValueError("has a ) without a (")
        return node

    def _choice(self) -> Node:
        sequences: list[list[Node]] = [[]]
        while (byte := self._text[self._at : self._at + 1]) not in (b"", b")"):
            self._at += 1
            if byte == b"|":
                sequences.append([])
            elif byte != b"$" or self._at < len(self._text):
                sequences[-1].append(self._quantified(self._atom(byte)))
        return Choice(sequences)

    def _atom(self, byte: bytes) -> Node:
        if byte == b".":
            return One(_ANY)
        if byte == b"[":
            return One(self._class())
        if byte == b"(":
            return self._group()
        if byte == b"\\":
            byte = self._escaped()
        elif byte in (b"*", b"+", b"?", b"{"):
            raise ValueError(f"has a {byte.decode('ascii')} with nothing before it to repeat")
        elif byte in (b"^", b"$"):
            raise ValueError(f"has a {byte.decode('ascii')} that is not at its end")
        elif byte <= b" " or byte == b"\x7f":
            raise ValueError("has a blank or control character, which a class, as [ ], can hold")
        return One(frozenset(byte.lower()))

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise ValueError(f"has more than {DEPTH_LIMIT} parentheses in each other")
        node = self._choice()
        if self._text[self._at : self._at + 1] != b")":
            raise ValueError("has a ( without a )")
        self._at += 1
        self._depth -= 1
        return node

    def _escaped(self) -> bytes:
        """What stands behind a backslash; \\w, \\1 and their like mean too many things."""
        byte = self._text[self._at : self._at + 1]
        self._at += 1
        if not byte or byte.isalnum() or byte <= b" " or byte >= b"\x7f":
            raise ValueError("has a \\ with no punctuation behind it")
        return byte

    def _quantified(self, node: Node) -> Node:
        byte = self._text[self._at : self._at + 1]
        bounds = {b"*": (0, None), b"+": (1, None), b"?": (0, 1)}.get(byte)
        if byte == b"{":
            bounds = self._bounds()
        if bounds is None:
            return node
        self._at += 1
        if self._text[self._at : self._at + 1] in (b"*", b"+", b"?", b"{"):
            raise ValueError("repeats what repeats: write parentheses")
        return Repeat(node, *bounds)

    def _bounds(self) -> tuple[int, int | None]:
        end = self._text.find(b"}", self._at)
        low, comma, high = self._text[self._at + 1 : max(end, 0)].partition(b",")
        self._at = end
        for number in (low, high) if high else (low,):
            if not (number.isdigit() and len(number) <= 3):
                raise ValueError("has a { that is none of {2}, {2,} and {2,4}")
        least = int(low)
        most = int(high) if high else (None if comma else least)
        if most is not None and most < least:
            raise ValueError("has a {} whose second number is the smaller one")
        return least, most

    def _class(self) -> frozenset[int]:
        others = self._text.startswith(b"^", self._at)
        self._at += others
        members: set[int] = set()
        start = self._at
        while self._at == start or not self._text.startswith(b"]", self._at):
            name = self._named()
            if name is not None:
                members.update(name)
                continue
            low = high = self._member()
            if self._text.startswith(b"-", self._at) and not self._text.startswith(b"-]", self._at):
                self._at += 1
                high = self._member()
            if high < low:
                raise ValueError("has a range that goes backwards")
            members.update(bytes(range(low, high + 1)).lower())
        self._at += 1
        return _ANY - members if others else frozenset(members)

    def _named(self) -> bytes | None:
        """The members of a class like [:alpha:], if one stands here."""
        if not self._text.startswith(b"[:", self._at):
            return None
        end = self._text.find(b":]", self._at + 2)
        name = self._text[self._at + 2 : max(end, 0)]
        if name not in _CLASSES:
            raise ValueError("has a [: and no name of a class behind it")
        self._at = end + 2
        return _CLASSES[name]

    def _member(self) -> int:
        byte = self._text[self._at : self._at + 1]
        if not byte:
            raise ValueError("has a [ without a ]")
        self._at += 1
        return ord(self._escaped() if byte == b"\\" else byte)
