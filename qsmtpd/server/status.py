"""Lines on fd 2 in tcpserver's form, for multilog."""

from __future__ import annotations

from .. import log

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
    if not quiet:
        log.write(f"qsmtpd-server: {text}".encode("ascii", "backslashreplace"))


def verdict(word: str, pid: int, environ: Mapping[bytes, bytes]) -> None:
    """`ok` or `deny`, the process that says so, and both ends of the connection.

    Between the last two colons an ident name would stand.
    """
    say(
        f"{word} {pid} %s:%s:%s %s:%s::%s"
        % tuple(environ.get(name, b"").decode("ascii", "replace") for name in _ENDS)
    )
