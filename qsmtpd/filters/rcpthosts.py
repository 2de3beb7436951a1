"""rcpthosts: the domains that we take mail for.

Configuration: control/rcpthosts, one entry a line: `example.org` is that
domain, `.example.org` are all domains below it; case does not matter.  More
entries, as keys, in control/morercpthosts.cdb, which is read only where there
is a rcpthosts.  A recipient without a domain is local, and always taken.
Replies: none of its own; whom nobody accepts gets `553 sorry, that domain isn't
in my list of allowed rcpthosts (#5.7.1)`.  That is everybody where there is no
rcpthosts at all: qmail-smtpd would then relay for the whole world.
Log keys: by="rcpthosts: not listed", by="rcpthosts: the file is missing".
"""

from __future__ import annotations

from ..decision import ACCEPTED, Decision, decline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope


NOT_LISTED = decline(b"not listed")
NO_FILE = decline(b"the file is missing")


class Domains:
    """The domains of rcpthosts and morercpthosts.cdb.  Raises ControlError."""

    __slots__ = ("listed", "_more")

    def __init__(self, settings: Settings) -> None:
        entries = settings.lines("rcpthosts")
        #: None where there is no rcpthosts.
        self.listed = None if entries is None else frozenset(e.lower() for e in entries)
        self._more = None if entries is None else settings.cdb("morercpthosts.cdb")

    def __contains__(self, domain: bytes) -> bool:
        """Is this domain, in lower case, one of ours?"""
        if self.listed is None or len(domain) > 255:  # RFC 5321, 4.5.3.1.2
            return False
        names = [domain]
        while (dot := domain.find(b".", 1)) >= 0:
            domain = domain[dot:]
            names.append(domain)
        if any(name in self.listed for name in names):
            return True
        return self._more is not None and any(name in self._more for name in names)


class Plugin:
    """Accepts the recipients of our domains.  Raises ControlError."""

    __slots__ = ("_domains",)

    def __init__(self, settings: Settings) -> None:
        self._domains = Domains(settings)

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if self._domains.listed is None:
            return NO_FILE
        _, at, domain = recipient.rpartition(b"@")
        if not at or domain.lower() in self._domains:
            return ACCEPTED
        return NOT_LISTED
