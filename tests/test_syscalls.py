"""Whichever system call of qsmtpd fails, no mail is lost and none is invented."""

from __future__ import annotations

import re

import pytest
from harness import BIN, Home, needs

pytestmark = pytest.mark.slow

SESSION = b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"
#: call -> the error that it gives, and how many calls of it a session makes at most
CALLS = {
    "read": ("EIO", 200),
    "write": ("EIO", 20),
    "poll": ("EINVAL", 40),
    "pipe2": ("EMFILE", 4),
    "dup2,dup3": ("EBADF", 4),
    "fcntl": ("EMFILE", 40),
    "ioctl": ("EINVAL", 100),
    "vfork,clone,clone3": ("EAGAIN", 3),
    "wait4,waitid": ("EINTR", 8),
    "pidfd_open": ("ENOSYS", 3),
    "openat": ("EMFILE", 200),
    "chdir": ("EACCES", 2),
    "mmap": ("ENOMEM", 200),
}


@pytest.mark.parametrize("calls", CALLS)
def test_every_failing_call(home: Home, calls: str) -> None:
    error, most = CALLS[calls]
    first = first_of_ours(home, calls)
    trace = home.path / "trace"
    for nth in range(first, first + most):
        inject = f"-e inject={calls}:error={error}:when={nth}"
        wrapper = home.script(
            f'exec {needs("strace")} -qq -o {trace} -e trace={calls} {inject} "$QSMTPD"'
        )
        run = home.run(SESSION, program=wrapper, QSMTPD=str(BIN / "qsmtpd"))
        assert run.children == []
        for path in home.spool.glob("new.*"):
            path.unlink()  # of an oracle that was ended: nothing is queued
        messages = home.messages()
        answers = re.findall(rb"(?m)^250 ok \d+ qp \d+\r$", run.out)
        assert len(answers) <= 1
        if answers:
            assert [message.body for message in messages] == [b"hello\n"]
            assert messages[0].envelope == b"Fa@b\0Tx@ok.example\0\0"
        elif messages:
            # Only where the reply itself could not be sent.
            assert run.event("message")["verdict"] == "accepted" or b"EIO" in trace.read_bytes()
            assert not re.search(rb"(?m)^[45]\d\d ", run.out.partition(b"354")[2])
        home.clear()
        if "INJECTED" not in trace.read_text():
            assert answers
            break


def first_of_ours(home: Home, calls: str) -> int:
    """How many such calls the interpreter makes before the first line of ours is run."""
    trace = home.path / "start"
    wrapper = home.script(f'exec {needs("strace")} -qq -o {trace} "$PYTHON" -IS -c pass')
    home.run(b"", program=wrapper, PYTHON=str(BIN / "python3"))
    names = tuple(name + "(" for name in calls.split(","))
    return max(1, sum(line.startswith(names) for line in trace.read_text().splitlines()) - 3)
