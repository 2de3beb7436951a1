"""The small modules, each by itself."""

from __future__ import annotations

import getopt
import ipaddress
import os
import re
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from harness import BIN
from hypothesis import given
from hypothesis import strategies as st
from run import parse_log

from qsmtpd.child.spawn import Environ, child_environ
from qsmtpd.facts import Client, ControlError, Peer
from qsmtpd.log import Log
from qsmtpd.net import ip as address
from qsmtpd.net import ucspi
from qsmtpd.net.channel import SessionOver
from qsmtpd.net.descriptors import Gone, Timeout
from qsmtpd.net.dns.message import reverse
from qsmtpd.net.prefixes import is_address, prefixes
from qsmtpd.net.tcprules import keys
from qsmtpd.server import arguments as arguments_of
from qsmtpd.server.accepted import network, plain
from qsmtpd.session.ending import ending_of
from qsmtpd.smtp import replies, states
from qsmtpd.smtp.address import parse_parameters, parse_path
from qsmtpd.smtp.command import parse_command
from qsmtpd.smtp.received import received

# -- the environment of programs --------------------------------------------

VARIABLES = st.dictionaries(
    st.sampled_from(
        b"|A|TCPREMOTEIP|TCPREMOTEHOST|RELAYCLIENT|SMTPUTF8|KEYFILE|KEYFILE:x|LD_X|PYTHONX".split(
            b"|"
        )
    ),
    st.sampled_from([b"", b"x", b"y", b"() {", b"() { :;}; echo no", b"()"]),
)


@given(common=VARIABLES, several=st.lists(VARIABLES, min_size=1, max_size=3), again=VARIABLES)
def test_an_environment_in_two_parts(
    common: dict[bytes, bytes], several: list[dict[bytes, bytes]], again: dict[bytes, bytes]
) -> None:
    """What is common is looked through once, and it is as if all had been each time."""
    for shared in (common, again, common):
        for facts in several:
            whole = {**shared, **facts}
            environ = Environ(shared, facts)
            assert environ == whole
            found = child_environ(environ)
            assert found == child_environ(whole)
            found[b"A"] = b"of this one alone"


# -- ucspi -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "ip", "port"),
    [
        ({}, b"unknown", None),
        ({b"TCPREMOTEIP": b"192.0.2.1", b"TCPREMOTEPORT": b"25"}, b"192.0.2.1", b"25"),
        ({b"PROTO": b"TCP6", b"TCP6REMOTEIP": b"2001:DB8:0::1"}, b"2001:db8::1", None),
        ({b"TCP6REMOTEIP": b"::ffff:192.0.2.1"}, b"192.0.2.1", None),
        ({b"PROTO": b"SSL", b"SSLREMOTEIP": b"192.0.2.1"}, b"192.0.2.1", None),
        # One family only: the port of another one is a leftover.
        ({b"TCPREMOTEIP": b"192.0.2.1", b"SSLREMOTEPORT": b"25"}, b"192.0.2.1", None),
        (
            {b"PROTO": b"TCP6", b"TCPREMOTEIP": b"192.0.2.1", b"TCP6REMOTEIP": b"::1"},
            b"::1",
            None,
        ),
        ({b"REMOTE_ADDR": b"::1", b"REMOTE_PORT": b"9"}, b"::1", b"9"),  # systemd
        ({b"REMOTE_HOST": b"192.0.2.1", b"REMOTE_PORT": b"9"}, b"192.0.2.1", b"9"),  # stunnel
        (
            {b"SOCAT_PEERADDR": b"[0000:0000:0000:0000:0000:0000:0000:0001]"},
            b"::1",
            None,
        ),
        ({b"TCPREMOTEIP": b"fe80::1%eth0 x"}, b"fe80::1", None),
        ({b"TCPREMOTEIP": b"010.0.0.1"}, b"unknown", None),
        ({b"TCPREMOTEIP": b"1.2.3"}, b"unknown", None),
        ({b"TCPREMOTEIP": b"1.2.3.4\nRELAYCLIENT="}, b"unknown", None),
        ({b"TCPREMOTEIP": b"\xd9\xa3.2.3.4", b"TCPREMOTEPORT": b"x"}, b"unknown", None),
        ({b"TCPREMOTEIP": b""}, b"unknown", None),
    ],
)
def test_peer(environ: dict[bytes, bytes], ip: bytes, port: bytes | None) -> None:
    peer = ucspi.read_peer(environ)
    assert (peer.ip, peer.port, peer.relay) == (ip, port, None)


def test_peer_names() -> None:
    peer = ucspi.read_peer({b"TCPREMOTEIP": b"192.0.2.1", b"TCPLOCALIP": b"192.0.2.9"})
    assert (peer.host, peer.info, peer.local_host) == (b"unknown", None, b"192.0.2.9")
    peer = ucspi.read_peer({b"RELAYCLIENT": b"", b"TCPLOCALHOST": b"mx"})
    assert (peer.relay, peer.local_host) == (b"", b"mx")


def test_local_addresses() -> None:
    for ours in (b"127.0.0.1", b"0.0.0.0"):
        assert address.is_local(ours)
    for other in (b"192.0.2.200", b"224.0.0.1", b"255.255.255.255", b"2001:db8::1", b"x", b""):
        assert not address.is_local(other)


def test_local_addresses_of_a_link() -> None:
    """The kernel wants to know of which link; a literal does not say it."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        lines = []
    fields = [line.split() for line in lines]
    of_links = [bytes.fromhex(words[0]) for words in fields if words[3] == "20"]
    if not of_links:
        pytest.skip("no interface has a link-local address here")
    for packed in of_links:
        assert address.is_local(socket.inet_ntop(socket.AF_INET6, packed).encode())
    assert not address.is_local(b"fe80::dead:beef:dead:beef")


def test_prefixes() -> None:
    assert list(prefixes(b"192.0.2.1")) == [b"192.0.2.", b"192.0.", b"192."]
    assert list(prefixes(b"2001:db8::1")) == [b"2001:db8::", b"2001:db8:", b"2001:"]
    assert list(prefixes(b"::1")) == [b"::", b":"]
    assert list(prefixes(b"unknown")) == list(prefixes(b"")) == []


GROUPS = st.sampled_from(
    ["0", "1", "01", "ffff", "00db8", "DB8", "", "192.0.2.1", "1.2", "256", "g"]
)
#: Addresses in whatever spelling, and what is nearly one.
SPELLINGS = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda found: found.exploded.upper()),
    st.integers(0, 2**48 - 1).map(lambda number: str(ipaddress.IPv6Address(number))),
    st.lists(GROUPS, max_size=9).map(":".join),
    st.lists(st.sampled_from(["0", "9", "255", "256", "09", ""]), max_size=5).map(".".join),
    st.text("0123456789abcdefABCDEFx:.%/ \n\0[]", max_size=45),
)


@given(SPELLINGS)
def test_canonical_addresses(text: str) -> None:
    """As Python's ipaddress has them, whatever the C library makes of ::102:304."""
    expected: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    if "%" not in text:
        with suppress(ValueError):
            expected = ipaddress.ip_address(text)
            expected = getattr(expected, "ipv4_mapped", None) or expected
    found = address.canonical(text.encode())
    assert found == (None if expected is None else str(expected).encode())
    packed = address.packed_of(text.encode())
    assert packed == (None if expected is None else expected.packed)
    if packed is not None and expected is not None:
        assert is_address(str(expected).encode())
        pointer = expected.reverse_pointer.encode().removesuffix(b".ip6.arpa")
        assert reverse(str(expected).encode()) == pointer.removesuffix(b".in-addr.arpa")


LETTERS, WORDS = "1hb:u:", ["drain=", "check", "quiet"]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "--drain",
                    "--drain=",
                    "--drain=9",
                    "--check",
                    "--check=",
                    "--quiet",
                    "--",
                    "-",
                    "",
                ]
            ),
            st.sampled_from(["--drai", "--=", "--x", "---", "0", "25", "a b", "-:", "-b:", "-é"]),
            st.text("1hbu:x=-", max_size=4).map("-".__add__),
        ),
        max_size=6,
    )
)
def test_options_of_a_command_line(arguments: list[str]) -> None:
    """As Python's getopt has them, but that a long one is written in full."""
    try:
        expected = getopt.getopt(arguments, LETTERS, WORDS)
    except getopt.GetoptError:
        expected = None
    try:
        found = arguments_of.split(arguments, LETTERS, WORDS)
    except ValueError:
        found = None
    full = {"--drain", "--check", "--quiet"}
    short = {each for each in arguments if each.startswith("--") and each != "--"}
    if {each.partition("=")[0] for each in short} <= full:
        assert found == expected
    else:
        assert found is None or found == expected


# -- log -------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(["a", "b_c", "reply"]), st.binary(max_size=200)))
def test_a_log_line_says_what_was_given(fields: dict[str, bytes]) -> None:
    reader, writer = os.pipe()
    Log(writer, pid=1).line("test", **fields)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        line = stream.read()
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in line[:-1])
    said = parse_log(line[:-1].decode())
    assert said == {"event": "test", "pid": "1"} | {
        key: value.decode("latin-1") for key, value in fields.items()
    }


def test_a_long_log_line_is_cut() -> None:
    reader, writer = os.pipe()
    Log(writer).line("test", **{f"k{n}": b"\xff" * 10_000 for n in range(20)})
    line = os.read(reader, 65536)
    assert len(line) <= 4096 and line.endswith(b"\n")
    os.close(reader)
    os.close(writer)


def test_a_full_log_is_never_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    log = Log(writer)
    log.line("one")
    log.line("two")
    assert log.dropped == 2
    while len(os.read(reader, 1 << 20)) == 1 << 20:
        pass
    log.line("three")
    assert b"event=three dropped=2\n" in os.read(reader, 65536)
    os.close(reader)
    log.line("four")  # nobody reads any more
    assert log.dropped == 1
    os.close(writer)
    log.line("five")
    assert log.dropped == 2


def test_a_line_of_another_form() -> None:
    """It is one line whatever is in it, and it does not hide that lines were lost."""
    reader, writer = os.pipe()
    log = Log(writer, pid=1)
    log.form = "spamcontrol"
    log.line("refused", a=1)
    log.dropped = 3
    log.raw(b"x: y=z\nforged\r\0\xff" + b"." * 10_000)
    log.line("loud", verdict="accepted", reply=b"reREJECTed", to=b"Accept")
    first, second = os.read(reader, 65536).splitlines(keepends=True)
    assert first.startswith(b"x: y=z?forged???...") and len(first) == 4095
    assert second == (
        b'event=loud pid=1 verdict=accepted reply="re\\x52EJECTed" to="\\x41ccept" dropped=3\n'
    )
    said = parse_log(second.decode()[:-1])
    assert (said["reply"], said["to"]) == ("reREJECTed", "Accept")
    os.close(reader)
    log.raw(b"nobody reads it")
    assert log.dropped == 1
    os.close(writer)


# -- received --------------------------------------------------------------


def test_received() -> None:
    client = Client(Peer(ip=b"192.0.2.1", host=b"client.example", local_host=b"mx.example"))
    assert received(client, 951782400.9) == (
        b"Received: from client.example (192.0.2.1)\n"
        b"  by mx.example with SMTP; 29 Feb 2000 00:00:00 -0000\n"
    )
    client.helo, client.esmtp = b"CLIENT.example", True
    assert b"from client.example (192.0.2.1)\n  by mx.example with ESMTP; " in received(client, 0)
    client.helo = b""
    assert b"(HELO ) (192.0.2.1)" in received(client, 0)
    client.peer.info = b"ident"
    assert b"(HELO ) (ident@192.0.2.1)" in received(client, 0)


@pytest.mark.parametrize(
    "hostile",
    [b"x)\n\tby evil; (", b"a\r\nX-Inj: 1", b"A" * 300_000, b"\0\x80\xff", b"() { :;}; x"],
)
def test_received_cannot_be_forged(hostile: bytes) -> None:
    client = Client(Peer(ip=b"192.0.2.1", host=hostile, info=hostile, local_host=hostile))
    client.helo = hostile + b"!"
    lines = received(client, 0).split(b"\n")
    assert len(lines) == 3 and lines[2] == b""
    assert lines[0].startswith(b"Received: from ") and lines[1].startswith(b"  by ")
    assert all(len(line) <= 998 and line.isascii() for line in lines)
    assert received(client, 0).count(b"(") == 2


# -- smtp ------------------------------------------------------------------


def test_every_reply_is_one_clean_line() -> None:
    constants = {name: reply for name, reply in vars(replies).items() if name.isupper()}
    assert len(constants) > 40
    for name, reply in constants.items():
        wire = reply.wire()
        assert re.fullmatch(rb"[2-5][0-9]{2} [ -~]{1,505}", wire), name
        assert replies.with_status(reply.code, wire[4:]) == reply, name
        assert reply.refused == (wire[:1] in b"45"), name
        assert reply.temporary == (wire[:1] == b"4"), name
        assert reply.refused or not reply.error, name


def test_the_state_table_is_whole() -> None:
    assert len(states.REFUSALS) == 5
    assert set(states.NEXT.values()) <= set(states.REFUSALS)
    for refusals in states.REFUSALS.values():
        assert all(reply.error for reply in refusals.values())


@pytest.mark.parametrize(
    ("text", "status", "wire"),
    [
        (b"no (#5.7.1)", b"5.7.1", b"550 no (#5.7.1)"),
        (b"no (#5.7.1) ", b"", b"550 no (#5.7.1) "),
        (b"no (#5.7)", b"", b"550 no (#5.7)"),
        (b"no (#3.7.1)", b"", b"550 no (#3.7.1)"),
        (b"no (#5.7.1000)", b"", b"550 no (#5.7.1000)"),
        (b"no (#5..1)", b"", b"550 no (#5..1)"),
        (b"(#5.7.1)", b"", b"550 (#5.7.1)"),
        (b"a (#5.1.1) b (#5.7.1)", b"5.7.1", b"550 a (#5.1.1) b (#5.7.1)"),
        (b"a\nb (#5.7.1)", b"5.7.1", b"550-a\r\n550 b (#5.7.1)"),
    ],
)
def test_the_status_of_a_text(text: bytes, status: bytes, wire: bytes) -> None:
    reply = replies.with_status(550, text)
    assert (reply.status, reply.wire()) == (status, wire)


@given(st.binary(max_size=64))
def test_any_line_parses(line: bytes) -> None:
    verb, argument = parse_command(line)
    assert b" " not in verb
    assert not argument.startswith(b" ") and not argument.endswith((b" ", b"\t"))
    address, rest = parse_path(argument)
    assert len(address) + len(rest) <= len(argument)
    try:
        parameters = parse_parameters(rest)
    except ValueError:
        return
    for keyword, value in parameters.items():
        assert keyword.isascii() and keyword == keyword.upper() and keyword
        assert value is None or (value and value.isascii())


@given(st.binary(max_size=30).filter(lambda b: b"\0" not in b))
def test_a_quoted_address_comes_out_as_it_was_meant(box: bytes) -> None:
    quoted = box.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    assert parse_path(b'TO:<"' + quoted + b'"@x.example> A') == (box + b"@x.example", b" A")


# -- programs --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--version"], 0, b"qsmtpd 0."),
        (["--help"], 0, b"usage: qsmtpd"),
        (["--nonsense"], 111, b""),
    ],
)
def test_options(arguments: list[str], status: int, text: bytes) -> None:
    done = subprocess.run([BIN / "qsmtpd", *arguments], capture_output=True, check=False)
    assert done.returncode == status
    assert done.stdout.startswith(text)


def test_why_a_session_ends() -> None:
    """The rows of the reply table that a conversation cannot bring about at will."""
    reader, writer = os.pipe()
    log = Log(writer)
    for error, end, reply in (
        (MemoryError(), "memory", b"421 out of memory (#4.3.0)"),
        (ControlError("control/x", "y"), "control", b"421 unable to read controls (#4.3.0)"),
        (SessionOver(), "session-limit", b"421 session time limit reached (#4.4.2)"),
        (Timeout(), "timeout", b"421 timeout (#4.4.2)"),
        (Gone(), "client-gone", None),
        (ValueError("x\ny"), "trouble", b"421 internal trouble, try again later (#4.3.0)"),
    ):
        ending = ending_of(error, log)
        said = None if ending.reply is None else ending.reply.wire()
        assert (ending.word, said, ending.status) == (end, reply, 1)
    os.close(writer)
    with os.fdopen(reader) as stream:
        lines = [parse_log(line.rstrip("\n")) for line in stream]
    assert [line["event"] for line in lines] == ["control", "trouble"]
    assert lines[1]["reason"] == "x\ny"


# -- qsmtpd-server -----------------------------------------------------------


def test_what_counts_as_one_client() -> None:
    assert network("192.0.2.1") != network("192.0.2.2")
    assert network("2001:db8::1") == network("2001:db8:0:0:ffff::")
    assert network("2001:db8::1") != network("2001:db8:0:1::1")
    assert plain("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain("fe80::1%eth0") == "fe80::1"


def test_where_rules_for_ipv6_stand() -> None:
    found = list(keys(b"2001:db8::1:a", b"h.example"))
    addresses = [b"2001:db8::1:a", b"2001:db8::1:", b"2001:db8::", b"2001:db8:", b"2001:"]
    names = [b"=h.example", b"=.example", b"="]
    assert found == [addresses[0], names[0], *addresses[1:], *names[1:], b""]
