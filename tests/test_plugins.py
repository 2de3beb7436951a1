"""Plugins in real sessions: what they are asked, what they decide, what becomes of it."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from harness import BIN, PROGRAMS, ROOT, Home, Variables, wait_for
from plugin_lines import PLUGINS, decide, label, limited
from tls_home import SERVER

MB = 1024 * 1024
JOE = b"AUTH PLAIN AGpvZQBzZWNyZXQ="


def session(*commands: bytes, to: tuple[bytes, ...] = (b"x@ok.example",)) -> bytes:
    lines = [b"EHLO c.example", *commands, b"MAIL FROM:<a@b.example>"]
    lines += [b"RCPT TO:<" + recipient + b">" for recipient in to]
    return b"\r\n".join([*lines, b"DATA", b""])


MESSAGE = b"Subject: x\r\nFrom: me\r\n\r\nhello\r\n.\r\n"
WHOLE = session() + MESSAGE + b"NOOP\r\nQUIT\r\n"


# -- the stages --------------------------------------------------------------


def test_every_stage_in_its_order(home: Home) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    home.control("plugins", f"{PLUGINS}/record.py")
    arguments = (str(PROGRAMS / "checker"), "true")
    with home.talk(*arguments, SMTPAUTH="", SEEN=str(home.path / "seen")) as talk:
        talk.reply()
        talk.ask(b"EHLO one.example")
        assert b"250 XLIMIT 5\r\n" in talk.said
        talk.starttls()
        talk.ask(b"EHLO two.example")
        assert talk.ask(JOE).startswith(b"235 ")
        talk.ask(b"MAIL FROM:<a@b.example> SIZE=9 BODY=8BITMIME")
        talk.ask(b"RCPT TO:<c@d.example>")
        talk.ask(b"DATA")
        assert talk.ask(b"Subject: x\r\n\r\nhello\r\n.").startswith(b"250 ok ")
        assert talk.ask(b"XWHAT 1") == b"502 unimplemented (#5.5.1)"
        assert talk.ask(b"xNote a  b") == b"250 all of it"
        talk.ask(b"MAIL FROM:<>")
        assert talk.ask(b"RSET") == b"250 flushed"
        talk.ask(b"QUIT")
        run = talk.ended()
    found = run.events("plugin")
    assert all(line["plugin"] == "record" for line in found)
    asked = [line["hook"] + "=" + line.get("about", "") for line in found]
    assert asked == [
        "connect=", "helo=one.example", "capabilities=", "ok=helo",
        "disconnect=", "ok=starttls", "starttls=TLSv1.3",
        "helo=two.example", "capabilities=", "ok=helo",
        "auth=joe PLAIN", "ok=auth",
        "mail=a@b.example", "ok=mail", "rcpt=c@d.example", "ok=rcpt", "data=c@d.example",
        "queue=", "header=Subject", "body=hello\n", "data_post=Subject: x\n\nhello\n",
        "queue_pre=c@d.example", "ok=queue", "reset=",
        "unknown=XWHAT 1", "deny=unknown", "command_xnote=a  b",
        "mail=", "ok=mail", "reset=", "disconnect=",
    ]  # fmt: skip
    # Nothing learnt in plain text survives STARTTLS, nor what the plugin has noted.
    first, second = found[:5], found[5:]
    assert [line["note"] for line in first] == ["1", "2", "3", "4", "5"]
    assert [line["note"] for line in second] == [str(n + 1) for n in range(len(second))]
    assert [(line["tls"], line["esmtp"]) for line in second[:2]] == [("yes", "no")] * 2
    assert "helo" not in second[0]
    after = found[asked.index("ok=auth") :]
    assert all((line["user"], line["relay"]) == ("joe", "") for line in after)
    assert not any("user" in line for line in found[: asked.index("ok=auth")])
    by = {line["hook"] + line["about"]: line for line in found if "about" in line}
    assert by["mail" + "a@b.example"]["parameters"] == "BODY,SIZE"
    assert by["okrcpt"]["by"] == "relay"
    assert by["okqueue"]["by"] == ""
    assert re.fullmatch(r"250 ok \d+ qp \d+", by["okqueue"]["reply"])
    assert found[-1]["messages"] == "1"


def test_the_back_end_has_the_last_word_to_observers(home: Home) -> None:
    home.control("plugins", f"{PLUGINS}/record.py")
    run = home.run(WHOLE, QMAILQUEUE=home.script("exit 31"))
    (denied,) = [line for line in run.events("plugin") if line["hook"] == "deny"]
    asked = [line["hook"] for line in run.events("plugin")]
    assert asked[-5:] == ["queue_pre", "queue_failed", "deny", "reset", "disconnect"]
    assert denied["about"] == "queue"
    assert denied["reply"] == "554 mail server permanently rejected message (#5.3.0)"


# -- decisions; see also transcripts/plugins-decisions.txt ------------------

#: stage: (where it is heard, the code of a reject, of a defer)
HEARD = {
    "connect": (0, 554, 421),
    "helo": (1, 550, 450),
    "mail": (2, 550, 451),
    "rcpt": (3, 550, 451),
    "data": (4, 554, 451),
    "header": (5, 554, 451),
    "data_post": (5, 554, 451),
    "queue_pre": (5, 554, 451),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", HEARD)
def test_refusals(home: Home, stage: str) -> None:
    place, for_good, for_now = HEARD[stage]
    usual = [220, 250, 250, 250, 354, 250, 250, 221]
    body = session() + (MESSAGE if place == 5 else b"") + b"NOOP\r\nQUIT\r\n"
    for verdict, code in (("reject", for_good), ("defer", for_now), ("drop", 421)):
        home.control("plugins", decide(at=stage, say=verdict, text="not%20you"))
        run = home.run(body)
        status = "5.7.1" if code >= 500 else "4.7.1"
        reply = f"{code} not you (#{status})".encode()
        assert reply in run.lines
        last = verdict == "drop" or stage == "connect"
        # A refused HELO is said again at RCPT, with the code that is usual there.
        again = 550 if code >= 500 else 451
        after = {1: [250, again, 503], 2: [503, 503], 3: [503]}.get(place, [])
        assert run.codes == usual[:place] + [code] + ([] if last else [*after, 250, 221])
        assert home.messages() == []
        assert run.event("session")["end"] == ("dropped-by-decide" if last else "quit")
        assert "by=decide" in run.log or "dropped-by-decide" in run.log


def test_without_a_back_end_nothing_is_taken(home: Home) -> None:
    assert home.run(WHOLE, QSMTPD_PLUGINS="-qmailqueue").codes[4] == 451
    assert home.messages() == []


def test_a_file_named_like_a_rule_does_not_grant(home: Home) -> None:
    (home.path / "relay.py").write_text((PLUGINS / "decide.py").read_text())
    home.control("plugins", f"{home.path}/relay.py:mine at=rcpt say=accept")
    run = home.run(b"MAIL FROM:<a@b>\r\nRCPT TO:<x@elsewhere>\r\nQUIT\r\n")
    assert run.codes == [220, 250, 553, 221]


# -- postponed ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt"])
@pytest.mark.parametrize("when", ["rcpt", "data"])
@pytest.mark.parametrize("by", ["option", "file", "variable"])
def test_postponed(home: Home, stage: str, when: str, by: str) -> None:
    more = {"postpone": when} if by == "option" else {}
    home.control("plugins", decide(at=stage, say="reject", text="not%20you", **more))
    if by == "file":
        home.control("postpone", when)
    environ: Variables = {"POSTPONE": when} if by == "variable" else {}
    run = home.run(session() + b"NOOP\r\nQUIT\r\n", **environ)
    refusal = 550 if when == "rcpt" else 554
    codes = [220, 250, 250, refusal, 503] if when == "rcpt" else [220, 250, 250, 250, refusal]
    assert run.codes == [*codes, 250, 221]
    assert run.events("refused" if when == "rcpt" else "message")[0]["by"] == "decide"
    assert home.messages() == []


# -- what decisions carry ----------------------------------------------------


def test_header_lines(home: Home) -> None:
    stages = ["connect", "helo", "mail", "rcpt", "data", "header"]
    home.control(
        "plugins",
        *(label(decide(at=s, header=f"X-At:%20{s}|X-Two:%20{s}%0a%20b"), s) for s in stages),
    )
    text = WHOLE.replace(b"NOOP\r\n", session()[16:] + MESSAGE)
    assert home.run(text).codes[-1] == 221
    for message in home.messages():
        added = "".join(f"X-At: {stage}\nX-Two: {stage}\n b\n" for stage in stages)
        received, rest = message.text.split(b"\nX-At: ", 1)
        assert received.startswith(b"Received: ")
        assert received.count(b"\n") == 1
        assert b"X-At: " + rest == added.encode() + b"Subject: x\nFrom: me\n\nhello\n"
    assert len(home.messages()) == 2


@pytest.mark.parametrize("spooled", [False, True])
def test_header_lines_above_and_below_received(home: Home, spooled: bool) -> None:
    home.control(
        "plugins",
        decide(at="mail", header="X-Below:%201", above="X-Above:%20a%0a%20b|X-Above:%20c"),
        *([f"{PLUGINS}/look.py spool=yes"] if spooled else []),
    )
    assert home.run(session() + MESSAGE + b"QUIT\r\n").codes[-2:] == [250, 221]
    (message,) = home.messages()
    above, received, rest = message.text.partition(b"Received: ")
    assert above == b"X-Above: a\n b\nX-Above: c\n"
    lines = rest.split(b"\n")
    assert (lines[1][:5], lines[2]) == (b"  by ", b"X-Below: 1")


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.slow
def test_header_fields_are_removed_from_a_header_without_an_end(
    home: Home, spooled: bool, verb: str
) -> None:
    """More of it than plugins are shown; and more of them than are logged one by one."""
    lines = [b"A: b", b"X-Note: 1", b"x-note:\r\n 2"] * 15000
    text = b"\r\n".join([*lines, b"", b"X-Note: body", b""])
    home.control(
        "plugins",
        decide(at="header", remove="x-note"),
        f"{PLUGINS}/look.py spool={'yes' if spooled else 'no'}",
    )
    way = b"DATA\r\n" + text + b".\r\n" if verb == "DATA" else b"BDAT %d LAST\r\n" % len(text)
    way += text if verb == "BDAT" else b""
    run = home.run(session().removesuffix(b"DATA\r\n") + way + b"QUIT\r\n")
    assert run.codes[-2:] == [250, 221]
    (message,) = home.messages()
    kept = b"A: b\n" * 15000 + b"\nX-Note: body\n"
    assert message.text.partition(b"A: b\n")[2] == kept.removeprefix(b"A: b\n")
    *first, rest, looked = run.events("plugin")[1:]
    assert [line["removed"] for line in first] == ["X-Note", "x-note"] * 10
    assert rest["removed"] == str(30000 - 20)
    assert int(looked["spooled"]) == (len(kept) if spooled else 0)


@pytest.mark.parametrize("long", [False, True])
def test_who_cannot_say_whether_a_field_is_to_go(home: Home, long: bool) -> None:
    home.control("plugins", f"{PLUGINS}/broken_test.py")
    text = (b"A: b\r\n" * 60000 if long else b"") + b"X-Note: 1\r\n" + MESSAGE
    run = home.run(session() + text + b"QUIT\r\n")
    assert run.lines[-2:] == [b"451 policy trouble, try again later (#4.3.0)", b"221 mx.example"]
    assert run.event("trouble")["error"] == "RuntimeError"
    assert home.messages() == []


@pytest.mark.parametrize("place", ["header", "above"])
@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "X: a%0dY:%20b", "X: a%0a%0abody", "X: a%0aY: b", "X: a%00", "no colon", ":no name",
        "X Y: a", "X%ff: a", "X: a%0a%20", "%20X: a", "%0aX: a", "X: a%0a", "Xé: a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["rcpt", "header"])
def test_header_lines_that_would_break_it(home: Home, line: str, stage: str, place: str) -> None:
    home.control("plugins", decide(at=stage, **{place: line.replace(" ", "%20")}))
    run = home.run(WHOLE if stage == "header" else session() + b"QUIT\r\n")
    assert run.lines.count(b"451 policy trouble, try again later (#4.3.0)") == 1
    assert run.event("trouble")["error"] == "ValueError"
    assert home.messages() == []


def test_a_refusal_at_the_header_ends_the_queue_program_and_is_said_at_the_end(home: Home) -> None:
    home.control("plugins", decide(at="header", say="reject", text="no"))
    over = home.path / "over"
    queue = home.script(f"cat >{home.path}/got; cat <&1 >{home.path}/envelope; : >{over}\n")
    talk = home.talk(QMAILQUEUE=queue)
    talk.reply()
    talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA")
    talk.send_each(b"Subject: x\r\n\r\nsecret\r\n")
    wait_for(over.exists)  # while the body is still arriving
    for _ in range(100):
        talk.send(b"more\r\n" * 1000)
    assert talk.ask(b".") == b"554 no (#5.7.1)"
    assert talk.ask(b"NOOP") == b"250 ok"
    talk.end()
    assert (home.path / "got").read_bytes() == b""
    assert (home.path / "envelope").read_bytes() == b""


def test_nothing_is_written_to_the_queue_before_all_have_agreed(home: Home) -> None:
    """Not the first byte, where one plugin wants the spooled message."""
    home.control("plugins", decide(at="data_post", say="reject", text="no", spool="yes"))
    queue = home.script(f"cat >{home.path}/got; cat <&1 >{home.path}/envelope\n")
    assert home.run(WHOLE, QMAILQUEUE=queue).codes[5] == 554
    assert (home.path / "got").read_bytes() == b""
    assert (home.path / "envelope").read_bytes() == b""


# -- what plugins see of a message -------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dribble", [False, True])
@pytest.mark.parametrize("spool", ["no", "yes"])
@pytest.mark.parametrize(
    "message",
    [
        b"", b"\n", b"\n\n", b"body\n", b"\nbody\n", b"A: b\n", b"A: b\n\n", b"A: b\n\nbody\n",
        b"A: b\nno header\nmore\n\nbody\n", b"From x\nA: b\n\nbody\n", b"A: b\n folded\n\n\n\nx\n",
    ],
)  # fmt: skip
def test_every_byte_is_seen(home: Home, message: bytes, spool: str, dribble: bool) -> None:
    """What is no header is body, up to the empty line and from there on."""
    home.control("plugins", f"{PLUGINS}/look.py spool={spool}")
    sent = message.replace(b"\n", b"\r\n") + b".\r\n"
    run = home.run(session() + sent + b"QUIT\r\n", dribble=dribble)
    (stored,) = home.messages()
    body = re.sub(rb"\A(From .*\n)?((\w+:.*\n([ \t].*\n)*)*)(\n?)", b"", message)
    seen = run.event("plugin")
    assert int(seen["seen"]) == len(body)
    assert stored.body == (b"X-Seen: %d\n" % len(body)) * (spool == "yes") + message
    assert int(seen["spooled"]) == len(message) * (spool == "yes")


@pytest.mark.sample(3)
@pytest.mark.parametrize("size", [255, 256, 257, 300, 400])
def test_no_byte_of_a_header_without_end_is_unseen(home: Home, size: int) -> None:
    home.control("plugins", f"{PLUGINS}/look.py")
    line = b"X-A: " + b"y" * 1018 + b"\n"  # 1 KB
    message = line * size + b"\nbody\n"
    sent = message.replace(b"\n", b"\r\n") + b".\r\n"
    run = home.run([session(), sent, b"QUIT\r\n"])
    assert home.messages()[0].body == message
    shown = int(run.event("plugin")["seen"])
    assert shown in (5, 6 + max(0, size - 256) * 1024), size


# -- memory and space --------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("spool", ["no", "yes"])
def test_100_mb_in_flat_memory(home: Home, spool: str) -> None:
    home.control("plugins", f"{PLUGINS}/look.py spool={spool}")
    count = home.script(f"wc -c >{home.path}/count; cat <&1 >/dev/null\n")
    talk = home.talk(QMAILQUEUE=count)
    talk.reply()

    def deliver(megabytes: int) -> int:
        assert talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA") == b"354 go ahead"
        talk.send(b"Subject: x\r\n\r\n")
        for _ in range(megabytes):
            talk.send((b"x" * 62 + b"\r\n") * (MB // 64))
        assert talk.ask(b".").startswith(b"250 ok ")
        return talk.peak_memory()

    first = deliver(1)
    assert deliver(100) - first < 2 * MB
    assert int((home.path / "count").read_text()) > 98 * MB
    run = talk.end()
    seen = run.events("plugin")[-1]
    assert int(seen["seen"]) == 100 * MB * 63 // 64
    assert int(seen["spooled"]) == (int(seen["size"]) if spool == "yes" else 0)


def test_a_disk_that_is_full(home: Home) -> None:
    """451, nothing queued, no descriptor lost, and the next message passes."""
    home.control("plugins", f"{PLUGINS}/look.py spool=yes")
    # ulimit -f is in 512-byte blocks in some shells, and in KB in others.
    limited = home.script('ulimit -f 200 && exec "$QSMTPD"')
    talk = home.launch([limited], {**home.environ, "QSMTPD": str(BIN / "qsmtpd")})
    talk.reply()
    big, small = b"Subject: x\r\n\r\n" + b"x" * MB + b"\r\n", b"\r\nhello\r\n"
    before = None
    for _ in range(3):
        assert talk.deliver(big) == b"451 trouble with the spool (#4.3.0)"
        assert talk.deliver(small).startswith(b"250 ok ")
        now = talk.descriptors()
        assert before is None or now.keys() == before.keys()
        before = now
    run = talk.end()
    assert {line["error"] for line in run.events("trouble")} == {"OSError"}
    assert not any("by" in line for line in run.events("message"))  # no plugin has refused it
    assert len(home.messages()) == 3


def test_each_plugin_has_the_file_at_its_beginning(home: Home) -> None:
    home.control(
        "plugins", f"{PLUGINS}/look.py spool=yes", "builtins", f"{PLUGINS}/look.py:again spool=yes"
    )
    program = home.script("cat >/dev/null\n")  # it reads the same file
    run = home.run(WHOLE, MESSAGECHECK=program)
    assert run.codes[5] == 250
    seen = [int(event["spooled"]) for event in run.events("plugin") if "spooled" in event]
    assert seen == [len(MESSAGE.replace(b"\r\n", b"\n")) - 2] * 2


def test_a_plugin_that_closes_the_file(home: Home) -> None:
    """It is that plugin's fault, not of those behind it; and the next message passes."""
    home.plugin(
        "closes",
        """
        from qsmtpd.decision import DECLINED

        class Plugin:
            spool = True

            def __init__(self, settings):
                pass

            def data_post(self, client, envelope, message):
                if message.values(b"Subject") == [b"close"]:
                    message.file.close()
                return DECLINED
        """,
    )
    home.control("plugins", "closes", f"{PLUGINS}/look.py spool=yes")
    talk = home.talk()
    talk.reply()
    said = talk.deliver(b"Subject: close\r\n\r\nx\r\n")
    assert said == b"451 policy trouble, try again later (#4.3.0)"
    assert talk.deliver(b"Subject: x\r\n\r\nx\r\n").startswith(b"250 ok ")
    run = talk.end()
    (trouble,) = run.events("trouble")
    assert (trouble["plugin"], trouble["hook"]) == ("closes", "data_post")
    assert len(home.messages()) == 1


def test_no_place_for_the_spool(home: Home) -> None:
    """It is known before 354, and the session goes on."""
    home.control("plugins", f"{PLUGINS}/look.py spool=yes")
    run = home.run(session() + b"NOOP\r\nQUIT\r\n", TMPDIR="/nonexistent")
    assert run.lines[-3:] == [
        b"451 trouble with the spool (#4.3.0)",
        b"250 ok",
        b"221 mx.example",
    ]
    assert run.event("trouble")["error"] == "FileNotFoundError"
    assert "by" not in run.event("message")


# -- back ends ---------------------------------------------------------------


def folder(home: Home, how: str | None = None, more: str = "") -> Path:
    """Another back end: a folder."""
    path = home.path / "folder"
    for name in ("tmp", "new"):
        (path / name).mkdir(parents=True, exist_ok=True)
    extra = "" if how is None else f" how={how}"
    home.control("plugins", f"{PLUGINS}/folder.py folder={path}{extra}{more}")
    return path


def test_another_back_end(home: Home) -> None:
    """The same bytes and the same envelope that a queue program gets; and no program runs."""
    path = folder(home)
    body = bytes(range(14, 256)) * 4000 + b"\r\n..dots\r\n"
    text = b"Subject: x\r\n\r\n" + body
    pieces = session(to=(b"x@ok.example", b"y@a.sub.example")) + text + b".\r\nQUIT\r\n"
    run = home.run(pieces, QMAILQUEUE="/nonexistent")
    assert run.codes == [220, 250, 250, 250, 250, 354, 250, 221]
    (stored,) = [p for p in (path / "new").iterdir() if p.suffix != ".envelope"]
    sent = text.replace(b"\r\n", b"\n").replace(b"\n..", b"\n.")
    assert stored.read_bytes().split(b"\n", 2)[2] == sent
    assert zlib.crc32(stored.read_bytes().split(b"\n", 2)[2]) == zlib.crc32(sent)
    envelope = stored.with_name(stored.name + ".envelope").read_bytes()
    assert envelope == b"Fa@b.example\0Tx@ok.example\0Ty@a.sub.example\0"
    assert re.search(rb"250 ok \d+ qp \d+\r\n", run.out)
    assert list((path / "tmp").iterdir()) == []


@pytest.mark.sample(4)
@pytest.mark.parametrize("spool", [False, True])
@pytest.mark.parametrize(
    ("how", "reply"),
    [
        ("raise-in-feed", b"451 policy trouble, try again later (#4.3.0)"),
        ("raise-in-commit", b"451 policy trouble, try again later (#4.3.0)"),
        ("nonsense", b"451 policy trouble, try again later (#4.3.0)"),
        ("none", b"451 policy trouble, try again later (#4.3.0)"),
        ("text", b"451 policy trouble, try again later (#4.3.0)"),
        ("refuse", b"451 no room??250 ok (#4.2.2)"),
        ("refuse-for-good", b"554 never (#5.2.2)"),
    ],
)
def test_a_back_end_that_fails(home: Home, how: str, reply: bytes, spool: bool) -> None:
    path = folder(home, how)
    if spool:
        with (home.control_dir / "plugins").open("a") as stream:
            stream.write(f"{PLUGINS}/look.py spool=yes\n")
    run = home.run(WHOLE.replace(b"NOOP", b"RSET"))
    assert run.lines[-3:] == [reply, b"250 flushed", b"221 mx.example"]
    assert list((path / "new").iterdir()) == list((path / "tmp").iterdir()) == []
    assert home.messages() == []
    assert run.event("message")["verdict"] == "refused"
    ambiguous = how in ("raise-in-commit", "nonsense", "none", "text")
    assert ("ambiguous" in run.event("message")) == ambiguous


@pytest.mark.parametrize("how", ["pid", "no-commit"])
def test_what_is_no_back_end(home: Home, how: str) -> None:
    """That is known before 354."""
    path = folder(home, how)
    run = home.run(session() + b"NOOP\r\nQUIT\r\n")
    assert run.codes == [220, 250, 250, 250, 451, 250, 221]
    assert run.event("trouble")["plugin"] == "folder"
    assert list((path / "new").iterdir()) == []


@pytest.mark.slow
def test_back_ends_that_take_too_long(home: Home) -> None:
    """They have the plugin's time, and are then ended like every other plugin."""
    talks = {}
    for how in ("doze-in-feed", "doze-in-commit", "doze-in-abort", "swallow-in-commit"):
        folder(home, how, " timeout=1")
        talks[how] = home.launch(limited("queue", how), home.environ)
        talks[how].reply()  # by then it has read its control files
    for talk in talks.values():
        talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA")
        talk.send(MESSAGE)
    for how, talk in talks.items():
        reply = talk.reply()
        if how == "doze-in-abort":
            assert reply.startswith(b"250 ok ")  # it had been committed
        elif how == "swallow-in-commit":
            assert reply == b"421 policy trouble, try again later (#4.3.0)"
        else:
            assert reply == b"451 policy trouble, try again later (#4.3.0)"
            assert talk.ask(b"NOOP") == b"250 ok"
        run = talk.end()
        assert {line["hook"] for line in run.events("trouble")} == {"queue"}
    assert len(list((home.path / "folder" / "new").iterdir())) == 2  # a message and its envelope


def test_the_client_goes_while_another_back_end_has_half(home: Home) -> None:
    path = folder(home)
    talk = home.talk()
    talk.reply()
    talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA")
    talk.send_each(b"Subject: x\r\n\r\nhalf")
    talk.hang_up()
    assert list((path / "new").iterdir()) == list((path / "tmp").iterdir()) == []


# -- choosing plugins --------------------------------------------------------


def hooks(home: Home, **environ: Any) -> dict[str, list[str]]:
    """What --hooks shows: stage -> names."""
    run = home.run(b"", "--hooks", **environ)
    assert run.status == 0, run.log
    shown: dict[str, list[str]] = {}
    for line in run.out.decode().splitlines():
        stage, name = line.split()[:2]
        shown.setdefault(stage, []).append(name)
    return shown


def test_the_order_is_that_of_the_lines(home: Home) -> None:
    line = f"{PLUGINS}/decide.py"
    home.control("badmailfrom", "x@y")
    home.control("more", "# more", "", f"{line}:three at=rcpt")
    home.control(
        "plugins",
        "# a comment",
        "",
        f"{line}:one at=rcpt timeout=5\t postpone=data",
        "include more",
        "rcpthosts",
        "builtins",
        f"{line}:two at=rcpt immune=relay,auth  ",
    )
    ours = ["rcpthosts", "badmailfrom", "relay"]
    names = ["decide:one", "decide:three", *ours, "decide:two"]
    assert hooks(home)["rcpt"] == names
    shown = home.run(b"", "--hooks").out.decode()
    assert re.search(r"(?m)^rcpt +decide:one +answers at data; 5 s$", shown)
    assert re.search(r"(?m)^rcpt +decide:two +not for: relay, auth; 30 s$", shown)
    assert re.search(r"(?m)^rcpt +rcpthosts +grants$", shown)
    assert hooks(home, QSMTPD_PLUGINS="-decide:one,-badmailfrom,-relay")["rcpt"] == [
        "decide:three",
        "rcpthosts",
        "decide:two",
    ]
    more = f"{line}:four at=rcpt, {line}:five at=rcpt"
    assert hooks(home, QSMTPD_PLUGINS=more)["rcpt"] == [*names, "decide:four", "decide:five"]
    assert hooks(home, QSMTPD_PLUGINS="")["rcpt"] == names


def test_a_filter_is_on_when_its_file_or_variable_is_there(home: Home) -> None:
    assert hooks(home) == {"rcpt": ["relay", "rcpthosts"], "queue": ["qmailqueue"]}
    home.control("badmailfrom", "x@y")
    assert hooks(home)["rcpt"] == ["badmailfrom", "relay", "rcpthosts"]


@pytest.mark.slow
def test_a_package_brings_plugins(home: Home, tmp_path: Path) -> None:
    """Installed by pip into the environment of the Python that runs qsmtpd."""
    source = tmp_path / "source"
    (source / "mailtools").mkdir(parents=True)
    (source / "mailtools" / "__init__.py").write_text("")
    (source / "mailtools" / "refuse.py").write_text((PLUGINS / "decide.py").read_text())
    (source / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='mailtools', packages=['mailtools'])\n"
    )
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", venv], check=True)
    packages = next((venv / "lib").glob("python*/site-packages"))
    # What pip does in the end, without asking any index for a build tool.
    (packages / "mailtools").symlink_to(source / "mailtools")
    launcher = tmp_path / "qsmtpd"
    launcher.write_text(
        f'#!/bin/sh\nexec {venv}/bin/python3 -IS {ROOT}/qsmtpd/start/__main__.py qsmtpd.main "$@"\n'
    )
    launcher.chmod(0o755)
    home.control("plugins", "mailtools.refuse at=rcpt say=reject text=packaged")
    run = home.run(session() + b"QUIT\r\n", program=str(launcher))
    assert run.lines[-3] == b"550 packaged (#5.7.1)"
    assert run.events("refused")[0]["by"] == "mailtools.refuse"


BROKEN: dict[str, tuple[list[str | bytes], str]] = {
    "missing": (["nonesuch"], "plugins/nonesuch.py"),
    "missing path": (["/nonexistent/x.py"], "/nonexistent/x.py"),
    "missing module": (["nonesuch.module"], "nonesuch"),
    "twice": ([f"{PLUGINS}/look.py", f"{PLUGINS}/look.py"], "look is there twice"),
    "option": ([f"{PLUGINS}/look.py limit=3"], "look knows no option limit"),
    "no option": ([f"{PLUGINS}/look.py limit"], "is no option"),
    "option twice": ([f"{PLUGINS}/look.py spool=a spool=b"], "is one option too many"),
    "timeout": ([f"{PLUGINS}/look.py timeout=0"], "timeout"),
    "timeout text": ([f"{PLUGINS}/look.py timeout=1e3"], "timeout"),
    "immune": ([f"{PLUGINS}/look.py immune=everybody"], "immune"),
    "postpone": ([f"{PLUGINS}/look.py postpone=never"], "postpone"),
    "include": (["include nonesuch"], "control/nonesuch, which is missing"),
    "include itself": (["include plugins"], "control/plugins"),
    "no name": (["=x"], "=x"),
    "bytes": ([b"\xff"], "has no plugin's name in"),
    "builtin option": (["rcpthosts nonsense=1"], "rcpthosts knows no option nonsense"),
    "syntax": (["mine"], "SyntaxError"),
    "hookless": (["mine"], "has no hook"),
    "public": (["mine"], "has a public helper, which is no hook"),
    "command": (["mine"], "data is a command of qsmtpd's own"),
    "upper case": (["mine"], "lower case"),
    "immune is nonsense": (["mine"], "TypeError"),
    "class raises": (["mine"], "KeyError"),
    "no init": (["mine"], "mine: class Plugin has to have __init__(self, settings)"),
    "init without settings": (["mine"], "has to have __init__(self, settings)"),
    "init with more": (["mine"], "has to have __init__(self, settings)"),
    "keyword": (["mine"], "rcpt has to take client, envelope, recipient"),
    "generator": (["mine"], "rcpt is a generator or coroutine: a call would not run it"),
    "coroutine": (["mine"], "body is a generator or coroutine: a call would not run it"),
    "exits": (["mine"], "SystemExit"),
    "writable": (["mine"], "writable by everybody"),
}
SOURCES = {
    "syntax": "def x(:\n",
    "hookless": "x = 1\n",
    "public": "def rcpt(c, e, r): ...\ndef helper(): ...\n",
    "command": "def command_data(c, a): ...\n",
    "upper case": "def command_XFOO(c, a): ...\n",
    "immune is nonsense": "class Plugin:\n    immune = 5\n"
    "    def __init__(self, s): ...\n    def rcpt(self, c, e, r): ...\n",
    "class raises": "class Plugin:\n    def __init__(self, s): raise KeyError(1)\n",
    "no init": "class Plugin:\n    def rcpt(self, c, e, r): ...\n",
    "init without settings": "class Plugin:\n    def __init__(self): ...\n"
    "    def rcpt(self, c, e, r): ...\n",
    "init with more": "class Plugin:\n    def __init__(self, s, more): ...\n"
    "    def rcpt(self, c, e, r): ...\n",
    "keyword": "def rcpt(c, e, r, *, more): ...\n",
    "generator": "def rcpt(c, e, r): yield\n",
    "coroutine": "async def body(c, e, chunk): ...\n",
    "exits": "raise SystemExit(0)\n",
    "writable": "def rcpt(c, e, r): ...\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BROKEN)
def test_broken(home: Home, what: str) -> None:
    """421 to everybody, a line in the log, and --check and --hooks say the same."""
    lines, why = BROKEN[what]
    home.control("plugins", *lines)
    if what in SOURCES:
        home.plugin("mine", SOURCES[what]).chmod(0o666 if what == "writable" else 0o644)
    run = home.run(WHOLE)
    assert run.lines == [b"421 unable to read controls (#4.3.0)"]
    event = run.event("control")
    assert why in event["name"] + ": " + event["reason"]
    checked = home.run(b"", "--check")
    assert checked.status == 1
    assert any(
        line.startswith("wrong: ") and why in line for line in checked.out.decode().splitlines()
    ), checked.out
    assert home.run(b"", "--hooks").status == 111


def test_broken_by_the_environment(home: Home) -> None:
    for words in ("-nonesuch", "nonesuch", "include plugins", "look limit", "relay"):
        run = home.run(b"QUIT\r\n", QSMTPD_PLUGINS=words)
        if words == "relay":  # it is on already, and this gives it its place
            assert run.codes == [220, 221]
        else:
            assert run.lines == [b"421 unable to read controls (#4.3.0)"], words


def test_two_instances_have_settings_and_notes_of_their_own(home: Home) -> None:
    home.control(
        "plugins",
        label(decide(at="rcpt", say="reject", text="one", of="one@ok.example"), "one"),
        label(decide(at="rcpt", say="defer", text="two", of="two@ok.example"), "two"),
    )
    run = home.run(
        b"MAIL FROM:<>\r\nRCPT TO:<one@ok.example>\r\nRCPT TO:<two@ok.example>\r\n"
        b"RCPT TO:<three@ok.example>\r\nQUIT\r\n"
    )
    assert run.codes == [220, 250, 550, 451, 250, 221]
    assert [line["by"] for line in run.events("refused")] == ["decide:one", "decide:two"]


def test_what_is_not_configured_is_not_imported(home: Home) -> None:
    wrapper = (
        "import sys, posix; sys.path.insert(0, sys.argv[1])\n"
        "exit = posix._exit\n"
        "def leave(status): posix.write(2, ' '.join(sys.modules).encode()); exit(status)\n"
        "posix._exit = leave\n"
        "from qsmtpd import main; main.main([])"
    )

    def modules() -> set[str]:
        done = subprocess.run(
            [BIN / "python3", "-IS", "-c", wrapper, str(ROOT)],
            input=WHOLE,
            capture_output=True,
            env=home.environ,
            check=True,
        )
        return set(done.stderr.decode().splitlines()[-1].split())

    packages = ("qsmtpd.policy.", "qsmtpd.filters.")
    ours = {name for name in modules() if name.startswith(packages)}
    assert ours == {
        *(f"qsmtpd.policy.{name}" for name in ("hooks", "load", "spec", "stages")),
        *(f"qsmtpd.filters.{name}" for name in ("qmailqueue", "rcpthosts", "relay")),
    }
    home.control("plugins", decide(at="rcpt"))
    more = {name for name in modules() if name.startswith("qsmtpd")} - ours
    assert "qsmtpd.policy.external" in more
    assert "qsmtpd.session.inspection" not in more
    assert "qsmtpd.policy.backend" not in more
