"""clientlimit: how many connections a client has at a time, on all machines that share a store.

Configuration: control/clientlimit or CLIENTLIMIT, a number from 1 to 100; 0, the default: no
limit.  A client is an IPv4 address, or the /64 of an IPv6 one; of this machine, 127.0.0.0/8 and
::1, there is no limit, and the usual exemptions hold (relay, listed).
Each session takes one of as many places as a client may have, and gives it back at its end.
A place that is not given back, as by a machine that lost its power, is free again 2 minutes
after the longest time that a session waits for its client (timeoutsmtpd); one that is in use
is taken anew before, by each command of a mail transaction: a session that for so long says only
others, as NOOP, has none any more, and goes on.  What qsmtpd-server holds that has said
nothing yet has no place: of that its own -C knows.
Replies: `421 too many connections from your address (#4.7.0)`, and the connection is closed.
Log keys: by=clientlimit; event=plugin with store, reason, then, where the store cannot say:
then nobody is refused.
"""

from __future__ import annotations

import posix as os
from time import monotonic, time

from ..decision import DECLINED, Decision, drop
from ..policy.store import CLIENTS, Access, Record, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope
    from ..policy.store import Store

#: Of an address: so many bits are a client.
IPV4, IPV6 = 32, 64
LOOPBACK = b"127."  # and ::1
MOST = 100
TOO_MANY = drop(b"too many connections from your address", 421, b"4.7.0")
#: A place is taken anew after so long, and so long it is kept beyond the longest wait for a
#: client, in which nobody can do that (seconds).
RENEWAL, SPARE = 60, 120


class Plugin:
    """Counts connections.  Raises ControlError."""

    __slots__ = ("most", "lease", "store")
    immune = ("relay", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self.most = settings.number("clientlimit", "CLIENTLIMIT", 0, most=MOST)
        plain = settings.without_options()
        self.lease = SPARE + plain.number("timeoutsmtpd", "TIMEOUTSMTPD", 1200, least=1)
        self.store = Access(settings, "nobody is refused")

    def for_session(self) -> Session:
        return Session(self)


class Session:
    """The place of a session.

    It is taken when the client connects, or by the first command of one whom qsmtpd-server
    has greeted; and after STARTTLS, which has given it back.
    """

    __slots__ = ("_plugin", "_token", "_key", "_until", "_admitted")
    #: For qsmtpd-server: there is nothing to decide before the greeting.
    silence = 0.0

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._token = 0
        self._key: bytes | None = None  # of the place that we have
        self._until = 0.0  # monotonic: nothing to do before
        self._admitted = False

    def connect(self, client: Client) -> Decision:
        return self._hold(client)

    def starttls(self, client: Client) -> Decision:
        return self._hold(client)

    def helo(self, client: Client, name: bytes) -> Decision:
        return self._hold(client)

    def mail(self, client: Client, envelope: Envelope) -> Decision:
        return self._hold(client)

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        return self._hold(client)

    def data(self, client: Client, envelope: Envelope) -> Decision:
        return self._hold(client)

    def body(self, client: Client, envelope: Envelope, chunk: bytes) -> None:
        if self._key is not None:
            self._hold(client)

    def disconnect(self, client: Client) -> None:
        """Give the place back."""
        key, self._key = self._key, None
        if key is None or client.dry_run:
            return
        now = int(time())

        def change(records: Sequence[Record | None]) -> Sequence[Record | None]:
            return [None if self._is_ours(each) else each for each in records]

        try:
            self._plugin.store.ask(client, lambda store: store.update(CLIENTS, [key], now, change))
        except Unavailable:
            pass  # it ends by itself

    # -- inside ------------------------------------------------------------

    def _hold(self, client: Client) -> Decision:
        """Have a place, also for the time to come; a refusal where there is none."""
        if monotonic() < self._until or not self._plugin.most:
            return DECLINED
        from .greylistkey import network

        ip = client.peer.ip
        who = network(ip, IPV4, IPV6)
        if who is None or ip.startswith(LOOPBACK) or ip == b"::1":
            self._until = float("inf")
            return DECLINED
        try:
            found = self._plugin.store.ask(client, lambda store: self._take(store, who))
        except Unavailable:
            found = True
        if not found and not self._admitted:
            return TOO_MANY
        self._admitted = True
        self._until = monotonic() + RENEWAL
        return DECLINED

    def _take(self, store: Store, who: bytes) -> bool:
        """Take the place anew that we have, or one that is free.  Raises Trouble."""
        now = int(time())
        self._token = self._token or int.from_bytes(os.urandom(7)) + 1
        mine = Record(now, self._token, now + self._plugin.lease)
        place: int | None = None

        def change(records: Sequence[Record | None]) -> Sequence[Record | None]:
            nonlocal place
            ours = [n for n, each in enumerate(records) if self._is_ours(each)]
            # One of a time to come is that of a clock that was ahead: nobody's.
            ahead = now + SPARE
            free = [n for n, each in enumerate(records) if each is None or each.since > ahead]
            place = next(iter(ours + free), None)
            return [mine if n == place else each for n, each in enumerate(records)]

        keys = [b"%b\0%d" % (who, n) for n in range(self._plugin.most)]
        store.update(CLIENTS, keys, now, change)
        self._key = None if place is None else keys[place]
        return place is not None

    def _is_ours(self, record: Record | None) -> bool:
        return record is not None and record.count == self._token
