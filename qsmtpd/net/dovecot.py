"""Dovecot's authentication protocol 1.x, as the side that asks: its lines, and its userdb.

Two sockets speak it: an auth client (dovecotauth.py) asks whether somebody is who it
says; on a userdb socket one asks who exists.  Lines are fields separated by TAB, in
which \\001 escapes.  Facts: "Authentication Protocol" in Dovecot's documentation, and
Dovecot 2.3.19.
"""

from __future__ import annotations

from .daemon import Daemon, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .daemon import Address

#: Bytes of all that Dovecot says in one conversation: its own limit of a line is 16384.
LIMIT = 65536
_ESCAPED = {0x30: 0x00, 0x31: 0x01, 0x74: 0x09, 0x6E: 0x0A, 0x72: 0x0D}  # 0 1 t n r
NONSENSE = "talks nonsense"


class Line:
    """A line: its command, its request (None where there is none), and the other fields.

    `words` are the fields without a `=`, `values` those with one; of two of the same
    name the first counts.
    """

    __slots__ = ("command", "id", "fields", "words", "values")

    def __init__(self, line: bytes) -> None:
        fields = [unescape(field) for field in line.split(b"\t")]
        self.command = fields[0]
        self.id = number(fields[1]) if len(fields) > 1 else None
        self.fields = fields[2:]
        self.words = {field for field in self.fields if b"=" not in field}
        self.values: dict[bytes, bytes] = {}
        for field in self.fields:
            name, equals, value = field.partition(b"=")
            if equals:
                self.values.setdefault(name, value)


def unescape(field: bytes) -> bytes:
    """A field without Dovecot's escapes: any other byte behind \\001 is itself, none is nothing."""
    if b"\1" not in field:
        return field
    found = bytearray()
    escaped = False
    for byte in field:
        if escaped:
            found.append(_ESCAPED.get(byte, byte))
            escaped = False
        elif byte == 1:
            escaped = True
        else:
            found.append(byte)
    return bytes(found)


def number(text: bytes) -> int | None:
    """A number of 1 to 10 digits, or None."""
    return int(text) if 0 < len(text) <= 10 and text.isdigit() else None


def is_safe(text: bytes) -> bool:
    """Can it be a field as it is, and is it a name that a log and a header can show?"""
    return bool(text) and not any(byte < 32 or byte == 127 for byte in text)


def expect_version(line: bytes) -> None:
    """It is the first of Dovecot's lines.  Raises NoAnswer."""
    words = line.split(b"\t")
    if words[0] != b"VERSION" or len(words) < 2 or words[1] != b"1":
        raise NoAnswer(NONSENSE)


class Users:
    """A connection to a userdb socket: knows().  Raises NoAnswer or Shutdown.

    Each question may take `seconds`.
    """

    __slots__ = ("_daemon", "_seconds", "_id")

    def __init__(self, address: Address, seconds: float) -> None:
        self._seconds = seconds
        self._id = 0
        daemon = self._daemon = Daemon(address, seconds, LIMIT)
        try:
            daemon.send(b"VERSION\t1\t0\n")
            expect_version(daemon.line())
            if not daemon.line().startswith(b"SPID\t"):
                raise NoAnswer("is no userdb socket")
        except BaseException:
            daemon.close()
            raise

    def is_open(self) -> bool:
        """Can another question be asked?  Not where Dovecot has ended since."""
        return self._daemon.renew(self._seconds, LIMIT)

    def knows(self, user: bytes) -> bool:
        """Is there a user of this name, which is_safe()?"""
        self._id += 1
        self._daemon.send(b"USER\t%d\t%b\tservice=smtp\n" % (self._id, user))
        line = Line(self._daemon.line())
        if line.id == self._id and line.command in (b"USER", b"NOTFOUND"):
            return line.command == b"USER"
        self.close()
        if line.id == self._id and line.command == b"FAIL":
            raise NoAnswer(_why(line.values))
        raise NoAnswer(NONSENSE)

    def close(self) -> None:
        """No more questions."""
        self._daemon.close()


def _why(values: Mapping[bytes, bytes]) -> str:
    reason = values.get(b"reason", b"")
    return "has a problem" + (": " + reason.decode("ascii", "backslashreplace") if reason else "")
