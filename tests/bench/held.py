"""Clients that connect and say nothing: how many a server holds, and what each costs."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

from bench.server import Failed

PATIENCE = 30.0  # seconds
#: Linux: with it bind() takes no port, so that many connections need no more than one address.
IP_BIND_ADDRESS_NO_PORT = 24
#: Of /proc/meminfo: what of the kernel's memory grows with connections.
KERNEL = ("Slab", "KernelStack", "PageTables")


class Held:
    """So many connections from as many addresses, each of which was greeted; a context manager."""

    def __init__(self, port: int, number: int) -> None:
        self._sockets: list[socket.socket] = []
        try:
            for n in range(number):
                self._sockets.append(
                    _connect(port, f"127.{1 + n // 62500}.{n // 250 % 250}.{1 + n % 250}")
                )
            for client in self._sockets:
                if not client.recv(1000).startswith(b"220"):
                    raise Failed(f"did not greet each of {number}")
        except OSError as error:
            self.__exit__()
            raise Failed(f"did not hold {number}: {error.strerror or error}") from error
        except Failed:
            self.__exit__()
            raise

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._sockets:
            client.close()


class Dribbling(Held):
    """The same; each says a byte a second, and never a line."""

    _pid = 0

    def __init__(self, port: int, number: int) -> None:
        super().__init__(port, number)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._dribble()
            finally:
                os._exit(0)

    def _dribble(self) -> None:
        while True:
            started = time.monotonic()
            for n, client in enumerate(self._sockets):
                client.send(b"N")
                time.sleep(max(0.0, started + n / len(self._sockets) - time.monotonic()))

    def __exit__(self, *_: object) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        super().__exit__()


def _connect(port: int, source: str) -> socket.socket:
    client = socket.socket()
    client.settimeout(PATIENCE)
    client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    client.bind((source, 0))
    client.connect(("127.0.0.1", port))
    return client


def kernel_memory() -> int:
    """The bytes that the kernel has for its own objects; of both ends of each connection."""
    text = Path("/proc/meminfo").read_text()
    return 1024 * sum(
        int(kb) for name, kb in re.findall(r"(?m)^(\w+): +(\d+) kB$", text) if name in KERNEL
    )
