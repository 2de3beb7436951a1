"""What a filter asks the DNS by.

    self._dns = Dns(settings)                                       # where it is made
    (mx,) = self._dns.ask(client, (b"example.org", "MX"))           # in a hook
    if mx.trouble:
        return self._dns.undecided(mx)
    if not mx.records: ...

Nothing of what asks is imported before somebody asks.
"""

from __future__ import annotations

from ...decision import DECLINED, Decision, defer
from .settings import DnsSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...config.settings import PluginSettings
    from ...facts import Client
    from .message import Answer
    from .resolver import Resolver

DEFER, PASS = "defer", "pass"
#: In the notes of a client: the resolver of its session.
NOTE = "resolver"
UNDECIDED = defer(b"DNS temporary failure", 451, b"4.4.3")


class Dns:
    """Made when its filter is.  Raises ControlError.

    `usual` is what the filter does where the DNS could not tell: DEFER, or PASS, as if it
    had nothing to say; dnstrouble, or that option of the filter's line, says otherwise.
    """

    __slots__ = ("defers", "_settings", "_log")

    def __init__(self, settings: PluginSettings, usual: str = DEFER) -> None:
        words = (usual, PASS if usual == DEFER else DEFER)
        self.defers = settings.choice("dnstrouble", "DNSTROUBLE", words) == DEFER
        self._settings = DnsSettings(settings.without_options())
        self._log = settings.log

    def ask(self, client: Client, *questions: tuple[bytes, str]) -> list[Answer]:
        """The answers to these, as Resolver.ask() says.  Raises Shutdown."""
        return self.resolver(client).ask(*questions)

    def resolver(self, client: Client) -> Resolver:
        """The one of this client's session: with what it has learnt, and the time it has left."""
        found: Resolver | None = client.notes.get(NOTE)
        if found is None:
            from .resolver import Resolver

            found = client.notes[NOTE] = Resolver(self._settings, client.counters)
        return found

    @property
    def could_not_tell(self) -> Decision:
        """What the filter says where the DNS could not tell."""
        return UNDECIDED if self.defers else DECLINED

    def undecided(self, answer: Answer) -> Decision:
        """The same, of an answer that is trouble; that is logged, once of each."""
        self.log_trouble(answer)
        return self.could_not_tell

    def log_trouble(self, answer: Answer) -> None:
        """Say in the log that the DNS could not tell: once of each answer."""
        if answer.trouble and not answer.logged:
            answer.logged = True
            self._log(dns=answer.trouble, name=answer.name, type=answer.type)
