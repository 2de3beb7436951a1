"""Counts within the last hour or day, in a store: what holds for any sequence of times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.policy.store import COUNTS, Record, memory
from qsmtpd.policy.store.counts import RING, STEPS, Counter, count, listed, look
from qsmtpd.policy.store.memory import MemoryStore

SPAN = 1200  # seconds; a step has 100
START = 1_800_000_000


def value(store: MemoryStore, now: int, name: bytes = b"x") -> int:
    (found,) = look(store, now, [Counter(name, SPAN)])
    return found.value


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(1, 4)), max_size=40),
    st.integers(0, 10),
    st.integers(0, 5000),
)
def test_no_more_than_most_within_any_window(
    steps: list[tuple[int, int]], most: int, start: int
) -> None:
    """Not more, wherever the window begins; and never less for longer than a step."""
    store, now = MemoryStore(), START + start
    taken: list[tuple[int, int]] = []
    for wait, amount in steps:
        now += wait
        counts = count(store, now, [Counter(b"x", SPAN, amount, most)])
        within = sum(n for when, n in taken if when > now - SPAN)
        around = sum(n for when, n in taken if when > now - SPAN - SPAN // STEPS)
        if counts.over is None:
            assert within + amount <= most
            taken.append((now, amount))
        else:
            assert around + amount > most
            assert (counts.found[0].left > 0) == (counts.found[0].value > 0)
        assert within <= value(store, now) <= around + (amount if counts.over is None else 0)
        assert len(dict(store.records(COUNTS, now))) <= RING


@given(st.integers(0, 3 * SPAN), st.integers(1, 9))
def test_when_it_will_be_less(start: int, amount: int) -> None:
    store, now = MemoryStore(), START + start
    count(store, now, [Counter(b"x", SPAN, amount)])
    (found,) = look(store, now, [Counter(b"x", SPAN)])
    assert SPAN < found.left <= SPAN + SPAN // STEPS
    assert value(store, now + found.left - 1) == amount
    assert value(store, now + found.left) == 0


def test_all_or_nothing() -> None:
    store = MemoryStore()
    counters = [Counter(b"a", SPAN, 1, 5), Counter(b"b", SPAN, 3, 4), Counter(b"c", SPAN, 1)]
    assert count(store, START, counters).over is None
    counts = count(store, START, counters)
    assert counts.over == 1
    assert [each.value for each in counts.found] == [1, 3, 1]
    assert [value(store, START, name) for name in (b"a", b"b", b"c")] == [1, 3, 1]


def test_what_is_taken_back() -> None:
    """Where it was counted, and not below 0, also where somebody has reset it meanwhile."""
    store = MemoryStore()
    count(store, START, [Counter(b"x", SPAN, 3)])
    count(store, START + 150, [Counter(b"x", SPAN, 2)])
    count(store, START, [Counter(b"x", SPAN, -3)])
    assert value(store, START + 200) == 2
    count(store, START + 150, [Counter(b"x", SPAN, -9)])
    assert value(store, START + 200) == 0
    store.remove(COUNTS)
    count(store, START + 150, [Counter(b"x", SPAN, -9)])
    assert value(store, START + 200) == 0


def test_a_clock_that_was_ahead() -> None:
    store = MemoryStore()
    count(store, START + 10 * SPAN, [Counter(b"x", SPAN, 5)])
    assert value(store, START) == 0
    count(store, START, [Counter(b"x", SPAN, 1, 1)])
    assert value(store, START) == 1
    # Two look at the clock around the turn of a step: who was later may count first.
    turn = START - START % 100 + 1000
    count(store, turn, [Counter(b"y", SPAN, 1)])
    assert count(store, turn - 1, [Counter(b"y", SPAN, 1, 1)]).over == 0


def test_a_list_of_them() -> None:
    store = MemoryStore()
    for name, wait in ((b"b", 0), (b"a", 0), (b"a", 300), (b"a\0c", 0)):
        count(store, START + wait, [Counter(name, SPAN, 2), Counter(name, 2 * SPAN, 2)])
    found = [(name, span, what.value) for name, span, what in listed(store, START + 300)]
    assert sorted(found) == [
        *((b"a", SPAN, 4), (b"a", 2 * SPAN, 4), (b"a\0c", SPAN, 2), (b"a\0c", 2 * SPAN, 2)),
        *((b"b", SPAN, 2), (b"b", 2 * SPAN, 2)),
    ]
    assert store.remove(COUNTS, Counter(b"a", SPAN).keys + Counter(b"a", 2 * SPAN).keys) == 4
    assert {name for name, _, _ in listed(store, START + 300)} == {b"a\0c", b"b"}


def test_how_long_a_name_may_be() -> None:
    with pytest.raises(ValueError, match="no name"):
        Counter(b"x" * 501, SPAN)
    assert max(map(len, Counter(b"x" * 500, 86400).keys)) <= 512


LIMIT = 1000


def put(store: MemoryStore, key: bytes, now: int) -> None:
    store.update(COUNTS, [key], now, lambda _: [Record(now, 1, now + SPAN)])


def test_the_memory_of_a_process_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go; what has ended goes first."""
    monkeypatch.setattr(memory, "LIMIT", LIMIT)
    store = MemoryStore()
    for number in range(LIMIT + 10):
        put(store, b"%d" % number, START)
    found = dict(store.records(COUNTS, START))
    assert LIMIT // 2 < len(found) <= LIMIT
    assert b"%d" % (LIMIT + 9) in found and b"0" not in found
    late = START + SPAN
    for number in range(LIMIT):
        put(store, b"x%d" % number, late)
    assert all(key.startswith(b"x") for key, _ in store.records(COUNTS, START))
    assert store.remove(COUNTS) > LIMIT // 2
    assert list(store.records(COUNTS, START)) == []
