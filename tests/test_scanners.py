"""clamd, spamd and rspamd of Debian's: what is refused, and what is added to the header."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness import Home
from run import Run
from scanners import EICAR, GTUBE, Clamd, Rspamd, Spamd

pytestmark = pytest.mark.interop

CLEAN = b"From: a@b.example\nSubject: plain\n\nThis is plain.\n"
SPAMMY = b"From: a@b.example\nSubject: a spammy one\nX-Spam-Flag: NO\n\nThis is not.\n"
WITH_EICAR = b"From: a@b.example\nSubject: plain\n\n" + EICAR + b"\n"
WITH_GTUBE = b"From: a@b.example\nSubject: plain\n\n" + GTUBE + b"\n"


def send(home: Home, *messages: bytes, sender: str = "a@b.example", **environ: Any) -> Run:
    """One session with these messages."""
    pieces = [b"EHLO client.example"]
    for message in messages:
        pieces += [b"MAIL FROM:<%b>" % sender.encode(), b"RCPT TO:<x@ok.example>", b"DATA"]
        pieces.append(message.replace(b"\n", b"\r\n") + b".")
    return home.run(b"".join(piece + b"\r\n" for piece in [*pieces, b"QUIT"]), **environ)


def verdicts(run: Run) -> list[bytes]:
    """What was said of each message."""
    lines = iter(run.lines)
    return [next(lines) for line in lines if line.startswith(b"354 ")]


TAKEN = b"250 ok TIME qp PID"


@pytest.fixture
def clamd(home: Home) -> Iterator[Clamd]:
    with Clamd() as daemon:
        home.control("clamd", daemon.address)
        yield daemon


@pytest.fixture
def spamd(home: Home) -> Iterator[Spamd]:
    with Spamd() as daemon:
        home.control("spamd", f"{daemon.address} reject=100")
        yield daemon


@pytest.fixture
def rspamd(home: Home) -> Iterator[Rspamd]:
    with Rspamd() as daemon:
        home.control("rspamd", daemon.address)
        yield daemon


def header(home: Home) -> list[bytes]:
    """The header of the only message that was queued, behind our Received."""
    (message,) = home.messages()
    return message.body.partition(b"\n\n")[0].split(b"\n")


def test_clamd(home: Home, clamd: Clamd) -> None:
    run = send(home, WITH_EICAR, b"X-Virus-Status: Clean (said who?)\n" + CLEAN)
    name = clamd.VIRUS.encode()
    assert verdicts(run) == [b"554 message has a virus: %b (#5.7.1)" % name, TAKEN]
    assert header(home) == [b"X-Virus-Status: Clean", b"From: a@b.example", b"Subject: plain"]
    refused, taken = run.events("message")
    assert (refused["verdict"], refused["by"]) == ("refused", "clamd")
    assert taken["verdict"] == "accepted"
    print(run.log)


def test_spamd(home: Home, spamd: Spamd) -> None:
    run = send(home, WITH_GTUBE, SPAMMY)
    print(run.log)
    print(header(home))


def test_rspamd(home: Home, rspamd: Rspamd) -> None:
    run = send(home, WITH_GTUBE, SPAMMY)
    print(run.log)
    print(header(home))
    print(verdicts(run))
    print(rspamd.log()[-3000:])
