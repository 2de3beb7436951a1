"""Names, questions and answers of the DNS (RFC 1035).

Of an answer, only the records that were asked for are looked at: so whoever it is from, it
is read in some milliseconds.  A library reads all of a message; dnspython 2.9 takes seconds
for 40 KB of names with 127 labels, and costs a cold start more than all of a session.
"""

from __future__ import annotations

from _socket import AF_INET6, inet_pton

from ...facts import ControlError
from ..ucspi import is_ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Labels = tuple[bytes, ...]
    Known = dict[int, Labels]

NAME_LIMIT, LABEL_LIMIT = 253, 63  # bytes, without a dot at the end (RFC 1035, 2.3.4)
#: Of a name that is asked for.  Hosts have letters, digits and hyphens, others more (RFC 2181,
#: 11); the macros of SPF have blanks, too.
_IN_NAMES = frozenset(range(32, 127))
TYPES = {"A": 1, "NS": 2, "CNAME": 5, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
#: Of names of domains in mail (RFC 5321, 2.3.5); some have an underscore.
_IN_HOSTS = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
NOERROR, NXDOMAIN = 0, 3
CODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}
_ALIAS = TYPES["CNAME"]
_IN = b"\0\1"
_POINTER = 0xC0
#: In a name as text.
_PLAIN = frozenset(range(33, 127)) - frozenset(b".\\")
#: The maximum of aliases on the way to a record.
CHAIN_LIMIT = 16
HEADER = 12  # bytes


class Answer:
    """What the DNS says to one question: `yes`, `no` or `could not tell`.

    yes: there are `records`, in the order of the answer.  Those of A and AAAA are
    addresses in canonical text, of MX (preference, name), of TXT its strings put
    together, of the others names.  Names are in lower case, without a dot at the
    end; the root is b".".

    no: there are none, and no `trouble`.  `no_name`: there is not even such a name,
    with records of any type (NXDOMAIN; RFC 8020).

    could not tell: `trouble` says why, for the log.
    """

    __slots__ = ("name", "type", "records", "no_name", "trouble", "logged")

    def __init__(
        self,
        name: bytes,
        type: str,
        records: tuple[Any, ...] = (),
        no_name: bool = False,
        trouble: str = "",
    ) -> None:
        self.name = name
        self.type = type
        self.records = records
        self.no_name = no_name
        self.trouble = trouble
        self.logged = False  # a filter has said in the log that there was trouble


class Question:
    """One question: a name as domain() returns it, and one of TYPES."""

    __slots__ = ("name", "type", "_wire")

    def __init__(self, name: bytes, type: str) -> None:
        self.name = name
        self.type = type
        labels = b"".join(bytes((len(label),)) + label for label in name.split(b"."))
        self._wire = labels + b"\0" + TYPES[type].to_bytes(2, "big") + _IN

    def wire(self, id: bytes) -> bytes:
        """The message that asks it, with this id of two bytes; recursion is desired."""
        return id + b"\1\0\0\1\0\0\0\0\0\0" + self._wire

    def is_answered_by(self, wire: bytes, id: bytes) -> bool:
        """Is this message a response to that one?  Anybody may have sent it."""
        end = HEADER + len(self._wire)
        return (
            wire[:2] == id
            and len(wire) >= end
            and wire[2] & 0xF8 == 0x80  # QR, and the opcode of a query
            and wire[4:6] == _IN  # one question
            and wire[HEADER : end - 4].lower() == self._wire[:-4]
            and wire[end - 4 : end] == self._wire[-4:]
        )

    def troubled(self, reason: str) -> Answer:
        """The answer where there is none."""
        return Answer(self.name, self.type, trouble=reason)

    def read(self, wire: bytes) -> Answer | None:
        """What a response says, one that is_answered_by(); None where it makes no sense.

        Records that nobody has asked for do not count.
        """
        code = wire[3] & 0x0F
        if code not in (NOERROR, NXDOMAIN):
            return self.troubled(CODES.get(code, f"code {code}"))
        try:
            owner = tuple(self.name.split(b"."))
            known: Known = {}
            types = TYPES[self.type], _ALIAS
            records = _records(wire, HEADER + len(self._wire), types, known)
            for _ in range(CHAIN_LIMIT):
                aliases = records.get((owner, _ALIAS))
                if not aliases or self.type == "CNAME":
                    break
                owner = _labels(wire, aliases[0][0], known)
            else:
                return self.troubled(f"more than {CHAIN_LIMIT} aliases")
            found = records.get((owner, TYPES[self.type]), [])
            values = [_READ[self.type](wire, *place, known) for place in found]
        except (IndexError, ValueError):
            return None
        if code == NXDOMAIN:
            return Answer(self.name, self.type, no_name=True)
        if not values and not wire[2] & 0x04 and not wire[3] & 0x80:
            return self.troubled("no recursion")  # neither AA nor RA: it points to other servers
        return Answer(self.name, self.type, tuple(values))


def is_truncated(wire: bytes) -> bool:
    """Has this message the bit TC?  What it says besides does not count (RFC 2181, 9)."""
    return bool(wire[2] & 0x02)


def domain(text: bytes) -> bytes | None:
    """A name as it is asked for: in lower case, with A-labels, without a dot at its end.

    None where this is no name: nobody is asked about that.
    """
    if not text.isascii():
        from ...smtp import utf8

        try:
            text = utf8.forms(text)[-1]
        except ControlError:
            return None  # without the library nobody could have asked for such a name, either
    text = text.lower().removesuffix(b".")
    if not 0 < len(text) <= NAME_LIMIT or not _IN_NAMES.issuperset(text):
        return None
    labels = text.split(b".")
    if not all(0 < len(label) <= LABEL_LIMIT for label in labels) or labels[-1].isdigit():
        return None  # where the last label is a number, it is an address (RFC 1123, 2.1)
    return text


def mail_domain(text: bytes) -> bytes | None:
    """The same of a name after an `@` or HELO: None, too, of one label, and of a literal."""
    name = None if text.startswith(b"[") else domain(text)
    return name if name is not None and b"." in name and b" " not in name else None


def host_domain(text: bytes) -> bytes | None:
    """The same as domain(): None, too, of a name with a character that no host has."""
    name = domain(text)
    return name if name is not None and not name.translate(None, _IN_HOSTS) else None


def reverse(address: bytes) -> bytes | None:
    """The name that an address has in the reverse tree, without its zone; None of what is none.

    `1.2.0.192` of 192.0.2.1 (RFC 1035, 3.5), and 32 nibbles of IPv6 (RFC 3596, 2.5):
    for in-addr.arpa and ip6.arpa, and for lists of addresses (RFC 5782, 2).
    """
    if is_ipv4(address):
        return b".".join(reversed(address.split(b".")))
    try:
        packed = inet_pton(AF_INET6, address.decode("ascii"))
    except (OSError, ValueError):
        return None
    return ".".join(reversed(packed.hex())).encode("ascii")


def pointer(address: bytes) -> bytes | None:
    """The name at which the PTR records of an address are; None of what is none."""
    name = reverse(address)
    return name and name + (b".ip6.arpa" if b":" in address else b".in-addr.arpa")


# -- records ------------------------------------------------------------------


def _records(
    wire: bytes, at: int, types: tuple[int, ...], known: Known
) -> dict[tuple[Labels, int], list[tuple[int, int]]]:
    """(owner, type) -> where the data of such records are, and their length.

    `at` is where the answer section begins.  Raises IndexError or ValueError.
    """
    found: dict[tuple[Labels, int], list[tuple[int, int]]] = {}
    for _ in range(_number(wire, 6)):
        name = at
        at = _behind_name(wire, at)
        type, is_in, length = _number(wire, at), wire[at + 2 : at + 4] == _IN, _number(wire, at + 8)
        at += 10
        if at + length > len(wire):
            raise ValueError("a record ends behind the message")
        if is_in and type in types:
            found.setdefault((_labels(wire, name, known), type), []).append((at, length))
        at += length
    return found


def _number(wire: bytes, at: int) -> int:
    return wire[at] << 8 | wire[at + 1]


def _behind_name(wire: bytes, at: int) -> int:
    """Where the name that begins here ends.  Raises IndexError or ValueError."""
    while length := wire[at]:
        if length >= _POINTER:
            return at + 2
        if length > LABEL_LIMIT:
            raise ValueError("no label")
        at += 1 + length
    return at + 1


def _labels(wire: bytes, at: int, known: Known) -> Labels:
    """The name that begins here, in lower case.  Raises IndexError or ValueError.

    A pointer leads to what stands before the name (RFC 1035, 4.1.4), so each leads
    further back, and there is an end.  `known` has what pointers have led to.
    """
    labels: list[bytes] = []
    followed: dict[int, int] = {}  # where a pointer leads to -> how many labels came before
    first = at
    while length := wire[at]:
        if length >= _POINTER:
            at = (length & 0x3F) << 8 | wire[at + 1]
            if at >= first:
                raise ValueError("a pointer that leads on")
            if at in known:
                labels += known[at]
                break
            first, followed[at] = at, len(labels)
            continue
        labels.append(wire[at + 1 : at + 1 + length].lower())
        if length > LABEL_LIMIT or len(labels) > NAME_LIMIT // 2 + 1:
            raise ValueError("no name")
        at += 1 + length
    if sum(map(len, labels)) + len(labels) > NAME_LIMIT + 1:
        raise ValueError("no name")
    for place, before in followed.items():
        known[place] = tuple(labels[before:])
    return tuple(labels)


def _name(wire: bytes, at: int, length: int, known: Known) -> bytes:
    """The same as text; bytes that could be mistaken are \\DDD (RFC 1035, 5.1)."""
    labels = _labels(wire, at, known)
    if not _PLAIN.issuperset(b"".join(labels)):
        labels = tuple(
            b"".join(bytes((b,)) if b in _PLAIN else b"\\%03d" % b for b in label)
            for label in labels
        )
    return b".".join(labels) or b"."


def _ipv4(wire: bytes, at: int, length: int, known: Known) -> bytes:
    if length != 4:
        raise ValueError("no address")
    return b"%d.%d.%d.%d" % tuple(wire[at : at + 4])


def _ipv6(wire: bytes, at: int, length: int, known: Known) -> bytes:
    from ..ip import text_of

    if length != 16:
        raise ValueError("no address")
    return text_of(wire[at : at + 16])


def _mx(wire: bytes, at: int, length: int, known: Known) -> tuple[int, bytes]:
    return _number(wire, at), _name(wire, at + 2, length, known)


def _text(wire: bytes, at: int, length: int, known: Known) -> bytes:
    """The strings of a TXT record, put together."""
    strings, end = [], at + length
    while at < end:
        strings.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    if at != end:
        raise ValueError("a string ends behind its record")
    return b"".join(strings)


_READ: dict[str, Any] = {
    "A": _ipv4,
    "AAAA": _ipv6,
    "MX": _mx,
    "TXT": _text,
    "PTR": _name,
    "NS": _name,
    "CNAME": _name,
}
