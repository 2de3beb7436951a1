"""The filter rcptcheck; and what programs can do to the filters that ask them."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filters import (
    TAKEN,
    build,
    client,
    logged,
    rcpt,
    script,
)
from harness import Home, Variables, wait_for
from listeners import gone

from qsmtpd.child import query as ask
from qsmtpd.facts import ControlError
from qsmtpd.policy.timelimit import Overdue, TimeLimit

NO = b"550 sorry, no mailbox here by that name (#5.1.1)"
ENOUGH = b"drop 421 you have exceeded your messaging limits (#4.3.0)"
UNABLE = b"drop 421 unable to verify recipient (#4.3.0)"
TROUBLE = b"drop 421 unable to execute recipient check (#4.3.0)"
DANGEROUS = b"553 sorry, that cannot be passed to our recipient check (#5.7.1)"


def check(home: Home, text: str, **environ: Any) -> bytes:
    """What is said of one recipient where the program is this script."""
    program = script(home.path, text)
    plugin = build("rcptcheck", home.path, RCPTCHECK=os.fsencode(program), **environ)
    return rcpt(plugin, b"x@ok.example")


@pytest.mark.parametrize(
    ("status", "reply"),
    [(0, TAKEN), (99, TAKEN), (112, TAKEN), (100, NO), (113, ENOUGH), (111, UNABLE)]
    + [(status, TROUBLE) for status in (1, 2, 101, 120, 126, 127, 255)],
)
def test_exit_status(home: Home, status: int, reply: bytes) -> None:
    assert check(home, f"exit {status}") == reply


def test_what_it_is_told(home: Home) -> None:
    told = home.path / "told"
    program = script(home.path, f"env -0 >{told}; ls -l /proc/$$/fd >{told}.fds")
    environ: Variables = {
        "RCPTCHECK": os.fsencode(program),
        "RCPTCHECKRELAYCLIENT": "1",
        "RCPTFOUND": "1",
        "RCPTHOSTS": "1",
        "SMTPAUTHUSER": "forged",
        "LD_PRELOAD": "/nowhere",
        "MINE": "() { :; }; x",
        "YOURS": "yes",
    }
    plugin = build("rcptcheck", home.path, **environ)

    def variables() -> dict[bytes, bytes]:
        pairs = [line.partition(b"=") for line in told.read_bytes().split(b"\0") if line]
        return {name: value for name, _, value in pairs}

    hostile = b"$(touch x)`x`;'\"\xff\r\t@other.example"
    assert rcpt(plugin, hostile, client(helo=b"me=\x01 you", **environ)) == TAKEN
    seen = variables()
    assert seen[b"SENDER"] == b"a@b" and seen[b"RECIPIENT"] == hostile
    assert seen[b"HELO"] == b"me=\x01 you" and seen[b"USE_FD4"] == b"1"
    assert seen[b"YOURS"] == b"yes" and b"MINE" not in seen and b"LD_PRELOAD" not in seen
    absent = {b"RCPTFOUND", b"RCPTHOSTS", b"SMTPAUTHUSER", b"RELAYCLIENT", b"TCPREMOTEINFO"}
    assert not absent & set(seen)
    fds = Path(f"{told}.fds").read_text()
    assert " 4 -> pipe:" in fds and " 3 -> pipe:" not in fds

    assert rcpt(plugin, b"X@Sub.Sub.Example", client(user=b"joe", **environ), sender=b"") == TAKEN
    seen = variables()
    assert seen[b"SENDER"] == b"" and seen[b"HELO"] == b"client.example"
    assert seen[b"RCPTHOSTS"] == b"1" and seen[b"RELAYCLIENT"] == b""
    assert seen[b"TCPREMOTEINFO"] == seen[b"SMTPAUTHUSER"] == seen[b"SMTP_AUTH_USER"] == b"joe"

    told.unlink()
    for who, sender, recipient in [
        (client(), b"() { :;}; x", b"x@ok.example"),
        (client(), b"", b"() {@ok.example"),
        (client(helo=b"() { :; }; x"), b"", b"x@ok.example"),
        (client(user=b"() { x"), b"", b"x@ok.example"),
    ]:
        assert rcpt(plugin, recipient, who, sender) == DANGEROUS
    assert not told.exists()


# -- hostile programs: both filters ------------------------------------------


def both(home: Home, program: bytes, log: Path, seconds: int = 20) -> tuple[bytes, bytes]:
    """What recipients and rcptcheck say where this is the program."""
    home.control("recipients", b"*|" + program, b"!*")
    limits = {"RECIPIENTSTIMEOUT": str(seconds), "RCPTCHECKTIMEOUT": str(seconds)}
    with log.open("ab") as stream:
        found = tuple(
            rcpt(build(name, home.path, stream.fileno(), RCPTCHECK=program, **limits), b"x@o.k")
            for name in ("recipients", "rcptcheck")
        )
    return found[0], found[1]


CANNOT = (b"drop 421 unable to check recipients (#4.3.0)", TROUBLE)
PIDS = 'echo $$ >>"$0.pids"; '


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("exec sleep 1000", "timeout"),
        ("sleep 1000 & sleep 1000", "timeout"),
        ("exec 0<&- 1>&- 2>&- 3<&- 4>&-; exec sleep 1000", "timeout"),
        ("if [ -p /dev/fd/4 ]; then exec yes >&4; fi; sleep 1000", "timeout"),
        ("kill -9 $$", "signal 9"),
        ("kill -11 $$", "signal 11"),
        ("exit 33", "exit 33"),
    ],
)
def test_no_answer_is_no_pass(home: Home, text: str, result: str) -> None:
    log = home.path / "log"
    program = script(home.path, PIDS + text)
    home.file("check.pids")  # one whose time was over before its first line is in no list
    assert both(home, os.fsencode(program), log, 1 if result == "timeout" else 60) == CANNOT
    assert [line["result"] for line in logged(log)] == [result] * 2
    for pid in (home.path / "check.pids").read_text().split():
        assert gone(int(pid))
        wait_for(partial(no_member, pid))


def no_member(group: str) -> bool:
    """Is no process of a group alive?"""
    for process in (path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == group and fields[0] != "Z":
            return False
    return True


@pytest.mark.parametrize(
    ("path", "mode", "result"),
    [
        ("plain", 0o644, "Permission denied"),
        ("spool", None, "Permission denied"),
        ("garbage", 0o755, "Exec format error"),
    ],
)
def test_what_cannot_be_started(home: Home, path: str, mode: int | None, result: str) -> None:
    program = home.path / path
    if mode is not None:
        program.write_bytes(b"\1\2\3")
        program.chmod(mode)
    log = home.path / "log"
    first, second = both(home, os.fsencode(program), log)
    lines = [line["result"] for line in logged(log)]
    # With a search in PATH, what is no program is a script to the C library.
    assert first == CANNOT[0] and (lines[0].endswith(result) or lines[0] == "exit 127")
    assert second == TROUBLE and lines[1] == f"cannot be started: {result}"


@pytest.mark.parametrize("name", ["recipients", "rcptcheck"])
def test_a_missing_program_is_told_at_once(home: Home, name: str) -> None:
    for program in ("bin/missing", str(home.path / "missing")):
        home.control("recipients", f"!ok.example\n*|{program}")
        with pytest.raises(ControlError) as caught:
            build(name, home.path, RCPTCHECK=program)
        assert caught.value.reason == "No such file or directory"


def test_one_that_is_not_in_path(home: Home) -> None:
    home.control("recipients", "*|no-such-program-anywhere")
    assert rcpt(build("recipients", home.path), b"x@ok.example") == CANNOT[0]


def test_a_megabyte_of_words(home: Home) -> None:
    words = check(home, "head -c 1000000 /dev/zero | tr '\\0' x >&4; exit 100")
    assert words == b"550 " + b"x" * ask.LIMIT + b" (#5.1.1)"


def test_who_reads_nothing_may_answer(home: Home) -> None:
    for text, replies in [
        ("exec 0<&- 1>&- 2>&- 3<&- 4>&-; exit 0", (TAKEN, TAKEN)),
        ("true", (TAKEN, TAKEN)),
    ]:
        program = script(home.path, text)
        assert both(home, os.fsencode(program), home.path / "log") == replies


def test_whom_it_leaves_behind_is_not_waited_for(home: Home) -> None:
    began = time.monotonic()
    text = 'sleep 1000 & echo $! >"$0.pid"; echo "550 no" >&4; exit 100'
    assert check(home, text) == b"550 no (#5.7.1)"
    assert time.monotonic() - began < 15
    os.kill(int((home.path / "check.pid").read_text()), 9)


@pytest.mark.slow
def test_whoever_is_interrupted_leaves_no_program(home: Home) -> None:
    pid = home.file("check.pid", "0")  # so it stays where the time is over before its first line
    program = script(home.path, "trap '' TERM; echo $$ >\"$0.new\"; mv \"$0.new\" \"$0.pid\"\n"
                     "while :; do sleep 0.1; done")  # fmt: skip
    plugin = build("rcptcheck", home.path, RCPTCHECK=os.fsencode(program))
    limit = TimeLimit()
    with pytest.raises(Overdue):
        limit.call(("rcptcheck", "rcpt"), 1.0, lambda: rcpt(plugin, b"x@ok.example"))
    limit.stop()
    wait_for(lambda: gone(int(pid.read_text())))


def test_without_descriptors(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("qsmtpd.child.query.os.pipe", none)
    log = home.path / "log"
    assert both(home, b"/bin/true", log) == CANNOT
    assert logged(log)[0]["result"] == "cannot be started: Too many open files"


def test_no_descriptor_is_left_open(home: Home) -> None:
    program = script(home.path, "exit 0")
    both(home, os.fsencode(program), home.path / "log")
    before = set(os.listdir("/proc/self/fd"))
    both(home, os.fsencode(program), home.path / "log")
    both(home, b"/etc/passwd", home.path / "log")
    assert len(set(os.listdir("/proc/self/fd"))) == len(before)


# -- a whole session; see also transcripts/filters-recipients.txt ---------


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["recipients", "rcptcheck"])
def test_a_filter_has_a_bound_of_its_own_and_no_timer(home: Home, name: str) -> None:
    home.control("plugins", f"{name} timeout=1")
    environ: Variables = {"RCPTCHECK": ""} if name == "rcptcheck" else {}
    done = home.run(b"", **environ)
    assert done.lines == [b"421 unable to read controls (#4.3.0)"]
    reason = f"{name}: timeout is for plugins from elsewhere"
    assert done.event("control") | {"pid": ""} == {
        **done.event("control"), "name": "control/plugins", "reason": reason, "pid": "",
    }  # fmt: skip
    home.control("plugins", f"{name} {name}timeout=1")
    home.file("check.pids")
    program = script(home.path, 'echo $$ >>"$0.pids"; exec sleep 1000')
    if name == "recipients":
        home.control("recipients", f"*|{program}")
    environ = {"RCPTCHECK": str(program)} if name == "rcptcheck" else {}
    done = home.run(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n", **environ)
    assert done.codes == [220, 250, 421]
    for pid in (home.path / "check.pids").read_text().split():
        wait_for(partial(gone, int(pid)))
