"""A text that waits until all of it has come: a short one in memory, another one in a file."""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .spool import Spool

#: A longer text is in a file (bytes).
MEMORY = 65536


def is_full(error: OSError) -> bool:
    """What a Held has raised: is there no room for its file, or could none be made?"""
    return error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT)


class Held:
    """A text.  Methods raise OSError: see is_full()."""

    __slots__ = ("_memory", "_spool")

    def __init__(self) -> None:
        self._memory = bytearray()
        self._spool: Spool | None = None

    def write(self, text: bytes) -> None:
        """Append."""
        if self._spool is None:
            self._memory += text
            if len(self._memory) <= MEMORY:
                return
            from .spool import Spool  # now: most messages are short

            self._spool = Spool()
            text, self._memory = bytes(self._memory), bytearray()
        self._spool.write(text)

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
