"""Clients that connect and say nothing: how many a server holds, and what each costs."""

from __future__ import annotations

import re
import socket
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
