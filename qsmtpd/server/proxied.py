"""Connections that balancers pass on: each waits here for its PROXY header, then it is admitted.

Of the socket no byte is taken that stands behind the header.  Who it was that connected has no
rights any more: rules and limits are those of whom the header names; where it names nobody, those
of the balancer's address.
"""

from __future__ import annotations

import os
from _socket import MSG_DONTWAIT
from time import monotonic

from ..facts import Counters
from ..net import proxy, ucspi
from ..net.descriptors import Gone
from ..session.ending import SHUTDOWN, log_session
from .accepted import part
from .timers import Timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable

    from .events import Events
    from .pool import Pool


class _Pending:
    """A connection, the facts of it, and what has come of its header."""

    __slots__ = ("connection", "facts", "since", "header", "bytes_in", "bytes_out")

    def __init__(self, connection: Socket, facts: dict[bytes, bytes]) -> None:
        self.connection = connection
        self.facts = facts
        self.since = monotonic()
        self.header = b""
        self.bytes_in = self.bytes_out = 0

    def read(self) -> proxy.Header:
        """The whole header.

        Raises BlockingIOError while more of it has to come, Refused, and EOFError or OSError
        where nothing has come before the end.
        """
        while count := proxy.missing(self.header):
            piece = self.connection.recv(count, MSG_DONTWAIT)
            if not piece and not self.header:
                raise EOFError
            if not piece:
                raise proxy.Malformed("the header ends before its end")
            self.header += piece
            self.bytes_in = len(self.header)
        return proxy.parse(self.header)


class Proxied:
    """At most so many wait; with one more, who has been here longest leaves.

    admit(connection, facts, since) goes on with whom a header names, or with nobody's.
    """

    def __init__(
        self,
        most: int,
        events: Events,
        pool: Pool,
        admit: Callable[[Socket, dict[bytes, bytes], float], object],
    ) -> None:
        self._most = most
        self._events = events
        self._pool = pool
        self._admit = admit
        self._pending: dict[int, _Pending] = {}
        self._timers: Timers[_Pending] = Timers(events.by)

    def take(self, connection: Socket, facts: dict[bytes, bytes]) -> bool:
        """Is this one that has to begin with a header?  Then it is no longer the caller's."""
        hosts = self._pool.configuration.preloaded.proxies
        if hosts is None or not hosts.names(facts[b"TCPREMOTEIP"]):
            return False
        pending = _Pending(connection, facts)
        if self._read(pending):
            return True
        if len(self._pending) >= self._most:
            self.make_room()
        self._pending[connection.fileno()] = pending
        self._events.add(connection.fileno(), self._changed)
        self._timers.set(pending, hosts.timeout)
        return True

    def _changed(self, fd: int, flags: int) -> None:
        self._read(self._pending[fd])

    def _read(self, pending: _Pending) -> bool:
        """Read what there is, and do what follows from it.  False: more has to come."""
        hosts = self._pool.configuration.preloaded.proxies
        try:
            header = pending.read()
            with_tls = hosts is not None and hosts.tls
            said = proxy.variables(header, pending.facts[b"TCPREMOTEIP"], with_tls)
        except BlockingIOError:
            return False
        except proxy.Refused as error:
            self._end(pending, error.end, str(error))
        except (OSError, EOFError):
            self._end(pending, Gone.end)
        else:
            self._remove(pending)
            self._admit(pending.connection, {**pending.facts, **said}, pending.since)
        return True

    def make_room(self) -> bool:
        """Who has been here longest leaves; False where there is nobody."""
        for oldest in self._pending.values():
            self._end(oldest, "no-room")
            return True
        return False

    def next_time(self) -> float:
        """When expire() has something to do (monotonic seconds)."""
        return self._timers.next_time()

    def expire(self, now: float) -> None:
        """End those whose header has not come in time."""
        while (pending := self._timers.due(now)) is not None:
            self._end(pending, proxy.TIMEOUT)

    def end_all(self) -> None:
        """End all of them: the server ends."""
        for pending in list(self._pending.values()):
            self._end(pending, SHUTDOWN)

    def _end(self, pending: _Pending, word: str, reason: str | None = None) -> None:
        """It is over: what there is to say, only the log hears."""
        self._remove(pending)
        configuration = self._pool.configuration
        log = configuration.preloaded.plan.log
        peer = ucspi.read_peer(pending.facts)
        log.begin(os.getpid(), peer.ip)
        if reason is not None:
            log.line("proxy", verdict="refused", reason=reason)
        name = configuration.protocol.name
        log_session(log, pending, peer, Counters(pending.since), word, None, name)
        part(pending.connection, b"")

    def _remove(self, pending: _Pending) -> None:
        fd = pending.connection.fileno()
        if self._pending.pop(fd, None) is not None:
            self._events.remove(fd)
            self._timers.drop(pending)
