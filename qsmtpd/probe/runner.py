"""Runs checks, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .check import Check, Finding, Rating, Result
from .checks import FIRST
from .connection import Trouble
from .errors import CouldNotTest
from .evidence import PEER
from .probe import Probe
from .protocol import Reply
from .target import Target


def run(target: Target, checks: Sequence[Check]) -> Iterator[Result]:
    """Run the control experiment and then these checks: each result as soon as it is there.

    Raises nothing on account of the server.
    """
    control: list[Reply] = []
    first = _run(FIRST, Probe(target, control))
    yield first
    reason = f"like {FIRST.name}: {first.finding.reason}"
    works = first.finding.verdict is Rating.SAFE
    answers = any(entry.who == PEER for entry in first.evidence.entries())
    for check in checks:
        probe = Probe(target, control)
        if works or (answers and not check.needs_tls):
            yield _run(check, probe)
        else:
            # Not tried again with each check: a silent server would cost minutes.
            yield _result(check, Finding(Rating.UNTESTED, reason), probe, tried=False)


def _run(check: Check, probe: Probe) -> Result:
    try:
        finding = check.run(probe)
    except (CouldNotTest, Trouble) as reason:
        finding = Finding(Rating.UNTESTED, str(reason))
    finally:
        probe.close()
    return _result(check, finding, probe)


def _result(check: Check, finding: Finding, probe: Probe, tried: bool = True) -> Result:
    return Result(check.name, check.explanation, check.injection, finding, probe.evidence, tried)
