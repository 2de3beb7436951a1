"""Which addresses send a PROXY header, and how it is taken (see proxy.py).

Who is named has to send one, as its first bytes; from nobody else is one taken.
"""

from __future__ import annotations

from ..config.settings import shown
from ..facts import ControlError
from .addresslist import WHAT, AddressList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings

FILE, VARIABLE = "proxyhosts", "PROXYHOSTS"


class ProxySettings:
    """The settings.  Raises ControlError.

    The whole header has to come within `timeout` seconds.  `rules` is the path of the
    cdb in which a cold child finds the client's rule, as it is set, or None.  `tls`: what
    the header says of TLS between the client and who sends it counts.  `everybody`: some
    entry names all addresses of a kind; `count`: so many entries there are.
    """

    __slots__ = ("timeout", "rules", "tls", "everybody", "count", "_hosts")

    def __init__(self, settings: Settings) -> None:
        self._hosts = AddressList()
        self._read(settings)
        self.everybody = self._hosts.everybody
        self.count = len(self._hosts)
        self.timeout = settings.number("proxytimeout", "PROXYTIMEOUT", 5, least=1, most=60)
        self.tls = settings.choice("proxytls", "PROXYTLS", ("off", "on")) == "on"
        self.rules = settings.line(None, "PROXYRULES") or None
        if self.rules is not None:
            settings.expect_cdb("PROXYRULES", self.rules)

    def names(self, ip: bytes) -> bool:
        """Does this address, in canonical form, send a header?"""
        return ip in self._hosts

    def _read(self, settings: Settings) -> None:
        listed = settings.line(None, VARIABLE)
        if listed is not None:
            for entry in filter(None, listed.replace(b",", b" ").split(b" ")):
                if not self._hosts.add(entry):
                    raise ControlError(VARIABLE, f"has {shown(entry)}, which {WHAT}")
            return
        for line in settings.lines(FILE) or ():
            if not self._hosts.add(line):
                raise settings.bad_entry(FILE, line, WHAT)
