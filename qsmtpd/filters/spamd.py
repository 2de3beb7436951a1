"""spamd: shows messages to SpamAssassin, adds what it says to the header, and may refuse them.

Configuration: control/spamd, the address of spamd's socket and options, see scan.py and
net/daemonlist.py, and of this file:
reject: `verdict`, what spamd calls spam is refused; a number, what has so many points;
`never`, the default, nothing.
user: whose preferences hold (spamd's User:); else those of spamd.
Of size 500000 bytes is the default, as of spamc.
Clients that may relay or have authenticated are not asked about.
Header: X-Spam-Status, X-Spam-Level, and X-Spam-Flag for spam; X-Spam- lines from outside are
removed.
Replies: `554 message is spam, with a score of 12.3 (#5.7.1)`; what holds for a message that is
larger, and where spamd gives no answer.
Log keys: by=spamd; server=, with score=, required= and tests=, or with result= where there was
no answer.
"""

from __future__ import annotations

from ..decision import DECLINED, decline, reject
from ..net import spamd
from .scan import NEVER, REJECT, field, scan, scanners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..facts import Client, Envelope, Message
    from ..net.spamd import Verdict
    from .scan import Scanner

FILE = "spamd"
SIZE = 500_000
USER = b"user"
ADDED = {b"X-Spam-*": None}
#: Of X-Spam-Level, as in SpamAssassin.
STARS_LIMIT = 50
#: Bytes of a line of names of rules.
WIDTH = 70


class Plugin:
    """Asks spamd about messages.  Raises ControlError."""

    __slots__ = ("_settings", "scanners")
    spool = True
    removes = True
    immune = ("relay", "auth")

    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self.scanners = scanners(settings, FILE, SIZE, {REJECT: (), USER: ()}, NEVER)

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        adds = any(scanner.headers for scanner in self.scanners)
        return decline(remove=ADDED) if adds else DECLINED

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        def ask(scanner: Scanner, size: int, parts: Iterator[bytes]) -> Decision:
            # Where it came from SpamAssassin learns from the topmost Received line.
            return self._ask(scanner, envelope, len(first) + size, _behind(first, parts))

        first = message.first
        return scan(self._settings, self.scanners, message, ask)

    def _ask(
        self, scanner: Scanner, envelope: Envelope, size: int, parts: Iterator[bytes]
    ) -> Decision:
        listed = scanner.listed
        user = listed.options.get(USER)
        found = spamd.check(listed.address, listed.timeout, size, parts, user)
        envelope.notes[self._settings.plugin] = found
        self._settings.log(
            server=listed.name,
            score=found.score,
            required=found.required,
            tests=b",".join(found.tests),
        )
        if scanner.score is None:
            refused = scanner.rejects and found.spam
        else:
            refused = float(found.score) >= scanner.score
        if refused:
            return reject(b"message is spam, with a score of " + found.score, 554, b"5.7.1")
        return decline(header=_lines(found)) if scanner.headers else DECLINED


def _behind(first: bytes, parts: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from parts


def _lines(found: Verdict) -> list[bytes]:
    """What is added to the header."""
    word = b"Yes" if found.spam else b"No"
    status = b"%b, score=%b required=%b\ntests=" % (word, found.score, found.required)
    width = 0
    for place, test in enumerate(found.tests):
        status += b"," if place else b""
        if width > WIDTH:
            status, width = status + b"\n", 0
        status += test
        width += len(test)
    lines = [field(b"X-Spam-Status", status if found.tests else status + b"none")]
    stars = min(int(float(found.score)), STARS_LIMIT)
    if stars > 0:
        lines.append(b"X-Spam-Level: " + b"*" * stars)
    if found.spam:
        lines.append(b"X-Spam-Flag: YES")
    return lines
