"""The results as Markdown: goals, one table, the machine."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench import rows
from bench.cold import BARE
from bench.contestants import FLOOR
from bench.goals import NEEDED, Goal
from bench.plan import Plan
from bench.results import Results

#: As the README finds it.
PICTURE = "man/bench-results.svg"
MARKERS = ("<!-- make bench -->", "<!-- end of make bench -->")


def number(value: float) -> str:
    """Three figures, or all before the point."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: list[float]) -> str:
    """Half of the way between the quartiles, in per cent of the median."""
    middle = statistics.median(values)
    if len(values) < 3 or not middle:
        return ""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f" ±{50 * (high - low) / middle:.0f}%"


def cell(results: Results, row: str, name: str) -> str:
    """Median and spread, with their number where it is less than that of the rounds."""
    values = results.get(row, name)
    if not values:
        return "failed" if (row, name) in results.failures else "-"
    fewer = f" ({len(values)})" if len(values) < results.rounds() else ""
    return number(statistics.median(values)) + spread(values) + fewer


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table whose source can be read too; numbers to the right."""
    cells = [head, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    text = []
    for line in cells:
        padded = [line[0].ljust(widths[0])]
        padded += [word.rjust(width) for word, width in zip(line[1:], widths[1:], strict=True)]
        text.append("| " + " | ".join(padded) + " |")
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    text.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(text) + "\n"


def main_table(results: Results, names: list[str], wanted: list[str] | None = None) -> str:
    """Rows by contestants; all rows, or the wanted."""
    lines = results.rows() if wanted is None else [r for r in wanted if r in results.rows()]
    return table(["", *names], [[row, *(cell(results, row, n) for n in names)] for row in lines])


def goals_table(goals: Iterable[Goal]) -> str:
    """Each goal with what was found."""
    lines = []
    for goal in goals:
        words = ["≤" if goal.at_most else "≥"]
        words += [] if goal.wanted is None else [f"{goal.wanted:g}"]
        words += [] if goal.aim is None else [f"({goal.aim:g})"]
        found, floor = (
            "-" if value is None else number(value) for value in (goal.found, goal.floor)
        )
        lines.append([f"{goal.number}. {goal.text}", " ".join(words), found, floor, goal.verdict()])
    return table(["goal", "wanted (aim)", "found", FLOOR, ""], lines)


def needed(goals: Iterable[Goal]) -> str:
    """What those that are missed would need."""
    missed = sorted({goal.number for goal in goals if goal.verdict().startswith("missed")})
    return "\n".join(f"- Goal {number}: {NEEDED[number]}" for number in missed)


def document(
    results: Results,
    names: list[str],
    goals: list[Goal],
    machine: list[str],
    plan: Plan,
    minutes: float,
    plot: str,
) -> str:
    """The whole results file."""
    bare = results.median(rows.COLD_CPU, BARE)
    failures = [
        f"- `{name}`{f', {row}' if row else ''}: {why}"
        for (row, name), why in sorted(results.failures.items(), key=lambda item: item[0][::-1])
    ]
    parts = [
        "# Results of `make bench`",
        "Written by `make bench`, which replaces it.",
        "\n".join(f"- {line}" for line in machine),
        "## Goals",
        f"Ratios are those of the medians in the table below. `{FLOOR}` is the floor: what the\n"
        "same would be of a server in Python that does nothing but answer.",
        goals_table(goals).rstrip(),
        "What those that are missed would need:",
        needed(goals) or "None is missed.",
        "## All contestants",
        main_table(results, names).rstrip(),
        f"![plot]({plot})",
        _method(plan, results.rounds(), minutes, bare),
        _generator(results, names),
        "## What could not be measured",
        "\n".join(failures) or "Nothing.",
    ]
    return "\n\n".join(parts) + "\n"


def _method(plan: Plan, rounds: int, minutes: float, bare: float | None) -> str:
    cold = f" {BARE}: {number(bare)} ms." if bare is not None else ""
    return f"""\
Median of {rounds} rounds in one run of {minutes:.0f} minutes, ± half of the distance between the
quartiles in per cent of the median. A round measures everything once, the contestants in turn,
each round beginning with another. In brackets the number of rounds where it is less: more than
4 clients at a time, and whatever takes a contestant longer than {plan.costly:g} s, are measured in
every third round only. "-": it has no such thing, or was not there.

Everything is on one machine, over loopback; the clients share its cores with the server. Before
it is measured each contestant has delivered one message to a queue program that kept message and
envelope (smtp-sink, which has none, apart). A session has a connection of its own, and its client
sends no command before the reply to the one before; each contestant gets as many as take about
{plan.seconds:g} s. "{rows.REFUSED}" is EHLO, MAIL, RCPT, QUIT. A message has 1 KB and comes by
smtp-source. STARTTLS sessions are 4 at a time with a full handshake each (ECDSA P-256, no
resumption), by processes of our own, whose CPU per session is in the table. CPU is user and system
of the server with all its descendants, queue program included. System calls are counted by strace
over all processes but the queue program's, the mean of ten sessions of a server that has served
others; once in a run, for it is the same in each round. DATA is one message of {plan.megabytes} MB,
in lines of 60 bytes and of 100 KB, from the command DATA to the last reply.

An idle connection has said EHLO. Its memory is the Private_Dirty that came with the connections, by
their number, with a server just started; KB and MB of memory are 1,024 and 1,048,576 bytes, MB of
DATA a million. A held client has connected and said nothing, each from an address of its own; its
memory is the same and what the kernel's grew meanwhile (Slab, KernelStack and PageTables of
/proc/meminfo), which is for its own end of the connection, too. Beside idle and held clients there
are 4 others at a time; the 99th percentile is of {plan.patient} sessions in turn.{cold}"""


def _generator(results: Results, names: list[str]) -> str:
    """Whether the STARTTLS client costs less than the servers: else it is it that is measured."""
    dear = [
        f"`{name}`"
        for name in names
        if (results.median(rows.GENERATOR_CPU, name) or 0)
        >= (results.median(rows.STARTTLS_CPU, name) or float("inf"))
    ]
    if dear:
        return f"The STARTTLS client used more CPU than {', '.join(dear)}: their rates are too low."
    return "The STARTTLS client used less CPU than any server did."


def summary(
    results: Results, names: list[str], goals: list[Goal], machine: list[str], plan: Plan
) -> str:
    """What the README quotes."""
    most = max(plan.connections)
    connections = [rows.memory(most, False), rows.memory(most, True)]
    wanted = [rows.sessions(load) for load in rows.LOADS]
    wanted += [rows.STARTTLS_QUIT, rows.STARTTLS, rows.MESSAGES, rows.SHORT, rows.LONG]
    wanted += [rows.calls(load) for load in rows.LOADS]
    wanted += [rows.cpu(rows.MESSAGE), *connections, rows.held(max(plan.held))]
    verdicts = Counter(goal.verdict() for goal in goals)
    reached = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    about = f"{machine[0]},\n{machine[1]},\n{machine[2]}.\nGoals: {reached}.\n\n"
    return about + main_table(results, names, wanted) + f"\n![plot]({PICTURE})\n"


def quote(readme: Path, text: str) -> None:
    """Replace what is between the markers.  Raises ValueError where they are not."""
    before, _, rest = readme.read_text().partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not end:
        raise ValueError(f"{readme} has no {MARKERS[0]} … {MARKERS[1]}")
    readme.write_text(f"{before}{MARKERS[0]}\n{text}{MARKERS[1]}{after}")
