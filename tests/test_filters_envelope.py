"""The filters of the envelope, each asked by itself: what they are told, and what they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import PluginSettings, Settings
from qsmtpd.decision import DECLINE, DEFER, DROP, REJECT, Decision
from qsmtpd.facts import Client, ControlError, Envelope, Peer
from qsmtpd.filters import badmailfrom, badrcptto, greetdelay, helocheck, rblsmtpd
from qsmtpd.log import Log


def settings(home: Path, files: dict[str, list[str]], **environ: str) -> PluginSettings:
    """Settings with these control files and variables."""
    (home / "control").mkdir(exist_ok=True)
    for name, lines in files.items():
        (home / "control" / name).write_text("".join(line + "\n" for line in lines))
    variables = {key.encode(): value.encode() for key, value in environ.items()}
    return Settings(ControlFiles(os.fsencode(home)), variables).for_plugin("x", {}, Log(2))


def client(host: str = "mx.a.com", relay: bytes | None = None, helo: bytes | None = None) -> Client:
    made = Client(Peer(ip=b"192.0.2.1", host=host.encode(), relay=relay))
    made.helo = helo
    return made


def said(decision: Decision) -> tuple[str, int, bytes, bytes]:
    return decision.verdict, decision.code, decision.text, decision.status


# -- badmailfrom -----------------------------------------------------------

SENDER = "sorry, your envelope sender is in my badmailfrom list"


@pytest.mark.parametrize(
    ("entries", "sender", "host", "refused"),
    [
        # What qmail-smtpd knows.
        (["bad@a.com"], "bad@a.com", "mx.a.com", True),
        (["Bad@A.com"], "bAD@a.COM", "mx.a.com", True),
        (["bad@a.com"], "good@a.com", "mx.a.com", False),
        (["@a.com"], "any@a.com", "mx.a.com", True),
        (["@a.com"], "any@b.a.com", "mx.a.com", False),
        (["@a.com"], "odd@x@a.com", "mx.a.com", True),
        (["a.com"], "any@a.com", "mx.a.com", False),
        (["a.com"], "a.com", "mx.a.com", True),
        (["@a.com"], "", "mx.a.com", False),
        (["@[192.0.2.1]"], "x@[192.0.2.1]", "mx.a.com", True),
        ([], "any@a.com", "mx.a.com", False),
        # Patterns, and what takes them back.
        (["*@*.a.com"], "x@B.a.com", "mx.a.com", True),
        (["*@*.a.com"], "x@a.com", "mx.a.com", False),
        (["@*.a.com"], "x@b.a.com", "mx.a.com", True),
        (["[0-9]*@a.com"], "1x@a.com", "mx.a.com", True),
        (["*@a.com", "!fred@a.com"], "fred@a.com", "mx.a.com", False),
        (["@a.com", "!fred@a.com"], "FRED@a.com", "mx.a.com", False),
        (["@a.com", "!fred@a.com"], "joe@a.com", "mx.a.com", True),
        (["!fred@a.com", "@a.com"], "fred@a.com", "mx.a.com", True),
        (["@a.com", "!*@a.com", "fred@a.com"], "fred@a.com", "mx.a.com", True),
        (["x\\x@a.com"], "xx@a.com", "mx.a.com", True),
        (["*"], "", "mx.a.com", True),
        (["*", "!"], "", "mx.a.com", False),
        (["*", "!@*.a.com"], "x@b.a.com", "mx.a.com", False),
        # `-`: the host is unknown.
        (["@a.com-"], "x@a.com", "unknown", True),
        (["@A.com-"], "x@a.COM", "unknown", True),
        (["@a.com-"], "x@a.com", "mx.b.com", False),
        (["@a.com-"], "x@b.com", "unknown", False),
        (["@a.com-", "!fred@a.com"], "fred@a.com", "unknown", False),
        (["!fred@a.com", "@a.com-"], "fred@a.com", "unknown", True),
        # `=`: the host is not below the domain.
        (["@a.com="], "x@a.com", "mx.a.com", False),
        (["@a.com="], "x@a.com", "MX.A.COM", False),
        (["@a.com="], "x@a.com", "a.com", False),
        (["@a.com="], "x@a.com", "nota.com", True),
        (["@a.com="], "x@a.com", "com", True),
        (["@a.com="], "x@a.com", "unknown", True),
        (["@unknown="], "x@unknown", "unknown", True),
        (["@a.com="], "x@b.com", "unknown", False),
        (["@a.com="], "x@b.a.com", "mx.b.com", False),
        # `~`: the host is below the domain, the sender is not.
        (["~a.com"], "x@b.com", "mx.a.com", True),
        (["~A.com"], "x@b.com", "a.COM", True),
        (["~a.com"], "x@a.com", "mx.a.com", False),
        (["~a.com"], "x@sub.a.com", "mx.a.com", False),
        (["~a.com"], "x@nota.com", "mx.a.com", True),
        (["~a.com"], "x@b.com", "mx.nota.com", False),
        (["~a.com"], "x@b.com", "unknown", False),
        (["~unknown"], "x@b.com", "unknown", False),
        (["~a.com"], "", "mx.a.com", False),
        (["~a.com", "!@b.com"], "x@b.com", "mx.a.com", False),
        # `?`: never, whatever else there is.
        (["?FRED@a.com", "@a.com", "*"], "Fred@a.com", "mx.a.com", False),
        (["?fred@a.com", "@a.com"], "joe@a.com", "mx.a.com", True),
        (["?fred@a.com"], "xfred@a.com", "mx.a.com", False),
        (["@a.com=", "?fred@a.com"], "fred@a.com", "unknown", False),
        (["?????@a.com"], "fredx@a.com", "mx.a.com", True),  # a pattern
        (["?????@a.com"], "????@a.com", "mx.a.com", False),
    ],
)
def test_badmailfrom(
    tmp_path: Path, entries: list[str], sender: str, host: str, refused: bool
) -> None:
    plugin = badmailfrom.Plugin(settings(tmp_path, {"badmailfrom": entries})).for_session()
    decision = plugin.rcpt(client(host), Envelope(sender.encode()), b"x@ok.example")
    assert said(decision) == (
        (REJECT, 553, SENDER.encode(), b"5.7.1") if refused else (DECLINE, 0, b"", b"")
    )


@pytest.mark.parametrize("relay", [b"", b"@suffix"])
def test_badmailfrom_and_relay_clients(tmp_path: Path, relay: bytes) -> None:
    """Only `+` asks whether the client may relay."""
    plugin = badmailfrom.Plugin(
        settings(tmp_path, {"badmailfrom": ["@a.com+", "@b.com"]})
    ).for_session()
    for sender, by_client, by_relay in (
        (b"x@a.com", REJECT, DECLINE),
        (b"x@b.com",) + (REJECT,) * 2,
    ):
        assert plugin.rcpt(client(), Envelope(sender), b"").verdict == by_client
        assert plugin.rcpt(client(relay=relay), Envelope(sender), b"").verdict == by_relay


def test_badmailfrom_judges_every_sender(tmp_path: Path) -> None:
    """A second transaction is another one, even from the same client."""
    plugin = badmailfrom.Plugin(settings(tmp_path, {"badmailfrom": ["*@a.com"]})).for_session()
    peer = client()
    for sender, verdict in ((b"x@a.com", REJECT), (b"x@b.com", DECLINE), (b"y@a.com", REJECT)):
        envelope = Envelope(sender)
        for recipient in (b"1@ok.example", b"2@ok.example"):
            assert plugin.rcpt(peer, envelope, recipient).verdict == verdict


@pytest.mark.parametrize("entry", ["@*.a.com=", "@a?-", "@[x]+", "~*.com", "x[y@a.com", "!x\\"])
def test_badmailfrom_entries_that_make_no_sense(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ControlError) as error:
        badmailfrom.Plugin(settings(tmp_path, {"badmailfrom": ["good@a.com", entry]})).for_session()
    assert error.value.name == "control/badmailfrom"


# -- badrcptto -------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "recipient", "refused"),
    [
        (["Root@ok.example"], "rOOt@OK.example", True),
        (["root@ok.example"], "joe@ok.example", False),
        (["@ok.example"], "joe@ok.example", True),
        (["@ok.example"], "joe", False),
        (["joe"], "joe", True),
        (["*-list@*"], "a-LIST@ok.example", True),
        (["*", "!joe@ok.example"], "Joe@ok.example", False),
        (["*", "!joe@ok.example"], "jim@ok.example", True),
        (["@ok.example", "!joe@*"], "joe@ok.example", False),
        ([], "joe@ok.example", False),
    ],
)
@pytest.mark.parametrize("relay", [None, b""])
def test_badrcptto(
    tmp_path: Path, entries: list[str], recipient: str, refused: bool, relay: bytes | None
) -> None:
    plugin = badrcptto.Plugin(settings(tmp_path, {"badrcptto": entries}))
    decision = plugin.rcpt(client(relay=relay), Envelope(b"a@b"), recipient.encode())
    text = b"sorry, your envelope recipient is in my badrcptto list"
    assert said(decision) == ((REJECT, 553, text, b"5.7.1") if refused else (DECLINE, 0, b"", b""))


# -- helocheck -------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "badhelo", "name", "host", "refused"),
    [
        # The list alone, and with an empty variable.
        (None, ["localhost"], "LocalHost", "mx.a.com", True),
        (None, ["localhost"], "localhost ", "mx.a.com", True),
        (None, ["localhost"], "mx.a.com", "mx.a.com", False),
        (None, ["localhost"], None, "mx.a.com", False),
        ("", ["*.dialup.*"], "7.dialup.A.com", "mx.a.com", True),
        ("", None, "anything", "mx.a.com", False),
        ("", None, None, "mx.a.com", False),
        ("", ["*", "!*.a.com"], "mx.a.com", "mx.a.com", False),
        ("", ["*", "!*.a.com"], "mx.b.com", "mx.a.com", True),
        ("", ["*", "!*.a.com"], None, "mx.a.com", True),
        ("", ["*", "good!"], "GOOD", "mx.a.com", False),
        ("", ["good!", "*"], "good", "mx.a.com", False),  # in whatever order
        ("", ["*.a.com!", "*"], "mx.a.com", "mx.a.com", False),
        # There must be a name, too.
        (".", None, None, "mx.a.com", True),
        (".", None, "", "mx.a.com", True),
        (".", None, "x", "mx.a.com", False),
        (".", ["x"], "x", "mx.a.com", True),
        # There must be a name, and that is all.
        ("!", ["x"], None, "mx.a.com", True),
        ("!", ["x"], " ", "mx.a.com", True),
        ("!", ["x"], "x", "mx.a.com", False),
        # It must be the right one.
        ("=", None, "MX.a.com", "mx.A.com", False),
        ("=", None, "a.com", "mx.a.com", True),
        ("=", None, None, "mx.a.com", True),
        ("=", None, "unknown", "unknown", True),
        ("=", ["mx.a.com"], "mx.a.com", "mx.a.com", True),
        ("=", ["nat!"], "nat", "mx.a.com", False),
    ],
)
def test_helocheck(
    tmp_path: Path,
    rule: str | None,
    badhelo: list[str] | None,
    name: str | None,
    host: str,
    refused: bool,
) -> None:
    files = {} if badhelo is None else {"badhelo": badhelo}
    environ = {} if rule is None else {"HELOCHECK": rule}
    plugin = helocheck.Plugin(settings(tmp_path, files, **environ))
    peer = client(host, helo=None if name is None else name.encode())
    decision = plugin.rcpt(peer, Envelope(b"a@b"), b"x@ok.example")
    text = b"sorry, invalid HELO/EHLO greeting"
    assert said(decision) == ((REJECT, 550, text, b"5.7.1") if refused else (DECLINE, 0, b"", b""))


@pytest.mark.parametrize("rule", ["a", "m", "1", "..", "\t."])
def test_helocheck_values_that_nobody_does(tmp_path: Path, rule: str) -> None:
    with pytest.raises(ControlError) as error:
        helocheck.Plugin(settings(tmp_path, {}, HELOCHECK=rule))
    assert error.value.name == "HELOCHECK"


# -- rblsmtpd --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, (DECLINE, 0, b"", b"")),
        ("", (DECLINE, 0, b"", b"")),
        ("go away", (DEFER, 451, b"go away", b"4.7.1")),
        ("-go away", (REJECT, 553, b"go away", b"5.7.1")),
        ("--", (REJECT, 553, b"-", b"5.7.1")),
        ("-", (REJECT, 553, b"sorry, I do not take mail from your host", b"5.7.1")),
        ("see bl.example/%IP%", (DEFER, 451, b"see bl.example/192.0.2.1", b"4.7.1")),
        ("[x] y", (DEFER, 451, b"[x] y", b"4.7.1")),
        ("x" * 300, (DEFER, 451, b"x" * 200, b"4.7.1")),
        ("-" + "x" * 300, (REJECT, 553, b"x" * 200, b"5.7.1")),
        ("é", (DEFER, 451, b"??", b"4.7.1")),
    ],
)
def test_rblsmtpd(
    tmp_path: Path, text: str | None, expected: tuple[str, int, bytes, bytes]
) -> None:
    environ = {} if text is None else {"RBLSMTPD": text}
    plugin = rblsmtpd.Plugin(settings(tmp_path, {}, **environ))
    decision = plugin.rcpt(client(), Envelope(b"a@b"), b"x@ok.example")
    assert said(decision) == expected
    assert decision.header == ()


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("[RBL info] http://bl.example/?ip=%IP%", b"X-RBL-Info: http://bl.example/?ip=192.0.2.1"),
        ("[RBL info] é", b"X-RBL-Info: ??"),
        ("[RBL info] " + "x" * 300, b"X-RBL-Info: " + b"x" * 200),
        ("[RBL info]", None),
        ("[RBL info]  ", None),
    ],
)
def test_rblsmtpd_tells_what_was_found(tmp_path: Path, text: str, header: bytes | None) -> None:
    plugin = rblsmtpd.Plugin(settings(tmp_path, {}, RBLSMTPD=text))
    decision = plugin.rcpt(client(), Envelope(b"a@b"), b"x@ok.example")
    assert decision.verdict == DECLINE
    assert decision.header == (() if header is None else (header,))


@pytest.mark.parametrize("text", ["-[bl.example] listed", "[bl.example] listed", "-listed"])
def test_rblheader_refuses_nobody(tmp_path: Path, text: str) -> None:
    plugin = rblsmtpd.Plugin(settings(tmp_path, {}, RBLSMTPD=text, RBLHEADER="0"))
    assert plugin.rcpt(client(), Envelope(b"a@b"), b"x@ok.example").verdict != DECLINE
    plugin = rblsmtpd.Plugin(settings(tmp_path, {}, RBLSMTPD=text, RBLHEADER=""))
    decision = plugin.rcpt(client(), Envelope(b"a@b"), b"x@ok.example")
    assert (decision.verdict, decision.header) == (DECLINE, (b"X-RBL-Info: listed",))


def test_rblsmtpd_and_who_may_relay(tmp_path: Path) -> None:
    """RELAYCLIENT does not help, having shown who one is does."""
    plugin = rblsmtpd.Plugin(settings(tmp_path, {}, RBLSMTPD="-no"))
    by_rule = client(relay=b"")
    assert plugin.rcpt(by_rule, Envelope(b"a@b"), b"").verdict == REJECT
    by_certificate = client()
    by_certificate.relay = b""
    assert plugin.rcpt(by_certificate, Envelope(b"a@b"), b"").verdict == DECLINE
    assert "auth" in plugin.immune


def test_rblsmtpd_takes_no_line_breaks(tmp_path: Path) -> None:
    with pytest.raises(ControlError):
        rblsmtpd.Plugin(settings(tmp_path, {}, RBLSMTPD="go\r\n250 ok"))


# -- greetdelay ------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "files", "seconds", "drops"),
    [
        ({"SMTPD_GREETDELAY": "7"}, {}, 7, False),
        ({"SMTPD_GREETDELAY": "7", "DROP_PRE_GREET": "1"}, {}, 7, True),
        ({"SMTPD_GREETDELAY": "7", "DROP_PRE_GREET": ""}, {}, 7, True),
        ({"SMTPD_GREETDELAY": "7", "DROP_PRE_GREET": "0"}, {}, 7, False),
        ({"GREETDELAY": "7"}, {}, 7, False),
        ({"GREETDELAY": "-7"}, {}, 7, True),
        ({"GREETDELAY": "-7", "SMTPD_GREETDELAY": "5"}, {}, 5, False),
        ({"GREETDELAY": "7"}, {"greetdelay": ["-3"]}, 7, False),
        ({}, {"greetdelay": ["-3"]}, 3, True),
        ({"GREETDELAY": "60"}, {}, 60, False),
        ({"GREETDELAY": "-60"}, {}, 60, True),
        ({"GREETDELAY": "0"}, {}, None, False),
        ({"GREETDELAY": "-0"}, {}, None, False),
        ({"DROP_PRE_GREET": "1"}, {}, None, False),
    ],
)
@pytest.mark.parametrize("talks", [False, True])
def test_greetdelay(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    files: dict[str, list[str]],
    seconds: int | None,
    drops: bool,
    talks: bool,
) -> None:
    plugin = greetdelay.Plugin(settings(tmp_path, files, **environ))
    listened: list[float] = []
    waited: list[float] = []
    peer = client()
    peer.counters.start = 1000.0
    monkeypatch.setattr(greetdelay, "monotonic", lambda: 1000.0)  # and no time passes

    def speaks(seconds: float) -> bool:
        listened.append(seconds)
        return talks

    peer.speaks = speaks
    peer.pause = waited.append
    decision = plugin.connect(peer)
    early = talks and seconds is not None
    assert listened == ([] if seconds is None else [seconds])
    if early and drops:
        assert said(decision) == (DROP, 554, b"SMTP protocol violation", b"5.5.1")
    else:
        assert decision.verdict == DECLINE
    if early and not drops:  # it waits for the rest of the time
        assert waited == [seconds]
    else:
        assert waited == []
    assert peer.counters.karma == (-1 if early and not drops else 0)


def test_greetdelay_is_no_longer_for_who_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = greetdelay.Plugin(settings(tmp_path, {}, GREETDELAY="7"))
    times = iter((1000.25, 1002.5))
    monkeypatch.setattr(greetdelay, "monotonic", lambda: next(times))
    listened: list[float] = []
    waited: list[float] = []
    peer = client()
    peer.counters.start = 1000.0  # it counts from when the client came
    peer.speaks = lambda seconds: bool(listened.append(seconds) or True)  # type: ignore[func-returns-value]
    peer.pause = waited.append
    plugin.connect(peer)
    assert (listened, waited) == ([6.75], [4.5])


@pytest.mark.parametrize("text", ["", "-", "x", "1.5", "+1", "1 2", "--1", "9" * 21, "٣"])
@pytest.mark.parametrize("variable", ["GREETDELAY", "SMTPD_GREETDELAY"])
def test_greetdelay_wants_a_number(tmp_path: Path, text: str, variable: str) -> None:
    with pytest.raises(ControlError):
        greetdelay.Plugin(settings(tmp_path, {}, **{variable: text}))


# -- what all of them share ------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "files", "environ", "plugin"),
    [
        ("REPLY_BADMAILFROM", {"badmailfrom": ["@a.com"]}, {}, badmailfrom),
        ("REPLY_BADRCPTTO", {"badrcptto": ["@ok.example"]}, {}, badrcptto),
        ("REPLY_HELO", {}, {"HELOCHECK": "!"}, helocheck),
    ],
)
def test_the_administrators_words(tmp_path, variable, files, environ, plugin) -> None:  # type: ignore[no-untyped-def]
    made = plugin.Plugin(settings(tmp_path, files, **environ, **{variable: "ring 1234"}))
    made = made.for_session() if hasattr(made, "for_session") else made
    text = made.rcpt(client(), Envelope(b"x@a.com"), b"x@ok.example").text
    assert text.startswith(b"sorry, ")
    assert text.endswith(b" ring 1234")
    with pytest.raises(ControlError) as error:
        plugin.Plugin(settings(tmp_path, files, **environ, **{variable: "a\nb"}))
    assert error.value.name == variable
