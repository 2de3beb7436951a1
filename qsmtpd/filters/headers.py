"""headers: what the header of a message must have, and what it may have once.

Configuration, each on by itself:
control/requiredheaders or REQUIREDHEADERS, the lines that there must be; a list
that is empty stands for From and Date (RFC 5322, 3.6).
control/singleheaders or SINGLEHEADERS, the lines of which there may be only
one; a list that is empty stands for those of RFC 5322, 3.6.
The names in a variable are separated by spaces or commas; `-` alone is none at
all.
control/datepast or DATEPAST, control/datefuture or DATEFUTURE: how many days
the Date may lie in the past or the future.
Clients that may relay or have authenticated are not asked: what they lack is
for a submission server to add.
Replies: `554 message lacks a From line (#5.6.0)`, `554 message has more than
one From line (#5.6.0)`, `554 message has a Date that is no date (#5.6.0)`, `554
message is dated too far in the past (#5.6.0)` (or future); `554 message header
is too long to be checked (#5.6.0)` where it does not end in time.
Log keys: by=headers.
"""

from __future__ import annotations

from time import time

from ..config.settings import shown
from ..decision import DECLINED, Decision, reject
from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope, Message

REQUIRED = (b"From", b"Date")
SINGLE = (
    b"Date",
    b"From",
    b"Sender",
    b"Reply-To",
    b"To",
    b"Cc",
    b"Bcc",
    b"Message-ID",
    b"In-Reply-To",
    b"References",
    b"Subject",
)
STATUS = b"5.6.0"
#: RFC 5322 has more in names of header lines, but there it is a typing error.
_NAME = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
DAY = 86400  # seconds


class Plugin:
    """Refuses messages whose header is not as it should be.  Raises ControlError."""

    __slots__ = ("_required", "_single", "_past", "_future")
    immune = ("relay", "auth")

    def __init__(self, settings: Settings) -> None:
        self._required = _names(settings, "requiredheaders", "REQUIREDHEADERS", REQUIRED)
        self._single = _names(settings, "singleheaders", "SINGLEHEADERS", SINGLE)
        # -1: not set
        self._past = settings.number("datepast", "DATEPAST", -1)
        self._future = settings.number("datefuture", "DATEFUTURE", -1)

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        found: dict[bytes, int] = {}
        for name, _ in message.header:
            name = name.lower()
            found[name] = found.get(name, 0) + 1
        for name in self._single:
            if found.get(name.lower(), 0) > 1:
                return _refuse(b"message has more than one %b line" % name)
        if not message.whole_header and (self._required or self._single):
            return _refuse(b"message header is too long to be checked")
        for name in self._required:
            if name.lower() not in found:
                return _refuse(b"message lacks a %b line" % name)
        if self._past >= 0 or self._future >= 0:
            return self._dated(message)
        return DECLINED

    def _dated(self, message: Message) -> Decision:
        from ..smtp.date import parse_date

        now = time()
        for value in message.values(b"date"):
            date = parse_date(value)
            if date is None:
                return _refuse(b"message has a Date that is no date")
            if 0 <= self._past < (now - date) / DAY:
                return _refuse(b"message is dated too far in the past")
            if 0 <= self._future < (date - now) / DAY:
                return _refuse(b"message is dated too far in the future")
        return DECLINED


def _refuse(text: bytes) -> Decision:
    return reject(text, 554, STATUS)


def _names(
    settings: Settings, file: str, variable: str, default: tuple[bytes, ...]
) -> tuple[bytes, ...]:
    """The names of a list that may be empty, or () where there is none."""
    value = settings.line(None, variable)
    names = settings.lines(file) if value is None else value.replace(b",", b" ").split()
    if names is None or names == [b"-"]:
        return ()
    for name in names:
        if name.translate(None, _NAME):
            what = "is no name of a header line"
            if value is None:
                raise settings.bad_entry(file, name, what)
            raise ControlError(variable, f"{shown(name)} {what}")
    return tuple(names) or default
