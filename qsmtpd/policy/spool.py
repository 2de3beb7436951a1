"""A message in a file, and what plugins make of it at the stage data_post."""

from __future__ import annotations

import posix as os

from ..config.files import temporary
from ..facts import Message
from ..smtp.header import HEADER_LIMIT, LINE_LIMIT, header_of, parse_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from ..decision import Changes
    from ..log import Log

CHUNK = 65536


class Spool:
    """A file without a name, in TMPDIR, else /tmp.  Every method raises OSError.

    `size` is how many bytes were written to it.
    """

    __slots__ = ("size", "_writer", "_reader")

    def __init__(self) -> None:
        # As tempfile.mkstemp(), whose module costs a cold start more than all of a session.
        path = b"%b/qsmtpd-%b" % (temporary(), os.urandom(16).hex().encode("ascii"))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        self.size = 0
        try:
            self._writer = open(fd, "r+b", buffering=0)
            # Another open file: a plugin can read it, and seek in it, and not change it.
            self._reader = open(path, "rb", buffering=0)
        finally:
            os.unlink(path)

    def write(self, text: bytes) -> None:
        """Append."""
        view = memoryview(text)
        self.size += len(view)
        while view:
            view = view[self._writer.write(view) :]

    def reader(self) -> BinaryIO:
        """The file for plugins, at its beginning."""
        self._reader.seek(0)
        return self._reader

    def chunks(self) -> Iterator[bytes]:
        """All of it, whatever the plugins have done with their file."""
        place = 0
        while chunk := os.pread(self._writer.fileno(), CHUNK, place):
            place += len(chunk)
            yield chunk

    def start(self) -> bytes:
        """As much of it as a header can have, and a little more."""
        return os.pread(self._writer.fileno(), HEADER_LIMIT + 2, 0)

    def close(self) -> None:
        """Give the space back."""
        self._writer.close()
        self._reader.close()


class SpooledMessage(Message):
    """A message that is in a file.  Methods raise OSError."""

    __slots__ = ("spool", "_others")
    is_held = True

    def __init__(self) -> None:
        super().__init__()
        self.spool = Spool()
        self._others: list[Spool] = []

    def replacement(self) -> Spool:
        """A file for another message, with LF line ends, that may take the place of this one."""
        new = Spool()
        self._others.append(new)
        return new

    def become(self, new: Spool) -> None:
        """From here on this is the message."""
        if new not in self._others:
            raise TypeError("no file of message.replacement()")
        self.spool = new
        self.size = new.size
        header, _ = header_of(new.start())
        self.header = parse_header(header)
        self.whole_header = len(header) < HEADER_LIMIT and header.count(b"\n") < LINE_LIMIT
        self.file = new.reader()

    def close(self) -> None:
        """Nothing of it is wanted any more."""
        for spool in (self.spool, *self._others):
            spool.close()


def change(log: Log, plugin: str, changes: Changes, envelope: Any, message: Any) -> None:
    """Do what a plugin has decided, and say so in the log.  Raises OSError, or TypeError."""
    fields: dict[str, bytes | int] = {}
    if changes.message is not None:
        message.become(changes.message)
        fields["size"] = message.size
    if changes.sender is not None and changes.sender != envelope.sender:
        fields["was"] = envelope.sender
        fields["from"] = envelope.sender = changes.sender
    if changes.recipients is not None:
        before, after = envelope.recipients, changes.recipients
        added = [address for address in after if address not in before]
        deleted = [address for address in before if address not in after]
        if added:
            fields["added"] = b",".join(added)
        if deleted:
            fields["deleted"] = b",".join(deleted)
        envelope.recipients = after
    log.line("changed", plugin=plugin, **fields)
