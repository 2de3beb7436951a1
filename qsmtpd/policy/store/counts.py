"""Counts in a store: how much of something there was within the last hour, or the last day.

A window moves in steps, of a twelfth of it: what was counted within a step leaves it
together, when the last of it is as old as the window is long.  So there never is more than
`most` within any such time, also not around the turn of an hour; and what was counted is
out of it after one step more at the latest.

Each step has a record, in a ring of them: as many as can count at a time, and no more.
"""

from __future__ import annotations

from . import COUNTS, KEY_LIMIT, Record, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from . import Store

#: A window has so many steps; one more counts, that of now.
STEPS = 12
RING = STEPS + 1
#: Between a counter's name, its span and its place in the ring.
_BETWEEN, _DIGITS = b"\0", b"0123456789"
#: Of a key, behind the name.
_BEHIND = 12  # bytes
NAME_LIMIT = KEY_LIMIT - _BEHIND


class Counter:
    """What is to be counted: `amount` under a `name`, within the last `span` seconds.

    An amount below 0 takes back, to 0 at the least.  `most`: where the count would be more
    than that, nothing is counted, of none of those that are counted with it.
    Raises ValueError for a name that is too long.
    """

    __slots__ = ("name", "span", "amount", "most", "keys")

    def __init__(self, name: bytes, span: int, amount: int = 1, most: int | None = None) -> None:
        if len(name) > NAME_LIMIT:
            raise ValueError("no name of a counter")
        self.name = name
        self.span = span
        self.amount = amount
        self.most = most
        self.keys = [b"%b\0%d\0%d" % (name, span, place) for place in range(RING)]

    def is_full(self, value: int) -> bool:
        """Is there no room for the amount, where so much is counted?"""
        return self.most is not None and self.amount > 0 and value + self.amount > self.most

    @property
    def step(self) -> int:
        """Seconds."""
        return self.span // STEPS


class Counted:
    """What there is of a counter: its `value`, and in how many seconds it will be less.

    `left` is 0 where the value is.
    """

    __slots__ = ("value", "left")

    def __init__(self, value: int, left: int) -> None:
        self.value = value
        self.left = left


class Counts:
    """What there is now of each counter; `over` is the place of the first that is full.

    Where that is not None, nothing was counted.
    """

    __slots__ = ("found", "over")

    def __init__(self, found: list[Counted], over: int | None = None) -> None:
        self.found = found
        self.over = over


def count(store: Store, now: int, counters: Sequence[Counter]) -> Counts:
    """Count all of these, as one step.  Raises Trouble.

    What is taken back has to be counted as of the time at which it was counted.
    """
    over: int | None = None

    def change(records: Sequence[Record | None]) -> Sequence[Record | None]:
        nonlocal over
        over = None
        changed: list[Record | None] = []
        for place, (counter, ring) in enumerate(_rings(counters, records)):
            before = _sum(ring, counter, now).value
            if counter.is_full(before):
                over = place
                return records
            changed += _added(ring, counter, now)
        return changed

    keys = [key for counter in counters for key in counter.keys]
    found = store.update(COUNTS, keys, now, change)
    return Counts([_sum(ring, counter, now) for counter, ring in _rings(counters, found)], over)


def look(store: Store, now: int, counters: Sequence[Counter]) -> list[Counted]:
    """What there is of each, without their amounts; nothing is written.  Raises Trouble."""
    found = store.look(COUNTS, [key for counter in counters for key in counter.keys], now)
    return [_sum(ring, counter, now) for counter, ring in _rings(counters, found)]


def listed(store: Store, now: int) -> Iterator[tuple[bytes, int, Counted]]:
    """All that there is: (name, span, what), by name.  Raises Trouble."""
    last: tuple[bytes, int] | None = None
    ring: list[Record | None] = []
    for key, record in store.records(COUNTS, now):
        found = _name_and_span(key)
        if found != last:
            if last is not None:
                yield *last, _sum(ring, Counter(*last), now)
            last, ring = found, []
        ring.append(record)
    if last is not None:
        yield *last, _sum(ring, Counter(*last), now)


def _name_and_span(key: bytes) -> tuple[bytes, int]:
    """Of whom a record is.  Raises Trouble."""
    name, *numbers = key.rsplit(_BETWEEN, 2)
    if len(numbers) != 2 or len(name) > NAME_LIMIT or b"".join(numbers).strip(_DIGITS):
        raise Trouble("corrupt", "has the key of a count that is none")
    return name, int(numbers[0][:_BEHIND] or b"0")


def _rings(
    counters: Sequence[Counter], records: Sequence[Record | None]
) -> Iterator[tuple[Counter, Sequence[Record | None]]]:
    """Each counter, and the records of its ring."""
    for place, counter in enumerate(counters):
        yield counter, records[place * RING : (place + 1) * RING]


def _sum(ring: Sequence[Record | None], counter: Counter, now: int) -> Counted:
    """A record from a time to come is that of a clock that was ahead: it does not count.

    But one of the next step is that of somebody who looked at the clock a moment later.
    """
    counting = [
        record
        for record in ring
        if record is not None
        and now < record.ends
        and record.since <= now + counter.step
        and record.count
    ]
    left = min((record.ends for record in counting), default=now) - now
    return Counted(sum(record.count for record in counting), left)


def _added(ring: Sequence[Record | None], counter: Counter, now: int) -> list[Record | None]:
    """The records of the ring, with the amount in that of now."""
    begin = now - now % counter.step
    place = begin // counter.step % RING
    record = ring[place]
    if record is not None and record.since != begin:
        record = None
    amount = max(0, (0 if record is None else record.count) + counter.amount)
    changed = list(ring)
    if amount:
        changed[place] = Record(begin, amount, begin + counter.step + counter.span)
    elif record is not None:
        changed[place] = None
    return changed
