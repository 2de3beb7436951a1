"""A store on a Redis-protocol server: what it says, and whatever that may answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
from daemons import Line, Peer, Script, words
from harness import Home
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.policy.store import COUNTS, GREYLIST, Record, Trouble
from qsmtpd.policy.store import redis as module
from qsmtpd.policy.store.address import parse
from qsmtpd.policy.store.redis import IDLE, RedisStore

NOW = 1_800_000_000
NIL = b"*1\r\n$-1\r\n"


def opened(peer: Peer, secret: bytes = b"", url: bytes = b"", budget: float = 20) -> RedisStore:
    server = parse(url or os.fsencode(peer.address))
    assert server is not None
    store = RedisStore(server, b"mx", secret)
    store.deadline = monotonic() + budget
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "redis"


def saying(*replies: bytes) -> Script:
    """A server that says these, one for each command, and hears what is asked then."""

    def script(line: Line) -> None:
        for reply in replies:
            if not words(line):
                return
            line.say(reply)
        line.wait_for_end()

    return script


def test_what_is_said(path: Path) -> None:
    heard: list[list[bytes]] = []
    answers = {b"MGET": NIL, b"EXEC": b"*1\r\n+OK\r\n"}

    def script(line: Line) -> None:
        while said := words(line):
            heard.append(said)
            line.say(answers.get(said[0], b"+OK\r\n"))

    with Peer(script, path) as peer:
        url = b"unix://us%%65r:pass%%40@%b?db=3" % os.fsencode(path)
        store = opened(peer, url=url)
        record = Record(NOW, 7, NOW + 90)
        assert store.update(COUNTS, [b"joe\x00rest"], NOW, lambda _: [record]) == [record]
        assert len(store.sockets) == 1
        assert store.look(COUNTS, [b"joe\x00rest"], NOW) == [None]
        store.close()
        assert peer.connections == 1 and not store.sockets
    name = heard[3][1]
    assert name.startswith(b"mx:counts:") and name.endswith(b"\0rest") and b"joe" not in name
    assert heard == [
        [b"AUTH", b"user", b"pass@"],
        [b"SELECT", b"3"],
        [b"UNWATCH"],
        [b"WATCH", name],
        [b"MGET", name],
        [b"MULTI"],
        [b"SET", name, b"%d 7 %d" % (NOW, NOW + 90), b"PX", b"90000"],
        [b"EXEC"],
        [b"MGET", name],
    ]


def test_names_are_digests_with_a_secret(path: Path) -> None:
    found = []
    with Peer(saying(NIL), path) as peer:
        for secret in (b"", b"s" * 16, b"t" * 64):
            names: list[bytes] = []
            store = opened(peer, secret)
            for key in (b"a@b.example", b"a@b.example\0x", b"a@c.example"):
                names.append(store._name(COUNTS, key))
            names.append(store._name(GREYLIST, b"ab\0cd"))
            assert store._name(COUNTS, b"#" + names[1].split(b":")[-1]) == names[1]
            assert b"\0" not in names[3], "all of it is hidden"
            found += [name.split(b"\0")[0] for name in names]
    assert len(set(found)) == 9


LONG = b"x" * 100_000
#: what it says to UNWATCH, to WATCH and to MGET -> the word for it
ANSWERS: list[tuple[str, tuple[bytes, ...], str]] = [
    ("http", (b"HTTP/1.1 400 Bad Request\r\n",), "foreign"),
    ("smtp", (b"220 mx.example ESMTP\r\n",), "foreign"),
    ("no CR", (b"+OK\n",), "foreign"),
    ("CR inside", (b"+O\rK\r\n",), "foreign"),
    ("empty", (b"\r\n",), "foreign"),
    ("no number", (b"$x\r\n",), "foreign"),
    ("blank number", (b"$ 1\r\n",), "foreign"),
    ("underscore", (b":1_0\r\n",), "foreign"),
    ("long number", (b":" + b"1" * 5000 + b"\r\n",), "foreign"),
    ("huge value", (b"$999999999999\r\n",), "foreign"),
    ("below nothing", (b"$-2\r\n",), "foreign"),
    ("value without end", (b"+OK\r\n", b"+OK\r\n", b"*1\r\n$1\r\nxyz"), "foreign"),
    ("huge list", (b"*999999999\r\n" + b":1\r\n" * 50_000,), "foreign"),
    ("deep", (b"*1\r\n" * 9,), "foreign"),
    ("RESP3", (b"_\r\n",), "foreign"),
    ("line without end", (b"+" + LONG,), "foreign"),
    ("no list", (b"+OK\r\n", b"+OK\r\n", b"+OK\r\n"), "foreign"),
    ("too few", (b"+OK\r\n", b"+OK\r\n", b"*0\r\n"), "foreign"),
    ("too many", (b"+OK\r\n", b"+OK\r\n", b"*2\r\n$-1\r\n$-1\r\n"), "foreign"),
    ("null", (b"+OK\r\n", b"+OK\r\n", b"*-1\r\n"), "foreign"),
    ("a number", (b"+OK\r\n", b"+OK\r\n", b"*1\r\n:7\r\n"), "foreign"),
    ("no record", (b"+OK\r\n", b"+OK\r\n", b"*1\r\n$5\r\nhello\r\n"), "foreign"),
    ("half", (b"+OK\r\n", b"+OK\r\n", b"*1\r\n$3\r\n1 2\r\n"), "foreign"),
    ("blanks", (b"+OK\r\n", b"+OK\r\n", b"*1\r\n$6\r\n1  2 3\r\n"), "foreign"),
    ("huge", (b"+OK\r\n", b"+OK\r\n", b"*1\r\n$104\r\n1 2 " + b"3" * 100 + b"\r\n"), "foreign"),
    ("loading", (b"-LOADING Redis is loading the dataset in memory\r\n",) * 3, "busy"),
    ("script", (b"-BUSY Redis is busy running a script.\r\n",) * 3, "busy"),
    ("no password", (b"-NOAUTH Authentication required.\r\n",) * 3, "denied"),
    ("no right", (b"+OK\r\n", b"-NOPERM this user has no permissions\r\n", NIL), "denied"),
    ("cluster", (b"+OK\r\n", b"-MOVED 1 127.0.0.1:7002\r\n", NIL), "foreign"),
    ("type", (b"+OK\r\n", b"+OK\r\n", b"-WRONGTYPE Operation against a key\r\n"), "foreign"),
    ("error", (b"-ERR max number of clients reached\r\n",) * 3, "failed"),
    ("error alone", (b"-\r\n",) * 3, "failed"),
    ("an escape", (b"-ERR \x1b[2J\r\n",) * 3, "failed"),
]


@pytest.mark.parametrize(("replies", "word"), [a[1:] for a in ANSWERS], ids=[a[0] for a in ANSWERS])
def test_what_it_may_answer(path: Path, replies: tuple[bytes, ...], word: str) -> None:
    with Peer(saying(*replies), path) as peer:
        store = opened(peer)
        with pytest.raises(Trouble) as raised:
            store.update(GREYLIST, [b"k"], NOW, lambda _: [Record(NOW, 1, NOW + 1)])
        assert raised.value.word == word, raised.value.reason
        assert raised.value.reason.isprintable() and len(raised.value.reason) < 300
        assert str(path) in raised.value.reason
        assert not store.sockets, "nobody goes on with such a connection"


#: what it says to MULTI, SET and EXEC -> the word for it
WRITING: list[tuple[str, tuple[bytes, ...], str]] = [
    ("full", (b"+OK\r\n", b"-OOM command not allowed\r\n", b"-EXECABORT x\r\n"), "full"),
    ("replica", (b"+OK\r\n", b"-READONLY You can't write\r\n", b"-EXECABORT x\r\n"), "readonly"),
    ("disk", (b"+OK\r\n", b"-MISCONF Redis is configured\r\n", b"-EXECABORT x\r\n"), "readonly"),
    ("late", (b"+OK\r\n", b"+QUEUED\r\n", b"*1\r\n-OOM x\r\n"), "full"),
    ("none", (b"+OK\r\n", b"+QUEUED\r\n", b"*0\r\n"), "foreign"),
    ("number", (b"+OK\r\n", b"+QUEUED\r\n", b":1\r\n"), "foreign"),
    ("closed", (b"+OK\r\n",), "failed"),
]


@pytest.mark.parametrize(("replies", "word"), [a[1:] for a in WRITING], ids=[a[0] for a in WRITING])
def test_what_it_may_answer_to_a_write(path: Path, replies: tuple[bytes, ...], word: str) -> None:
    seen: list[bytes] = []

    def script(line: Line) -> None:
        for reply in (b"+OK\r\n", b"+OK\r\n", NIL, *replies):
            seen.append(words(line)[0])
            line.say(reply)
        if word != "failed":
            line.wait_for_end()

    with Peer(script, path) as peer:
        with pytest.raises(Trouble) as raised:
            opened(peer).update(GREYLIST, [b"k"], NOW, lambda _: [Record(NOW, 1, NOW + 1)])
        assert raised.value.word == word, raised.value.reason
        assert peer.connections == 1, "what was sent is not sent again"
    assert seen.count(b"MULTI") == 1


#: what it says to AUTH and to SELECT -> the word for it
QUOTING: list[tuple[str, tuple[bytes, ...], str]] = [
    ("AUTH", (b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n",), "failed"),
    ("WRONGPASS", (b"-WRONGPASS hunter2\r\n",), "denied"),
    ("the first word", (b"-hunter2\r\n",), "failed"),
    ("SELECT", (b"+OK\r\n", b"-NOPERM joe:hunter2 has no database\r\n"), "denied"),
    ("no error", (b"hunter2?\r\n",), "foreign"),
    ("no error to SELECT", (b"+OK\r\n", b"$hunter2\r\n"), "foreign"),
    ("a value", (b"$7\r\nhunter2hunter2\r\n",), "foreign"),
]


@pytest.mark.parametrize(("replies", "word"), [a[1:] for a in QUOTING], ids=[a[0] for a in QUOTING])
def test_who_quotes_the_password_is_not_quoted(
    path: Path, replies: tuple[bytes, ...], word: str
) -> None:
    rest = (b"+OK\r\n",) * (2 - len(replies)) + (b"+OK\r\n",) * 4
    with Peer(saying(*replies, *rest), path) as peer:
        store = opened(peer, url=b"unix://joe:hunter2@%b?db=3" % os.fsencode(path))
        with pytest.raises(Trouble) as raised:
            store.update(GREYLIST, [b"k"], NOW, lambda _: [Record(NOW, 1, NOW + 1)])
        assert raised.value.word == word, raised.value.reason
        assert "hunter2" not in raised.value.reason and str(path) in raised.value.reason
        assert not store.sockets


@pytest.mark.parametrize("end", ["", "?db=3"], ids=["AUTH", "SELECT"])
def test_no_password_is_in_the_log_or_said_by_check(home: Home, path: Path, end: str) -> None:
    def script(line: Line) -> None:
        refused = b"SELECT" if end else b"AUTH"
        while said := words(line):
            line.say(b"-ERR joe:hunter2 may not\r\n" if said[0] == refused else b"+OK\r\n")

    url = f"unix://joe:hunter2@{path}{end}"
    home.control("store", url)
    home.environ |= {"GREYLIST": "", "STORELOCAL": "local"}
    session = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n"
    with Peer(script, path) as peer:
        run = home.run(session)
        checked = home.run(b"", "--check")
        assert peer.connections == 2
    assert run.codes[-2:] == [250, 221]
    (line,) = run.events("plugin")
    assert (line["store"], line["then"]) == ("failed", "pass")
    assert "refuses the user, the password or the database" in line["reason"]
    assert "hunter2" not in run.log + checked.out.decode() + checked.log
    assert f"store = unix://joe:...@{path}{end} (control/store)" in checked.out.decode()
    assert f"wrong: control/store: unix:{path}" in checked.out.decode()


def test_another_comes_between(path: Path) -> None:
    """EXEC has done nothing then: all of it is done again."""
    first = (b"+OK\r\n", b"+OK\r\n", NIL, b"+OK\r\n", b"+QUEUED\r\n", b"*-1\r\n")
    value = b"%d 1 %d" % (NOW, NOW + 9)
    other = b"*1\r\n$%d\r\n%b\r\n" % (len(value), value)
    second = (b"+OK\r\n", b"+OK\r\n", other, b"+OK\r\n", b"+QUEUED\r\n", b"*1\r\n+OK\r\n")
    with Peer(saying(*first, *second), path) as peer:
        (found,) = opened(peer).update(
            GREYLIST, [b"k"], NOW, lambda r: [Record(NOW, r[0].count + 1 if r[0] else 1, NOW + 9)]
        )
    assert found is not None and found.count == 2
    with Peer(saying(*first * 1000), path) as peer:
        store = opened(peer, budget=0.2)
        with pytest.raises(Trouble) as raised:
            store.update(GREYLIST, [b"k"], NOW, lambda _: [Record(NOW, 1, NOW + 1)])
        assert raised.value.word == "busy"


def drip(line: Line) -> None:
    """A byte at a time, without end."""
    line.say(b"+")
    while True:
        line.say(b"x")
        time.sleep(0.001)


def flood(line: Line) -> None:
    while True:
        line.say(LONG)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (Line.wait_for_end, "busy"),
        (drip, "busy"),
        (flood, "foreign"),
        (lambda line: None, "failed"),
        (lambda line: line.say(b"+O"), "failed"),
    ],
    ids=["silent", "drip", "flood", "closes", "half"],
)
def test_who_does_not_answer_costs_the_budget_once(path: Path, script: Script, word: str) -> None:
    with Peer(script, path) as peer:
        store = opened(peer, budget=0.3)
        for _ in range(3):
            store.deadline = monotonic() + 0.3
            with pytest.raises(Trouble) as raised:
                store.look(GREYLIST, [b"k"], NOW)
            assert raised.value.word == word, raised.value.reason
            assert str(path) in raised.value.reason
            assert monotonic() < store.deadline + 5
        assert peer.connections == 1, "there is a pause before it is asked again"


def test_nobody_is_there(path: Path) -> None:
    for url in (b"unix:%b" % os.fsencode(path), b"redis://user:secret@127.0.0.1:1"):
        server = parse(url)
        assert server is not None
        store = RedisStore(server, b"mx")
        store.deadline = monotonic() + 9
        with pytest.raises(Trouble) as raised:
            store.look(GREYLIST, [b"k"], NOW)
        assert raised.value.word == "missing" and "secret" not in raised.value.reason


@pytest.mark.slow
def test_a_connection_that_has_died_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(line: Line) -> None:
        for _ in range(2):
            if words(line):
                line.say(NIL)

    with Peer(twice, path) as peer:
        store = opened(peer)
        for number in (1, 1, 2):
            assert store.look(GREYLIST, [b"k"], NOW) == [None]
            assert peer.connections == number
        peer.restart()
        assert store.look(GREYLIST, [b"k"], NOW) == [None]
        before = peer.connections
        later = monotonic() + IDLE
        monkeypatch.setattr("qsmtpd.policy.store.redis.monotonic", lambda: later)
        store.deadline = later + 20
        assert store.look(GREYLIST, [b"k"], NOW) == [None]
        assert peer.connections == before + 1, "nobody has used it for too long"


# -- all names ---------------------------------------------------------------------


class Listing:
    """A server that answers SCAN by answer(its number): the next cursor, and names.

    Every key has the same record; `asked` has the keys of what was asked else.
    """

    def __init__(self, answer: Callable[[int], tuple[bytes, list[bytes]]]) -> None:
        self._answer = answer
        self.scans = 0
        self.asked: list[tuple[bytes, ...]] = []

    def __call__(self, line: Line) -> None:
        record = b"%d 7 %d" % (NOW, NOW + 9)
        while said := words(line):
            if said[0] == b"SCAN":
                cursor, names = self._answer(self.scans)
                self.scans += 1
                line.say(b"*2\r\n" + _bulk(cursor) + b"*%d\r\n" % len(names))
                line.say(b"".join(map(_bulk, names)))
                continue
            self.asked.append(tuple(said))
            if said[0] == b"DEL":
                line.say(b":%d\r\n" % len(said[1:]))
            else:
                line.say(b"*%d\r\n" % len(said[1:]) + _bulk(record) * len(said[1:]))


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


OURS = [b"mx:counts:" + bytes((byte,)) * 32 for byte in b"abc"]


def test_names_that_do_not_begin_as_ours_do_are_left_alone(path: Path) -> None:
    """Names may come in any part, and twice."""
    strange = [b"", b"mx:counts", b"mx:clients:a", b"my:counts:a", b"x mx:counts:a", b"MX:COUNTS:a"]
    parts = [(b"7", OURS[:2]), (b"99999999999999999999", strange), (b"0", OURS[1:])]
    listing = Listing(lambda number: parts[number % 3])
    with Peer(listing, path) as peer:
        store = opened(peer)
        found = [key for key, _ in store.records(COUNTS, NOW)]
        assert found == [b"#" + name[len(b"mx:counts:") :] for name in OURS]
        assert store.remove(COUNTS) == 3
        store.close()
    assert listing.scans == 6
    (got, deleted) = listing.asked
    assert got == (b"MGET", *OURS) and set(deleted) == {b"DEL", *OURS}


@pytest.mark.parametrize("cursors", [[b"7"], [b"7", b"8"], [b"1", b"2", b"3", b"2"]])
def test_a_listing_whose_cursors_come_again_has_an_end(path: Path, cursors: list[bytes]) -> None:
    listing = Listing(lambda number: (cursors[number % len(cursors)], OURS))
    with Peer(listing, path) as peer:
        store = opened(peer)
        for ask in (lambda: list(store.records(COUNTS, NOW)), lambda: store.remove(COUNTS)):
            with pytest.raises(Trouble) as raised:
                ask()
            assert raised.value.word == "foreign" and str(path) in raised.value.reason
    assert listing.scans <= 2 * (len(cursors) + 1) and listing.asked == []


def test_a_listing_without_end_has_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is a good one, in time, with another cursor."""
    monkeypatch.setattr(module, "_SCANS", 50)
    listing = Listing(lambda number: (b"%d" % (number + 1), []))
    with Peer(listing, path) as peer:
        with pytest.raises(Trouble) as raised:
            list(opened(peer).records(COUNTS, NOW))
        assert raised.value.word == "foreign"
    assert 50 <= listing.scans < 60


@given(st.binary(max_size=200))
def test_any_answer_ends_it(answer: bytes) -> None:
    """In a list of values, an error, or trouble; nothing else is raised, and nothing waits."""
    from qsmtpd.net.daemon import NoAnswer
    from qsmtpd.net.resp import read_reply

    class Fake:
        def __init__(self) -> None:
            self.data = answer

        def line(self) -> bytes:
            line, found, self.data = self.data.partition(b"\n")
            if not found:
                raise NoAnswer("ended")
            return line

        def exactly(self, number: int) -> bytes:
            if len(self.data) < number:
                raise NoAnswer("ended")
            data, self.data = self.data[:number], self.data[number:]
            return data

    try:
        read_reply(Fake())  # type: ignore[arg-type]
    except NoAnswer:
        pass


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"redis://127.0.0.1", "inet:127.0.0.1:6379"),
        (b"redis://localhost:7000/2", "inet:localhost:7000, database 2"),
        (b"valkey://:p%40ss@[::1]/0", "inet:[::1]:6379"),
        (b"redis://u:p@10.0.0.1:1/", "inet:10.0.0.1:1"),
        (b"unix:/run/redis.sock", "unix:/run/redis.sock"),
        (b"unix://:p@/run/redis.sock?db=7", "unix:/run/redis.sock, database 7"),
    ],
)
def test_addresses(text: bytes, name: str) -> None:
    server = parse(text)
    assert server is not None and server.name == name


@pytest.mark.parametrize(
    "text",
    [
        *(b"redis://", b"redis:///0", b"redis://mail.example", b"redis://127.0.0.1:0"),
        *(b"redis://127.0.0.1/x", b"redis://127.0.0.1/1/2", b"redis://user@127.0.0.1"),
        *(b"redis://:@127.0.0.1", b"redis://:%4@127.0.0.1", b"redis://127.0.0.1:6379x"),
        *(b"redis://127.0.0.1 ", b"redis://::1", b"unix:", b"unix://", b"unix:///a?x=1"),
        *(b"unix:user:secret@/p", b"unix:a@b", b"unix://secret@/p", b"redis:/:secret@127.0.0.1"),
        *(b"rediss://127.0.0.1", b"http://127.0.0.1", b"sqlite:///x"),
    ],
)
def test_what_is_no_address(text: bytes) -> None:
    with pytest.raises(ValueError, match="^[a-z]"):
        parse(text)


def test_what_is_a_file() -> None:
    assert parse(b"/var/lib/store") is parse(b"a:b") is parse(b"redis") is None
