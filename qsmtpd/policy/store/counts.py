"""Counts in a store: how much of something has been within a window of time.

A window begins with the first that is counted and ends `span` seconds later; what comes
then begins another.
"""

from __future__ import annotations

from . import COUNTS, KEY_LIMIT, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from . import Store

#: Between a counter's name and its span, in a key: a name may hold any byte but this.
_BETWEEN = b"\0"


class Counter:
    """What is to be counted: `amount` under a `name`, in a window of `span` seconds.

    An amount of 0 only looks; one below 0 takes back, to 0 at the least.  `most`: where
    the count would be more than that, nothing is counted, of none of those that are
    counted with it.  Raises ValueError for a name that is too long or has a NUL.
    """

    __slots__ = ("name", "span", "amount", "most", "key")

    def __init__(self, name: bytes, span: int, amount: int = 1, most: int | None = None) -> None:
        self.name = name
        self.span = span
        self.amount = amount
        self.most = most
        self.key = key_of(name, span)


class Counts:
    """What was found: for each counter its count now, and how many seconds its window has left.

    A window that has not begun has all of them.  `over` is the first counter whose `most`
    would have been exceeded, by its place; then nothing was counted.
    """

    __slots__ = ("values", "left", "over")

    def __init__(self, values: list[int], left: list[int], over: int | None) -> None:
        self.values = values
        self.left = left
        self.over = over


def key_of(name: bytes, span: int) -> bytes:
    """The key of a counter in the table COUNTS.  Raises ValueError."""
    key = name + _BETWEEN + b"%d" % span
    if _BETWEEN in name or len(key) > KEY_LIMIT:
        raise ValueError("no name of a counter")
    return key


def count(store: Store, now: int, counters: Sequence[Counter]) -> Counts:
    """Count all of these, as one step.  Raises Trouble."""
    over: int | None = None

    def change(records: Sequence[Record | None]) -> Sequence[Record | None]:
        nonlocal over
        over = None
        changed = [_added(*each, now) for each in zip(counters, records, strict=True)]
        for place, (counter, record) in enumerate(zip(counters, changed, strict=True)):
            value = 0 if record is None else record.count
            if counter.most is not None and counter.amount > 0 and value > counter.most:
                over = place
                return records
        return changed

    found = store.update(COUNTS, [counter.key for counter in counters], now, change)
    values = [0 if record is None else record.count for record in found]
    left = [
        counter.span if record is None else record.ends - now
        for counter, record in zip(counters, found, strict=True)
    ]
    return Counts(values, left, over)


def _added(counter: Counter, record: Record | None, now: int) -> Record | None:
    """The record of this counter with its amount added."""
    if record is not None and record.since > now:  # the clock was ahead then
        record = None if counter.amount > 0 else record
    if counter.amount == 0 or (record is None and counter.amount < 0):
        return record
    if record is None:
        return Record(now, counter.amount, now + counter.span)
    return Record(record.since, max(0, record.count + counter.amount), record.ends)


def counted(store: Store, now: int) -> Iterator[tuple[bytes, int, Record]]:
    """All counts whose window has not ended: (name, span, record), by name.  Raises Trouble."""
    for key, record in store.records(COUNTS, now):
        name, _, span = key.rpartition(_BETWEEN)
        yield name, int(span), record
