"""A reader of djb's constant database, the format of morercpthosts.cdb.

The file begins with 256 pairs (position, slots) of hash tables; a table is
slots of (hash, position of record), 0 for an empty one; a record is key length,
data length, key, data.  All numbers are 32 bits, little-endian (cdb(5)).

Such a file is to be replaced by rename(2), but `cp` writes into it while we
read.  So it is not mapped, which would be SIGBUS; every position is checked;
and what has been found counts only if the file is still what it was, and still
the one of its name: a warm process has it open from one session to the next.
"""

from __future__ import annotations

import posix as os

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    State = tuple[int, int, int, int]

_HEADER = 2048
#: The maximum of a key and of its data (bytes): more is damage.
_RECORD_LIMIT = 1 << 20
#: The maximum of slots to look at for one key: tables are half empty, so
#: neighbours of a slot that are not, as many as this, are damage.
_STEPS_LIMIT = 1 << 16
_DAMAGED = "is damaged, or still being written"


class Cdb:
    """The cdb file that the descriptor `fd`, now its own, is open for; `name` is for errors.

    Reading raises ControlError where the file is no cdb or is damaged; each
    lookup looks again.  Where another file has come to `path`, open_again() has a
    descriptor of that one; while there is none, what is open serves on.
    """

    __slots__ = ("_fd", "_name", "_path", "_open_again", "_state", "_header")

    def __init__(
        self, name: str, fd: int, path: bytes, open_again: Callable[[], int | None]
    ) -> None:
        self._fd = fd
        self._name = name
        self._path = path
        self._open_again = open_again
        self._load()

    def __del__(self) -> None:
        os.close(self._fd)

    def get(self, key: bytes) -> bytes | None:
        """The data of the first record with this key, or None."""
        return self._read(key, data=True)

    def __contains__(self, key: bytes) -> bool:
        return self._read(key, data=False) is not None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every record, (key, data), in the order of the file.

        Raises ControlError, at the latest in the end, where one cannot be read or found.
        """
        if self.state() != self._state:
            self._look_again()
        tables = [self._table(number) for number in range(256)]
        end = min((table for table, slots in tables if slots), default=_HEADER)
        position = _HEADER
        while position < end:
            length, size = self._record(position)
            key = self._bytes(position + 8, length)
            data = self._bytes(position + 8 + length, size)
            position += 8 + length + size
            if self._find(key, data=False) is not None:
                yield key, data
            elif key or not data or data.strip(b"\0"):  # else a gap, as tinycdb makes them
                raise ControlError(self._name, _DAMAGED)
        if position != end:
            raise ControlError(self._name, _DAMAGED)

    def _load(self) -> None:
        """Read the header of what is open now."""
        state = _state(os.fstat(self._fd))
        header = self._bytes(0, _HEADER) if state[0] >= _HEADER else b""
        # Zeros are what is there before a writer has come to its end; the tables
        # of an empty cdb are at position 2048.
        if not header.strip(b"\0"):
            raise ControlError(self._name, "is no cdb, or still being written")
        # Writers put the tables in order at the end, so the last one ends with the file.
        table, slots = _two(header[-8:])
        if table + slots * 8 > state[0]:
            raise ControlError(self._name, _DAMAGED)
        self._state, self._header = state, header

    def state(self) -> State:
        """What it is now, (size, when it has changed, device, inode).  Raises ControlError."""
        try:
            try:
                return _state(os.stat(self._path))
            except FileNotFoundError:
                return _state(os.fstat(self._fd))
        except OSError as error:
            raise ControlError(self._name, error.strerror or "unreadable") from error

    def _look_again(self) -> None:
        """It has changed: open what has its name now, and read the header."""
        fd = self._open_again()
        if fd is not None:
            os.close(self._fd)
            self._fd = fd
        self._load()

    def _read(self, key: bytes, data: bool) -> bytes | None:
        for _ in range(2):  # if it has changed since the last lookup, the header is another
            try:
                found = self._find(key, data)
            except ControlError:
                if self.state() == self._state:
                    raise
            else:
                if self.state() == self._state:
                    return found
            self._look_again()
        raise ControlError(self._name, "is being written")

    def _find(self, key: bytes, data: bool) -> bytes | None:
        """The data, b"" in place of them where they are not wanted, or None."""
        hashed = _hash(key)
        table, slots = self._table(hashed & 255)
        for step in range(min(slots, _STEPS_LIMIT)):
            slot = ((hashed >> 8) + step) % slots
            slot_hash, record = self._pair(table + slot * 8)
            if record == 0:
                return None
            if slot_hash == hashed:
                length, size = self._record(record)
                found = self._bytes(record + 8, length)
                if found == key:
                    return self._bytes(record + 8 + length, size) if data else b""
                if _hash(found) != hashed:  # one key in four milliards has the same
                    raise ControlError(self._name, _DAMAGED)
        if slots > _STEPS_LIMIT:
            raise ControlError(self._name, _DAMAGED)
        return None

    def _table(self, number: int) -> tuple[int, int]:
        """(position, slots) of a hash table."""
        table, slots = _two(self._header[number * 8 : number * 8 + 8])
        if slots and (table < _HEADER or table + slots * 8 > self._state[0]):
            raise ControlError(self._name, _DAMAGED)
        return table, slots

    def _record(self, position: int) -> tuple[int, int]:
        """(key length, data length) of the record at this position."""
        length, size = self._pair(position)
        end = position + 8 + length + size
        if position < _HEADER or max(length, size) > _RECORD_LIMIT or end > self._state[0]:
            raise ControlError(self._name, _DAMAGED)
        return length, size

    def _pair(self, position: int) -> tuple[int, int]:
        return _two(self._bytes(position, 8))

    def _bytes(self, position: int, length: int) -> bytes:
        try:
            found = os.pread(self._fd, length, position)
        except OSError as error:
            raise ControlError(self._name, error.strerror or "unreadable") from error
        if len(found) != length:
            raise ControlError(self._name, _DAMAGED)
        return found


def _state(found: os.stat_result) -> State:
    return found.st_size, found.st_ctime_ns, found.st_dev, found.st_ino


def _two(pair: bytes) -> tuple[int, int]:
    return int.from_bytes(pair[:4], "little"), int.from_bytes(pair[4:], "little")


def _hash(key: bytes) -> int:
    hashed = 5381
    for byte in key:
        hashed = ((hashed << 5) + hashed ^ byte) & 0xFFFFFFFF
    return hashed
