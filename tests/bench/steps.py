"""What is measured, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from bench import client, rows
from bench.load import Counts, smtp_source
from bench.plan import Plan
from bench.server import Server

Values = dict[str, float]


@dataclass(frozen=True)
class Step:
    """Gives the values of one or more rows for one contestant."""

    title: str
    run: Callable[[Server, Plan, Counts], Values]
    #: For those only that offer STARTTLS.
    tls: bool = False
    #: With a server that has done nothing yet.
    fresh: bool = False
    #: In every third round.
    rarely: bool = False


def steps(plan: Plan) -> list[Step]:
    """In this order."""
    found = [
        Step(rows.sessions(n), partial(_sessions, n), rarely=i > 1)
        for i, n in enumerate(plan.at_a_time)
    ]
    found += [
        Step(rows.MESSAGES, _messages),
        Step(rows.STARTTLS, _starttls, tls=True),
        Step(rows.SHORT, partial(_data, rows.SHORT, 60)),
        Step(rows.LONG, partial(_data, rows.LONG, 100_000)),
    ]
    for tls in (False, True):
        for n in plan.connections:
            row = rows.memory(n, tls)
            flow = not tls and n == max(plan.connections)
            found.append(Step(row, partial(_memory, n, tls, flow), tls=tls, fresh=True))
    return found


def _sessions(at_a_time: int, server: Server, plan: Plan, counts: Counts) -> Values:
    def run(number: int) -> float:
        return smtp_source(server.port, number, at_a_time)

    row = rows.sessions(at_a_time)
    number = counts.find(server.name, row, max(8, at_a_time), run)
    before = server.quiet()
    seconds = run(number)
    cpu = server.quiet() - before
    return {row: number / seconds, rows.cpu(at_a_time): 1000 * cpu / number}


def _messages(server: Server, plan: Plan, counts: Counts) -> Values:
    def run(number: int) -> float:
        return smtp_source(server.port, number, keep=True)

    number = counts.find(server.name, rows.MESSAGES, 8, run)
    server.quiet()
    return {rows.MESSAGES: number / run(number)}


def _starttls(server: Server, plan: Plan, counts: Counts) -> Values:
    def run(number: int) -> float:
        return client.starttls_load(server.port, number)[0]

    number = counts.find(server.name, rows.STARTTLS, 4, run)
    before = server.quiet()
    seconds, ours = client.starttls_load(server.port, number)
    cpu = server.quiet() - before
    return {
        rows.STARTTLS: number / seconds,
        rows.STARTTLS_CPU: 1000 * cpu / number,
        rows.GENERATOR_CPU: 1000 * ours / number,
    }


_large = cache(client.large_message)


def _data(row: str, line: int, server: Server, plan: Plan, counts: Counts) -> Values:
    message = _large(plan.megabytes, line)
    server.quiet()
    return {row: len(message) / 1e6 / client.send_large(server.port, message)}


def _memory(
    number: int, tls: bool, flow: bool, server: Server, plan: Plan, counts: Counts
) -> Values:
    """Private memory: of the processes that came with the connections, and what the others grew.

    A process that was there before may also have less now, when it shares its
    pages with those that it has forked; that is no gain of a connection's.
    """
    before = server.private_dirty()
    with client.Idle(server.port, number, tls):
        server.quiet()
        after = server.private_dirty()
        grown = sum(max(0, size - before.get(pid, 0)) for pid, size in after.items())
        values = {rows.memory(number, tls): grown / number / 1024}
        if flow:
            row = rows.beside(number)

            def run(count: int) -> float:
                return smtp_source(server.port, count, 4)

            count = counts.find(server.name, row, 8, run)
            values[row] = count / run(count)
    server.quiet()
    return values
