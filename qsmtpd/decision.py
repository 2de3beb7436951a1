"""What a plugin says of a client, a sender, a recipient or a message."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ACCEPT = "accept"
DECLINE = "decline"  # no opinion: ask the next plugin
REJECT = "reject"  # for good: 5xx
DEFER = "defer"  # for now: 4xx
DROP = "drop"  # reply, and close the connection
REFUSALS = (REJECT, DEFER, DROP)

#: The first digits of the codes that a verdict may have.
_CLASSES = {ACCEPT: b"2", DECLINE: b"", REJECT: b"5", DEFER: b"4", DROP: b"45"}
_NAME = frozenset(range(33, 127)) - frozenset(b":")


class Decision:
    """One verdict.  Raises ValueError where it makes no sense.

    `text` is the reply without code and status, `code` its code (0: what is
    usual at that stage), `status` its enhanced status as in b"5.7.1" (RFC
    3463; b"": the usual one), which the reply shows as `(#5.7.1)`.  Of a
    `decline`, the text is for the log alone.

    `header` are lines for the header of the message, without their LF;
    `recipient`, at the stage rcpt, replaces the recipient that was asked about.
    """

    __slots__ = ("verdict", "text", "code", "status", "header", "recipient")

    def __init__(
        self,
        verdict: str,
        text: bytes = b"",
        code: int = 0,
        status: bytes = b"",
        header: Iterable[bytes] = (),
        recipient: bytes | None = None,
    ) -> None:
        if verdict not in _CLASSES:
            raise ValueError(f"{verdict!r} is no verdict")
        if code and not (200 <= code < 600 and b"%d" % (code // 100) in _CLASSES[verdict]):
            raise ValueError(f"{code} is no code for {verdict}")
        if not isinstance(text, bytes) or not isinstance(status, bytes):
            raise ValueError("text and status are bytes")
        if status and (len(status) > 11 or not all(map(bytes.isdigit, status.split(b".")))):
            raise ValueError(f"{status!r} is no status, as 5.7.1 is one")
        if isinstance(header, bytes | str):
            raise ValueError("header is a list of lines")
        self.verdict = verdict
        self.text = text
        self.code = code
        self.status = status
        self.header = tuple(header)
        self.recipient = recipient
        for line in self.header:
            check_header_line(line)
        if recipient is not None and (b"\0" in recipient or b"\n" in recipient):
            raise ValueError("a recipient holds neither NUL nor LF")


def check_header_line(line: bytes) -> None:
    """A line `Name: text` (RFC 5322, 2.2), folded or not; else ValueError.

    It may hold LF only where a space or TAB follows, and neither CR nor NUL.
    """
    name, colon, text = line.partition(b":")
    if not colon or not name or not _NAME.issuperset(name):
        raise ValueError(f"{line!r} is no header line")
    folds = text.split(b"\n")[1:]
    if b"\r" in text or b"\0" in text or any(not fold.strip(b" \t") for fold in folds):
        raise ValueError(f"{line!r} would break the header")
    if any(fold[0] not in b" \t" for fold in folds):
        raise ValueError(f"{line!r} would be two lines")


DECLINED = Decision(DECLINE)
ACCEPTED = Decision(ACCEPT)


def decline(reason: bytes = b"", header: Iterable[bytes] = ()) -> Decision:
    """No opinion; `reason` is for the log, where nobody else grants either."""
    return Decision(DECLINE, reason, header=header)


def accept(
    text: bytes = b"", recipient: bytes | None = None, header: Iterable[bytes] = ()
) -> Decision:
    """Take it, and ask no other plugin.

    At the stage rcpt the others are asked all the same, and only the built-in
    relay and rcpthosts grant by this; `recipient`, if given, is what goes on.
    """
    return Decision(ACCEPT, text, recipient=recipient, header=header)


def reject(text: bytes, code: int = 0, status: bytes = b"") -> Decision:
    """Refuse for good: with this 5xx code, or the usual one."""
    return Decision(REJECT, text, code, status)


def defer(text: bytes, code: int = 0, status: bytes = b"") -> Decision:
    """Refuse for now: with this 4xx code, or the usual one."""
    return Decision(DEFER, text, code, status)


def drop(text: bytes, code: int = 0, status: bytes = b"") -> Decision:
    """Reply (421 unless another code is given) and close the connection."""
    return Decision(DROP, text, code, status)
