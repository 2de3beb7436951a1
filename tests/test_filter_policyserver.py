"""The filter policyserver: servers of Postfix's policy protocol say who may send to whom."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client import PATIENCE
from daemons import Line, Peer, Script, policy
from filters import TAKEN, build, client, logged, rcpt, say
from harness import Home
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.facts import Auth, Client, ControlError, Envelope, Message, Tls
from qsmtpd.facts import Peer as Who
from qsmtpd.net import policyprotocol
from qsmtpd.net.daemon import Address, Daemon
from qsmtpd.net.policyprotocol import parse_action, request

pytestmark = pytest.mark.slow

NOW = b"451 a mail filter gives no answer now (#4.3.0)"
Build = Callable[..., Any]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def made(home: Home, log: Path) -> Build:
    """Makes the filter with these lines of control/policyservers."""

    def make(*lines: str) -> Any:
        home.control("policyservers", *lines)
        with open(log, "ab") as file:
            return build("policyserver", home.path, os.dup(file.fileno()))

    return make


def sent(action: bytes) -> Script:
    return policy(lambda facts: action)


@pytest.mark.parametrize(
    ("action", "reply"),
    [
        (b"DUNNO", TAKEN),
        (b"dunno", TAKEN),
        (b"Dunno whatever", TAKEN),
        (b"OK", TAKEN),
        (b"ok text", TAKEN),
        (b"relay", TAKEN),
        (b"permit", TAKEN),
        (b"1700000000", TAKEN),
        (b"WARN look here", TAKEN),
        (b"info look here", TAKEN),
        (b"REJECT", b"554 access denied (#5.7.1)"),
        (b"reject", b"554 access denied (#5.7.1)"),
        (b"REJECT go away", b"554 go away (#5.7.1)"),
        (b"reject 5.7.23 spf says no", b"554 spf says no (#5.7.23)"),
        (b"REJECT 4.7.23 of another class", b"554 of another class (#5.7.23)"),
        (b"DEFER", b"450 access denied, try again later (#4.7.1)"),
        (b"Defer 4.2.0 Greylisted", b"450 Greylisted (#4.2.0)"),
        (b"DEFER_IF_PERMIT", b"450 access denied, try again later (#4.7.1)"),
        (b"defer_if_permit Service is down", b"450 Service is down (#4.7.1)"),
        (b"DEFER_IF_REJECT Service is down", TAKEN),
        (b"550 no", b"550 no (#5.7.1)"),
        (b"550 5.1.1 nobody", b"550 nobody (#5.1.1)"),
        (b"451 4.3.0 not now", b"451 not now (#4.3.0)"),
        (b"450", b"450 access denied, try again later (#4.7.1)"),
        (b"421 4.7.0 go", b"drop 421 go (#4.7.0)"),
        (b"521 go", b"drop 521 go (#5.7.1)"),
        (b"HOLD", b"451 a mail filter wants what cannot be done (#4.3.5)"),
        (b"FILTER smtp:x", b"451 a mail filter wants what cannot be done (#4.3.5)"),
        (b"REDIRECT x@y", b"451 a mail filter wants what cannot be done (#4.3.5)"),
        (b"BCC x@y", b"451 a mail filter wants what cannot be done (#4.3.5)"),
        (b"discard", b"451 a mail filter wants what cannot be done (#4.3.5)"),
        (b"reject_unauth_destination", b"451 a mail filter wants what cannot be done (#4.3.5)"),
        (b"", NOW),
        (b"250 ok", NOW),
        (b"99 x", NOW),
        (b"-", NOW),
        (b"\0\xff\x01", NOW),
        (b"a" * 101, NOW),
        (b"REJECT a\rb\0c\xe4", b"554 a?b?c? (#5.7.1)"),
    ],
)
def test_actions(made: Build, action: bytes, reply: bytes) -> None:
    with Peer(sent(action)) as peer:
        assert rcpt(made(peer.address), b"x@ok.example") == reply


def test_what_is_logged(made: Build, log: Path) -> None:
    actions = iter(
        [b"WARN watch him", b"HOLD for me", b"PREPEND no header", b"DUNNO", b"nonsense!"]
    )
    with Peer(policy(lambda facts: next(actions))) as peer:
        plugin = made(f"{peer.address} name=ours")
        said = [rcpt(plugin, b"x@ok.example") for _ in range(5)]
    assert [reply[:3] for reply in said] == [b"tak", b"451", b"tak", b"tak", b"451"]
    keys = ("server", "action", "text", "result", "to")
    lines = [tuple(line.get(key) for key in keys) for line in logged(log)]
    assert lines == [
        ("ours", "WARN", "watch him", None, "x@ok.example"),
        ("ours", "HOLD", "for me", None, "x@ok.example"),
        ("ours", "PREPEND", "no header", None, "x@ok.example"),
        ("ours", None, None, "talks nonsense", "x@ok.example"),
    ]


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (b"PREPEND X-Greylist: yes", b"X-Greylist: yes"),
        (b"prepend X:y", b"X:y"),
        (b"PREPEND X: a\rb\0\tc", b"X: a?b? c"),
        (b"PREPEND X: " + b"y" * 995, b"X: " + b"y" * 995),
        (b"PREPEND X: " + b"y" * 996, None),
        (b"PREPEND", None),
        (b"PREPEND no header", None),
        (b"PREPEND : x", None),
        (b"PREPEND a b: x", None),
    ],
)
def test_prepend(made: Build, action: bytes, line: bytes | None) -> None:
    with Peer(sent(action)) as peer:
        decision = made(peer.address).rcpt(client(), Envelope(b"a@b"), b"x@ok.example")
    assert decision.verdict == "decline"
    assert decision.above == (() if line is None else (line,))


def test_prepend_comes_too_late_at_the_end(made: Build) -> None:
    with Peer(sent(b"PREPEND X: y")) as peer:
        plugin = made(f"{peer.address} at=data,data_post")
        envelope = Envelope(b"a@b")
        assert plugin.data(client(), envelope).above == (b"X: y",)
        assert plugin.data_post(client(), envelope, Message()).above == ()


@pytest.mark.parametrize(
    ("first", "second", "reply"),
    [
        (b"OK", b"REJECT", TAKEN),
        (b"DUNNO", b"REJECT", b"554 access denied (#5.7.1)"),
        (b"PREPEND X: y", b"DEFER x", b"450 x (#4.7.1)"),
        (b"DEFER_IF_PERMIT a", b"DUNNO", b"450 a (#4.7.1)"),
        (b"DEFER_IF_PERMIT a", b"OK", b"450 a (#4.7.1)"),
        (b"DEFER_IF_PERMIT a", b"REJECT b", b"554 b (#5.7.1)"),
        (b"DEFER_IF_PERMIT a", b"DEFER_IF_PERMIT b", b"450 a (#4.7.1)"),
        (b"DEFER_IF_REJECT a", b"DUNNO", TAKEN),
        (b"DEFER_IF_REJECT a", b"REJECT b", b"450 a (#4.7.1)"),
        (b"DEFER_IF_REJECT a", b"550 b", b"450 a (#4.7.1)"),
        (b"DEFER_IF_REJECT a", b"521 b", b"450 a (#4.7.1)"),
        (b"DEFER_IF_REJECT a", b"421 b", b"drop 421 b (#4.7.1)"),
        (b"DEFER_IF_REJECT a", b"DEFER b", b"450 b (#4.7.1)"),
    ],
)
def test_two_servers(made: Build, first: bytes, second: bytes, reply: bytes) -> None:
    with Peer(sent(first)) as one, Peer(sent(second)) as two:
        assert rcpt(made(one.address, two.address), b"x@ok.example") == reply


def test_the_attributes(made: Build) -> None:
    seen: list[bytes] = []
    who = Client(
        Who(b"192.0.2.1", b"4711", b"mail.example", None, b"192.0.2.25", b"25", b"mx.example"),
        Tls(b"TLSv1.3", b"TLS_AES_256_GCM_SHA384", fingerprint=b"ab" * 32),
    )
    who.helo, who.esmtp, who.auth = b"c\nx=y\0", True, Auth(b"joe", b"PLAIN")
    envelope = Envelope(b"a@b", {b"AUTH": b"s@b"}, 100)
    with Peer(policy(lambda facts: b"DUNNO", seen)) as peer:
        plugin = made(f"{peer.address} at=rcpt,data,data_post context=mx")
        plugin.rcpt(who, envelope, b"x@ok.example")
        envelope.recipients.append(b"x@ok.example")
        plugin.data(who, envelope)
        envelope.recipients.append(b"y@ok.example")
        message = Message()
        message.size = 222
        plugin.data_post(who, envelope, message)
        plugin.rcpt(who, Envelope(b"a@b", {b"AUTH": b"<>"}), b"x@ok.example")
    instances = [text.partition(b"instance=")[2].partition(b"\n")[0] for text in seen]
    assert instances[0] == instances[1] == instances[2] != instances[3]
    assert seen[0].replace(instances[0], b"I") == (
        b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"
        b"helo_name=c?x=y?\nqueue_id=\nsender=a@b\nrecipient=x@ok.example\nrecipient_count=0\n"
        b"client_address=192.0.2.1\nclient_name=mail.example\nreverse_client_name=mail.example\n"
        b"instance=I\nsasl_method=PLAIN\nsasl_username=joe\nsasl_sender=s@b\nsize=100\n"
        b"ccert_subject=\nccert_issuer=\nccert_fingerprint=" + b":".join([b"AB"] * 32) + b"\n"
        b"encryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\n"
        b"encryption_keysize=256\netrn_domain=\nstress=\nccert_pubkey_fingerprint=\n"
        b"client_port=4711\nserver_address=192.0.2.25\nserver_port=25\npolicy_context=mx\n"
    )
    assert b"_state=DATA\n" in seen[1]
    assert b"\nrecipient=x@ok.example\nrecipient_count=1\n" in seen[1]
    assert b"_state=END-OF-MESSAGE\n" in seen[2]
    assert b"\nrecipient=\nrecipient_count=2\n" in seen[2]
    assert b"\nsize=222\n" in seen[2]
    assert b"\nsasl_sender=\n" in seen[3]


def test_the_suffix_of_relayclient(made: Build) -> None:
    """Servers are told whom the client has named."""
    seen: list[bytes] = []
    who, envelope = client(relay=b".x"), Envelope(b"a@b")
    with Peer(policy(lambda facts: b"DUNNO", seen)) as peer:
        plugin = made(f"{peer.address} at=rcpt,data,data_post")
        plugin.rcpt(who, envelope, b"y@other.example.x")
        envelope.recipients.append(b"y@other.example.x")
        plugin.data(who, envelope)
        plugin.data_post(who, envelope, Message())
    assert [b"\nrecipient=y@other.example\n" in text for text in seen] == [True] * 3


def test_a_client_without_tls_and_name(made: Build) -> None:
    seen: list[bytes] = []
    with Peer(policy(lambda facts: b"DUNNO", seen)) as peer:
        made(peer.address).rcpt(Client(Who()), Envelope(b""), b"x")
    assert b"\nhelo_name=\n" in seen[0] and b"\nsender=\n" in seen[0]
    assert b"\nclient_address=unknown\nclient_name=unknown\n" in seen[0]
    assert b"\nencryption_keysize=0\n" in seen[0] and b"\nclient_port=\n" in seen[0]


@given(st.lists(st.tuples(st.just(b"a"), st.binary(max_size=3000)), max_size=5))
def test_any_value_stays_in_its_line(attributes: list[tuple[bytes, bytes]]) -> None:
    text = request(attributes)
    assert text.endswith(b"\n\n") and b"\0" not in text and b"\r" not in text
    first, *lines = text[:-2].split(b"\n")
    assert first == b"request=smtpd_access_policy"
    assert len(lines) == len(attributes)
    assert all(line.startswith(b"a=") and len(line) <= 2050 for line in lines)


@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda text: b"REJECT " + text))
def test_any_action(value: bytes) -> None:
    try:
        action = parse_action(value)
    except ValueError:
        return
    assert all(32 <= byte < 127 for byte in action.text + action.word)
    assert action.code == 0 or 400 <= action.code < 600


# -- servers that are not as they should be ---------------------------------


def garbage(line: Line) -> None:
    line.say(os.urandom(4096).replace(b"=", b"-") + b"\n\n")
    line.wait_for_end()


def half(line: Line) -> None:
    line.hear()
    line.say(b"action=DUN")


def unfinished(line: Line) -> None:
    """The empty line does not come."""
    line.hear()
    line.say(b"action=DUNNO\n")


def without_action(line: Line) -> None:
    line.hear()
    line.say(b"x=y\n\n")
    line.wait_for_end()


def long_line(line: Line) -> None:
    line.hear()
    for _ in range(160):
        line.say(b"action=" * 10000)
    line.wait_for_end()


def many_lines(line: Line) -> None:
    line.hear()
    line.say(b"action=DUNNO\n" + b"x=y\n" * 2_500_000)
    line.wait_for_end()


def gone(line: Line) -> None:
    """It ends without a word."""


def refuse_to_speak(line: Line) -> None:
    line.wait_for_end()


@pytest.mark.parametrize(
    "script", [garbage, half, unfinished, without_action, long_line, many_lines, gone]
)
@pytest.mark.parametrize(
    ("fail", "reply"),
    [
        ("", NOW),
        (" fail=defer", NOW),
        (" fail=pass", TAKEN),
        (" fail=refuse", b"554 a mail filter gives no answer (#5.3.0)"),
    ],
)
def test_faulty_servers(made: Build, log: Path, script: Script, fail: str, reply: bytes) -> None:
    with Peer(script) as peer:
        assert rcpt(made(f"{peer.address} name=ours{fail}"), b"x@ok.example") == reply
    (line,) = logged(log)
    assert line["server"] == "ours"
    assert line["result"] in {
        "talks nonsense",
        "closed the connection",
        "answers too long",
        "Connection reset by peer",
        "Broken pipe",
    }


def test_a_slow_server_costs_its_time_once(made: Build, log: Path) -> None:
    with Peer(refuse_to_speak) as peer:
        plugin = made(f"{peer.address} timeout=1")
        assert [rcpt(plugin, b"x@ok.example") for _ in range(3)] == [NOW] * 3
        assert peer.connections == 1
    assert [line["result"] for line in logged(log)] == ["timeout"] + ["timeout, a moment ago"] * 2


def test_a_server_that_never_comes_to_an_end(made: Build, log: Path) -> None:
    """Whoever says a little again and again does not get more time by it."""
    over = threading.Event()

    def script(line: Line) -> None:
        while not over.wait(0.05):
            line.say(b"x=y\n")

    with Peer(script) as peer:
        assert rcpt(made(f"{peer.address} timeout=1"), b"x@ok.example") == NOW
        over.set()
    assert logged(log)[0]["result"] == "timeout"


def test_nobody_listens(made: Build, log: Path, home: Home) -> None:
    assert rcpt(made(f"unix:{home.path}/nothing"), b"x@ok.example") == NOW
    assert logged(log)[0]["result"] == "No such file or directory"


def test_fail_pass_asks_the_next_one(made: Build, home: Home) -> None:
    with Peer(sent(b"REJECT")) as peer:
        plugin = made(f"unix:{home.path}/nothing fail=pass", peer.address)
        assert rcpt(plugin, b"x@ok.example") == b"554 access denied (#5.7.1)"


def test_no_answer_behind_defer_if_reject(made: Build, home: Home) -> None:
    with Peer(sent(b"DEFER_IF_REJECT a")) as peer:
        plugin = made(peer.address, f"unix:{home.path}/nothing fail=refuse")
        assert rcpt(plugin, b"x@ok.example") == b"450 a (#4.7.1)"


def test_extra_attributes_and_the_first_action(made: Build) -> None:
    def script(line: Line) -> None:
        while line.hear() != b"\n":
            pass
        line.say(b"x=y\r\naction=REJECT\r\naction=DUNNO\r\n\r\n")
        line.wait_for_end()

    with Peer(script) as peer:
        assert rcpt(made(peer.address), b"x@ok.example") == b"554 access denied (#5.7.1)"


# -- the connection ---------------------------------------------------------


def test_one_connection_for_a_session(made: Build) -> None:
    with Peer(sent(b"DUNNO")) as peer:
        plugin = made(f"{peer.address} at=rcpt,data")
        for number in range(3):
            envelope = Envelope(b"%d@b" % number)
            assert say("rcpt", plugin.rcpt(client(), envelope, b"x@ok.example")) == TAKEN
            plugin.data(client(), envelope)
        assert peer.connections == 1
        plugin.disconnect(client())


def test_a_server_that_is_restarted_in_between(made: Build, home: Home) -> None:
    with Peer(sent(b"DUNNO"), home.path / "socket") as peer:
        plugin = made(peer.address)
        assert rcpt(plugin, b"x@ok.example") == TAKEN
        peer.restart()
        assert rcpt(plugin, b"x@ok.example") == TAKEN
        assert peer.connections == 2


def test_a_server_that_ends_while_it_is_asked(made: Build) -> None:
    """One that ends an idle connection just then is asked anew, and only once."""
    ends = threading.Event()

    def script(line: Line) -> None:
        for _ in range(2):
            while (text := line.hear()) != b"\n":
                if not text:
                    return
            if ends.is_set():
                return
            ends.set()
            line.say(b"action=DUNNO\n\n")

    with Peer(script) as peer:
        plugin = made(peer.address)
        assert rcpt(plugin, b"x@ok.example") == TAKEN
        assert rcpt(plugin, b"x@ok.example") == NOW
        assert peer.connections == 2


def test_asked_anew_in_what_is_left_of_its_time(
    made: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes its time before it ends the connection gets no second time."""
    given: list[float] = []

    class Watched(Daemon):
        def __init__(self, address: Address, seconds: float, most: int) -> None:
            given.append(seconds)
            super().__init__(address, seconds, most)

    def script(line: Line) -> None:
        for _ in range(len(given)):  # on the second connection it answers two questions
            while line.hear() != b"\n":
                pass
            line.say(b"action=DUNNO\n\n")
        while line.hear() != b"\n":
            pass

    monkeypatch.setattr(policyprotocol, "Daemon", Watched)
    with Peer(script) as peer:
        plugin = made(f"{peer.address} timeout=60")
        assert rcpt(plugin, b"x@ok.example") == TAKEN
        assert rcpt(plugin, b"x@ok.example") == TAKEN
    assert 60 >= given[0] > given[1]


def test_a_server_that_speaks_unasked(made: Build) -> None:
    spoken = threading.Event()

    def script(line: Line) -> None:
        while line.hear() != b"\n":
            pass
        line.say(b"action=DUNNO\n\naction=OK\n\n")
        spoken.set()
        line.wait_for_end()

    with Peer(script) as peer:
        plugin = made(peer.address)
        assert rcpt(plugin, b"x@ok.example") == TAKEN
        assert spoken.wait(PATIENCE)
        assert rcpt(plugin, b"x@ok.example") == TAKEN
        assert peer.connections == 2, "what was said before the question is no answer to it"


# -- in a session -----------------------------------------------------------


def test_where_lines_stand(home: Home) -> None:
    """Above our Received, each once, and not those of recipients who were refused."""
    actions = {
        b"x": b"PREPEND A: 1",
        b"y": b"PREPEND A: 1",
        b"z": b"PREPEND B: 2",
        b"no": b"REJECT",
    }
    seen: list[bytes] = []

    def answer(facts: dict[bytes, bytes]) -> bytes:
        return actions[facts[b"recipient"].partition(b"@")[0]]

    with Peer(policy(answer, seen)) as peer:
        home.control("policyservers", peer.address)
        rcpts = b"".join(b"RCPT TO:<%b@ok.example>\r\n" % who for who in actions)
        message = b"MAIL FROM:<a@b>\r\n" + rcpts + b"DATA\r\nC: 3\r\n\r\n.\r\n"
        run = home.run(b"HELO c\r\n" + message + message + b"QUIT\r\n")
        assert peer.connections == 1
    assert run.codes == [220, 250, *(2 * [250, 250, 250, 250, 554, 354, 250]), 221]
    first, second = home.messages()
    assert first.body.startswith(b"A: 1\nB: 2\nReceived: from ")
    assert second.body.startswith(b"A: 1\nB: 2\nReceived: from ")
    instances = [text.partition(b"\ninstance=")[2].partition(b"\n")[0] for text in seen]
    assert instances == [instances[0]] * 4 + [instances[4]] * 4
    assert instances[0] != instances[4]


# -- settings ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/s at=", "no option=value"),
        ("/s at=mail", "at="),
        ("/s at=RCPT", "at="),
        ("/s at=rcpt,,data", "at="),
        ("/s at=rcpt,rcpt", "at="),
        ("/s fail=ok", "fail="),
        ("mail.example:10023x", None),
    ],
)
def test_wrong_lines(made: Build, line: str, why: str | None) -> None:
    if why is None:
        made(line)  # a path
        return
    with pytest.raises(ControlError, match=why):
        made(line)


def test_two_of_a_name(made: Build) -> None:
    with pytest.raises(ControlError, match="line 2"):
        made("/s", "/s timeout=3")
    made("/s", "/s name=other")


@pytest.mark.parametrize(
    ("lines", "hooks"),
    [
        (["/s"], {"rcpt"}),
        (["/s at=data"], {"rcpt", "data"}),
        (["/s", "/t at=data_post"], {"rcpt", "data_post"}),
        (["/s at=data,data_post"], {"rcpt", "data", "data_post"}),
    ],
)
def test_hooks_that_nobody_wants_are_not_there(
    made: Build, lines: list[str], hooks: set[str]
) -> None:
    plugin = made(*lines)
    assert {name for name in ("rcpt", "data", "data_post") if hasattr(plugin, name)} == hooks


# -- --check and --explain ----------------------------------------------------


def test_check_says_what_answers(home: Home) -> None:
    with Peer(sent(b"HOLD")) as one, Peer(sent(b"dunno")) as two, Peer(garbage) as three:
        home.control(
            "policyservers",
            f"{one.address} name=one",
            f"{two.address} name=two at=data",
            f"{three.address} fail=pass",
            f"unix:{home.path}/nothing fail=pass",
        )
        run = home.run(b"", "--check")
        where = three.address
    assert run.status == 1
    lines = [line for line in run.out.decode().splitlines() if "polic" in line]
    assert lines == [
        "ok: policyservers = 4 entries (control/policyservers)",
        "ok: plugins = relay, rcpthosts, policyserver, qmailqueue (see qsmtpd --hooks)",
        "ok: policy server = one (it answers HOLD)",
        "ok: policy server = two (it answers dunno)",
        "warning: control/policyservers: one wants HOLD, which is not done: it is 451",
        f"wrong: control/policyservers: {where} gives no answer: talks nonsense",
        f"wrong: control/policyservers: unix:{home.path}/nothing gives no answer: No such file or"
        " directory",
    ]


def test_explain(home: Home) -> None:
    with Peer(sent(b"REJECT go away")) as peer:
        home.control("policyservers", peer.address)
        shown = home.run(b"", "--explain", "to=x@ok.example").out.decode()
    assert "rcpt       policyserver   reject: go away\n" in shown
    assert "554 go away (#5.7.1)" in shown
