"""greylist: puts off who is not known here until he comes again (RFC 6647).

Configuration: control/greylist or GREYLIST: for how many seconds (300; an empty file or
variable is that; 0: nobody is put off; at most 86400).  Known are the network of the client,
the sender and the recipient together: see greylistkey.py.  More of it:

    greylistwindow    hours after those within which he has to come again: 48
    greylistlifetime  days for which he is known after his last message: 36
    greylistproved    so many that came again, and their network is asked no more: 5; 0: never
    greylistipv4      bits of an address that are its network: 24
    greylistipv6      the same of IPv6: 64
    greylistskip      none; or who is not asked: spf, whose sender's SPF record says pass,
                      fcrdns, whose address has a name that leads back to it, or either
    greylistexempt    clients who are not asked: see clientlist.py
    greylistexemptfrom, greylistexemptto   the same of senders, of recipients: lists as badmailfrom

and REPLY_GREYLIST.  It remembers in the store: see qsmtpd/policy/store.  Where that cannot
say, nobody is put off.
Replies: `451 greylisted, try again in 300 seconds (#4.7.1)` at RCPT; for the null sender,
at DATA, so that who only asks whether an address exists is told.  All recipients of a bounce
have to be known then: one message has one answer.
Log keys: by=greylist; event=plugin with waited and network, of who has come again, or with
store, reason, then.
"""

from __future__ import annotations

from time import time

from ..decision import DECLINED, Decision, defer
from ..policy.store import GREYLIST, Access, Record, Unavailable
from ..smtp.address import spellings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope
    from .clientlist import Clients
    from .wildmat import Listing

#: In the notes of a transaction: somebody has come again in it; a message counts once.
NOTE = "greylist"
HOUR, DAY = 3600, 86400
DELAY, WINDOW, LIFETIME, PROVED = 300, 48, 36, 5
SKIP = ("none", "spf", "fcrdns", "either")
EXEMPT, EXEMPT_FROM, EXEMPT_TO = "greylistexempt", "greylistexemptfrom", "greylistexemptto"


class Terms:
    """For how long somebody has to wait, may wait, and is known (seconds); and `proved`."""

    __slots__ = ("delay", "window", "lifetime", "proved")

    def __init__(self, delay: int, window: int, lifetime: int, proved: int) -> None:
        self.delay = delay
        self.window = window
        self.lifetime = lifetime
        self.proved = proved


class Attempt:
    """What becomes of the records of a network and of those who send from there.

    Of a network, the count is how many have come again.  Of others it is 0 while they
    wait, and 1 when they are known.  After a call, `wait` is for how many seconds more
    they are put off (0: not at all), and `waited` how long one has who has come again now.
    `counts`: who comes again now counts for the network.
    """

    __slots__ = ("wait", "waited", "_terms", "_now", "_counts")

    def __init__(self, terms: Terms, now: int, counts: bool = True) -> None:
        self._terms = terms
        self._now = now
        self._counts = counts
        self.wait = 0
        self.waited: int | None = None

    def __call__(self, records: Sequence[Record | None]) -> Sequence[Record | None]:
        self.wait, self.waited = 0, None
        network, *others = records
        if network is not None and 0 < self._terms.proved <= network.count:
            return [self._used(network), *others]
        others = [self._next(record) for record in others]
        if self.waited is not None and self._counts and self._terms.proved:
            count = 0 if network is None else min(network.count, self._terms.proved)
            network = Record(self._now, count + 1, self._now + self._terms.lifetime)
        return [network, *others]

    def _next(self, record: Record | None) -> Record:
        """What becomes of one that waits, or is known, or neither."""
        terms, now = self._terms, self._now
        if record is not None and record.count:
            return self._used(record)
        if record is None or record.since > now:  # the clock was ahead then
            record = Record(now, 0, now + terms.delay + terms.window)
        left = record.since + terms.delay - now
        if left > 0:
            self.wait = max(self.wait, left)
            return record
        self.waited = now - record.since
        return Record(now, 1, now + terms.lifetime)

    def _used(self, record: Record) -> Record:
        """One that is known, from now on for its lifetime; written once in a while, and no more."""
        ends = self._now + self._terms.lifetime
        if ends - record.ends < self._terms.lifetime // 16:
            return record
        return Record(record.since, record.count, ends)


class Plugin:
    """Puts off who is not known.  Raises ControlError."""

    __slots__ = (
        *("_terms", "_ipv4", "_ipv6", "_by_spf", "_by_name", "_text", "_store", "_log"),
        *("_clients", "_senders", "_recipients"),
    )
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        number = settings.number
        delay = number("greylist", "GREYLIST", 0, most=DAY, empty=DELAY)
        window = number("greylistwindow", "GREYLISTWINDOW", WINDOW, least=1, most=720)
        lifetime = number("greylistlifetime", "GREYLISTLIFETIME", LIFETIME, least=1, most=366)
        proved = number("greylistproved", "GREYLISTPROVED", PROVED, most=1000)
        self._terms = Terms(delay, window * HOUR, lifetime * DAY, proved)
        self._ipv4 = number("greylistipv4", "GREYLISTIPV4", 24, least=8, most=32)
        self._ipv6 = number("greylistipv6", "GREYLISTIPV6", 64, least=16, most=128)
        skip = settings.choice("greylistskip", "GREYLISTSKIP", SKIP)
        self._by_spf, self._by_name = skip in ("spf", "either"), skip in ("fcrdns", "either")
        self._text = settings.worded(b"", "REPLY_GREYLIST")
        self._clients = _clients(settings)
        self._senders = _addresses(settings, EXEMPT_FROM)
        self._recipients = _addresses(settings, EXEMPT_TO)
        self._store = Access(settings, "pass")
        self._log = settings.log

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if not self._terms.delay or not envelope.sender:
            return DECLINED
        return self._judge(client, envelope, [recipient])

    def data(self, client: Client, envelope: Envelope) -> Decision:
        if not self._terms.delay or envelope.sender:
            return DECLINED
        return self._judge(client, envelope, envelope.recipients)

    def _judge(self, client: Client, envelope: Envelope, recipients: Sequence[bytes]) -> Decision:
        senders = spellings(envelope.sender, envelope.utf8)
        if self._is_skipped(client, envelope, senders):
            return DECLINED
        names: dict[bytes, None] = {}  # each once, in their order
        for recipient in recipients:
            spelled = spellings(recipient, envelope.utf8)
            if self._recipients is None or not self._recipients.last_of(spelled)[1]:
                names[_one(spelled)] = None
        if not names:
            return DECLINED
        wait = self._ask(client, envelope, _one(senders), [*names])
        if not wait:
            return DECLINED
        return defer(b"greylisted, try again in %d seconds%b" % (wait, self._text), 451, b"4.7.1")

    def _is_skipped(self, client: Client, envelope: Envelope, senders: tuple[bytes, ...]) -> bool:
        if self._by_name and client.notes.get("fcrdns"):
            return True
        if self._by_spf and (spf := envelope.notes.get("spf")) is not None:
            verdict = spf.mailfrom if envelope.sender else spf.helo
            if verdict is not None and verdict.result == "pass":
                return True
        if self._clients is not None and self._clients.find(client.peer):
            return True
        return self._senders is not None and self._senders.last_of(senders)[1]

    def _ask(self, client: Client, envelope: Envelope, sender: bytes, names: list[bytes]) -> int:
        """For how many seconds more they are put off."""
        from . import greylistkey

        network = greylistkey.network(client.peer.ip, self._ipv4, self._ipv6)
        if network is None:  # it is not known
            return 0
        folded = greylistkey.folded(sender)
        keys = [greylistkey.key(network, folded, name) for name in names]
        keys.insert(0, greylistkey.key(network))
        now = int(time())
        first = NOTE not in envelope.notes
        attempt = Attempt(self._terms, now, first)
        try:
            self._store.ask(client, lambda store: store.update(GREYLIST, keys, now, attempt))
        except Unavailable:
            return 0
        if attempt.waited is not None and first:
            envelope.notes[NOTE] = True
            self._log(waited=attempt.waited, network=network)
        return attempt.wait


def _one(spelled: tuple[bytes, ...]) -> bytes:
    """Of an address in all its spellings, that of a client without SMTPUTF8."""
    return min(spelled, key=lambda address: (sum(byte > 127 for byte in address), address))


def _clients(settings: PluginSettings) -> Clients | None:
    """Those of greylistexempt."""
    entries = settings.lines(EXEMPT)
    if not entries:
        return None
    from .clientlist import Clients

    clients = Clients()
    for entry in entries:
        if problem := clients.add(entry):
            raise settings.bad_entry(EXEMPT, entry, problem)
    return clients


def _addresses(settings: PluginSettings, file: str) -> Listing | None:
    """A list of addresses."""
    entries = settings.lines(file)
    if not entries:
        return None
    from .wildmat import Listing

    return Listing(settings, file, enumerate(entries))
