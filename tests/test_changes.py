"""What plugins make of a message at data_post: another one, another envelope, nothing at all."""

from __future__ import annotations

import pytest
from harness import Home
from plugin_lines import PLUGINS

from qsmtpd.decision import Changes, decline, discard
from qsmtpd.smtp.header import HEADER_LIMIT, header_of

CHANGE = f"{PLUGINS}/change.py"
BEGIN = b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\nRCPT TO:<y@ok.example>\r\n"
MESSAGE = b"DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n"


def test_another_message_in_its_place_is_what_the_next_plugin_sees(home: Home) -> None:
    home.control(
        "plugins",
        f"{CHANGE} text=Subject:first%nX:1%n%n%m",
        f"{CHANGE}:2 text=X-New:2%n%m",
        f"{PLUGINS}/look.py spool=yes",
    )
    run = home.run(BEGIN + MESSAGE + MESSAGE.replace(b"DATA", BEGIN[8:] + b"DATA") + b"QUIT\r\n")
    assert run.codes == [220, 250, 250, 250, 250, 354, 250, 250, 250, 250, 354, 250, 221]
    for message in home.messages():
        assert message.body == (b"X-Seen: 6\nX-New:2\nSubject:first\nX:1\n\nSubject: x\n\nhello\n")
        assert message.sender == b"a@b.example"
        assert message.recipients == [b"x@ok.example", b"y@ok.example"]
    seen = [line for line in run.events("plugin") if line["plugin"].startswith("change")][:2]
    assert [line["subject"] for line in seen] == ["x", "first"]
    assert [int(line["size"]) for line in seen] == [18, 37]
    changed = run.events("changed")[:2]
    assert [(line["plugin"], line["size"]) for line in changed] == [
        ("change", "37"),
        ("change:2", "45"),
    ]
    assert run.events("message")[0]["size"] == "18", "of what came"


def test_another_envelope(home: Home) -> None:
    home.control("plugins", f"{CHANGE} sender=new@b.example to=y@ok.example,z@far.example")
    run = home.run(BEGIN + MESSAGE + b"QUIT\r\n")
    (message,) = home.messages()
    assert message.sender == b"new@b.example"
    assert message.recipients == [b"y@ok.example", b"z@far.example"]
    assert message.body == b"Subject: x\n\nhello\n"
    changed = run.event("changed")
    assert (changed["was"], changed["from"]) == ("a@b.example", "new@b.example")
    assert (changed["added"], changed["deleted"]) == ("z@far.example", "x@ok.example")


@pytest.mark.parametrize("bdat", [False, True])
def test_discarded(home: Home, bdat: bool) -> None:
    home.control("plugins", f"{CHANGE} discard=spam", f"{PLUGINS}/record.py")
    message = b"BDAT 19 LAST\r\nSubject: x\r\n\r\nhel\r\n" if bdat else MESSAGE
    home.environ["SEEN"] = str(home.path / "seen")
    run = home.run(BEGIN + message + b"NOOP\r\nQUIT\r\n")
    assert run.codes[-3:] == [250, 250, 221]
    assert run.lines[-3].startswith(b"250 ok ") and b" qp " in run.lines[-3]
    assert home.messages() == []
    line = run.event("message")
    assert (line["verdict"], line["by"], line["reason"]) == ("discarded", "change", "spam")
    assert run.event("session")["messages"] == "1"
    assert "exit" not in line
    told = [line for line in run.events("plugin") if line.get("hook") == "ok"]
    assert told[-1]["about"] == "data_post"
    assert not [line for line in run.events("plugin") if line.get("hook", "").startswith("queue_")]


def test_what_is_refused_all_the_same_is_not_discarded(home: Home) -> None:
    home.control("plugins", f"{CHANGE} discard=spam")
    run = home.run(BEGIN + MESSAGE + b"QUIT\r\n", DATABYTES="5")
    assert run.codes[-2:] == [552, 221]
    assert run.event("message")["verdict"] == "refused"


@pytest.mark.parametrize(("option", "error"), [("odd=1", "TypeError"), ("early=1", "ValueError")])
def test_what_makes_no_sense_is_trouble(home: Home, option: str, error: str) -> None:
    home.control("plugins", f"{CHANGE} {option}")
    run = home.run(BEGIN + MESSAGE + b"QUIT\r\n")
    assert run.lines[-2] == b"451 policy trouble, try again later (#4.3.0)"
    assert run.event("trouble")["error"] == error
    assert home.messages() == []


@pytest.mark.parametrize(
    "what", [{"sender": b"a\n"}, {"recipients": [b"\0"]}, {"recipients": []}, {"recipients": [b""]},
             {"recipients": b"x"}, {"sender": "a"}],
)  # fmt: skip
def test_addresses_that_cannot_be(what: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="recipient|address"):
        Changes(**what)  # type: ignore[arg-type]


def test_decisions_carry_them() -> None:
    changes = Changes(sender=b"")
    assert decline(changes=changes).changes is changes
    assert discard(b"why").text == b"why"


@pytest.mark.parametrize(
    ("text", "header", "body"),
    [
        (b"", b"", 0),
        (b"A: 1\n\nx", b"A: 1\n", 6),
        (b"\nx", b"", 1),
        (b"A: 1\n", b"A: 1\n", 5),
        (b"A: 1\nno header\n\nx", b"A: 1\n", 5),
        (b"From x\nA: 1\n b\n\n", b"From x\nA: 1\n b\n", 16),
        (b"X: " + b"a" * HEADER_LIMIT, (b"X: " + b"a" * HEADER_LIMIT)[:HEADER_LIMIT], HEADER_LIMIT),
    ],
)
def test_where_a_header_ends(text: bytes, header: bytes, body: int) -> None:
    assert header_of(text) == (header, body)
