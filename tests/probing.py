"""starttls-probe asked by a test, with every option given."""

from __future__ import annotations

from probe_servers import PASSWORD, USER

from qsmtpd.probe import runner
from qsmtpd.probe.check import Rating, Result, exit_status
from qsmtpd.probe.checks import CHECKS
from qsmtpd.probe.protocol import SMTP, Protocol
from qsmtpd.probe.target import Pace, Target


def probe(
    host: str, port: int, protocol: Protocol = SMTP, timeout: float = 2, slow: float = 0.6
) -> list[Result]:
    """The results of all checks, with every option given."""
    target = Target(
        host,
        port,
        protocol,
        timeout=timeout,
        slow=slow,
        user=USER,
        password=PASSWORD,
        recipient=b"recipient@example.invalid",
        sender=b"sender@example.invalid",
        pace=Pace(1000),
    )
    return list(runner.run(target, CHECKS))


def findings(results: list[Result]) -> dict[str, Rating]:
    """All verdicts that are not safe."""
    return {
        result.name: result.finding.verdict
        for result in results
        if result.finding.verdict is not Rating.SAFE
    }


def assert_safe(host: str, port: int, protocol: Protocol = SMTP, slow: float = 0.6) -> None:
    """A sound server, whoever wrote it: everything is safe."""
    results = probe(host, port, protocol, slow=slow)
    assert findings(results) == {}, [result.finding.reason for result in results]
    assert exit_status(results) == 0
