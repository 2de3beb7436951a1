"""What filters remember (qsmtpd/policy/store): one file, many processes."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from filters import NOWHERE

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.facts import Client, Peer
from qsmtpd.log import Log
from qsmtpd.policy.store import COUNTS, GREYLIST, Access, Record, Trouble, Unavailable
from qsmtpd.policy.store.counts import Counter, count, listed
from qsmtpd.policy.store.sqlite import ReadOnlyStore, SqliteStore

if TYPE_CHECKING:
    from qsmtpd.policy.store import Store

NOW = 1_800_000_000
BUDGET = 20.0  # seconds: on a machine that is busy


def opened(path: Path, size: int = 1, budget: float = BUDGET) -> SqliteStore:
    store = SqliteStore(os.fsencode(path), size)
    store.deadline = monotonic() + budget
    return store


def put(store: SqliteStore, key: bytes, record: Record | None, kind: str = GREYLIST) -> None:
    store.update(kind, [key], NOW, lambda _: [record])


def test_what_is_kept_is_there_for_the_next_process(tmp_path: Path) -> None:
    put(opened(tmp_path / "store"), b"\0key", Record(NOW, 7, NOW + 10))
    store = opened(tmp_path / "store")
    (found,) = store.look(GREYLIST, [b"\0key"], NOW)
    assert found is not None
    assert (found.since, found.count, found.ends) == (NOW, 7, NOW + 10)
    assert store.look(COUNTS, [b"\0key"], NOW) == [None], "another table"
    assert store.look(GREYLIST, [b"\0key", b"key"], NOW + 10) == [None, None], "it has ended"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("qsmtpd.policy.store.monotonic", made)
    return made


def asker(folder: Path, clock: Clock, seconds: float, trouble: bool = False) -> Callable[[], bool]:
    """What asks for one session, whose budget is 1 second: was there an answer?

    A question takes so many seconds, and ends in trouble, or in an answer.
    """
    variables = {b"QSMTPD_STORE": os.fsencode(folder / "store"), b"STORETIMEOUT": b"1"}
    settings = Settings(ControlFiles(os.fsencode(folder)), variables)
    access = Access(settings.for_plugin("greylist", {}, Log(NOWHERE)), "pass")
    client = Client(Peer())

    def question(store: Store) -> bool:
        assert abs(store.deadline - clock.now - 1) <= 1
        clock.now += seconds
        if trouble:
            raise Trouble("failed", "as a test wants it")
        return True

    def ask() -> bool:
        try:
            return access.ask(client, question)
        except Unavailable:
            return False

    return ask


def test_who_is_answered_at_once_may_ask_as_often_as_he_likes(tmp_path: Path, clock: Clock) -> None:
    ask = asker(tmp_path, clock, 0.04)
    assert all(ask() for _ in range(5000)), "200 seconds in all"


def test_answers_that_are_waited_for_use_up_the_budget(tmp_path: Path, clock: Clock) -> None:
    ask = asker(tmp_path, clock, 0.06)
    assert [ask() for _ in range(20)] == [True] * 17 + [False] * 3


def test_failures_use_up_the_budget(tmp_path: Path, clock: Clock) -> None:
    """However soon they come."""
    ask = asker(tmp_path, clock, 0.04, trouble=True)
    begun = clock.now
    assert not any(ask() for _ in range(1000))
    assert 1 <= clock.now - begun < 1.05


def test_many_keys_at_once(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    keys = [b"%d" % number for number in range(40_000)]  # more than SQLite takes values
    put(store, keys[-1], Record(NOW, 7, NOW + 10))
    found = store.look(GREYLIST, keys, NOW)
    assert [record and record.count for record in found[-2:]] == [None, 7]
    assert not any(found[:-1])


def test_a_store_has_the_mode_0600(tmp_path: Path) -> None:
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            put(opened(tmp_path / f"{umask}"), b"k", Record(NOW, 1, NOW + 1))
        finally:
            os.umask(before)
    assert {path.stat().st_mode & 0o7777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.slow
def test_many_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each opens the store for each of its steps, as cold sessions do, or keeps it open."""
    path, times, many = tmp_path / "store", 4, 20  # of 50, see test_store_faults
    children = []
    for number in range(many):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                store = opened(path)
                for _ in range(times):
                    if number % 2:
                        store = opened(path)
                    store.deadline = monotonic() + BUDGET
                    found = count(store, NOW, [Counter(b"all", 60), Counter(b"%d" % number, 60)])
                    assert found.over is None
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * many
    values = {name: what.value for name, _, what in listed(opened(path), NOW)}
    assert values.pop(b"all") == many * times
    assert len(values) == many and set(values.values()) == {times}


def broken(path: Path, how: str) -> None:
    """A store that was one, and is not any more."""
    store = opened(path)
    put(store, b"k", Record(NOW, 1, NOW + 1))
    store.close()
    content = path.read_bytes()
    path.unlink()
    if how == "directory":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "link":
        path.symlink_to("nowhere")
    elif how == "garbage":
        path.write_bytes(b"hello\n" * 5000)
    elif how == "truncated":
        path.write_bytes(content[:5000])
    elif how == "other":
        path.write_bytes(content[:68] + b"\0\0\0\1" + content[72:])
    elif how == "newer":
        path.write_bytes(content[:60] + b"\0\0\0\2" + content[64:])


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("directory", "foreign"),
        ("fifo", "foreign"),
        ("link", "missing"),
        ("garbage", "corrupt"),
        ("truncated", "corrupt"),
        ("other", "foreign"),
        ("newer", "foreign"),
    ],
)
def test_what_is_no_store_is_trouble_and_left_alone(tmp_path: Path, how: str, word: str) -> None:
    path = tmp_path / "store"
    broken(path, how)
    before = path.read_bytes() if path.is_file() else None

    def keep(records: Sequence[Record | None]) -> Sequence[Record | None]:
        return [Record(NOW, 1, NOW + 1)]

    with pytest.raises(Trouble) as raised:
        opened(path).update(GREYLIST, [b"k"], NOW, keep)
    assert raised.value.word == word, raised.value.reason
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize(
    "command",
    [
        "UPDATE sqlite_master SET sql = CAST(X'435245415445205441424c45a0' AS TEXT)",
        "INSERT INTO {} VALUES ('text', 1, 1, 9000000000)",
        "INSERT INTO {} VALUES (7, 1, 1, 9000000000)",
        "INSERT INTO {} VALUES (X'6b', 'x', 1, 9000000000)",
        "INSERT INTO {} VALUES (X'6b', 1, 1.5, 9000000000)",
        "INSERT INTO {} VALUES (X'6b00313233003132330031', 1, 9223372036854775807, 9000000000)",
        "INSERT INTO {} VALUES (X'00', 1, 1, 9000000000)",
        "INSERT INTO {} VALUES (X'6b002033363030000031', 1, 1, 9000000000)",
        "INSERT INTO {} VALUES (X'6b00b2003000', 1, 1, 9000000000)",
        "INSERT INTO {} VALUES (zeroblob(100000), 1, 1, 9000000000)",
    ],
)
def test_records_and_tables_that_are_none(tmp_path: Path, command: str) -> None:
    path = tmp_path / "store"
    store = opened(path)
    put(store, b"k", Record(NOW, 1, NOW + 9))
    count(store, NOW, [Counter(b"k\0messages", 3600)])
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        for kind in (COUNTS, GREYLIST):
            connection.execute(command.format(kind).replace("INSERT", "REPLACE"))
        connection.commit()
    use_every_way(path)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_at_random_it_is_trouble_and_nothing_else(tmp_path: Path, seed: int) -> None:
    """Its first page has the tables, so there is most to go wrong."""
    rng, path = random.Random(seed), tmp_path / "store"
    with closing(opened(path)) as store:
        for place in range(30):
            put(store, b"%016d" % place, Record(NOW, 1, NOW + 9))
            count(store, NOW, [Counter(b"user:%d\0messages" % place, 3600)])
    content = path.read_bytes()
    for _ in range(8):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 9)):
            damaged[rng.randrange(rng.choice((4096, len(damaged))))] = rng.randrange(256)
        for name in ("store-wal", "store-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        path.write_bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
        if rng.randrange(2):
            (tmp_path / "store-wal").write_bytes(rng.randbytes(5000))
            (tmp_path / "store-shm").write_bytes(rng.randbytes(rng.choice((0, 9, 32768))))
        use_every_way(path)


def use_every_way(path: Path) -> None:
    """Whatever there is may be trouble, and is no other exception."""
    for kind in (SqliteStore, ReadOnlyStore):
        with closing(kind(os.fsencode(path), 1)) as store:
            for use in USES:
                store.deadline = monotonic() + 0.01  # what is damaged may be busy for ever
                with suppress(Trouble):
                    use(store)


USES: tuple[Callable[[SqliteStore], object], ...] = (
    lambda store: put(store, b"k", Record(NOW, 1, NOW + 9)),
    lambda store: count(store, NOW, [Counter(b"k", 123, 1), Counter(b"user:1\0messages", 3600)]),
    lambda store: list(store.records(GREYLIST, NOW)),
    lambda store: list(listed(store, NOW)),
    lambda store: store.remove(COUNTS, [b"k"]),
)
