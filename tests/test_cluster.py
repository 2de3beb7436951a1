"""The cluster of man/examples/many: whatever part is killed, nothing is lost and nothing invented.

`make long` kills each part again and again for CLUSTER_SECONDS (180) seconds under load,
`make interop` each once in each way; the numbers are in the summary.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
from cluster import FRONTS, HUBS, LIMIT, PARTS, Cluster
from cluster_load import RELAYED, Load, found
from harness import wait_for

#: From here, by the rules, one may relay.
RELAY = "192.0.2.200"
HOW = ("all", "first", "other")
#: A single process has nothing that could go on without it.
ALONE = ("haproxy", "store")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def rounds() -> Iterator[tuple[str, str]]:
    """Which part is killed in turn, and how: a machine, the first of its processes, or another."""
    for how in cycle(HOW):
        for name in PARTS:
            yield name, "all" if name in ALONE else how


def killed(cluster: Cluster, load: Load, goes_on: Callable[[int], bool]) -> None:
    """Kill one part after the other, and start each again, while the load goes on."""
    for number, (name, how) in enumerate(rounds()):
        if not goes_on(number):
            return
        part = cluster.parts[name]
        wait_for(lambda part=part: cluster.serves(part.name))  # type: ignore[misc]
        load.further(5, "accepted")
        part.kills[how] += 1
        if how == "other":
            wait_for(part.kill_other)
            continue
        if how == "all":
            part.kill()
        else:
            part.kill_first()
        # While it is away, mail flows: but for that of the balancer, of which there is one.
        load.further(5, *(["lost"] if name == "haproxy" else ["accepted"]))
        part.start()
        load.further(5, "accepted")


def run(cluster: Cluster, goes_on: Callable[[int], bool]) -> str:
    """The numbers, once everything is as it has to be."""
    assert relayed(cluster) == LIMIT
    began = time.monotonic()
    with Load(cluster) as load:
        killed(cluster, load, goes_on)
    seconds = time.monotonic() - began
    # A process that has not reached the store asks it again 10 seconds later.
    wait_for(lambda: time.monotonic() > cluster.parts["store"].started + 11)
    assert relayed(cluster) == 0, "the store has forgotten what was counted"
    assert load.faults == []
    for name in (*FRONTS, *HUBS):
        assert not re.search(r"Traceback|bug|event=trouble", cluster.parts[name].log.read_text())
    has = found(cluster, load.mails)
    assert has.relayed == LIMIT
    lost = [mail.number for mail in load.mails if not has.copies[mail.number]]
    assert lost == []
    for mail in load.mails:
        assert mail.accepted
        # Each attempt of which its sender knows that nothing was taken has left nothing.
        assert 1 <= has.copies[mail.number] <= 1 + mail.unsure, mail
    duplicates = sum(has.copies.values()) - len(load.mails)
    unsure = sum(mail.unsure for mail in load.mails)
    attempts = sum(mail.attempts for mail in load.mails)
    hows = sum((part.kills for part in cluster.parts.values()), Counter())
    kills = f"{dict(hows)}: " + " ".join(
        f"{name}={part.kills.total()}" for name, part in cluster.parts.items()
    )
    ends = ", ".join(f"{name} {number}" for name, number in sorted(load.counts.items()))
    said = ", ".join(f"{text.decode() or '(nothing)'}: {n}" for text, n in load.replies.items())
    return (
        f"{seconds:.0f} s, {len(load.mails)} messages in {attempts} attempts: {ends}\n"
        f"  kills: {kills}\n"
        f"  copies: {sum(has.copies.values())}, duplicates {duplicates} of {unsure} unsure; "
        f"by {dict(sorted(has.parts.items()))}\n"
        f"  replies: {said}"
    )


def relayed(cluster: Cluster) -> int:
    """How many messages are taken of a client that may relay, and sends by four at a time."""
    heard: list[bytes] = []

    def send() -> None:
        for _ in range(10):
            with cluster.client(RELAY) as client:
                client.reply()
                heard.append(client.deliver(RELAYED, recipient=b"x@elsewhere.example"))
                client.quit()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [reply for reply in heard if reply.startswith(b"250 ok ")]
    assert all(reply.startswith(b"452 ") for reply in heard if reply not in taken), heard
    return len(taken)


@pytest.mark.interop
def test_limits_are_of_all_front_ends(cluster: Cluster) -> None:
    """And each says of its configuration that all is well."""
    for name in FRONTS:
        checked = cluster.check(name)
        assert checked.status == 0, checked.out
        warnings = [line for line in checked.out.splitlines() if line.startswith(b"warning: ")]
        # Where root runs this; on a machine the service has a user of its own.
        assert all(b" belongs to root: " in line for line in warnings), warnings
        assert b"it answers, and writes" in checked.out
    clients = [cluster.client("10.250.0.1") for _ in range(20)]
    for client in clients:
        client.reply()
        assert client.ask(b"EHLO x").startswith(b"250 ")
    with cluster.client("10.250.0.1") as more, cluster.client("10.250.0.2") as other:
        for client in (more, other):
            client.reply()
        refused = b"421 too many connections from your address (#4.7.0)"
        assert more.ask(b"EHLO x") == refused
        assert other.ask(b"EHLO x").startswith(b"250 ")

    def refusals() -> int:
        logs = [cluster.parts[name].log.read_text() for name in FRONTS]
        return sum("end=dropped-by-clientlimit" in log for log in logs)

    assert wait_for(refusals) == 1
    clients[0].quit()

    def is_taken() -> bool:
        with cluster.client("10.250.0.1") as client:
            client.reply()
            return client.ask(b"EHLO x").startswith(b"250 ")

    wait_for(is_taken)
    for client in clients[1:]:
        client.quit()


@pytest.mark.interop
@pytest.mark.timeout(900)
def test_each_part_is_killed(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    record_property("numbers", run(cluster, lambda number: number < len(HOW) * len(PARTS)))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_parts_are_killed_for_long(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    end = time.monotonic() + float(os.environ.get("CLUSTER_SECONDS", "180"))
    record_property(
        "numbers", run(cluster, lambda n: n < len(HOW) * len(PARTS) or time.monotonic() < end)
    )
