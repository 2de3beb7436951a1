"""A second process for plugins that hang where no signal of ours reaches them.

Python runs no signal handler while it is inside C code.  So where there are
plugins from outside of this package, a process is forked at the start of the
session that looks from time to time how long the plugin under way has been
running.  When that is too long it kills the session, says 421 to the client
if that can be said in plain text (inside TLS only the dead process knows the
keys), and leaves a line in the log.  It does the same where a plugin has ended
the process.  What the queue program was given ends
with the session, without the envelope, and so queues nothing.
"""

from __future__ import annotations

import mmap
import posix as os
import select
from time import monotonic

from ..smtp import replies
from .timelimit import GRACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn

    from ..log import Log
else:
    import _signal as signal  # signal.py imports enum, which costs a cold start 4 ms

#: It looks so often (seconds).
PERIOD = 1.0
#: A process that was killed is gone by then (seconds); a child of its may still hold the pipe.
LAST_LOOK = 5.0
#: The page: a deadline (monotonic milliseconds, 0: no plugin is running), the length of the
#: names behind it, and they; its last byte is not 0 where the client is to be told nothing.
_TIME, _HEAD = 8, 10
_NAMES = 1000  # bytes
#: For the log: error, reason, and the end of the session.
_HANG = ("Hang", "killed", "plugin-hangs")
_EXIT = ("Exit", "the process has ended within the plugin", "plugin-exits")


class Guardian:
    """The session's side of it.  Raises OSError where no process is to be had.

    `say(text)` writes to the client, in plain text.
    """

    __slots__ = ("_page", "_pid", "_pipe")

    def __init__(self, log: Log, say: Callable[[bytes], object]) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the child
        heard, self._pipe = os.pipe()
        session = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._pipe)
                signal.signal(signal.SIGALRM, signal.SIG_IGN)
                _watch(self._page, heard, session, log, say)
            finally:
                os._exit(0)
        os.close(heard)

    def expect(self, who: tuple[str, str], seconds: float) -> None:
        """A plugin begins: it has so many seconds, and the GRACE of both kinds."""
        names = " ".join(who).encode("ascii", "replace")[:_NAMES]
        deadline = int((monotonic() + seconds + 2 * GRACE) * 1000)
        head = deadline.to_bytes(_TIME, "little") + len(names).to_bytes(_HEAD - _TIME, "little")
        self._page[: _HEAD + len(names)] = head + names

    def relax(self) -> None:
        """It has ended."""
        self._page[:_TIME] = bytes(_TIME)

    def hush(self) -> None:
        """From here on the client is told nothing: it understands no plain text."""
        self._page[-1] = 1

    def stop(self) -> None:
        """The session is over."""
        # A child of a plugin's may hold the pipe open, so its end alone will not do.
        os.write(self._pipe, b".")
        os.close(self._pipe)
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass  # a plugin has waited for every child that there was


def _watch(
    page: mmap.mmap, heard: int, session: int, log: Log, say: Callable[[bytes], object]
) -> NoReturn:
    """The guardian's life: it ends with the session."""
    poll = select.poll()
    poll.register(heard, select.POLLIN)
    while True:
        ended = bool(poll.poll(PERIOD * 1000))
        if ended and os.read(heard, 1):
            os._exit(0)  # as it should
        deadline = int.from_bytes(page[:_TIME], "little") / 1000
        length = int.from_bytes(page[_TIME:_HEAD], "little")
        if ended and not deadline:
            os._exit(0)  # it was killed, or has nothing left to say
        if ended or (deadline and monotonic() > deadline):
            if not ended:
                os.kill(session, signal.SIGKILL)
                poll.poll(LAST_LOOK * 1000)  # until it is dead: only one of us may speak
            plugin, _, hook = page[_HEAD : _HEAD + length].partition(b" ")
            error, reason, end = _EXIT if ended else _HANG
            log.line("trouble", error=error, reason=reason, plugin=plugin, hook=hook)
            reply = None if page[-1] else replies.PLUGIN_HANGS
            if reply is not None:
                say(reply + b"\r\n")
            log.line("session", end=end, reply=reply)
            os._exit(0)
