"""A reader of djb's constant database, the format of morercpthosts.cdb.

The file begins with 256 pairs (position, slots) of hash tables; a table is
slots of (hash, position of record), 0 for an empty one; a record is key length,
data length, key, data.  All numbers are 32 bits, little-endian (cdb(5)).
"""

from __future__ import annotations

import mmap
import posix as os

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = 2048


class Cdb:
    """The open cdb file `path`; `name` is what errors call it.

    Opening and reading raise ControlError where it cannot be read, is no cdb
    or is damaged.
    """

    __slots__ = ("_map", "_name")

    def __init__(self, name: str, path: bytes) -> None:
        self._name = name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size < _HEADER:
                    raise ControlError(name, "is no cdb")
                self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(fd)
        except OSError as error:
            raise ControlError(name, error.strerror or "unreadable") from error

    def get(self, key: bytes) -> bytes | None:
        """The data of the first record with this key, or None."""
        hashed = 5381
        for byte in key:
            hashed = ((hashed << 5) + hashed ^ byte) & 0xFFFFFFFF
        table, slots = self._pair((hashed & 255) * 8)
        for step in range(slots):
            slot = ((hashed >> 8) + step) % slots
            slot_hash, record = self._pair(table + slot * 8)
            if record == 0:
                return None
            if slot_hash == hashed:
                length, size = self._pair(record)
                if self._bytes(record + 8, length) == key:
                    return self._bytes(record + 8 + length, size)
        return None

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every record, (key, data), in the order of the file.

        Records begin behind the header and end where the first hash table begins.
        """
        end = min(self._pair(number * 8)[0] for number in range(256))
        position = _HEADER
        while position < end:
            length, size = self._pair(position)
            position += 8
            yield self._bytes(position, length), self._bytes(position + length, size)
            position += length + size

    def _pair(self, position: int) -> tuple[int, int]:
        pair = self._bytes(position, 8)
        return int.from_bytes(pair[:4], "little"), int.from_bytes(pair[4:], "little")

    def _bytes(self, position: int, length: int) -> bytes:
        found = self._map[position : position + length]
        if len(found) != length:
            raise ControlError(self._name, "is damaged: a position lies outside the file")
        return found
