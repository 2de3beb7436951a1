"""Both stores say the same as a table in memory, whatever is asked of them in whatever order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer

from qsmtpd.policy.store import COUNTS, GREYLIST, Record
from qsmtpd.policy.store.address import parse
from qsmtpd.policy.store.memory import MemoryStore
from qsmtpd.policy.store.redis import RedisStore
from qsmtpd.policy.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from qsmtpd.policy.store import Store
NOW = 1_800_000_000
KEYS = [b"joe\0a", b"joe\0b", b"\xff\0", b"x" * 512, b"0123456789abcdef"]
PATIENCE = 30.0  # seconds

records = st.builds(
    Record, st.integers(0, 2**40), st.integers(-(2**40), 2**40), st.integers(NOW - 5, NOW + 50)
)
steps = st.tuples(
    st.sampled_from(["update", "keep", "look", "remove", "clear"]),
    st.sampled_from([GREYLIST, COUNTS]),
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True),
    st.integers(0, 9),
    records | st.none(),
)


def facts(found: Sequence[Record | None]) -> list[object]:
    return [None if each is None else (each.since, each.count, each.ends) for each in found]


def put(record: Record | None, old: Sequence[Record | None]) -> Sequence[Record | None]:
    """This in place of the first."""
    return [record, *old[1:]]


@contextmanager
def sqlite(folder: Path) -> Iterator[Callable[[], Store]]:
    names = iter(range(10_000))
    yield lambda: SqliteStore(os.fsencode(folder / str(next(names))), 4)


@contextmanager
def redis(folder: Path) -> Iterator[Callable[[], Store]]:
    with RedisServer(folder) as server:
        where = parse(os.fsencode(f"unix:{server.path}"))
        assert where is not None
        names = iter(range(10_000))
        yield lambda: RedisStore(where, b"mx%d" % next(names))


@pytest.fixture(params=[sqlite, pytest.param(redis, marks=pytest.mark.interop)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    with request.param(tmp_path) as found:
        yield found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.lists(steps, max_size=12))
def test_it_says_the_same(
    make: Callable[[], Store], steps: list[tuple[str, str, list[bytes], int, Record]]
) -> None:
    store, model, now = make(), MemoryStore(), NOW
    for what, kind, keys, wait, record in steps:
        now += wait
        store.deadline = monotonic() + PATIENCE
        said = []
        for each in (store, model):
            if what == "update":
                found = each.update(kind, keys, now, partial(put, record))
                said.append([*facts(found[1:]), *facts(each.look(kind, keys, now))])
            elif what == "keep":
                said.append(facts(each.update(kind, keys, now, lambda old: old)))
            elif what == "look":
                said.append(facts(each.look(kind, keys, now)))
            else:
                # How many have ended, and are still there, is each one's own affair.
                each.remove(kind, keys if what == "remove" else None)
                said.append(facts(each.look(kind, KEYS, now)))
        assert said[0] == said[1], (what, kind, keys)
    for kind in (GREYLIST, COUNTS):
        store.deadline = monotonic() + PATIENCE
        listed = sorted(facts([record for _, record in store.records(kind, now)]), key=str)
        assert listed == sorted(facts([record for _, record in model.records(kind, now)]), key=str)
        store.remove(kind, [key for key, _ in store.records(kind, now)])
        assert [*store.records(kind, now)] == []
    store.close()
