"""One message on its way to a hub: the back end of qmqpqueue.

To the client and to the log its end looks as if a program like qmail-qmqpc had been started.
"""

from __future__ import annotations

import posix as os

from ..child.queue import TEXTS, Verdict, flatten
from ..net.qmqphandover import PUT_OFF, REJECTED, TAKEN, Request, hand_over
from ..policy.held import Held, is_full

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..net.qmqp import HubSettings

#: The exit codes of qmail-queue for what can be wrong with a file.
_WRITE_ERROR, _READ_ERROR, _NO_FILE = 53, 54, 63
#: Of the text of a hub, as where it comes from a program (bytes).
TEXT_LIMIT = 254


class QmqpBackEnd:
    """See qsmtpd.policy.backend.  feed() and abort() raise nothing, commit() Shutdown."""

    __slots__ = ("pid", "_hubs", "_settings", "_held", "_request", "_failed")

    def __init__(self, hubs: HubSettings, settings: PluginSettings) -> None:
        self.pid = os.getpid()
        self._hubs = hubs
        self._settings = settings
        self._held = Held()
        self._request = Request(self._held)
        self._failed: Verdict | None = None

    def feed(self, data: bytes) -> None:
        """More of the message.  A failure shows in the verdict."""
        if self._failed is None:
            try:
                self._request.message(data)
            except OSError as error:
                self._failed = self._no_room(error)

    def commit(self, sender: bytes, recipients: list[bytes]) -> Verdict:
        """Hand it to a hub, and say what that has answered."""
        try:
            return self._failed or self._hand_over(sender, recipients)
        finally:
            self.abort()

    def abort(self) -> None:
        """It goes nowhere.  May be called again, and after commit()."""
        self._held.close()

    def __enter__(self) -> QmqpBackEnd:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()

    def _hand_over(self, sender: bytes, recipients: list[bytes]) -> Verdict:
        try:
            self._request.envelope([sender, *recipients])
        except OSError as error:
            return self._no_room(error)
        try:
            outcome = hand_over(self._request, self._hubs, self._log)
        except OSError as error:
            return self._trouble(_READ_ERROR, error)
        more = {"hub": outcome.hub} if outcome.hub else {}
        exit = str(outcome.code)
        if outcome.code == TAKEN:
            return Verdict(True, exit=exit, more={**more, "answer": outcome.text[:TEXT_LIMIT]})
        text = b""
        if outcome.code in (REJECTED, PUT_OFF) and len(outcome.text) > 1:
            text = flatten(outcome.text[:TEXT_LIMIT])
        permanent = outcome.code == REJECTED
        text = text or TEXTS[outcome.code]
        return Verdict(False, text, permanent, exit, outcome.ambiguous, more)

    def _log(self, hub: bytes, what: str, said: bytes) -> None:
        self._settings.log(hub=hub, result=what)

    def _no_room(self, error: OSError) -> Verdict:
        """The file cannot be made, or not be written to."""
        self._held.close()
        return self._trouble(_WRITE_ERROR if is_full(error) else _NO_FILE, error)

    def _trouble(self, code: int, error: OSError) -> Verdict:
        self._settings.log(result=str(error))
        return Verdict(False, TEXTS[code], exit=str(code))
