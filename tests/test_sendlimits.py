"""sendlimits: who may send how much; the filter by itself, on a store of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from daemons import Peer, redis
from filters import build, client, logged, open_log, say
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.facts import Auth, Client, ControlError, Envelope
from qsmtpd.filters import sendlimits
from qsmtpd.filters.sendlimitsfile import Rules, user_key
from qsmtpd.log import Log
from qsmtpd.policy.store.memory import MemoryStore

NOW = 1_800_000_000
TAKEN = b"taken"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the filter, and a memory of its own."""
    made = Clock()
    monkeypatch.setattr(sendlimits, "time", made)
    monkeypatch.setattr(sendlimits, "_memory", MemoryStore())
    return made


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


def make(path: Path, *lines: str, **environ: str) -> Any:
    """The filter of a session, with these lines, and a store in this folder."""
    control = path / "control"
    control.mkdir(exist_ok=True)
    (control / "sendlimits").write_bytes(os.fsencode("\n".join(lines)))
    log = open_log(path / "log")
    return build("sendlimits", path, log, **{"QSMTPD_STORE": str(path / "store"), **environ})


def offer(plugin: Any, who: Client, recipients: int) -> tuple[Envelope, list[bytes]]:
    """A transaction up to DATA: its envelope, and what is said at each RCPT."""
    envelope, said = Envelope(b"a@b"), []
    for number in range(recipients):
        said.append(say("rcpt", plugin.rcpt(who, envelope, b"r%d@x" % number)))
        if said[-1] == TAKEN:
            envelope.recipients.append(b"r%d@x" % number)
    return envelope, said


def send(plugin: Any, who: Client, recipients: int = 1, queued: bool = True) -> list[bytes]:
    """A whole message: what is said at each RCPT, and at its end."""
    envelope, said = offer(plugin, who, recipients)
    if envelope.recipients:
        said.append(say("queue_pre", plugin.queue_pre(who, envelope)))
        if said[-1] != TAKEN or not queued:
            plugin.queue_failed(who, envelope)
    return said


# -- the file ------------------------------------------------------------------


def rules(path: Path, *lines: str | bytes) -> Rules:
    (path / "control").mkdir(exist_ok=True)
    text = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    (path / "control" / "sendlimits").write_bytes(text)
    return Rules(Settings(ControlFiles(os.fsencode(path)), {}))


def texts(found: tuple[bytes, Any]) -> tuple[bytes, list[bytes]]:
    who, limits = found
    return who, [limit.text for limit in limits]


def test_the_line_that_says_most_holds(tmp_path: Path) -> None:
    found = rules(
        tmp_path,
        "# who may send what",
        "user:*\tmessages=5/hour \t recipients=1/day",
        "user:Joe@Example.org messages=1/hour",
        "user:@example.org messages=2/hour  messages=20/day",
        "user:boss unlimited",
        "client:* recipients=7/day",
        "client:192.0.2. messages=3/day",
        "client:192.0.2.7 messages=4/day",
        "client:2001:db8: messages=6/day",
        "client:2001:db8::7 messages=0/day",
    )
    assert texts(found.of_user(b"joe@EXAMPLE.org")) == (
        b"user:joe@example.org",
        [b"1 message an hour"],
    )
    assert texts(found.of_user(b"ann@example.org"))[1] == [
        b"2 messages an hour",
        b"20 messages a day",
    ]
    assert texts(found.of_user(b"ann@sub.example.org"))[1] == [
        b"5 messages an hour",
        b"1 recipient a day",
    ]
    assert texts(found.of_user(b"boss")) == (b"user:boss", [])
    assert texts(found.of_address(b"192.0.2.7"))[1] == [b"4 messages a day"]
    assert texts(found.of_address(b"192.0.2.77"))[1] == [b"3 messages a day"]
    assert texts(found.of_address(b"192.0.20.7"))[1] == [b"7 recipients a day"]
    assert texts(found.of_address(b"unknown")) == (b"client:unknown", [b"7 recipients a day"])
    # An IPv6 client is its /64, unless it has a line of its own.
    assert texts(found.of_address(b"2001:db8::7")) == (b"client:2001:db8::7", [b"0 messages a day"])
    one, other = (found.of_address(ip)[0] for ip in (b"2001:db8::8", b"2001:db8::1:2:3:4"))
    assert one == other == b"client:2001:db8::/64"


def test_whose_limits_count(tmp_path: Path) -> None:
    found = rules(tmp_path, "user:* messages=1/hour", "client:* messages=2/hour")
    assert found.of(client()) == (b"", ()), "who may not relay sends nothing from here"
    assert texts(found.of(client(relay=b"")))[1] == [b"2 messages an hour"]
    assert texts(found.of(client(relay=b"", user=b"joe"))) == (b"user:joe", [b"1 message an hour"])
    nobody = rules(tmp_path, "user:joe messages=1/hour")
    assert nobody.of(client(user=b"ann")) == (b"user:ann", ())


@pytest.mark.parametrize(
    "line",
    [
        "user:joe",
        "user: messages=1/hour",
        "joe messages=1/hour",
        "* messages=1/hour",
        "User:joe messages=1/hour",
        "client:joe messages=1/hour",
        "client:192.0.2 messages=1/hour",
        "client:192.0.2.0/24 messages=1/hour",
        "client:2001:DB8::1 messages=1/hour",
        "client: messages=1/hour",
        "user:joe messages=1",
        "user:joe messages=1/week",
        "user:joe messages=/hour",
        "user:joe messages=-1/hour",
        "user:joe messages=1k/hour",
        "user:joe messages=1000000001/hour",
        "user:joe messages=" + "9" * 21 + "/hour",
        "user:joe messages=\u0661/hour",
        "user:joe bytes=1/hour",
        "user:joe messages=1/hour messages=2/hour",
        "user:joe messages=1/hour unlimited",
        "user:joe messages=1/hour # ours",
        "user:joe unlimited unlimited",
        "user:ann unlimited\nuser:joe messages=1/hour\nuser:JOE messages=2/hour",
        "\ufeffuser:joe messages=1/hour",
    ],
)
def test_what_is_no_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(ControlError) as error:
        rules(tmp_path, line)
    assert error.value.name == "control/sendlimits"
    assert f"line {line.count(chr(10)) + 1}: " in error.value.reason


@given(st.binary(max_size=60))
def test_any_file_is_read_or_wrong(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp()
    try:
        rules(path, text)
    except ControlError as error:
        assert error.name == "control/sendlimits"


ODD = (
    b'"joe"',
    b"j o e",
    b"joe\xff\xfe",
    "jö\u0308e@bücher.example".encode(),
    b"*",
    b"@",
    b"a" * 255,
)


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_counted_by_themselves(tmp_path: Path, name: bytes) -> None:
    plugin = make(tmp_path, "user:* messages=1/hour")
    assert send(plugin, client(user=name)) == [TAKEN, TAKEN]
    assert send(plugin, client(user=name)) == [LIMITED]
    assert send(plugin, client(user=name.upper())) == [LIMITED]
    assert send(plugin, client(user=b"other" + name[:9])) == [TAKEN, TAKEN]


def test_spellings_of_a_name() -> None:
    """One count for what a checker of passwords takes for one user."""
    same = ("Jörg", "JÖRG", "jo\u0308rg", "ＪÖrg", "jörg ", "jörg\t")
    assert {user_key(name.encode()) for name in same} == {"user:jörg".encode()}
    assert user_key(b"\xffA") == b"user:\xffa"
    assert len(user_key(b"a" * 9000)) < 420


# -- counting ------------------------------------------------------------------

LIMITED = b"452 sorry, no more than 1 message an hour (#4.7.1)"


def test_messages_and_recipients(tmp_path: Path, clock: Clock) -> None:
    plugin = make(tmp_path, "user:* messages=3/hour recipients=5/day")
    joe = client(user=b"joe")
    assert send(plugin, joe, 2) == [TAKEN] * 3
    assert send(plugin, joe, 4) == [
        *[TAKEN] * 3,
        b"452 sorry, no more than 5 recipients a day (#4.7.1)",
        TAKEN,
    ]
    assert send(plugin, client(user=b"ann"), 5) == [TAKEN] * 6, "another one"
    clock.now += 86400 + 7200
    assert [send(plugin, joe) for _ in range(3)] == [[TAKEN, TAKEN]] * 3
    assert send(plugin, joe) == [b"452 sorry, no more than 3 messages an hour (#4.7.1)"]
    clock.now += 3600 + 300
    assert send(plugin, joe) == [TAKEN, TAKEN]


def test_only_what_is_queued_counts(tmp_path: Path) -> None:
    plugin = make(tmp_path, "user:* messages=1/hour recipients=3/hour")
    joe = client(user=b"joe")
    for _ in range(3):
        offer(plugin, joe, 3)  # and then RSET, or no end
        assert send(plugin, joe, 3, queued=False) == [TAKEN] * 4
    assert send(plugin, joe, 3) == [TAKEN] * 4
    assert send(plugin, joe) == [LIMITED]


def test_the_last_one_is_not_given_to_two(tmp_path: Path) -> None:
    """Both were told yes at RCPT; one is refused at the end."""
    one, other = (make(tmp_path, "user:* messages=1/hour") for _ in range(2))
    joe, same = client(user=b"joe"), client(user=b"JOE")
    (first, _), (second, _) = offer(one, joe, 1), offer(other, same, 1)
    assert say("queue_pre", other.queue_pre(same, second)) == TAKEN
    assert say("queue_pre", one.queue_pre(joe, first)) == LIMITED
    one.queue_failed(joe, first)
    assert send(one, joe) == [LIMITED]
    other.queue_failed(same, second)
    assert send(one, joe) == [TAKEN, TAKEN]


def test_recipients_that_a_filter_has_changed(tmp_path: Path) -> None:
    plugin = make(tmp_path, "client:192.0.2. recipients=4/day")
    relay = client(relay=b"")
    envelope, _ = offer(plugin, relay, 1)
    envelope.recipients[:] = [b"a@b", b"a@c", b"a@d"]
    assert say("queue_pre", plugin.queue_pre(relay, envelope)) == TAKEN
    envelope, said = offer(plugin, relay, 2)
    assert said == [TAKEN, b"452 sorry, no more than 4 recipients a day (#4.7.1)"]
    envelope.recipients.append(b"a@e")
    assert say("queue_pre", plugin.queue_pre(relay, envelope)) == said[1]


def test_what_is_said_and_logged(tmp_path: Path) -> None:
    plugin = make(
        tmp_path, "user:* messages=0/day", SENDLIMITSCODE="550", REPLY_SENDLIMITS="ask Ann"
    )
    said = b"550 sorry, no more than 0 messages a day ask Ann (#5.7.1)"
    assert send(plugin, client(user=b"jo e"), 2) == [said, said]
    (line,) = logged(tmp_path / "log")
    assert (line["plugin"], line["who"]) == ("sendlimits", "user:jo e")
    assert (line["limit"], line["count"]) == ("0 messages a day", "0")
    assert "left" not in line
    plugin = make(tmp_path, "user:* recipients=2/hour")
    assert send(plugin, client(user=b"joe"), 2) == [TAKEN] * 3
    send(plugin, client(user=b"joe"), 2)
    line = logged(tmp_path / "log")[-1]
    assert line["count"] == "2" and 3600 < int(line["left"]) <= 3900


def test_who_has_no_limit_is_not_looked_for(tmp_path: Path) -> None:
    plugin = make(tmp_path, "user:joe messages=1/hour", "user:@x unlimited")
    for who in (client(), client(relay=b""), client(user=b"ann"), client(user=b"joe@x")):
        assert send(plugin, who, 3) == [TAKEN] * 4
    assert not (tmp_path / "store").exists()


def test_a_dry_run_counts_nothing(tmp_path: Path) -> None:
    plugin = make(tmp_path, "user:joe messages=1/hour")
    joe = client(user=b"joe")
    joe.dry_run = True
    assert [send(plugin, joe) for _ in range(3)] == [[TAKEN, TAKEN]] * 3
    assert not (tmp_path / "store").exists()
    assert send(plugin, client(user=b"joe")) == [TAKEN, TAKEN]
    assert send(plugin, joe) == [LIMITED], "but what holds, is said"


def test_another_user_in_the_same_session(tmp_path: Path) -> None:
    """As after STARTTLS, or who relays first and authenticates then."""
    plugin = make(tmp_path, "user:* messages=1/hour", "client:* messages=1/hour")
    who = client(relay=b"")
    assert send(plugin, who) == [TAKEN, TAKEN]
    assert send(plugin, who) == [LIMITED]
    who.auth = Auth(b"joe", b"PLAIN")
    assert send(plugin, who) == [TAKEN, TAKEN]
    assert send(plugin, who) == [LIMITED]


def test_only_once(tmp_path: Path) -> None:
    """Two would count each message twice."""
    base = Settings(ControlFiles(os.fsencode(tmp_path)), {})
    with pytest.raises(ControlError, match="sendlimits:2 would count each message twice"):
        sendlimits.Plugin(base.for_plugin("sendlimits:2", {}, Log(2)))


# -- where the store cannot say ---------------------------------------------------


def test_then_the_counts_of_this_process_hold(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    plugin = make(tmp_path, "user:* messages=2/hour")
    for _ in range(2):
        assert send(plugin, client(user=b"joe")) == [TAKEN, TAKEN]
    again = make(tmp_path, "user:* messages=2/hour")  # another session of this process
    assert send(again, client(user=b"joe")) == [LIMITED.replace(b"1 message", b"2 messages")]
    assert send(again, client(user=b"ann"), queued=False) == [TAKEN, TAKEN]
    assert [send(again, client(user=b"ann"))[-1] for _ in range(3)][:2] == [TAKEN, TAKEN]
    lines = [line for line in logged(tmp_path / "log") if "store" in line]
    assert len(lines) == 1, "one a minute"
    assert lines[0]["store"] == "foreign"
    assert lines[0]["then"] == "the counts of this process hold"


def test_what_was_counted_before_the_trouble_counts_too(tmp_path: Path) -> None:
    plugin = make(tmp_path, "user:* messages=2/hour")
    assert send(plugin, client(user=b"joe")) == [TAKEN, TAKEN]
    broken = make(tmp_path, "user:* messages=2/hour", QSMTPD_STORE=str(tmp_path / "no" / "store"))
    assert send(broken, client(user=b"joe")) == [TAKEN, TAKEN]
    assert send(broken, client(user=b"joe"))[-1].startswith(b"452 ")
    # What was counted here meanwhile is not in the store.
    assert send(plugin, client(user=b"joe")) == [TAKEN, TAKEN]


# -- a store for several machines -------------------------------------------------


@pytest.mark.slow
def test_the_counts_of_this_machine_hold_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the file, what the server was told counts as well, and what was taken back does not."""
    environ = {"QSMTPD_STORE": f"unix:{tmp_path}/redis", "STORELOCAL": str(tmp_path / "local")}

    def process() -> Any:
        """The filter in a process that has counted nothing itself."""
        monkeypatch.setattr(sendlimits, "_memory", MemoryStore())
        return make(tmp_path, "user:* messages=2/hour", **environ)

    with Peer(redis, tmp_path / "redis"):
        plugin = process()
        assert send(plugin, client(user=b"joe")) == [TAKEN, TAKEN]
        assert send(plugin, client(user=b"joe"), queued=False) == [TAKEN, TAKEN]
        assert not (tmp_path / "log").exists() or "then" not in (tmp_path / "log").read_text()
    assert send(process(), client(user=b"joe")) == [TAKEN, TAKEN]
    assert send(process(), client(user=b"joe"))[-1].startswith(b"452 ")
    (line,) = [line for line in logged(tmp_path / "log") if "store" in line]
    assert (line["store"], line["then"]) == ("missing", "the counts of this machine hold")
    environ["STORELOCAL"] = str(tmp_path / "no" / "local")
    plugin = process()
    assert [send(plugin, client(user=b"ann"))[-1] for _ in range(2)] == [TAKEN, TAKEN]
    assert send(plugin, client(user=b"ann"))[-1].startswith(b"452 ")
    said = [line["then"] for line in logged(tmp_path / "log") if "store" in line]
    assert "the counts of this process hold" in said
