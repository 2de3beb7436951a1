"""Names, questions and answers of the DNS (RFC 1035).  Answers are read by dnspython."""

from __future__ import annotations

from ...facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME_LIMIT, LABEL_LIMIT = 253, 63  # bytes, without a dot at the end (RFC 1035, 2.3.4)
#: Of a name that is asked for.  Hosts have letters, digits and hyphens, others more (RFC 2181,
#: 11); the macros of SPF have blanks, too.
_IN_NAMES = frozenset(range(32, 127))
TYPES = {"A": 1, "NS": 2, "CNAME": 5, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
_ALIAS = TYPES["CNAME"]
_IN = b"\0\1"
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
        self._wire = labels + b"\0\0" + bytes((TYPES[type],)) + _IN

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
        import dns.message
        import dns.name
        import dns.rcode
        import dns.rdataclass
        import dns.rdatatype

        try:
            message = dns.message.from_wire(wire, ignore_trailing=True)
            code = message.rcode()
            name = dns.name.Name([*self.name.split(b"."), b""])
            wanted = dns.rdatatype.RdataType(TYPES[self.type])
            for _ in range(CHAIN_LIMIT):
                key = message.answer, name, dns.rdataclass.IN
                found = message.get_rrset(*key, wanted)
                alias = message.get_rrset(*key, dns.rdatatype.CNAME)
                if found is not None or alias is None:
                    break
                name = alias[0].target
            else:
                return self.troubled(f"more than {CHAIN_LIMIT} aliases")
            if found is not None and code == dns.rcode.NOERROR:
                return Answer(self.name, self.type, tuple(map(_value, found)))
        except Exception:  # not only those of dnspython: what is in a packet is anybody's
            return None
        if code == dns.rcode.NXDOMAIN:
            return Answer(self.name, self.type, no_name=True)
        if code != dns.rcode.NOERROR:
            return self.troubled(dns.rcode.to_text(code))
        if not wire[2] & 0x04 and not wire[3] & 0x80:
            return self.troubled("no recursion")  # neither AA nor RA: it points to other servers
        return Answer(self.name, self.type)


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


def reverse(address: bytes) -> bytes | None:
    """The name that an address has in the reverse tree, without its zone; None of what is none.

    `1.2.0.192` of 192.0.2.1 (RFC 1035, 3.5), and 32 nibbles of IPv6 (RFC 3596, 2.5):
    for in-addr.arpa and ip6.arpa, and for lists of addresses (RFC 5782, 2).
    """
    import ipaddress

    try:
        parsed = ipaddress.ip_address(address.decode("ascii"))
    except ValueError:
        return None
    return parsed.reverse_pointer.rpartition(".")[0].rpartition(".")[0].encode("ascii")


def pointer(address: bytes) -> bytes | None:
    """The name at which the PTR records of an address are; None of what is none."""
    name = reverse(address)
    return name and name + (b".ip6.arpa" if b":" in address else b".in-addr.arpa")


def _value(record: Any) -> Any:
    """A record of dnspython as a value of Answer."""
    kind = record.rdtype
    if kind in (TYPES["A"], TYPES["AAAA"]):
        from ..ip import canonical

        return canonical(record.address.encode("ascii"))
    if kind == TYPES["MX"]:
        return record.preference, _name(record.exchange)
    if kind == TYPES["TXT"]:
        return b"".join(record.strings)
    return _name(record.target)


def _name(name: Any) -> bytes:
    """A name in text; bytes that could be mistaken are \\DDD (RFC 1035, 5.1)."""
    text: str = name.to_text(omit_final_dot=True)
    return text.lower().encode("ascii")


def library() -> None:
    """Import dnspython.  Raises ControlError."""
    try:
        try:
            import dns.message
        except ImportError:
            # Our launcher started Python without site, and so without its packages.
            import site

            site.main()
            import dns.message  # noqa: F401
    except ImportError as error:
        what = f"cannot be imported, and filters that ask the DNS need it: {error}"
        raise ControlError("Python's dnspython", what) from error


def preload() -> None:
    """Import what answers of every type want, too: for a server.  Raises ControlError."""
    library()
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    for number in TYPES.values():
        kind = dns.rdataclass.IN, dns.rdatatype.RdataType(number)
        dns.rdata.get_rdata_class(*kind)  # type: ignore[no-untyped-call]
