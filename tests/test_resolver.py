"""The resolver of a session, against a server of real packets (dns_server.py)."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, process_time

import dns.ipv4
import dns.ipv6
import dns.message
import dns.name
import dns.rrset
import pytest
from dns_server import DnsServer
from filters import NOWHERE
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.facts import Client, ControlError, Peer
from qsmtpd.log import Log
from qsmtpd.net.dns import exchange, message, settings
from qsmtpd.net.dns.lookup import PASS, Dns
from qsmtpd.net.dns.message import Answer, Question, domain, pointer, reverse
from qsmtpd.net.dns.resolver import Resolver
from qsmtpd.net.dns.settings import DnsSettings, of_resolv_conf

pytestmark = pytest.mark.slow

ZONE = """
    example.org     MX    10 mx.Example.org
    example.org     MX    20 mx2.example.org
    example.org     TXT   "v=spf1 mx" " -all"
    example.org     NS    ns.example.org
    mx.example.org  A     192.0.2.7
    mx.example.org  AAAA  2001:db8::7
    null.example    MX    0 .
    *.bl.example    A     127.0.0.2
    7.2.0.192.in-addr.arpa  PTR  MX.example.org
    old.example     CNAME Old2.example
    old2.example    CNAME example.org
    away.example    CNAME nowhere.example.net
    l1.example      CNAME l2.example
    l2.example      CNAME l1.example
"""


class Session:
    """A session's view of one server, or of several."""

    def __init__(self, *where: str, seconds: float = 60, session: float = 60) -> None:
        raw = {b"DNSCACHEIP": ",".join(where).encode()}
        self.client = Client(Peer())
        read = DnsSettings(Settings(ControlFiles(b"/tmp"), raw))
        read.timeout, read.session = seconds, session  # a test has no whole seconds to wait
        self.resolver = Resolver(read, self.client.counters)

    def ask(self, name: str | bytes, type: str = "A") -> Answer:
        """One question, of a command of its own."""
        self.client.counters.commands += 1
        raw = name if isinstance(name, bytes) else name.encode()
        (answer,) = self.resolver.ask((raw, type))
        return answer


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer(ZONE) as server:
        yield server


@pytest.mark.parametrize(
    ("name", "type", "records"),
    [
        ("example.org", "MX", ((10, b"mx.example.org"), (20, b"mx2.example.org"))),
        ("EXAMPLE.org.", "TXT", (b"v=spf1 mx -all",)),
        ("example.org", "NS", (b"ns.example.org",)),
        ("mx.example.org", "A", (b"192.0.2.7",)),
        ("mx.example.org", "AAAA", (b"2001:db8::7",)),
        ("null.example", "MX", ((0, b"."),)),
        ("2.0.0.127.bl.example", "A", (b"127.0.0.2",)),
        ("7.2.0.192.in-addr.arpa", "PTR", (b"mx.example.org",)),
        ("old.example", "MX", ((10, b"mx.example.org"), (20, b"mx2.example.org"))),
        ("old.example", "CNAME", (b"old2.example",)),
    ],
)
def test_yes(server: DnsServer, name: str, type: str, records: tuple[object, ...]) -> None:
    answer = Session(server.where).ask(name, type)
    assert (answer.records, answer.no_name, answer.trouble) == (records, False, "")


@pytest.mark.parametrize(
    ("name", "type", "no_name"),
    [
        ("example.org", "A", False),
        ("org", "A", False),
        ("no.example.org", "A", True),
        ("old.example", "A", False),
        ("away.example", "A", True),
    ],
)
def test_no(server: DnsServer, name: str, type: str, no_name: bool) -> None:
    answer = Session(server.where).ask(name, type)
    assert (answer.records, answer.no_name, answer.trouble) == ((), no_name, "")


@pytest.mark.parametrize("type", ["A", "MX", "TXT"])
@pytest.mark.parametrize(
    ("behaviour", "trouble"),
    [
        ("servfail", "SERVFAIL"),
        ("refused", "REFUSED"),
        ("formerr", "FORMERR"),
        ("notimp", "NOTIMP"),
        ("lame", "no recursion"),
        ("tcp-half", "an answer without an end"),
        ("tcp-refused", "an answer without an end"),
    ],
)
def test_could_not_tell_at_once(server: DnsServer, behaviour: str, trouble: str, type: str) -> None:
    server.do("example.org", behaviour)
    start = monotonic()
    answer = Session(server.where, seconds=60).ask("example.org", type)
    assert (answer.records, answer.no_name, answer.trouble) == ((), False, trouble)
    assert monotonic() - start < 50


@pytest.mark.parametrize(
    ("behaviour", "trouble"),
    [
        ("silent", "timeout"),
        ("elsewhere", "timeout"),
        ("flood", "no answer that makes sense"),
        ("tcp-silent", "timeout"),
        ("half", "no answer that makes sense"),
        ("garbage", "no answer that makes sense"),
        ("wrong-id", "no answer that makes sense"),
        ("wrong-name", "no answer that makes sense"),
        ("wrong-type", "no answer that makes sense"),
    ],
)
def test_could_not_tell_in_time(server: DnsServer, behaviour: str, trouble: str) -> None:
    server.do("mx.example.org", behaviour)
    resolver = Session(server.where, seconds=0.3)
    answer = resolver.ask("mx.example.org")
    assert (answer.records, answer.no_name, answer.trouble) == ((), False, trouble)
    assert resolver.ask("7.2.0.192.in-addr.arpa", "PTR").records, "others are not in its way"


@pytest.mark.parametrize("behaviour", [("late", "0.2"), ("spoofed",), ("tcp",), ("tcp-slow",)])
def test_an_answer_all_the_same(server: DnsServer, behaviour: tuple[str, ...]) -> None:
    server.do("mx.example.org", *behaviour)
    assert Session(server.where, seconds=60).ask("mx.example.org").records == (b"192.0.2.7",)
    assert bool(server.asked_by_tcp) == behaviour[0].startswith("tcp")


def test_a_late_answer_to_the_first_try_counts(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "FIRST_WAIT", 0.05)
    server.do("mx.example.org", "late", "0.5")
    assert Session(server.where, seconds=60).ask("mx.example.org").records
    assert len(server.asked) > 2
    assert len(set(server.sources)) == len(server.asked), "each try has a port and an id of its own"


def test_what_is_long_comes_by_tcp(server: DnsServer, one_try: None) -> None:
    server.add("big.example", "TXT", "x" * 60000)
    for number in range(4000):
        server.add("wide.example", "A", f"10.0.{number // 256}.{number % 256}")
    resolver = Session(server.where, seconds=60)
    assert resolver.ask("big.example", "TXT").records == (b"x" * 60000,)
    assert len(resolver.ask("wide.example").records) == 4000
    assert server.asked_by_tcp == [("big.example", "TXT"), ("wide.example", "A")]


def test_aliases_without_end(server: DnsServer) -> None:
    assert Session(server.where).ask("l1.example").trouble == "more than 16 aliases"


@pytest.mark.parametrize("dead", ["silent", "closed", "servfail"])
def test_the_next_server(server: DnsServer, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "FIRST_WAIT", 0.1)
    with DnsServer() as other:
        other.do("mx.example.org", dead)
        other.do("example.org", dead)
        where = other.where
        if dead == "closed":
            where = f"127.0.0.1:{free_port()}"
        resolver = Session(where, server.where, seconds=60)
        assert resolver.ask("mx.example.org").records
        before = len(other.asked)
        assert resolver.ask("example.org", "MX").records
        assert len(other.asked) == before, "who has answered is asked first"


def test_ipv6() -> None:
    try:
        server = DnsServer(ZONE, "::1")
    except OSError as error:
        pytest.skip(f"there is no IPv6: {error}")
    with server:
        assert Session(server.where).ask("mx.example.org").records


def test_what_was_learnt_is_kept(server: DnsServer, one_try: None) -> None:
    resolver = Session(server.where, seconds=60)
    for _ in range(3):
        assert resolver.ask("mx.example.org").records
        assert resolver.ask("MX.example.org.").records
        assert resolver.ask("no.example.org").no_name
    assert server.asked == [("mx.example.org", "A"), ("no.example.org", "A")]


def test_many_questions_at_once(server: DnsServer) -> None:
    names = [b"%d.bl.example" % number for number in range(200)]
    for number in range(5):
        server.do(names[number], "late", "0.3")
    resolver = Session(server.where, seconds=60).resolver
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    answers = resolver.ask(*((name, "A") for name in names), (b"no.example", "A"), (b"..", "A"))
    assert [answer.name for answer in answers] == [*names, b"no.example", b".."]
    assert all(answer.records for answer in answers[:-2])
    assert answers[-2].no_name and answers[-1].no_name
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_few_descriptors(server: DnsServer) -> None:
    """Questions wait for those of others; with none at all, nobody can tell."""
    resolver = Session(server.where, seconds=60).resolver
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    questions = [(b"%d.bl.example" % number, "A") for number in range(40)]
    taken: list[int] = []
    try:
        while len(taken) < 4:
            taken.append(os.open("/", os.O_RDONLY))
        # None at or above the limit can be had, whichever below it are open.
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, limits[1]))
        none = resolver.ask(*questions)
        while taken:
            os.close(taken.pop())
        resolver = Session(server.where, seconds=60).resolver
        some = resolver.ask(*questions)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)
    assert {answer.trouble for answer in none} == {os.strerror(errno.EMFILE)}
    assert all(answer.records for answer in some)


def test_the_time_of_a_command(server: DnsServer) -> None:
    """All questions of one command share it: the second one has no time left."""
    server.do("mx.example.org", "silent")
    server.do("null.example", "silent")
    client = Session(server.where, seconds=0.3, session=60)
    assert client.resolver.ask((b"mx.example.org", "A"))[0].trouble == "timeout"
    before = len(server.asked)
    assert client.resolver.ask((b"null.example", "MX"))[0].trouble == "timeout"
    assert len(server.asked) == before
    assert client.resolver.ask((b"mx.example.org", "A"))[0].trouble, "that is kept, too"
    assert client.ask("example.org", "MX").records, "the next command has time again"


def test_the_time_of_a_session(server: DnsServer) -> None:
    server.do("mx.example.org", "silent")
    client = Session(server.where, seconds=0.3, session=0.3)
    assert client.ask("example.org", "MX").records
    assert client.ask("mx.example.org").trouble == "timeout"
    before = len(server.asked)
    assert client.ask("null.example", "MX").trouble == "timeout"
    assert len(server.asked) == before
    assert client.ask("example.org", "MX").records, "what is known is still known"


# -- names -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"Example.ORG", b"example.org"),
        (b"example.org.", b"example.org"),
        (b"a", b"a"),
        (b"_dmarc.x", b"_dmarc.x"),
        (b"a/b\\c.x", b"a/b\\c.x"),
        ("b\u00fccher.example".encode(), b"xn--bcher-kva.example"),
        (b"x" * 63 + b".y", b"x" * 63 + b".y"),
        (b".".join([b"x" * 63] * 3 + [b"y" * 61]), b".".join([b"x" * 63] * 3 + [b"y" * 61])),
        (b".".join([b"x" * 63] * 3 + [b"y" * 62]), None),
        (b"x" * 64, None),
        (b"", None),
        (b".", None),
        (b"..", None),
        (b"a..b", None),
        (b".a", None),
        (b"a..", None),
        (b"a b", b"a b"),
        (b"a\0b", None),
        (b"a\r\nb", None),
        (b"\xff\xfe", None),
        (b"192.0.2.1", None),
        (b"192.0.2.1.", None),
        (b"1.2.0.192.in-addr.arpa", b"1.2.0.192.in-addr.arpa"),
        (b"\xc3\xbc" * 300, None),
    ],
)
def test_names(text: bytes, name: bytes | None) -> None:
    assert domain(text) == name


@given(st.binary(max_size=300) | st.lists(st.binary(max_size=70), max_size=6).map(b".".join))
def test_any_bytes_are_a_name_or_none(text: bytes) -> None:
    name = domain(text)
    if name is not None:
        assert domain(name) == name
        wire = Question(name, "A").wire(b"ab")
        assert len(wire) <= message.HEADER + 255 + 4


def test_no_name_is_not_asked_for(server: DnsServer) -> None:
    client = Session(server.where)
    for text in (b"", b"a..b", b"x" * 64, b"\xff", b"a\tb", b"x." * 200):
        assert client.ask(text).no_name
    assert server.asked == []


def test_addresses_backwards() -> None:
    assert reverse(b"192.0.2.1") == b"1.2.0.192"
    assert pointer(b"192.0.2.1") == b"1.2.0.192.in-addr.arpa"
    assert reverse(b"2001:db8::1") == b"1." + b"0." * 23 + b"8.b.d.0.1.0.0.2"
    assert pointer(b"2001:db8::1") == b"1." + b"0." * 23 + b"8.b.d.0.1.0.0.2.ip6.arpa"
    assert reverse(b"unknown") is None
    assert pointer(b"unknown") is None


# -- answers of anybody ------------------------------------------------------

QUESTION = Question(b"mx.example.org", "A")
RIGHT = DnsServer(ZONE).answer(QUESTION.wire(b"ab"))
HEAD = len(QUESTION.wire(b"ab"))


def response(question: Question, records: int, body: bytes) -> bytes:
    """A response with this number of records in the answer section."""
    wire = question.wire(b"ab")
    counts = b"\0\1" + records.to_bytes(2, "big") + bytes(4)
    return b"ab\x81\x80" + counts + wire[message.HEADER :] + body


@given(st.binary(max_size=200), st.sampled_from(sorted(message.TYPES)))
def test_answers_of_any_bytes(body: bytes, type: str) -> None:
    question = Question(b"mx.example.org", type)
    for records in (1, 65535):
        wire = response(question, records, body)
        assert question.is_answered_by(wire, b"ab")
        answer = question.read(wire)
        assert answer is None or isinstance(answer, Answer)


@given(st.integers(0, len(RIGHT) - 1), st.integers(1, 255))
def test_an_answer_with_one_byte_changed(at: int, change: int) -> None:
    wire = RIGHT[:at] + bytes((RIGHT[at] ^ change,)) + RIGHT[at + 1 :]
    if QUESTION.is_answered_by(wire, b"ab"):
        answer = QUESTION.read(wire)
        assert wire[message.HEADER : HEAD].lower() == RIGHT[message.HEADER : HEAD].lower()
        assert answer is None or isinstance(answer, Answer)


@given(st.integers(0, len(RIGHT)))
def test_a_part_of_an_answer(length: int) -> None:
    wire = RIGHT[:length]
    if length < len(RIGHT) and QUESTION.is_answered_by(wire, b"ab"):
        assert QUESTION.read(wire) is None


NAMES = st.lists(st.binary(min_size=1, max_size=20), max_size=4).map(
    lambda labels: dns.name.Name([*labels, b""])
)


@given(
    st.sampled_from([b"mx.example.org", b"a.b"]),
    st.sampled_from(sorted(message.TYPES)),
    st.lists(st.tuples(st.booleans(), NAMES, st.integers(0, 65535), st.binary(max_size=600))),
)
def test_what_a_library_writes(
    name: bytes, type: str, records: list[tuple[bool, dns.name.Name, int, bytes]]
) -> None:
    """Messages of dnspython's, with compressed names: its records of the name are ours."""
    query = dns.message.make_query(dns.name.from_text(name.decode()), type)
    query.id = int.from_bytes(b"ab", "big")
    made = dns.message.make_response(query, recursion_available=True)
    expected = []
    for ours, other, number, text in records:
        owner = dns.name.from_text(name.decode().upper()) if ours else other
        value = {
            "A": dns.ipv4.inet_ntoa(number.to_bytes(4, "big")),
            "AAAA": dns.ipv6.inet_ntoa(number.to_bytes(16, "big")),
            "MX": f"{number} {other}",
            "TXT": " ".join(f'"{text[at : at + 200].hex()}"' for at in range(0, 400, 200)),
        }.get(type, str(other))
        made.answer.append(dns.rrset.from_text(owner, 1, "IN", type, value))
        if owner == dns.name.from_text(name.decode()):
            shown = other.to_text(omit_final_dot=True).lower().encode()
            expected.append(
                {"MX": (number, shown), "TXT": text[:400].hex().encode()}.get(
                    type, value.encode() if type in ("A", "AAAA") else shown
                )
            )
    question = Question(name, type)
    wire = made.to_wire(max_size=65535)
    assert question.is_answered_by(wire, b"ab")
    answer = question.read(wire)
    assert answer is not None
    assert [_plainly(value) for value in answer.records] == [_plainly(value) for value in expected]


def _plainly(value: object) -> object:
    """Of a name, what is the same whichever bytes stand as \\DDD and which as \\c."""
    if isinstance(value, tuple):
        return value[0], _plainly(value[1])
    assert isinstance(value, bytes)
    return dns.name.from_text(value.decode("ascii")) if value != b"." else value


#: 64 KB that take long to read for who reads all of it: names that lead to long names.
LONG = b"\1x" * 110 + b"\xc0\x0c"
POINTER = (0xC000 + HEAD).to_bytes(2, "big")
HOSTILE = {
    "records": b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4abcd" * 4000,
    "owners": LONG + b"\0\1\0\1\0\0\0\1\0\4abcd" + b"".join(
        b"\2%b" % number.to_bytes(2, "big") + POINTER + b"\0\1\0\1\0\0\0\1\0\4abcd"
        for number in range(3000)
    ),
    "exchanges": LONG + b"\0\x0f\0\1\0\0\0\1\0\4\0\1\xc0\x0c"
    + (b"\xc0\x0c\0\x0f\0\1\0\0\0\1\0\4\0\1" + POINTER) * 3900,
    "aliases": b"\xc0\x0c\0\5\0\1\0\0\0\1\0\2\xc0\x0c" * 4600,
    "pointers": b"\xc0\x0c\0\5\0\1\0\0\0\1\xf0\0"
    + b"".join((0xC000 + HEAD + 12 + 2 * number).to_bytes(2, "big") for number in range(8000)),
    "empty strings": b"\xc0\x0c\0\x10\0\1\0\0\0\1\xfa\0" + bytes(64000),
    "types": b"".join(
        b"\xc0\x0c" + number.to_bytes(2, "big") + b"\0\1\0\0\0\1\0\0" for number in range(4600)
    ),
}  # fmt: skip


@pytest.mark.parametrize("type", ["A", "MX", "TXT", "CNAME"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_should_take_long(kind: str, type: str) -> None:
    question = Question(b"mx.example.org", type)
    wire = response(question, 65535, HOSTILE[kind])
    start = process_time()
    for _ in range(3):
        question.read(wire)
    assert process_time() - start < 1.5, "it takes some milliseconds"


# -- settings ----------------------------------------------------------------


def places(home: Path, **variables: str) -> list[tuple[str | int, ...]]:
    raw = {key.encode(): value.encode() for key, value in variables.items()}
    servers = DnsSettings(Settings(ControlFiles(os.fsencode(home)), raw)).servers()
    return [server.address[:2] for server in servers]


@pytest.fixture
def control(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "control").mkdir()
        (tmp_path / "control" / "resolvers").write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", [("127.0.0.1", 53)]),
        ("127.0.0.1:5353", [("127.0.0.1", 5353)]),
        ("127.0.0.1,192.0.2.1:54", [("127.0.0.1", 53), ("192.0.2.1", 54)]),
        (" 127.0.0.1 , ::1 ", [("127.0.0.1", 53), ("::1", 53)]),
        ("[::1]:54,[2001:DB8::1]", [("::1", 54), ("2001:db8::1", 53)]),
        ("10.0.0.1.10.0.0.2", [("10.0.0.1", 53), ("10.0.0.2", 53)]),
    ],
)
def test_dnscacheip(tmp_path: Path, text: str, expected: list[tuple[str | int, ...]]) -> None:
    assert places(tmp_path, DNSCACHEIP=text) == expected


def test_resolvers(control: Callable[[str], Path]) -> None:
    home = control("# ours\n127.0.0.1:5353 \n\n[::1]:54\n192.0.2.1\n")
    assert places(home) == [("127.0.0.1", 5353), ("::1", 54), ("192.0.2.1", 53)]
    assert places(home, DNSCACHEIP="192.0.2.9") == [("192.0.2.9", 53)], "the variable goes first"


BAD = ("x", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1 53", "[::1",
       "[::1]x", "[127.0.0.1]:53", "127.0.0", "1.2.3.4.5.6.7", "dns.example.org", "127.0.0.1:+1",
       "127.0.0.1#53", "::1%lo")  # fmt: skip


@pytest.mark.parametrize("text", [*BAD, "", ",", "127.0.0.1,x", ",".join(["127.0.0.1"] * 9)])
def test_wrong_servers(tmp_path: Path, text: str, control: Callable[[str], Path]) -> None:
    if text != "127.0.0.1 53":  # of the variable, blanks separate, and 53 is no address
        with pytest.raises(ControlError, match="DNSCACHEIP"):
            places(tmp_path, DNSCACHEIP=text)
    if "," not in text or text == ",":
        with pytest.raises(ControlError, match="control/resolvers"):
            places(control(text + "\n"))


def test_resolv_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"# x\nsearch example.org\nnameserver\t192.0.2.1\r\nnameserver 2001:db8::1 # x\n"
    text += b"nameserver x\nnameserver\n nameserver 192.0.2.2\nnameserver fe80::1%nosuch\n"
    assert [server.address[0] for server in of_resolv_conf(text)] == ["192.0.2.1", "2001:db8::1"]
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(settings, "RESOLV_CONF", str(path))
    assert places(tmp_path) == [("127.0.0.1", 53)]
    path.write_bytes(text)
    assert places(tmp_path) == [("192.0.2.1", 53), ("2001:db8::1", 53)]
    path.write_bytes(b"\xff\0\n" * 100)
    assert places(tmp_path) == [("127.0.0.1", 53)]
    path.unlink()
    os.mkfifo(path)
    assert places(tmp_path) == [("127.0.0.1", 53)]


def test_the_interface_of_a_server_in_resolv_conf() -> None:
    """By its name or its number, as resolver(3) takes it."""
    number = socket.if_nametoindex("lo")
    for zone, index in ((b"lo", number), (b"%d" % number, number), (b"9" * 10, None)):
        found = [server.address for server in of_resolv_conf(b"nameserver fe80::1%" + zone)]
        assert found == ([] if index is None else [("fe80::1", 53, 0, index)])


@given(st.binary(max_size=100), st.lists(st.binary(max_size=20), max_size=3))
def test_any_resolv_conf(text: bytes, servers: list[bytes]) -> None:
    of_resolv_conf(text)
    of_resolv_conf(b"\n".join(b"nameserver " + server for server in servers))


def test_one_resolver_for_all_filters_of_a_session(
    server: DnsServer, tmp_path: Path, one_try: None
) -> None:
    raw = {b"DNSCACHEIP": server.where.encode(), b"DNSTIMEOUT": b"60"}
    base = Settings(ControlFiles(os.fsencode(tmp_path)), raw)
    client = Client(Peer())
    first = Dns(base.for_plugin("one", {}, Log(NOWHERE)))
    second = Dns(base.for_plugin("two", {b"dnstrouble": b"pass"}, Log(NOWHERE)))
    third = Dns(base.for_plugin("three", {}, Log(NOWHERE)), PASS)
    assert first.resolver(client) is second.resolver(client)
    assert first.resolver(Client(Peer())) is not first.resolver(client)
    said = [plugin.could_not_tell.verdict for plugin in (first, second, third)]
    assert said == ["defer", "decline", "decline"]
    with pytest.raises(ControlError, match="dnstrouble"):
        Dns(base.for_plugin("two", {b"dnstrouble": b"x"}, Log(NOWHERE)))
    for plugin in first, second:
        (answer,) = plugin.ask(client, (b"mx.example.org", "A"))
        assert answer.records
    assert len(server.asked) == 1
