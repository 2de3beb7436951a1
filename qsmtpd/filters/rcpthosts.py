"""rcpthosts: the domains that we take mail for.

Configuration: control/rcpthosts, one entry a line: `example.org` is that
domain, `.example.org` are all domains below it; case does not matter.  More
entries, as keys, in control/morercpthosts.cdb, which is read only where there
is a rcpthosts.  A recipient without a domain is local, and always taken.
With SMTPUTF8 (RFC 6531) a domain matches in either of its forms, with U-labels
or with A-labels, and goes on in the one that is listed: whoever delivers the
mail has to know it as one of his own.
Replies: none of its own; whom nobody accepts gets `553 sorry, that domain isn't
in my list of allowed rcpthosts (#5.7.1)`.  That is everybody where there is no
rcpthosts at all: qmail-smtpd would then relay for the whole world.
Log keys: by="rcpthosts: not listed", by="rcpthosts: the file is missing".
"""

from __future__ import annotations

from ..decision import ACCEPTED, Decision, accept, decline
from ..smtp.address import entry_forms, forms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope


NOT_LISTED = decline(b"not listed")
NO_FILE = decline(b"the file is missing")


class Domains:
    """The domains of rcpthosts and morercpthosts.cdb.  Raises ControlError."""

    __slots__ = ("listed", "_more", "_folded")

    def __init__(self, settings: Settings) -> None:
        entries = settings.lines("rcpthosts")
        #: None where there is no rcpthosts.
        self.listed = None if entries is None else frozenset(e.lower() for e in entries)
        #: {an entry in lower case and normalization form C: as it is}, once it is wanted
        self._folded: dict[bytes, bytes] | None = None
        self._more = None if entries is None else settings.cdb("morercpthosts.cdb")

    def __contains__(self, domain: bytes) -> bool:
        """Is this domain, in lower case, one of ours?"""
        if self.listed is None or len(domain) > 255:  # RFC 5321, 4.5.3.1.2
            return False
        names = _names(domain)
        if not self.listed.isdisjoint(names):
            return True
        return self._more is not None and any(name in self._more for name in names)

    def find(self, domain: bytes, utf8: bool) -> bytes | None:
        """The form in which this domain is one of ours, in lower case; None where it is none.

        `utf8` is the envelope's.  What is listed as it is written comes first.
        """
        if not utf8:
            domain = domain.lower()
            return domain if domain in self else None
        given = forms(domain, utf8)
        found = next((form for form in given if form in self), None)
        if found is not None or self.listed is None:
            return found
        if self._folded is None:
            foreign = (entry for entry in self.listed if not entry.isascii())
            self._folded = {form: entry for entry in foreign for form in entry_forms(entry)[1:]}
        for form in given:
            for name in _names(form):
                if name in self._folded:
                    return form.removesuffix(name) + self._folded[name]
        return None


def _names(domain: bytes) -> list[bytes]:
    """The entries that a domain matches: itself, and the ends of it that begin with a dot."""
    names = [domain]
    while (dot := domain.find(b".", 1)) >= 0:
        domain = domain[dot:]
        names.append(domain)
    return names


class Plugin:
    """Accepts the recipients of our domains.  Raises ControlError."""

    __slots__ = ("_domains",)

    def __init__(self, settings: Settings) -> None:
        self._domains = Domains(settings)

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if self._domains.listed is None:
            return NO_FILE
        box, at, domain = recipient.rpartition(b"@")
        if not at:
            return ACCEPTED
        found = self._domains.find(domain, envelope.utf8)
        if found is None:
            return NOT_LISTED
        if found == domain.lower():
            return ACCEPTED
        return accept(recipient=box + at + found)
