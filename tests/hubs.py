"""QMQP hubs of a test's own, which do what a test wants of them; and a request taken apart."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from client import PATIENCE
from daemons import Line, Peer, Script
from harness import BIN, Home
from netstrings import handed, ns, split

QMQPC = BIN / "qsmtpd-qmqpc"
MESSAGE = b"Subject: x\n\n" + bytes(range(256))
ENVELOPE = b"Fa@b\0Tx@ok.example\0Ty@ok.example\0\0"
#: A million bytes: more than the buffers of a connection hold.
LARGE = b"0123456789abcde\n" * 500_000
NOTHING_THERE = "127.0.0.1:1"  # tcpmux
REQUEST = handed(b"x@ok.example", b"y@ok.example", sender=b"a@b", message=MESSAGE)


def take_request(line: Line) -> list[bytes]:
    """Read a whole request: message, sender, recipients.  Raises OSError where it is cut off."""
    digits = b""
    while (byte := line.take(1)) != b":":
        if not byte:
            raise ConnectionError("cut off")
        assert byte.isdigit()
        digits += byte
    whole = line.take(int(digits) + 1)
    if len(whole) <= int(digits):
        raise ConnectionError("cut off")
    assert whole[-1:] == b","
    return split(whole[:-1])


class Hub(Peer):
    """Takes requests, and answers each with the same; `taken` has those that came whole."""

    def __init__(self, answer: bytes = b"3:Kok,", script: Script | None = None) -> None:
        self.taken: list[list[bytes]] = []
        self.answer = answer
        super().__init__(script or self._take)
        #: As control/qmqpservers names it.
        self.where = self.address.removeprefix("inet:")

    def _take(self, line: Line) -> None:
        self.taken.append(take_request(line))
        line.say(self.answer)


def closes_after(number: int) -> Callable[[Line], None]:
    """A hub that reads so many bytes, and closes."""

    def script(line: Line) -> None:
        left = number
        while left and (data := line.socket.recv(left)):
            left -= len(data)

    return script


def says(text: bytes, after: int = 0) -> Callable[[Line], None]:
    """A hub that reads so many bytes, says this and closes."""

    def script(line: Line) -> None:
        closes_after(after)(line)
        line.say(text)

    return script


def silent(line: Line) -> None:
    """A hub that takes everything and never answers."""
    line.wait_for_end()


#: Become a program that has a descriptor under another number.
_ON_CHANNEL = """
import os, sys
os.dup2(int(sys.argv[1]), int(sys.argv[2]))
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass
class Done:
    """How it ended: the exit code, what it wrote to its log, and to the channel for a text."""

    code: int
    log: list[str] = field(default_factory=list)
    text: bytes = b""


def hand_over(
    home: Home,
    message: bytes = MESSAGE,
    envelope: bytes = ENVELOPE,
    *,
    channel: int = 0,
    wrapper: tuple[str, ...] = (),
    **environ: str,
) -> Done:
    """Run it as an SMTP server does: pipes on 0 and 1, and one on `channel` for a text."""
    message_in, message_out = os.pipe()
    envelope_in, envelope_out = os.pipe()
    said, channel_out = os.pipe()
    command = [*wrapper, str(QMQPC)]
    if channel:
        command = [sys.executable, "-c", _ON_CHANNEL, str(channel_out), str(channel), *command]
    process = subprocess.Popen(
        command,
        stdin=message_in,
        stdout=envelope_in,
        stderr=subprocess.PIPE,
        pass_fds=[channel_out] if channel else [],
        env={**home.environ, **environ},
    )
    for fd in (message_in, envelope_in, channel_out):
        os.close(fd)
    for fd, data in ((message_out, message), (envelope_out, envelope)):
        with open(fd, "wb", buffering=0) as pipe:
            view = memoryview(data)
            try:
                while view:
                    view = view[pipe.write(view) :]
            except BrokenPipeError:  # it has ended
                pass
    _, log = process.communicate(timeout=PATIENCE)
    with open(said, "rb") as pipe:
        text = pipe.read()
    assert b"Traceback" not in log and b"bug" not in log, log
    return Done(process.returncode, log.decode().splitlines(), text)


@pytest.fixture
def hub(home: Home) -> Iterator[Hub]:
    """One that takes all, and is the only one."""
    with Hub() as hub:
        home.control("qmqpservers", hub.where)
        yield hub


@pytest.fixture
def full() -> Iterator[str]:
    """An address that answers no connection: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            waiting.append(one)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()


def check(home: Home, *, ok: bool = False, **environ: str) -> tuple[int, list[str]]:
    """The exit code and the lines of --check, without those that are ok."""
    done = subprocess.run(
        [QMQPC, "--check"], capture_output=True, env={**home.environ, **environ}, check=False
    )
    assert done.stderr == b""
    lines = done.stdout.decode().splitlines()
    return done.returncode, [line for line in lines if line.startswith("ok: ") == ok]


#: What a hub says -> the exit code of who has sent it a message.
ANSWERS = [
    (b"1:K,", 0),
    (b"3:Kok,", 0),
    (ns(b"K\0\xff\n23456\r"), 0),
    (b"2:K,,", 0),
    (ns(b"K" + b"x" * 999), 0),
    (b"3:Kok,3:Dno,", 0),  # what follows is not read: it has the message
    (b"3:Kok,\r\n", 0),
    (b"3:Kok," + b"x" * 1_000_000, 0),
    (b"1:Z,", 71),
    (b"9:Znot now!,", 71),
    (b"1:D,", 31),
    (b"6:Dnever,", 31),
    (b"", 74),
    (b"K", 74),
    (b"Kok,", 74),
    (b"3", 74),
    (b"3:", 74),
    (b"3:Ko", 74),
    (b"3:Kok", 74),
    (b"3:Kok;", 74),
    (b"3:Kok\n", 74),
    (b"2:Kok,", 74),
    (b"4:Kok,", 74),
    (b"0:,", 74),
    (b"00:,", 74),
    (b"03:Kok,", 74),
    (b":Kok,", 74),
    (b"-3:Kok,", 74),
    (b"+3:Kok,", 74),
    (b" 3:Kok,", 74),
    (b"3 :Kok,", 74),
    (b"3: Kok,", 74),
    (b"3\0:Kok,", 74),
    (b"0x3:Kok,", 74),
    (b"1_0:K234567890,", 74),
    (b"\xd9\xa3:Kok,", 74),  # a 3 of another script
    (b"3:kok,", 74),
    (b"3:Xok,", 74),
    (b"3:\0ok,", 74),
    (b"250 ok\r\n", 74),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", 74),
    (b"99999:K", 74),
    (b"100000:K", 74),
    (b"9" * 1000, 74),
    (b"9" * 100_000 + b":K", 74),
]
