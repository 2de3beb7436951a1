"""qsmtpd-qmqpc: what a hub is sent, what its answer means, and which hub is asked."""

from __future__ import annotations

import _socket
import os
import posix
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import odd_files
import pytest
from client import PATIENCE
from daemons import Line
from harness import Home, Variables, needs
from hubs import (
    ENVELOPE,
    LARGE,
    MESSAGE,
    NOTHING_THERE,
    QMQPC,
    Hub,
    closes_after,
    hand_over,
    says,
    silent,
)
from hypothesis import given
from hypothesis import strategies as st
from netstrings import handed, ns
from test_maildir import ENVELOPES

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.net import qmqp
from qsmtpd.net.daemon import NoAnswer
from qsmtpd.net.qmqphandover import Request
from qsmtpd.net.qmqphandover import hand_over as hand_over_to_one
from qsmtpd.policy.held import Held

REQUEST = handed(b"x@ok.example", b"y@ok.example", sender=b"a@b", message=MESSAGE)
MAIL = b"MAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n"


@pytest.fixture
def hub(home: Home) -> Iterator[Hub]:
    """One that takes all, and is the only one."""
    with Hub() as hub:
        home.control("qmqpservers", hub.where)
        yield hub


# -- what a hub is sent --------------------------------------------------------


def test_a_message(home: Home, hub: Hub) -> None:
    done = hand_over(home)
    assert (done.code, done.log) == (0, [f"qsmtpd-qmqpc: {hub.where} has it: ok"])
    assert hub.taken == [[MESSAGE, b"a@b", b"x@ok.example", b"y@ok.example"]]


def test_the_bytes_on_the_wire(home: Home) -> None:
    """All of them, and none behind them, for a hub that reads on to the end."""
    heard = b""

    def script(line: Line) -> None:
        nonlocal heard
        heard = line.take(len(REQUEST))
        line.say(b"1:K,")
        heard += line.take(1)

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home).code == 0
    assert heard == REQUEST


@pytest.mark.sample(5)
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 262143, 262144, 262145, 1_000_000])
def test_sizes(home: Home, hub: Hub, size: int) -> None:
    """Around the sizes of what is read at once, and of what is held in memory."""
    message = os.urandom(size)
    assert hand_over(home, message).code == 0
    assert hub.taken == [[message, b"a@b", b"x@ok.example", b"y@ok.example"]]


def test_from_a_file(home: Home, hub: Hub) -> None:
    """As a shell starts it: `qsmtpd-qmqpc <message 1<envelope`, of which some is read already."""
    (home.path / "message").write_bytes(b"gone" + MESSAGE)
    (home.path / "envelope").write_bytes(ENVELOPE)
    with (home.path / "message").open("rb", buffering=0) as zero:
        zero.seek(4)
        with (home.path / "envelope").open("rb") as one:
            done = subprocess.run([QMQPC], stdin=zero, stdout=one, env=home.environ, check=False)
    assert done.returncode == 0
    assert hub.taken == [[MESSAGE, b"a@b", b"x@ok.example", b"y@ok.example"]]


@pytest.mark.sample(9)
@pytest.mark.parametrize(
    ("envelope", "code"),
    [*ENVELOPES, (b"Fa\0\0", 91), (b"F\0\0", 91), (b"\0\0", 91), (b"F" + b"a" * 70_000, 11)],
)
def test_envelopes(home: Home, hub: Hub, envelope: bytes, code: int) -> None:
    """As qsmtpd-maildir has them, but for one without a recipient, which QMQP has not."""
    assert hand_over(home, b"x\n", envelope).code == code
    assert len(hub.taken) == (code == 0)
    assert code == 0 or hub.connections == 0


@pytest.mark.slow
def test_many_recipients(home: Home, hub: Hub) -> None:
    recipients = [b"user%d@ok.example" % number for number in range(200_000)]
    envelope = b"F\0" + b"".join(b"T%b\0" % one for one in recipients) + b"\0"
    assert hand_over(home, b"x\n", envelope).code == 0
    assert hub.taken == [[b"x\n", b"", *recipients]]


@pytest.mark.slow
def test_memory_is_flat(home: Home, hub: Hub) -> None:
    """50 MB take no more than 50 KB do, but for what is read at once."""
    most = []
    for size in (50_000, 50_000_000):
        code = "import os, sys; os.write(2, b'%d\\n' % os.wait4(os.posix_spawn(sys.argv[1], "
        code += "sys.argv[1:], os.environ), 0)[2].ru_maxrss)"
        done = hand_over(home, b"x" * size, wrapper=("python3", "-c", code))
        assert len(hub.taken.pop()[0]) == size
        most.append(int(done.log[-1]))
    assert most[1] - most[0] < 2048, most  # KB


# -- what an answer means ------------------------------------------------------

#: The whole of what a hub says, and the exit code.
ANSWERS = [
    (b"1:K,", 0),
    (b"3:Kok,", 0),
    (ns(b"K\0\xff\n23456\r"), 0),
    (b"2:K,,", 0),
    (ns(b"K" + b"x" * 999), 0),
    (b"3:Kok,3:Dno,", 0),  # what follows is not read: it has the message
    (b"3:Kok,\r\n", 0),
    (b"3:Kok," + b"x" * 1_000_000, 0),
    (b"1:Z,", 71),
    (b"9:Znot now!,", 71),
    (b"1:D,", 31),
    (b"6:Dnever,", 31),
    (b"", 74),
    (b"K", 74),
    (b"Kok,", 74),
    (b"3", 74),
    (b"3:", 74),
    (b"3:Ko", 74),
    (b"3:Kok", 74),
    (b"3:Kok;", 74),
    (b"3:Kok\n", 74),
    (b"2:Kok,", 74),
    (b"4:Kok,", 74),
    (b"0:,", 74),
    (b"00:,", 74),
    (b"03:Kok,", 74),
    (b":Kok,", 74),
    (b"-3:Kok,", 74),
    (b"+3:Kok,", 74),
    (b" 3:Kok,", 74),
    (b"3 :Kok,", 74),
    (b"3: Kok,", 74),
    (b"3\0:Kok,", 74),
    (b"0x3:Kok,", 74),
    (b"1_0:K234567890,", 74),
    (b"\xd9\xa3:Kok,", 74),  # a 3 of another script
    (b"3:kok,", 74),
    (b"3:Xok,", 74),
    (b"3:\0ok,", 74),
    (b"250 ok\r\n", 74),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", 74),
    (b"99999:K", 74),
    (b"100000:K", 74),
    (b"9" * 1000, 74),
    (b"9" * 100_000 + b":K", 74),
]


@pytest.mark.sample(16)
@pytest.mark.parametrize(("answer", "code"), ANSWERS)
def test_answers(home: Home, answer: bytes, code: int) -> None:
    with Hub(answer) as hub, Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        done = hand_over(home)
    assert done.code == code
    assert (len(hub.taken), other.connections) == (1, 0)
    assert len(done.log) == 1 and done.log[0].startswith(f"qsmtpd-qmqpc: {hub.where} ")


def model(data: bytes) -> tuple[bytes, bytes] | None:
    """The same by a regular expression; None for what is no answer."""
    found = re.match(rb"([1-9][0-9]{0,4}):([KZD])", data)
    if found is None:
        return None
    text = data[found.end(1) + 1 :][: int(found[1])]
    if len(text) < int(found[1]) or data[found.end(1) + 1 + len(text) :][:1] != b",":
        return None
    return found[2], text[1:]


def read(data: bytes) -> tuple[bytes, bytes] | None:
    """Ours, of a hub that says this and closes."""
    place = 0

    def exactly(number: int) -> bytes:
        nonlocal place
        if place + number > len(data):
            raise NoAnswer("closed")
        place += number
        return data[place - number : place]

    try:
        return qmqp.read_answer(exactly)
    except NoAnswer:
        return None


@given(
    st.lists(st.sampled_from([*b"0123456789:,KZD", 0, 255, 10]), max_size=12).map(bytes)
    | st.binary(max_size=40)
    | st.builds(
        lambda size, text, end: b"%d:%b%b" % (size + len(text), text, end),
        st.sampled_from([0, 0, 0, 1, -1, 10]),
        st.binary(min_size=1, max_size=20) | st.just(b"Kok"),
        st.sampled_from([b",", b",", b"", b";", b",rest"]),
    )
)
def test_answers_against_a_model(data: bytes) -> None:
    assert read(data) == model(data)


@pytest.mark.parametrize("answer", [b"3:Kok,", b"12:D5.1.1 never,", b"100:Z" + b"x" * 99 + b","])
def test_an_answer_that_is_cut_off(answer: bytes) -> None:
    assert read(answer) == model(answer) is not None
    for cut in range(len(answer)):
        assert read(answer[:cut]) is None


def test_an_answer_byte_by_byte(home: Home) -> None:
    def script(line: Line) -> None:
        line.take(len(REQUEST))
        line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"3:Kok,":
            line.say(bytes((byte,)))

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home).code == 0


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("channel", "environ", "answer", "code", "text"),
    [
        (6, {}, ns(b"Dno such user #5.1.1"), 82, b"Dno such user #5.1.1"),
        (6, {}, b"9:Znot now!,", 82, b"Znot now!"),
        (6, {}, b"3:Kok,", 0, b""),
        (6, {}, b"1:D,", 31, b""),
        (6, {}, b"5:D \r\n\xff,", 31, b""),  # of that qsmtpd makes no text
        (6, {}, b"2:Dx,", 31, b""),  # of less than three bytes qmail-smtpd makes no text
        (6, {}, b"1:Z,", 71, b""),
        (6, {}, ns(b"D" + b"x" * 1000), 82, b"D" + b"x" * 254),
        (4, {"ERROR_FD": "4"}, b"4:Dno!,", 82, b"Dno!"),
        (4, {}, b"4:Dno!,", 31, b""),
        (2, {"ERROR_FD": "2"}, b"4:Dno!,", 82, b"Dno!"),
        (0, {"ERROR_FD": "9"}, b"4:Dno!,", 31, b""),
    ],
)
def test_the_text_of_a_hub(
    home: Home, channel: int, environ: Variables, answer: bytes, code: int, text: bytes
) -> None:
    """Where whoever starts it has made a pipe for it, at the descriptor of errorfd."""
    with Hub(answer) as hub:
        home.control("qmqpservers", hub.where)
        done = hand_over(home, channel=channel, **environ)
    assert (done.code, done.text) == (code, text)
    assert len(done.log) == (channel != 2)


def test_what_a_hub_says_forges_no_line(home: Home) -> None:
    with Hub(ns(b'D\nqsmtpd: x="\\\r\0\xff\x7f\x1b[1m')) as hub:
        home.control("qmqpservers", hub.where)
        done = hand_over(home)
    assert done.log == [f'qsmtpd-qmqpc: {hub.where} rejects it: ?qsmtpd: x="\\?????[1m']


# -- a hub that does not wait for its turn ------------------------------------


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("answer", "code"), [(b"3:Kok,", 74), (b"6:Dnever,", 31), (b"2:Z?,", 71), (b"x", 74), (b"", 74)]
)
@pytest.mark.parametrize("after", [1, 100_000])
def test_an_answer_before_all_was_sent(home: Home, answer: bytes, code: int, after: int) -> None:
    """It closes with most of it unread, which resets the connection."""
    with Hub(script=says(answer, after)) as hub, Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        assert hand_over(home, LARGE).code == code
    assert other.connections == 0


@pytest.mark.sample(2)
@pytest.mark.parametrize("answer", [b"3:Kok,", b"6:Dnever,"])
def test_a_hub_that_reads_on_after_its_answer(home: Home, answer: bytes) -> None:
    """That it has a message of which it had only the beginning is not believed."""

    def script(line: Line) -> None:
        line.take(1)
        line.say(answer)
        line.wait_for_end()

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home, LARGE).code == (31 if b"D" in answer else 74)


def test_half_closed(home: Home) -> None:
    """A hub that will say nothing any more, and still reads."""

    def script(line: Line) -> None:
        line.take(1)
        line.socket.shutdown(socket.SHUT_WR)
        line.wait_for_end()

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home, LARGE).code == 74
        assert hand_over(home).code == 74


def test_a_hub_does_not_wait_for_our_end(home: Home) -> None:
    """It answers, and keeps the connection open: that is all that is waited for."""

    def script(line: Line) -> None:
        line.take(len(REQUEST))
        line.say(b"3:Kok,")
        line.wait_for_end()

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home).code == 0


# -- which hub -----------------------------------------------------------------


def test_the_next_hub_where_one_is_dead(home: Home, hub: Hub) -> None:
    home.control("qmqpservers", "# none", "", NOTHING_THERE, f"{hub.where} \t\r", NOTHING_THERE)
    done = hand_over(home)
    assert (done.code, len(hub.taken)) == (0, 1)
    assert done.log == [
        f"qsmtpd-qmqpc: {NOTHING_THERE} cannot be reached: Connection refused",
        f"qsmtpd-qmqpc: {hub.where} has it: ok",
    ]


def test_no_hub_can_be_reached(home: Home) -> None:
    home.control("qmqpservers", NOTHING_THERE, "127.0.0.2:1")
    assert hand_over(home).code == 73


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_never_two_hubs_with_one_message(home: Home, step: int) -> None:
    """Whatever it has read when it closes; it may even have all."""
    whole = len(handed(b"x@ok.example", sender=b"a@b", message=b"hi\n"))
    for number in [*range(1, whole, step), whole]:
        with Hub(script=closes_after(number)) as hub, Hub() as other:
            home.control("qmqpservers", hub.where, other.where)
            done = hand_over(home, b"hi\n", b"Fa@b\0Tx@ok.example\0\0")
        assert (done.code, other.connections) == (74, 0)
        assert re.fullmatch(rf".*{hub.where} fails after {whole} bytes: .*", done.log[0])


@pytest.mark.slow
def test_a_hub_that_closes_at_once(home: Home) -> None:
    """Before a byte was sent, or not: so there is another hub, or none."""
    with Hub(script=lambda line: None) as hub, Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        for _ in range(10):
            other.taken.clear()
            done = hand_over(home)
            assert (done.code, len(other.taken)) in ((0, 1), (74, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ["socket", "connect", "getsockopt", "poll", "sendto", "recvfrom", "write", "pread64"]
)
@pytest.mark.parametrize("error", ["EIO", "EINTR"])
def test_every_failing_call(home: Home, call: str, error: str) -> None:
    """Whichever call fails, and for whatever reason: exit 0 and one hub has it, or not 0."""
    trace = home.path / "trace"
    for nth in range(1, 20):
        inject = f"inject={call}:error={error}:when={nth}"
        wrapper = (needs("strace"), "-f", "-qq", "-o", str(trace), "-e", inject)
        with Hub() as hub, Hub() as other:
            home.control("qmqpservers", hub.where, other.where)
            done = hand_over(home, LARGE[:300_000], wrapper=wrapper)
        taken = [*hub.taken, *other.taken]
        assert len(taken) <= 1 and (done.code != 0 or len(taken) == 1)
        assert all(request[0] == LARGE[:300_000] for request in taken)
        if "INJECTED" not in trace.read_text():
            assert done.code == 0 and nth > 1
            break
    else:
        assert call in ("poll", "recvfrom", "sendto", "write")  # there are more of these


@pytest.mark.slow
def test_a_silent_hub(home: Home) -> None:
    """The deadline is one for all that is done; the next hub is not asked."""
    home.control("qmqpctimeout", "1")
    with Hub(script=silent) as hub, Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        for message in (MESSAGE, LARGE):
            done = hand_over(home, message)
            assert (done.code, other.connections) == (74, 0)
            assert done.log[0].endswith(": timeout")


@pytest.mark.slow
def test_a_slow_hub(home: Home) -> None:
    """It reads, and then answers, a little at a time: all of it has the one deadline."""

    def script(line: Line) -> None:
        line.take(len(REQUEST))
        for _ in range(1000):
            line.say(b"9")
            if ends_within(line, 0.3):
                return

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home, QMQPCTIMEOUT="1").code == 74


def ends_within(line: Line, seconds: float) -> bool:
    """Does the other side close?"""
    line.socket.settimeout(seconds)
    try:
        return line.socket.recv(1) == b""
    except TimeoutError:
        return False


@pytest.fixture
def full() -> Iterator[str]:
    """An address that answers no connection: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            waiting.append(one)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()


@pytest.mark.slow
def test_a_hub_that_does_not_answer_a_connection(home: Home, hub: Hub, full: str) -> None:
    """It takes the time of a connection, not all: the next hub is asked."""
    home.control("qmqpcconnect", "1")
    home.control("qmqpservers", full, hub.where)
    done = hand_over(home)
    assert (done.code, len(hub.taken)) == (0, 1)
    assert done.log[0] == f"qsmtpd-qmqpc: {full} cannot be reached: timeout"
    home.control("qmqpservers", full)
    assert hand_over(home).code == 72
    home.control("qmqpservers", full, full, full, full, full, hub.where)
    assert hand_over(home, QMQPCTIMEOUT="1").code == 72, "one deadline for all"
    assert len(hub.taken) == 1


def test_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rotated` begins anywhere, and goes round."""
    hubs = [qmqp.parse_hub(b"192.0.2.%d" % number) for number in range(3)]
    assert qmqp.in_order(hubs, "listed") == hubs
    seen = set()
    for number in range(6):
        monkeypatch.setattr(
            posix, "urandom", lambda n, number=number: bytes(n - 1) + bytes((number,))
        )
        found = qmqp.in_order(hubs, "rotated")
        place = hubs.index(found[0])
        assert found == hubs[place:] + hubs[:place]
        seen.add(place)
    assert seen == {0, 1, 2}


@pytest.mark.slow
def test_rotated(home: Home) -> None:
    """Both are asked: of 40 messages one in 2^39 tests would send all to one."""
    with Hub() as one, Hub() as other:
        home.control("qmqpservers", one.where, other.where)
        hand_over(home)
        assert (one.connections, other.connections) == (1, 0)
        for number in range(40):
            hand_over(home, QMQPCORDER="rotated")
            if number > 1 and one.connections > 1 and other.connections:
                return
    raise AssertionError("only one is asked")


# -- names ---------------------------------------------------------------------


def test_a_name(home: Home, hub: Hub) -> None:
    """By /etc/hosts, too; where ::1 is its first address, nothing listens there."""
    home.control("qmqpservers", f"localhost:{hub.where.rpartition(':')[2]}")
    assert hand_over(home).code == 0
    assert len(hub.taken) == 1


def test_ipv6(home: Home) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")

    class Six(Hub):
        def _listen(self) -> socket.socket:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            return listener

    with Six() as hub:
        home.control("qmqpservers", f"[::1]:{listener.getsockname()[1]}")
        assert hand_over(home).code == 0
        assert len(hub.taken) == 1


def look_up(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any], seconds: float = 60
) -> Any:
    monkeypatch.setattr(_socket, "getaddrinfo", answer)
    return qmqp.parse_hub(b"hub.example:700").addresses(seconds)


def test_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    six = (socket.AF_INET6, 1, 6, "", ("2001:db8::1", 700, 0, 0))
    four = (socket.AF_INET, 1, 6, "", ("192.0.2.1", 700))
    other = (socket.AF_UNIX, 1, 6, "", ("x", 1))
    found = look_up(monkeypatch, lambda *_: [six, four, other])
    assert [(one.family, one.target) for one in found] == [
        ("inet6", ("2001:db8::1", 700)),
        ("inet", ("192.0.2.1", 700)),
    ]
    assert found[0].text == b"hub.example:700 ([2001:db8::1])"


def test_the_next_address_of_a_name(home: Home, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one name, as of several hubs; and again not when something was sent."""

    def hand(*ports: int) -> int:
        found = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(_socket, "getaddrinfo", lambda *_: found)
        home.control("qmqpservers", "hub.example")
        settings = Settings(ControlFiles(os.fsencode(home.path)), {})
        request = Request(Held())
        request.message(MESSAGE)
        request.envelope([b"a@b", b"x@ok.example"])
        return hand_over_to_one(request, qmqp.HubSettings(settings), lambda *_: None).code

    port = int(hub.where.rpartition(":")[2])
    assert (hand(1, port), len(hub.taken)) == (0, 1)
    with Hub(script=closes_after(1)) as other:
        assert hand(int(other.where.rpartition(":")[2]), port) == 74
    assert (hand(1, 1), len(hub.taken)) == (73, 1)


def test_a_name_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(NoAnswer, match="Name or service not known"):
        look_up(monkeypatch, fails)
    with pytest.raises(NoAnswer, match="has no address"):
        look_up(monkeypatch, lambda *_: [])


def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    with pytest.raises(NoAnswer, match="timeout"):
        look_up(monkeypatch, lambda *_: over.wait(PATIENCE) and [], 0.05)
    over.set()


@pytest.mark.parametrize(
    ("line", "hub"),
    [
        (b"192.0.2.1", ("192.0.2.1", 628, "inet")),
        (b"192.0.2.1:1", ("192.0.2.1", 1, "inet")),
        (b"192.0.2.1:65535", ("192.0.2.1", 65535, "inet")),
        (b"::1", ("::1", 628, "inet6")),
        (b"2001:db8::1", ("2001:db8::1", 628, "inet6")),
        (b"[2001:db8::1]", ("2001:db8::1", 628, "inet6")),
        (b"[2001:db8::1]:9", ("2001:db8::1", 9, "inet6")),
        (b"::ffff:192.0.2.1", ("::ffff:192.0.2.1", 628, "inet6")),
        (b"hub", ("hub", 628, None)),
        (b"Hub-1.example.org", ("Hub-1.example.org", 628, None)),
        (b"hub.example.org.:700", ("hub.example.org.", 700, None)),
        (b"1.a", ("1.a", 628, None)),
        *((line, None) for line in (
            b":", b":1", b"a:", b"a:0", b"a:65536", b"a:00000", b"a:1x", b"a:+1", b"a: 1", b"a:1:",
            b"a:999999", b"[", b"[]", b"[::1", b"::1]", b"[::1]x", b"[::1]:", b"[::1]1", b"[a]:1",
            b"[192.0.2.1]:1", b"1:2:3", b"::1:", b"fe80::1%lo", b"a b", b"a\tb", b"a #x", b"a,b",
            b"a;b", b"a/b", b"a@b", b".", b".a", b"a..b", b"1", b"192.0.2", b"192.0.2.256", b"0x7f",
            b"192.0.2.1.1", b"a.1", b"x" * 254, b"\xef\xbb\xbfa", b"\xc3\xa4", b"a\0", b"unix:/x",
            b"inet:192.0.2.1:628", b"192.0.2.1:628:1", b"*", b"-h x",
        )),
    ],
)  # fmt: skip
def test_lines(line: bytes, hub: tuple[str, int, str | None] | None) -> None:
    try:
        found = qmqp.parse_hub(line)
    except ValueError as error:
        assert hub is None, error
    else:
        assert (found.host, found.port, found.family) == hub


@given(st.binary(max_size=30) | st.text("0123456789abcdef.:[]x-", max_size=30).map(str.encode))
def test_lines_of_any_kind(line: bytes) -> None:
    """An entry, or ValueError; and an address is one."""
    try:
        hub = qmqp.parse_hub(line)
    except ValueError:
        return
    assert 0 < hub.port < 65536
    if hub.family is not None:
        socket.inet_pton(socket.AF_INET if hub.family == "inet" else socket.AF_INET6, hub.host)


# -- what is wrong here --------------------------------------------------------


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("files", "environ", "words"),
    [
        ({}, {}, "control/qmqpservers: is missing or has no entry: there is no hub"),
        ({"qmqpservers": ""}, {}, "control/qmqpservers: is missing or has no entry"),
        ({"qmqpservers": "#"}, {}, "control/qmqpservers: is missing or has no entry"),
        ({"qmqpservers": "a\na:x"}, {}, "control/qmqpservers: line 2: 'a:x' has no port from 1"),
        ({"qmqpservers": "a\n" * 51}, {}, "control/qmqpservers: has 51 entries, more than 50"),
        ({"qmqpservers": "a", "qmqpcorder": "x"}, {}, "control/qmqpcorder: is 'x', none of listed"),
        ({"qmqpservers": "a"}, {"QMQPCORDER": ""}, "QMQPCORDER: is '', none of listed, rotated"),
        ({"qmqpservers": "a"}, {"QMQPCTIMEOUT": "0"}, "QMQPCTIMEOUT: is '0', less than 1"),
        ({"qmqpservers": "a", "qmqpctimeout": ""}, {}, "control/qmqpctimeout: is ''"),
        ({"qmqpservers": "a"}, {"QMQPCCONNECT": "1s"}, "QMQPCCONNECT: is '1s', which is not"),
        ({"qmqpservers": "a"}, {"ERROR_FD": "10"}, "ERROR_FD: is '10', more than 9"),
    ],
)
def test_no_configuration(
    home: Home, files: dict[str, str], environ: Variables, words: str
) -> None:
    for name, text in files.items():
        home.control(name, text)
    done = hand_over(home, **environ)
    assert done.code == 55
    assert len(done.log) == 1 and words in done.log[0], done.log


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in odd_files.KINDS if k != "unreadable"])
def test_a_servers_file_that_is_none(home: Home, kind: str) -> None:
    """And what cannot be read is not called missing, too."""
    odd_files.make(kind, home.control_dir / "qmqpservers")
    done = hand_over(home)
    assert done.code == 55
    assert done.log[0].startswith("qsmtpd-qmqpc: control/qmqpservers: ")
    assert "missing" not in done.log[0]
    assert check(home) == (1, [done.log[0].replace("qsmtpd-qmqpc", "wrong", 1)])


@pytest.mark.slow
def test_arguments(home: Home) -> None:
    for argument, said in (("--help", b"usage: "), ("--version", b"qsmtpd-qmqpc ")):
        done = subprocess.run([QMQPC, argument], capture_output=True, check=True)
        assert done.stdout.startswith(said) and done.stderr == b""
    done = subprocess.run([QMQPC, "-h"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (55, b"")


def test_a_full_disk(home: Home, hub: Hub) -> None:
    """A file may not grow beyond 64 KB: what a full disk does, without being root."""
    wrapper = ("sh", "-c", 'ulimit -f 64; exec "$@"', "sh")
    assert hand_over(home, LARGE, wrapper=wrapper).code == 53
    assert hub.connections == 0
    assert hand_over(home, wrapper=wrapper).code == 0, "a small one needs no file"


def test_no_place_for_a_file(home: Home, hub: Hub) -> None:
    done = hand_over(home, LARGE, TMPDIR=str(home.path / "none"))
    assert done.code == 63 and "none: No such file or directory" in done.log[0]
    assert hand_over(home, TMPDIR=str(home.path / "none")).code == 0
    assert len(hub.taken) == 1


@pytest.mark.slow
def test_nothing_is_left_in_the_folder(home: Home, hub: Hub) -> None:
    folder = home.path / "tmp"
    folder.mkdir()
    assert hand_over(home, LARGE, TMPDIR=str(folder)).code == 0
    assert list(folder.iterdir()) == [] and hub.taken[0][0] == LARGE


# -- behind qsmtpd -------------------------------------------------------------


def front(home: Home, **environ: Any) -> bytes:
    """The reply to a message."""
    return home.run(MAIL, QMAILQUEUE=str(QMQPC), **environ).lines[4]


def test_a_front_end(home: Home) -> None:
    with Hub() as hub:
        home.control("qmqpservers", hub.where)
        assert front(home).startswith(b"250 ok ")
        ((text, sender, recipient),) = hub.taken
        assert (sender, recipient) == (b"a@b", b"x@ok.example")
        assert text.startswith(b"Received: ") and text.endswith(b"\nSubject: x\n\nhi\n")
        hub.answer = ns(b"Dno such user here #5.1.1")
        assert front(home) == b"554 no such user here #5.1.1"
        hub.answer = ns(b"Zthe disk is full #4.3.1")
        assert front(home) == b"451 the disk is full #4.3.1"
        assert front(home, ERROR_FD="2") == b"451 the disk is full #4.3.1"
        hub.answer = b"1:D,"
        assert front(home) == b"554 mail server permanently rejected message (#5.3.0)"
        hub.answer = b"nonsense"
        assert front(home) == b"451 communication with mail server failed (#4.4.2)"
    assert front(home) == b"451 connection to mail server rejected (#4.4.1)"
    (home.control_dir / "qmqpservers").unlink()
    assert front(home) == b"451 qq unable to read configuration (#4.3.0)"


# -- --check -------------------------------------------------------------------


def check(home: Home, *, ok: bool = False, **environ: str) -> tuple[int, list[str]]:
    """The exit code and the lines of --check, without those that are ok."""
    done = subprocess.run(
        [QMQPC, "--check"], capture_output=True, env={**home.environ, **environ}, check=False
    )
    assert done.stderr == b""
    lines = done.stdout.decode().splitlines()
    return done.returncode, [line for line in lines if line.startswith("ok: ") == ok]


@pytest.mark.slow
def test_check(home: Home) -> None:
    with Hub(script=silent) as hub:
        home.control("qmqpservers", hub.where)
        assert check(home) == (0, [])
        assert f"ok: hub = {hub.where} (it takes a connection)" in check(home, ok=True)[1]
        assert "ok: qmqpctimeout = 480 (default)" in check(home, ok=True)[1]
        home.control("qmqpservers", NOTHING_THERE, hub.where)
        dead = (
            f"warning: control/qmqpservers: {NOTHING_THERE} cannot be reached: Connection refused"
        )
        assert check(home) == (0, [dead])
    none = "wrong: control/qmqpservers: names no hub that can be reached"
    code, lines = check(home)
    assert code == 1 and lines[0] == dead and lines[-1] == none
    home.control("qmqpservers", "a:x", "192.0.2.1", "192.0.2.300")
    code, (line, other) = check(home)
    assert code == 1 and line.startswith("wrong: control/qmqpservers: line 1: 'a:x' has no port")
    assert other.startswith("wrong: control/qmqpservers: line 3: '192.0.2.300' is no whole")
    (home.control_dir / "qmqpservers").unlink()
    code, (line,) = check(home)
    assert code == 1 and line.startswith("wrong: control/qmqpservers: is missing")


@pytest.mark.slow
def test_check_of_a_hub_that_takes_nothing_from_here(home: Home) -> None:
    """It says so, also after a second; or it closes, as tcpserver does by a rule."""

    def late(line: Line) -> None:
        line.wait_for_end()
        line.say(ns(b"Dnot for you 5.7.1"))

    with Hub(script=late) as hub:
        home.control("qmqpservers", hub.where)
        for script in (late, says(ns(b"Dnot for you 5.7.1"))):
            hub.script = script
            code, lines = check(home)
            assert code == 1 and lines[0].endswith("refuses this client: Dnot for you 5.7.1")
        hub.script = lambda line: None
        code, lines = check(home)
        assert code == 1 and "closes the connection at once" in lines[0]


@pytest.mark.slow
def test_check_of_other_settings(home: Home) -> None:
    with Hub(script=silent) as hub:
        home.control("qmqpservers", hub.where)
        assert check(home, QMQPCORDER="x")[0] == 1
        assert check(home, QMQPCTIMEOUT="x")[0] == 1
        assert check(home, TMPDIR="/nonexistent")[0] == 1
        assert check(home, QMQPCORDER="rotated") == (0, [])


@pytest.mark.slow
def test_check_of_a_front_end(home: Home) -> None:
    environ: Variables = {"QMAILQUEUE": str(QMQPC)}

    def said(**more: Any) -> list[str]:
        lines = home.run(b"", "--check", **environ, **more).out.decode().splitlines()
        return [line for line in lines if not line.startswith("ok: ")]

    (line,) = said()
    assert line.startswith("wrong: control/qmqpservers: is missing")
    with Hub(script=silent) as hub:
        home.control("qmqpservers", hub.where)
        assert said() == []
        (line,) = said(QUEUETIMEOUT="480")
        assert line.startswith("warning: qmqpctimeout: is 480, no less than queuetimeout")
    assert said()[-1] == "wrong: control/qmqpservers: names no hub that can be reached"
