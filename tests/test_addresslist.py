"""Addresses and networks of a control file, against Python's ipaddress."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qsmtpd.net.addresslist import AddressList
from qsmtpd.net.ip import canonical


def addresses(*entries: bytes) -> AddressList:
    made = AddressList()
    assert all(made.add(entry) for entry in entries)
    assert len(made) == len(entries)
    return made


def is_mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """No client has such an address, but the IPv4 one that it is."""
    return address.version == 6 and address.ipv4_mapped is not None


def text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """As a session has it."""
    found = canonical(str(address).encode())
    assert found is not None
    return found


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_a_network_is_that_of_ipaddress(
    one: ipaddress.IPv4Address | ipaddress.IPv6Address,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
    bits: int,
) -> None:
    bits = min(bits, one.max_prefixlen)
    network = ipaddress.ip_network((one, bits), strict=False)
    entry = str(network).encode()
    assume(not any(is_mapped(address) for address in (one, other, network.network_address)))
    made = addresses(entry)
    assert text(one) in made
    assert (text(other) in made) == (text(other) == text(one) or other in network)
    assert made.everybody == (bits == 0)
    assert text(one) in addresses(text(one).upper())


@given(st.ip_addresses(), st.integers(1, 40))
def test_the_beginning_of_an_address(
    one: ipaddress.IPv4Address | ipaddress.IPv6Address, place: int
) -> None:
    address = text(one)
    cut = max(address.rfind(b".", 0, place), address.rfind(b":", 0, place)) + 1
    if address[:cut] not in (b"", b":"):
        assert address in addresses(address[:cut])


@pytest.mark.parametrize(
    "entry",
    [
        "", " ", "/", "/8", "::", "0.0.0.0", "::1/128 ", "192.0.2.1/24", "192.0.2.0/33",
        "192.0.2.0/08", "192.0.2.0/-1", "192.0.2.0/+8", "192.0.2.0/2 4", "192.0.2.0/",
        "192.0.2/24", "192.0.2.0/24/24", "192.0.02.1", "192.0.2.256", "2001:db8::/129",
        "2001:db8::1/64", "fe80::1%eth0", "fe80::%1/64", "::ffff:192.0.2.0/120", "1.2.3.4.", ".",
        "1..", "256.", "01.", "12345:", "00:", "g:", "1:2:3:4:5:6:7:8:", "client.example", "*",
        "[192.0.2.1]", "192.0.2.1-9", "\xb9.", "\xb2/1",
    ],
)  # fmt: skip
def test_what_makes_no_sense(entry: str) -> None:
    made = AddressList()
    assert made.add(entry.encode("utf-8")) == (entry in ("::", "0.0.0.0"))
    assert len(made) == (entry in ("::", "0.0.0.0"))
