"""The filters that look at a message: headers, loop."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from harness import Home
from listeners import tcpserver

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.decision import DECLINE, Decision
from qsmtpd.facts import Client, ControlError, Envelope, Message, Peer, Ruling
from qsmtpd.filters import headers, loop
from qsmtpd.policy.stages import reply_to
from qsmtpd.smtp.header import parse_header

CLIENT = Client(Peer(ip=b"192.0.2.1", local_host=b"mx.example"))


def settings(home: Home, **environ: str) -> Settings:
    variables = {name.encode(): value.encode() for name, value in environ.items()}
    return Settings(ControlFiles(str(home.path).encode()), variables)


def message(header: str, whole: bool = True) -> Message:
    return Message(parse_header(header.encode()), whole)


def said(stage: str, decision: Decision) -> str:
    """The reply to the client, or "" for no opinion."""
    if decision.verdict == DECLINE:
        return ""
    return reply_to(Ruling(stage, "", decision)).wire().decode()


# -- headers ---------------------------------------------------------------

FROM, DATE = "From: a@b.example\n", f"Date: {formatdate()}\n"
LONG = "554 message header is too long to be checked (#5.6.0)"


def lacks(name: str) -> str:
    return f"554 message lacks a {name} line (#5.6.0)"


def twice(name: str) -> str:
    return f"554 message has more than one {name} line (#5.6.0)"


def without_date(value: object) -> str:
    """The same in each process of a parallel run."""
    return str(value).replace(DATE, "DATE")


@pytest.mark.parametrize(
    ("environ", "header", "reply"),
    [
        ({}, "", ""),
        ({"REQUIREDHEADERS": ""}, FROM + DATE, ""),
        ({"REQUIREDHEADERS": ""}, "FROM:\ndate : x\n", ""),
        ({"REQUIREDHEADERS": ""}, DATE, lacks("From")),
        ({"REQUIREDHEADERS": ""}, FROM, lacks("Date")),
        ({"REQUIREDHEADERS": ""}, "", lacks("From")),
        ({"REQUIREDHEADERS": ""}, FROM + "no line\n" + DATE, lacks("Date")),
        ({"REQUIREDHEADERS": ""}, FROM + " " + DATE, lacks("Date")),
        ({"REQUIREDHEADERS": "-"}, "", ""),
        ({"REQUIREDHEADERS": "Subject"}, FROM + DATE, lacks("Subject")),
        ({"REQUIREDHEADERS": "to, subject"}, "TO:\nsubject: x\n", ""),
        ({"REQUIREDHEADERS": "-"}, FROM + FROM, ""),
        ({"SINGLEHEADERS": ""}, "", ""),
        ({"SINGLEHEADERS": ""}, FROM + DATE, ""),
        ({"SINGLEHEADERS": ""}, FROM + DATE + "FROM : x\n", twice("From")),
        ({"SINGLEHEADERS": ""}, "Message-Id: <a>\nMessage-ID: <b>\n", twice("Message-ID")),
        ({"SINGLEHEADERS": ""}, "Received: a\nReceived: b\nComments: \nComments:\n", ""),
        ({"SINGLEHEADERS": "X-a"}, FROM + FROM, ""),
        ({"SINGLEHEADERS": "X-a"}, "x-a:\n" * 3, twice("X-a")),
        ({"SINGLEHEADERS": "-", "REQUIREDHEADERS": "From"}, FROM + FROM, ""),
        ({"SINGLEHEADERS": "", "REQUIREDHEADERS": ""}, FROM + FROM + DATE, twice("From")),
    ],
    ids=without_date,
)
def test_headers(home: Home, environ: dict[str, str], header: str, reply: str) -> None:
    plugin = headers.Plugin(settings(home, **environ))
    assert said("header", plugin.header(CLIENT, Envelope(b""), message(header))) == reply


@pytest.mark.parametrize(
    ("header", "reply"),
    [(FROM + DATE, LONG), (DATE, LONG), (FROM + FROM, twice("From"))],
    ids=without_date,
)
def test_a_header_without_an_end(home: Home, header: str, reply: str) -> None:
    """What has not been seen may hold anything: the filter is not fooled by it."""
    plugin = headers.Plugin(settings(home, REQUIREDHEADERS="", SINGLEHEADERS=""))
    assert said("header", plugin.header(CLIENT, Envelope(b""), message(header, False))) == reply


@pytest.mark.parametrize(
    ("days", "zone", "reply"),
    [
        (0, "+0000", ""),
        (-9.9, "+0000", ""),
        (-10.1, "+0000", "554 message is dated too far in the past (#5.6.0)"),
        (1.9, "+0000", ""),
        (2.1, "+0000", "554 message is dated too far in the future (#5.6.0)"),
        (2.1, "+0300", ""),  # where it is later, it is no later
        (-9.9, "+0300", "554 message is dated too far in the past (#5.6.0)"),
    ],
)
def test_dates(home: Home, days: float, zone: str, reply: str) -> None:
    home.control("datepast", "10")
    plugin = headers.Plugin(settings(home, DATEFUTURE="2"))
    date = formatdate(time.time() + days * 86400).replace("-0000", zone)
    assert zone in date
    for header in (f"Date: {date}\n", f"{FROM}DATE :\n {date}\n"):
        decision = plugin.header(CLIENT, Envelope(b""), message(header))
        assert said("header", decision) == reply
    both = message(f"{DATE}Date: {date}\n")
    assert said("header", plugin.header(CLIENT, Envelope(b""), both)) == reply


def test_dates_that_are_none(home: Home) -> None:
    plugin = headers.Plugin(settings(home, DATEPAST="10"))
    decision = plugin.header(CLIENT, Envelope(b""), message("Date: now\n"))
    assert said("header", decision) == "554 message has a Date that is no date (#5.6.0)"
    # Whether there has to be one is for REQUIREDHEADERS to say.
    assert said("header", plugin.header(CLIENT, Envelope(b""), message(FROM))) == ""
    year = headers.Plugin(settings(home, DATEFUTURE="0"))
    assert said("header", year.header(CLIENT, Envelope(b""), message("Date: 1 Jan 99 0:0\n"))) == ""


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"REQUIREDHEADERS": "From:"}, "REQUIREDHEADERS"),
        ({"SINGLEHEADERS": "Fr\u00f6m"}, "SINGLEHEADERS"),
        ({"DATEPAST": ""}, "DATEPAST"),
        ({"DATEFUTURE": "-1"}, "DATEFUTURE"),
    ],
)
def test_what_is_no_setting(home: Home, environ: dict[str, str], name: str) -> None:
    with pytest.raises(ControlError) as caught:
        headers.Plugin(settings(home, **environ))
    assert caught.value.name == name


def test_header_files(home: Home) -> None:
    home.control("requiredheaders", "# ours", "Subject", "", "To ")
    home.control("singleheaders")
    plugin = headers.Plugin(settings(home))
    assert said("header", plugin.header(CLIENT, Envelope(b""), message(FROM))) == lacks("Subject")
    both = message("Subject:\nTo:\nto:\n")
    assert said("header", plugin.header(CLIENT, Envelope(b""), both)) == twice("To")
    for name in ("two words", "From,Date", '"From"', "*", "From:"):
        home.control("requiredheaders", "# ours", name)
        with pytest.raises(ControlError, match="line 2: .* is no name of a header line"):
            headers.Plugin(settings(home))


# -- loop ------------------------------------------------------------------

LOOPING = "554 this message is looping (#5.4.6)"
OURS = "Received: from x (HELO by) (by mx.example)\n  by MX.example with SMTP; 1 Jan 2026 0:0\n"
OTHER = "Received: (qmail 1 invoked by uid mx.example) by other.example\n"


@pytest.mark.parametrize(
    ("value", "header", "reply"),
    [
        ("", "", ""),
        ("", "Delivered-To: c@ok.example\n", ""),
        ("", "Delivered-To: b@ok.example\n", LOOPING),
        ("", "Delivered-To: a@ok.example\nDELIVERED-TO :\n  B@OK.Example \n", LOOPING),
        ("", "X-Delivered-To: b@ok.example\n", ""),
        ("", "Delivered-To: list-b@ok.example\n", ""),
        ("", OURS * 10, ""),
        ("", OURS * 11, LOOPING),
        ("2", OURS * 2 + OTHER * 90, ""),
        ("2", OURS + OTHER * 50 + OURS * 2, LOOPING),
        ("2", "Delivered-To: x@mx.example\n" * 2 + OURS, LOOPING),
        ("0", OTHER + "Received: nonsense by\nReceived:\n", ""),
        ("0", "Received: by mx.example;now\n", LOOPING),
        ("0", "Received: by mx.example(x);now\n", LOOPING),
        ("0", "Received: by me.example; now\n", LOOPING),
        ("0", "Received: by by mx.example\n", ""),
        ("0", "Received: ) by mx.example\n", LOOPING),
        ("0", "Received: (((((( by mx.example\n", ""),
    ],
)
def test_loop(home: Home, value: str, header: str, reply: str) -> None:
    home.control("me", "me.example")
    plugin = loop.Plugin(settings(home, LOOPCHECK=value))
    envelope = Envelope(b"")
    envelope.recipients += [b"x@y.example", b"b@OK.example"]
    assert said("header", plugin.header(CLIENT, envelope, message(header))) == reply


def test_loop_settings(home: Home) -> None:
    home.control("loopcheck", "3")
    plugin = loop.Plugin(settings(home))
    for count, reply in ((3, ""), (4, LOOPING)):
        decision = plugin.header(CLIENT, Envelope(b""), message(OURS * count))
        assert said("header", decision) == reply
    with pytest.raises(ControlError):
        loop.Plugin(settings(home, LOOPCHECK="many"))


def test_a_loop_without_a_name(home: Home) -> None:
    """A host that does not know its name takes no other's for its own."""
    (home.control_dir / "me").unlink()
    plugin = loop.Plugin(settings(home, LOOPCHECK="0"))
    nameless = Client(Peer())
    text = message("Received: by unknown; x\nReceived: by\nReceived: x\nDelivered-To: x\n")
    assert said("header", plugin.header(nameless, Envelope(b""), text)) == ""


# -- whole sessions; see also transcripts/filters-message.txt --------------


def test_a_long_header_in_a_session(home: Home) -> None:
    """Where its end was not seen, nothing is known of what it lacks."""
    many = b"X: y\r\n" + b" z\r\n" * 100_000 + FROM.encode() + DATE.encode() + b"\r\n.\r\n"
    session = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<b@ok.example>\r\nDATA\r\n"
    run = home.run(
        session + many.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"), REQUIREDHEADERS=""
    )
    assert run.lines[-1] == LONG.encode()
    assert home.messages() == []


@pytest.mark.slow
def test_loop_in_a_session(home: Home) -> None:
    """A message goes through this host again and again, until it is known to loop."""
    transaction = (b"MAIL FROM:<a@b.example>", b"RCPT TO:<b@ok.example>", b"DATA")
    text = b"Subject: x\n\nbody\n"
    with tcpserver(home, '127.:allow,LOOPCHECK="2"') as listener:
        for _ in range(3):
            sent = text.replace(b"\n", b"\r\n") + b"."
            replies = listener.session(*transaction, sent, b"QUIT")
            assert replies[4].startswith(b"250 ok ")
            text = home.messages()[-1].text
        sent = text.replace(b"\n", b"\r\n") + b"."
        assert listener.session(*transaction, sent, b"QUIT")[4] == LOOPING.encode()
    assert len(home.messages()) == 3
    assert listener.events("message")[-1]["by"] == "loop"
