"""A check: a stable name, a paragraph that explains it, and what finds the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from .evidence import Evidence
from .protocol import LMTP, SMTP, Protocol

if TYPE_CHECKING:
    from .probe import Probe


class Rating(StrEnum):
    """What a check says."""

    SAFE = "safe"
    VULNERABLE = "vulnerable"
    ODD = "odd"
    UNTESTED = "could not test"


@dataclass(frozen=True)
class Finding:
    """A verdict, and the reason for it in one line."""

    verdict: Rating
    reason: str


def safe(reason: str) -> Finding:
    """It withstands."""
    return Finding(Rating.SAFE, reason)


def vulnerable(reason: str) -> Finding:
    """Somebody on the wire can make use of it."""
    return Finding(Rating.VULNERABLE, reason)


def odd(reason: str) -> Finding:
    """Not as the standard says, or worth knowing; no attack by itself."""
    return Finding(Rating.ODD, reason)


@dataclass(frozen=True)
class Check:
    """One question to a server.

    `run` raises CouldNotTest, or connection.Trouble, where there is no answer.
    An `injection` check that has no answer leaves the main question open, which
    the exit status says.  A check that does not `need_tls` runs even where
    STARTTLS does not work.  One with an `option` runs only where the user has
    given that.
    """

    name: str
    explanation: str
    run: Callable[[Probe], Finding]
    injection: bool = False
    needs_tls: bool = True
    option: str = ""
    protocols: tuple[Protocol, ...] = (SMTP, LMTP)


@dataclass(frozen=True)
class Result:
    """What came of a check, or of a scenario of --listen.

    A check that is not `tried` has the fate of the control experiment.
    """

    name: str
    explanation: str
    injection: bool
    finding: Finding
    evidence: Evidence
    tried: bool = True


def exit_status(results: list[Result], asked: frozenset[str] = frozenset()) -> int:
    """1 if anything is vulnerable, else 2 if what matters could not be tested, else 0.

    What matters are the injection checks, and what was asked for by name.
    """
    if any(result.finding.verdict is Rating.VULNERABLE for result in results):
        return 1
    if any(
        (result.injection or result.name in asked) and result.finding.verdict is Rating.UNTESTED
        for result in results
    ):
        return 2
    return 0
