"""qsmtpd-qmqpc: which hub is asked, and how it is found."""

from __future__ import annotations

import _socket
import os
import posix
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from client import PATIENCE
from daemons import Line
from harness import Home, needs
from hubs import (
    LARGE,
    MESSAGE,
    NOTHING_THERE,
    REQUEST,
    Hub,
    closes_after,
    full,
    hand_over,
    hub,
    silent,
)
from hypothesis import given
from hypothesis import strategies as st
from netstrings import handed

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.net import qmqp
from qsmtpd.net.daemon import NoAnswer
from qsmtpd.net.qmqphandover import Request
from qsmtpd.net.qmqphandover import hand_over as hand_over_to_one
from qsmtpd.policy.held import Held

__all__ = ["full", "hub"]

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
