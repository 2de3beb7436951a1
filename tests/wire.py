"""A transport without a descriptor, for sessions in the process of a test."""

from __future__ import annotations


class Wire:
    """The pieces of what a client sends, and what it hears."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)
        self.heard = b""

    def read(self, deadline: float) -> bytes:
        return next(self._pieces, b"")

    def write(self, data: bytes, deadline: float) -> None:
        self.heard += data

    def close(self, deadline: float) -> None:
        pass

    def drain(self, wait: bool, rate: int) -> None:
        pass
