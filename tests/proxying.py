"""PROXY headers, as balancers make them: by Python's own means, and not by our code."""

from __future__ import annotations

import ipaddress
import struct

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v1(family: str, source: str, destination: str, source_port: int, port: int) -> bytes:
    """A line of version 1."""
    return f"PROXY {family} {source} {destination} {source_port} {port}\r\n".encode()


def v2(
    kind: int,
    source: str,
    destination: str,
    source_port: int,
    port: int,
    vectors: bytes = b"",
) -> bytes:
    """A header of version 2 with the command PROXY; `kind` is the byte of family and transport."""
    addresses = b"".join(ipaddress.ip_address(text).packed for text in (source, destination))
    rest = addresses + struct.pack("!HH", source_port, port) + vectors
    return V2 + b"\x21" + bytes((kind,)) + struct.pack("!H", len(rest)) + rest


def vector(kind: int, value: bytes) -> bytes:
    """A type, a length and a value."""
    return struct.pack("!BH", kind, len(value)) + value


def with_checksum(header: bytes) -> bytes:
    """The header with its last CRC32C, which is zeros and ends it or is found behind it, right."""
    at = header.rfind(b"\3\0\4" + bytes(4))
    if at < 0:
        return header
    return header[: at + 3] + struct.pack("!I", _crc32c(header)) + header[at + 7 :]


def _crc32c(data: bytes) -> int:
    """Bit by bit, by the polynomial as RFC 9260 writes it."""
    register = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            top = register >> 31 ^ (byte >> bit & 1)
            register = register << 1 & 0xFFFFFFFF
            if top:
                register ^= 0x1EDC6F41
    reversed_bits = int(f"{register:032b}"[::-1], 2)
    return reversed_bits ^ 0xFFFFFFFF
