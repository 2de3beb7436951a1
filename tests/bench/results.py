"""The values of all rounds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Results:
    """Values by row and contestant, and what could not be had."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    #: (row or "", contestant) -> why not
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, row: str, contestant: str, value: float) -> None:
        self.values.setdefault((row, contestant), []).append(value)

    def get(self, row: str, contestant: str) -> list[float]:
        """The values of all rounds; none where it could not be measured."""
        return self.values.get((row, contestant), [])

    def median(self, row: str, contestant: str) -> float | None:
        values = self.get(row, contestant)
        return statistics.median(values) if values else None

    def ratio(self, row: str, one: str, other: str) -> float | None:
        """The median of one by the median of the other."""
        a, b = self.median(row, one), self.median(row, other)
        return a / b if a is not None and b else None

    def rows(self) -> list[str]:
        """Those that have a value, in the order of their first."""
        return list(dict.fromkeys(row for row, _ in self.values))

    def rounds(self) -> int:
        """The most values that anything has."""
        return max((len(values) for values in self.values.values()), default=0)
