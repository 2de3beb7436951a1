"""What a plugin says of a client, a sender, a recipient or a message."""

from __future__ import annotations

ACCEPT = "accept"
DECLINE = "decline"  # no opinion: ask the next plugin
REJECT = "reject"  # for good: 5xx
DEFER = "defer"  # for now: 4xx
DROP = "drop"  # for now, and close the connection: 421


class Decision:
    """One verdict.  `text` is the reply without its code, e.g. b"no (#5.7.1)".

    `recipient` may replace the recipient that was asked about.
    """

    __slots__ = ("verdict", "text", "code", "recipient")

    def __init__(
        self,
        verdict: str,
        text: bytes = b"",
        code: int = 0,
        recipient: bytes | None = None,
    ) -> None:
        self.verdict = verdict
        self.text = text
        self.code = code
        self.recipient = recipient


DECLINED = Decision(DECLINE)


def decline(reason: bytes) -> Decision:
    """No opinion; `reason` is for the log, where nobody else grants either."""
    return Decision(DECLINE, reason)


def accept(recipient: bytes | None = None) -> Decision:
    """Take it; `recipient`, if given, is what goes into the envelope."""
    return Decision(ACCEPT, recipient=recipient)


def reject(text: bytes, code: int = 550) -> Decision:
    """Refuse for good, with this 5xx code."""
    return Decision(REJECT, text, code)


def defer(text: bytes, code: int = 451) -> Decision:
    """Refuse for now, with this 4xx code."""
    return Decision(DEFER, text, code)


def drop(text: bytes, code: int = 421) -> Decision:
    """Reply and close the connection."""
    return Decision(DROP, text, code)
