"""Of the same mail a milter hears the same from us and from Postfix, but for what is named here."""

from __future__ import annotations

import re
import socket

import pytest
from client import Client
from harness import Home, wait_for
from listeners import Server, tcpserver
from milters import ScriptedMilter, header, packet, raw
from postfix import Postfix

pytestmark = pytest.mark.interop

HEADER = (
    b"From: a@b.example\r\nDate: Thu, 26 Nov 2026 23:57:10 +0000\r\nMessage-ID: <1@b.example>\r\n"
    b"Subject: one\r\nX-Long: a\r\n\tb\r\nSubject:two\r\nSubject:  three\r\n"
)
BODY = b"hello\r\n..\r\n" + 3000 * (b"x" * 60 + b"\r\n")
SAID = [
    b"EHLO c.example",
    b"MAIL FROM:<a@b.example> SIZE=9 BODY=8BITMIME",
    b"RCPT TO:<x@ok.example>",
    b"XWHAT",
    b"RSET",
    b"EHLO again.example",
    b"MAIL FROM:<>",
    b"RCPT TO:<x@ok.example>",
    b"RCPT TO:<y@ok.example>",
    b"DATA",
    HEADER + b"\r\n" + BODY + b".",
    b"MAIL FROM:<q@b.example>",
    b"QUIT",
]
CHANGES = (
    packet(b"h", b"X-Last", b"1"),
    header(b"i", 0, b"X-Top", b"2"),
    header(b"i", 1, b"X-Second", b"3"),
    header(b"i", 4, b"X-Fourth", b"4"),
    header(b"i", 99, b"X-Far", b"5\n\tfolded"),
    header(b"m", 1, b"subject", b""),
    header(b"m", 2, b"Subject", b"new"),
    header(b"m", 1, b"X-None", b"6"),
    header(b"m", 7, b"X-Long", b""),
    packet(b"+", b"<z@ok.example>"),
    packet(b"-", b"<y@ok.example>"),
    packet(b"e", b"<new@b.example>"),
)
#: Macros whose values are of the one who says them, or known to one alone.
OWN = {
    b"v",
    b"i",
    b"j",
    b"{daemon_name}",
    b"{mail_host}",
    b"{rcpt_host}",
    b"{mail_mailer}",
    b"{rcpt_mailer}",
}
OURS = {b"{client_addr}", b"{client_name}", b"{client_port}", b"{client_ptr}"}


def talk(port: int, said: list[bytes]) -> list[bytes]:
    with Client.connect(port, "127.0.0.1") as client:
        return [client.reply(), *(client.ask(line) for line in said)]


def trace(milter: ScriptedMilter) -> list[bytes]:
    """What it was told, without macros and the port; and without aborts of nothing (Postfix)."""
    told = [re.sub(rb"\x004..", b"\x004PP", t, flags=re.S) if t[:1] == b"C" else t
            for t in milter.heard if t[:1] not in (b"D", b"O")]  # fmt: skip
    kept: list[bytes] = []
    begun = False
    for one in told:
        begun = begun or one[:1] == b"M"
        if one == b"A" and not begun:
            continue
        begun = begun and one[:1] not in (b"A", b"E")
        kept.append(one)
    return kept


def macros(milter: ScriptedMilter) -> dict[bytes, set[tuple[bytes, bytes]]]:
    """Command -> its macros, as far as their values are to be the same."""
    found: dict[bytes, set[tuple[bytes, bytes]]] = {}
    for command in b"CHMRTNE":
        code = bytes((command,))
        found[code] = {
            (name, b"" if name in OWN else value)
            for values in milter.macros(code)
            for name, value in values.items()
            if name not in OURS and not (code == b"M" and name == b"i")
        }
    return found


def is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("steps", [0, 0x1FFFFF & ~0x800 & ~0x37F, 0x100000])
def test_the_trace_is_postfixs(inside: Home, steps: int) -> None:
    inside.control("rcpthosts", "ok.example")
    answers = {b"E": b"".join(CHANGES) + raw(b"c"), b"B": raw(b"s")}
    with (
        ScriptedMilter(answers, steps=steps) as theirs,
        tcpserver(inside, ":allow") as sink,
        Postfix(sink.port, theirs.address) as postfix,
    ):
        wait_for(lambda: is_up(postfix.port))
        wait_for(lambda: theirs.heard[-1:] == [b"Q"])
        theirs.heard.clear()
        replies = talk(postfix.port, SAID)
        assert [int(reply[:3]) for reply in replies] == CODES
        wait_for(lambda: theirs.heard[-1:] == [b"Q"])
        wait_for(lambda: sink.events("session"))
    (relayed,) = inside.messages()
    inside.clear()
    home = inside
    with ScriptedMilter(answers, steps=steps) as ours:
        home.control("milters", ours.address)
        with Server(home) as server:
            replies = talk(server.port, SAID)
            assert [int(reply[:3]) for reply in replies] == [
                502 if code == 500 else code for code in CODES
            ]
            wait_for(lambda: ours.heard[-1:] == [b"Q"])
    assert trace(ours) == trace(theirs)
    assert macros(ours) == macros(theirs)
    assert ours.offered == (6, 0x1FF, theirs.offered[2] & ~0x800)
    (mine,) = home.messages()
    assert fields(mine.text) == fields(relayed.text)
    assert mine.sender == relayed.sender == b"new@b.example"
    assert mine.recipients == relayed.recipients == [b"x@ok.example", b"z@ok.example"]


CODES = [220, 250, 250, 250, 500, 250, 250, 250, 250, 250, 354, 250, 250, 221]


def fields(text: bytes) -> bytes:
    """A message without Received lines, and with a mark where those of the first server were."""
    *_, rest = re.split(rb"^Received: .*\n(?:[ \t].*\n)*", text, flags=re.MULTILINE)
    above = re.sub(rb"^Received: .*\n(?:[ \t].*\n)*", b"", text[: -len(rest)], flags=re.MULTILINE)
    return above + b"(ours)\n" + rest
