"""qsmtpd-maildir by itself: qmail-queue's contract, and a durable delivery."""

from __future__ import annotations

import errno
import os
import posix
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from client import PATIENCE
from harness import BIN, needs, wait_until_read

from qsmtpd.queues import interface, maildir


def deliver(
    tmp_path: Path, message: bytes, envelope: bytes, wrapper: list[str] | None = None
) -> tuple[int, list[bytes]]:
    """Run it on files; return its exit code and what lies in new/.  tmp/ must be empty."""
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "envelope").write_bytes(envelope)
    folder = tmp_path / "Maildir"
    with (tmp_path / "message").open("rb") as zero, (tmp_path / "envelope").open("rb") as one:
        done = subprocess.run(
            [*(wrapper or []), str(BIN / "qsmtpd-maildir")],
            stdin=zero,
            stdout=one,
            stderr=subprocess.PIPE,
            env={**os.environ, "QSMTPD_MAILDIR": str(folder)},
            check=False,
        )
    assert b"Traceback" not in done.stderr
    assert list(folder.glob("tmp/*")) == []
    new = sorted(folder.glob("new/*"))
    return done.returncode, [path.read_bytes() for path in new]


def test_delivery(tmp_path: Path) -> None:
    message = b"Subject: x\n\n" + bytes(range(256)) * 1000
    assert deliver(tmp_path, message, b"Fa@b\0Tx@y\0Tz\n@w\0\0") == (
        0,
        [b"Return-Path: <a@b>\nDelivered-To: x@y\nDelivered-To: z_@w\n" + message],
    )
    (path,) = (tmp_path / "Maildir" / "new").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name.count(".") >= 2 and ":" not in path.name


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("sender", "line"),
    [
        (b"", b"<>"),
        (b"#@[]", b"<#@[]>"),
        (b"a.b+c=d@e", b"<a.b+c=d@e>"),
        (b"a", b"<a>"),
        (b"a b@c d", b'<"a b"@c d>'),
        (b"a b", b'<"a b">'),
        (b'a"\\@c', b'<"a\\"\\\\"@c>'),
        (b"a@b@[]", b'<"a@b"@[]>'),  # as ezmlm's senders are
        (b"@c", b'<""@c>'),
        (b".a@c", b'<".a"@c>'),
        (b"a.@c", b'<"a."@c>'),
        (b"a..b@c", b'<"a..b"@c>'),
        (b"\xc3\xa4@c", b'<"\xc3\xa4"@c>'),
        (b"a\nb\rc\td@c", b'<"a\\_b\\_c_d"@c>'),
        (b"a@b\nc", b"<a@b_c>"),
    ],
)
def test_return_path(tmp_path: Path, sender: bytes, line: bytes) -> None:
    """Quoted as qmail-local does it (quote.c), but for control characters."""
    status, (message,) = deliver(tmp_path, b"x\n", b"F" + sender + b"\0Tb\0\0")
    assert (status, message.splitlines()[0]) == (0, b"Return-Path: " + line)


def test_help_and_version() -> None:
    """They need no QSMTPD_MAILDIR; another argument is refused."""
    for argument, said in (("--help", b"usage: "), ("--version", b"qsmtpd-maildir ")):
        done = subprocess.run([BIN / "qsmtpd-maildir", argument], capture_output=True, check=True)
        assert done.stdout.startswith(said) and done.stderr == b""
    done = subprocess.run([BIN / "qsmtpd-maildir", "-h"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (55, b"")


def test_interrupted_by_hand(tmp_path: Path) -> None:
    """Said in a word, and nothing is left: it has read all of this message but its end."""
    folder = tmp_path / "Maildir"
    with subprocess.Popen(
        [BIN / "qsmtpd-maildir"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "QSMTPD_MAILDIR": str(folder)},
    ) as child:
        assert child.stdin is not None and child.stderr is not None
        child.stdin.write(b"x\n")
        wait_until_read(child.stdin)
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE) == 130
        assert child.stderr.read() == b"qsmtpd-maildir: interrupted\n"
    assert [path for path in folder.rglob("*") if path.is_file()] == []


#: An envelope, and the exit code.
ENVELOPES = [
    (b"", 54),
    (b"F", 54),
    (b"Fa\0", 54),
    (b"Fa\0Tb\0", 54),
    (b"Fa\0Tb\0\0x", 54),
    (b"Fa\0Tb\0\0x\0", 91),
    (b"Xa\0Tb\0\0", 91),
    (b"Fa\0Xb\0\0", 91),
    (b"Fa\0\0Tb\0\0", 91),
    (b"F" + b"a" * 1002 + b"\0Tb\0\0", 0),
    (b"F" + b"a" * 1003 + b"\0Tb\0\0", 11),
    (b"F\0T" + b"b" * 1003 + b"\0\0", 11),
    (b"F\0Tb\0\0", 0),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("envelope", "code"), ENVELOPES)
def test_envelopes(tmp_path: Path, envelope: bytes, code: int) -> None:
    status, messages = deliver(tmp_path, b"x\n", envelope)
    assert status == code
    assert len(messages) == (code == 0)


def test_no_configuration(tmp_path: Path) -> None:
    for environ in ({}, {"QSMTPD_MAILDIR": ""}):
        done = subprocess.run(
            [BIN / "qsmtpd-maildir"], env={"PATH": os.environ["PATH"], **environ}, check=False
        )
        assert done.returncode == 55


def test_a_maildir_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "Maildir").write_bytes(b"a file")
    done = subprocess.run(
        [BIN / "qsmtpd-maildir"],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "QSMTPD_MAILDIR": str(tmp_path / "Maildir")},
        check=False,
    )
    assert done.returncode == 61


def test_a_full_disk(tmp_path: Path) -> None:
    """A file may not grow beyond 64 KB: what a full disk does, without being root."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    wrapper = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh"]
    assert deliver(tmp_path, b"x" * 1_000_000, b"F\0Tb\0\0", wrapper) == (53, [])
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == limit


def deliver_here(tmp_path: Path, text: bytes) -> None:
    """The same in this process."""
    message, envelope = tmp_path / "message", tmp_path / "envelope"
    message.write_bytes(text)
    envelope.write_bytes(b"F\0Tb\0\0")
    with message.open("rb") as zero, envelope.open("rb") as one:
        maildir.deliver(os.fsencode(tmp_path / "Maildir"), zero.fileno(), one.fileno())


def bodies(tmp_path: Path) -> list[bytes]:
    """The last lines of what is in new/."""
    return sorted(p.read_bytes().splitlines()[-1] for p in tmp_path.glob("Maildir/new/*"))


def no_links(path: bytes, place: bytes) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_no_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """The clock is set back, the process and the host are the same, and so is even chance."""
    monkeypatch.setattr(maildir, "time_ns", lambda: 1_700_000_000_123_456_789)
    if not links:
        monkeypatch.setattr(posix, "link", no_links)
    deliver_here(tmp_path, b"first\n")
    deliver_here(tmp_path, b"second\n")  # the names differ by chance alone
    assert bodies(tmp_path) == [b"first", b"second"]
    monkeypatch.setattr(posix, "urandom", bytes)
    deliver_here(tmp_path, b"third\n")
    with pytest.raises(interface.NotQueued) as failed:
        deliver_here(tmp_path, b"fourth\n")
    assert failed.value.code == 53
    assert bodies(tmp_path) == [b"first", b"second", b"third"]
    assert list(tmp_path.glob("Maildir/tmp/*")) == []


def test_a_link_that_was_made_before_its_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by NFS, which asks again: link(2), BUGS."""
    link = posix.link

    def twice(path: bytes, place: bytes) -> None:
        link(path, place)
        link(path, place)

    monkeypatch.setattr(posix, "link", twice)
    deliver_here(tmp_path, b"x\n")
    assert bodies(tmp_path) == [b"x"] and list(tmp_path.glob("Maildir/tmp/*")) == []


@pytest.mark.parametrize(
    ("error", "status"), [("EPERM", 0), ("EOPNOTSUPP", 0), ("EXDEV", 0), ("EEXIST", 53)]
)
def test_file_systems(tmp_path: Path, error: str, status: int) -> None:
    """Where there are no hard links the file is renamed."""
    wrapper = [needs("strace"), "-f", "-qq", "-o", str(tmp_path / "trace")]
    wrapper += ["-e", f"inject=?link,linkat:error={error}"]
    done, messages = deliver(tmp_path, b"x\n", b"F\0Tb\0\0", wrapper)
    assert "INJECTED" in (tmp_path / "trace").read_text()
    assert (done, len(messages)) == (status, status == 0)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["write", "fsync", "?link,linkat", "openat", "read", "close"])
def test_every_failing_call(tmp_path: Path, call: str) -> None:
    """Whichever call fails, first or last: exit 0 and a message, or neither."""
    for nth in range(1, 40):
        home = tmp_path / str(nth)
        home.mkdir()
        inject = f"inject={call}:error=EIO:when={nth}"
        paths = ["-P", str(home / "Maildir/new"), "-P", str(home / "Maildir/tmp")]
        wrapper = [needs("strace"), "-f", "-qq", "-o", str(home / "trace"), "-e", inject]
        if call in ("openat", "read", "close"):
            wrapper += paths  # the interpreter's own start uses them too
        status, messages = deliver(home, b"x\n", b"F\0Tb\0\0", wrapper)
        if "INJECTED" not in (home / "trace").read_text():
            assert (status, len(messages)) == (0, 1)
            break
        assert status != 0 or len(messages) == 1
        assert len(messages) <= 1
