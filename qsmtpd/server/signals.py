"""The signals of the master: each makes one descriptor readable, so epoll returns."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # signal.py makes an enum of each number, at each call


class Signals:
    """Handles CHLD, HUP, TERM and INT of this process.

    `fd` is readable after one of them, until clear().  `hangup`: HUP has come,
    and nobody has set this back.  `terminations`: how often TERM or INT came.
    `descriptors`: those that this keeps open.
    """

    def __init__(self) -> None:
        self.hangup = False
        self.terminations = 0
        self.fd, writer = os.pipe()
        self.descriptors = (self.fd, writer)
        for fd in self.descriptors:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGTERM, self._on_termination)
        signal.signal(signal.SIGINT, self._on_termination)

    def clear(self) -> None:
        """Read what the signals so far have written to the descriptor."""
        try:
            while os.read(self.fd, 512):
                pass
        except BlockingIOError:
            pass

    def _on_hangup(self, *_: object) -> None:
        self.hangup = True

    def _on_termination(self, *_: object) -> None:
        self.terminations += 1
