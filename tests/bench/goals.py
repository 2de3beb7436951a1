"""What the benchmark must show, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import rows
from bench.cold import BARE
from bench.contestants import AIOSMTPD, COLD, FLOOR, MAILFRONT, ONE, ONE_TLS, SINK, WARM
from bench.plan import Plan
from bench.results import Results

#: What a goal that is missed would need, as far as it is known (measured apart from these runs).
NEEDED = {
    1: "What a session costs beside the floor is its own work: the rules of the dialogue, limits,"
    " the log; of a message, the queue program, which every contestant pays.",
    2: "A process that is forked for a connection writes to 400 to 600 pages that it shares with"
    " the server, nearly all of them for reference counts; at 3 µs a page that is 1.2 to 1.8 ms, as"
    " much CPU as the exec of smtpfront-qmail. It would need an interpreter that does not write to"
    " what it only reads (CPython 3.12 and 3.13 are no better than 3.11 here).",
    3: "Fewer hand-overs between the server and its processes.",
    4: "The pages that goal 2 speaks of, and what OpenSSL keeps for a connection.",
    5: "Fewer clients at work, or more cores.",
    6: "Of the cold child: what is left beside the interpreter is reading the bytecode of some"
    " thirty modules, importlib itself, two extension modules, and the session. Of DATA: the queue"
    " program reads all of it through a pipe, which smtp-sink spares itself.",
}


@dataclass(frozen=True)
class Goal:
    """One line: what is wanted, and what was found."""

    number: int
    text: str
    #: None: there is only an aim.
    wanted: float | None
    found: float | None
    #: What would be better still.
    aim: float | None = None
    #: The same of the bare Python server.
    floor: float | None = None
    #: Whether it is a limit from above.
    at_most: bool = False

    def verdict(self) -> str:
        if self.found is None:
            return "not measured"
        limit = self.aim if self.wanted is None else self.wanted
        assert limit is not None
        met = self.found <= limit if self.at_most else self.found >= limit
        return ("met" if met else "missed") + (", an aim" if self.wanted is None else "")


def goals(results: Results, plan: Plan) -> Iterator[Goal]:
    """All of them, in the order of their numbers; ratios are of medians."""
    for load, wanted, aim in ((rows.QUIT, 14, 22), (rows.REFUSED, 8, 12), (rows.MESSAGE, 3.6, 4.5)):
        row = rows.sessions(load)
        found, floor = (results.ratio(row, who, MAILFRONT) for who in (WARM, FLOOR))
        yield Goal(1, f"{row}: {WARM} / {MAILFRONT}", wanted, found, aim, floor)
    for row in (rows.STARTTLS_QUIT, rows.STARTTLS):
        found = results.ratio(row, WARM, AIOSMTPD)
        yield Goal(1, f"{row}: {WARM} / {AIOSMTPD}", 1.4, found, 1.8)

    for load in rows.LOADS:
        row = rows.sessions(load)
        found, floor = (results.ratio(row, who, MAILFRONT) for who in (ONE, FLOOR))
        yield Goal(2, f"{row}: {ONE} / {MAILFRONT}", 1, found, 1.5, floor)

    for load, wanted in zip(rows.LOADS, (20, 30, 90), strict=True):
        row = rows.calls(load)
        found, floor = (results.median(row, who) for who in (WARM, FLOOR))
        yield Goal(3, f"{row}: {WARM}", wanted, found, floor=floor, at_most=True)

    clients = max(plan.held)
    found = results.median(rows.held(clients), WARM)
    yield Goal(4, f"{rows.held(clients)}, with the kernel's for both ends", 16, found, at_most=True)
    alone, beside = (results.median(rows.beside_held(n), WARM) for n in (0, clients))
    found = beside / alone if beside is not None and alone else None
    yield Goal(4, f"{rows.beside_held(clients)} / {rows.beside_held(0)}", 0.8, found)
    most = max(plan.connections)
    for tls, aim in ((False, 2), (True, 3)):
        for name in (WARM, ONE_TLS if tls else ONE):
            kilobytes = results.median(rows.memory(most, tls), name)
            found = None if kilobytes is None else kilobytes / 1024
            where = " in TLS" if tls else ""
            text = f"MB of an idle connection{where}, {most}: {name}"
            yield Goal(4, text, None, found, aim, at_most=True)

    for dribble in (False, True):
        row = rows.slowest(plan.crowd, dribble)
        yield Goal(5, f"{row}: {WARM}", 50, results.median(row, WARM), at_most=True)

    cold = results.ratio(rows.COLD_CPU, COLD, BARE)
    yield Goal(6, f"CPU of a plain session: cold qsmtpd / {BARE}", 1.65, cold, 1.25, at_most=True)
    for row in (rows.SHORT, rows.LONG):
        found = results.ratio(row, COLD, MAILFRONT)
        yield Goal(6, f"{row}: {COLD} / {MAILFRONT}", 1.3, found)
    for row in (rows.SHORT, rows.LONG):
        found = results.ratio(row, SINK, COLD)
        yield Goal(6, f"{row}, as time: {COLD} / {SINK}", 1.6, found, 1.2, at_most=True)
