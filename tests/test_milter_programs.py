"""Milters of other people's, from Debian: each accepts, refuses, defers and changes, as it can."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from harness import Home
from milterprograms import (
    ClamavMilter,
    OpenDkim,
    OpenDmarc,
    RspamdMilter,
    SpamassMilter,
    SpamdOfMilter,
)
from run import Run
from scanners import EICAR, GTUBE, Clamd, Scanner, Spamd

pytestmark = pytest.mark.interop

HEADER = b"From: a@b.example\nTo: x@ok.example\nDate: Thu, 26 Nov 2026 23:57:10 +0000\n"
BEGIN = b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n"


def message(subject: bytes = b"one", body: bytes = b"hello\n", header: bytes = HEADER) -> bytes:
    return header + b"Message-ID: <1@b.example>\nSubject: " + subject + b"\n\n" + body


def send(home: Home, *milters: str, text: bytes) -> Run:
    """A session with these milters, and with this message."""
    home.control("milters", *(f"{address} name=m{n}" for n, address in enumerate(milters)))
    data = text.replace(b"\n", b"\r\n").replace(b"\r\n.", b"\r\n..") + b".\r\n"
    return home.run(BEGIN + data + b"QUIT\r\n", TCPREMOTEPORT="4025")


def reply(run: Run) -> bytes:
    return run.lines[-2]


def stored(home: Home) -> bytes:
    (one,) = home.messages()
    home.clear()
    return one.text


def restarted(home: Home, milter: Scanner, address: str) -> None:
    """While it is away mail is deferred; when it is there again, it is taken."""
    milter.stop()
    milter.socket.unlink(missing_ok=True)
    run = send(home, address, text=message())
    assert run.codes[2] == 451
    assert run.events("refused")[0]["by"] == "milter"
    milter.start()
    assert reply(send(home, address, text=message())).startswith(b"250 ok ")
    assert stored(home)


@pytest.fixture
def spamd() -> Iterator[Spamd]:
    with SpamdOfMilter() as started:
        yield started


@pytest.fixture
def clamd() -> Iterator[Clamd]:
    with Clamd() as started:
        yield started


def test_opendkim_signs_and_verifies(home: Home) -> None:
    with OpenDkim("s") as signer, OpenDkim("v") as verifier:
        run = send(home, signer.address, text=message(body=b"hello\n.\nfrom me\n"))
        assert reply(run).startswith(b"250 ok ")
        signed = stored(home)
        assert run.event("plugin")["changes"].startswith("insert DKIM-Signature")
        signed = re.sub(rb"\AReceived: .*\n(?:[ \t].*\n)*", b"", signed)
        assert signed.startswith(b"DKIM-Signature: v=1; ")

        run = send(home, verifier.address, text=signed)
        assert reply(run).startswith(b"250 ok ")
        assert b"dkim=pass" in stored(home)

        run = send(home, verifier.address, text=signed.replace(b"Subject: one", b"Subject: two"))
        assert reply(run) == b"550 bad DKIM signature data (#5.7.0)"

        run = send(home, verifier.address, text=signed.replace(b"s=s1", b"s=s2"))
        assert run.codes[-2] == 451
        assert home.messages() == []

        forged = b"Authentication-Results: mx.example; dkim=pass header.d=b.example\n"
        run = send(home, verifier.address, text=forged + message())
        assert b"dkim=pass" not in stored(home)
        restarted(home, signer, signer.address)


def test_opendkim_before_opendmarc(home: Home) -> None:
    with OpenDkim("v") as dkim, OpenDmarc() as dmarc:
        run = send(home, dkim.address, dmarc.address, text=message())
        assert reply(run).startswith(b"250 ok ")
        text = stored(home)
        assert text.count(b"Authentication-Results: mx.example") == 2
        assert b"dmarc=" in text and b"DMARC-Filter: OpenDMARC Filter" in text
        assert reply(send(home, dmarc.address, text=b"Subject: x\n\nhi\n"))[:4] == b"550 "
        assert home.messages() == []
        restarted(home, dmarc, dmarc.address)


def test_clamav_milter(home: Home, clamd: Clamd) -> None:
    with ClamavMilter(clamd) as milter:
        assert reply(send(home, milter.address, text=message())).startswith(b"250 ok ")
        text = stored(home)
        assert b"\nX-Virus-Scanned: clamav-milter" in text
        assert b"\nX-Virus-Status: Clean\n" in text
        assert send(home, milter.address, text=message(body=EICAR + b"\n")).codes[-2] == 550
        clamd.stop()
        assert send(home, milter.address, text=message()).codes[-2] == 451
        clamd.start()
        assert home.messages() == []
        restarted(home, milter, milter.address)


@pytest.mark.parametrize("infected", ["Defer", "Blackhole", "Quarantine"])
def test_what_clamav_milter_does_with_a_virus(home: Home, clamd: Clamd, infected: str) -> None:
    with ClamavMilter(clamd, infected) as milter:
        run = send(home, milter.address, text=message(body=EICAR + b"\n"))
    if infected == "Defer":
        assert run.codes[-2] == 451
    elif infected == "Blackhole":
        assert run.codes[-2] == 250
        assert run.event("message")["verdict"] == "discarded"
    else:
        assert b"\nX-Quarantine: " in stored(home)
    assert home.messages() == []


def test_spamass_milter(home: Home, spamd: Spamd) -> None:
    with SpamassMilter(spamd) as milter:
        assert reply(send(home, milter.address, text=message())).startswith(b"250 ok ")
        assert b"\nX-Spam-Checker-Version: " in stored(home)
        assert reply(send(home, milter.address, text=message(b"spammy"))).startswith(b"250 ok ")
        text = stored(home)
        assert b"\nX-Spam-Flag: YES\n" in text and b" 7.0 T_SPAMMY The subject says so\n" in text
        run = send(home, milter.address, text=message(body=GTUBE + b"\n"))
        assert run.codes[-2] == 550
        assert home.messages() == []
        restarted(home, milter, milter.address)


def test_rspamd(home: Home) -> None:
    with RspamdMilter() as milter:
        assert reply(send(home, milter.address, text=message())).startswith(b"250 ok ")
        assert b"\nX-Spamd-Result: default: False" in stored(home)
        assert reply(send(home, milter.address, text=message(b"spammy"))).startswith(b"250 ok ")
        assert b"\nX-Spam: Yes\n" in stored(home)
        run = send(home, milter.address, text=message(body=GTUBE + b"\n"))
        assert run.codes[-2] == 554
        assert send(home, milter.address, text=message(b"later")).codes[-2] == 451
        run = send(home, milter.address, text=message(b"nowhere"))
        assert run.codes[-2] == 250
        assert run.event("message")["verdict"] == "discarded"
        assert home.messages() == []
        send(home, milter.address, text=message(b"rename"))
        assert b"\nSubject: *** SPAM *** rename\n" in stored(home)
        gone = HEADER + b"X-Gone: 1\nX-Gone: 2\n"
        send(home, milter.address, text=message(b"gone", header=gone))
        assert b"\nX-Gone" not in stored(home)
        restarted(home, milter, milter.address)


def test_all_of_them_and_check(home: Home, clamd: Clamd) -> None:
    with (
        OpenDkim("v") as dkim,
        OpenDmarc() as dmarc,
        ClamavMilter(clamd) as clamav,
        RspamdMilter() as rspamd,
    ):
        addresses = [one.address for one in (dkim, dmarc, clamav, rspamd)]
        assert reply(send(home, *addresses, text=message())).startswith(b"250 ok ")
        text = stored(home)
        for name in (b"Authentication-Results", b"X-Virus-Status", b"X-Spamd-Result"):
            assert b"\n" + name + b": " in b"\n" + text
        out = home.run(b"", "--check").out
    assert out.count(b"it answers version 6, and may change the header") == 4
