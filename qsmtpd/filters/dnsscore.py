"""dnsscore: what lists in the DNS say of somebody, and how much that counts.

What dnsbl and rhsbl share; dnslist.py has the lines of their files.

A list that has what no list may have, 127.0.0.1 or INVALID (RFC 5782, 5), lists
everything, as one may that has been given up: before anybody is refused, those that
list him are asked about that, too.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..net.dns.lookup import PASS, UNDECIDED, Dns
from .dnslist import Entry, entries, is_error
from .said import said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..config.settings import PluginSettings
    from ..facts import Client
    from ..net.dns.message import Answer

    #: What is asked for in front of a zone, and what a reply calls it.
    Subject = tuple[bytes, bytes]

NAME_LIMIT, ZONES_LIMIT = 255, 100  # bytes: of names in a reply


class Finding:
    """What the lists say: the `zones` that list somebody, and their `score` in all."""

    __slots__ = ("zones", "score", "decision")

    def __init__(self, zones: Sequence[bytes], score: int, decision: Decision) -> None:
        self.zones = tuple(zones)
        self.score = score
        self.decision = decision


NOTHING = Finding((), 0, DECLINED)


class Lists:
    """The lists of a filter, and from which score on it refuses.  Raises ControlError.

    `file` is the control file, `threshold` the setting; the variable of that is the
    same in capitals.
    """

    __slots__ = ("_entries", "_threshold", "_dns", "_log")

    def __init__(self, settings: PluginSettings, file: str, threshold: str) -> None:
        self._entries = entries(settings, file)
        self._threshold = settings.number(threshold, threshold.upper(), 1)
        self._dns = Dns(settings, PASS)
        self._log = settings.log

    def judge(self, client: Client, subjects: Sequence[Subject], never: bytes) -> Finding:
        """Ask all lists at once about each of the subjects; `never` is what no list has."""
        if not self._entries or not subjects:
            return NOTHING
        inquiry = _Inquiry(self._dns, client, self._log)
        inquiry.ask(self._entries, subjects)
        if self._refuses(inquiry.against):
            inquiry.doubt(never)
        decision = DECLINED
        if self._refuses(inquiry.least):
            decision = reject(inquiry.text(), 553, b"5.7.1")
        elif self._refuses(inquiry.most) and self._dns.defers:
            decision = UNDECIDED
        finding = Finding(inquiry.zones, inquiry.score, decision)
        if finding.zones:
            self._log(listed=b",".join(finding.zones), score=finding.score)
        return finding

    def _refuses(self, score: int) -> bool:
        return 0 < self._threshold <= score


class _Inquiry:
    """What the lists answer.  Entries are those that list somebody, with whom they list,
    and those that could not be asked."""

    __slots__ = ("_dns", "_client", "_log", "_listed", "_unsure", "_texts")

    def __init__(self, dns: Dns, client: Client, log: Callable[..., None]) -> None:
        self._dns = dns
        self._client = client
        self._log = log
        self._listed: list[tuple[Entry, Subject]] = []
        self._unsure: list[Entry] = []
        self._texts: dict[bytes, Answer] = {}

    @property
    def zones(self) -> list[bytes]:
        """Those that list somebody, in the order of their lines."""
        return list(dict.fromkeys(entry.zone for entry, _ in self._listed))

    @property
    def score(self) -> int:
        """What the listings count."""
        return sum(entry.weight for entry, _ in self._listed)

    @property
    def against(self) -> int:
        """What those count that speak against who is listed."""
        return sum(max(entry.weight, 0) for entry, _ in self._listed)

    @property
    def least(self) -> int:
        """The least that the score can be, whatever those say that could not be asked."""
        return self.score + sum(min(entry.weight, 0) for entry in self._unsure)

    @property
    def most(self) -> int:
        """The most that it can be."""
        return self.score + sum(max(entry.weight, 0) for entry in self._unsure)

    def ask(self, entries: Sequence[Entry], subjects: Sequence[Subject]) -> None:
        """Who is listed?"""
        pairs = dict.fromkeys((entry.zone, subject) for entry in entries for subject in subjects)
        asked = [(name + b"." + zone, "A") for zone, (name, _) in pairs]
        answers = dict(zip(pairs, self._dns.ask(self._client, *asked), strict=True))
        for (zone, _), answer in answers.items():
            self._complain(zone, answer)
        for entry in entries:
            for subject in subjects:
                if any(map(entry.holds, answers[entry.zone, subject].records)):
                    self._listed.append((entry, subject))
                    break
            else:
                if any(answers[entry.zone, subject].trouble for subject in subjects):
                    self._unsure.append(entry)

    def doubt(self, never: bytes) -> None:
        """Forget those that list everything; and ask the others what they say to who is listed."""
        counting = [(entry, name) for entry, (name, _) in self._listed if entry.weight]
        tests = {entry.zone: (never + b"." + entry.zone, "A") for entry, _ in counting}
        texts = {e.zone: (name + b"." + e.zone, "TXT") for e, name in counting if e.weight > 0}
        answers = self._dns.ask(self._client, *tests.values(), *texts.values())
        tested = dict(zip(tests, answers, strict=False))
        self._texts = dict(zip(texts, answers[len(tests) :], strict=True))
        kept = []
        for entry, subject in self._listed:
            if entry.zone in tested and any(map(entry.holds, tested[entry.zone].records)):
                self._log(zone=entry.zone, error="lists everything")
            else:
                kept.append((entry, subject))
        self._listed = kept

    def text(self) -> bytes:
        """A reply for who is refused: what is listed, where, and what the first list says."""
        against = [(entry, subject) for entry, subject in self._listed if entry.weight > 0]
        zones = dict.fromkeys(entry.zone for entry, _ in against)
        entry, (_, shown) = against[0]
        text = b"sorry, %b is listed by %b" % (
            said(shown, NAME_LIMIT),
            b", ".join(zones)[:ZONES_LIMIT],
        )
        texts = self._texts[entry.zone].records
        return text + b": " + said(texts[0]) if texts and texts[0] else text

    def _complain(self, zone: bytes, answer: Answer) -> None:
        """Say in the log what a list answers that says nothing of who was asked about."""
        error = next(filter(is_error, answer.records), None)
        if error is not None:
            self._log(zone=zone, answer=error, error="is no listing")
        self._dns.log_trouble(answer)
