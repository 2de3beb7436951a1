"""Time limits of many at once: a queue for each length, in which the oldest is the first due."""

from __future__ import annotations

from time import monotonic

from .. import waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable, Iterator
    from typing import Generic, TypeVar

    T = TypeVar("T")
else:
    # collections.py and typing.py are a megabyte, which each process would have, too.
    from _collections import OrderedDict

    T, Generic = None, {None: object}


class Timers(Generic[T]):
    """Who has until when; each has one time limit at most.  All of it costs the same for many.

    by(time) is told when one is due (monotonic seconds).
    """

    __slots__ = ("_by", "_queues", "_of")

    def __init__(self, by: Callable[[float], object]) -> None:
        self._by = by
        #: length (seconds) -> who has that, and until when (monotonic seconds)
        self._queues: dict[float, OrderedDict[T, float]] = {}
        self._of: dict[T, OrderedDict[T, float]] = {}

    def set(self, who: T, seconds: float) -> None:
        """It has so long from now."""
        self.drop(who)
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = OrderedDict()
        self._of[who] = queue
        due = queue[who] = monotonic() + seconds
        self._by(due)

    def drop(self, who: T) -> None:
        """It has no time limit any more."""
        queue = self._of.pop(who, None)
        if queue is not None:
            del queue[who]

    def oldest(self) -> Iterator[T]:
        """Of each length, who has had it longest."""
        return (next(iter(queue)) for queue in self._queues.values() if queue)

    def next_time(self) -> float:
        """When the next one is due."""
        queues = self._queues.values()
        return min((next(iter(q.values())) for q in queues if q), default=waits.NEVER)

    def due(self, now: float) -> T | None:
        """One whose time is over; None where there is nobody."""
        for queue in self._queues.values():
            for who, deadline in queue.items():
                if deadline <= now:
                    return who
                break
        return None
