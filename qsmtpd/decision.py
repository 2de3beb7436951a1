"""What a plugin says of a client, a sender, a recipient or a message; and what becomes of it.

A plugin returns a Decision; with whose it is and about what, it is a Ruling; what the client is
told is a Reply.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import BinaryIO, Protocol

    #: Which header fields of a message are to go: see Decision.
    Removals = Mapping[bytes, Callable[[bytes], bool] | None]

    class Spool(Protocol):
        """A file of message.replacement(): see qsmtpd.policy.spool.Spool."""

        size: int  # bytes written to it

        def write(self, text: bytes) -> None: ...
        def reader(self) -> BinaryIO: ...
        def close(self) -> None: ...


NOTHING: Removals = {}

ACCEPT = "accept"
DECLINE = "decline"  # no opinion: ask the next plugin
REJECT = "reject"  # for good: 5xx
DEFER = "defer"  # for now: 4xx
DROP = "drop"  # reply, and close the connection
DISCARD = "discard"  # at data_post: say 250, and queue nothing
REFUSALS = (REJECT, DEFER, DROP)

#: The first digits of the codes that a verdict may have.
_CLASSES = {ACCEPT: b"2", DECLINE: b"", REJECT: b"5", DEFER: b"4", DROP: b"45", DISCARD: b""}
_NAME = frozenset(range(33, 127)) - frozenset(b":")


def is_status(text: bytes) -> bool:
    """Is it an enhanced status code, as 5.7.1 (RFC 3463, 2)?"""
    kind, *numbers = text.split(b".")
    return (
        kind in (b"2", b"4", b"5")
        and len(numbers) == 2
        and all(len(n) <= 3 and n.isdigit() and (n == b"0" or n[0] != 0x30) for n in numbers)
    )


class Changes:
    """What becomes of a message at the stage data_post.  Raises ValueError where it makes no sense.

    `message` is a file of message.replacement() that takes its place, with what was
    written to it; `sender` and `recipients` are those of the envelope from then on.
    What is None stays as it is.
    """

    __slots__ = ("message", "sender", "recipients")

    def __init__(
        self,
        message: Spool | None = None,
        sender: bytes | None = None,
        recipients: Iterable[bytes] | None = None,
    ) -> None:
        if isinstance(recipients, bytes | str):
            raise ValueError("recipients is a list of addresses")
        self.message = message
        self.sender = sender
        self.recipients = None if recipients is None else list(recipients)
        for address in (*(self.recipients or ()), *(() if sender is None else (sender,))):
            if not isinstance(address, bytes) or b"\0" in address or b"\n" in address:
                raise ValueError("an address is bytes, with neither NUL nor LF")
        if self.recipients is not None and not all(self.recipients or [b""]):
            raise ValueError("there has to be a recipient, and none is empty")


class Decision:
    """One verdict.  Raises ValueError where it makes no sense.

    `text` is the reply without code and status, `code` its code (0: what is
    usual at that stage), `status` its enhanced status as in b"5.7.1" (RFC
    3463; b"": the usual one), which the reply shows as `(#5.7.1)`.  Of a
    `decline`, the text is for the log alone.

    `header` are lines for the header of the message, without their LF, `above`
    those that stand above our Received, as trace fields do (RFC 7208, 9.1);
    `recipient`, at the stage rcpt, replaces the recipient that was asked about;
    `changes`, at data_post, is what becomes of the message.

    `remove`, at the stage header, are fields of the message that are to go: names, in
    any case, or with a `*` at the end the beginning of names; and for each a function
    that is given a value, still folded and of 16 KB at most, and says whether that one is to
    go, or None where all are.
    """

    __slots__ = (
        *("verdict", "text", "code", "status", "header", "above", "recipient"),
        *("changes", "remove", "bare", "replies"),
    )

    def __init__(
        self,
        verdict: str,
        text: bytes = b"",
        code: int = 0,
        status: bytes = b"",
        header: Iterable[bytes] = (),
        recipient: bytes | None = None,
        above: Iterable[bytes] = (),
        changes: Changes | None = None,
        remove: Removals = NOTHING,
    ) -> None:
        if verdict not in _CLASSES:
            raise ValueError(f"{verdict!r} is no verdict")
        if code and not (200 <= code < 600 and b"%d" % (code // 100) in _CLASSES[verdict]):
            raise ValueError(f"{code} is no code for {verdict}")
        if not isinstance(text, bytes) or not isinstance(status, bytes):
            raise ValueError("text and status are bytes")
        if status and not is_status(status):
            raise ValueError(f"{status!r} is no status, as 5.7.1 is one")
        if isinstance(header, bytes | str) or isinstance(above, bytes | str):
            raise ValueError("header and above are lists of lines")
        self.verdict = verdict
        self.text = text
        self.code = code
        self.status = status
        self.header = tuple(header)
        self.above = tuple(above)
        self.recipient = recipient
        self.changes = changes
        self.remove = remove
        #: Is it no more than a verdict with its reply?
        carries = self.header or self.above or changes or remove or recipient is not None
        self.bare = not carries and verdict != DISCARD
        #: stage -> the reply that it makes there, where it has made one (see policy/stages.py)
        self.replies: dict[str, Reply] = {}
        for line in self.above + self.header:
            check_header_line(line)
        if recipient is not None and (b"\0" in recipient or b"\n" in recipient):
            raise ValueError("a recipient holds neither NUL nor LF")
        for name in remove:
            if not name.rstrip(b"*") or not _NAME.issuperset(name) or b"*" in name[:-1]:
                raise ValueError(f"{name!r} is no name of a header field")


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


def decline(
    reason: bytes = b"",
    header: Iterable[bytes] = (),
    above: Iterable[bytes] = (),
    changes: Changes | None = None,
    remove: Removals = NOTHING,
) -> Decision:
    """No opinion; `reason` is for the log, where nobody else grants either."""
    return Decision(DECLINE, reason, 0, b"", header, None, above, changes, remove)


def accept(
    text: bytes = b"",
    recipient: bytes | None = None,
    header: Iterable[bytes] = (),
    above: Iterable[bytes] = (),
    changes: Changes | None = None,
    remove: Removals = NOTHING,
) -> Decision:
    """Take it, and ask no other plugin.

    At the stage rcpt the others are asked all the same, and only the built-in
    relay, rcpthosts and spp grant by this; `recipient`, if given, is what goes on.
    """
    return Decision(ACCEPT, text, 0, b"", header, recipient, above, changes, remove)


def reject(text: bytes, code: int = 0, status: bytes = b"") -> Decision:
    """Refuse for good: with this 5xx code, or the usual one."""
    return Decision(REJECT, text, code, status)


def defer(text: bytes, code: int = 0, status: bytes = b"") -> Decision:
    """Refuse for now: with this 4xx code, or the usual one."""
    return Decision(DEFER, text, code, status)


def discard(reason: bytes = b"") -> Decision:
    """At data_post: the client is told 250, and nothing is queued; `reason` is for the log."""
    return Decision(DISCARD, reason)


def drop(text: bytes, code: int = 0, status: bytes = b"") -> Decision:
    """Reply (421 unless another code is given) and close the connection."""
    return Decision(DROP, text, code, status)


class Ruling:
    """What was decided, for the observers `ok` and `deny`, and for the log.

    `stage` is that of the question, or `auth`, `starttls`, `queue` …;
    `plugin` who decided, or "" where qsmtpd itself did; `about`, what was
    asked about: a recipient, a name, a user; `detail`, what else is known: of
    auth the mechanism, of queue the exit, of rcpt why a rule that grants did
    not.  `answer` is the reply, as soon as there is one; `reply` and `code`
    are what the client is told, b"" and 0 before.
    """

    __slots__ = ("stage", "plugin", "decision", "about", "detail", "answer")

    def __init__(
        self,
        stage: str,
        plugin: str,
        decision: Decision,
        about: bytes = b"",
        detail: bytes = b"",
    ) -> None:
        self.stage = stage
        self.plugin = plugin
        self.decision = decision
        self.about = about
        self.detail = detail
        self.answer: Reply | None = None

    @property
    def reply(self) -> bytes:
        """The reply as it is sent, without the last CRLF."""
        return b"" if self.answer is None else self.answer.wire()

    @property
    def code(self) -> int:
        """The code of the reply."""
        return 0 if self.answer is None else self.answer.code


class Reply:
    """A reply to the client, as a value from where it is decided to where it is written.

    `text` may have several lines, with LF between them; `refused`: it is a refusal,
    for now or for good; `status` is the
    enhanced status code, as in b"5.7.1" (RFC 3463; b"": none is shown).
    `error`: it counts as an error of the client.  `end`: the session ends with
    it; this is the word for that in the log.  `ruling` is what policy said of
    the command, or None where nobody was asked.  `iana` is the status
    where IANA's registry (RFC 5248) has another one than qmail-smtpd or SPAMCONTROL.

    Replies with equal code, status and text are equal.  They are not changed.
    """

    __slots__ = (
        *("code", "status", "text", "error", "end", "ruling", "iana", "refused"),
        *("_front", "_wire"),
    )

    def __init__(
        self,
        code: int,
        status: bytes,
        text: bytes,
        error: bool = False,
        end: str | None = None,
        ruling: Ruling | None = None,
        iana: bytes = b"",
    ) -> None:
        self.code = code
        self.status = status
        self.text = text
        self.error = error
        self.end = end
        self.ruling = ruling
        self.iana = iana
        self.refused = code >= 400
        self._front = False
        self._wire = b""

    @property
    def temporary(self) -> bool:
        """Is it a refusal for now?"""
        return 400 <= self.code < 500

    def of(self, ruling: Ruling | None) -> Reply:
        """The same reply, with the ruling that it goes back to."""
        facts = self.code, self.status, self.text, self.error, self.end
        reply = Reply(*facts, ruling, self.iana)
        reply._front = self._front
        reply._wire = self._wire
        return reply

    def behind(self, lines: Iterable[bytes]) -> Reply:
        """The same reply, with these lines in front of it."""
        reply = self.of(self.ruling)
        reply.text = b"\n".join([*lines, self.text])
        reply._wire = b""
        return reply

    def enhanced(self) -> Reply:
        """The same reply, with a status in front of each line (RFC 2034), unless it is a 3xx.

        Its class is that of the code, whatever a plugin or a queue program has said.
        """
        reply = self.of(self.ruling)
        reply._front = self.code < 300 or self.code >= 400
        reply._wire = b""
        return reply

    def wire(self) -> bytes:
        """The reply as it is sent (RFC 5321, 4.2.1), without the last CRLF.

        The one place that says where the enhanced status code stands: as in
        qmail-smtpd, in brackets at the end of the last line, or in front of each.
        """
        if not self._wire:
            lines = self.text.split(b"\n")
            if self._front:
                lines = self._with_status_in_front(lines)
            elif self.status:
                lines[-1] += b" (#%b)" % self.status
            *first, last = lines
            head = b"%d-" % self.code
            self._wire = b"".join([head + line + b"\r\n" for line in first])
            self._wire += b"%d %b" % (self.code, last)
        return self._wire

    def _with_status_in_front(self, lines: list[bytes]) -> list[bytes]:
        """These lines with one status each, also where the text of some program has its own."""
        status = self.iana or self.status
        for number, line in enumerate(lines):
            word, blank, rest = line.partition(b" ")
            if blank and is_status(word):
                status = status or word
                lines[number] = rest
        detail = status[1:] if is_status(status) else b".0.0"
        return [b"%d%b %b" % (self.code // 100, detail, line) for line in lines]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and (
            (self.code, self.status, self.text) == (other.code, other.status, other.text)
        )

    def __hash__(self) -> int:
        return hash((self.code, self.status, self.text))
