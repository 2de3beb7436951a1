"""Lines on fd 2 in tcpserver's form, for multilog."""

from __future__ import annotations

import os
import select

from ..log import LINE_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_ENDS = (
    b"TCPLOCALHOST",
    b"TCPLOCALIP",
    b"TCPLOCALPORT",
    b"TCPREMOTEHOST",
    b"TCPREMOTEIP",
    b"TCPREMOTEPORT",
)

#: -q: nothing is written.
quiet = False


def say(text: str) -> None:
    """Write one line to descriptor 2, or drop it where that would block or fails."""
    if quiet:
        return
    try:
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if poll.poll(0):
            line = f"qsmtpd-server: {text}".encode("ascii", "backslashreplace")
            os.write(2, line[: LINE_LIMIT - 1] + b"\n")  # poll() promises that this does not block
    except OSError:
        pass


def verdict(word: str, pid: int, environ: Mapping[bytes, bytes]) -> None:
    """`ok` or `deny`, the process that says so, and both ends of the connection.

    Between the last two colons an ident name would stand.
    """
    say(
        f"{word} {pid} %s:%s:%s %s:%s::%s"
        % tuple(environ.get(name, b"").decode("ascii", "replace") for name in _ENDS)
    )
