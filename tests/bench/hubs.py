"""Messages/s of front ends and hubs: the table of man/examples/hubs/README.md.

    make hubs

Messages of 1 KB, 4 at a time: by Postfix's qmqp-source straight to each hub, and by its smtp-source
to a front end that hands each to the hub.  The hubs have a queue program that does nothing, but for
Postfix's, which has its own queue, syncs it to disk, and then throws the message away.  Medians of
rounds, in each of which every hub has its turn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from postfix import Postfix
from tools import find

from bench import client
from bench.contestants import BIN, Contestant, tcpserver
from bench.load import Counts, qmqp_source, smtp_source
from bench.place import ENVELOPE, Place
from bench.plan import FULL
from bench.report import main_table
from bench.results import Results
from bench.server import Failed, Server

QMQPC = BIN / "qsmtpd-qmqpc"
AT_A_TIME = 4
#: Messages that go before the clock runs, and where it does not.
FEW = 8
WARM, COLD = "qsmtpd-server --protocol qmqp", "tcpserver qsmtpd-qmqpd"
MAILFRONT, POSTFIX = "tcpserver qmqpfront-qmail", "Postfix's qmqpd"
#: Front ends: to none, the messages come in QMQP.
DIRECT, OURS, THEIRS = "none", "qsmtpd-server", "tcpserver smtpfront-qmail"
#: The one that starts no program for a message.
INSIDE = "qsmtpd-server, by qmqpqueue"
DISCARD = "default_transport = discard\n"


def _server(*more: str) -> Callable[[int], list[str]]:
    options = ["-HRQ", "-l", "mx.example", "-c", "700", "-b", "200", *more]
    return lambda port: [str(BIN / "qsmtpd-server"), *options, "127.0.0.1", str(port)]


def _under_tcpserver(program: str) -> Callable[[int], list[str]]:
    return lambda port: tcpserver(port, find(program) or program)


#: name -> the command that listens on a port
HUBS = {
    WARM: _server("--protocol", "qmqp"),
    COLD: _under_tcpserver(str(BIN / "qsmtpd-qmqpd")),
    MAILFRONT: _under_tcpserver("qmqpfront-qmail"),
}
FRONTS = {INSIDE: _server(), OURS: _server(), THEIRS: _under_tcpserver("smtpfront-qmail")}


def row(front: str) -> str:
    """What is measured with this front end."""
    return f"messages/s by the front end {front}" if front != DIRECT else "messages/s in QMQP"


class Hubs:
    """All hubs, each with its front ends; a context manager.  Raises Failed."""

    def __init__(self, place: Place, stack: ExitStack) -> None:
        self._place = place
        self._stack = stack
        #: (hub, front end) -> port
        self.ports: dict[tuple[str, str], int] = {}
        (place.plain / "control/qmqpclients").write_text("127.0.0.1\n")
        place.install_recorder()
        for name, command in HUBS.items():
            self._add(name, self._start(name, command, place.plain, str(place.queue), False))
        postfix = stack.enter_context(Postfix(1, qmqp="127.0.0.1", more=DISCARD))
        postfix.wait_until_ready()
        self._add(POSTFIX, postfix.port)
        place.install_donothing()

    def _add(self, hub: str, port: int) -> None:
        """A hub, and its front ends; each has handed over a message."""
        self.ports[hub, DIRECT] = port
        home = self._place.path / f"front{len(self.ports)}"
        (home / "control").mkdir(parents=True)
        for file, text in (("me", "mx.example"), ("rcpthosts", "ok.example")):
            (home / "control" / file).write_text(text + "\n")
        (home / "control/qmqpservers").write_text(f"127.0.0.1:{port}\n")
        for name, command in FRONTS.items():
            self.ports[hub, name] = self._start(name, command, home, str(QMQPC), True)
            client.send_large(self.ports[hub, name], client.MESSAGE_1K)
            recorded = self._place.recorded()
            if hub != POSTFIX and [envelope for _, envelope in recorded] != [ENVELOPE]:
                raise Failed(f"{name} and {hub} have not handed it over")

    def _start(
        self, name: str, command: Callable[[int], list[str]], home: Path, queue: str, smtp: bool
    ) -> int:
        environ = {**self._place.environ(home), "QMAILQUEUE": queue}
        if name == INSIDE:
            environ["QMQPQUEUE"] = "on"
        who = Contestant(name, "", lambda place, port: (command(port), environ))
        return self._stack.enter_context(Server(who, self._place, greeting=smtp)).port


def load(front: str, port: int) -> Callable[[int], float]:
    """What brings so many messages there, and returns the seconds."""
    if front == DIRECT:
        return partial(qmqp_source, port, at_a_time=AT_A_TIME)
    return partial(smtp_source, port, at_a_time=AT_A_TIME)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="bench.hubs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    options = parser.parse_args()
    counts = Counts(0.0 if options.quick else FULL.seconds)
    results = Results()
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="bench.") as path, ExitStack() as stack:
        ports = Hubs(Place(Path(path)), stack).ports
        for number in range(1 if options.quick else options.rounds):
            print(f"round {number + 1}", flush=True)
            turns = list(ports.items())
            for (hub, front), port in turns[number % len(turns) :] + turns[: number % len(turns)]:
                bring = load(front, port)
                many = counts.find(hub, front, FEW, bring)
                results.add(row(front), hub, many / bring(many))
    print(main_table(results, [*HUBS, POSTFIX], [row(front) for front in (DIRECT, *FRONTS)]))


if __name__ == "__main__":
    main()
