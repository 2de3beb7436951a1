"""A store with a million records: what a decision costs, and how large the file is.

    .venv/bin/python tests/bench/store.py [RECORDS]

The records are greylist's, of keys as random as they are; they are written in large steps.
Then, of one process with the file open, the medians of a decision about one who is known,
one who waits, and one who is new; and of the command that lists counts, nothing.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from qsmtpd.filters import greylistkey
from qsmtpd.filters.greylist import Attempt, Terms
from qsmtpd.policy.store import GREYLIST, Record
from qsmtpd.policy.store.sqlite import SqliteStore

NOW = 1_800_000_000
TERMS = Terms(300, 48 * 3600, 36 * 86400, 0)
STEP, TIMES = 5000, 2000


def keys_of(number: int) -> list[bytes]:
    """The network, and one who sends from there."""
    network = b"192.0.%d.0/24" % (number % 256)
    sender, recipient = b"sender%d@b.example" % number, b"x@ok.example"
    return [greylistkey.key(network), greylistkey.key(network, sender, recipient)]


def decide(store: SqliteStore, number: int, now: int) -> float:
    """Microseconds of one decision, of the keys too."""
    start = time.perf_counter()
    store.deadline = time.monotonic() + 3
    store.update(GREYLIST, keys_of(number), now, Attempt(TERMS, now))
    return 1e6 * (time.perf_counter() - start)


def _these(rows: list[Record | None], _: object) -> list[Record | None]:
    return rows


def fill(store: SqliteStore, records: int) -> None:
    """Every second of them is known, the others wait."""
    for start in range(0, records, STEP):
        numbers = range(start, min(start + STEP, records))
        keys = [keys_of(number)[1] for number in numbers]
        rows: list[Record | None] = [
            Record(NOW, number % 2, NOW + (36 * 86400 if number % 2 else 300 + 48 * 3600))
            for number in numbers
        ]
        store.deadline = time.monotonic() + 60
        store.update(GREYLIST, keys, NOW, partial(_these, rows))


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store")
        store = SqliteStore(os.fsencode(path), 4096)
        start = time.monotonic()
        fill(store, records)
        print(f"{records} records in {time.monotonic() - start:.0f} s")
        store.close()
        size = path.stat().st_size
        print(f"{size / 1048576:.1f} MB, {size / records:.0f} bytes each")
        kinds: dict[str, Callable[[int], int]] = {
            "known": lambda n: (n * 7919 * 2 + 1) % records,
            "waits": lambda n: n * 7919 * 2 % records,
            "new": lambda n: records + n,
        }
        decide(store, 1, NOW + 1)
        for name, number in kinds.items():
            found = sorted(decide(store, number(n), NOW + 1) for n in range(TIMES))
            most = found[-TIMES // 100]
            print(f"{name}: {statistics.median(found):.0f} us, 99 of 100 in {most:.0f}")


if __name__ == "__main__":
    main()
