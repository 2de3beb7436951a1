"""What is measured, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

from bench import client, load, rows
from bench.contestants import Contestant
from bench.counted import count
from bench.held import Dribbling, Held, kernel_memory
from bench.load import Counts, smtp_source
from bench.place import Place
from bench.plan import Plan
from bench.server import Server

Values = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """What every step is run with."""

    place: Place
    plan: Plan
    counts: Counts


@dataclass(frozen=True)
class Step:
    """Gives the values of one or more rows for one contestant."""

    #: The word by which it is chosen.
    word: str
    title: str
    #: With the server, or, of `count`, with the contestant: that starts one of its own.
    run: Callable[[Server, Bench], Values] | None = None
    count: Callable[[Contestant, Bench], Values] | None = None
    #: For those only that offer STARTTLS; that refuse a recipient; that hold clients.
    tls: bool = False
    refuses: bool = False
    holds: bool = False
    #: With a server that has done nothing yet.
    fresh: bool = False
    #: In every third round; in the first one only, because it is the same each time.
    rarely: bool = False
    once: bool = False

    def suits(self, who: Contestant) -> bool:
        """Can this be asked of it?"""
        if (self.tls and not who.tls) or (self.refuses and not who.queues):
            return False
        if self.fresh and not who.many:
            return False
        return not self.holds or who.hold is not None

    def measure(self, who: Contestant, server: Server, bench: Bench) -> Values:
        """The values.  `server` runs already, for the steps that need no fresh one.

        Raises Failed.
        """
        if self.count is not None:
            return self.count(who, bench)
        assert self.run is not None
        if not self.fresh:
            return self.run(server, bench)
        if self.holds and who.hold is not None:
            who = replace(who, start=who.hold)
        with Server(who, bench.place) as fresh:
            return self.run(fresh, bench)


#: The words of all steps, and of what is measured without a server.
WORDS = ["cold", "quit", "refused", "message", "connection", "starttls", "starttls-quit"]
WORDS += ["data", "idle", "held", "crowd", "calls"]


def steps(plan: Plan) -> list[Step]:
    """In this order."""
    found = [
        Step("quit", rows.QUIT, partial(_plain, rows.QUIT, client.GREETING)),
        Step("refused", rows.REFUSED, partial(_plain, rows.REFUSED, client.REFUSED), refuses=True),
    ]
    found += [
        Step("message", rows.sessions(rows.MESSAGE, n), partial(_messages, n), rarely=i > 1)
        for i, n in enumerate(plan.at_a_time)
    ]
    found += [
        Step("connection", rows.MESSAGES, _connection),
        Step("starttls", rows.STARTTLS, _starttls, tls=True),
        Step("starttls-quit", rows.STARTTLS_QUIT, _starttls_quit, tls=True),
        Step("data", rows.SHORT, partial(_data, rows.SHORT, 60)),
        Step("data", rows.LONG, partial(_data, rows.LONG, 100_000)),
    ]
    for tls in (False, True):
        for n in plan.connections:
            row = rows.memory(n, tls)
            flow = not tls and n == max(plan.connections)
            found.append(Step("idle", row, partial(_memory, n, tls, flow), tls=tls, fresh=True))
    found.append(Step("held", rows.beside_held(0), _held, holds=True, fresh=True))
    for dribble in (False, True):
        row = rows.slowest(plan.crowd, dribble)
        run = partial(_slowest, row, Dribbling if dribble else Held)
        found.append(Step("crowd", row, run, holds=True, fresh=True))
    for name, said in (
        (rows.QUIT, client.GREETING),
        (rows.REFUSED, client.REFUSED),
        (rows.MESSAGE, client.ACCEPTED),
    ):
        counted = partial(_calls, name, said)
        found.append(Step("calls", rows.calls(name), count=counted, refuses=True, once=True))
    return found


def _plain(name: str, said: client.Session, server: Server, bench: Bench) -> Values:
    """Sessions without a message, 4 at a time."""

    def run(number: int) -> float:
        return load.sessions(bench.place, server.port, number, 4, said)

    row = rows.sessions(name)
    number = bench.counts.find(server.name, row, 8, run)
    before = server.quiet()
    seconds = run(number)
    cpu = server.quiet() - before
    return {row: number / seconds, rows.cpu(name): 1000 * cpu / number}


def _messages(at_a_time: int, server: Server, bench: Bench) -> Values:
    def run(number: int) -> float:
        return smtp_source(server.port, number, at_a_time)

    row = rows.sessions(rows.MESSAGE, at_a_time)
    number = bench.counts.find(server.name, row, max(8, at_a_time), run)
    before = server.quiet()
    seconds = run(number)
    cpu = server.quiet() - before
    return {row: number / seconds, rows.cpu(rows.MESSAGE, at_a_time): 1000 * cpu / number}


def _connection(server: Server, bench: Bench) -> Values:
    def run(number: int) -> float:
        return smtp_source(server.port, number, keep=True)

    number = bench.counts.find(server.name, rows.MESSAGES, 8, run)
    server.quiet()
    return {rows.MESSAGES: number / run(number)}


def _starttls(server: Server, bench: Bench) -> Values:
    number, seconds, cpu, ours = _tls(rows.STARTTLS, client.ACCEPTED, server, bench)
    return {
        rows.STARTTLS: number / seconds,
        rows.STARTTLS_CPU: 1000 * cpu / number,
        rows.GENERATOR_CPU: 1000 * ours / number,
    }


def _starttls_quit(server: Server, bench: Bench) -> Values:
    said = [client.ACCEPTED[0], *client.GREETING]
    number, seconds, cpu, _ = _tls(rows.STARTTLS_QUIT, said, server, bench)
    return {
        rows.STARTTLS_QUIT: number / seconds,
        rows.STARTTLS_QUIT_CPU: 1000 * cpu / number,
    }


def _tls(
    row: str, said: client.Session, server: Server, bench: Bench
) -> tuple[int, float, float, float]:
    """How many sessions, the seconds, the server's CPU and ours."""

    def run(number: int) -> tuple[float, float]:
        return client.python_load(server.port, number, 4, said, tls=True)

    number = bench.counts.find(server.name, row, 4, lambda number: run(number)[0])
    before = server.quiet()
    seconds, ours = run(number)
    return number, seconds, server.quiet() - before, ours


_large = cache(client.large_message)


def _data(row: str, line: int, server: Server, bench: Bench) -> Values:
    message = _large(bench.plan.megabytes, line)
    server.quiet()
    return {row: len(message) / 1e6 / client.send_large(server.port, message)}


def _memory(number: int, tls: bool, flow: bool, server: Server, bench: Bench) -> Values:
    """Of connections that have said EHLO."""
    before = server.private_dirty()
    with client.Idle(server.port, number, tls):
        server.quiet()
        values = {rows.memory(number, tls): server.grown(before) / number / 1024}
        if flow:
            row = rows.beside(number)

            def run(count: int) -> float:
                return smtp_source(server.port, count, 4)

            count = bench.counts.find(server.name, row, 8, run)
            values[row] = count / run(count)
    server.quiet()
    return values


def _held(server: Server, bench: Bench) -> Values:
    """Of clients that have said nothing: their memory, and sessions beside none and so many."""

    def run(number: int) -> float:
        return load.sessions(bench.place, server.port, number, 4, client.REFUSED)

    def flow(clients: int) -> Values:
        number = bench.counts.find(server.name, rows.beside_held(0), 8, run)
        run(number // 4)  # whoever has to be started for them is
        server.quiet()
        return {rows.beside_held(clients): number / run(number)}

    values = flow(0)
    for clients in bench.plan.held:
        server.quiet()
        before, kernel = server.private_dirty(), kernel_memory()
        with Held(server.port, clients):
            server.quiet()
            grown = server.grown(before) + max(0, kernel_memory() - kernel)
            values[rows.held(clients)] = grown / clients / 1024
            values |= flow(clients)
    return values


def _slowest(row: str, crowd: type[Held], server: Server, bench: Bench) -> Values:
    client.slowest(server.port, bench.plan.patient, client.REFUSED)  # there are processes, then
    with crowd(server.port, bench.plan.crowd):
        seconds = client.slowest(server.port, bench.plan.patient, client.REFUSED)
    return {row: 1000 * seconds}


def _calls(name: str, said: client.Session, who: Contestant, bench: Bench) -> Values:
    return {rows.calls(name): count(who, bench.place, said)}
