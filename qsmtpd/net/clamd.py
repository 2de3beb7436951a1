"""ClamAV's daemon, as the side that asks: a message, in a stream.

Facts: clamd(8), COMMANDS, and clamd 1.4.6.
"""

from __future__ import annotations

from .daemon import EARLY, Daemon, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .daemon import Address

#: Bytes of its answer, which is a line: a name is no longer.
LIMIT = 4096
_FOUND = b" FOUND"


class TooLarge(Exception):
    """It takes no stream of this size (StreamMaxLength)."""


def scan(address: Address, seconds: float, message: Iterable[bytes]) -> bytes | None:
    """What it has found in a message, by its name, or None.

    Raises TooLarge, NoAnswer or Shutdown.
    """
    daemon = Daemon(address, seconds, LIMIT)
    try:
        whole = daemon.offer(_stream(message))
        answer = daemon.line()
    finally:
        daemon.close()
    if answer == b"stream: OK":
        if not whole:
            raise NoAnswer(EARLY)
        return None
    if answer.startswith(b"stream: ") and answer.endswith(_FOUND):
        name = answer[8 : -len(_FOUND)]
        if name:
            return name
    if answer == b"INSTREAM size limit exceeded. ERROR":
        raise TooLarge
    raise NoAnswer("says " + answer.decode("ascii", "backslashreplace"))


def ping(address: Address, seconds: float) -> bytes:
    """What it calls itself, with its signatures' version.  Raises NoAnswer or Shutdown."""
    daemon = Daemon(address, seconds, LIMIT)
    try:
        daemon.send(b"nVERSION\n")
        answer = daemon.line()
    finally:
        daemon.close()
    if not answer.startswith(b"ClamAV "):
        raise NoAnswer("is no clamd")
    return answer


def _stream(message: Iterable[bytes]) -> Iterator[bytes]:
    """Parts, each behind its length of 4 bytes, and one of no length."""
    yield b"nINSTREAM\n"
    for part in message:
        yield len(part).to_bytes(4, "big") + part
    yield bytes(4)
