"""Why a session ends: a word for the log, a last reply, an exit status."""

from __future__ import annotations

from ..facts import ControlError
from ..log import log_trouble
from ..net.channel import Flood, Gone, SessionOver, Timeout
from ..smtp import replies
from ..smtp.command import BareLF
from ..tls.errors import HandshakeFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Ruling
    from ..log import Log


class Hangup(Exception):
    """The session ends: a word for the log, the last reply if there is one, the exit status."""

    def __init__(
        self,
        end: str,
        reply: bytes | None = None,
        status: int = 1,
        ruling: Ruling | None = None,
    ) -> None:
        super().__init__(end)
        self.end = end
        self.reply = reply
        self.status = status
        self.ruling = ruling  # of the plugin that wanted it


def explain(error: Exception, log: Log) -> Hangup:
    """Why a session ends, whatever was raised."""
    if isinstance(error, Hangup):
        return error
    if isinstance(error, SessionOver):
        return Hangup("session-limit", replies.SESSION_OVER)
    if isinstance(error, Timeout):
        return Hangup("timeout", replies.TIMEOUT)
    if isinstance(error, Gone):
        return Hangup("client-gone")
    if isinstance(error, Flood):
        return Hangup("line-without-end")
    if isinstance(error, HandshakeFailed):
        return Hangup("tls-failed")
    if isinstance(error, BareLF):
        return Hangup("bare-lf", replies.BARE_LF)
    if isinstance(error, ControlError):
        log.line("control", name=error.name, reason=error.reason)
        return Hangup("control", replies.NO_CONTROLS)
    if isinstance(error, MemoryError):
        return Hangup("memory", replies.OUT_OF_MEMORY)
    log_trouble(log, error)
    return Hangup("trouble", replies.TROUBLE)
