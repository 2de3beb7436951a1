"""What filters remember, on a real Redis server that several machines share."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
from harness import ROOT, Home, wait_for
from listeners import Listener, Server, clocked, tcpserver
from redis_server import RedisServer
from test_remembering import MESSAGE, REFUSED, Clock, left

from qsmtpd.policy.store import COUNTS, Record, Trouble
from qsmtpd.policy.store import redis as module
from qsmtpd.policy.store.address import parse
from qsmtpd.policy.store.counts import Counter, count, listed
from qsmtpd.policy.store.redis import RedisStore

pytestmark = pytest.mark.interop
PATIENCE = 60.0  # seconds


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    with RedisServer(folder) as running:
        yield running


def opened(server: RedisServer) -> RedisStore:
    where = parse(server.url.encode())
    assert where is not None
    store = RedisStore(where, b"mx")
    store.deadline = monotonic() + PATIENCE
    return store


def test_many_processes_at_once_lose_nothing(server: RedisServer) -> None:
    now, times = int(time.time()), 10
    children = []
    for number in range(50):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                store = opened(server)
                for _ in range(times):
                    if number % 2:
                        store = opened(server)
                    store.deadline = monotonic() + PATIENCE
                    one, all_of_them = Counter(b"%d\0" % number, 3600), Counter(b"all\0", 3600)
                    assert count(store, now, [one, all_of_them]).over is None
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 50
    values = sorted(what.value for _, _, what in listed(opened(server), now))
    assert values == [times] * 50 + [50 * times]


def test_it_is_killed_and_started_while_it_is_used(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    store, troubles = opened(server), 0
    for number in range(300):
        if number % 100 == 50:
            server.kill()
        if number % 100 == 90:
            server.start()
        store.deadline = monotonic() + PATIENCE
        try:
            count(store, int(time.time()), [Counter(b"x\0", 3600)])
        except Trouble as error:
            assert error.word in ("missing", "failed"), error.reason
            troubles += 1
            time.sleep(0.002)
    assert 0 < troubles <= 130
    assert [what.value for _, _, what in listed(opened(server), int(time.time()))] == [10], (
        "each once"
    )


def test_who_is_known_to_one_machine_is_known_to_the_other(home: Home, server: RedisServer) -> None:
    clock = Clock(home.path / "clock")
    home.environ |= {"GREYLIST": "", "QSMTPD_STORE": server.url, "STORELOCAL": "local"}
    with (
        tcpserver(home, ":allow", run=clocked(home.path / "clock", "qsmtpd.main")) as cold,
        Server(home, run=clocked(home.path / "clock", "qsmtpd.server.main")) as warm,
    ):
        assert left(cold.session(*REFUSED)[3]) > 290
        wait_for(lambda: warm.busy() == 0)
        before = None
        for _ in range(3):
            assert left(warm.session(*REFUSED)[3]) > 200
            wait_for(lambda: warm.busy() == 0)
            before = before or warm.children()
        assert warm.children() == before, "the connection that stays open is no leftover"
        clock.move(301)
        assert warm.session(*MESSAGE)[-2].startswith(b"250 ok ")
        assert cold.session(*MESSAGE)[-2].startswith(b"250 ok ")
        assert cold.events("trouble") == warm.events("trouble") == []
    names = server.say("KEYS", "*")
    assert names.startswith(b"qsmtpd:greylist:") and b"example" not in names


@pytest.mark.parametrize("how", ["down", "stopped", "full", "password", "restarted"])
@pytest.mark.parametrize("is_warm", [False, True], ids=["tcpserver", "qsmtpd-server"])
def test_whatever_it_does_mail_flows(
    home: Home, server: RedisServer, how: str, is_warm: bool
) -> None:
    home.environ |= {"GREYLIST": "", "QSMTPD_STORE": server.url, "STORELOCAL": "local"}
    home.environ["STORETIMEOUT"] = "1" if how == "stopped" else "60"
    words = {"down": "missing", "stopped": "busy", "full": "full", "password": "denied"}
    if how == "full":
        server.say("CONFIG", "SET", "maxmemory", "1")
    elif how == "password":
        server.say("CONFIG", "SET", "requirepass", "x")
    elif how == "down":
        server.kill()
    elif how == "stopped":
        server.signal(signal.SIGSTOP)
    with Server(home) if is_warm else tcpserver(home, ":allow") as listener:
        assert isinstance(listener, Listener)
        if how == "restarted":
            assert left(listener.session(*REFUSED)[3]) > 290
            server.kill()
            server.start()
            assert left(listener.session(*REFUSED)[3]) > 298, "it has forgotten all"
            assert listener.events("plugin") == listener.events("trouble") == []
            return
        for _ in range(3):
            begun = monotonic()
            assert listener.session(*MESSAGE)[-2].startswith(b"250 ok ")
            assert monotonic() - begun < 50
        assert listener.events("trouble") == []
        (line,) = listener.events("plugin")
        assert (line["store"], line["then"]) == (words[how], "pass")
    if how == "stopped":
        server.signal(signal.SIGCONT)
    assert len(home.messages()) == 3


def test_connections_of_a_client_on_two_machines(home: Home, server: RedisServer) -> None:
    """Of 127.0.0.0/8 there is no limit; here that is 127.0.0.1 alone."""
    home.environ |= {"CLIENTLIMIT": "2", "QSMTPD_STORE": server.url, "STORELOCAL": "local"}
    full = b"421 too many connections from your address (#4.7.0)"
    patch = "from qsmtpd.filters import clientlimit\nclientlimit.LOOPBACK = b'127.0.0.1'"

    def place(program: str) -> list[str | Path]:
        lines = f"import sys\nsys.path.insert(0, sys.argv.pop(1))\n{patch}\n"
        lines += f"from {program} import main\nmain(sys.argv[1:])"
        return [sys.executable, "-c", lines, ROOT]

    with ExitStack() as stack:
        cold = stack.enter_context(tcpserver(home, ":allow", run=place("qsmtpd.main")))
        warm = stack.enter_context(Server(home, run=place("qsmtpd.server.main")))
        first = stack.enter_context(cold.client("127.0.0.5"))
        assert first.line().startswith(b"220 ")
        second = stack.enter_context(warm.client("127.0.0.5"))
        assert second.line().startswith(b"220 ")
        second.send(b"HELO x\r\n")
        assert second.line().startswith(b"250 ")
        with cold.client("127.0.0.5") as third:
            assert third.line() == full
        with warm.client("127.0.0.5") as third:
            assert third.line().startswith(b"220 "), "it is held, and has said nothing"
            third.send(b"EHLO x\r\n")
            assert third.line() == full
        with cold.client("127.0.0.6") as other:
            assert other.line().startswith(b"220 ")
        script = "return redis.call('PTTL', redis.call('KEYS', 'qsmtpd:clients:*')[1])"
        assert 1_200_000 < int(server.say("EVAL", script, "0")) <= 1_320_000
        first.send(b"QUIT\r\n")
        wait_for(lambda: len(cold.events("session")) == 3)
        with cold.client("127.0.0.5") as third:
            assert third.line().startswith(b"220 "), "a place was given back"
    wait_for(lambda: not server.say("KEYS", "qsmtpd:clients:*").strip())


def test_what_check_and_counts_say(home: Home, server: RedisServer) -> None:
    home.control("sendlimits", "client:* messages=2/hour")
    home.environ |= {"QSMTPD_STORE": server.url, "STORELOCAL": "local", "RELAYCLIENT": ""}
    message = b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@c.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
    for code in (250, 250, 452):
        run = home.run(message)
        assert code in run.codes and "plugin=sendlimits store" not in run.log, run.log
    said = home.run(b"", "--check").out.decode()
    assert "it answers, and writes: 7." in said and "wrong: " not in said, said
    server.say("CONFIG", "SET", "maxmemory", "100mb")
    server.say("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "warning: QSMTPD_STORE: " in home.run(b"", "--check").out.decode()
    all_of_them = home.run(b"", "--counts").out
    assert b"\n#" in all_of_them and b"192.0.2.1" not in all_of_them
    one = home.run(b"", "--counts", "client:192.0.2.1").out
    assert b"client:192.0.2.1  hour         2/2" in one, one
    assert (
        b"reset: client:192.0.2.1" in home.run(b"", "--counts", "--reset", "client:192.0.2.1").out
    )
    assert home.run(b"", "--counts").out == b"nothing is counted\n"
    assert 250 in home.run(message).codes
    server.kill()
    run = home.run(b"", "--counts")
    assert run.status == 111


def test_a_value_of_somebody_else_is_left_alone(server: RedisServer) -> None:
    store, now = opened(server), int(time.time())
    store.update(COUNTS, [b"x"], now, lambda _: [Record(now, 1, now + 9)])
    name = server.say("KEYS", "*").decode().strip()
    server.say("SET", name, "hello")
    with pytest.raises(Trouble) as raised:
        store.update(COUNTS, [b"x"], now, lambda _: [Record(now, 1, now + 9)])
    assert raised.value.word == "foreign"
    assert server.say("GET", name) == b"hello\n"
