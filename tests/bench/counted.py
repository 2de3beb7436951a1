"""System calls of a session, counted by strace over all processes but the queue program's."""

from __future__ import annotations

from pathlib import Path

from syscalls import calls, connections, ours, strace
from tools import find

from bench import client
from bench.contestants import Contestant
from bench.place import Place
from bench.server import Failed, Server

#: The first sessions do not count, nor others at a time before them, so that there is always a
#: process for the next one; and of so many more the mean.
FIRST, COUNTED = 3, 10


def count(who: Contestant, place: Place, said: client.Session) -> float:
    """The mean of some sessions, one after the other, with a server that runs already.

    Raises Failed.
    """
    program = find("strace")
    if program is None:
        raise Failed("strace is not installed")
    trace = Path(place.path / "trace")
    trace.unlink(missing_ok=True)
    with Server(who, place, strace(program, trace)) as server:
        with client.Idle(server.port, FIRST, tls=False):
            pass
        for _ in range(FIRST + COUNTED + 1):
            client.one_session(server.port, said)
    lines = ours(trace, str(place.queue))
    accepted = connections(lines)[-(COUNTED + 1) :]
    # What a session leaves to be done may be done while the next one begins: one more or less.
    return round(len(calls(lines[accepted[0] : accepted[-1]])) / COUNTED)
