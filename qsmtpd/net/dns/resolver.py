"""The resolver of a session: what all of its filters ask (by lookup.py), and what they learnt.

A session has one, in the notes of its client.  It has so much time for one command, of
all filters together, and so much for the whole session; then the answer is that it could
not tell.  Only waits count.
"""

from __future__ import annotations

from time import monotonic

from .exchange import TIMEOUT, Exchange
from .message import Answer, Question, domain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...facts import Counters
    from .settings import DnsSettings

#: How long an answer is kept, and that there was none (seconds).
KEPT, TROUBLE_KEPT = 300.0, 30.0
CACHE_LIMIT = 1000  # answers


class Resolver:
    """Asks the DNS for one session."""

    def __init__(self, settings: DnsSettings, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._servers = settings.servers()
        self._first = 0
        self._left = settings.session
        self._command, self._command_left = -1, 0.0
        #: (name, type) -> the answer, and until when it is kept
        self._known: dict[tuple[bytes, str], tuple[Answer, float]] = {}

    def ask(self, *questions: tuple[bytes, str]) -> list[Answer]:
        """The answers to all of these, in their order; they are asked at once.

        A question is a name and one of message.TYPES.  Of what is no name the answer is
        that there is none, and nobody is asked.  Raises Shutdown.
        """
        now = monotonic()
        answers: dict[tuple[bytes, str], Answer] = {}
        unknown = []
        for asked in questions:
            if asked in answers:
                continue
            text, type = asked
            name = domain(text)
            if name is None:
                answers[asked] = Answer(text, type, no_name=True)
                continue
            answer, until = self._known.get((name, type), (None, 0.0))
            if answer is None or until < now:
                unknown.append((asked, Question(name, type)))
            else:
                answers[asked] = answer
        if unknown:
            found = self._exchange([question for _, question in unknown], now)
            for (asked, _), answer in zip(unknown, found, strict=True):
                answers[asked] = answer
        return [answers[asked] for asked in questions]

    def _exchange(self, questions: list[Question], now: float) -> list[Answer]:
        if self._command != self._counters.commands:
            self._command = self._counters.commands
            self._command_left = self._settings.timeout
        seconds = min(self._left, self._command_left)
        exchange = Exchange(self._servers, now + seconds, self._first)
        found = exchange.ask(questions) if seconds > 0 else [q.troubled(TIMEOUT) for q in questions]
        self._first = exchange.first
        after = monotonic()
        self._left -= after - now
        self._command_left -= after - now
        if len(self._known) > CACHE_LIMIT:
            self._known.clear()
        for answer in found:
            until = after + (TROUBLE_KEPT if answer.trouble else KEPT)
            self._known[answer.name, answer.type] = answer, until
        return found
