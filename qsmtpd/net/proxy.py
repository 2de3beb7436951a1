"""The header of the PROXY protocol, versions 1 and 2: how much of it to read, and what it says.

It is what a balancer sends before anything else: whose connection it passes on
(https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt, which the sections are of).

    while count := missing(data):       # exactly what belongs to the header
        data += read(count)
    header = parse(data)

Nothing here reads; what stands behind the header stays where it is.
"""

from __future__ import annotations

from .ucspi import is_ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: Address in canonical text, and port in decimal.
    End = tuple[bytes, bytes]

V1 = b"PROXY "
V2 = b"\r\n\r\n\0\r\nQUIT\n"
#: 2.1: the longest line, CRLF included (bytes).
LINE_LIMIT = 107
#: Of version 2, what may follow its 16 bytes; real ones have at most some hundreds (bytes).
LENGTH_LIMIT = 4096
#: The shortest header of all, `PROXY UNKNOWN` and CRLF: so much can be read at once.
_SHORTEST = 15
_FIXED = 16  # of version 2: signature, version and command, family, length
_UNKNOWN = b"PROXY UNKNOWN"
_BLANKS = 5  # in a line of version 1
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_INET, _INET6, _UNIX = 1, 2, 3
_STREAM, _DATAGRAM = 1, 2
#: Family -> the bytes of both addresses, with ports where there are.
_SIZES = {_INET: 12, _INET6: 36, _UNIX: 216}
_CRC32C, _SSL, _SSL_VERSION, _SSL_CIPHER = 0x03, 0x20, 0x21, 0x23
_HEXADECIMAL = frozenset(b"0123456789abcdefABCDEF:.")
#: Of the names of a version of TLS and of a cipher (bytes).
_NAME_LIMIT = 64


#: The kinds of a header: it says whose connection it is; the balancer's own (a health
#: check), or one of which nothing is said that is an address of TCP.
PROXY, LOCAL, UNKNOWN = b"PROXY", b"LOCAL", b"UNKNOWN"
#: Where there is no whole header in time, the end of the session in the log.
TIMEOUT = "proxy-timeout"


class Refused(Exception):
    """There is no header that is right, and why, for the log; `end` is the end of the session."""

    end = ""


class NoHeader(Refused):
    """What came does not begin as one."""

    end = "proxy-missing"


class Malformed(Refused):
    """It begins as one."""

    end = "proxy-malformed"


class Header:
    """What a header says: one of the three `kind`s.

    `source` and `destination` are the ends of the connection that is passed on, of the
    kind PROXY alone.  `ssl` is the value of PP2_TYPE_SSL (see tls()), if there is one.
    """

    __slots__ = ("kind", "source", "destination", "ssl")

    def __init__(
        self,
        kind: bytes,
        source: End | None = None,
        destination: End | None = None,
        ssl: bytes | None = None,
    ) -> None:
        self.kind = kind
        self.source = source
        self.destination = destination
        self.ssl = ssl


def missing(data: bytes) -> int:
    """How many bytes can be read now without one that stands behind the header; 0: it is whole.

    Raises NoHeader and Malformed as soon as that is certain.
    """
    if not data:
        return _SHORTEST
    if data[0] == V2[0]:
        return _missing_of_2(data)
    if data[: len(V1)] != V1[: len(data)]:
        raise NoHeader("there is no PROXY header")
    return _missing_of_1(data)


def parse(data: bytes) -> Header:
    """What a whole header says.  Raises Malformed."""
    return _parse_2(data) if data.startswith(V2) else _parse_1(data)


# -- version 1: a line (2.1) ---------------------------------------------------


def _missing_of_1(data: bytes) -> int:
    if b"\n" in data:
        if data.find(b"\n") != len(data) - 1 or not data.endswith(b"\r\n"):
            raise Malformed("the line does not end in CRLF")
        return 0
    count = 1 if data.endswith(b"\r") else 2
    if not data.startswith(_UNKNOWN) and not _UNKNOWN.startswith(data):
        blanks = data.count(b" ")
        if blanks > _BLANKS:
            raise Malformed("the line has too many fields")
        # Each field that is still to come has one byte at least, and a blank before it.
        count += 2 * (_BLANKS - blanks) + data.endswith(b" ")
    elif len(data) < _SHORTEST - 2:
        count = _SHORTEST - len(data)
    if len(data) + count > LINE_LIMIT:
        raise Malformed("the line is too long")
    return count


def _parse_1(data: bytes) -> Header:
    line = data[:-2]
    if line == _UNKNOWN or line.startswith(_UNKNOWN + b" "):
        return Header(UNKNOWN)
    fields = line.split(b" ")
    if len(fields) != _BLANKS + 1:
        raise Malformed("the line has not six fields")
    _, family, source, destination, source_port, destination_port = fields
    if family not in (b"TCP4", b"TCP6"):
        raise Malformed("the line is of no kind that there is")
    read = _ipv4 if family == b"TCP4" else _ipv6
    return Header(
        PROXY,
        _client((read(source), _port(source_port))),
        (read(destination), _port(destination_port)),
    )


def _ipv4(text: bytes) -> bytes:
    if not is_ipv4(text):
        raise Malformed("an address is no IPv4 address")
    return text


def _ipv6(text: bytes) -> bytes:
    """In canonical form: 2.1 lets the sender have upper case, and groups as it wants."""
    from . import ip

    address = ip.canonical(text) if b":" in text and _HEXADECIMAL.issuperset(text) else None
    if address is None:
        raise Malformed("an address is no IPv6 address")
    return address


def _port(text: bytes) -> bytes:
    right = 0 < len(text) <= 5 and text.isdigit() and int(text) <= 65535
    if not right or (text[0] == 0x30 and len(text) > 1):
        raise Malformed("a port is no number from 0 to 65535")
    return text


def _client(end: End) -> End:
    if end[0] in (b"0.0.0.0", b"::"):
        raise Malformed("the client's address is none")
    return end


# -- version 2: binary (2.2) -----------------------------------------------------


def _missing_of_2(data: bytes) -> int:
    if data[: len(V2)] != V2[: len(data)]:
        raise NoHeader("there is no PROXY header")
    if len(data) > len(V2) and data[len(V2)] not in (_LOCAL, _PROXY):
        raise Malformed("the version or the command is none that there is")
    if len(data) < _FIXED:
        return _FIXED - len(data)
    length = int.from_bytes(data[14:_FIXED], "big")
    if length > LENGTH_LIMIT:
        raise Malformed("the header is too long")
    return _FIXED + length - len(data)


def _parse_2(data: bytes) -> Header:
    family, transport = data[13] >> 4, data[13] & 15
    if data[12] == _LOCAL or family == 0:  # what follows is not heeded, be it what it is
        try:
            _check_sum(data, _vectors(data, _FIXED + _SIZES.get(family, 0)))
        except _NoVectors:
            pass
        return Header(LOCAL if data[12] == _LOCAL else UNKNOWN)
    if family > _UNIX or transport > _DATAGRAM:
        raise Malformed("the family or the transport is none that there is")
    end = _FIXED + _SIZES[family]
    if len(data) < end:
        raise Malformed("the header is too short for its addresses")
    vectors = _vectors(data, end)
    _check_sum(data, vectors)
    if family == _UNIX or transport != _STREAM:
        return Header(UNKNOWN)
    ssl = [data[begin:end] for kind, begin, end in vectors if kind == _SSL]
    if len(ssl) > 1:
        raise Malformed("there are two vectors on TLS")
    read, size = (_ipv4_of, 4) if family == _INET else (_ipv6_of, 16)
    addresses, ports = data[_FIXED : end - 4], data[end - 4 : end]
    return Header(
        PROXY,
        _client((read(addresses[:size]), _decimal(ports[:2]))),
        (read(addresses[size:]), _decimal(ports[2:])),
        ssl[0] if ssl else None,
    )


def _ipv4_of(octets: bytes) -> bytes:
    return b"%d.%d.%d.%d" % tuple(octets)


def _ipv6_of(octets: bytes) -> bytes:
    groups = [octets[at : at + 2].hex() for at in range(0, 16, 2)]
    return _ipv6(":".join(groups).encode("ascii"))


def _decimal(port: bytes) -> bytes:
    return b"%d" % int.from_bytes(port, "big")


class _NoVectors(Malformed):
    """A length leads beyond the end."""


def _vectors(data: bytes, start: int) -> list[tuple[int, int, int]]:
    """(type, where the value begins, where it ends) of each vector from there to the end."""
    found = []
    while start < len(data):
        begin = start + 3
        end = begin + int.from_bytes(data[start + 1 : begin], "big")
        if begin > len(data) or end > len(data):
            raise _NoVectors("a vector is longer than what it is in")
        found.append((data[start], begin, end))
        start = end
    return found


def _check_sum(data: bytes, vectors: list[tuple[int, int, int]]) -> None:
    """Check PP2_TYPE_CRC32C, if there is one (2.2.3).  Raises Malformed."""
    places = [(begin, end) for kind, begin, end in vectors if kind == _CRC32C]
    if not places:
        return
    begin, end = places[0]
    if len(places) > 1 or end - begin != 4:
        raise Malformed("the checksum is none")
    if crc32c(data[:begin] + bytes(4) + data[end:]) != int.from_bytes(data[begin:end], "big"):
        raise Malformed("the checksum is wrong")


_table: list[int] = []  # filled when it is first wanted


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260, appendix A (Castagnoli's polynomial, reflected)."""
    if not _table:
        for value in range(256):
            for _ in range(8):
                value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
            _table.append(value)
    found = 0xFFFFFFFF
    for byte in data:
        found = found >> 8 ^ _table[(found ^ byte) & 0xFF]
    return found ^ 0xFFFFFFFF


def variables(header: Header, ip: bytes, with_tls: bool) -> dict[bytes, bytes]:
    """What a header makes of the environment of its connection, which has come from `ip`.

    `with_tls`: what it says of TLS counts (see tls()).  Raises Malformed.
    """
    found = {b"PROXYHEADER": header.kind, b"PROXYREMOTEIP": ip}
    if header.source is not None and header.destination is not None:
        found[b"PROTO"] = b"TCP"
        found[b"TCPREMOTEIP"], found[b"TCPREMOTEPORT"] = header.source
        found[b"TCPLOCALIP"], found[b"TCPLOCALPORT"] = header.destination
    said = tls(header.ssl) if with_tls else None
    if said is not None:
        found[b"SSL_PROTOCOL"], found[b"SSL_CIPHER"] = said
    return found


# -- TLS in front (2.2.6) ----------------------------------------------------------


def tls(ssl: bytes | None) -> tuple[bytes, bytes] | None:
    """The version and the cipher by which the client has come to the balancer, or None.

    A balancer that does not say which cipher has `unknown`.  Raises Malformed.
    """
    if ssl is None:
        return None
    if len(ssl) < 5:
        raise Malformed("the vector on TLS is too short")
    said = {kind: ssl[begin:end] for kind, begin, end in _vectors(ssl, 5)}
    if not ssl[0] & 1:  # PP2_CLIENT_SSL
        return None
    names = said.get(_SSL_VERSION, b""), said.get(_SSL_CIPHER, b"unknown")
    for name in names:
        if not 0 < len(name) <= _NAME_LIMIT or not all(0x21 <= byte < 0x7F for byte in name):
            raise Malformed("the vector on TLS has no version or a cipher that is none")
    return names
