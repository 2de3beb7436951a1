"""How much of everything: one run that lasts, and one that only shows that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The sizes of a run."""

    #: Each round measures everything once, with the contestants in turn.
    rounds: int
    #: What a load of sessions or messages should last; each contestant gets as many.
    seconds: float
    #: Of one message, for DATA.
    megabytes: int
    #: Clients at a time; all but the first two are measured in every third round only.
    at_a_time: tuple[int, ...]
    #: Idle connections, each in a session.
    connections: tuple[int, ...]
    #: Clients that have said nothing yet.
    held: tuple[int, ...]
    #: Those beside which others want to be served soon, and how many sessions of these.
    crowd: int
    patient: int
    #: Starts of a cold child in a round.
    cold_starts: int
    #: What takes a contestant longer than this is measured in every third round only (s).
    costly: float

    def due(self, number: int, rarely: bool) -> bool:
        """Whether something is measured in the round of this number, from 0."""
        return number % 3 == 0 or not rarely


FULL = Plan(
    rounds=7,
    seconds=1.0,
    megabytes=50,
    at_a_time=(1, 4, 16, 64),
    connections=(50, 500),
    held=(5_000, 10_000),
    crowd=2_000,
    patient=500,
    cold_starts=20,
    costly=8.0,
)
QUICK = Plan(
    rounds=1,
    seconds=0.0,
    megabytes=1,
    at_a_time=(1, 4),
    connections=(4,),
    held=(50,),
    crowd=20,
    patient=20,
    cold_starts=2,
    costly=8.0,
)
