"""python3 -m bench: rounds, in each of which every contestant has its turn."""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tools import find

from bench import client, cold, machine, plot, report
from bench.contestants import COLD, CONTESTANTS, Contestant
from bench.goals import goals
from bench.load import Counts
from bench.place import ENVELOPE, Place
from bench.plan import FULL, QUICK, Plan
from bench.results import Results
from bench.rows import COLD_CPU
from bench.server import Failed, Server
from bench.steps import Step, steps


class Run:
    """One run of the benchmark."""

    def __init__(self, plan: Plan, place: Place, stack: ExitStack) -> None:
        self.plan = plan
        self.place = place
        self.results = Results()
        self._counts = Counts(plan.seconds)
        self._costly: set[tuple[str, str]] = set()
        place.install_recorder()
        self._servers = {}
        for who in CONTESTANTS:
            server = self._start(who, stack)
            if server is not None:
                self._servers[who] = server
        self.queue = place.install_donothing()

    @property
    def contestants(self) -> list[Contestant]:
        """Those that take part."""
        return list(self._servers)

    def _start(self, who: Contestant, stack: ExitStack) -> Server | None:
        """Start one that is installed, and see that it does the job."""
        missing = who.missing()
        try:
            if missing is not None:
                raise Failed(f"{missing} is not installed")
            server = stack.enter_context(Server(who, self.place))
            _prove(who, server, self.place)
            return server
        except (Failed, OSError) as error:
            self._fail("", who.name, error)
            return None

    def _fail(self, row: str, name: str, error: Exception) -> None:
        self.results.failures[row, name] = str(error)
        say(f"{name}{f', {row}' if row else ''}: {error}")

    def round(self, number: int) -> None:
        """Measure everything that is due, once."""
        try:
            for row, name, value in cold.cold_sessions(self.place, self.plan):
                self.results.add(row, name, value)
        except (Failed, OSError) as error:
            self._fail(COLD_CPU, COLD, error)
        for place, step in enumerate(steps(self.plan)):
            turn = (number + place) % max(1, len(self._servers))
            for who in [*self.contestants[turn:], *self.contestants[:turn]]:
                rarely = step.rarely or (step.title, who.name) in self._costly
                if (not step.tls or who.tls) and self.plan.due(number, rarely):
                    self._measure(step, who)

    def _measure(self, step: Step, who: Contestant) -> None:
        failed = (step.title, who.name) in self.results.failures
        if failed and not self.results.get(step.title, who.name):
            return  # it cannot
        started = time.monotonic()
        try:
            if step.fresh:
                with Server(who, self.place) as server:
                    values = step.run(server, self.plan, self._counts)
            else:
                values = step.run(self._servers[who], self.plan, self._counts)
        except (Failed, OSError) as error:
            self._fail(step.title, who.name, error)
            return
        for row, value in values.items():
            self.results.add(row, who.name, value)
        if time.monotonic() - started > self.plan.costly:
            self._costly.add((step.title, who.name))


def _prove(who: Contestant, server: Server, place: Place) -> None:
    """One message, which must come out of the other end.  Raises Failed."""
    client.send_large(server.port, client.MESSAGE_1K)
    recorded = place.recorded()
    body = client.MESSAGE_1K.removesuffix(b".\r\n").replace(b"\r\n", b"\n")
    if who.queues:
        if len(recorded) != 1 or recorded[0][1] != ENVELOPE:
            raise Failed(f"did not give the queue program its envelope: {recorded}")
        if not recorded[0][0].endswith(body):
            raise Failed("did not give the queue program the message")


def say(text: str) -> None:
    """What goes on, for who waits."""
    print(text, flush=True)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, help="instead of 7")
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--results", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--readme", type=Path, help="README whose quote to replace")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    if find("smtp-source") is None:
        parser.exit(1, "bench: smtp-source is not installed (Debian's postfix)\n")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0o022)  # one contestant runs as another user

    started, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench.") as path, ExitStack() as stack:
        run = Run(plan, Place(Path(path)), stack)
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}, {time.monotonic() - started:.0f} s")
            run.round(number)
    minutes = (time.monotonic() - started) / 60

    names = [who.name for who in run.contestants]
    about = machine.describe(run.contestants, run.queue, load)
    reached = list(goals(run.results, plan))
    picture = options.results.with_suffix(".svg")
    picture.write_text(plot.draw(run.results, names, plan))
    options.results.write_text(
        report.document(run.results, names, reached, about, plan, minutes, picture.name)
    )
    if options.readme:
        report.quote(options.readme, report.summary(run.results, names, reached, about, plan))
    say(report.goals_table(reached))
    say(report.main_table(run.results, names))
    say(f"{minutes:.1f} minutes; written: {options.results}, {picture}")
