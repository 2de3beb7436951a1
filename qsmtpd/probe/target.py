"""The server that is tested, and what its owner allows."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from time import monotonic, sleep

from .protocol import Protocol


class Pace:
    """The rate limit: the maximum number of new connections per second."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._next = monotonic()

    def wait(self) -> None:
        """Wait until the next connection may be opened."""
        sleep(max(0.0, self._next - monotonic()))
        self._next = monotonic() + self._interval


@dataclass(frozen=True)
class Target:
    """The server, and what its owner allows: times in seconds, `slow` 0 for not at all."""

    host: str
    port: int
    protocol: Protocol
    timeout: float = 20.0
    slow: float = 0.0
    user: bytes = b""
    password: bytes = b""
    recipient: bytes = b""
    sender: bytes = b""
    helo: bytes = b""
    pace: Pace = field(default_factory=lambda: Pace(2))

    @property
    def sni(self) -> str | None:
        """The name for SNI, without a dot at its end; an address is none (RFC 6066, 3)."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return self.host.removesuffix(".")
        return None
