"""What a protocol is for the code around it: one class for SMTP, one for QMTP, one for QMQP."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from ..config.session import SessionSettings
    from ..config.settings import Settings
    from ..facts import Reply, Tls
    from .ending import Ending

    class Clients(Protocol):
        """Addresses, as `address in clients`."""

        def __contains__(self, ip: bytes, /) -> bool: ...

    class Report(Protocol):
        """That of `--check`: see diagnose/report.py."""

        def wrong(self, what: str, problem: str) -> None: ...
        def warn(self, what: str, problem: str) -> None: ...


class Conversation:
    """A protocol, as it is spoken with one client; the class alone is the protocol.

    `name` is what a Received line calls it, and the log, of all but SMTP.  `at_once`: a
    client is for a process of qsmtpd-server from the beginning.  `asks_passwords`: there is
    AUTH, so that a program has checkpassword's arguments; `explained`: --explain walks
    through it; `relays`: whoever is served may send to anybody.
    """

    name = b"SMTP"
    at_once = asks_passwords = explained = relays = False

    def __init__(self, session: Any, tls: Tls | None) -> None:
        """`session` is that of run.py, `tls` the encryption that there is already."""
        raise NotImplementedError

    @staticmethod
    def clients(lookup: Settings) -> Clients | None:
        """The addresses that it is for; None where it is for all.  Raises ControlError."""
        return None

    @staticmethod
    def check(report: Report, lookup: Settings, settings: SessionSettings) -> None:
        """Say what is wrong for this protocol alone.  Raises ControlError."""

    @staticmethod
    def greeting(settings: SessionSettings) -> bytes:
        """What the server says first; b"" where that is nothing."""
        return b""

    @staticmethod
    def text(reply: Reply) -> bytes:
        """A reply in the words of this protocol, for the log."""
        return reply.wire()

    @staticmethod
    def alone(reply: Reply) -> bytes:
        """What is sent to say this to a client without a session; b"" where that cannot be."""
        return b""

    def converse(self) -> Ending:
        """Until one side has enough: why it ends.  The last reply is not sent here.

        Raises what ending_of() knows, and what it does not.
        """
        raise NotImplementedError

    def in_form(self, reply: Reply) -> Reply:
        """A last reply that it has not found itself, as this session says it."""
        return reply

    def goodbye(self, reply: Reply) -> bytes:
        """What is sent to say it."""
        return self.alone(reply)

    def end(self, last: Reply | None) -> None:
        """It is over, with this last reply if there was one: tell the plugins."""
