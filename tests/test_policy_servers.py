"""postgrey, postfwd and both policyd-spf of Debian's, asked by policyserver."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from client import PATIENCE, Client
from daemons import Peer, policy
from dns_server import DnsServer
from harness import PROGRAMS, Home, Variables, wait_for
from listeners import tcpserver
from policyservers import Behind, Postfwd, Postgrey, spf_perl, spf_python
from postfix import Postfix
from run import Run

pytestmark = pytest.mark.interop

ZONE = """
    good.example  TXT  "v=spf1 ip4:192.0.2.1 -all"
    bad.example   TXT  "v=spf1 -all"
"""
RULES = """
id=NO; recipient==no@ok.example; action=REJECT 5.7.1 not to him
id=LATER; recipient==later@ok.example; action=DEFER_IF_PERMIT 4.2.1 come again
id=CODE; recipient==code@ok.example; action=552 5.2.2 full
id=LINE; recipient==line@ok.example; action=PREPEND X-Postfwd: seen
id=HOLD; recipient==hold@ok.example; action=HOLD
"""


def session(*rcpts: str, sender: str = "a@b.example", data: bool = True) -> bytes:
    """A session with one transaction."""
    lines = ["HELO client.good.example", f"MAIL FROM:<{sender}>"]
    lines += [f"RCPT TO:<{rcpt}@ok.example>" for rcpt in rcpts]
    if data:
        lines += ["DATA", "Subject: x\r\n\r\nx\r\n."]
    return "".join(line + "\r\n" for line in [*lines, "QUIT"]).encode()


def checked(home: Home) -> list[str]:
    """What --check says of policy servers."""
    lines = home.run(b"", "--check").out.decode().splitlines()
    assert not [line for line in lines if line.startswith("wrong")], lines
    return [line for line in lines if "policy server" in line]


def test_postgrey(home: Home) -> None:
    """Puts off a sender that it does not know, and takes it when it comes again."""
    with Postgrey() as server:
        home.control("policyservers", f"{server.address} name=postgrey timeout=10")
        first = home.run(session("x", data=False))
        assert first.codes == [220, 250, 250, 450, 221]
        assert b"Greylisted" in first.lines[3] and first.lines[3].endswith(b"(#4.2.0)")
        assert first.event("refused")["by"] == "policyserver"
        assert home.run(session("x", data=False), RELAYCLIENT="").codes[3] == 250
        server.restart()  # what it knows is in its files
        wait_for(lambda: home.run(session("x", data=False)).codes[3] == 250)
        (said,) = checked(home)
        assert said.startswith("ok: policy server = postgrey (it answers ")
    again = home.run(session("x", data=False))
    assert again.lines[3] == b"451 a mail filter gives no answer now (#4.3.0)"


def test_what_postgrey_prepends(home: Home) -> None:
    with Postgrey() as server:
        home.control("policyservers", server.address)

        def is_taken() -> bool:
            run = home.run(session("x", data=False))
            return bool(run.codes[3] == 250)

        assert not is_taken()
        runs: list[Run] = []

        def is_queued() -> bool:
            runs.append(home.run(session("x")))
            return bool(home.messages())

        wait_for(is_queued)
    (message,) = home.messages()
    first, second = message.body.split(b"\n")[:2]
    assert first.startswith(b"X-Greylist: delayed ") and second.startswith(b"Received: ")


def test_postfwd(home: Home) -> None:
    with Postfwd(RULES) as server:
        home.control("policyservers", f"{server.address} name=postfwd")
        run = home.run(session("x", "no", "later", "code", "hold", "line"))
        assert run.lines[3:9] == [
            b"250 ok",
            b"554 not to him (#5.7.1)",
            b"450 come again (#4.2.1)",
            b"552 full (#5.2.2)",
            b"451 a mail filter wants what cannot be done (#4.3.5)",
            b"250 ok",
        ]
        assert run.event("plugin")["action"] == "HOLD"
        assert checked(home) == ["ok: policy server = postfwd (it answers DUNNO)"]
    (message,) = home.messages()
    assert message.recipients == [b"x@ok.example", b"line@ok.example"]
    assert message.body.startswith(b"X-Postfwd: seen\nReceived: ")


def test_postfwd_is_restarted_in_a_session(home: Home) -> None:
    with Postfwd(RULES) as server:
        home.control("policyservers", server.address)
        with home.talk() as talk:
            talk.line()
            talk.send(b"HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<no@ok.example>\r\n")
            assert [talk.line()[:3] for _ in range(3)] == [b"250", b"250", b"554"]
            server.restart()
            talk.send(b"RCPT TO:<no@ok.example>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n")
            assert [talk.line()[:3] for _ in range(2)] == [b"554", b"250"]
            talk.ended()


def test_postfwd_counts_what_users_send(home: Home) -> None:
    """They are immune by default; who counts them is asked by a line of control/plugins."""
    rule = "id=RATE; sasl_username=~/./; action=rate(sasl_username/2/3600/450 4.7.1 too many)\n"
    with Postfwd(rule) as server:
        home.control("policyservers", server.address)
        login = b"AUTH PLAIN AGpvZQBzZWNyZXQ=\r\n"
        command = str(PROGRAMS / "checker"), "true"
        environ: Variables = {"SMTPAUTH": "", "AUTHCLEAR": "1"}
        for line, last in ((None, 250), ("policyserver immune=none", 450)):
            if line is not None:
                home.control("plugins", "builtins", line)
            run = home.run(login + session("x", "y", "z", data=False), *command, **environ)
            assert run.codes == [220, 235, 250, 250, 250, 250, last, 221]
        assert run.lines[-2] == b"450 too many (#4.7.1)"


@pytest.mark.parametrize("make", [spf_python, spf_perl])
def test_policyd_spf(home: Home, tmp_path: Path, make: Callable[[Path, str], Behind]) -> None:
    with DnsServer(ZONE) as dns, make(tmp_path, dns.where) as server:
        home.control("policyservers", f"{server.address} name=spf timeout={int(PATIENCE)}")
        bad = home.run(session("x", sender="a@bad.example", data=False))
        assert bad.codes == [220, 250, 250, 550, 221]
        server.restart()
        good = home.run(session("x", "y", sender="a@good.example"))
        assert good.codes == [220, 250, 250, 250, 250, 354, 250, 221]
        (said,) = checked(home)
        assert said.startswith("ok: policy server = spf (it answers ")
    (message,) = home.messages()
    lines = message.body.split(b"\n")
    assert lines[0].lower().startswith(b"received-spf: pass")
    assert lines[1].startswith(b"Received: from "), "one line for both recipients"


#: Values that are of the one who asks, or known to one of them alone.
OWN = {b"instance", b"queue_id", b"client_port", b"server_port"}
#: What only Postfix says.
POSTFIXS = {b"compatibility_level", b"mail_version"}
SAID = [
    b"EHLO c.example",
    b"MAIL FROM:<a@b.example> SIZE=99",
    b"RCPT TO:<x@ok.example>",
    b"DATA",
    b"Subject: x\r\n\r\nhello\r\n.",
    b"EHLO again.example",
    b"MAIL FROM:<>",
    b"RCPT TO:<x@ok.example>",
    b"RCPT TO:<y+z@ok.example>",
    b"DATA",
    b"Subject: x\r\n\r\n.",
    b"QUIT",
]


def told(port: int, seen: list[bytes]) -> list[dict[bytes, bytes]]:
    """What a policy server has been told of a session."""
    seen.clear()
    with Client.connect(port, "127.0.0.1") as client:
        codes = [client.reply()[:3], *(client.ask(line)[:3] for line in SAID)]
    one = [b"250", b"250", b"354", b"250"]
    assert codes == [b"220", b"250", *one, b"250", b"250", *one, b"221"]
    requests = [dict(line.split(b"=", 1) for line in text.splitlines() if line) for text in seen]
    groups = [facts[b"instance"] for facts in requests]
    assert groups == [groups[0]] * 3 + [groups[3]] * 4 and groups[0] != groups[3]
    for facts in requests:  # of a message Postfix counts CRLF
        facts[b"size"] = b"" if facts[b"protocol_state"] == b"END-OF-MESSAGE" else facts[b"size"]
    return [{k: v for k, v in facts.items() if k not in OWN} for facts in requests]


def test_servers_are_told_what_postfix_tells(home: Home) -> None:
    seen: list[bytes] = []
    with Peer(policy(lambda facts: b"DUNNO", seen)) as peer:
        ask = f"check_policy_service {peer.address}"
        stages = ("recipient", "data", "end_of_data")
        more = "".join(f"smtpd_{stage}_restrictions = {ask}\n" for stage in stages)
        with tcpserver(home, ":allow") as sink, Postfix(sink.port, "", more) as postfix:
            wait_for(lambda: is_up(postfix.port))
            theirs = told(postfix.port, seen)
        home.control("policyservers", f"{peer.address} at=rcpt,data,data_post")
        with tcpserver(home, ":allow") as server:
            ours = told(server.port, seen)
    assert [{k: v for k, v in f.items() if k not in POSTFIXS} for f in theirs] == ours


def is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
