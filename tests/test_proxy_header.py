"""The PROXY header: read to its last byte and no further, taken as it says, or refused."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxying import V2, v1, v2, vector, with_checksum

from qsmtpd.net.proxy import Header, Malformed, NoHeader, crc32c, missing, parse, tls

IPV4 = ("192.0.2.7", "198.51.100.9", 40000, 25)
LONGEST = "ffff:" * 7 + "ffff"
IPV6 = ("2001:db8::7", "2001:db8:1::25", 40000, 25)
#: Headers that are right, and whose connection they pass on.
RIGHT = {
    v1("TCP4", *IPV4): IPV4,
    v1("TCP6", *IPV6): IPV6,
    v1("TCP4", "255.255.255.255", "255.255.255.255", 65535, 65535): (
        *("255.255.255.255", "255.255.255.255", 65535, 65535),
    ),
    v1("TCP4", "1.1.1.1", "0.0.0.0", 0, 0): ("1.1.1.1", "0.0.0.0", 0, 0),
    v1("TCP6", "::1", "::", 1, 2): ("::1", "::", 1, 2),
    v1("TCP6", LONGEST, LONGEST, 65535, 65535): (LONGEST, LONGEST, 65535, 65535),
    # 2.1: upper case, and any number of zeros.  Whoever comes by IPv4 is a client of IPv4.
    v1("TCP6", "2001:DB8:0:0::7", "2001:0db8:0001::0025", 40000, 25): IPV6,
    v1("TCP6", "::ffff:192.0.2.7", "::ffff:198.51.100.9", 40000, 25): IPV4,
    v2(0x11, *IPV4): IPV4,
    v2(0x21, *IPV6): IPV6,
    v2(0x21, "::ffff:192.0.2.7", "::ffff:198.51.100.9", 40000, 25): IPV4,
    v2(0x11, *IPV4, vectors=vector(4, b"") + vector(0xEA, b"x" * 300)): IPV4,
    with_checksum(v2(0x21, *IPV6, vectors=vector(3, bytes(4)) + vector(1, b"smtp"))): IPV6,
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN \r\n": None,
    b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n": None,
    b"PROXY UNKNOWN ffff::1 \r ::2 1 2\r\n": None,
    V2 + b"\x20\0\0\0": None,
    V2 + b"\x20\x11\0\x0c" + bytes(12): None,
    V2 + b"\x20\x11\0\x0c" + vector(3, b"\1\2\3\4") + bytes(5): None,  # an address like a CRC32C
    V2 + b"\x20\x21\0\x0c" + bytes(12): None,
    V2 + b"\x20\xff\0\5trash": None,
    with_checksum(V2 + b"\x20\0\0\7" + vector(3, bytes(4))): None,
    V2 + b"\x21\0\0\0": None,
    V2 + b"\x21\0\0\3any": None,
    V2 + b"\x21\x31\0\xd8" + b"/run/x".ljust(108, b"\0") * 2: None,
    V2 + b"\x21\x32\0\xdb" + bytes(216) + vector(4, b""): None,
    v2(0x12, *IPV4): None,
    v2(0x20, *IPV6): None,
    v2(0x11, *IPV4, vectors=vector(4, bytes(4096 - 12 - 3))): IPV4,
}
#: What is refused when all of it is there.
WRONG = [
    b"PROXY TCP4 192.0.2.7 198.51.100.9 40000 25 \r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.9 40000\r\n",
    b"PROXY TCP4  192.0.2.7 198.51.100.9 40000\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.9 40000 25 x\r\n",
    b"PROXY TCP4 192.0.2.7\t198.51.100.9 40000 25 1\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.9 40000 25\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.9 40000 25\r\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP\r\n",
    b"PROXY \r\n",
    b"PROXY  TCP4 192.0.2.7 198.51.100.9 40000 25\r\n",
    b"PROXY tcp4 192.0.2.7 198.51.100.9 40000 25\r\n",
    b"PROXY TCP5 192.0.2.7 198.51.100.9 40000 25\r\n",
    b"PROXY UDP4 192.0.2.7 198.51.100.9 40000 25\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN\n",
    b"PROXY UNKNOWN x\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::9 40000 25\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.9 40000 25\r\n",
    *(
        b"PROXY TCP4 %b 198.51.100.9 40000 25\r\n" % address
        for address in (
            b"192.0.2.07 192.0.2.256 192.0.2 192.0.2.7.1 0xc0.0.2.7 3221225991 192.0.2.-7 .0.2.7"
            b" 192.0.2. 192..2.7 192.0.2.7/32 [192.0.2.7] 192.0.2.\xb2 192.0.2.7\0 0.0.0.0 x"
        ).split()
    ),
    *(
        b"PROXY TCP6 %b 2001:db8::9 40000 25\r\n" % address
        for address in (
            b"2001:db8::7::1 2001:db8::7%eth0 2001:db8::g [2001:db8::7] 2001:db8:1:2:3:4:5:6:7"
            b" 2001:db8:::7 02001:db8::7 2001:db8::7/64 ::ffff:192.0.2.07 :: 0:0:0:0:0:0:0:0 :"
            b" ::ffff:0.0.0.0 ::\xb9"
        ).split()
    ),
    *(
        b"PROXY TCP4 192.0.2.7 198.51.100.9 %b\r\n" % ports
        for ports in (
            *(b"040000 25", b"40000 025", b"65536 25", b"40000 65536", b"-1 25", b"+1 25"),
            *(b"00 25", b"40000 99999999999", b"0x1 25", b"1_0 25", b"40000 \xb2", b"40000 25\0"),
        )
    ),
    # Version 2: the version, the command, the family, the transport.
    *(V2 + bytes((first,)) + b"\x11\0\x0c" + bytes(12) for first in (0, 1, 0x10, 0x22, 0x2F, 0x31)),
    *(V2 + b"\x21" + bytes((kind,)) + b"\0\x0c" + b"\1" * 12 for kind in (0x13, 0x1F, 0x41, 0xF1)),
    # Lengths.
    V2 + b"\x21\x11\0\x0b" + b"\1" * 11,
    V2 + b"\x21\x21\0\x0c" + b"\1" * 12,
    V2 + b"\x21\x31\0\xd7" + b"\1" * 215,
    V2 + b"\x21\x11\x10\x01" + b"\1" * 4097,
    V2 + b"\x20\0\xff\xff" + b"\1" * 65535,
    v2(0x11, "0.0.0.0", *IPV4[1:]),
    v2(0x21, "::", *IPV6[1:]),
    *(
        v2(0x11, *IPV4, vectors=rest)
        for rest in (b"\4", b"\4\0", b"\4\0\1", b"\x20\xff\xff" + b"x")
    ),
    v2(0x12, *IPV4, vectors=b"\4\0\1"),
    # Checksums.
    v2(0x11, *IPV4, vectors=vector(3, bytes(4))),
    v2(0x12, *IPV4, vectors=vector(3, bytes(4))),
    v2(0x11, *IPV4, vectors=vector(3, bytes(3))),
    with_checksum(v2(0x11, *IPV4, vectors=vector(3, bytes(4)) * 2)),
    V2 + b"\x20\0\0\7" + vector(3, bytes(4)),
    V2 + b"\x20\x11\0\x13" + bytes(12) + vector(3, bytes(4)),
    v2(0x11, *IPV4, vectors=vector(0x20, bytes(5)) * 2),
]
#: What begins as no header does.
NO_HEADER = [
    *(b"EHLO me\r\n", b"Q", b"\0", b"PROXY\r\n", b"proxy TCP4 ", b"P\r\n", b" PROXY", b"\n"),
    *(b"\x16\x03\x01\x02", b"\r\n\r\n\r\n", b"\r\r", V2[:11] + b"\r", b"\r\n\r\n\0\r\nQUIT\r\n"),
]


def read(data: bytes, most: int = 65536) -> tuple[bytes, bytes]:
    """The header as it is read from these bytes, `most` at a time; and what is left of them."""
    header = b""
    while count := missing(header):
        assert count > 0
        piece = data[len(header) :][: min(count, most)]
        if not piece:
            raise EOFError
        header += piece
    return header, data[len(header) :]


def ends(header: Header) -> tuple[str, str, int, int] | None:
    if header.source is None or header.destination is None:
        assert header.source is header.destination is None
        return None
    (source, source_port), (destination, port) = header.source, header.destination
    return source.decode(), destination.decode(), int(source_port), int(port)


@pytest.mark.parametrize("data", RIGHT)
@pytest.mark.parametrize("behind", [b"", b"EHLO x\r\n", b"\r\n", b"\n", b"\x16\x03\x01", b"PROXY "])
def test_what_is_right(data: bytes, behind: bytes) -> None:
    """Not one byte more is read, in pieces of any size."""
    for most in (1, 2, 3, 7, 65536):
        header, rest = read(data + behind, most)
        assert (header, rest) == (data, behind)
    assert ends(parse(data)) == RIGHT[data]
    local = data[12:13] == b"\x20"
    assert parse(data).kind == (b"PROXY" if RIGHT[data] else b"LOCAL" if local else b"UNKNOWN")


@pytest.mark.parametrize("data", RIGHT)
def test_every_truncation(data: bytes) -> None:
    """It is never whole, and never wrong."""
    for length in [*range(min(len(data), 240)), *range(max(0, len(data) - 2), len(data))]:
        with pytest.raises(EOFError):
            read(data[:length], 1 if length < 240 else 100)
        assert 0 < missing(data[:length]) <= len(data) - length


@pytest.mark.parametrize("data", WRONG)
def test_what_is_wrong(data: bytes) -> None:
    for most in (1, 65536):
        with pytest.raises(Malformed):
            parse(read(data + b"EHLO x\r\n", most)[0])


@pytest.mark.parametrize("data", NO_HEADER)
def test_what_is_no_header(data: bytes) -> None:
    for most in (1, 65536):
        with pytest.raises(NoHeader):
            read(data + b"x" * 20, most)


def test_a_line_has_107_bytes_at_most() -> None:
    longest = b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n"
    assert len(longest) == 107
    assert read(longest)[0] == longest
    for data in (b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n", b"PROXY UNKNOWN " + b"f" * 500):
        taken = b""
        with pytest.raises(Malformed, match="too long"):
            while count := missing(taken):
                taken = data[: len(taken) + count]
        assert len(taken) <= 107


# -- any ---------------------------------------------------------------------------

PORTS = st.integers(0, 65535)
ADDRESSES = st.tuples(
    *(st.ip_addresses(v=4).filter(int), st.ip_addresses(v=4), PORTS, PORTS)
) | st.tuples(*(st.ip_addresses(v=6).filter(int), st.ip_addresses(v=6), PORTS, PORTS))


def canonical(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


@given(
    ADDRESSES,
    st.booleans(),
    st.lists(
        st.tuples(st.integers(0, 255).filter(lambda k: k not in (3, 32)), st.binary(max_size=40)),
        max_size=4,
    ),
    st.booleans(),
    st.binary(max_size=40),
    st.integers(1, 20),
)
def test_any_header(
    addresses: tuple[IPv4Address, IPv4Address, int, int],
    binary: bool,
    vectors: list[tuple[int, bytes]],
    checksum: bool,
    behind: bytes,
    most: int,
) -> None:
    source, destination, *ports = addresses
    ends_of = (str(source), str(destination), ports[0], ports[1])
    four = source.version == 4
    if binary:
        more = b"".join(vector(kind, value) for kind, value in vectors)
        more += vector(3, bytes(4)) * checksum
        data = with_checksum(v2(0x11 if four else 0x21, *ends_of, vectors=more))
    else:
        data = v1("TCP4" if four else "TCP6", *ends_of)
    if canonical(source) == "0.0.0.0":
        return
    assert read(data + behind, most) == (data, behind)
    assert ends(parse(data)) == (canonical(source), canonical(destination), *ports)


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", V2, V2 + b"\x21"]),
    st.binary(),
)
def test_any_bytes(start: bytes, data: bytes) -> None:
    """They are a header, or refused; never more than a header can have is read."""
    try:
        header, rest = read(start + data)
        parse(header)
    except (Malformed, NoHeader, EOFError):
        return
    assert header + rest == start + data
    assert len(header) <= (16 + 4096 if header.startswith(V2) else 107)


@given(st.sampled_from(sorted(RIGHT)), st.data())
def test_any_bit_that_is_another(data: bytes, draw: st.DataObject) -> None:
    """It raises nothing else; with a checksum it is always noticed."""
    at = draw.draw(st.integers(0, len(data) * 8 - 1))
    changed = bytearray(data)
    changed[at // 8] ^= 1 << at % 8
    try:
        header, _ = read(bytes(changed))
        parse(header)
    except (Malformed, NoHeader, EOFError):
        return
    is_checked = vector(3, b"")[:1] + b"\0\4" in data[16:] and data.startswith(V2)
    # But for where it says that there is nothing to be checked.
    assert not is_checked or changed[12] == 0x20 or changed[13] >> 4 == 0 or at // 8 >= 16


# -- the checksum ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "found"),
    [  # RFC 3720, B.4, whose bytes are in the order of transmission
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_the_checksum(data: bytes, found: int) -> None:
    assert crc32c(data) == found


# -- TLS in front ------------------------------------------------------------------

VERSION, CIPHER = vector(0x21, b"TLSv1.3"), vector(0x23, b"TLS_AES_256_GCM_SHA384")


@pytest.mark.parametrize(
    ("ssl", "found"),
    [
        (None, None),
        (b"\0" + bytes(4), None),
        (b"\0" + bytes(4) + VERSION, None),
        (b"\1" + bytes(4) + VERSION + CIPHER, (b"TLSv1.3", b"TLS_AES_256_GCM_SHA384")),
        (b"\7" + b"\xff" * 4 + vector(0x22, b"cn") + VERSION, (b"TLSv1.3", b"unknown")),
    ],
)
def test_tls_in_front(ssl: bytes | None, found: tuple[bytes, bytes] | None) -> None:
    assert tls(ssl) == found


@pytest.mark.parametrize(
    "ssl",
    [
        b"",
        b"\1\0\0\0",
        b"\0" + bytes(4) + b"\x21",
        b"\1" + bytes(4),
        b"\1" + bytes(4) + CIPHER,
        b"\1" + bytes(4) + VERSION + b"\x23\0\1",
        b"\1" + bytes(4) + vector(0x21, b"TLSv1.3\nx"),
        b"\1" + bytes(4) + vector(0x21, b"TLS v1"),
        b"\1" + bytes(4) + vector(0x21, b""),
        b"\1" + bytes(4) + VERSION + vector(0x23, b"x\0"),
        b"\1" + bytes(4) + VERSION + vector(0x23, b"x" * 65),
    ],
)
def test_lies_on_tls(ssl: bytes) -> None:
    with pytest.raises(Malformed):
        tls(ssl)


def test_the_vector_on_tls_is_found() -> None:
    ssl = b"\1" + struct.pack("!I", 1) + VERSION
    data = v2(0x11, *IPV4, vectors=vector(4, b"x") + vector(0x20, ssl))
    assert parse(data).ssl == ssl
    assert parse(v2(0x11, *IPV4)).ssl is None
