"""The channel by itself, with a clock and a transport that nobody has to wait for."""

from __future__ import annotations

import pytest

from qsmtpd.net.channel import Channel, LineTooLong, SessionOver
from qsmtpd.net.descriptors import Gone, Timeout


class World:
    """A client of whom is known when it says what, and a clock that only waits move.

    `script` holds what comes, and how many seconds after what was before.  Then
    the client is silent for ever; or it goes, where the last item is b"".
    """

    def __init__(self, *script: tuple[float, bytes], deaf: bool = False) -> None:
        self.now = 1000.0
        self.heard: list[tuple[float, bytes]] = []
        self.drained: list[tuple[bool, int]] = []  # what drain() was called with
        self._script = list(script)
        self._deaf = deaf
        self._last = self.now

    def channel(self, timeout: float = 10, session: float = 100_000) -> Channel:
        return Channel(self, timeout, session, self.clock, self.sleep)

    def passed(self) -> float:
        """The seconds since the beginning."""
        return self.now - 1000.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def read(self, deadline: float) -> bytes:
        due = self._last + self._script[0][0] if self._script else float("inf")
        if due > max(deadline, self.now):
            self.now = max(self.now, deadline)
            raise Timeout
        self.now = self._last = max(self.now, due)
        return self._script.pop(0)[1]

    def write(self, data: bytes, deadline: float) -> None:
        if self._deaf:
            self.now = deadline
            raise Timeout
        self.heard.append((self.passed(), data))

    def close(self, deadline: float) -> None:
        self.now = deadline  # as if nobody read close_notify
        raise Timeout

    def drain(self, wait: bool, rate: int) -> None:
        self.drained.append((wait, rate))


# -- lines -----------------------------------------------------------------


def test_the_whole_line_has_to_come_in_time() -> None:
    """A byte now and then does not wind the clock up again."""
    world = World(*[(1.0, b"x")] * 100)
    with pytest.raises(Timeout) as caught:
        world.channel(timeout=10).line(510)
    assert not isinstance(caught.value, SessionOver)
    assert world.passed() == 10


class AlwaysReady(World):
    """A client with a byte that is there whenever it is looked for: each look takes a second."""

    def read(self, deadline: float) -> bytes:
        self.now += 1
        return b"x"


@pytest.mark.parametrize("limit", [510, 5], ids=["within the limit", "beyond it"])
def test_a_client_that_is_always_ready_does_not_evade_the_time_limit(limit: int) -> None:
    world = AlwaysReady()
    channel = world.channel(timeout=10)
    if limit < 10:
        with pytest.raises(LineTooLong):
            channel.line(limit)
        assert world.passed() == limit + 2
    with pytest.raises(Timeout):
        channel.line(limit)
    assert world.passed() == 10 + (limit + 2) * (limit < 10)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("helper", [False, True])
def test_after_the_last_word(clean: bool, helper: bool) -> None:
    """What is waited for, and at which rate: of a helper it is not the client's."""
    world = World((0, b"QUIT\r\nmore"))
    channel = world.channel()
    channel.limit(10, 100, 700)
    channel.helper = helper
    channel.drain(clean)
    channel.line(510)
    channel.drain(clean)  # more has come, and is not a command
    rate = 0 if helper else 700
    assert world.drained == [(helper or not clean, rate), (True, rate)]


def test_each_line_has_its_time() -> None:
    world = World((9, b"NOOP\r\n"), (9, b"NOOP\r\n"))
    channel = world.channel(timeout=10)
    assert channel.line(510) == channel.line(510) == b"NOOP\r\n"
    with pytest.raises(Timeout):
        channel.line(510)
    assert world.passed() == 28


def test_what_a_line_that_is_too_long_still_holds_has_its_time_too() -> None:
    world = World((0, b"x" * 1000), *[(1.0, b"x")] * 100)
    channel = world.channel(timeout=10)
    with pytest.raises(LineTooLong):
        channel.line(510)
    with pytest.raises(Timeout):
        channel.line(510)
    assert world.passed() == 10


BY_FIRST = {b"G"[0]: [b"GET "], b"P"[0]: [b"PUT ", b"POST "]}


def test_starts_with_waits_only_while_it_is_open() -> None:
    world = World((3, b"G"), (3, b"E"), (3, b"T"), (3, b" "))
    assert world.channel(timeout=20).starts_with(BY_FIRST) == b"GET "
    assert world.passed() == 12
    world = World((3, b"GU"))
    assert world.channel().starts_with(BY_FIRST) is None
    assert world.passed() == 3
    world = World((3, b"G"))
    with pytest.raises(Timeout):
        world.channel(timeout=10).starts_with(BY_FIRST)
    assert world.passed() == 10


# -- the session as a whole ------------------------------------------------


def test_the_session_ends_however_busy_the_client_is() -> None:
    world = World(*[(1.0, b"NOOP\r\n")] * 100)
    channel = world.channel(timeout=10, session=50)
    with pytest.raises(SessionOver):
        for _ in range(100):
            channel.line(510)
    assert 50 <= world.passed() <= 51


def test_the_session_ends_for_a_client_that_has_always_more_to_say() -> None:
    """Data that is always there must not keep the clock from being looked at."""
    world = World(*[(0.0, b"x" * 4096)] * 100)
    channel = world.channel(timeout=10, session=50)
    channel.start_data(0)
    with pytest.raises(SessionOver):
        for _ in range(100):
            channel.chunk()
            world.sleep(1)  # the queue program's
    assert world.passed() == 50


def test_the_session_ends_while_it_waits() -> None:
    world = World()
    with pytest.raises(SessionOver):
        world.channel(timeout=100, session=50).line(510)
    assert world.passed() == 50


def test_a_new_limit_counts_from_now() -> None:
    world = World()
    channel = world.channel(timeout=10, session=20)
    world.sleep(15)
    channel.limit(100, 50)
    with pytest.raises(SessionOver):
        channel.line(510)
    assert world.passed() == 65


# -- data ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "chunk", "seconds"),
    [
        (0, b"x", None),  # no rate is wanted
        (5, b"x" * 10, None),
        (9, b"x" * 10, None),
        (10, b"x" * 10, 10),  # the next chunk is not there yet when it is looked for
        (1000, b"x" * 10, 10),
        (1000, b"x" * 10_000, None),
    ],
)
def test_the_rate_of_data(rate: int, chunk: bytes, seconds: float | None) -> None:
    """A chunk each second: whoever is slower than the rate is cut off, but after `timeout` only."""
    world = World(*[(1.0, chunk)] * 100)
    channel = world.channel(timeout=10)
    channel.start_data(rate)
    got = 0
    try:
        for _ in range(100):
            got += len(channel.chunk())
    except Timeout:
        assert seconds is not None
        assert seconds <= world.passed() < seconds + 2
    else:
        assert seconds is None
        assert got == 100 * len(chunk)


def test_a_burst_earns_time() -> None:
    """Who was fast before may rest: the rate is that of the whole message."""
    world = World((0, b"x" * 3000), (29, b"x"), (100, b"x"))
    channel = world.channel(timeout=30)
    channel.start_data(100)
    assert len(channel.chunk()) == 3000
    assert channel.chunk() == b"x"
    with pytest.raises(Timeout):
        channel.chunk()
    assert 30 <= world.passed() < 31


def test_silence_in_data() -> None:
    world = World((0, b"x\r\n.\r"))
    channel = world.channel(timeout=10)
    channel.start_data(1)
    channel.chunk()
    with pytest.raises(Timeout):
        channel.chunk()
    assert world.passed() == 10


# -- output ----------------------------------------------------------------


def test_who_does_not_read_is_gone() -> None:
    world = World((0, b"NOOP\r\n"), deaf=True)
    channel = world.channel(timeout=10)
    channel.write(b"220 hello\r\n")
    with pytest.raises(Gone):
        channel.line(510)
    assert world.passed() == 10


def test_who_does_not_read_is_not_waited_for_again() -> None:
    """At the end there may be a close_notify to be sent, in TLS."""
    world = World()
    with pytest.raises(Gone):
        world.channel(timeout=1200).close()
    assert world.passed() == 5


def test_who_does_not_read_until_the_session_is_over() -> None:
    world = World(deaf=True)
    channel = world.channel(timeout=100, session=10)
    channel.write(b"220 hello\r\n")
    with pytest.raises(SessionOver):
        channel.flush()
    assert world.passed() == 10


def test_a_group_is_answered_at_once() -> None:
    """Replies leave when the input has been used up, in one write."""
    world = World((0, b"A\r\nB\r\nC\r\n"), (5, b""))
    channel = world.channel()
    with pytest.raises(Gone):
        while channel.line(510):
            channel.write(b"250 ok\r\n")
    assert world.heard == [(0, b"250 ok\r\n" * 3)]
    assert (channel.bytes_in, channel.bytes_out) == (9, 24)


# -- pause and speaks ------------------------------------------------------


def test_pause() -> None:
    """What was said before is heard before."""
    world = World()
    channel = world.channel(session=50)
    channel.write(b"250 ok\r\n")
    channel.pause(7)
    assert (world.heard, world.passed()) == ([(0, b"250 ok\r\n")], 7)
    channel.pause(-1)
    assert world.passed() == 7
    channel.pause(1000)  # no longer than the session
    assert world.passed() == 50


@pytest.mark.parametrize(
    ("script", "speaks", "seconds"),
    [
        ([], False, 20),
        ([(25, b"EHLO")], False, 20),
        ([(5, b"EHLO")], True, 5),
        ([(5, b"")], False, 5),  # it has gone
    ],
)
def test_speaks(script: list[tuple[float, bytes]], speaks: bool, seconds: float) -> None:
    world = World(*script)
    channel = world.channel()
    channel.write(b"220-wait\r\n")
    assert channel.speaks(20) is speaks
    assert world.passed() == seconds
    assert world.heard == [(0, b"220-wait\r\n")]


def test_speaks_sees_what_is_there_already() -> None:
    """Pipelined input is in the buffer: nothing is waited for, and nothing of it is lost."""
    world = World((0, b"EHLO me\r\nMAIL"))
    channel = world.channel()
    assert channel.line(510) == b"EHLO me\r\n"
    assert channel.speaks(20)
    assert world.passed() == 0
    assert channel.chunk() == b"MAIL"


def test_speaks_only_until_the_session_is_over() -> None:
    world = World()
    with pytest.raises(SessionOver):
        world.channel(session=10).speaks(20)
    assert world.passed() == 10


def test_a_message_in_chunks_has_its_rate_between_them_too() -> None:
    """A byte in each chunk, each line in time by itself: the message is too slow all the same."""
    world = World((9.0, b"x"), (9.0, b"NOOP\r\n"))
    channel = world.channel(timeout=10)
    channel.start_data(100)
    assert channel.chunk(1) == b"x"
    with pytest.raises(Timeout):
        channel.line(100)
    assert world.passed() == 10
    channel.end_data()
    assert channel.line(100) == b"NOOP\r\n"
