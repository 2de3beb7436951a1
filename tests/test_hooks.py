"""The engine of hooks by itself: entries that a test makes, and no session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filters import open_log
from hypothesis import given
from hypothesis import strategies as st
from test_timelimit import is_at_rest

from qsmtpd.child.queue import Verdict
from qsmtpd.decision import (
    ACCEPTED,
    DECLINED,
    REFUSALS,
    Decision,
    accept,
    check_header_line,
    decline,
    defer,
    drop,
    reject,
)
from qsmtpd.facts import Auth, Client, ControlError, Envelope, Lost, Message, Peer, Ruling
from qsmtpd.log import Log
from qsmtpd.policy import stages
from qsmtpd.policy.backend import PluginBackEnd
from qsmtpd.policy.hooks import HEADER_LINES, TROUBLE, Hooks
from qsmtpd.policy.spec import AT_DATA, AT_RCPT, NOBODY_ACCEPTS, Entry, Order
from qsmtpd.policy.timelimit import Overdue, TimeLimit

NO = reject(b"no")
LATER = defer(b"later")


class Engine:
    """Hooks, and what they have asked and logged."""

    def __init__(self, path: Path, *entries: Entry) -> None:
        self._path = path / "log"
        self.asked: list[str] = []
        fd = open_log(self._path)
        self.limit = TimeLimit()
        self.hooks = Hooks(lambda: Order(entries), Log(fd), limit=self.limit)
        self.hooks.watch = lambda stage, plugin, said: self.asked.append(plugin)
        self.client = Client(Peer())
        self.envelope = Envelope(b"a@b")

    def log(self) -> str:
        return self._path.read_text()

    def ask(self, stage: str, *facts: object) -> Ruling:
        return self.hooks.ask(stage, self.client, *facts)

    def rcpt(self, recipient: bytes = b"x@y") -> tuple[str, str, bytes]:
        ruling, found = self.hooks.rcpt(self.client, self.envelope, recipient)
        return ruling.decision.verdict, ruling.plugin, found


def entry(name: str, stage: str, said: object, **more: Any) -> Entry:
    """A plugin that says the same thing to everybody."""

    def hook(client: Client, *facts: object) -> object:
        if isinstance(said, BaseException):
            raise said
        return said(*facts) if callable(said) else said

    return Entry(name, {stage: hook}, **more)


def rule(name: str, said: object) -> Entry:
    """One that grants."""
    return entry(name, "rcpt", said, grants=True)


# -- which decision wins -----------------------------------------------------


@pytest.mark.parametrize("stage", ["connect", "helo", "auth", "mail", "data", "header", "unknown"])
@pytest.mark.parametrize("first", [ACCEPTED, NO, LATER, drop(b"out")])
def test_the_first_opinion_wins(tmp_path: Path, stage: str, first: Decision) -> None:
    engine = Engine(
        tmp_path,
        entry("a", stage, DECLINED),
        entry("b", stage, first),
        entry("c", stage, NO if first is ACCEPTED else ACCEPTED),
    )
    ruling = engine.ask(stage)
    assert (ruling.decision, ruling.plugin) == (first, "b")
    assert engine.asked == ["a", "b"]


def test_nobody_there(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    for stage in stages.REPLIES:
        if stage != "rcpt":
            assert engine.ask(stage).decision is DECLINED
    assert engine.rcpt() == ("reject", "default", b"x@y")
    assert engine.hooks.back_end(engine.client, engine.envelope) is None
    assert engine.hooks.capabilities(engine.client) == []
    assert engine.hooks.with_lines(b"") == b""
    assert engine.hooks.order.commands == set()
    assert not engine.hooks.has("mail", "rcpt")


WAYS = {
    "accept": ACCEPTED, "decline": DECLINED, "reject": NO, "defer": LATER, "raise": ValueError("x"),
}  # fmt: skip


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(sorted(WAYS))), max_size=6),
)
def test_rcpt(tmp_path_factory: pytest.TempPathFactory, plugins: list[tuple[bool, str]]) -> None:
    """Let in: one that grants has accepted, and nobody who was asked has refused."""
    entries = [
        entry(f"p{n}", "rcpt", WAYS[said], grants=grants)
        for n, (grants, said) in enumerate(plugins)
    ]
    engine = Engine(tmp_path_factory.mktemp("rcpt"), *entries)
    verdict, plugin, _ = engine.rcpt()
    granted = [n for n, (grants, said) in enumerate(plugins) if grants and said == "accept"]
    refused = [n for n, (_, said) in enumerate(plugins) if said in ("reject", "defer", "raise")]
    if verdict == "accept":
        assert granted and not refused
        assert plugin == f"p{granted[0]}"
    elif plugin == "default":
        last = max((n for n, (grants, _) in enumerate(plugins) if grants), default=-1)
        assert not granted and not [n for n in refused if n <= last]
    else:
        assert plugin == f"p{refused[0]}"


def test_the_default_says_why(tmp_path: Path) -> None:
    engine = Engine(
        tmp_path, rule("relay", DECLINED), rule("rcpthosts", decline(b"not\xff listed"))
    )
    ruling, _ = engine.hooks.rcpt(engine.client, engine.envelope, b"x@y")
    assert (ruling.plugin, ruling.detail) == ("rcpthosts", b"not\xff listed")
    assert stages.reply_to(ruling).wire() == (
        b"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
    )


def test_who_is_not_asked_after_the_rules(tmp_path: Path) -> None:
    """A lookup for a recipient that nobody takes would be for nothing."""
    engine = Engine(tmp_path, rule("r", DECLINED), entry("costly", "rcpt", NO))
    assert engine.rcpt()[1] == "default"
    assert engine.asked == ["r"]


def test_another_recipient(tmp_path: Path) -> None:
    engine = Engine(
        tmp_path,
        entry("alias", "rcpt", accept(recipient=b"new@y")),
        rule("rcpthosts", lambda envelope, to: ACCEPTED if to == b"new@y" else DECLINED),
        entry("again", "rcpt", lambda envelope, to: Decision("decline", recipient=to + b".z")),
    )
    assert engine.rcpt() == ("accept", "rcpthosts", b"new@y.z")


# -- trouble -----------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        None, 0, True, "", b"250 ok", "accept", [], Decision, lambda *facts: Lost, object(),
        ValueError("x"), SystemExit(0), KeyboardInterrupt(), GeneratorExit(), StopIteration(),
        MemoryError(), Overdue(),
    ],
    ids=lambda said: type(said).__name__,  # repr() has addresses: other ids in each process
)  # fmt: skip
@pytest.mark.parametrize("stage", ["connect", "mail", "data", "header", "data_post", "auth"])
def test_trouble(tmp_path: Path, stage: str, said: object) -> None:
    engine = Engine(tmp_path, entry("bad", stage, said), entry("next", stage, ACCEPTED))
    ruling = engine.ask(stage, *((engine.envelope, Message()) if stage == "data_post" else ()))
    if stage in ("connect",):  # it is said at RCPT
        ruling, _ = engine.hooks.rcpt(engine.client, engine.envelope, b"x@y")
    assert stages.reply_to(ruling).wire() == b"451 policy trouble, try again later (#4.3.0)"
    assert (ruling.plugin, ruling.decision.verdict) == ("bad", "defer")
    assert f" plugin=bad hook={stage}\n" in engine.log()


@pytest.mark.parametrize("error", [Lost(), ControlError("control/x", "is gone")])
def test_what_is_no_trouble_of_the_plugin(tmp_path: Path, error: Exception) -> None:
    engine = Engine(tmp_path, entry("bad", "mail", error), entry("o", "ok", error))
    with pytest.raises(type(error)):
        engine.ask("mail")
    if isinstance(error, ControlError):  # observers take no reply back
        engine.hooks.tell(engine.client, Ruling("mail", "", ACCEPTED))
        assert "plugin=o hook=ok" in engine.log()


@pytest.mark.parametrize(
    "said", [None, (), b"X", "X", [b""], ["X"], [b"X\r\nY"], [b"\xff"], [b"x" * 500], {}]
)
def test_capabilities(tmp_path: Path, said: object) -> None:
    engine = Engine(
        tmp_path, entry("good", "capabilities", [b"A 1"]), entry("b", "capabilities", said)
    )
    assert engine.hooks.capabilities(engine.client) is None
    assert "plugin=b hook=capabilities" in engine.log()


def test_body(tmp_path: Path) -> None:
    seen: list[bytes] = []
    engine = Engine(tmp_path, entry("b", "body", lambda envelope, chunk: seen.append(chunk)))
    assert engine.hooks.body(engine.client, engine.envelope, b"x") is None
    assert seen == [b"x"]
    for n, said in enumerate([ValueError("x"), DECLINED, NO, 0]):
        engine = Engine(tmp_path, entry(f"b{n}", "body", said))
        ruling = engine.hooks.body(engine.client, engine.envelope, b"x")
        assert ruling is not None
        assert stages.reply_to(ruling).code == 451
        assert f"plugin=b{n} hook=body" in engine.log()


# -- memory ------------------------------------------------------------------


def test_lines_have_an_order_an_end_and_a_limit(tmp_path: Path) -> None:
    engine = Engine(
        tmp_path,
        entry("d", "data", decline(header=[b"X-D: 1"])),
        rule("r", accept(header=[b"X-R: 1"], above=[b"X-A: 1"])),
        entry("c", "connect", decline(header=[b"X-C: 1"])),
        entry("u", "unknown", decline(header=[b"X-U: 1"])),
        entry("x", "command_x", decline(header=[b"X-X: 1"])),
        entry("y", "command_y", decline(above=[b"X-Y: 1"])),
    )
    assert engine.ask("unknown").decision.verdict == "defer"  # no place for it
    assert engine.ask("command_x").decision.verdict == "defer"
    assert engine.ask("command_y").decision.verdict == "defer"
    engine.ask("connect")
    engine.ask("mail")
    for _ in range(3):
        engine.rcpt()
    engine.ask("data")
    assert engine.hooks.with_lines(b"R\n") == b"X-A: 1\nR\nX-C: 1\nX-R: 1\nX-D: 1\n"
    engine.hooks.forget(stages.TRANSACTION)
    assert engine.hooks.with_lines(b"") == b"X-C: 1\n"
    assert engine.hooks.renew().with_lines(b"") == b"X-C: 1\n"
    lines = [b"X: %d" % n for n in range(500)]
    many = accept(header=lines[:50], above=lines[50:])
    engine = Engine(tmp_path, entry("m", "mail", many))
    engine.ask("mail")
    assert engine.hooks.with_lines(b"").count(b"\n") == HEADER_LINES


def test_a_line_is_there_once(tmp_path: Path) -> None:
    """Whoever else brings it, at whatever stage; above and below our Received are two places."""
    same = [b"X: 1", b"X: 1"]
    engine = Engine(
        tmp_path,
        entry("a", "mail", decline(header=same)),
        rule("r", accept(header=same)),
        rule("s", decline(header=same)),
        entry("d", "data", decline(header=same, above=same)),
    )
    engine.ask("mail")
    engine.rcpt()
    engine.rcpt()
    engine.ask("data")
    assert engine.hooks.with_lines(b"R\n") == b"X: 1\nR\nX: 1\n"


def test_removals_are_of_one_message(tmp_path: Path) -> None:
    gone = decline(remove={b"X-Note": None})
    engine = Engine(tmp_path, entry("h", "header", gone), entry("g", "header", ACCEPTED))
    engine.ask("header")
    ((entry_, removals),) = engine.hooks.removals
    assert (entry_.name, dict(removals)) == ("h", {b"X-Note": None})
    engine.ask("mail")
    assert engine.hooks.removals == []


def test_who_accepts_a_header_does_not_speak_for_those_that_remove(tmp_path: Path) -> None:
    gone = decline(remove={b"X-Note": None}, above=[b"X-A: 1"])
    plugins = [
        entry("a", "header", ACCEPTED),
        entry("b", "header", NO),
        entry("g", "header", gone, removes=True),
        entry("i", "header", NO, removes=True, immune=("relay",)),
        entry("c", "header", ACCEPTED, removes=True),
    ]
    engine = Engine(tmp_path, *plugins)
    engine.client.relay = b""
    ruling = engine.ask("header")
    assert (ruling.plugin, ruling.decision) == ("a", ACCEPTED)
    assert [entry_.name for entry_, _ in engine.hooks.removals] == ["g"]
    assert engine.hooks.with_lines(b"") == b"X-A: 1\n"
    engine.client.relay = None
    assert engine.ask("header").plugin == "i"
    # Elsewhere nobody else is asked.
    plugins = [entry("a", "data", ACCEPTED), entry("b", "data", NO, removes=True)]
    assert Engine(tmp_path, *plugins).ask("data").plugin == "a"


@pytest.mark.parametrize("name", [b"", b"*", b"a b", b"a:", b"a*b", b"a**", "a", b"a\xff", b"*a"])
def test_names_of_no_header_field(name: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decline(remove={name: None})


def test_lines_of_who_is_refused_are_not_kept(tmp_path: Path) -> None:
    engine = Engine(tmp_path, entry("m", "rcpt", decline(header=[b"X: 1"])), rule("r", DECLINED))
    engine.rcpt()
    assert engine.hooks.with_lines(b"") == b""


@pytest.mark.parametrize("stage", stages.POSTPONED)
@pytest.mark.parametrize("when", [AT_RCPT, AT_DATA])
@pytest.mark.parametrize("refusal", [NO, LATER, drop(b"out")])
def test_postponed(tmp_path: Path, stage: str, when: str, refusal: Decision) -> None:
    plugins = [entry("p", stage, refusal, postpone=when), rule("r", ACCEPTED)]
    engine = Engine(tmp_path, *plugins)
    if stage != "rcpt":
        assert engine.ask(stage, b"x").decision is DECLINED
    verdict, plugin, _ = engine.rcpt()
    if when == AT_RCPT or (stage == "rcpt" and refusal.verdict == "drop"):
        assert (verdict, plugin) == (refusal.verdict, "p")
        return
    assert (verdict, plugin) == ("accept", "r")
    ruling = engine.ask("data")
    assert (ruling.decision, ruling.plugin, ruling.stage) == (refusal, "p", "data")
    engine.hooks.forget(stages.TRANSACTION)
    kept = stage not in stages.TRANSACTION
    assert (engine.ask("data").decision is refusal) == kept
    # After STARTTLS only what was said of the connection holds.
    assert (engine.hooks.renew().ask("data", engine.client).decision is refusal) == (
        stage == "connect"
    )


def test_immune_by_then(tmp_path: Path) -> None:
    engine = Engine(
        tmp_path,
        entry("p", "connect", NO, postpone=AT_RCPT, immune=("auth",)),
        rule("r", ACCEPTED),
    )
    engine.ask("connect")
    assert engine.rcpt()[1] == "p"
    engine.client.auth = Auth(b"joe", b"PLAIN")
    assert engine.rcpt()[1] == "r"


def test_notes_end_with_starttls(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> Order:
        made.append(len(made))
        notes: list[int] = []

        def mail(*facts: object) -> Decision:
            notes.append(1)
            return decline(b"%d" % len(notes))

        return Order([entry("p", "mail", mail)])

    hooks = Hooks(make, Log(2))
    said: list[object] = []
    hooks.watch = lambda stage, plugin, verdict: said.append(verdict.text)  # type: ignore[union-attr]
    client = Client(Peer())
    hooks.ask("mail", client)
    hooks.ask("mail", client)
    hooks.renew().ask("mail", client)
    assert said == [b"1", b"2", b"1"]


# -- decisions and replies ---------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Decision("maybe"),
        lambda: reject(b"x", 250),
        lambda: reject(b"x", 451),
        lambda: defer(b"x", 550),
        lambda: drop(b"x", 250),
        lambda: Decision("accept", code=550),
        lambda: reject(b"x", 5500),
        lambda: reject("x"),  # type: ignore[arg-type]
        lambda: reject(b"x", status="5.7.1"),  # type: ignore[arg-type]
        lambda: accept(header=[b"no colon"]),
        lambda: accept(recipient=b"a\nb"),
    ],
)
def test_decisions_that_make_no_sense(make: Callable[[], Decision]) -> None:
    with pytest.raises(ValueError):
        make()


@given(st.binary(max_size=40))
def test_a_header_line_is_one_line_or_folded(line: bytes) -> None:
    """What passes, parsed by the rules of RFC 5322, is one field, and ends no header."""
    try:
        check_header_line(line)
    except ValueError:
        return
    assert b"\r" not in line and b"\0" not in line
    first, *folds = line.split(b"\n")
    name, colon, _ = first.partition(b":")
    assert colon and name and all(33 <= byte < 127 for byte in name)
    assert all(fold[:1] in (b" ", b"\t") and fold.strip(b" \t") for fold in folds)


@given(
    st.sampled_from([*stages.REPLIES, "command_x"]),
    st.sampled_from(REFUSALS),
    st.binary(max_size=600),
    st.sampled_from([b"", b"5.7.1", b"4.999.999"]),
)
def test_every_reply_is_well_formed(stage: str, verdict: str, text: bytes, status: bytes) -> None:
    reply = stages.reply_to(Ruling(stage, "", Decision(verdict, text, status=status))).wire()
    lines = reply.split(b"\r\n")
    assert len(lines) <= stages.LINES_LIMIT
    for line in lines:
        assert len(line) <= 510
        assert all(32 <= byte < 127 for byte in line)
        assert line[:3] == lines[0][:3]
    assert [line[3:4] for line in lines] == [b"-"] * (len(lines) - 1) + [b" "]
    assert reply[:1] in {"reject": b"5", "defer": b"4", "drop": b"4"}[verdict]


def test_a_refusal_without_a_word_does_not_say_ok() -> None:
    for text in (b"", b"\n"):
        reply = stages.reply_to(Ruling("mail", "", reject(text)))
        assert reply.wire() == b"550 refused (#5.7.1)"
    assert stages.reply_to(Ruling("command_x", "", accept())).wire() == b"250 ok"


# -- the time limit ----------------------------------------------------------


def test_our_own_plugins_have_no_timer(tmp_path: Path) -> None:
    seen: list[bool] = []

    def hook(client: Client) -> Decision:
        seen.append(is_at_rest())
        return DECLINED

    engine = Engine(tmp_path, Entry("ours", {"mail": hook}))
    engine.ask("mail")
    engine = Engine(tmp_path, Entry("theirs", {"mail": hook}, ours=False))
    engine.ask("mail")
    engine.hooks.stop()
    assert seen == [True, False]


# -- back ends ---------------------------------------------------------------


class Back:
    """A back end that remembers."""

    pid = 5

    def __init__(self, said: object = None) -> None:
        self.heard: list[object] = []
        self.said = Verdict(True, exit="0") if said is None else said

    def feed(self, data: bytes) -> None:
        self.heard.append(data)
        if data == b"bad":
            raise OSError("full")

    def commit(self, sender: bytes, recipients: list[bytes]) -> object:
        self.heard.append((sender, recipients))
        return self.said

    def abort(self) -> None:
        self.heard.append("abort")


def wrapped(back: object) -> tuple[PluginBackEnd, list[BaseException]]:
    complaints: list[BaseException] = []

    def call(function: Callable[..., object], *facts: object) -> object:
        try:
            return function(*facts)
        except Exception as error:
            complaints.append(error)
            return error

    return PluginBackEnd(back, call, complaints.append), complaints


def test_a_back_end_passes_on_what_is_right() -> None:
    back = Back()
    found, complaints = wrapped(back)
    found.feed(b"a")
    found.feed(b"")
    assert found.commit(b"s", [b"r"]).accepted
    found.abort()
    found.abort()
    assert back.heard == [b"a", (b"s", [b"r"]), "abort"]
    assert (found.pid, complaints) == (5, [])


def test_a_back_end_stops_at_the_first_failure() -> None:
    back = Back()
    found, complaints = wrapped(back)
    found.feed(b"bad")
    found.feed(b"more")
    verdict = found.commit(b"s", [b"r"])
    assert not verdict.accepted and not verdict.ambiguous
    found.abort()
    assert back.heard == [b"bad", "abort"]
    assert len(complaints) == 1


def test_a_back_end_lets_nothing_through_after_abort() -> None:
    back = Back()
    found, _ = wrapped(back)
    found.abort()
    found.feed(b"x")
    assert not found.commit(b"s", [b"r"]).accepted
    assert back.heard == ["abort"]


@pytest.mark.parametrize(
    "said",
    [True, 0, "250 ok", b"250 ok", (True,), ACCEPTED, Verdict(1), Verdict("yes"), Verdict],  # type: ignore[arg-type]
    ids=lambda said: type(said).__name__,  # repr() has addresses: other ids in each process
)
def test_only_a_verdict_that_says_true_is_a_yes(said: object) -> None:
    found, _ = wrapped(Back(said))
    assert found.commit(b"s", [b"r"]).accepted is False


@given(st.binary(max_size=900), st.booleans())
def test_what_a_back_end_says_is_one_line(text: bytes, permanent: bool) -> None:
    found, _ = wrapped(Back(Verdict(False, text, permanent)))
    verdict = found.commit(b"s", [b"r"])
    assert 0 < len(verdict.text) <= 400
    assert all(32 <= byte < 127 for byte in verdict.text)


def test_the_first_back_end_that_wants_it(tmp_path: Path) -> None:
    ours = Back()
    engine = Engine(
        tmp_path,
        entry("no", "queue", None, ours=False),
        entry("yes", "queue", Back(), ours=False),
        entry("never", "queue", ValueError("x"), ours=False),
    )
    assert isinstance(engine.hooks.back_end(engine.client, engine.envelope), PluginBackEnd)
    engine = Engine(tmp_path, entry("no", "queue", None, ours=False), entry("q", "queue", ours))
    found: object = engine.hooks.back_end(engine.client, engine.envelope)
    assert found is ours


def test_the_default_is_refuse() -> None:
    assert NOBODY_ACCEPTS.verdict == "reject"
    assert TROUBLE.verdict == "defer"


def test_methods_have_the_same_order_in_every_process() -> None:
    class Base:
        def rcpt(self) -> None: ...
        def command_zulu(self) -> None: ...
        def command_alpha(self) -> None: ...

    class Plugin(Base):
        immune = ("relay",)

        def mail(self) -> None: ...
        def connect(self) -> None: ...
        def _own(self) -> None: ...

    found = list(stages.methods(Plugin()))
    assert found == ["command_alpha", "command_zulu", "connect", "mail", "rcpt"]
