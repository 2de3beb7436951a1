"""A store in the memory of this process, for what holds while the other one is in trouble."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from . import Change, Record

#: So many records it has at most; then the oldest go.
LIMIT = 16384


class MemoryStore:
    """See Store; there is nothing to wait for, and no trouble."""

    __slots__ = ("deadline", "_records")
    descriptors, sockets = 0, ()

    def __init__(self) -> None:
        self.deadline = 0.0
        #: (table, key) -> record, the one first that was written first
        self._records: dict[tuple[str, bytes], Record] = {}

    def update(
        self, kind: str, keys: Sequence[bytes], now: int, change: Change
    ) -> list[Record | None]:
        records = self.look(kind, keys, now)
        becomes = change(records)
        for key, old, new in zip(keys, records, becomes, strict=True):
            if new is old:
                continue
            self._records.pop((kind, key), None)
            if new is not None:
                self._records[kind, key] = new
        if len(self._records) > LIMIT:
            self._tidy(now)
        return [*becomes]

    def look(self, kind: str, keys: Sequence[bytes], now: int) -> list[Record | None]:
        found = (self._records.get((kind, key)) for key in keys)
        return [None if record is None or record.ends <= now else record for record in found]

    def records(self, kind: str, now: int) -> Iterator[tuple[bytes, Record]]:
        for (table, key), record in sorted(self._records.items(), key=lambda item: item[0]):
            if table == kind and record.ends > now:
                yield key, record

    def remove(self, kind: str, keys: Sequence[bytes] | None = None) -> int:
        of_table = [key for table, key in self._records if table == kind]
        wanted = set(of_table if keys is None else keys).intersection(of_table)
        for key in wanted:
            del self._records[kind, key]
        return len(wanted)

    def close(self) -> None:
        self._records.clear()

    def _tidy(self, now: int) -> None:
        """What has ended goes, and if need be the oldest, so that there is room for some time."""
        kept = [(key, record) for key, record in self._records.items() if record.ends > now]
        self._records = dict(kept[-LIMIT * 3 // 4 :])
