"""Takes header fields out of a message that streams by.

A reader further on may see more of a header than we do: so all counts as header up to
the first empty line, also what stands behind a line that is none of a header, or beyond
the part that filters are shown; and a bare CR begins a line, too.
"""

from __future__ import annotations

from .header import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Test = Callable[[bytes], bool] | None
    #: Whose rule; a name in lower case, with a `*` at its end the beginning of names; the test
    #: of a value, or None where all are to go.
    Rule = tuple[str, bytes, Test]

#: So much of a field (bytes) is held back until its test has been made; no more of a
#: value, still folded, is shown to the test.
FIELD_LIMIT = 16 * 1024
#: What comes in smaller pieces (bytes) is put together: to look at what is held costs its length.
BATCH = 4096
_LF = 10


class FieldRemover:
    """Feed it the header, and what follows until `ended`; it returns what stays.

    removed(whose rule, name, value): is called for each field that goes.
    """

    __slots__ = (
        "ended",
        "_rules",
        "_removed",
        "_held",
        "_enough",
        "_before",
        "_drops",
        "_keeps_end",
    )

    def __init__(
        self, rules: Sequence[Rule], removed: Callable[[str, bytes, bytes], object]
    ) -> None:
        self.ended = False
        self._rules = [
            (b"\n" + name.removesuffix(b"*"), owner, name, test) for owner, name, test in rules
        ]
        self._removed = removed
        self._held = b""
        self._enough = 0  # bytes that are held before they are looked at
        self._before = b"\n"  # the byte in front of what is held
        self._drops = False  # we are inside of a field that goes
        self._keeps_end = False  # but not the end of its last line

    def feed(self, text: bytes, last: bool = False) -> bytes:
        """More of the message; `last`: the header, or all, ends here."""
        if self.ended:
            return text
        self._held += text
        if len(self._held) < self._enough and not last:
            return b""
        text = self._before + self._held
        empty = text.find(b"\n\n")
        self.ended = last or empty >= 0
        rest = b""
        if empty >= 0:
            text, rest = text[: empty + 1], text[empty + 1 :]
        kept, place = self._filter(text)
        self._held = text[place:]
        self._enough = len(self._held) + BATCH
        self._before = text[place - 1 : place]
        return b"".join(kept) + rest

    def _filter(self, text: bytes) -> tuple[list[bytes], int]:
        """The parts that stay, and where begins what waits for more; byte 0 has been before."""
        place = 1
        if self._drops:
            place = self._end(text, 1)
            if place < 0:
                return [], max(1, len(text) - text.endswith(b"\n"))
            place -= self._keeps_end
            self._drops = False
        view = text.replace(b"\r", b"\n").lower()
        found = [view.find(rule[0], place - 1) for rule in self._rules]
        kept: list[bytes] = []
        while any(at >= 0 for at in found):
            at = min(at for at in found if at >= 0)
            _, owner, wanted, test = self._rules[found.index(at)]
            start = behind = at + 1
            colon = _colon(view, start)
            if colon == len(view) and not self.ended:
                return [*kept, text[place:start]], start
            name = text[start:colon].rstrip(b" \t") if 0 <= colon < len(view) else b""
            if _fits(name, wanted):
                end = self._end(text, colon)
                if end < 0 and len(text) < colon + FIELD_LIMIT:
                    return [*kept, text[place:start]], start
                value = text[colon + 1 : len(text) if end < 0 else end][:FIELD_LIMIT]
                if test is None or test(value):
                    self._removed(owner, name, value)
                    kept.append(text[place:start])
                    # Behind a bare CR it is the end of a line, which keeps its line end.
                    self._keeps_end = text[at] != _LF
                    if end < 0:
                        self._drops = True
                        return kept, len(text) - text.endswith(b"\n")
                    place = end - (self._keeps_end and text[end - 1] == _LF)
                    behind = end - 1
            for number, rule in enumerate(self._rules):
                if 0 <= found[number] < behind:
                    found[number] = view.find(rule[0], behind)
        end = len(text)
        if not self.ended:
            line = view.rfind(b"\n")
            if any(rule[0].startswith(view[line:]) for rule in self._rules):
                end = max(line + 1, place)  # the beginning of a name, perhaps
        return [*kept, text[place:end]], end

    def _end(self, text: bytes, at: int) -> int:
        """Where the field ends, with its line end; -1: further on."""
        while True:
            at = text.find(b"\n", at) + 1
            if at == 0 or at == len(text):
                return len(text) if self.ended else -1
            if text[at : at + 1] not in (b" ", b"\t"):
                return at


def _colon(view: bytes, start: int) -> int:
    """Where the name ends that begins there: its colon, the end or the limit; -1: it is none."""
    limit = min(start + FIELD_LIMIT, len(view))
    colon = view.find(b":", start, limit)
    if view.find(b"\n", start, limit if colon < 0 else colon) >= 0:
        return -1
    return limit if colon < 0 else colon


def _fits(name: bytes, wanted: bytes) -> bool:
    if wanted.endswith(b"*"):
        return name.lower().startswith(wanted[:-1]) and is_name(name)
    return name.lower() == wanted
