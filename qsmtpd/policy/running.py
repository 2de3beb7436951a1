"""Which plugin is running, in memory that another process can read when this one has ended."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

#: The deadline (monotonic seconds; 0: no plugin is running), and the lengths of
#: the names of plugin and hook, which follow.
_HEAD = struct.Struct("<dHH")
_NOBODY = bytes(8)
_NAME = 500  # bytes of each name, at most


class Running:
    """The writer's side: the process in which the plugins run.

    `page` is shared memory of SIZE bytes.  Neither call makes a system call.
    """

    SIZE = 4096  # bytes: a page

    __slots__ = ("_page",)

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page

    def begin(self, plugin: str, hook: str, deadline: float) -> None:
        """From now on this plugin runs, until end().

        `deadline` (monotonic seconds): from then on the watchdog may end the process.
        """
        first = plugin.encode("ascii", "replace")[:_NAME]
        second = hook.encode("ascii", "replace")[:_NAME]
        names = first + second
        # The deadline last: with it the names count.
        self._page[_HEAD.size : _HEAD.size + len(names)] = names
        _HEAD.pack_into(self._page, 0, deadline, len(first), len(second))

    def end(self) -> None:
        """No plugin is running."""
        self._page[: len(_NOBODY)] = _NOBODY

    @staticmethod
    def read(page: mmap.mmap) -> tuple[bytes, bytes, float] | None:
        """The plugin, its hook and the deadline that were last begun; None after end()."""
        deadline, first, second = _HEAD.unpack_from(page)
        if not deadline:
            return None
        at = _HEAD.size + first
        return page[_HEAD.size : at], page[at : at + second], deadline
