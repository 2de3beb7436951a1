"""Clients without a process: greeted, and held until they have said a first line.

It is only looked at here (MSG_PEEK): the process that the client is handed to
reads it, with all that follows.  Who cannot be held, or has spoken while all
processes are at work, waits here too: first come, first served.
"""

from __future__ import annotations

import os
from _socket import MSG_DONTWAIT, MSG_PEEK

from .. import waits
from ..facts import Counters, Reply
from ..log import Log
from ..net import ucspi
from ..net.descriptors import Gone
from ..session.ending import Ending, log_session
from ..session.plan import Plan
from ..smtp import replies
from ..smtp.states import FOREIGN_PROTOCOLS
from .accepted import Client, part
from .events import CHANGES, ENDED, GONE
from .timers import Timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable

    from .accepted import Connections
    from .events import Events
    from .options import Options
    from .pool import Pool
else:
    from _collections import OrderedDict  # see timers.py

NO_PROCESS = Reply(421, b"4.3.2", b"no process for you now, try again later", end="no-process")
NO_ROOM = Reply(421, b"4.3.2", b"too many connections, try again later", end="no-room")
TOO_MANY = Reply(
    421, b"4.7.0", b"too many connections from your address", end="too-many-connections"
)
_FOREIGN = tuple(FOREIGN_PROTOCOLS)
#: Who has no process by then, has none (seconds): RFC 5321, 4.5.3.2.1.
PATIENCE = 300.0
#: After it a session that is over is known to be over: its client may come again before (seconds).
MOMENT = 0.1
#: A line that is longer is for a process in any case (bytes).
LINE = 4096


class Held:
    """At most --hold clients; served by the pool, and counted in `connections`.

    failed() is called where no process could be made for one.
    """

    def __init__(
        self,
        options: Options,
        events: Events,
        pool: Pool,
        connections: Connections,
        failed: Callable[[], None],
    ) -> None:
        self._limit, self._most = options.hold, options.client_limit
        self._events = events
        self._pool = pool
        self._connections = connections
        self._failed = failed
        self._clients: dict[int, Client] = {}
        self._waiting: OrderedDict[Client, None] = OrderedDict()
        self._timers: Timers[Client] = Timers(events.by)

    @property
    def awaits(self) -> bool:
        """Is there somebody who waits for a process?"""
        return bool(self._waiting)

    def has_room(self) -> bool:
        """Can one more come?  If need be, somebody who has said nothing yet makes room."""
        count = len(self._clients)
        return self._pool.has_room() or count < self._limit or len(self._waiting) < count

    def take(self, client: Client) -> None:
        """A client that has been counted: hold it, or give it to a process.

        It is greeted after so many seconds of its `silence`; None: only a process can do
        that.  One that is `over` has to wait until another one's end may have been heard.
        """
        at_once = client.silence is None or self._limit == 0
        if at_once and not client.over and self._pool.has_room():
            self._hand_out(client)
            return
        if len(self._clients) >= self._limit:
            self.make_room()
        self._clients[client.fd] = client
        self._events.add(client.fd, self._changed, CHANGES)
        if client.over:
            self._timers.set(client, MOMENT)
        else:
            self._receive(client)

    def _receive(self, client: Client) -> None:
        if client.silence is None:
            self._wait(client)
        elif client.silence:
            self._timers.set(client, client.silence)
        else:
            self._greet(client)

    def _greet(self, client: Client) -> None:
        plan = client.plan
        assert isinstance(plan, Plan)
        greeting = plan.protocol.greeting(plan.settings)
        try:
            if greeting:
                client.bytes_out = client.connection.send(greeting, MSG_DONTWAIT)
        except OSError:
            self.end(client, Ending(Gone.end))
            return
        client.greeted = True
        limits = plan.settings.limits
        if greeting:  # else the first byte of any kind is for a process
            client.line = min(limits.line, LINE) + 2
        client.ends = replies.TIMEOUT if limits.timeout <= limits.session else replies.SESSION_OVER
        self._timers.set(client, min(limits.timeout, limits.session))

    def _changed(self, fd: int, flags: int) -> None:
        """It has said something, or has gone."""
        client = self._clients[fd]
        if client.waiting or client.over:
            if flags & GONE:
                self.end(client, Ending(Gone.end))
            return
        try:
            data = client.connection.recv(client.line, MSG_PEEK | MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, flags = b"", GONE
        client.bytes_in = len(data)
        is_line = b"\n" in data or len(data) >= client.line or data.startswith(_FOREIGN)
        if is_line and not self._waiting and self._pool.has_room():
            self._remove(client)
            self._hand_out(client)
        elif is_line:
            self._wait(client)
        elif not data or flags & ENDED:
            self.end(client, Ending(Gone.end))

    # -- a process for it --------------------------------------------------

    def _wait(self, client: Client) -> None:
        """It is to have a process: now, or when one is free."""
        client.waiting, client.ends = True, NO_PROCESS
        self._waiting[client] = None
        self._timers.set(client, PATIENCE)
        self.serve()

    def serve(self) -> None:
        """Give those who wait for it to processes, as many as there may be."""
        while self._waiting and self._pool.has_room():
            client = next(iter(self._waiting))
            self._remove(client)
            self._hand_out(client)

    def _hand_out(self, client: Client) -> None:
        longest = client.plan.longest if isinstance(client.plan, Plan) else waits.NEVER
        if self._pool.hand_out(client, longest):
            client.connection.close()
            return
        self._failed()
        self._say(client, Ending.by(NO_PROCESS))

    # -- the end -----------------------------------------------------------

    def end(self, client: Client, ending: Ending) -> None:
        """It leaves without having had a process."""
        self._remove(client)
        self._say(client, ending)

    def end_all(self, reply: Reply) -> None:
        """All of them leave, with this word."""
        for client in list(self._clients.values()):
            self.end(client, Ending.by(reply))

    def _say(self, client: Client, ending: Ending) -> None:
        """The last word as far as it needs no waiting, and the line in the log."""
        plan = client.plan
        protocol = self._pool.configuration.protocol
        self._connections.remove(client.network)
        log, environ = Log(), client.facts
        if plan is not None:  # as in a session: what a rule says is stronger than the facts
            log = plan.log
            environ = self._pool.configuration.environ_of(plan, client.rule or b"", environ)
        text, words = None, b""
        if ending.reply is not None:
            if client.greeted and isinstance(plan, Plan):
                ending.reply = plan.settings.in_form(ending.reply)
            words = protocol.alone(ending.reply)
            text = protocol.text(ending.reply) if words else None
        peer = ucspi.read_peer(environ, client.fd)
        log.begin(pid=os.getpid(), ip=peer.ip)
        counters = Counters(client.since)
        log_session(log, client, peer, counters, ending.word, text, protocol.name)
        part(client.connection, words)

    def make_room(self) -> bool:
        """Who has been here longest without a line leaves; False where there is nobody."""
        silent = [client for client in self._timers.oldest() if not client.waiting]
        if silent:
            self.end(min(silent, key=lambda c: c.since), Ending.by(NO_ROOM))
        return bool(silent)

    def _remove(self, client: Client) -> None:
        del self._clients[client.fd]
        self._events.remove(client.fd)  # its descriptor may live on in a process
        self._waiting.pop(client, None)
        self._timers.drop(client)

    # -- time --------------------------------------------------------------

    def next_time(self) -> float:
        """When expire() has something to do (monotonic seconds)."""
        return self._timers.next_time()

    def expire(self, now: float) -> None:
        """Greet those who have been silent for long enough; end those who have been too long."""
        while (client := self._timers.due(now)) is not None:
            if client.over:
                client.over = self._connections.of(client.network) > self._most
                if client.over:
                    self.end(client, Ending.by(TOO_MANY))
                    continue
                self._receive(client)
                if client.fd in self._clients:
                    self._changed(client.fd, 0)  # what it has said meanwhile
            elif client.waiting or client.greeted:
                self.end(client, Ending.by(client.ends or NO_PROCESS))
            else:
                self._greet(client)
