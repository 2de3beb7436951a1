"""A store under load, killed, full, read-only: what is in it is right, and nobody waits for it."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from hashlib import blake2b
from pathlib import Path
from time import monotonic

import pytest
from filters import NOWHERE
from harness import ROOT, Home, needs

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.facts import Client, Peer
from qsmtpd.filters.greylist import Attempt, Terms
from qsmtpd.log import Log
from qsmtpd.policy.store import GREYLIST, Access, Record, Trouble, sqlite
from qsmtpd.policy.store.counts import Counter, count
from qsmtpd.policy.store.sqlite import SqliteStore

NOW = 1_800_000_000
TERMS = Terms(300, 3600, 86400, 1000)
BUDGET = 30.0  # seconds: on a machine that is busy


def opened(path: Path, size: int = 1, budget: float = BUDGET) -> SqliteStore:
    store = SqliteStore(os.fsencode(path), size)
    store.deadline = monotonic() + budget
    return store


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def children(number: int, work: Callable[[int], None]) -> None:
    """work(place) in so many processes at once; each has to end well."""
    pids = []
    for place in range(number):
        pid = os.fork()
        if not pid:
            try:
                work(place)
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * number


# -- many at once ------------------------------------------------------------------


@pytest.mark.slow
def test_many_at_once_decide_right_and_count_each_once(tmp_path: Path) -> None:
    """50 processes with the same mail: each waits, each passes, and what passes counts once."""
    path, keys = tmp_path / "store", [b"%016d" % n for n in range(4)]

    def attempt(store: SqliteStore, key: bytes, now: int) -> int:
        store.deadline = monotonic() + BUDGET
        found = Attempt(TERMS, now)
        store.update(GREYLIST, [b"network", key], now, found)
        return found.wait

    def come(place: int, now: int, wait: int) -> None:
        store = opened(path)
        for n in range(len(keys)):
            key = keys[(n + place) % len(keys)]
            assert attempt(store, key, now) == wait
            if wait:
                continue
            store.deadline = monotonic() + BUDGET
            assert count(store, now, [Counter(b"joe", 3600), Counter(key, 3600)]).over is None

    children(50, lambda place: come(place, NOW, 300))
    children(50, lambda place: come(place, NOW + 299, 1))
    children(50, lambda place: come(place, NOW + 300, 0))
    store = opened(path)
    (network,) = store.look(GREYLIST, [b"network"], NOW + 300)
    assert network is not None and network.count == len(keys), "each has come again once"
    found = count(store, NOW + 300, [Counter(name, 3600, 0) for name in (b"joe", *keys)]).found
    assert [each.value for each in found] == [50 * len(keys), *[50] * len(keys)]
    store.close()
    assert is_sound(path)


@pytest.mark.slow
def test_a_limit_holds_for_many_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def take(place: int) -> None:
        store = opened(path)
        over = [count(store, NOW, [Counter(b"joe", 3600, 1, 25)]).over for _ in range(2)]
        (tmp_path / f"{place}").write_text(str(over.count(None)))

    children(20, take)
    assert sum(int((tmp_path / f"{place}").read_text()) for place in range(20)) == 25


def test_one_that_was_opened_before_a_fork_is_not_used_behind_it(home: Home) -> None:
    settings = Settings(ControlFiles(os.fsencode(home.path)), {b"QSMTPD_STORE": b"store"})
    access = Access(settings.for_plugin("greylist", {}, Log(NOWHERE)), "pass")

    def add() -> None:
        access.ask(Client(Peer()), lambda store: count(store, NOW, [Counter(b"a", 60)]))

    add()
    links = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    # The folder itself was open while it was listed.
    assert home.path / "store" in {each.readlink() for each in links if each.is_symlink()}

    def add_some(_: int) -> None:
        for _ in range(5):
            add()

    children(4, add_some)
    add()
    assert count(opened(home.path / "store"), NOW, [Counter(b"a", 60, 0)]).found[0].value == 22
    assert is_sound(home.path / "store")


# -- its size ----------------------------------------------------------------------


def put(store: SqliteStore, keys: Sequence[bytes], ends: int, now: int = NOW) -> None:
    store.deadline = monotonic() + BUDGET
    store.update(GREYLIST, keys, now, lambda _: [Record(now, 1, ends) for _ in keys])


def named(number: int) -> bytes:
    """A key, as random as they are."""
    return blake2b(b"%d" % number, digest_size=16).digest()


def test_what_has_ended_goes_as_others_come(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = opened(path)
    put(store, [b"old%d" % n for n in range(100)], NOW + 10)
    for number in range(4):
        put(store, [b"new%d" % number], NOW + 1000, NOW + 10)
    assert rows(path, "greylist") == 4


@pytest.mark.slow
def test_a_store_that_is_full_loses_what_ends_first(tmp_path: Path) -> None:
    path, step = tmp_path / "store", 40
    store = opened(path)
    count(store, NOW, [Counter(b"joe", 3600)])
    for number in range(500):
        keys = [named(n) for n in range(number * step, (number + 1) * step)]
        put(store, keys, NOW + number + 60)
    store.close()
    assert path.stat().st_size <= 1024 * 1024
    kept = rows(path, "greylist")
    assert 10_000 < kept < 20_000
    last = [named(n) for n in range(20_000 - 9000, 20_000)]
    assert None not in opened(path).look(GREYLIST, last, NOW), "the latest are there"
    assert opened(path).look(GREYLIST, [named(0)], NOW) == [None]
    assert count(opened(path), NOW, [Counter(b"joe", 3600, 0)]).found[0].value == 1
    assert is_sound(path)


@pytest.mark.slow
def test_the_log_stays_small_where_every_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cold sessions do, without closing anything."""
    path = tmp_path / "store"
    monkeypatch.setattr(sqlite, "LOG_LIMIT", 40_000)

    def put_one(number: int, _: int) -> None:
        put(opened(path), [named(number)], NOW + 60)

    for number in range(20):
        children(1, partial(put_one, number))
    log = path.with_name("store-wal").stat().st_size
    assert 0 < log < 60_000, "20 of them would be 160,000"
    assert rows(path, "greylist") == 20


# -- faults of the system ------------------------------------------------------------

#: What a session does with its store; the calls behind the mark are those that count.
STEP = """
import sys, posix
sys.path.insert(0, sys.argv[1])
from time import monotonic
from qsmtpd.policy.store import GREYLIST, COUNTS, Record, Trouble
from qsmtpd.policy.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[2].encode(), 1)
store.deadline = monotonic() + 2
try:
    posix.stat("/mark")
except OSError:
    pass
def more(records):
    return [Record(1, 1 if each is None else each.count + 1, 2**40) for each in records]
word = "ok"
try:
    store.update(GREYLIST, [b"one", b"two"], 5, more)
except Trouble as error:
    word = error.word
if word == "ok":
    store.close()
posix.write(1, word.encode())
posix._exit(0)
"""


def step(path: Path, *wrapper: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [*wrapper, sys.executable, "-IS", "-c", STEP, ROOT, path]
    return subprocess.run(command, capture_output=True, timeout=60)


def prepared(folder: Path, how: str) -> Path:
    """A place for a store: there is none, one that was closed, or one whose users were killed."""
    folder.mkdir()
    path = folder / "store"
    if how != "new":
        store = opened(path)
        put(store, [b"%016d" % n for n in range(400)], 2**40)
        store.update(GREYLIST, [b"one", b"two"], NOW, lambda _: [Record(1, 1, 2**40)] * 2)
        if how == "closed":
            store.close()
        else:
            copy = folder / "copy"
            copy.mkdir()
            for each in folder.glob("store*"):
                shutil.copy(each, copy / each.name)
            store.close()
            path = copy / "store"
    return path


def traced(folder: Path, how: str) -> list[tuple[str, int]]:
    """The calls behind the mark: the name, and which one of this name in the process it is."""
    trace = folder / "trace"
    done = step(prepared(folder / "traced", how), needs("strace"), "-o", trace)
    if b"Operation not permitted" in done.stderr:
        pytest.skip("may not trace")
    assert done.stdout == b"ok", done.stderr
    seen: Tally[str] = Tally()
    found, marked = [], False
    for line in trace.read_text().splitlines():
        name = re.match(r"\w+", line)
        if name is None or name[0] in ("exit_group", "execve"):
            continue
        seen[name[0]] += 1
        marked = marked or '"/mark"' in line
        if marked:
            found.append((name[0], seen[name[0]]))
    return found[1:]


def look_at(path: Path, before: int) -> Iterator[int]:
    """The store is sound, and the next step finds both of its records the same."""
    assert step(path).stdout == b"ok"
    assert is_sound(path)
    one, two = opened(path).look(GREYLIST, [b"one", b"two"], 5)
    assert one is not None and two is not None and one.count == two.count
    yield one.count
    assert rows(path, "greylist") == (402 if before else 2)


_ALL = [pytest.mark.long, pytest.mark.timeout(7200)]
#: One in so many points; all by hand.


@pytest.mark.slow
@pytest.mark.parametrize("every", [29, pytest.param(1, marks=_ALL)])
@pytest.mark.parametrize("how", ["new", "closed", "killed"])
def test_killed_at_every_call_of_a_write(tmp_path: Path, how: str, every: int) -> None:
    before = 0 if how == "new" else 1
    points = traced(tmp_path, how)
    assert len(points) > 20
    counts = set()
    for place, (name, number) in list(enumerate(points))[::every]:
        path = prepared(tmp_path / f"{place}", how)
        inject = f"inject={name}:signal=KILL:when={number}"
        done = step(path, needs("strace"), "-o", "/dev/null", "-e", inject)
        assert done.returncode in (-9, 137, 0), (name, number, done)
        counts |= set(look_at(path, before))
        shutil.rmtree(tmp_path / f"{place}")
    assert counts <= {before + 1, before + 2}, "before, or behind, and nothing else"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "every"),
    [("ENOSPC", 41), ("EIO", 37)]
    + [pytest.param(error, 1, marks=_ALL) for error in ("ENOSPC", "EIO", "EDQUOT", "EACCES")],
)
def test_every_call_may_fail(tmp_path: Path, error: str, every: int) -> None:
    """It is trouble, with a word, and never a crash; the next step finds a sound store."""
    words: Tally[bytes] = Tally()
    for place, (name, number) in list(enumerate(traced(tmp_path, "killed")))[::every]:
        if name in ("munmap", "brk", "close", "getpid", "futex", "write"):  # of Python, not its own
            continue
        path = prepared(tmp_path / f"{place}", "killed")
        inject = f"inject={name}:error={error}:when={number}"
        done = step(path, needs("strace"), "-o", "/dev/null", "-e", inject)
        assert done.returncode == 0 and done.stdout, (name, number, done.stderr)
        words[done.stdout] += 1
        assert {*look_at(path, 1)} <= {2, 3}
        shutil.rmtree(tmp_path / f"{place}")
    known = {b"ok", b"busy", b"missing", b"denied", b"readonly", b"full", b"corrupt", b"failed"}
    assert set(words) <= known and words[b"ok"], words


def test_no_room_for_more(tmp_path: Path) -> None:
    """A limit of the size of files stands for a disk that is full."""
    path = tmp_path / "store"
    put(opened(path), [b"k"], NOW + 60)

    def write(_: int) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        words = set()
        for number in range(100):
            try:
                put(opened(path), [b"%d" % number], NOW + 60)
            except Trouble as error:
                words.add(error.word)
        assert words and words <= {"full", "failed"}, words

    children(1, write)
    put(opened(path), [b"later"], NOW + 60)
    assert is_sound(path)


@pytest.mark.parametrize(
    ("folder", "file", "word"), [(0o555, 0o444, "readonly"), (0o555, 0o644, "denied")]
)
def test_a_store_of_somebody_else(folder: int, file: int, word: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "store")
        store = opened(path)
        put(store, [b"k"], NOW + 60)
        store.close()
        path.chmod(file)
        Path(name).chmod(folder)

        def write(_: int) -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            with pytest.raises(Trouble) as raised:
                put(opened(path), [b"x"], NOW + 60)
            assert raised.value.word in ("readonly", "denied"), raised.value

        children(1, write)
        Path(name).chmod(0o700)


def test_who_holds_it_is_not_waited_for_beyond_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "store"
    put(opened(path), [b"k"], NOW + 60)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        begun = monotonic()
        with pytest.raises(Trouble) as raised:
            opened(path, budget=0.5).update(
                GREYLIST, [b"x"], NOW, lambda _: [Record(1, 1, NOW * 2)]
            )
        assert raised.value.word == "busy"
        assert 0.2 < monotonic() - begun < 20
        assert opened(path).look(GREYLIST, [b"k"], NOW) != [None], "who reads, reads"


def test_one_that_is_replaced_while_it_is_open(tmp_path: Path) -> None:
    path, other = tmp_path / "store", tmp_path / "other"
    store = opened(path)
    put(store, [b"k"], NOW + 60)
    with closing(opened(other)) as new:
        put(new, [b"o"], NOW + 60)
    store.close()
    other.rename(path)
    found = store.look(GREYLIST, [b"k", b"o"], NOW)
    assert found[0] is None and found[1] is not None
    (tmp_path / "gone").mkdir()
    for each in tmp_path.glob("store*"):
        each.rename(tmp_path / "gone" / each.name)
    put(store, [b"new"], NOW + 60)
    assert store.look(GREYLIST, [b"k", b"new"], NOW)[0] is None and path.exists()
