"""Back ends: where a message goes; and what a plugin's is wrapped in.

A back end that raises, takes too long or returns nonsense has not taken the
message, whatever it has done with it; so the client hears 451, and never 250.
"""

from __future__ import annotations

from ..child.queue import Verdict
from ..smtp import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class BackEnd(Protocol):
        """One message on its way to wherever a back end puts it: see qsmtpd.child.queue.Queue.

        A context manager: what was not committed when it is left is aborted.
        """

        pid: int  # for the reply: `250 ok TIME qp PID`

        def feed(self, data: bytes) -> None: ...
        def commit(self, sender: bytes, recipients: list[bytes]) -> Verdict: ...
        def abort(self) -> None: ...
        def __enter__(self) -> BackEnd: ...
        def __exit__(self, *error: object) -> None: ...


_TROUBLE = b"%b (#%b)" % (replies.PLUGIN_TROUBLE.text, replies.PLUGIN_TROUBLE.status)
TEXT_LIMIT = 400  # bytes


class PluginBackEnd:
    """A back end around that of a plugin, with the limits of plugin code.

    Raises TypeError where it is none.

    `call(function, *facts)` runs plugin code; it returns what was raised.
    `complain(error)` is told what came back that makes no sense.
    """

    __slots__ = ("pid", "_inside", "_call", "_complain", "_failed", "_ended")

    def __init__(
        self,
        inside: Any,
        call: Callable[..., object],
        complain: Callable[[BaseException], object],
    ) -> None:
        if type(inside.pid) is not int:
            raise TypeError("a back end whose pid is no int")
        for name in ("feed", "commit", "abort"):
            if not callable(getattr(inside, name)):
                raise TypeError(f"a back end whose {name} cannot be called")
        self.pid: int = inside.pid
        self._inside = inside
        self._call = call
        self._complain = complain
        self._failed = False
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Give it more of the message.  A failure shows in the verdict."""
        if data and not self._failed and not self._ended:
            self._failed = isinstance(self._call(self._inside.feed, data), BaseException)

    def commit(self, sender: bytes, recipients: list[bytes]) -> Verdict:
        """All of it has come.  What then goes wrong may have been queued all the same."""
        if self._failed or self._ended:
            return Verdict(False, _TROUBLE, exit="plugin trouble")
        said = self._call(self._inside.commit, sender, list(recipients))
        if isinstance(said, Verdict) and isinstance(said.text, bytes):
            if said.accepted is True:
                return Verdict(True, exit=str(said.exit))
            text = bytes(byte if 32 <= byte < 127 else 0x3F for byte in said.text[:TEXT_LIMIT])
            return Verdict(
                False, text or _TROUBLE, bool(said.permanent), str(said.exit), bool(said.ambiguous)
            )
        if not isinstance(said, BaseException):
            self._complain(TypeError(f"commit returned a {type(said).__name__}, no Verdict"))
        return Verdict(False, _TROUBLE, exit="plugin trouble", ambiguous=True)

    def abort(self) -> None:
        """The end of it, once: what was not committed is to be undone."""
        if not self._ended:
            self._ended = True
            self._call(self._inside.abort)

    def __enter__(self) -> PluginBackEnd:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()  # a plugin's is always called last (qsmtpd-plugins(7))
