"""The probe: what a check has of the server."""

from __future__ import annotations

from . import connection
from .connection import Connection
from .dialogue import CONTROL, Dialogue
from .errors import CouldNotTest
from .evidence import Evidence
from .protocol import Reply
from .target import Target


class Probe:
    """One check's view of the server: new sessions, and evidence of all of them.

    `control` is how the server answers CONTROL inside TLS if nobody interferes;
    what it answers after an injection is compared with that.
    """

    def __init__(self, target: Target, control: list[Reply]) -> None:
        self.target = target
        self.control = control
        self.evidence = Evidence()
        self._links: list[Connection] = []

    @property
    def surplus(self) -> int:
        """How many replies the server sends inside TLS that nobody asked for."""
        return max(0, len(self.control) - len(CONTROL))

    def extra(self, replies: list[Reply]) -> int:
        """How many replies to CONTROL these are beyond what it usually gives.

        The surplus is not among them: start_tls() has taken it.
        """
        return len(replies) + self.surplus - len(self.control)

    def greeted(self) -> Dialogue:
        """A new session, its greeting read.  Raises CouldNotTest or Trouble."""
        target = self.target
        target.pace.wait()
        if self._links:
            self.evidence.note("a new connection")
        link = connection.connect(target.host, target.port, self.evidence, target.timeout)
        self._links.append(link)
        dialogue = Dialogue(target, link, self.surplus)
        greeting = dialogue.reply()
        if greeting.code != 220:
            raise CouldNotTest(f"it greets with {greeting}")
        return dialogue

    def offered(self) -> Dialogue:
        """A new session in which STARTTLS is announced.  Raises CouldNotTest or Trouble."""
        dialogue = self.greeted()
        dialogue.offer()
        return dialogue

    def secured(self) -> Dialogue:
        """A new session inside TLS, nothing said there yet.  Raises CouldNotTest or Trouble."""
        dialogue = self.offered()
        dialogue.secure()
        return dialogue

    def close(self) -> None:
        """Close all its sessions."""
        for link in self._links:
            link.close()
