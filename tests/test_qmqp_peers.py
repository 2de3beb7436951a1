"""QMQP with other people's programs: Postfix's, mailfront's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from client import PATIENCE, Client
from harness import Home, needs, wait_for
from hubs import LARGE, MESSAGE, QMQPC, hand_over
from listeners import Listener, listening, tcpserver
from postfix import Postfix

pytestmark = pytest.mark.interop

ENVELOPE = b"Fa@b.example\0Tx@ok.example\0Ty@ok.example\0\0"


def reachable(port: int) -> bool:
    try:
        Client.connect(port).close()
    except ConnectionRefusedError:
        return False
    return True


# -- hubs of others ------------------------------------------------------------


def test_qmqp_sink(home: Home) -> None:
    """Postfix's, which counts, and stores nothing."""
    with Postfix(1) as postfix:  # only for a port that is free
        port = postfix.port
    process = subprocess.Popen(
        [needs("qmqp-sink"), "-c", f"127.0.0.1:{port}", "10"], stdout=subprocess.PIPE
    )
    try:
        wait_for(lambda: reachable(port))
        home.control("qmqpservers", f"127.0.0.1:{port}")
        for message in (b"", MESSAGE, LARGE):
            assert hand_over(home, message, ENVELOPE).code == 0
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def mailfront(home: Home) -> Iterator[Listener]:
    """qmqpfront-qmail under tcpserver, with the oracle as its queue program."""
    options = ["-1", "-HRl", "hub.example", "127.0.0.1", "0"]
    command = [needs("tcpserver"), *options, needs("qmqpfront-qmail")]
    with Listener(command, listening(home), home.path / "mailfront.log") as listener:
        home.control("qmqpservers", f"127.0.0.1:{listener.port}")
        yield listener


def test_mailfront(home: Home, mailfront: Listener) -> None:
    for message in (MESSAGE, LARGE):
        done = hand_over(home, message, ENVELOPE)
        assert done.code == 0, (done, mailfront.log())
    first, second = home.messages()
    assert (first.sender, first.recipients) == (b"a@b.example", [b"x@ok.example", b"y@ok.example"])
    assert first.text.endswith(MESSAGE) and second.text.endswith(LARGE)


def test_mailfront_that_refuses(home: Home, mailfront: Listener) -> None:
    """Its own words reach whoever has sent the message."""
    said = "5.1.2 Address does not contain a fully qualified domain name"
    done = hand_over(home, envelope=b"Fa@b\0Tx@ok.example\0\0", channel=6)
    assert (done.code, done.text) == (82, f"D{said}".encode())
    home.environ["QMAILQUEUE"] = str(QMQPC)
    with tcpserver(home, ":allow") as front, front.client() as client:
        client.reply()
        assert client.deliver() == f"554 {said}".encode()
    assert list(home.spool.glob("[0-9]*")) == []


def test_mailfront_whose_queue_fails(home: Home) -> None:
    home.environ["QMAILQUEUE"] = home.script("cat >/dev/null; exit 53\n")
    options = ["-1", "-HRl", "hub.example", "127.0.0.1", "0"]
    command = [needs("tcpserver"), *options, needs("qmqpfront-qmail")]
    with Listener(command, listening(home), home.path / "mailfront.log") as listener:
        home.control("qmqpservers", f"127.0.0.1:{listener.port}")
        assert hand_over(home, MESSAGE, ENVELOPE).code == 71


def test_a_front_end_and_a_hub_of_postfix(home: Home) -> None:
    """Front end -> QMQP -> Postfix's queue -> SMTP -> stored, each of them a program that runs."""
    (home.path / "inside").mkdir()
    inside = Home(home.path / "inside")
    with tcpserver(inside, ":allow") as sink, Postfix(sink.port, qmqp="127.0.0.1") as hub:
        hub.wait_until_ready()
        home.control("qmqpservers", f"127.0.0.1:{hub.port}")
        home.environ["QMAILQUEUE"] = str(QMQPC)
        with tcpserver(home, ":allow") as front, front.client() as client:
            client.reply()
            assert client.deliver(b"Subject: through\r\n\r\nhi\r\n").startswith(b"250 ok ")
            client.quit()
            assert "has it: Ok: queued as " in front.log()
        assert " status=sent " in hub.outcome()
        wait_for(inside.messages)
    (message,) = inside.messages()
    assert message.recipients == [b"x@ok.example"]
    assert b"Subject: through\n" in message.text and message.text.endswith(b"\n\nhi\n")


@pytest.mark.parametrize(("clients", "takes"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_the_clients_of_postfix(home: Home, clients: str, takes: bool) -> None:
    """Where its list has not us, it reads nothing, says so after a second and closes."""
    words = "Error: localhost[127.0.0.1] is not authorized to use this service"
    with Postfix(1, qmqp=clients) as hub:
        hub.wait_until_ready()
        home.control("qmqpservers", f"127.0.0.1:{hub.port}")
        for message in (MESSAGE, LARGE):
            done = hand_over(home, message, ENVELOPE, channel=6)
            assert (done.code, done.text) == ((0, b"") if takes else (82, f"D{words}".encode()))
        checked = home.run(b"", "--check", QMAILQUEUE=str(QMQPC))
        assert (b" (it takes a connection)" in checked.out) == takes
        assert (words.encode() in checked.out) != takes
        assert checked.status == (0 if takes else 1)


def test_the_check_of_mailfront(home: Home, mailfront: Listener) -> None:
    checked = home.run(b"", "--check", QMAILQUEUE=str(QMQPC))
    assert checked.status == 0 and b" (it takes a connection)" in checked.out
