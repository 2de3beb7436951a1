"""badattachments: attachments by the names of their files.

Configuration: control/badattachments, a list of names, patterns and expressions, as of
badmailfrom, of which each is for a whole name; the last entry that matches decides.
A name is each that a reader of the message, or the system that has its file, may see: see
qsmtpd-filters(5).
Contentaction and contentbeyond: see content.py.
Replies: `554 sorry, attachments of this kind are not accepted: NAME (#5.7.1)`.
Log keys: by=badattachments; found=, the name; beyond=.
"""

from __future__ import annotations

from ..decision import reject
from ..smtp.address import entry_forms
from .content import SHOWN_LIMIT, ContentFilter, Watcher
from .said import said
from .wildmat import Listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..smtp.mime import MimeScanner

FILE = "badattachments"


class Plugin(ContentFilter):
    """Knows attachments by their names.  Raises ControlError."""

    __slots__ = ("_listing",)

    def __init__(self, settings: PluginSettings) -> None:
        entries = settings.lines(FILE)
        self._listing = Listing(settings, FILE, enumerate(entries)) if entries else None
        super().__init__(settings)

    def _is_on(self) -> bool:
        return self._listing is not None

    def _watch(self, scanner: MimeScanner) -> Watcher:
        assert self._listing is not None
        return _Names(self._listing)


class _Names(Watcher):
    __slots__ = ("_listing",)

    def __init__(self, listing: Listing) -> None:
        self._listing = listing

    def found(self, scanner: MimeScanner) -> tuple[bytes, Decision] | None:
        for name in sorted(scanner.names, key=_likeliness):
            if any(self._listing.last(form, form)[1] for form in entry_forms(name)):
                shown = said(name, SHOWN_LIMIT)
                text = b"sorry, attachments of this kind are not accepted: " + shown
                return name, reject(text, 554, b"5.7.1")
        return None


def _likeliness(name: bytes) -> tuple[bool, int, bytes]:
    """In which order names are shown: the shortest has least around it that few readers see.

    But what begins with a dot may be the last piece of one.
    """
    return name.startswith(b"."), len(name), name
