"""starttls-probe asked by a test, with every option given."""

from __future__ import annotations

from client import PATIENCE
from probe_servers import PASSWORD, USER

from qsmtpd.probe import runner
from qsmtpd.probe.check import Check, Rating, Result, exit_status
from qsmtpd.probe.checks import CHECKS
from qsmtpd.probe.probe import Probe
from qsmtpd.probe.protocol import SMTP
from qsmtpd.probe.target import Pace, Target


def check(name: str) -> Check:
    """The one of this name."""
    (found,) = (one for one in CHECKS if one.name == name)
    return found


#: For this one a server needs a short time limit, which must not strike in the others.
STALL = check("handshake-stall")


def target(port: int, timeout: float = PATIENCE, slow: float = PATIENCE) -> Target:
    """A server on 127.0.0.1, and every option given."""
    return Target(
        "127.0.0.1",
        port,
        SMTP,
        timeout=timeout,
        slow=slow,
        user=USER,
        password=PASSWORD,
        recipient=b"recipient@example.invalid",
        sender=b"sender@example.invalid",
        pace=Pace(1000),
    )


def probe(port: int) -> list[Result]:
    """The results of all checks but STALL."""
    return list(runner.run(target(port), [one for one in CHECKS if one is not STALL]))


def stall(port: int, slow: float = PATIENCE) -> Rating:
    """The verdict of STALL alone, with no handshake before it."""
    return STALL.run(Probe(target(port, slow=slow), [])).verdict


def findings(results: list[Result]) -> dict[str, Rating]:
    """All verdicts that are not safe."""
    return {
        result.name: result.finding.verdict
        for result in results
        if result.finding.verdict is not Rating.SAFE
    }


def assert_safe(port: int) -> None:
    """A sound server, whoever wrote it: everything is safe."""
    results = probe(port)
    assert findings(results) == {}, [result.finding.reason for result in results]
    assert exit_status(results) == 0
