"""Which workers have served their client: said in memory that they share with the master.

That costs no system call and wakes nobody.  The master looks when it needs a worker;
where clients wait for one it asks to be told besides (`awaited`), by a word on the
worker's control socket.
"""

from __future__ import annotations

import errno
import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DONE, _NOT = b"\1", 0


class Board:
    """Places for so many workers.  A byte says whether one is done, another its exit status."""

    __slots__ = ("_page", "_size", "_free")

    def __init__(self, size: int) -> None:
        self._page = mmap.mmap(-1, 1 + 2 * size)
        self._size = size
        self._free = list(range(size, 0, -1))

    # -- the master's side -------------------------------------------------

    def take(self) -> int:
        """A place for a new worker.  Raises OSError where there is none."""
        if not self._free:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._free.pop()

    def free(self, place: int) -> None:
        """The worker that had it has ended."""
        self._page[place] = _NOT
        self._free.append(place)

    def done(self) -> Iterator[tuple[int, int]]:
        """The places of those who are done since the last look, and their exit statuses."""
        place = self._page.find(_DONE, 1, self._size + 1)
        while place > 0:
            self._page[place] = _NOT
            yield place, self._page[self._size + place]
            place = self._page.find(_DONE, place + 1, self._size + 1)

    @property
    def awaited(self) -> bool:
        """Does the master want to be told?"""
        return self._page[0] != 0

    @awaited.setter
    def awaited(self, wanted: bool) -> None:
        self._page[0] = wanted

    # -- the worker's side -------------------------------------------------

    def say(self, place: int, status: int) -> bool:
        """It is done, with this exit status; does the master want to be told?"""
        self._page[self._size + place] = status & 0xFF
        self._page[place] = _DONE[0]
        return self._page[0] != 0
