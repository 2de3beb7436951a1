"""sendlimits: how much a user, or a client that may relay, may send within an hour and a day.

Configuration: control/sendlimits (see sendlimitsfile.py), a line for who has limits:

    user:*      messages=100/hour recipients=1000/day
    client:*    recipients=5000/day

SENDLIMITSCODE (or control/sendlimitscode), 452, the default, or 550: the code of a refusal;
REPLY_SENDLIMITS adds to it.  The counts are in the store (see policy/store/).
A message that the queue program has taken counts, and each of its recipients.  They are
counted before it is handed over, as one step with the question whether there is room for
them, and taken back where it was not queued: so no limit is exceeded, however many sessions
there are, and who ends one before the reply is counted all the same.
Replies: `452 sorry, no more than 100 messages an hour (#4.7.1)`, or 550 (#5.7.1), at RCPT, for
what is counted and what this transaction has already; and at the end of a message, where
others have taken the room for it meanwhile.
Log keys: by=sendlimits; event=plugin with who=, limit=, count= and left=, for how many seconds
it will be no less; store=, reason= and then= where the store cannot say: then the counts
of this process hold; or, where it is one of several machines, those of this machine, in
a file, and those of this process where that cannot say either.
"""

from __future__ import annotations

from time import time

from ..decision import DECLINED, Decision, defer, reject
from ..facts import ControlError
from ..policy.store import Access, Unavailable
from ..policy.store.counts import Counter, count, look
from ..policy.store.memory import MemoryStore
from .sendlimitsfile import MESSAGES, Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope
    from ..policy.store import Store
    from ..policy.store.counts import Counted
    from .sendlimitsfile import Limit

    T = TypeVar("T")

CODES = {"452": (defer, b"4.7.1"), "550": (reject, b"5.7.1")}

#: What this process has counted: it holds where no store can say.
_memory = MemoryStore()
THEN, THEN_LOCAL = "the counts of this process hold", "the counts of this machine hold"


class Plugin:
    """Counts messages and recipients.  Raises ControlError."""

    __slots__ = ("rules", "stores", "log", "_code", "_extra")

    def __init__(self, settings: PluginSettings) -> None:
        if ":" in settings.plugin:
            raise ControlError(
                "control/plugins", f"{settings.plugin} would count each message twice"
            )
        self.rules = Rules(settings)
        #: The first that can say decides; those behind it count along.
        self.stores = [Access(settings, THEN)]
        if self.stores[0].is_shared:
            self.stores[0].then = THEN_LOCAL
            self.stores.append(Access(settings, THEN, local=True))
        self.log = settings.log
        self._code = settings.choice("sendlimitscode", "SENDLIMITSCODE", tuple(CODES))
        self._extra = settings.worded(b"", "REPLY_SENDLIMITS")

    def for_session(self) -> Session:
        return Session(self)

    def refusal(self, limit: Limit) -> Decision:
        """The reply where there is no room."""
        make, status = CODES[self._code]
        return make(
            b"sorry, no more than %b%b" % (limit.text, self._extra), int(self._code), status
        )


class Session:
    """Remembers what it has read for a transaction, and what it has counted for a message."""

    __slots__ = ("_plugin", "_envelope", "_who", "_limits", "_found", "_logged", "_counted")

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._envelope: Envelope | None = None  # of which the next four are
        self._who = b""
        self._limits: tuple[Limit, ...] = ()
        self._found: list[Counted] = []
        self._logged = False
        self._counted: tuple[int, list[Counter], list[int]] | None = None

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if envelope is not self._envelope:
            self._begin(client, envelope)
        for limit, found in zip(self._limits, self._found, strict=True):
            if found.value + _amount(limit, len(envelope.recipients) + 1) > limit.most:
                return self._refuse(limit, found)
        return DECLINED

    def queue_pre(self, client: Client, envelope: Envelope) -> Decision:
        """The recipients are those of the envelope now, which a filter may have changed."""
        if envelope is not self._envelope:
            self._begin(client, envelope)
        if not self._limits or client.dry_run:
            return DECLINED
        now, recipients = int(time()), len(envelope.recipients)
        counters = _counters(self._who, self._limits, recipients)
        counts, place = self._ask(client, lambda store: count(store, now, counters))
        if counts.over is not None:
            return self._refuse(self._limits[counts.over], counts.found[counts.over])
        along = _counters(self._who, self._limits, recipients, bounded=False)
        places = [place, *self._tell(client, now, along, range(place + 1, self._places))]
        self._counted = now, counters, places
        return DECLINED

    def queue_failed(self, client: Client, envelope: Envelope) -> None:
        """Take back what was counted for it."""
        if self._counted is None:
            return
        now, counters, places = self._counted
        self._counted = None
        for counter in counters:
            counter.amount = -counter.amount
        # Where that cannot be, it is counted too much until it leaves the window.
        self._tell(client, now, counters, places)

    def _begin(self, client: Client, envelope: Envelope) -> None:
        """Another transaction: who is it now, and what is counted for them?"""
        self._envelope = envelope
        self._logged = False
        self._counted = None
        self._who, self._limits = self._plugin.rules.of(client)
        self._found = []
        if not self._limits:
            return
        now, counters = int(time()), _counters(self._who, self._limits, 0)
        self._found, _ = self._ask(client, lambda store: look(store, now, counters))

    @property
    def _places(self) -> int:
        """How many places there are with counts: the last is this process."""
        return len(self._plugin.stores) + 1

    def _ask(self, client: Client, question: Callable[[Store], T]) -> tuple[T, int]:
        """What the first says that can, and its place."""
        for place, store in enumerate(self._plugin.stores):
            try:
                return store.ask(client, question), place
            except Unavailable:
                pass
        return question(_memory), self._places - 1

    def _tell(
        self, client: Client, now: int, counters: Sequence[Counter], places: Iterable[int]
    ) -> list[int]:
        """Count at these places; at which that could be done."""
        told = []
        for place in places:
            try:
                if place == self._places - 1:
                    count(_memory, now, counters)
                else:
                    store = self._plugin.stores[place]
                    store.ask(client, lambda store: count(store, now, counters), quiet=True)
                told.append(place)
            except Unavailable:
                pass
        return told

    def _refuse(self, limit: Limit, found: Counted) -> Decision:
        if not self._logged:
            self._logged = True
            self._plugin.log(
                who=self._who, limit=limit.text, count=found.value, left=found.left or None
            )
        return self._plugin.refusal(limit)


def _amount(limit: Limit, recipients: int) -> int:
    """What a message to so many adds to the count of this limit."""
    return 1 if limit.kind == MESSAGES else recipients


def _counters(
    who: bytes, limits: Sequence[Limit], recipients: int, bounded: bool = True
) -> list[Counter]:
    """What a message of theirs to so many recipients is counted by."""
    return [
        Counter(
            counter_name(limit.kind, who),
            limit.span,
            _amount(limit, recipients),
            limit.most if bounded else None,
        )
        for limit in limits
    ]


def counter_name(kind: bytes, who: bytes) -> bytes:
    """The name under which messages, or recipients, are counted for them."""
    return who + b"\0" + kind
