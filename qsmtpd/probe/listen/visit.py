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
    #: It went on inside TLS before it had an answer.
    hasty: bool = False
    #: The commands in their order, and "TLS" where it began.
    steps: list[str] = field(default_factory=list)


DONE = "done"
