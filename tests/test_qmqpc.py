"""qsmtpd-qmqpc: what a hub is sent, what its answer means, what else can go wrong."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from typing import Any

import odd_files
import pytest
from daemons import Line
from harness import Home, Variables
from hubs import (
    ANSWERS,
    ENVELOPE,
    LARGE,
    MESSAGE,
    QMQPC,
    REQUEST,
    Hub,
    check,
    hand_over,
    hub,
    says,
)
from hypothesis import given
from hypothesis import strategies as st
from netstrings import ns
from test_maildir import ENVELOPES

from qsmtpd.net import qmqp
from qsmtpd.net.daemon import NoAnswer

__all__ = ["hub"]

MAIL = b"MAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n"


# -- what a hub is sent --------------------------------------------------------


def test_a_message(home: Home, hub: Hub) -> None:
    done = hand_over(home)
    assert (done.code, done.log) == (0, [f"qsmtpd-qmqpc: {hub.where} has it: ok"])
    assert hub.taken == [[MESSAGE, b"a@b", b"x@ok.example", b"y@ok.example"]]


def test_the_bytes_on_the_wire(home: Home) -> None:
    """All of them, and none behind them, for a hub that reads on to the end."""
    heard = b""

    def script(line: Line) -> None:
        nonlocal heard
        heard = line.take(len(REQUEST))
        line.say(b"1:K,")
        heard += line.take(1)

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home).code == 0
    assert heard == REQUEST


@pytest.mark.sample(5)
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 262143, 262144, 262145, 1_000_000])
def test_sizes(home: Home, hub: Hub, size: int) -> None:
    """Around the sizes of what is read at once, and of what is held in memory."""
    message = os.urandom(size)
    assert hand_over(home, message).code == 0
    assert hub.taken == [[message, b"a@b", b"x@ok.example", b"y@ok.example"]]


def test_from_a_file(home: Home, hub: Hub) -> None:
    """As a shell starts it: `qsmtpd-qmqpc <message 1<envelope`, of which some is read already."""
    (home.path / "message").write_bytes(b"gone" + MESSAGE)
    (home.path / "envelope").write_bytes(ENVELOPE)
    with (home.path / "message").open("rb", buffering=0) as zero:
        zero.seek(4)
        with (home.path / "envelope").open("rb") as one:
            done = subprocess.run([QMQPC], stdin=zero, stdout=one, env=home.environ, check=False)
    assert done.returncode == 0
    assert hub.taken == [[MESSAGE, b"a@b", b"x@ok.example", b"y@ok.example"]]


@pytest.mark.sample(9)
@pytest.mark.parametrize(
    ("envelope", "code"),
    [*ENVELOPES, (b"Fa\0\0", 91), (b"F\0\0", 91), (b"\0\0", 91), (b"F" + b"a" * 70_000, 11)],
)
def test_envelopes(home: Home, hub: Hub, envelope: bytes, code: int) -> None:
    """As qsmtpd-maildir has them, but for one without a recipient, which QMQP has not."""
    assert hand_over(home, b"x\n", envelope).code == code
    assert len(hub.taken) == (code == 0)
    assert code == 0 or hub.connections == 0


@pytest.mark.slow
def test_many_recipients(home: Home, hub: Hub) -> None:
    recipients = [b"user%d@ok.example" % number for number in range(200_000)]
    envelope = b"F\0" + b"".join(b"T%b\0" % one for one in recipients) + b"\0"
    assert hand_over(home, b"x\n", envelope).code == 0
    assert hub.taken == [[b"x\n", b"", *recipients]]


@pytest.mark.slow
def test_memory_is_flat(home: Home, hub: Hub) -> None:
    """50 MB take no more than 50 KB do, but for what is read at once."""
    most = []
    for size in (50_000, 50_000_000):
        code = "import os, sys; os.write(2, b'%d\\n' % os.wait4(os.posix_spawn(sys.argv[1], "
        code += "sys.argv[1:], os.environ), 0)[2].ru_maxrss)"
        done = hand_over(home, b"x" * size, wrapper=("python3", "-c", code))
        assert len(hub.taken.pop()[0]) == size
        most.append(int(done.log[-1]))
    assert most[1] - most[0] < 2048, most  # KB


# -- what an answer means ------------------------------------------------------

#: The whole of what a hub says, and the exit code.


@pytest.mark.sample(16)
@pytest.mark.parametrize(("answer", "code"), ANSWERS)
def test_answers(home: Home, answer: bytes, code: int) -> None:
    with Hub(answer) as hub, Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        done = hand_over(home)
    assert done.code == code
    assert (len(hub.taken), other.connections) == (1, 0)
    assert len(done.log) == 1 and done.log[0].startswith(f"qsmtpd-qmqpc: {hub.where} ")


def model(data: bytes) -> tuple[bytes, bytes] | None:
    """The same by a regular expression; None for what is no answer."""
    found = re.match(rb"([1-9][0-9]{0,4}):([KZD])", data)
    if found is None:
        return None
    text = data[found.end(1) + 1 :][: int(found[1])]
    if len(text) < int(found[1]) or data[found.end(1) + 1 + len(text) :][:1] != b",":
        return None
    return found[2], text[1:]


def read(data: bytes) -> tuple[bytes, bytes] | None:
    """Ours, of a hub that says this and closes."""
    place = 0

    def exactly(number: int) -> bytes:
        nonlocal place
        if place + number > len(data):
            raise NoAnswer("closed")
        place += number
        return data[place - number : place]

    try:
        return qmqp.read_answer(exactly)
    except NoAnswer:
        return None


@given(
    st.lists(st.sampled_from([*b"0123456789:,KZD", 0, 255, 10]), max_size=12).map(bytes)
    | st.binary(max_size=40)
    | st.builds(
        lambda size, text, end: b"%d:%b%b" % (size + len(text), text, end),
        st.sampled_from([0, 0, 0, 1, -1, 10]),
        st.binary(min_size=1, max_size=20) | st.just(b"Kok"),
        st.sampled_from([b",", b",", b"", b";", b",rest"]),
    )
)
def test_answers_against_a_model(data: bytes) -> None:
    assert read(data) == model(data)


@pytest.mark.parametrize("answer", [b"3:Kok,", b"12:D5.1.1 never,", b"100:Z" + b"x" * 99 + b","])
def test_an_answer_that_is_cut_off(answer: bytes) -> None:
    assert read(answer) == model(answer) is not None
    for cut in range(len(answer)):
        assert read(answer[:cut]) is None


def test_an_answer_byte_by_byte(home: Home) -> None:
    def script(line: Line) -> None:
        line.take(len(REQUEST))
        line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"3:Kok,":
            line.say(bytes((byte,)))

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home).code == 0


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("channel", "environ", "answer", "code", "text"),
    [
        (6, {}, ns(b"Dno such user #5.1.1"), 82, b"Dno such user #5.1.1"),
        (6, {}, b"9:Znot now!,", 82, b"Znot now!"),
        (6, {}, b"3:Kok,", 0, b""),
        (6, {}, b"1:D,", 31, b""),
        (6, {}, b"5:D \r\n\xff,", 31, b""),  # of that qsmtpd makes no text
        (6, {}, b"2:Dx,", 31, b""),  # of less than three bytes qmail-smtpd makes no text
        (6, {}, b"1:Z,", 71, b""),
        (6, {}, ns(b"D" + b"x" * 1000), 82, b"D" + b"x" * 254),
        (4, {"ERROR_FD": "4"}, b"4:Dno!,", 82, b"Dno!"),
        (4, {}, b"4:Dno!,", 31, b""),
        (2, {"ERROR_FD": "2"}, b"4:Dno!,", 82, b"Dno!"),
        (0, {"ERROR_FD": "9"}, b"4:Dno!,", 31, b""),
    ],
)
def test_the_text_of_a_hub(
    home: Home, channel: int, environ: Variables, answer: bytes, code: int, text: bytes
) -> None:
    """Where whoever starts it has made a pipe for it, at the descriptor of errorfd."""
    with Hub(answer) as hub:
        home.control("qmqpservers", hub.where)
        done = hand_over(home, channel=channel, **environ)
    assert (done.code, done.text) == (code, text)
    assert len(done.log) == (channel != 2)


def test_what_a_hub_says_forges_no_line(home: Home) -> None:
    with Hub(ns(b'D\nqsmtpd: x="\\\r\0\xff\x7f\x1b[1m')) as hub:
        home.control("qmqpservers", hub.where)
        done = hand_over(home)
    assert done.log == [f'qsmtpd-qmqpc: {hub.where} rejects it: ?qsmtpd: x="\\?????[1m']


# -- a hub that does not wait for its turn ------------------------------------


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("answer", "code"), [(b"3:Kok,", 74), (b"6:Dnever,", 31), (b"2:Z?,", 71), (b"x", 74), (b"", 74)]
)
@pytest.mark.parametrize("after", [1, 100_000])
def test_an_answer_before_all_was_sent(home: Home, answer: bytes, code: int, after: int) -> None:
    """It closes with most of it unread, which resets the connection."""
    with Hub(script=says(answer, after)) as hub, Hub() as other:
        home.control("qmqpservers", hub.where, other.where)
        assert hand_over(home, LARGE).code == code
    assert other.connections == 0


@pytest.mark.sample(2)
@pytest.mark.parametrize("answer", [b"3:Kok,", b"6:Dnever,"])
def test_a_hub_that_reads_on_after_its_answer(home: Home, answer: bytes) -> None:
    """That it has a message of which it had only the beginning is not believed."""

    def script(line: Line) -> None:
        line.take(1)
        line.say(answer)
        line.wait_for_end()

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home, LARGE).code == (31 if b"D" in answer else 74)


def test_half_closed(home: Home) -> None:
    """A hub that will say nothing any more, and still reads."""

    def script(line: Line) -> None:
        line.take(1)
        line.socket.shutdown(socket.SHUT_WR)
        line.wait_for_end()

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home, LARGE).code == 74
        assert hand_over(home).code == 74


def test_a_hub_does_not_wait_for_our_end(home: Home) -> None:
    """It answers, and keeps the connection open: that is all that is waited for."""

    def script(line: Line) -> None:
        line.take(len(REQUEST))
        line.say(b"3:Kok,")
        line.wait_for_end()

    with Hub(script=script) as hub:
        home.control("qmqpservers", hub.where)
        assert hand_over(home).code == 0


# -- what is wrong here --------------------------------------------------------


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("files", "environ", "words"),
    [
        ({}, {}, "control/qmqpservers: is missing or has no entry: there is no hub"),
        ({"qmqpservers": ""}, {}, "control/qmqpservers: is missing or has no entry"),
        ({"qmqpservers": "#"}, {}, "control/qmqpservers: is missing or has no entry"),
        ({"qmqpservers": "a\na:x"}, {}, "control/qmqpservers: line 2: 'a:x' has no port from 1"),
        ({"qmqpservers": "a\n" * 51}, {}, "control/qmqpservers: has 51 entries, more than 50"),
        ({"qmqpservers": "a", "qmqpcorder": "x"}, {}, "control/qmqpcorder: is 'x', none of listed"),
        ({"qmqpservers": "a"}, {"QMQPCORDER": ""}, "QMQPCORDER: is '', none of listed, rotated"),
        ({"qmqpservers": "a"}, {"QMQPCTIMEOUT": "0"}, "QMQPCTIMEOUT: is '0', less than 1"),
        ({"qmqpservers": "a", "qmqpctimeout": ""}, {}, "control/qmqpctimeout: is ''"),
        ({"qmqpservers": "a"}, {"QMQPCCONNECT": "1s"}, "QMQPCCONNECT: is '1s', which is not"),
        ({"qmqpservers": "a"}, {"ERROR_FD": "10"}, "ERROR_FD: is '10', more than 9"),
    ],
)
def test_no_configuration(
    home: Home, files: dict[str, str], environ: Variables, words: str
) -> None:
    for name, text in files.items():
        home.control(name, text)
    done = hand_over(home, **environ)
    assert done.code == 55
    assert len(done.log) == 1 and words in done.log[0], done.log


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in odd_files.KINDS if k != "unreadable"])
def test_a_servers_file_that_is_none(home: Home, kind: str) -> None:
    """And what cannot be read is not called missing, too."""
    odd_files.make(kind, home.control_dir / "qmqpservers")
    done = hand_over(home)
    assert done.code == 55
    assert done.log[0].startswith("qsmtpd-qmqpc: control/qmqpservers: ")
    assert "missing" not in done.log[0]
    assert check(home) == (1, [done.log[0].replace("qsmtpd-qmqpc", "wrong", 1)])


@pytest.mark.slow
def test_arguments(home: Home) -> None:
    for argument, said in (("--help", b"usage: "), ("--version", b"qsmtpd-qmqpc ")):
        done = subprocess.run([QMQPC, argument], capture_output=True, check=True)
        assert done.stdout.startswith(said) and done.stderr == b""
    done = subprocess.run([QMQPC, "-h"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (55, b"")


def test_a_full_disk(home: Home, hub: Hub) -> None:
    """A file may not grow beyond 64 KB: what a full disk does, without being root."""
    wrapper = ("sh", "-c", 'ulimit -f 64; exec "$@"', "sh")
    assert hand_over(home, LARGE, wrapper=wrapper).code == 53
    assert hub.connections == 0
    assert hand_over(home, wrapper=wrapper).code == 0, "a small one needs no file"


def test_no_place_for_a_file(home: Home, hub: Hub) -> None:
    done = hand_over(home, LARGE, TMPDIR=str(home.path / "none"))
    assert done.code == 63 and "none: No such file or directory" in done.log[0]
    assert hand_over(home, TMPDIR=str(home.path / "none")).code == 0
    assert len(hub.taken) == 1


@pytest.mark.slow
def test_nothing_is_left_in_the_folder(home: Home, hub: Hub) -> None:
    folder = home.path / "tmp"
    folder.mkdir()
    assert hand_over(home, LARGE, TMPDIR=str(folder)).code == 0
    assert list(folder.iterdir()) == [] and hub.taken[0][0] == LARGE


# -- behind qsmtpd -------------------------------------------------------------


def front(home: Home, **environ: Any) -> bytes:
    """The reply to a message."""
    return home.run(MAIL, QMAILQUEUE=str(QMQPC), **environ).lines[4]


def test_a_front_end(home: Home) -> None:
    with Hub() as hub:
        home.control("qmqpservers", hub.where)
        assert front(home).startswith(b"250 ok ")
        ((text, sender, recipient),) = hub.taken
        assert (sender, recipient) == (b"a@b", b"x@ok.example")
        assert text.startswith(b"Received: ") and text.endswith(b"\nSubject: x\n\nhi\n")
        hub.answer = ns(b"Dno such user here #5.1.1")
        assert front(home) == b"554 no such user here #5.1.1"
        hub.answer = ns(b"Zthe disk is full #4.3.1")
        assert front(home) == b"451 the disk is full #4.3.1"
        assert front(home, ERROR_FD="2") == b"451 the disk is full #4.3.1"
        hub.answer = b"1:D,"
        assert front(home) == b"554 mail server permanently rejected message (#5.3.0)"
        hub.answer = b"nonsense"
        assert front(home) == b"451 communication with mail server failed (#4.4.2)"
    assert front(home) == b"451 connection to mail server rejected (#4.4.1)"
    (home.control_dir / "qmqpservers").unlink()
    assert front(home) == b"451 qq unable to read configuration (#4.3.0)"
