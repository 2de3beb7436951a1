"""The filter recipients: control/recipients, with cdbs that others have made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from filters import TAKEN, build, logged, rcpt, script
from harness import Home, Variables, needs
from listeners import tcpserver

from qsmtpd.facts import ControlError

pytestmark = pytest.mark.slow

NO = b"550 sorry, no mailbox by that name (#5.7.1)"
UNABLE = b"drop 421 unable to check recipients (#4.3.0)"


def make_cdb(path: Path, *keys: bytes) -> None:
    """A cdb of these keys, made by tinycdb."""
    records = b"".join(b"+%d,0:%b->\n" % (len(key), key) for key in keys)
    subprocess.run([needs("cdb"), "-c", path], input=records + b"\n", check=True)


@pytest.fixture
def boxes(home: Home) -> Home:
    """users/a.cdb knows joe, users/b.cdb knows ann; program knows sue."""
    (home.path / "users").mkdir()
    make_cdb(home.path / "users/a.cdb", b":joe@ok.example", b":list-@ok.example", b":u@localhost")
    # As a program would look it up that takes the C string's end for a part of it.
    make_cdb(home.path / "users/b.cdb", b":ann@ok.example\0", b":ann@x.ok.example\0")
    script(
        home.path,
        'read -r line <&3; echo "$line $*" >>"$0.asked"\n'
        'case $line in sue@*) exit 0 ;; busy@*) exit "${1:-111}" ;; esac\nexit 1',
    )
    return home


@pytest.mark.parametrize(
    ("lines", "taken", "refused"),
    [
        # a domain and those below it, by whole labels
        (["ok.example:users/a.cdb"], ["joe@ok.example", "JOE@OK.Example"], ["ann@ok.example"]),
        (["ok.example|./check"], ["sue@x.OK.example"], ["sue@notok.example", "sue@ok.example.org"]),
        (["OK.example:users/b.cdb"], ["ann@ok.example", "ann@x.ok.example"], ["joe@ok.example"]),
        (["@ok.example:users/b.cdb"], ["ann@ok.example"], ["ann@x.ok.example"]),
        ([".ok.example:users/b.cdb"], ["ann@x.ok.example"], ["ann@ok.example"]),
        # any domain
        (["*:users/a.cdb"], ["joe@ok.example"], ["joe@x.example"]),
        (["users/a.cdb"], ["joe@ok.example"], ["ann@ok.example"]),
        (["*|./check"], ["sue@ok.example", "sue@any.example"], ["joe@ok.example"]),
        # each line in turn
        (
            ["ok.example:users/a.cdb", "ok.example:users/b.cdb", "@ok.example|./check"],
            ["joe@ok.example", "ann@ok.example", "sue@ok.example"],
            ["sue@x.ok.example", "eve@ok.example"],
        ),
        # everybody of one domain; everybody of those that no line names
        (["!open.example"], ["x@open.example", "x@OPEN.example"], ["x@ok.example", "x@a.open.ex"]),
        (["!open.example"], [], ["x@open.example.org", "x@sub.open.example"]),
        (["!*"], ["x@ok.example"], []),
        (["!*", "ok.example:users/a.cdb"], ["joe@ok.example", "x@b.example"], ["x@ok.example"]),
        (["*:users/a.cdb", "!*"], ["joe@ok.example", "x@ok.example"], []),
        # extension addresses
        (["*:users/a.cdb"], ["joe-x@ok.example", "joe-x-y@ok.example"], ["jo-e@ok.example"]),
        (["*:users/a.cdb"], ["list-1=2@ok.example"], ["list@ok.example", "-joe@ok.example"]),
        (["*|./check"], ["sue-x@ok.example"], ["-sue@ok.example"]),
        # without a domain
        (["*:users/a.cdb"], ["u", "postmaster", "Postmaster"], ["x", "", "postmaster@ok.example"]),
        (["!localhost"], ["u", "x", ""], []),
        # an address with an at sign in the box
        (["*:users/a.cdb"], [], ["joe@ok.example@x.example", '"joe@ok.example"@x.example']),
        # a colon in a program's argument is no cdb
        (["*|./check a:b"], ["sue@ok.example"], ["joe@ok.example"]),
        ([], [], ["joe@ok.example"]),
        (None, ["joe@ok.example"], []),
    ],
)
def test_rules(
    boxes: Home,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str] | None,
    taken: list[str],
    refused: list[str],
) -> None:
    monkeypatch.chdir(boxes.path)  # as the session does
    if lines is not None:
        boxes.control("recipients", *lines)
    plugin = build("recipients", boxes.path)
    assert [rcpt(plugin, address.encode()) for address in taken] == [TAKEN] * len(taken)
    assert [rcpt(plugin, address.encode()) for address in refused] == [NO] * len(refused)


def test_the_refusal(boxes: Home) -> None:
    boxes.control("recipients", "*:users/a.cdb")
    cases: list[tuple[Variables, bytes]] = [
        ({"REPLY_MAILBOX": "call us"}, b"550 sorry, no mailbox by that name call us (#5.7.1)"),
        ({"RECIPIENTS450": ""}, b"450 sorry, mailbox currently unavailable (#4.2.1)"),
    ]
    for environ, reply in cases:
        assert rcpt(build("recipients", boxes.path, **environ), b"x@ok.example") == reply


@pytest.mark.parametrize(
    "line", [":users/a.cdb", "@:users/a.cdb", "a.example:", "a.example|", "!", "*:users/none.cdb"]
)
def test_lines_that_make_no_sense(boxes: Home, line: str) -> None:
    boxes.control("recipients", line)
    with pytest.raises(ControlError) as caught:
        build("recipients", boxes.path)
    assert caught.value.name.startswith("control/recipients")


def test_a_damaged_cdb_is_not_an_empty_one(boxes: Home) -> None:
    (boxes.path / "users/a.cdb").write_bytes(b"x")
    boxes.control("recipients", "ok.example:users/a.cdb", "!*")
    plugin = build("recipients", boxes.path)
    assert rcpt(plugin, b"x@other.example") == TAKEN
    with pytest.raises(ControlError):
        rcpt(plugin, b"joe@ok.example")


def test_what_a_program_is_asked(boxes: Home) -> None:
    seen = boxes.path / "seen"
    program = script(boxes.path, f'cat <&3 >>{seen}; echo "$@" >>{seen}; exit 1', "other")
    boxes.control("recipients", f"*|{program} one two  three 4 5 6")
    plugin = build("recipients", boxes.path)
    assert rcpt(plugin, b"J-\xff oe@OK.example") == NO
    shown = b"one two three 4 5 6\n"
    assert seen.read_bytes() == (
        b"J-\xff oe@ok.example\0\0\0" + shown + b"J@ok.example\0\0\0" + shown
    )
    rcpt(plugin, b"J-\xff oe@ok.Example")
    assert seen.read_bytes().count(b"one") == 2  # it is remembered


@pytest.mark.parametrize("status", ["111", "2", "99", "100", "127"])
def test_a_program_in_trouble_is_no_answer(boxes: Home, status: str) -> None:
    boxes.control("recipients", f"*|{boxes.path}/check {status}", "!*")
    log = boxes.path / "log"
    with log.open("wb") as stream:
        plugin = build("recipients", boxes.path, stream.fileno())
        assert rcpt(plugin, b"busy@ok.example") == UNABLE
        assert rcpt(plugin, b"busy@ok.example") == UNABLE  # which is not remembered
        assert rcpt(plugin, b"sue@ok.example") == TAKEN
    assert [(line["program"], line["result"]) for line in logged(log)] == [
        (f"{boxes.path}/check", f"exit {status}")
    ] * 2


# -- whole sessions; see also transcripts/filters-recipients.txt -----------


def test_a_session(boxes: Home) -> None:
    boxes.control("recipients", "ok.example:users/a.cdb", f"*|{boxes.path}/check")
    rules = ['127.0.0.2:allow,RELAYCLIENT=""', '127.0.0.3:allow,RECIPIENTS450=""', ":allow"]
    boxes.control("rcpthosts", "ok.example", "x.example")
    names = [b"eve@ok.example", b"JOE@ok.example", b"sue@ok.example", b"sue@x.example"]
    names += [b"joe@no.example"]
    with tcpserver(boxes, *rules) as listener:
        eve, *others, elsewhere = listener.session(
            b"MAIL FROM:<a@b>", *(b"RCPT TO:<%b>" % name for name in names)
        )[2:]
        assert eve == NO
        assert others == [b"250 ok"] * 3
        assert elsewhere.startswith(b"553 sorry, that domain")
        mail = (b"MAIL FROM:<>", b"RCPT TO:<eve@ok.example>")
        assert listener.session(*mail, source="127.0.0.2")[-1] == b"250 ok"
        later = b"450 sorry, mailbox currently unavailable (#4.2.1)"
        assert listener.session(*mail, source="127.0.0.3")[-1] == later
        refused = [event["by"] for event in listener.events("refused")]
    assert refused == ["recipients", "rcpthosts: not listed", "recipients"]
    # Asked about each once, and never about those of another's domain.
    asked = (boxes.path / "check.asked").read_bytes().replace(b"\0", b"").splitlines()
    assert sorted(asked) == [b"eve@ok.example ", b"eve@ok.example "] + [
        b"sue@ok.example ",
        b"sue@x.example ",
    ]


def test_a_cdb_that_is_missing_is_told_at_once(boxes: Home) -> None:
    boxes.control("recipients", "ok.example:users/none.cdb")
    check = boxes.run(b"", "--check")
    assert check.status == 1
    assert b"wrong: control/recipients: users/none.cdb: No such file or directory" in check.out
