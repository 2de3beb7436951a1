"""QMQP and QMTP with other people's programs: Postfix's, mailfront's, nullmailer's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from client import PATIENCE, Client
from harness import BIN, Home, needs, wait_for
from hubs import LARGE, MESSAGE, QMQPC, hand_over
from listeners import Listener, Server, listening, tcpserver
from netstrings import ns, split
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


def test_front_ends_without_a_program(home: Home, mailfront: Listener) -> None:
    """The filter qmqpqueue, cold and warm, with mailfront as the hub, which then refuses."""
    del home.environ["QMAILQUEUE"]
    home.environ["QMQPQUEUE"] = "on"
    for number, warm in enumerate((False, True)):
        front: Listener = Server(home) if warm else tcpserver(home, ":allow")
        with front, front.client() as client:
            client.reply()
            assert client.deliver(sender=b"a@b.example").startswith(b"250 ok ")
            said = client.deliver(sender=b"a@b")
            assert said == b"554 5.1.2 Address does not contain a fully qualified domain name"
        assert len(list(home.spool.glob("[0-9]*.message"))) == number + 1


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


# -- clients of others, of which nullmailer's sends one message, and Postfix's many ----


SERVERS = ["tcpserver", "qsmtpd-server"]


@pytest.fixture(params=SERVERS)
def qmqpd(request: pytest.FixtureRequest, home: Home) -> Iterator[Listener]:
    """Ours, cold and warm, for clients of this machine."""
    home.control("qmqpclients", "127.0.0.1")
    with served(home, "qmqp", request.param) as listener:
        yield listener


def served(home: Home, protocol: str, by: str) -> Listener:
    if by == "qsmtpd-server":
        return Server(home, "--protocol", protocol)
    options = ["-1", "-HRl", "mx.example", "127.0.0.1", "0"]
    command = [needs("tcpserver"), *options, str(BIN / f"qsmtpd-{protocol}d")]
    return Listener(command, listening(home), home.path / "log")


def test_qmqp_source(home: Home, qmqpd: Listener) -> None:
    options = ["-s", "4", "-m", "20", "-l", "2000", "-r", "3"]
    addresses = ["-f", "a@b.example", "-t", "x@ok.example"]
    command = [needs("qmqp-source"), *options, *addresses, f"127.0.0.1:{qmqpd.port}"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    stored = home.messages()
    assert len(stored) == 20
    for message in stored:
        assert message.sender == b"a@b.example"
        assert message.recipients == [b"%dx@ok.example" % number for number in range(3)]
        assert b" with QMQP; " in message.text


def nullmailer(home: Home, port: int, text: bytes) -> subprocess.CompletedProcess[bytes]:
    """Send a file of its queue, as its nullmailer-send does: options on 0, the file on 3."""
    home.file("queued", b"a@b.example\nx@ok.example\ny@ok.example\n\n", text)
    home.file("options", f"host=127.0.0.1\nport={port}\n")
    return subprocess.run(
        ["sh", "-c", 'exec "$0" <options 3<queued', needs("qmqp")],
        cwd=home.path,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def test_nullmailer(home: Home, qmqpd: Listener) -> None:
    text = b"Subject: x\n\n.\n..\n\xff\r\nno end"
    done = nullmailer(home, qmqpd.port, text)
    assert done.returncode == 0 and done.stdout.startswith(b"ok "), done
    (message,) = home.messages()
    assert message.recipients == [b"x@ok.example", b"y@ok.example"]
    assert message.body == text


def test_nullmailer_that_is_refused(home: Home, qmqpd: Listener) -> None:
    """It hears why, and whether it is for good."""
    home.control("badrcptto", "y@ok.example")
    home.control("qmqpclients", "192.0.2.1")
    if isinstance(qmqpd, Server):
        qmqpd.reload()
    done = nullmailer(home, qmqpd.port, b"Subject: x\n\nhi\n")
    assert done.returncode != 0
    said = b"sorry, you are not one of the clients of this server (#4.7.1)"
    assert said in done.stdout + done.stderr
    assert home.messages() == []


# -- QMTP ------------------------------------------------------------------------


def send_qmtp(port: int, *packages: tuple[bytes, bytes, list[bytes]]) -> list[list[bytes]]:
    """A QMTP client of this file's own: all packages at once; the verdicts of each.

    There is no other that Debian, PyPI or npm has; CPAN's Net::QMTP was tried by hand.  It knows
    nothing of ours, and mailfront's server understands it.
    """
    with Client.connect(port) as client:
        for text, sender, recipients in packages:
            inner = b"".join(map(ns, recipients))
            client.send(ns(text) + ns(sender) + ns(inner))
        client.end_input()
        answers = split(client.rest())
    found = []
    for _, _, recipients in packages:
        found.append([answers.pop(0) for _ in recipients])
    assert answers == []
    return found


TWO_PACKAGES = (
    (b"\nSubject: x\n\nhi\n.\n", b"a@b.example", [b"x@ok.example"]),
    (b"\rSubject: y\r\n\r\nhi\r\n.\r\n", b"", [b"y@ok.example"]),
)


def stored(home: Home) -> None:
    """These two are, as they are meant."""
    one, other = home.messages()
    assert (one.sender, one.recipients) == (b"a@b.example", [b"x@ok.example"])
    assert (other.sender, other.recipients) == (b"", [b"y@ok.example"])
    assert one.text.endswith(b"Subject: x\n\nhi\n.\n")
    assert other.text.endswith(b"Subject: y\n\nhi\n.\n")


@pytest.mark.parametrize("by", SERVERS)
def test_qmtp(home: Home, by: str) -> None:
    """One package with LF and one with CRLF, and a recipient whom nobody here takes."""
    (text, sender, recipients), second = TWO_PACKAGES
    first = (text, sender, [*recipients, b"x@no.example"])
    with served(home, "qmtp", by) as server:
        verdicts = send_qmtp(server.port, first, second)
    assert [verdict[:1] for verdict in sum(verdicts, [])] == [b"K", b"D", b"K"]
    stored(home)


def test_the_client_with_mailfront(home: Home) -> None:
    """What it sends is QMTP to others, too; but theirs knows no CRLF, and no mixed verdicts."""
    options = ["-1", "-HRl", "mx.example", "127.0.0.1", "0"]
    command = [needs("tcpserver"), *options, needs("qmtpfront-qmail")]
    with Listener(command, listening(home), home.path / "log") as server:
        first, (text, sender, recipients) = TWO_PACKAGES
        second = (b"\n" + text.replace(b"\r", b""), sender, recipients)
        verdicts = send_qmtp(server.port, first, second)
    assert [verdict[:1] for verdict in sum(verdicts, [])] == [b"K", b"K"]
    stored(home)
