"""Ports for programs that are told one, and listen on it some time later or more than once."""

from __future__ import annotations

import itertools
import os
import random
import socket

#: A thousand for each worker of pytest-xdist, all below those that the kernel gives to whoever
#: asks for none (net.ipv4.ip_local_port_range): else a client of another test may have it first.
FIRST, EACH, WORKERS = 12_000, 1_000, 20
_numbers = itertools.count(random.randrange(EACH))


def free_port() -> int:
    """One that is free at all addresses of this machine, and is given to nobody else."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in itertools.islice(_numbers, EACH):
        port = FIRST + worker % WORKERS * EACH + number % EACH
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("0.0.0.0", port))
                udp.bind(("0.0.0.0", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")
