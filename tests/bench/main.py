"""python3 -m bench: rounds, in each of which every contestant has its turn."""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import tempfile
import time
from collections.abc import Sequence
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
from bench.steps import WORDS, Bench, Step, steps

#: Descriptors that a server and we have beside those of held clients.
SPARE = 2000


class Run:
    """One run of the benchmark."""

    def __init__(
        self, plan: Plan, place: Place, stack: ExitStack, words: Sequence[str], who: Sequence[str]
    ) -> None:
        self.words = words
        self.plan = plan
        self.place = place
        self.results = Results()
        self._bench = Bench(place, plan, Counts(plan.seconds))
        self._costly: set[tuple[str, str]] = set()
        place.install_recorder()
        self._servers = {}
        for contestant in CONTESTANTS:
            if any(word in contestant.name for word in who):
                server = self._start(contestant, stack)
                if server is not None:
                    self._servers[contestant] = server
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
        if "cold" in self.words:
            self._cold()
        for place, step in enumerate(steps(self.plan)):
            if step.word not in self.words or (step.once and number):
                continue
            turn = (number + place) % max(1, len(self._servers))
            for who in [*self.contestants[turn:], *self.contestants[:turn]]:
                rarely = step.rarely or (step.title, who.name) in self._costly
                if step.suits(who) and self.plan.due(number, rarely):
                    self._measure(step, who)

    def _cold(self) -> None:
        try:
            for row, name, value in cold.cold_sessions(self.place, self.plan):
                self.results.add(row, name, value)
        except (Failed, OSError) as error:
            self._fail(COLD_CPU, COLD, error)

    def _measure(self, step: Step, who: Contestant) -> None:
        failed = (step.title, who.name) in self.results.failures
        if failed and not self.results.get(step.title, who.name):
            return  # it cannot
        started = time.monotonic()
        try:
            values = step.measure(who, self._servers[who], self._bench)
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


def _raise_descriptors(wanted: int) -> int:
    """Have as many descriptors as we may, and, as root, as many as are wanted; the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted and os.geteuid() == 0:
        most = wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


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
    parser.add_argument("--loads", default=",".join(WORDS), help=f"some of {', '.join(WORDS)}")
    parser.add_argument("--who", default="", help="only contestants with one of these words")
    options = parser.parse_args()
    words = options.loads.split(",")
    if not set(words) <= set(WORDS):
        parser.error(f"--loads {options.loads}: there are {', '.join(WORDS)}")
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    if find("smtp-source") is None:
        parser.exit(1, "bench: smtp-source is not installed (Debian's postfix)\n")
    descriptors = _raise_descriptors(max(plan.held) + SPARE)
    os.umask(0o022)  # one contestant runs as another user

    started, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench.") as path, ExitStack() as stack:
        run = Run(plan, Place(Path(path)), stack, words, options.who.split(","))
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}, {time.monotonic() - started:.0f} s")
            run.round(number)
    minutes = (time.monotonic() - started) / 60

    names = [who.name for who in run.contestants]
    about = machine.describe(run.contestants, run.queue, run.place, load, descriptors)
    reached = list(goals(run.results, plan))
    picture = options.results.with_suffix(".svg")
    picture.write_text(plot.draw(run.results, names, plan))
    options.results.write_text(
        report.document(run.results, names, reached, about, plan, minutes, picture.name)
    )
    if options.readme:
        report.quote(options.readme, report.summary(run.results, names, reached, about, plan))
    say(report.goals_table([goal for goal in reached if goal.found is not None]))
    say(report.main_table(run.results, names))
    say(f"{minutes:.1f} minutes; written: {options.results}, {picture}")
