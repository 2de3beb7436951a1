"""Waits for clients and plays the scenarios to them, one after the other."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING

from ..check import Finding, Rating, Result
from ..connection import Connection, Trouble
from ..errors import CouldNotTest
from ..evidence import Evidence
from .conversation import Conversation
from .scenarios import SOUND, Scenario
from .visit import Visit

if TYPE_CHECKING:
    from .certificates import Certificates

#: The maximum number of a client's commands that are listed.
_STEPS = 24
#: Who says none but these is no mail client: a scan of ports, or a watchdog.
_NO_CLIENT = frozenset(("?", "QUIT"))
#: Seconds between an accept() that failed and the next.
_PAUSE = 0.1
#: The maximum number of those that are let pass in a scenario.
_OTHER_PEERS = 20


@dataclass(frozen=True)
class Manner:
    """How to listen.  Times in seconds.

    Each scenario is played to `connections` connections; the first may let us
    wait for `wait`, the others, which a client opens to try again, for `again`.
    """

    strict: bool = False
    connections: int = 1
    wait: float = 3600.0
    again: float = 3.0
    timeout: float = 20.0
    withhold: float = 2.0


def listen(address: str, port: int) -> socket.socket:
    """A listening socket.  Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def play(
    listener: socket.socket,
    scenarios: Sequence[Scenario],
    certificates: Certificates,
    manner: Manner,
) -> Iterator[Result]:
    """Play these to the clients that come: each result as soon as it is there."""
    sound: Visit | None = None
    for scenario in scenarios:
        evidence, visit = Evidence(), Visit()
        others = 0
        while visit.connections < manner.connections and others < _OTHER_PEERS:
            sock = _accept(listener, manner.again if visit.connections else manner.wait)
            if sock is None:
                break
            if visit.connections or others:
                evidence.note("a new connection")
            said = len(visit.steps)
            context = certificates.contexts[scenario.certificate]
            link = Connection(sock, evidence, manner.timeout)
            try:
                Conversation(link, scenario, context, visit, manner.withhold).run()
            except Trouble:
                pass  # it is in the evidence
            finally:
                link.close()
            # To leave at the sight of an early answer is an answer.
            if scenario.greeted or not _NO_CLIENT.issuperset(visit.steps[said:]):
                visit.connections += 1
            else:
                others += 1
        if scenario.name == SOUND and visit.connections:
            sound = visit
        yield Result(
            scenario.name,
            scenario.explanation,
            scenario.injection,
            _judge(scenario, visit, manner.strict, sound),
            evidence,
        )


def _judge(scenario: Scenario, visit: Visit, strict: bool, sound: Visit | None) -> Finding:
    if not visit.connections:
        reason = "who came said no SMTP" if visit.steps else "no client came"
        return Finding(Rating.UNTESTED, reason)
    try:
        finding = scenario.judge(visit, strict, sound)
    except CouldNotTest as reason:
        finding = Finding(Rating.UNTESTED, str(reason))
    steps = " ".join(visit.steps[:_STEPS]) or "nothing"
    return Finding(finding.verdict, f"{finding.reason} [{steps}]")


def _accept(listener: socket.socket, seconds: float) -> socket.socket | None:
    """The next client, or None if none comes in time."""
    deadline = monotonic() + seconds
    while True:
        left = max(0.0, deadline - monotonic())
        listener.settimeout(left)  # with 0, who is there: we may have been stopped until now
        try:
            return listener.accept()[0]
        except OSError:
            if not left:
                return None
            # It was gone again (accept(2): ECONNABORTED); or there is no descriptor
            # for it (EMFILE, ENFILE), and it stays in the queue: not at once again.
            sleep(min(_PAUSE, left))
