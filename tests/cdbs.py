"""A writer of constant databases, for what reads them."""

from __future__ import annotations

from pathlib import Path


def make_cdb(path: Path, data: dict[bytes, bytes]) -> None:
    """Write a cdb the slow way, from its specification (cdb(5))."""
    body, position = b"", 2048
    tables: list[list[tuple[int, int]]] = [[] for _ in range(256)]
    for key, value in data.items():
        hashed = 5381
        for byte in key:
            hashed = ((hashed * 33) & 0xFFFFFFFF) ^ byte
        tables[hashed % 256].append((hashed, position))
        record = len(key).to_bytes(4, "little") + len(value).to_bytes(4, "little") + key + value
        body += record
        position += len(record)
    head = b""
    for table in tables:
        slots = [(0, 0)] * (2 * len(table))
        for hashed, where in table:
            slot = (hashed // 256) % len(slots)
            while slots[slot] != (0, 0):
                slot = (slot + 1) % len(slots)
            slots[slot] = (hashed, where)
        head += position.to_bytes(4, "little") + len(slots).to_bytes(4, "little")
        for pair in slots:
            body += b"".join(number.to_bytes(4, "little") for number in pair)
        position += 8 * len(slots)
    path.write_bytes(head + body)
