"""What a channel needs of what carries its bytes; for the types alone."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class Transport(Protocol):
    """What carries the bytes: plain descriptors, or TLS over them."""

    def read(self, deadline: float) -> bytes: ...
    def write(self, data: bytes, deadline: float) -> None: ...
    def close(self, deadline: float) -> None: ...
    def drain(self, wait: bool, rate: int) -> None: ...
