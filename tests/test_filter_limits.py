"""The filters that count: tarpit, unknown and karma, each asked by itself."""

from __future__ import annotations

import pytest
from filters import TAKEN, build, client, rcpt, say
from harness import Home, Variables

from qsmtpd.decision import ACCEPTED, Decision, defer, drop, reject
from qsmtpd.facts import Client, ControlError, Envelope, Reply, Ruling
from qsmtpd.filters import tarpit

LATER = b"452 sorry, too many recipients (#4.5.3)"


def waits(who: Client) -> list[float]:
    """How long the client is let wait, from now on."""
    found: list[float] = []
    who.pause = found.append
    return found


@pytest.mark.parametrize(
    ("environ", "recipients", "bad", "reply", "wait"),
    [
        ({}, 500, 400, TAKEN, []),
        ({"TARPITCOUNT": "0"}, 500, 400, TAKEN, []),
        ({"TARPITCOUNT": "3"}, 3, 2, TAKEN, []),
        ({"TARPITCOUNT": "3"}, 4, 2, TAKEN, [5]),
        ({"TARPITCOUNT": "3", "TARPITDELAY": "998"}, 4, 2, TAKEN, [998]),
        ({"TARPITCOUNT": "3", "TARPITDELAY": "0"}, 4, 2, TAKEN, []),
        ({"TARPITCOUNT": "3", "TARPITDELAY": "999"}, 4, 2, TAKEN, []),
        ({"TARPITCOUNT": "3"}, 4, 3, LATER, []),
        ({"TARPITCOUNT": "3", "TARPITDELAY": "0"}, 400, 300, LATER, []),
        ({"TARPITCOUNT": "3", "TARPITDELAY": "999"}, 4, 3, LATER, []),
    ],
)
def test_tarpit(
    home: Home, environ: Variables, recipients: int, bad: int, reply: bytes, wait: list[int]
) -> None:
    who = client()
    who.counters.recipients, who.counters.bad_recipients = recipients, bad
    waited = waits(who)
    plugin = build("tarpit", home.path, **environ)
    assert rcpt(plugin, b"x@ok.example", who) == reply
    assert waited == wait
    end = b"drop 503 DATA command not accepted at this time (#5.5.1)"
    hard = environ.get("TARPITDELAY") == "999" and reply == LATER
    assert say("data", plugin.data(who, Envelope(b""))) == (end if hard else TAKEN)
    assert "relay" in tarpit.Plugin.immune


def test_tarpit_999_is_for_who_goes_on(home: Home) -> None:
    """So many bad ones and then DATA is nobody who guesses."""
    who = client()
    who.counters.recipients = who.counters.bad_recipients = 3
    plugin = build("tarpit", home.path, TARPITCOUNT="3", TARPITDELAY="999")
    assert say("data", plugin.data(who, Envelope(b""))) == TAKEN


def test_tarpit_control_files(home: Home) -> None:
    home.control("tarpitcount", "3")
    home.control("tarpitdelay", "7")
    who = client()
    who.counters.recipients = 4
    waited = waits(who)
    assert rcpt(build("tarpit", home.path), b"x@ok.example", who) == TAKEN
    assert waited == [7]
    with pytest.raises(ControlError):
        build("tarpit", home.path, TARPITDELAY="1000")


@pytest.mark.parametrize(
    ("limit", "count", "reply"),
    [
        (None, 1000, TAKEN),
        ("0", 1000, TAKEN),
        ("3", 3, TAKEN),
        ("3", 4, b"drop 421 too many unknown commands (#4.7.0)"),
    ],
)
def test_unknown(home: Home, limit: str | None, count: int, reply: bytes) -> None:
    environ: Variables = {} if limit is None else {"MAXNOTIMPL": limit}
    plugin = build("unknown", home.path, **environ)
    who = client()
    who.counters.unknown = count
    assert say("unknown", plugin.unknown(who, b"FOO")) == reply


NO = reject(b"no")


@pytest.mark.parametrize(
    ("stage", "plugin", "decision", "reply", "change"),
    [
        ("rcpt", "recipients", NO, b"550 no", -1),
        ("rcpt", "rcpthosts: not listed", NO, b"553 no", -1),
        ("header", "headers", NO, b"554 no", -1),
        ("unknown", "", NO, b"502 unimplemented (#5.5.1)", -1),
        ("auth", "", NO, b"535 authentication failed (#5.7.1)", -1),
        ("auth", "", NO, b"504 auth type unimplemented (#5.5.1)", 0),
        ("auth", "", defer(b""), b"454 problem", 0),
        ("mail", "", NO, b"555 syntax error (#5.5.4)", 0),
        ("rcpt", "", NO, b"503 MAIL first (#5.5.1)", 0),
        ("queue", "", NO, b"552 too big", 0),
        ("queue", "", defer(b""), b"451 qq", 0),
        ("rcpt", "tarpit", defer(b"later"), b"452 later", 0),
        ("rcpt", "karma", drop(b"bye"), b"421 bye", 0),
    ],
)
def test_what_lowers_karma(
    home: Home, stage: str, plugin: str, decision: Decision, reply: bytes, change: int
) -> None:
    who = client()
    ruling = Ruling(stage, plugin, decision)
    ruling.answer = Reply(int(reply[:3]), b"", reply[4:])
    build("karma", home.path, KARMALIMIT="5").deny(who, ruling)
    assert who.counters.karma == change


def test_what_raises_karma(home: Home) -> None:
    who = client()
    plugin = build("karma", home.path, KARMALIMIT="5")
    for stage in ("helo", "mail", "rcpt", "auth", "starttls"):
        plugin.ok(who, Ruling(stage, "", ACCEPTED))
    assert who.counters.karma == 0
    plugin.ok(who, Ruling("queue", "", ACCEPTED))
    assert who.counters.karma == 1


@pytest.mark.parametrize(
    ("limit", "karma", "reply"),
    [
        (None, -1000, TAKEN),
        ("0", -1000, TAKEN),
        ("3", -2, TAKEN),
        ("3", -3, b"drop 421 too many refusals, try again later (#4.7.0)"),
        ("3", -9, b"drop 421 too many refusals, try again later (#4.7.0)"),
    ],
)
def test_karma_limit(home: Home, limit: str | None, karma: int, reply: bytes) -> None:
    environ: Variables = {} if limit is None else {"KARMALIMIT": limit}
    plugin = build("karma", home.path, **environ)
    who = client()
    who.counters.karma = karma
    assert rcpt(plugin, b"x@ok.example", who) == reply
    assert say("mail", plugin.mail(who, Envelope(b""))) == reply


# -- a whole session; see also transcripts/filters-limits.txt --------------


def test_a_tarpit_is_slow(home: Home) -> None:
    session = b"MAIL FROM:<>\r\n" + b"RCPT TO:<b@ok.example>\r\n" * 3 + b"QUIT\r\n"
    run = home.run(session, TARPITCOUNT="2", TARPITDELAY="1")
    assert run.codes == [220, 250, 250, 250, 250, 221]
    assert float(run.event("session")["seconds"]) >= 1
