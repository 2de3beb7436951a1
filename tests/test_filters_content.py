"""Filters that look into messages, by themselves; see transcripts/filters-content.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cdbs import make_cdb
from filters import TAKEN, build, client, logged, open_log, say

from qsmtpd.decision import Decision
from qsmtpd.facts import Client, ControlError, Envelope, Message
from qsmtpd.filters.content import NOTE
from qsmtpd.smtp.header import split_header

NO = b"554 sorry, invalid message content (#5.3.2)"
PROGRAM = b"Content-Transfer-Encoding: base64\n\nTVqQAAMAAAAEAAAA//8AALgAAAA\n"


def seen(plugins: list[Any], message: bytes, who: Client | None = None) -> list[Decision]:
    """What each of them says at the end of a message that comes line by line."""
    head, _, body = message.partition(b"\n\n")
    shown, envelope, who = Message(split_header(head + b"\n")[0]), Envelope(b"a@b"), who or client()
    for plugin in plugins:
        plugin.header(who, envelope, shown)
    for line in body.splitlines(keepends=True):
        for plugin in plugins:
            plugin.body(who, envelope, line)
    return [plugin.data_post(who, envelope, shown) for plugin in plugins]


def told(plugin: Any, message: bytes, who: Client | None = None) -> bytes:
    return say("data_post", seen([plugin], message, who)[0])


@pytest.fixture
def control(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    return tmp_path / "control"


@pytest.mark.parametrize(
    ("value", "of_a_stranger", "of_a_relay_client"),
    [("", NO, NO), ("c", NO, NO), ("!", NO, NO), ("+", NO, TAKEN), ("-", TAKEN, TAKEN)],
)
@pytest.mark.parametrize("kind", ["cdb", "text"])
def test_the_variable_of_badmimetypes(
    control: Path, kind: str, value: str, of_a_stranger: bytes, of_a_relay_client: bytes
) -> None:
    if kind == "cdb":
        make_cdb(control / "badmimetypes.cdb", {b"TVqQAAMAA": b""})
        (control / "badmimetypes").write_text("no list\n")  # the cdb counts
    else:
        (control / "badmimetypes").write_text("# ours\n\nTVqQAAMAA: programs\n")
    plugin = build("badmimetypes", control.parent, BADMIMETYPE=value)
    assert told(plugin, PROGRAM) == of_a_stranger
    assert told(plugin, PROGRAM, client(relay=b"")) == of_a_relay_client
    assert told(plugin, PROGRAM, client(user=b"joe")) == of_a_relay_client
    assert not hasattr(plugin, "immune"), "nobody, as the manual says"
    assert told(plugin, PROGRAM.replace(b"TVqQ", b"tvqq")) == TAKEN
    assert told(plugin, PROGRAM.replace(b"base64", b"7bit")) == TAKEN


@pytest.mark.parametrize(
    ("value", "of_a_stranger", "of_a_relay_client"),
    [("", NO, NO), ("V", NO, NO), ("T", TAKEN, TAKEN), ("+", NO, TAKEN), ("-", TAKEN, TAKEN)],
)
@pytest.mark.parametrize("kind", ["cdb", "text"])
def test_the_variable_of_badloadertypes(
    control: Path, kind: str, value: str, of_a_stranger: bytes, of_a_relay_client: bytes
) -> None:
    if kind == "cdb":
        make_cdb(control / "badloadertypes.cdb", {b"Tnone": b"", b"VqQAA": b"", b"toolong": b""})
    else:
        (control / "badloadertypes").write_text("VqQAA\nTnone: x\n")
    plugin = build("badloadertypes", control.parent, BADLOADERTYPE=value)
    for line in (b"TVqQAAMA", b"T\nV\n q\r\nQ-\nAAMA", b"TVqQ" * 4000 + b"VqQAA", b"A\nVqQAA\nA"):
        message = PROGRAM.replace(b"TVqQAAMA", line)
        assert told(plugin, message) == of_a_stranger, line[:20]
        assert told(plugin, message, client(relay=b"")) == of_a_relay_client
    assert told(plugin, PROGRAM.replace(b"V", b"v")) == TAKEN


def test_an_entry_has_to_be_in_one_part(control: Path) -> None:
    (control / "badloadertypes").write_text("VqQAA\n")
    plugin = build("badloadertypes", control.parent, BADLOADERTYPE="")
    part = b"--b\nContent-Transfer-Encoding: base64\n\n%b\n"
    text = b"Content-Type: multipart/mixed; boundary=b\n\n" + part % b"xxVqQ" + part % b"AAxx"
    assert told(plugin, text) == TAKEN


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"TVqQ", TAKEN), (b"TVqQ \t", TAKEN), (b"   ", TAKEN), (b"\t", TAKEN), (b"", TAKEN),
        (b" TVqQ", NO), (b"\tTVqQ", NO), (b"T VqQ", NO), (b"AAAA\tA", NO), (b"AAAA -- A", NO),
        (b"--b\nSubject: a b c\n\na b c", TAKEN),
    ],
)  # fmt: skip
def test_blanks_in_base64(control: Path, line: bytes, said: bytes) -> None:
    plugin = build("badmimetypes", control.parent, BADMIMETYPE="!")
    head = b"Content-Type: multipart/x; boundary=b\n"
    assert told(plugin, head + PROGRAM + line + b"\nAAAA\n") == said
    assert told(plugin, head + PROGRAM.replace(b"base64", b"7bit") + line + b"\nAAAA\n") == TAKEN


@pytest.mark.parametrize("text", [b"TQ==WpAAAwAAAAQA", b"TVqQ\n=\n==AAMAAAAE", b"TVo=kAADAAAABAAA",
                                  b"=TVqQA===AAMAAAAE", b"TQ==Wg==kAADAAAABAAA"])  # fmt: skip
def test_padding_within_base64(control: Path, text: bytes) -> None:
    """Some go on behind it, and some do not see it."""
    (control / "badmimetypes").write_text("TVqQAAMAA\n")
    plugin = build("badmimetypes", control.parent, BADMIMETYPE="")
    assert told(plugin, b"Content-Transfer-Encoding: base64\n\n" + text) == NO


@pytest.mark.parametrize(
    ("environ", "what"),
    [
        ({"BADMIMETYPE": "MM"}, "one character"),
        ({"BADMIMETYPE": ""}, "missing"),
        ({"BADMIMETYPE": "", "text": "TVqQAAMA"}, "line 1"),
        ({"BADLOADERTYPE": "!"}, "base64"),
        ({"BADLOADERTYPE": "M"}, "missing"),
        ({"BADMIMETYPE": "!", "CONTENTACTION": "drop"}, "none of"),
        ({"BADMIMETYPE": "!", "CONTENTBEYOND": ""}, "none of"),
    ],
)
def test_what_makes_no_sense(control: Path, environ: dict[str, str], what: str) -> None:
    environ = dict(environ)
    if text := environ.pop("text", None):
        (control / "badmimetypes").write_text(text)
    name = "badloadertypes" if "BADLOADERTYPE" in environ else "badmimetypes"
    with pytest.raises(ControlError, match=what):
        build(name, control.parent, None, **environ)


def test_a_cdb_that_is_replaced_counts(control: Path) -> None:
    plugins = []
    for name, variable, length in (
        ("badmimetypes", "BADMIMETYPE", 9),
        ("badloadertypes", "BADLOADERTYPE", 5),
    ):
        make_cdb(control / f"{name}.cdb", {b"none "[:length] * 2: b""})
        plugins.append(build(name, control.parent, None, **{variable: ""}))
        assert told(plugins[-1], PROGRAM) == TAKEN
        make_cdb(control / "new", {b"TVqQAAMAA"[:length]: b""})
        (control / "new").rename(control / f"{name}.cdb")
        assert told(plugins[-1], PROGRAM) == NO


def test_all_of_them_share_one_scanner(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (control / "badmimetypes").write_text("TVqQAAMAA\n")
    (control / "badloadertypes").write_text("VqQAA\n")
    (control / "badattachments").write_text("*.exe\n")
    plugins = [
        build("badattachments", control.parent),
        build("badmimetypes", control.parent, BADMIMETYPE="+"),
        build("badloadertypes", control.parent, BADLOADERTYPE="+"),
    ]
    from qsmtpd.smtp.mime import MimeScanner

    fed: list[bytes] = []
    feed = MimeScanner.feed

    def counted(self: MimeScanner, text: bytes) -> None:
        fed.append(text)
        feed(self, text)

    monkeypatch.setattr(MimeScanner, "feed", counted)
    message = b"Content-Type: x/y; name=a.exe\n" + PROGRAM
    assert [each.code for each in seen(plugins, message)] == [554] * 3
    assert [each.code for each in seen(plugins, message, client(relay=b""))] == [554, 0, 0]
    assert [each.code for each in seen(plugins[1:], message, client(relay=b""))] == [0, 0]
    assert len(fed) == 2, "each message once, and that of nobody not at all"


def test_nothing_is_looked_at_for_lists_that_are_empty(control: Path) -> None:
    (control / "badattachments").write_text("# none\n")
    (control / "badheaders").write_text("")
    plugin, envelope = build("badattachments", control.parent), Envelope(b"a@b")
    assert say("header", plugin.header(client(), envelope, Message([]))) == TAKEN
    assert NOTE not in envelope.notes
    plugin = build("badheaders", control.parent)
    assert say("header", plugin.header(client(), envelope, Message([(b"a", b"b")]))) == TAKEN


@pytest.mark.parametrize(
    ("environ", "found", "beyond"),
    [
        ({}, b"554", b"554"),
        ({"CONTENTBEYOND": "pass"}, b"554", b""),
        ({"CONTENTBEYOND": "mark"}, b"554", b"not checked, boundary too long"),
        ({"CONTENTACTION": "mark"}, b"a.exe", b"not checked, boundary too long"),
        ({"CONTENTACTION": "mark", "CONTENTBEYOND": "refuse"}, b"a.exe", b"554"),
        ({"CONTENTACTION": "mark", "CONTENTBEYOND": "pass"}, b"a.exe", b""),
    ],
)
def test_what_becomes_of_it(
    control: Path, tmp_path: Path, environ: dict[str, str], found: bytes, beyond: bytes
) -> None:
    (control / "badattachments").write_text("*.exe\n")
    log = tmp_path / "log"
    plugin = build("badattachments", control.parent, open_log(log), **environ)
    assert plugin.spool == any(value == "mark" for value in environ.values())
    for text, wanted, key in (
        (b"name=a.exe; boundary=" + b"b" * 257, found, "found"),
        (b"boundary=" + b"b" * 257, beyond, "beyond"),
    ):
        (decision,) = seen([plugin], b"Content-Type: x/y; " + text + b"\n\n")
        if wanted == b"554":
            assert decision.code == 554
        else:
            line = b"X-Content-Warning: badattachments: " + wanted
            assert decision.header == ((line,) if wanted else ())
        assert list(logged(log)[-1])[-1] == key


def test_a_header_that_is_too_long(control: Path) -> None:
    (control / "badattachments").write_text("*.exe\n")
    (control / "badheaders").write_text("Subject: bad\n")
    said = b"554 message cannot be checked: message header too long (#5.6.0)"
    plugin, envelope = build("badattachments", control.parent), Envelope(b"a@b")
    cut = Message([], whole_header=False)
    plugin.header(client(), envelope, cut)
    plugin.body(client(), envelope, b"x: y\n")
    assert say("data_post", plugin.data_post(client(), envelope, cut)) == said
    plugin = build("badheaders", control.parent)
    assert say("header", plugin.header(client(), envelope, cut)) == said
    for size, what in ((60_000, TAKEN), (70_000, said)):
        long = Message([(b"To", b"x" * size)])
        assert say("header", plugin.header(client(), envelope, long)) == what
    listed = Message([(b"Subject", b"bad"), (b"To", b"x" * 70_000)])
    assert say("header", plugin.header(client(), envelope, listed)).startswith(b"554 sorry")


@pytest.mark.parametrize(
    ("entries", "name", "refused"),
    [
        ("*.exe", "a.EXE", True),
        ("*.exe", "a.exe.txt", False),
        ("*.ex[ef]", "a.exf", True),
        ("re:.*\\.(exe|com)", "x.com", True),
        ("*\n!*.txt", "a.txt", False),
        ("@*", "@a", True),
        ("@a", "@a", True),
        ("\u00c9t\u00e9*", "e\u0301t\u00e9.txt", True),
        ("*.\u0435\u0445\u0435", "a.\u0415\u0425\u0415", True),
        ("*", "", False),
    ],
)
def test_names_that_are_listed(control: Path, entries: str, name: str, refused: bool) -> None:
    (control / "badattachments").write_text(entries + "\n", encoding="utf-8")
    plugin = build("badattachments", control.parent)
    message = b'Content-Type: x/y; name="%b"\n\n' % name.encode()
    assert (told(plugin, message) != TAKEN) == refused


@pytest.mark.parametrize(
    ("entries", "line", "refused"),
    [
        ("X-A: b", (b"x-a", b"B"), True),
        ("X-A: b", (b"X-A", b"\n b "), True),
        ("X-A: b", (b"X-A", b"b c"), False),
        ("*viagra*\n!Subject: *", (b"Subject", b"viagra"), False),
        ("*viagra*\n!Subject: *", (b"Keywords", b"Viagra"), True),
        ("Subject: *\u0444*", (b"Subject", b"=?koi8-r?Q?=C6?="), True),
        ("Subject: =?*", (b"Subject", b"=?koi8-r?Q?=C6?="), True),
        ("*viagra*", (b"Subject", b"=?utf-8?b?YnV5IHZ?= =?utf-8?b?pYWdyYSBub3c=?="), True),
        ("re:subject:x.*", (b"Subject", b"x"), False),
        ("re:subject:[ ]x.*", (b"Subject", b"  x"), True),
    ],
)
def test_lines_of_a_header(
    control: Path, entries: str, line: tuple[bytes, bytes], refused: bool
) -> None:
    (control / "badheaders").write_text(entries + "\n", encoding="utf-8")
    plugin = build("badheaders", control.parent)
    said = say("header", plugin.header(client(), Envelope(b"a@b"), Message([line])))
    assert (said != TAKEN) == refused
