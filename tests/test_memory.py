"""Memory stays flat, whatever arrives and however much of it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import pytest
from child import Child
from daemons import Peer, clamd, http, rspamd, spam, spamd
from dkim_signer import Ed25519Key, sign
from dns_server import DnsServer
from harness import Home

pytestmark = pytest.mark.slow

MB = 1024 * 1024
#: How much more than a message of 1 KB anything may take.
ALLOWED = 2 * MB


def start(home: Home, **environ: Any) -> Child:
    count = home.script(f"wc -c >{home.path}/count; cat <&1 >/dev/null\n")
    talk = home.talk(QMAILQUEUE=count, **environ)
    assert talk.reply().startswith(b"220 ")
    return talk


def message(talk: Child, block: bytes, times: int = 1) -> bytes:
    """Send a message that is a block many times over; the last reply."""
    assert talk.ask(b"MAIL FROM:<>", b"RCPT TO:<b@ok.example>", b"DATA") == b"354 go ahead"
    for _ in range(times):
        talk.send(block)
    talk.send(b"\r\n.\r\n")
    return talk.reply()


def stored(home: Home) -> int:
    """How many bytes the queue program was given."""
    return int((home.path / "count").read_text())


@pytest.fixture
def least(home: Home) -> int:
    """What a message of 1 KB takes."""
    talk = start(home)
    assert message(talk, b"x" * 1024).startswith(b"250 ok ")
    assert 1024 < stored(home) < 2048
    found = talk.peak_memory()
    talk.end()
    return found


@pytest.mark.parametrize(
    "block",
    [
        b"x" * 64,
        b"x\r\n" * 20,
        b"\r\n" * 32,
        b"..\r\n" * 16,
        b"\r\n.\r" * 16,
        b"\r" * 64,
        b"Received: x\r\n",
        b"received",
        b"\0\xff" * 32,
    ],
    ids=lambda block: repr(block[:10]),
)
@pytest.mark.parametrize("mode", ["reject", "normalize"])
def test_10_mb(home: Home, least: int, block: bytes, mode: str) -> None:
    """The first one is a text line of 10 MB."""
    talk = start(home, MAXHOPS="9999999", BARELF=mode)
    size = len(block) * 16384
    reply = message(talk, block * 16384, times=10 * MB // size)
    assert reply.startswith(b"250 ok ")
    assert stored(home) > 4 * MB
    used = talk.peak_memory() - least
    print(f"{used // 1024} KB more")
    assert used < ALLOWED
    assert talk.end().status == 0


def test_10_mb_of_bare_lf(home: Home, least: int) -> None:
    talk = start(home, BARELF="normalize")
    assert message(talk, b"\n." * MB, times=5).startswith(b"250 ok ")
    assert stored(home) > 10 * MB
    assert talk.peak_memory() - least < ALLOWED
    talk.end()


def test_command_line_of_10_mb(home: Home, least: int) -> None:
    talk = start(home)
    for _ in range(3):
        talk.send(b"NOOP ")
        for _ in range(10):
            talk.send(b"x" * MB)
        assert talk.ask(b"") == b"500 line too long (#5.5.2)"
        assert talk.ask(b"HELP").startswith(b"214 ")  # it is in step
    used = talk.peak_memory() - least
    print(f"{used // 1024} KB more")
    assert used < ALLOWED
    assert talk.end().status == 0


def test_command_line_without_end(home: Home, least: int) -> None:
    """It is cut off; how far, is the program's own secret."""
    talk = start(home)
    most = 0
    for _ in range(100):
        try:
            most = talk.peak_memory()
        except (OSError, ValueError):
            break  # it has ended
        if not talk.send_each(b"x" * MB):
            break
    else:
        raise AssertionError("100 MB are no command")
    run = talk.end(quit=False)
    assert run.event("session")["end"] == "line-without-end"
    assert int(run.event("session")["bytes_in"]) < 20 * MB
    assert 0 < most < least + ALLOWED
    assert run.status == 1


@pytest.mark.parametrize("name", ["clamd", "messagecheck", "rspamd", "spamd"])
def test_scanned(home: Home, name: str) -> None:
    """30 MB that are shown to somebody, from the file in which they are."""
    answer = http(b'{"action": "no action", "score": 1, "required_score": 15}')
    script = {
        "clamd": clamd(lambda message: b"stream: OK\n"),
        "rspamd": rspamd(lambda head, message: answer),
        "spamd": spamd(lambda head, message: spam(b"1.0")),
    }.get(name)
    control = "/bin/true" if script is None else f"{name}.socket size=99999999"
    home.control(name, control)
    with ExitStack() as stack:
        if script is not None:
            stack.enter_context(Peer(script, home.path / f"{name}.socket"))
        talk = start(home)
        assert message(talk, b"x" * 1024).startswith(b"250 ok ")
        before = talk.peak_memory()
        assert message(talk, (b"x" * 62 + b"\r\n") * 16384, times=30).startswith(b"250 ok ")
        assert stored(home) > 29 * MB
        assert talk.peak_memory() - before < ALLOWED
        assert talk.end().events("plugin") == [] or name in ("rspamd", "spamd")


def test_signed(home: Home) -> None:
    """30 MB whose signature is checked, from the file in which they are."""
    key, line = Ed25519Key(), b"x" * 62 + b"\n"
    head = b"From: a@a.com\n\n"
    with DnsServer(key.record("s._domainkey.a.com")) as dns:
        talk = start(home, DKIM="", AUTHRESULTS="", DNSCACHEIP=dns.where)
        before = 0
        for size in (1, 30 * MB):
            text = sign(
                head + line * (size // 63 + 1), key, forms="relaxed/relaxed", headers="From"
            )
            block = text.replace(b"\n", b"\r\n").removesuffix(b"\r\n")
            assert message(talk, block).startswith(b"250 ok ")
            before = before or talk.peak_memory()
        assert stored(home) > 30 * MB
        assert talk.peak_memory() - before < ALLOWED
        results = [event["result"] for event in talk.end().events("plugin")]
        assert results == ["pass", "pass"]


@pytest.mark.parametrize("held", [False, True])
def test_a_header_of_10_mb(home: Home, held: bool) -> None:
    """What says that it is ours is removed also from the end of it."""
    forged = b"Authentication-Results: mx.example; dkim=pass\r\n"
    lines = b"A: b\r\n" * (MB // 6)
    talk = start(home, AUTHRESULTS="", **({"DKIM": ""} if held else {}))
    assert message(talk, b"A: b").startswith(b"250 ok ")
    before = talk.peak_memory()
    block = (lines + forged) * 10 + b"\r\nbody"
    assert message(talk, block).startswith(b"250 ok ")
    assert talk.peak_memory() - before < 8 * ALLOWED  # of a header 256 KB are taken to pieces
    removed = [event for event in talk.end().events("plugin") if "removed" in event]
    assert len(removed) == 10


def test_200_mb(home: Home, least: int) -> None:
    large(home, least, 200)


def test_1_gb(home: Home, least: int) -> None:
    large(home, least, 1024)


def large(home: Home, least: int, megabytes: int) -> None:
    talk = start(home)
    started = time.monotonic()
    line = b"x" * 62 + b"\r\n"
    assert message(talk, line * (MB // 64), times=megabytes).startswith(b"250 ok ")
    seconds = time.monotonic() - started
    assert stored(home) // MB == megabytes * 63 // 64
    used = talk.peak_memory() - least
    print(f"{megabytes} MB: {used // 1024} KB more, {megabytes / seconds:.0f} MB/s")
    assert used < ALLOWED
    run = talk.end()
    assert int(run.event("message")["size"]) == megabytes * MB * 63 // 64 + 1
