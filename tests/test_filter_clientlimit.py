"""clientlimit: how many connections a client has at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from filters import TAKEN, build, client, logged, open_log, say

from qsmtpd.facts import Envelope, Peer
from qsmtpd.filters import clientlimit
from qsmtpd.filters.clientlimit import RENEWAL, SPARE

NOW = 1_800_000_000
FULL = b"drop 421 too many connections from your address (#4.7.0)"


class Clock:
    now = 0.0

    def time(self) -> float:
        return NOW + self.now

    def monotonic(self) -> float:
        return 1000 + self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clientlimit, "time", made.time)
    monkeypatch.setattr(clientlimit, "monotonic", made.monotonic)
    return made


def session(path: Path, **environ: str) -> Any:
    given = {"CLIENTLIMIT": "2", "TIMEOUTSMTPD": "300", "QSMTPD_STORE": str(path / "store")}
    return build("clientlimit", path, open_log(path / "log"), **{**given, **environ})


def connect(plugin: Any, ip: bytes = b"192.0.2.1") -> bytes:
    who = client()
    who.peer = Peer(ip=ip)
    return say("connect", plugin.connect(who))


def test_as_many_as_may_be(tmp_path: Path) -> None:
    first, second, third = (session(tmp_path) for _ in range(3))
    assert [connect(each) for each in (first, second, third)] == [TAKEN, TAKEN, FULL]
    assert connect(session(tmp_path), b"192.0.2.2") == TAKEN
    third.disconnect(client())
    assert connect(session(tmp_path)) == FULL, "who was refused has nothing to give back"
    first.disconnect(client())
    first.disconnect(client())
    assert connect(third) == TAKEN
    assert connect(session(tmp_path)) == FULL


def test_who_is_a_client(tmp_path: Path) -> None:
    for ip in (b"2001:db8::1", b"2001:db8::2"):
        assert connect(session(tmp_path), ip) == TAKEN
    assert connect(session(tmp_path), b"2001:db8::3") == FULL
    assert connect(session(tmp_path), b"2001:db8:0:1::3") == TAKEN
    for ip in (b"127.0.0.1", b"::1", b"unknown"):
        assert [connect(session(tmp_path), ip) for _ in range(4)] == [TAKEN] * 4
    assert [connect(session(tmp_path, CLIENTLIMIT="0")) for _ in range(4)] == [TAKEN] * 4


def test_a_place_that_is_not_given_back_is_free_some_time_later(
    tmp_path: Path, clock: Clock
) -> None:
    lost, kept = session(tmp_path), session(tmp_path)
    assert connect(lost) == connect(kept) == TAKEN
    clock.now = 400
    assert say("mail", kept.mail(client(), Envelope(b"a@b"))) == TAKEN
    clock.now = 419
    assert connect(session(tmp_path)) == FULL
    clock.now = 420  # timeoutsmtpd and two minutes
    assert connect(session(tmp_path)) == TAKEN
    assert connect(session(tmp_path)) == FULL, "the other one has taken its place anew"
    lost.disconnect(client())
    assert connect(session(tmp_path)) == FULL, "another one has the place that was lost"


def test_a_place_of_a_time_to_come_is_free(tmp_path: Path, clock: Clock) -> None:
    """It was taken while the clock was ahead; clocks of machines may differ a little."""
    clock.now = 1_000_000
    assert [connect(session(tmp_path)) for _ in range(3)] == [TAKEN, TAKEN, FULL]
    clock.now = 1_000_000 - SPARE
    assert connect(session(tmp_path)) == FULL
    clock.now = 0
    first, second = session(tmp_path), session(tmp_path)
    assert [connect(first), connect(second)] == [TAKEN, TAKEN]
    assert connect(session(tmp_path)) == FULL
    first.disconnect(client())
    assert connect(session(tmp_path)) == TAKEN


def test_a_message_that_takes_long_keeps_the_place(tmp_path: Path, clock: Clock) -> None:
    plugin, other = session(tmp_path), session(tmp_path)
    assert connect(plugin) == connect(other) == TAKEN
    for _ in range(20):
        clock.now += RENEWAL
        plugin.body(client(), Envelope(b"a@b"), b"x")
    assert connect(session(tmp_path)) == TAKEN, "of the other one"
    assert connect(session(tmp_path)) == FULL


def test_whoever_was_greeted_by_a_server_is_asked_later(tmp_path: Path) -> None:
    held = [session(tmp_path) for _ in range(3)]
    said = [say("helo", each.helo(client(), b"x")) for each in held]
    assert said == [TAKEN, TAKEN, FULL]
    held[0].disconnect(client())  # as at STARTTLS, after which it is another one
    assert say("starttls", session(tmp_path).starttls(client())) == TAKEN
    assert say("starttls", session(tmp_path).starttls(client())) == FULL


def test_trouble_refuses_nobody(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert [connect(session(tmp_path)) for _ in range(4)] == [TAKEN] * 4
    (line,) = logged(tmp_path / "log")
    assert (line["store"], line["then"]) == ("foreign", "nobody is refused")


def test_a_dry_run_takes_none(tmp_path: Path) -> None:
    who = client()
    who.dry_run = True
    assert [say("connect", session(tmp_path).connect(who)) for _ in range(4)] == [TAKEN] * 4
    assert not os.path.exists(tmp_path / "store")
