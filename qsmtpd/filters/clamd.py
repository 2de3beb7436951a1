"""clamd: refuses messages in which ClamAV finds a virus.

Configuration: control/clamd, the address of clamd's socket and options, see scan.py and
net/daemonlist.py; of size 25000000 bytes is the default.
All clients are asked about, those that may relay as well.
Header: `X-Virus-Status: Clean`, of what was scanned; such lines from outside are removed.
Replies: `554 message has a virus: NAME (#5.7.1)`; what holds for a message that is larger,
and where clamd gives no answer.
Log keys: by=clamd; server=, with found=, or with result= where there was no answer.
"""

from __future__ import annotations

from ..decision import DECLINED, decline, reject
from ..net import clamd
from .said import said
from .scan import scan, scanners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..facts import Client, Envelope, Message
    from .scan import Scanner

FILE = "clamd"
#: ClamAV's own limit was 25 MB until its version 1.4.
SIZE = 25_000_000
NAME_LIMIT = 100  # bytes
ADDED = {b"X-Virus-*": None}
CLEAN = b"X-Virus-Status: Clean"


class Plugin:
    """Asks clamd about messages.  Raises ControlError."""

    __slots__ = ("_settings", "scanners")
    spool = True
    removes = True

    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self.scanners = scanners(settings, FILE, SIZE)

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        adds = any(scanner.headers for scanner in self.scanners)
        return decline(remove=ADDED) if adds else DECLINED

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        return scan(self._settings, self.scanners, message, self._ask)

    def _ask(self, scanner: Scanner, size: int, parts: Iterator[bytes]) -> Decision:
        listed = scanner.listed
        try:
            found = clamd.scan(listed.address, listed.timeout, parts)
        except clamd.TooLarge:
            self._settings.log(server=listed.name, result="too large for it", size=size)
            return scanner.beyond
        if found is None:
            return decline(header=[CLEAN]) if scanner.headers else DECLINED
        self._settings.log(server=listed.name, found=found)
        return reject(b"message has a virus: " + said(found, NAME_LIMIT), 554, b"5.7.1")
