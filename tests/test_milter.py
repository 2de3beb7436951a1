"""The filter milter in whole sessions, with a milter that a test has scripted."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from client import PATIENCE
from daemons import Line
from harness import Home, wait_for
from listeners import Server
from milters import Answer, ScriptedMilter, header, packet, raw
from run import Run
from tls_home import SERVER

pytestmark = pytest.mark.slow

BEGIN = b"EHLO c.example\r\nMAIL FROM:<a@b.example> SIZE=9\r\nRCPT TO:<x@ok.example>\r\n"
MESSAGE = b"DATA\r\nSubject: one\r\nX-Long: a\r\n b\r\nSubject:two\r\n\r\nhello\r\n..\r\n.\r\n"
TEXT = b"Subject: one\nX-Long: a\n b\nSubject:two\n\nhello\n.\n"
MAIL = BEGIN.partition(b"\r\n")[2]


def send(
    home: Home, *milters: ScriptedMilter, said: bytes = BEGIN + MESSAGE, **environ: Any
) -> Run:
    home.control("milters", *(f"{one.address} name=m{n}" for n, one in enumerate(milters, 1)))
    return home.run(said + b"QUIT\r\n", **environ)


def test_all_commands_in_their_order(home: Home) -> None:
    with ScriptedMilter() as milter:
        run = send(home, milter, said=BEGIN + b"XWHAT a\r\n" + MESSAGE)
    assert run.codes == [220, 250, 250, 250, 502, 354, 250, 221]
    assert milter.commands() == "OCHMRUTLLLNBEQ"
    version, actions, steps = milter.offered
    assert (version, actions) == (6, 0x1FF)
    assert steps == 0x1FFFFF & ~0x800
    assert milter.told(b"C") == [b"client.example\0" + b"4" + b"\0\0" + b"192.0.2.1\0"]
    assert milter.told(b"H") == [b"c.example\0"]
    assert milter.told(b"M") == [b"<a@b.example>\0SIZE=9\0"]
    assert milter.told(b"R") == [b"<x@ok.example>\0"]
    assert milter.told(b"U") == [b"XWHAT a\0"]
    assert milter.told(b"L") == [b"Subject\0one\0", b"X-Long\0a\n b\0", b"Subject\0two\0"]
    assert milter.told(b"B") == [b"hello\r\n.\r\n"]
    (message,) = home.messages()
    assert message.body == TEXT
    assert milter.connections == 1


def test_macros(home: Home) -> None:
    """Their names, and values, are Postfix's; `i` is unique per transaction."""
    with ScriptedMilter() as milter:
        send(home, milter, said=BEGIN + MESSAGE + MAIL + MESSAGE, TCPREMOTEPORT="4025")
    (connect,) = milter.macros(b"C")
    assert connect.pop(b"v").startswith(b"qsmtpd ")
    assert connect == {
        b"j": b"mx.example",
        b"{daemon_name}": b"mx.example",
        b"{daemon_addr}": b"192.0.2.9",
        b"_": b"client.example [192.0.2.1]",
        b"{client_addr}": b"192.0.2.1",
        b"{client_name}": b"client.example",
        b"{client_port}": b"4025",
        b"{client_ptr}": b"client.example",
    }
    assert milter.told(b"C") == [b"client.example\x004\x0f\xb9192.0.2.1\0"]
    assert milter.macros(b"H") == []
    mail, second = milter.macros(b"M")
    assert mail[b"i"] != second[b"i"]
    assert mail == {
        b"i": mail[b"i"],
        b"{mail_addr}": b"a@b.example",
        b"{mail_host}": b"b.example",
        b"{mail_mailer}": b"smtp",
    }
    assert milter.macros(b"R")[0] == {
        b"i": mail[b"i"],
        b"{rcpt_addr}": b"x@ok.example",
        b"{rcpt_host}": b"ok.example",
        b"{rcpt_mailer}": b"local",
    }
    for command in (b"T", b"N", b"E"):
        assert [found[b"i"] for found in milter.macros(command)] == [mail[b"i"], second[b"i"]]
    assert milter.commands() == "OCH" + 2 * "MRTLLLNBE" + "Q"


def test_a_list_of_symbols_says_which_macros(home: Home) -> None:
    symbols = {0: b"{client_addr}", 2: b"i, {mail_addr} {nosuch}", 5: b""}
    with ScriptedMilter(symbols=symbols) as milter:
        send(home, milter)
    assert milter.macros(b"C") == [{b"{client_addr}": b"192.0.2.1"}]
    assert list(milter.macros(b"M")[0]) == [b"i", b"{mail_addr}"]
    assert milter.macros(b"E") == []
    assert len(milter.macros(b"R")) == 1


def test_authenticated_clients_are_shown_and_said_to_be_so(home: Home) -> None:
    with ScriptedMilter() as milter:
        said = (
            b"EHLO c\r\nAUTH PLAIN AGpvZQBzZWNyZXQ=\r\n" + MAIL.replace(b"x@ok", b"x@far") + MESSAGE
        )
        home.control("milters", milter.address)
        run = home.run(said + b"QUIT\r\n", "true", SMTPAUTH="", AUTHCLEAR="1")
        assert run.codes[-2] == 250
    (mail,) = milter.macros(b"M")
    assert (mail[b"{auth_type}"], mail[b"{auth_authen}"]) == (b"PLAIN", b"joe")
    assert milter.macros(b"R")[0][b"{rcpt_mailer}"] == b"smtp"


@pytest.mark.parametrize(
    ("steps", "commands"),
    [
        (0x01, "OHMRTLLLNBEQ"), (0x02, "OCMRTLLLNBEQ"), (0x04, "OCHRTLLLNBEQ"),
        (0x08, "OCHMTLLLNBEQ"), (0x10, "OCHMRTLLLNEQ"), (0x20, "OCHMRTNBEQ"),
        (0x40, "OCHMRTLLLBEQ"), (0x200, "OCHMRLLLNBEQ"), (0x27F, "OEQ"),
    ],
)  # fmt: skip
def test_steps_that_a_milter_does_not_want(home: Home, steps: int, commands: str) -> None:
    with ScriptedMilter(steps=steps) as milter:
        assert send(home, milter).codes[-2] == 250
    assert milter.commands() == commands


@pytest.mark.parametrize(
    "steps", [0x80, 0x1000, 0x2000, 0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0xFF080]
)
def test_answers_that_a_milter_does_not_give(home: Home, steps: int) -> None:
    with ScriptedMilter(steps=steps) as milter:
        said = BEGIN + b"XWHAT\r\n" + MESSAGE + MAIL + MESSAGE
        run = send(home, milter, said=said)
        assert run.codes.count(250) == 7
    assert milter.commands() == "OCHMRU" + "TLLLNBE" + "MRTLLLNBEQ"
    assert run.events("plugin") == []


def test_leading_space_of_values(home: Home) -> None:
    answers = {b"E": packet(b"h", b"X-A", b"  two") + packet(b"h", b"X-B", b"none") + raw(b"c")}
    with ScriptedMilter(answers, steps=0x100000) as milter:
        send(home, milter)
    assert milter.told(b"L") == [b"Subject\0 one\0", b"X-Long\0 a\n b\0", b"Subject\0two\0"]
    (message,) = home.messages()
    assert message.body == TEXT.replace(b"\n\n", b"\nX-A:  two\nX-B:none\n\n")


# -- verdicts ----------------------------------------------------------------

NO, LATER = b"550 Command rejected (#5.7.1)", b"451 Service unavailable - try again later (#4.7.1)"
CODED = packet(b"y", b"553 5.7.9 no 100%% way")
SAID = b"553 no 100% way (#5.7.9)"
MANY = packet(b"y", b"452-4.2.2 one\r\n452 4.2.2 two")


@pytest.mark.parametrize("actions", [0, 0x1FF])
@pytest.mark.parametrize(
    ("answer", "reply"),
    [(raw(b"r"), NO), (raw(b"t"), LATER), (CODED, SAID), (MANY, b"452 two (#4.2.2)")],
)
@pytest.mark.parametrize("command", [b"M", b"R", b"T", b"L", b"N", b"B", b"E"])
def test_refusals(home: Home, command: bytes, answer: bytes, reply: bytes, actions: int) -> None:
    with ScriptedMilter({command: answer}, actions=actions) as milter:
        run = send(home, milter)
    assert reply in run.lines
    assert home.messages() == []
    assert milter.commands()[-1] == "Q"
    by = [line.get("by") for line in (*run.events("refused"), *run.events("message"))]
    assert "milter" in by
    (line,) = run.events("plugin")
    assert (line["milter"], line["verdict"]) == ("m1", "reject" if reply[:1] == b"5" else "defer")
    assert line["at"] == AT[command]


AT = {
    b"M": "mail", b"R": "rcpt", b"T": "data", b"L": "header", b"N": "header", b"B": "body",
    b"E": "end",
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (raw(b"r"), b"554 Command rejected (#5.7.1)"),
        (raw(b"t"), b"421 Service unavailable - try again later (#4.7.1)"),
        (raw(b"4"), b"421 Service unavailable - try again later (#4.7.1)"),
        (CODED, SAID),
    ],
)
def test_a_refused_connection_ends(home: Home, answer: bytes, reply: bytes) -> None:
    """It is asked at the first command, so that idle clients need no process and no milter."""
    with ScriptedMilter({b"C": answer}) as milter:
        run = send(home, milter)
    assert run.lines == [b"220 mx.example ESMTP", reply]
    assert run.event("session")["end"] == "dropped-by-milter"
    assert milter.commands() == "OCQ"


def test_who_says_nothing_is_shown_to_no_milter(home: Home) -> None:
    with ScriptedMilter() as milter:
        assert send(home, milter, said=b"NOOP\r\n").codes == [220, 250, 221]
    assert milter.connections == 0


@pytest.mark.parametrize("answer", [raw(b"r"), CODED])
def test_a_refused_helo_refuses_all(home: Home, answer: bytes) -> None:
    with ScriptedMilter({b"H": answer}) as milter:
        run = send(home, milter)
    assert milter.commands() == "OCHQ"
    assert run.codes[1:4] == [*[550 if answer == raw(b"r") else 553] * 2, 503]
    assert home.messages() == []


@pytest.mark.parametrize("command", [b"M", b"R", b"T", b"L", b"N", b"B", b"E", b"U"])
def test_a_shutdown_ends_the_session(home: Home, command: bytes) -> None:
    with ScriptedMilter({command: raw(b"4")}) as milter:
        run = send(home, milter, said=BEGIN + b"XWHAT\r\n" + MESSAGE)
    assert run.lines[-1] == b"421 Service unavailable - try again later (#4.7.1)"
    assert home.messages() == []


@pytest.mark.parametrize("command", [b"C", b"H", b"M", b"R", b"T", b"L", b"N", b"B", b"E"])
def test_accepted_is_asked_no_more(home: Home, command: bytes) -> None:
    with ScriptedMilter({command: raw(b"a")}) as milter:
        assert send(home, milter, said=BEGIN + MESSAGE + MAIL + MESSAGE).codes.count(354) == 2
    assert len(home.messages()) == 2
    rest = "MRTLLLNBE"
    first = rest[: rest.index(command.decode()) + 1] if command.decode() in rest else ""
    again = {b"C": "OCQ", b"H": "OCHQ"}.get(command)
    abort = "" if command == b"E" else "A"
    assert milter.commands() == (again or "OCH" + first + abort + first + abort + "Q")


@pytest.mark.parametrize("actions", [0, 0x1FF])
@pytest.mark.parametrize("command", [b"M", b"R", b"T", b"L", b"N", b"B", b"E"])
def test_discarded(home: Home, command: bytes, actions: int) -> None:
    with ScriptedMilter({command: raw(b"d")}, actions=actions) as milter, ScriptedMilter() as next:
        run = send(home, milter, next)
    assert run.codes == [220, 250, 250, 250, 354, 250, 221]
    assert home.messages() == []
    line = run.event("message")
    assert (line["verdict"], line["by"]) == ("discarded", "milter")
    assert line["reason"] == "by the milter m1"
    assert not next.told(b"E")


def test_discarded_at_an_unknown_command(home: Home) -> None:
    """The message under way is, and not the next one."""
    with ScriptedMilter({b"U": raw(b"d")}) as milter:
        run = send(home, milter, said=b"XA\r\n" + BEGIN + b"XB\r\n" + MESSAGE + MAIL + MESSAGE)
    assert [line["verdict"] for line in run.events("message")] == ["discarded", "accepted"]
    assert len(home.messages()) == 1


def test_a_refused_recipient_leaves_the_others(home: Home) -> None:
    def judge(data: bytes) -> bytes:
        return raw(b"r") if data == b"<y@ok.example>\0" else raw(b"c")

    more = b"RCPT TO:<y@ok.example>\r\nRCPT TO:<z@ok.example>\r\nRCPT TO:<z@far.example>\r\n"
    with ScriptedMilter({b"R": judge}) as milter:
        run = send(home, milter, said=BEGIN + more + MESSAGE)
    assert run.codes == [220, 250, 250, 250, 550, 250, 553, 354, 250, 221]
    assert home.messages()[0].recipients == [b"x@ok.example", b"z@ok.example"]
    assert len(milter.told(b"R")) == 3, "of those that rcpthosts refuses it hears nothing"


def test_progress_and_skip(home: Home) -> None:
    answers = {b"B": raw(b"s"), b"E": 3 * raw(b"p") + raw(b"c"), b"M": raw(b"p") + raw(b"c")}
    body = b"DATA\r\n\r\n" + 4000 * (b"x" * 70 + b"\r\n") + b".\r\n"
    with ScriptedMilter(answers, steps=0x400) as milter:
        assert send(home, milter, said=BEGIN + body).codes[-2] == 250
    assert milter.commands() == "OCHMRTNBEQ"
    assert len(milter.told(b"B")[0]) == 65535


@pytest.mark.parametrize("actions", [0, 0x1FF])
def test_a_body_in_chunks(home: Home, actions: int) -> None:
    text = b"".join(b"%d\r\n" % number for number in range(40000))
    with ScriptedMilter(actions=actions) as milter:
        send(home, milter, said=BEGIN + b"DATA\r\nA: b\r\n\r\n" + text + b".\r\n")
    pieces = milter.told(b"B")
    assert b"".join(pieces) == text
    assert [len(piece) for piece in pieces[:-1]] == [65535] * (len(text) // 65535)


# -- transactions and connections ----------------------------------------------


def test_a_reset_aborts(home: Home) -> None:
    said = BEGIN + b"RSET\r\n" + MAIL + MAIL + b"EHLO again\r\n" + MAIL + MESSAGE
    with ScriptedMilter() as milter:
        assert send(home, milter, said=said).codes[-2] == 250
    assert milter.commands() == "OCH" + "MRA" + "MRA" + "MRA" + "H" + "MRTLLLNBE" + "Q"


def test_after_starttls_there_is_a_new_connection(home: Home) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    with ScriptedMilter(symbols={1: b"{tls_version} {cipher}"}) as milter:
        home.control("milters", milter.address)
        with home.talk() as talk:
            talk.reply()
            talk.ask(b"EHLO one.example")
            talk.starttls()
            talk.ask(b"EHLO two.example")
            talk.ask(b"MAIL FROM:<a@b.example>")
            talk.ask(b"QUIT")
            talk.ended()
        wait_for(lambda: milter.commands().count("Q") == 2)
    assert sorted(milter.commands()) == sorted("OCHQ" + "OCHMAQ")
    assert milter.told(b"H") == [b"one.example\0", b"two.example\0"]
    assert list(milter.macros(b"H")[-1]) == [b"{tls_version}", b"{cipher}"]


def test_chunks_of_bdat_are_shown(home: Home) -> None:
    text = b"Subject: x\r\n\r\nhello\r\n"
    said = BEGIN + b"BDAT 5\r\n" + text[:5] + b"BDAT %d LAST\r\n" % (len(text) - 5) + text[5:]
    with ScriptedMilter() as milter:
        assert send(home, milter, said=said).codes[-2] == 250
    assert milter.told(b"B") == [b"hello\r\n"]
    assert milter.commands() == "OCHMRTLNBEQ"


def test_no_helo_and_an_unknown_address(home: Home) -> None:
    with ScriptedMilter() as milter:
        send(home, milter, said=MAIL + MESSAGE, TCPREMOTEIP=None, TCPREMOTEHOST=None)
    assert milter.commands() == "OCMRTLLLNBEQ"
    assert milter.told(b"C") == [b"unknown\0U"]


def test_ipv6(home: Home) -> None:
    with ScriptedMilter() as milter:
        send(home, milter, TCPREMOTEIP="2001:db8::1", TCPREMOTEPORT="25")
    assert milter.told(b"C") == [b"client.example\x006\0\x192001:db8::1\0"]


# -- changes -------------------------------------------------------------------


def end(*changes: bytes) -> dict[bytes, bytes]:
    return {b"E": b"".join(changes) + raw(b"c")}


def test_header_lines(home: Home) -> None:
    answers = end(
        packet(b"h", b"X-Last", b"1"),
        header(b"i", 0, b"X-Top", b"2"),
        header(b"i", 2, b"X-Second", b"3\r\n folded"),
        header(b"m", 2, b"subject", b"new two"),
        header(b"m", 1, b"X-Long", b""),
        header(b"m", 1, b"X-None", b"4"),
        header(b"m", 9, b"Subject", b""),
    )
    with ScriptedMilter(answers) as milter:
        run = send(home, milter)
    (message,) = home.messages()
    first, received, rest = message.text.partition(b"Received: ")
    assert first == b"X-Top: 2\n"
    assert message.text.endswith(
        b"\nX-Second: 3\n folded\nSubject: one\nsubject: new two\nX-Last: 1\nX-None: 4\n"
        b"\nhello\n.\n"
    )
    assert run.event("plugin")["changes"] == (
        "add X-Last, insert X-Top, insert X-Second, change subject, delete X-Long, "
        "change X-None, delete Subject"
    )
    assert int(run.event("changed")["size"]) > 0


def test_the_envelope(home: Home) -> None:
    answers = end(
        packet(b"e", b"<new@b.example>", b"SIZE=3"),
        packet(b"+", b"<y@far.example>"),
        packet(b"2", b"z@far.example", b"NOTIFY=NEVER"),
        packet(b"+", b"<y@FAR.example>"),
        packet(b"-", b"<x@OK.example>"),
        packet(b"-", b"<nobody@ok.example>"),
    )
    with ScriptedMilter(answers) as milter:
        run = send(home, milter)
    (message,) = home.messages()
    assert message.sender == b"new@b.example"
    assert message.recipients == [b"y@far.example", b"z@far.example"]
    assert message.body == TEXT
    assert run.event("changed")["deleted"] == "x@ok.example"


def test_recipients_are_told_without_the_suffix_of_relayclient(home: Home) -> None:
    changes = packet(b"-", b"<x@OK.example>"), packet(b"+", b"<z@far.example>")
    with ScriptedMilter(end(*changes)) as milter:
        said = BEGIN + b"RCPT TO:<y@ok.example>\r\n" + MESSAGE
        send(home, milter, said=said, RELAYCLIENT=".sfx")
    assert milter.told(b"R") == [b"<x@ok.example>\0", b"<y@ok.example>\0"]
    assert milter.macros(b"R")[0][b"{rcpt_addr}"] == b"x@ok.example"
    assert home.messages()[0].recipients == [b"y@ok.example.sfx", b"z@far.example"]


@pytest.mark.parametrize("verdict", [raw(b"r"), raw(b"t"), raw(b"d"), raw(b"4"), b"\0\0\0\1z"])
def test_changes_that_come_to_nothing_are_not_logged(home: Home, verdict: bytes) -> None:
    changes = packet(b"h", b"X-A", b"1"), packet(b"+", b"<y@ok.example>")
    answers = {b"E": b"".join(changes) + verdict}
    with ScriptedMilter(end(*changes)) as one, ScriptedMilter(answers) as two:
        run = send(home, one, two)
    assert home.messages() == []
    assert not any("changes" in line for line in run.events("plugin"))
    assert run.events("changed") == []


def test_a_milter_that_may_fail_changes_nothing_where_it_does(home: Home) -> None:
    answers = {b"E": packet(b"h", b"X-A", b"1") + raw(b"z")}
    with ScriptedMilter(end(packet(b"h", b"X-B", b"1"))) as one, ScriptedMilter(answers) as two:
        home.control("milters", one.address, f"{two.address} fail=pass")
        home.run(BEGIN + MESSAGE + b"QUIT\r\n")
    (message,) = home.messages()
    assert b"\nX-B: 1\n" in message.text and b"X-A" not in message.text


def test_no_recipient_is_left(home: Home) -> None:
    with ScriptedMilter(end(packet(b"-", b"<x@ok.example>"))) as milter:
        run = send(home, milter)
    assert run.codes[-2] == 250
    assert home.messages() == []
    assert run.event("message")["verdict"] == "discarded"


def test_another_body(home: Home) -> None:
    answers = end(raw(b"b", b"first\r"), packet(b"h", b"X", b"1"), raw(b"b", b"\nsecond"))
    with ScriptedMilter(answers) as milter:
        send(home, milter)
    (message,) = home.messages()
    assert message.body == TEXT.partition(b"\n\n")[0] + b"\nX: 1\n\nfirst\nsecond\n"


def test_quarantine_is_a_header_line(home: Home) -> None:
    with ScriptedMilter(end(packet(b"q", b"looks bad"))) as milter:
        run = send(home, milter)
    assert b"\nX-Quarantine: looks bad\n\n" in home.messages()[0].text
    assert run.event("plugin")["changes"] == "quarantine"


def test_each_sees_what_those_before_have_made(home: Home) -> None:
    first = end(
        packet(b"h", b"X-A", b"1"),
        header(b"i", 0, b"X-Top", b"t"),
        header(b"m", 1, b"Subject", b""),
    )
    second = end(raw(b"b", b"other\r\n"), header(b"m", 1, b"X-Top", b"changed"))
    with (
        ScriptedMilter(first) as one,
        ScriptedMilter(second) as two,
        ScriptedMilter(actions=0) as three,
    ):
        send(home, one, two, three)
    assert two.told(b"L") == [b"X-Top\0t\0", b"X-Long\0a\n b\0", b"Subject\0two\0", b"X-A\x001\0"]
    assert three.told(b"L")[0] == b"X-Top\0changed\0"
    assert three.told(b"B") == [b"other\r\n"]
    (message,) = home.messages()
    assert message.text.startswith(b"X-Top: changed\nReceived: ")
    assert message.body.endswith(b"X-Long: a\n b\nSubject:two\nX-A: 1\n\nother\n")


def test_a_first_line_from_with_a_blank_is_shown(home: Home) -> None:
    """`From :` is a field (RFC 5322, 4.5), `From ` is what mbox files have."""
    text = b"DATA\r\nFrom me now\r\nFrom : a@b.example\r\nSubject: x\r\n\r\nbody\r\n.\r\n"
    for said in (text, text.replace(b"From me now\r\n", b"")):
        with ScriptedMilter(end(header(b"m", 1, b"From", b"new"))) as milter:
            send(home, milter, said=BEGIN + said)
        assert milter.told(b"L") == [b"From\0a@b.example\0", b"Subject\0x\0"]
    one, two = (message.body for message in home.messages())
    assert {one, two} == {
        b"From me now\nFrom: new\nSubject: x\n\nbody\n", b"From: new\nSubject: x\n\nbody\n"
    }  # fmt: skip


def test_a_message_without_a_header_gets_one(home: Home) -> None:
    with ScriptedMilter(end(packet(b"h", b"X-A", b"1"))) as milter:
        send(home, milter, said=BEGIN + b"DATA\r\nno header\r\n.\r\n")
    assert milter.told(b"B") == [b"no header\r\n"]
    assert home.messages()[0].body == b"X-A: 1\n\nno header\n"


@pytest.mark.parametrize(
    "change",
    [
        packet(b"h", b"X A", b"1"), packet(b"h", b"", b"1"), packet(b"+", b"<>"),
        packet(b"+", b"a\r\n@b"), packet(b"e", b"a\x7f"), header(b"i", 0, b"X:", b"1"),
        header(b"i", 0, b"X", b"1") * 51,
    ],
)  # fmt: skip
def test_changes_that_make_no_sense(home: Home, change: bytes) -> None:
    with ScriptedMilter(end(change)) as milter:
        run = send(home, milter)
    assert run.lines[-2] == NO_ANSWER
    assert "nonsense" in run.event("plugin")["result"]
    assert home.messages() == []


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (b"a\nb", b" a\n\tb"), (b"a\r\n b\r\n", b" a\n b"), (b"a\n \nb", b" a\n\tb"),
        (b"", b" "), (b"a\rb", b" a\n\tb"), (b"a\n\n\nBcc: x", b" a\n\tBcc: x"),
    ],
)  # fmt: skip
def test_no_value_can_break_the_header(home: Home, value: bytes, line: bytes) -> None:
    changes = packet(b"h", b"X", value), header(b"i", 0, b"X", value)
    with ScriptedMilter(end(*changes)) as milter:
        send(home, milter)
    (message,) = home.messages()
    assert message.text.startswith(b"X:" + line + b"\nReceived: ")
    assert message.text.endswith(TEXT.replace(b"\n\n", b"\nX:" + line + b"\n\n"))


def test_addresses_are_quoted_where_they_have_to_be(home: Home) -> None:
    changes = (
        packet(b"-", b'<"a b"@ok.example>'),
        packet(b"+", b'"c \\"d"@ok.example'),
        packet(b"+", b'"A Name" <n@ok.example>'),
    )
    said = MAIL.replace(b"<a@b.example>", b'<"x\\\\@y"@b.example>').replace(b"<x@", b'<"a b"@')
    with ScriptedMilter(end(*changes)) as milter:
        assert send(home, milter, said=b"EHLO c\r\n" + said + MESSAGE).codes[-2] == 250
    assert milter.told(b"M") == [b'<"x\\\\@y"@b.example>\0SIZE=9\0']
    assert milter.told(b"R") == [b'<"a b"@ok.example>\0']
    (message,) = home.messages()
    assert message.sender == b"x\\@y@b.example"
    assert message.recipients == [b'c "d@ok.example', b"n@ok.example"]


LONG = {
    "bytes": b"".join(b"X-%d: %b\n y\n" % (number, 1000 * b"x") for number in range(400)),
    "lines": b"".join(b"X-%d: x\n" % number for number in range(11000)),
    "a line": b"X: " + 300_000 * b"x" + b"\n",
    "folds": b"X: x\n" + 11_000 * b" y\n" + b"Y: y\n",
}


@pytest.mark.parametrize("what", LONG)
def test_a_header_that_is_too_long_is_not_cut(home: Home, what: str) -> None:
    """The line that is added stands in it somewhere, and nothing is torn apart."""
    text = LONG[what] + b"Last: 1\n\nbody\n"
    with ScriptedMilter(end(packet(b"h", b"X-Added", b"1"))) as milter:
        data = b"DATA\r\n" + text.replace(b"\n", b"\r\n") + b".\r\n"
        assert send(home, milter, said=BEGIN + data).codes[-2] == 250
    (message,) = home.messages()
    assert b"X-Added: 1\n" in message.text
    rest = message.text.partition(b"X-Added: 1\n")
    assert (rest[0] + rest[2]).endswith(b"\n" + text)
    assert rest[2][:1] not in b" \t"
    shown = b"".join(milter.told(b"B"))
    assert shown.endswith(b"Last: 1\r\n\r\nbody\r\n")


def test_no_change_that_was_not_asked_for(home: Home) -> None:
    with ScriptedMilter(end(packet(b"h", b"X", b"1")), actions=0x10) as milter:
        run = send(home, milter)
    assert run.lines[-2] == NO_ANSWER


# -- a milter that gives no answer ---------------------------------------------

NO_ANSWER = b"451 a mail filter gives no answer now (#4.3.0)"
NEVER = b"554 a mail filter gives no answer (#5.3.0)"


@pytest.mark.parametrize(
    ("fail", "codes"), [("defer", [451, 503]), ("refuse", [554, 503]), ("pass", [250, 250])]
)
def test_nobody_listens(home: Home, fail: str, codes: list[int]) -> None:
    home.control("milters", f"unix:{home.path}/nobody fail={fail} name=dead")
    run = home.run(BEGIN + b"QUIT\r\n")
    assert run.codes == [220, 250, *codes, 221], "HELO is taken: clients expect no 4xx of it"
    assert run.events("plugin")[0]["result"] == "No such file or directory"
    assert run.events("plugin")[0]["milter"] == "dead"


BROKEN = {
    "closes": b"",
    "half": b"\0\0\0\7c",
    "a letter that there is not": raw(b"z"),
    "a verdict with data": raw(b"c", b"x"),
    "an empty packet": b"\0\0\0\0",
    "a packet without end": b"\x7f\xff\xff\xffc" + b"x" * 9000,
    "a string without end": raw(b"y", b"abc"),
    "text": b"220 this is an SMTP server, as it were\r\n",
    "a code that is none": packet(b"y", b"250 ok"),
    "lines that do not belong together": packet(b"y", b"550-a\r\n551 b"),
    "progress without end": 220_000 * raw(b"p"),
}


@pytest.mark.parametrize("fail", ["defer", "pass"])
@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("command", [b"C", b"M", b"R", b"L", b"B", b"E"])
def test_answers_that_are_none(home: Home, command: bytes, answer: bytes, fail: str) -> None:
    def say(data: bytes) -> bytes:
        milter.answers = {}
        return answer

    class Closing(ScriptedMilter):
        def _converse(self, line: Line) -> None:
            try:
                super()._converse(Once(line, answer))
            finally:
                line.socket.close()

    with Closing({command: say}) as milter:
        home.control("milters", f"{milter.address} fail={fail}")
        run = home.run(BEGIN + MESSAGE + b"QUIT\r\n")
    taken = fail == "pass"
    # A connection that has failed at HELO is tried again at MAIL.
    assert len(home.messages()) == (taken or command == b"C")
    assert "result" in run.events("plugin")[0]
    if not taken and command != b"C":
        assert NO_ANSWER in run.lines


class Once(Line):
    """A line that ends behind this answer."""

    def __init__(self, line: Line, last: bytes) -> None:
        self.socket = line.socket
        self._last = last

    def say(self, data: bytes) -> None:
        if data:
            self.socket.sendall(data)
        if data == self._last:
            raise OSError("that is all")


@pytest.mark.parametrize(
    "change",
    [packet(b"+", b"a"), packet(b"-", b"a"), header(b"m", 9, b"b", b""), packet(b"h", b"x", b"")],
)
def test_100_000_changes(home: Home, change: bytes) -> None:
    """None takes longer than the ones before it, and however long the message is, memory has."""
    with ScriptedMilter({b"E": 100_000 * change + raw(b"c")}) as milter:
        said = BEGIN + b"DATA\r\n" + 9000 * b"a:b\r\n" + b"\r\n" + 300_000 * b"c\r\n" + b".\r\n"
        run = send(home, milter, said=said)
    assert run.lines[-2] == NO_ANSWER
    assert run.event("plugin")["result"] == "talks nonsense: changes too much"
    assert home.messages() == []


@pytest.mark.parametrize("what", ["header", "body"])
def test_10_mb_of_changes(home: Home, what: str) -> None:
    change = packet(b"h", b"X", b"y" * 60000) if what == "header" else raw(b"b", b"y" * 60000)
    with ScriptedMilter({b"E": 170 * change + raw(b"c")}) as milter:
        home.control("milters", milter.address)
        run = home.run(BEGIN + MESSAGE + b"QUIT\r\n")
    assert run.lines[-2] == NO_ANSWER
    long = "answers too long" if what == "body" else "talks nonsense: changes too much"
    assert run.event("plugin")["result"] == long
    assert home.messages() == []


@pytest.mark.parametrize("command", [b"C", b"M", b"B", b"E"])
def test_no_answer_in_time(home: Home, command: bytes) -> None:
    """Once: a session does not wait for it again, but is told so at once."""
    waiting = threading.Event()

    def wait(data: bytes) -> bytes:
        waiting.wait(PATIENCE)
        return b""

    with ScriptedMilter({command: wait}) as milter:
        home.control("milters", f"{milter.address} timeout=1 content_timeout=1")
        run = home.run(BEGIN + MESSAGE + MAIL + b"QUIT\r\n")
        waiting.set()
    results = [line["result"] for line in run.events("plugin")]
    assert results[0] == "timeout"
    assert results[1:] and set(results[1:]) == {"timeout, a moment ago"}
    assert milter.connections == 1
    assert NO_ANSWER in run.lines
    assert home.messages() == []


def test_it_is_restarted_between_two_messages(home: Home) -> None:
    with ScriptedMilter(path=home.path / "m") as milter:
        home.control("milters", milter.address)
        with home.talk() as talk:
            talk.reply()
            talk.ask(b"EHLO c")
            assert talk.deliver(b"Subject: 1\r\n\r\nx\r\n").startswith(b"250 ok ")
            milter.restart()
            assert talk.deliver(b"Subject: 2\r\n\r\nx\r\n").startswith(b"250 ok ")
            talk.ask(b"QUIT")
            talk.ended()
    assert milter.connections == 2
    assert milter.told(b"L") == [b"Subject\x001\0", b"Subject\x002\0"]


def test_it_is_not_asked_anew_within_a_message(home: Home) -> None:
    with ScriptedMilter(path=home.path / "m") as milter:
        home.control("milters", milter.address)
        with home.talk() as talk:
            talk.reply()
            talk.ask(b"EHLO c")
            talk.ask(b"MAIL FROM:<a@b.example>")
            milter.restart()
            assert talk.ask(b"RCPT TO:<x@ok.example>") == NO_ANSWER
            talk.ask(b"RSET")
            assert talk.deliver(b"\r\nx\r\n").startswith(b"250 ok ")
            talk.ask(b"QUIT")
            talk.ended()
    assert milter.connections == 2


@pytest.mark.parametrize("steps", [0x80, 0])
def test_what_nobody_has_asked(home: Home, steps: int) -> None:
    with ScriptedMilter({b"M": raw(b"c") + raw(b"r")}, steps=steps) as milter:
        run = send(home, milter)
    assert NO_ANSWER in run.lines
    assert home.messages() == []


@pytest.mark.parametrize(
    "greeting",
    [
        raw(b"c"), raw(b"O", b"\0" * 11), raw(b"O", b"\0\0\0\1" + b"\0" * 8),
        raw(b"O", b"\0\0\0\7" + b"\0" * 8), raw(b"O", b"\0\0\0\6\0\1\0\0\0\0\0\0"),
        raw(b"O", b"\0\0\0\6" + b"\0" * 8 + b"\0\0\0\1abc"),
        raw(b"O", b"\0\0\0\6" + b"\0" * 8 + b"\0\0\0\x09abc\0"),
    ],
)  # fmt: skip
def test_negotiations_that_fail(home: Home, greeting: bytes) -> None:
    with ScriptedMilter(greeting=greeting) as milter:
        run = send(home, milter)
    assert run.codes[2] == 451
    assert "nonsense" in run.events("plugin")[0]["result"]


def test_version_2_is_understood(home: Home) -> None:
    """It knows neither DATA nor unknown commands."""
    with ScriptedMilter(greeting=raw(b"O", b"\0\0\0\2\0\0\0\1\0\0\0\0")) as milter:
        assert send(home, milter, said=BEGIN + b"XWHAT\r\n" + MESSAGE).codes[-2] == 250
    assert milter.commands() == "OCHMRLLLNBEQ"


# -- qsmtpd --check --------------------------------------------------------------


def test_check_negotiates_with_each(home: Home) -> None:
    with ScriptedMilter(actions=0x43) as one, ScriptedMilter(greeting=raw(b"c")) as two:
        bad = two.address.encode()
        home.control("milters", f"{one.address} name=first", two.address, "/no/such fail=pass")
        run = home.run(b"", "--check")
    assert one.commands() == "OQ"
    assert b"it answers version 6, and may change the header, the body, the sender" in run.out
    assert run.status == 1
    assert bad + b" gives no answer: talks nonsense" in run.out
    assert b"/no/such gives no answer: No such file or directory" in run.out


@pytest.mark.parametrize(("actions", "steps", "status"), [(0, 0, 0), (1, 0, 1), (0, 0x100000, 1)])
def test_check_knows_who_wants_a_file(home: Home, actions: int, steps: int, status: int) -> None:
    with ScriptedMilter(actions=actions, steps=steps) as milter:
        home.control("milters", milter.address)
        run = home.run(b"", "--check", TMPDIR="/nonexistent")
        assert run.status == status
        assert (b"wrong: TMPDIR: /nonexistent takes no file" in run.out) == bool(status)
        codes = home.run(BEGIN + MESSAGE + b"QUIT\r\n", TMPDIR="/nonexistent").codes
        assert (codes[-2] == 250) == (not status)


def test_explain_asks_them(home: Home) -> None:
    with ScriptedMilter({b"E": packet(b"h", b"X-A", b"1") + raw(b"c")}) as milter:
        home.control("milters", milter.address)
        run = home.run(b"", "--explain", "to=x@ok.example")
    assert b"milter         decline (and changes the message or its envelope)" in run.out
    assert b"    | X-A: 1\n" in run.out


# -- many bytes, and clients that say nothing --------------------------------------


@pytest.mark.parametrize("actions", [0, 0x1FF])
def test_large_messages_in_flat_memory(home: Home, actions: int) -> None:
    """Shown while it passes, or from the file, and its body replaced."""
    seen = 0

    def count(data: bytes) -> bytes:
        nonlocal seen
        seen += len(data)
        return raw(b"c")

    another = raw(b"b", b"y" * 60000)
    answers: dict[bytes, Answer] = {b"B": count}
    if actions:
        answers[b"E"] = 400 * another + raw(b"c")
    with ScriptedMilter(answers, actions=actions) as milter:
        home.control("milters", milter.address)
        size = home.script(f"wc -c >{home.path}/count; cat <&1 >/dev/null\n")
        with home.talk(QMAILQUEUE=size) as talk:
            talk.reply()
            peaks = []
            for megabytes in (15, 60):
                milter.heard.clear()
                talk.ask(b"MAIL FROM:<>", b"RCPT TO:<x@ok.example>", b"DATA")
                talk.send(b"Subject: x\r\n\r\n")
                for _ in range(megabytes):
                    talk.send((b"x" * 62 + b"\r\n") * 16384)
                assert talk.ask(b".").startswith(b"250 ok ")
                peaks.append(talk.peak_memory())
            talk.ask(b"QUIT")
            talk.ended()
    assert seen == 75 * 16384 * 64
    assert peaks[1] - peaks[0] < 2 * 1024 * 1024
    assert int((home.path / "count").read_text()) > (400 * 60000 if actions else 59 * 2**20)


def test_held_clients_are_shown_to_no_milter(home: Home) -> None:
    """qsmtpd-server greets them, and hands them to a process with their first line."""
    with ScriptedMilter() as milter:
        home.control("milters", milter.address)
        with Server(home) as server, server.client() as client:
            assert client.reply().startswith(b"220 ")
            assert milter.connections == 0
            assert client.ask(b"EHLO c").startswith(b"250 ")
            assert milter.commands() == "OCH"
            client.ask(b"QUIT")


def test_a_client_that_is_immune_is_shown_to_none(home: Home) -> None:
    with ScriptedMilter() as milter:
        home.control("plugins", "milter immune=relay", "builtins")
        assert send(home, milter, RELAYCLIENT="").codes[-2] == 250
        assert milter.connections == 0
