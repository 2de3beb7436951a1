"""What the benchmark must show, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import rows
from bench.cold import BARE
from bench.contestants import AIOSMTPD, COLD, MAILFRONT, MANY, QPSMTPD, SINK, WARM, WARM_TLS
from bench.plan import Plan
from bench.results import Results

#: What a goal that is missed would need, as far as it is known (measured apart from these runs).
NEEDED = {
    1: "A process that is forked for a connection writes to some 500 pages that it shares with"
    " the server, nearly all of them for reference counts; at 3 µs a page that is 1.4 ms, as much"
    " CPU as the exec of smtpfront-qmail. A second session in the same process takes 0.3 ms. It"
    " would need an interpreter that does not write to what it only reads (CPython 3.12 and 3.13"
    " are no better than 3.11 here), or `--sessions`. The queue program itself costs every"
    " contestant 0.7 ms, so nobody can be 15 times as fast as one that takes 10 ms.",
    2: "What is left beside the interpreter is reading the bytecode of some thirty modules"
    " (0.4 ms), importlib itself (25 µs a module), two extension modules (0.3 ms), and the"
    " session.",
    3: "The queue program reads all of it through a pipe, which smtp-sink spares itself.",
    4: "As for goal 1: in a process that has served before, such a session takes a third of the"
    " CPU.",
    5: "The same pages as for goal 1, and what OpenSSL keeps for a connection.",
}


@dataclass(frozen=True)
class Goal:
    """One line: what is wanted, and what was found."""

    number: int
    text: str
    wanted: float
    found: float | None
    #: Whether it is a limit from above.
    at_most: bool = False

    def verdict(self) -> str:
        """In a word or two."""
        if self.found is None:
            return "not measured"
        met = self.found <= self.wanted if self.at_most else self.found >= self.wanted
        return "met" if met else "missed"


def goals(results: Results, plan: Plan) -> Iterator[Goal]:
    """All of them, in the order of their numbers; ratios are of medians."""
    for one, other, wanted in (
        (WARM, MAILFRONT, 1.5),
        (WARM_TLS, MAILFRONT, 1.2),
        (WARM, QPSMTPD, 15),
        (MANY, MAILFRONT, 3),
        (MANY, AIOSMTPD, 1),
    ):
        for n in (1, 4):
            row = rows.sessions(n)
            text = f"{row}: {one} / {other}"
            yield Goal(1, text, wanted, results.ratio(row, one, other))

    cold = results.ratio(rows.COLD_CPU, COLD, BARE)
    yield Goal(2, f"CPU of a plain session: cold qsmtpd / {BARE} (aim 1.25)", 1.5, cold, True)

    for row in (rows.SHORT, rows.LONG):
        found = results.ratio(row, COLD, MAILFRONT)
        yield Goal(3, f"{row}: {COLD} / {MAILFRONT}", 1.3, found)
    for row in (rows.SHORT, rows.LONG):
        found = results.ratio(row, SINK, COLD)
        yield Goal(3, f"{row}, as time: {COLD} / {SINK} (aim 1.2)", 1.6, found, True)

    for warm in (WARM_TLS, MANY):
        found = results.ratio(rows.STARTTLS, warm, COLD)
        yield Goal(4, f"{rows.STARTTLS}: {warm} / {COLD}", 10, found)

    most = max(plan.connections)
    for tls, limit in ((False, 1.5), (True, 3.0)):
        for name in (WARM_TLS, MANY) if tls else (WARM, WARM_TLS, MANY):
            kilobytes = results.median(rows.memory(most, tls), name)
            found = None if kilobytes is None else kilobytes / 1024
            where = " in TLS" if tls else ""
            yield Goal(5, f"MB of an idle connection{where}, {most}: {name}", limit, found, True)
    for name in (WARM, WARM_TLS, MANY):
        yield Goal(5, f"{rows.beside(most)}: {name}", 1, results.median(rows.beside(most), name))
