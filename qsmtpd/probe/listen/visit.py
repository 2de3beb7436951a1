"""What a client did, over all the connections of one scenario."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Visit:
    """The facts that a scenario is judged by.

    `handshake` is "" before any, else DONE or why it failed.
    """

    connections: int = 0
    hello_in_clear: bool = False
    starttls: bool = False
    handshake: str = ""
    mail_in_clear: bool = False
    password_in_clear: bool = False
    hello_in_tls: bool = False
    mail_in_tls: bool = False
    password_in_tls: bool = False
    #: It said anything inside TLS but QUIT: it went on.
    talked_in_tls: bool = False
    #: It went on inside TLS before it had an answer.
    hasty: bool = False
    #: The commands in their order, and "TLS" where it began.
    steps: list[str] = field(default_factory=list)

    @property
    def gave(self) -> bool:
        """Did anybody get mail or a password?"""
        return (
            self.mail_in_clear or self.password_in_clear or self.mail_in_tls or self.password_in_tls
        )


DONE = "done"
