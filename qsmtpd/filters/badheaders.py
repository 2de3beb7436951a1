"""badheaders: messages by the lines of their header.

Configuration: control/badheaders, a list of lines, patterns and expressions, as of badmailfrom,
of which each is for a whole line, `Name: value`, unfolded, with one space in place of all blanks
between words; the last entry that matches a line decides about it.  A line with encoded words
(RFC 2047) is looked at as it is, and decoded.
Contentaction and contentbeyond: see content.py.
Replies: `554 sorry, a line of the message header is not accepted (#5.7.1)`.
Log keys: by=badheaders; found=, the line; beyond=.
"""

from __future__ import annotations

from ..decision import DECLINED, decline, reject
from .content import REMOVED, Verdict
from .wildmat import Listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..facts import Client, Envelope, Message

FILE = "badheaders"
#: Bytes of a header that are looked at: an entry may take 0.5 ms for a kilobyte.
SIZE_LIMIT = 64 * 1024
REFUSED = reject(b"sorry, a line of the message header is not accepted", 554, b"5.7.1")


class Plugin:
    """Knows messages by their header.  Raises ControlError."""

    __slots__ = ("_listing", "_verdict", "removes")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        entries = settings.lines(FILE)
        self._listing = Listing(settings, FILE, enumerate(entries)) if entries else None
        self._verdict = Verdict(settings)
        self.removes = self._verdict.marks

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        if self._listing is None:
            return DECLINED
        decision = self._judge(self._listing, message)
        if self._verdict.marks and not decision.code:
            return decline(header=decision.header, remove=REMOVED)
        return decision

    def _judge(self, listing: Listing, message: Message) -> Decision:
        size = 0
        for name, value in message.header:
            size += len(name) + len(value)
            if size > SIZE_LIMIT:
                break
            words = b" ".join(value.split())
            for text in (words, *_decoded(words)):
                line = name + b": " + text
                lower = line.lower()
                if listing.last(lower, lower)[1]:
                    return self._verdict.found(line, REFUSED)
        if size > SIZE_LIMIT or not message.whole_header:
            return self._verdict.beyond(b"message header too long")
        return DECLINED


def _decoded(words: bytes) -> list[bytes]:
    """The same with its encoded words decoded, if it has such: one by one, and joined."""
    if b"=?" not in words:
        return []
    from ..smtp.encodedword import decode_words  # now: few lines have them

    return [b" ".join(decode_words(words, joined).split()) for joined in (False, True)]
