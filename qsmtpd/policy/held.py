"""A text that waits until all of it has come: a short one in memory, another one in a file."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .spool import Spool

#: A longer text is in a file (bytes), unless whoever holds it says otherwise.
MEMORY = 65536


class Held:
    """A text; more than `memory` bytes of it are in a file.

    Methods raise OSError where the file has no place; with its path where it cannot be made.
    """

    __slots__ = ("_limit", "_memory", "_spool")

    def __init__(self, memory: int = MEMORY) -> None:
        self._limit = memory
        self._memory = bytearray()
        self._spool: Spool | None = None

    def write(self, text: bytes) -> None:
        """Append."""
        self._memory += text
        if self._spool is not None or len(self._memory) > self._limit:
            if self._spool is None:
                from .spool import Spool  # now: most messages are short

                self._spool = Spool()
            self._spool.write(bytes(self._memory))
            self._memory = bytearray()

    def chunks(self) -> Iterator[bytes]:
        """All of it."""
        if self._spool is not None:
            yield from self._spool.chunks()
        else:
            yield bytes(self._memory)

    def close(self) -> None:
        """Give its place back."""
        self._memory = bytearray()
        if self._spool is not None:
            self._spool.close()
            self._spool = None
