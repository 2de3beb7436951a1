"""What milters make of a message at its end, one after the other.  Methods raise OSError."""

from __future__ import annotations

from ...decision import DECLINED, Changes, Decision, decline
from ...smtp.address import parse_path
from ...smtp.header import HEADER_LIMIT, LINE_LIMIT, header_of
from . import protocol
from .fields import Fields
from .recipients import Recipients

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from ...decision import Spool
    from ...facts import Envelope, Message
    from .protocol import Answer

QUARANTINE = b"X-Quarantine"
#: Bytes of all changes but those of the body, for they are kept in memory.  Each counts so
#: much more, and one of the header, whose lines are looked through, more than that.
LIMIT, OTHER_COST, HEADER_COST = 1 << 20, 100, 1000
_HEADER = (protocol.ADD_HEADER, protocol.INSERT_HEADER, protocol.CHANGE_HEADER)
_CHUNK = 65536


class Version:
    """A message as it is by now: its file and that one's size, its envelope.

    `above` are lines for above our own Received; `spool` is the file that milters have
    made, or None where it is the message as it came; `suffix` is RELAYCLIENT's.
    """

    __slots__ = ("file", "size", "sender", "recipients", "above", "spool", "suffix")

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        sender: bytes,
        recipients: Sequence[bytes],
        above: Sequence[bytes] = (),
        spool: Spool | None = None,
        suffix: bytes = b"",
    ) -> None:
        self.file = file
        self.size = size
        self.sender = sender
        self.recipients = list(recipients)
        self.above = above
        self.spool = spool
        self.suffix = suffix

    def decision(self, envelope: Envelope) -> Decision:
        """What a plugin says to make this the message, with this envelope so far."""
        sender = None if self.sender == envelope.sender else self.sender
        recipients = None if self.recipients == envelope.recipients else self.recipients
        if self.spool is None and sender is None and recipients is None:
            return decline(above=self.above) if self.above else DECLINED
        return decline(above=self.above, changes=Changes(self.spool, sender, recipients))


class Edit:
    """The changes of one milter: begin() first, finished() where they hold.

    `before` is what it is shown, `done` says what it has changed, and `holds`, that it
    has come to the end of it.
    """

    __slots__ = (
        "before",
        "done",
        "holds",
        "_message",
        "_header",
        "_place",
        "_gap",
        "_fields",
        "_space",
        "_new",
        "_end",
        "_sender",
        "_recipients",
        "_room",
    )

    def __init__(self, before: Version, message: Message) -> None:
        self.before = before
        self.done: list[str] = []
        self.holds = False
        self._message = message
        self._header, self._place = b"", 0
        self._gap = b"\n"  # between header and body
        self._fields = Fields(b"")
        self._space = b" "
        self._new: Spool | None = None  # another body
        self._end = b""  # a CR at the end of its last piece, or what else was there
        self._sender = before.sender
        self._recipients = Recipients(before.recipients, before.suffix)
        self._room = LIMIT

    def begin(self, leading_space: bool) -> Iterator[tuple[bytes, bytes]]:
        """The lines of the header as the milter sees them; `leading_space`: values have it."""
        self.before.file.seek(0)
        start = b"".join(_chunks(self.before.file, HEADER_LIMIT + 2))
        self._header, self._place = header_of(start)
        whole = self._place > len(self._header) or (
            len(self._header) < HEADER_LIMIT and self._header.count(b"\n") < LINE_LIMIT
        )
        if not whole:
            self._cut(start)
        self._fields = Fields(self._header, self.before.above)
        self._space = b"" if leading_space else b" "
        return self._fields.shown(leading_space)

    def _cut(self, start: bytes) -> None:
        """There is more of the header than can be counted: that is body, from a field on."""
        end = self._header.rfind(b"\n") + 1
        while end and start[end : end + 1] in (b" ", b"\t"):
            end = start.rfind(b"\n", 0, end - 1) + 1
        self._header, self._place = start[:end], end
        self._gap = b""

    def body(self) -> Iterator[bytes]:
        """Its body, in pieces."""
        self.before.file.seek(self._place)
        return _chunks(self.before.file)

    def take(self, answer: Answer) -> None:
        """A change.  Raises ValueError where it makes no sense."""
        code = answer.code
        if code == protocol.REPLACE_BODY:
            self._replace(answer.text)
            return
        self._room -= HEADER_COST if code in _HEADER else OTHER_COST
        self._room -= len(answer.text) + sum(map(len, answer.strings))
        if self._room < 0:
            raise ValueError("changes too much")
        if code == protocol.QUARANTINE:
            self._fields.add(QUARANTINE, b" " + answer.text)
            self._note("quarantine")
        elif code == protocol.CHANGE_SENDER:
            self._sender = _address(answer.strings[0])
            self._note("sender", self._sender)
        elif code == protocol.DELETE_RECIPIENT:
            address = _address(answer.strings[0])
            self._recipients.delete(address)
            self._note("delete recipient", address)
        elif code in (protocol.ADD_RECIPIENT, protocol.ADD_RECIPIENT_PARAMETERS):
            address = _address(answer.strings[0])
            if not address:
                raise ValueError("adds an empty recipient")
            self._recipients.add(address)
            self._note("add recipient", address)
        else:
            self._take_header(answer)

    def _take_header(self, answer: Answer) -> None:
        (name, value), fields = answer.strings, self._fields
        if answer.code == protocol.ADD_HEADER:
            fields.add(name, self._space + value)
            self._note("add", name)
        elif answer.code == protocol.INSERT_HEADER:
            fields.insert(answer.index, name, self._space + value)
            self._note("insert", name)
        elif value:
            fields.change(answer.index, name, self._space + value)
            self._note("change", name)
        else:
            fields.delete(answer.index, name)
            self._note("delete", name)

    def _replace(self, text: bytes) -> None:
        if self._new is None:
            self._new = self._message.replacement()
            self._note("body")
        text = self._end + text
        self._end = b"\r" if text.endswith(b"\r") else b""
        self._new.write(text[: len(text) - len(self._end)].replace(b"\r\n", b"\n"))

    def _note(self, what: str, about: bytes | None = None) -> None:
        shown = "" if about is None else " " + about.decode("ascii", "backslashreplace")
        self.done.append(what + shown)

    def finished(self) -> Version:
        """The message with these changes."""
        before = self.before
        above, below = self._fields.above, self._fields.below
        envelope = (self._sender, self._recipients.all(), above)
        if self._new is None and below == self._header:
            return Version(before.file, before.size, *envelope, before.spool, before.suffix)
        new = self._message.replacement()
        new.write(below + self._gap)
        if self._new is None:
            for chunk in self.body():
                new.write(chunk)
        else:
            self._new.write(self._end)
            last = b"\n"
            for chunk in _chunks(self._new.reader()):
                new.write(chunk)
                last = chunk[-1:]
            if last != b"\n":
                new.write(b"\n")
            self._new.close()
        if before.spool is not None:
            before.spool.close()
        return Version(new.reader(), new.size, *envelope, new, before.suffix)


def _chunks(file: BinaryIO, most: int | None = None) -> Iterator[bytes]:
    """What stands there in a file, in so many bytes at most."""
    while (most is None or most > 0) and (
        chunk := file.read(_CHUNK if most is None else min(most, _CHUNK))
    ):
        if most is not None:
            most -= len(chunk)
        yield chunk


def _address(text: bytes) -> bytes:
    """`<a@b>`, `a@b` or `Name <a@b>` -> the address, unquoted.  Raises ValueError."""
    text = text.strip(b" \t")
    if text.endswith(b">") and not text.startswith(b"<"):
        text = text[max(text.rfind(b"<"), 0) :]
    text, _ = parse_path(text if text.startswith(b"<") else b"<%b>" % text)
    if any(byte < 32 or byte == 127 for byte in text):
        raise ValueError("an address with a control character")
    return text
