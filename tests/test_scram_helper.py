"""The program that has the keys: its exchange, and what it does wrong."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from client import PATIENCE
from harness import Home
from scram_home import (
    ANN,
    FAILED,
    JOE,
    PROGRAM,
    SEED,
    TEMPORARY,
    b64,
    client,
    first,
    start,
)

from qsmtpd.child.conversation import Conversation

pytestmark = pytest.mark.slow


def helper(home: Home, *lines: bytes) -> subprocess.CompletedProcess[bytes]:
    """Its whole run, with all lines at once."""
    return subprocess.run(
        [PROGRAM, "--scram"],
        input=b"".join(line + b"\n" for line in lines),
        capture_output=True,
        env=home.environ,
        timeout=PATIENCE,
        check=False,
    )


def test_the_helper_by_itself(scram: Home) -> None:
    with subprocess.Popen(
        [PROGRAM, "--scram"],
        env=scram.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        by = client()
        child.stdin.write(by.get_client_first().encode() + b"\n")
        child.stdin.flush()
        by.set_server_first(child.stdout.readline().decode().removesuffix("\n"))
        child.stdin.write(by.get_client_final().encode() + b"\n")
        child.stdin.flush()
        by.set_server_final(child.stdout.readline().decode().removesuffix("\n"))
        assert child.wait(PATIENCE) == 0


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], 0),
        ([b""], 0),
        ([b"n,,n=joe"], 0),
        ([b"p=x,,n=joe,r=abc", b""], 0),
        ([b"n,a=ann,n=joe,r=abc", b""], 0),
        ([b"n,,n=joe,r=abc"], 1),
        ([b"n,,n=joe,r=abc", b"c=biws"], 1),
        ([b"n,,n=joe,r=abc", b"c=biws,r=abc,p=" + b64(bytes(32))], 1),
        ([b"n,,n=joe,r=abc" + b"x" * 20_000], 0),
        ([b"n,,n=joe,r=abc", b"x" * 100_000], 1),
    ],
)
def test_what_the_helper_refuses(scram: Home, lines: list[bytes], said: int) -> None:
    done = helper(scram, *lines)
    assert (done.returncode, done.stdout.count(b"\n"), done.stderr) == (1, said, b"")


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (None, b"control/smtpusers: is not there"),
        ([], b"control/smtpusers: has nobody with --scram"),
        ([ANN], b"control/smtpusers: has nobody with --scram"),
        ([SEED, JOE[:-1]], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace("4096", "4095")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace("4096", "1000001")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace("4096", "04096")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace("4096", "+4096")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE + ":00"], b"control/smtpusers: line 2 is damaged"),
        ([SEED, JOE.replace(":scram:", ":SCRAM:")], b"control/smtpusers: line 2 is damaged"),
        ([SEED, SEED, JOE], b"control/smtpusers: line 2 is damaged"),
        ([SEED[:-2], JOE], b"control/smtpusers: line 1 is damaged"),
        ([":seed:", JOE], b"control/smtpusers: line 1 is damaged"),
    ],
)
def test_a_file_with_which_nothing_can_be_told(
    scram: Home, entries: list[str] | None, said: bytes
) -> None:
    if entries is None:
        (scram.control_dir / "smtpusers").unlink()
    else:
        scram.control("smtpusers", *entries)
    done = helper(scram, b"n,,n=joe,r=abc")
    assert (done.returncode, done.stdout) == (111, b"")
    assert done.stderr == b"qsmtpd-checkpassword: " + said + b"\n"
    with start(scram) as talk:
        assert talk.ask(first()) == TEMPORARY


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("script", "reply"),
    [
        ("exit 1", FAILED),
        ("exit 111", TEMPORARY),
        ("exit 0", TEMPORARY),  # a yes to nothing
        ("echo s; exit 0", TEMPORARY),
        ("read x; echo s; read x; exit 0", TEMPORARY),  # without a proof of its own
        ("read x; echo s; read x; echo; exit 0", TEMPORARY),
        ("read x; echo s; read x; printf v; exit 0", TEMPORARY),
        ("read x; echo s; read x; echo v; exit 1", FAILED),
        ("read x; echo s; read x; echo v; exit 3", TEMPORARY),
        ("read x; echo s; read x; echo v; kill -KILL $$", TEMPORARY),
        ("read x; echo s; read x; echo v; exit 0", b"334 dg=="),
        ("read x; echo s; read x; echo v; echo w; exit 0", b"334 dg=="),
        ("read x; echo s; echo v; read x; exit 0", b"334 dg=="),
        # Longer than a reply may be: also where it comes at once, with its end.
        ("read x; printf '%20000s\\n' s >$0.long; exec cat $0.long", TEMPORARY),
        ("kill -KILL $$", TEMPORARY),
        ("exec 0<&- 1>&-; exit 1", FAILED),
    ],
)
def test_helpers(scram: Home, script: str, reply: bytes) -> None:
    with start(scram, SCRAMPROGRAM=scram.script(script)) as talk:
        found = talk.ask(first())
        if found == b"334 cw==":
            found = talk.ask(b64("final"))
        assert found == reply
        if reply.startswith(b"334"):
            assert talk.ask(b"")[:3] == b"235"
        talk.ask(b"QUIT")
        assert talk.ended().children == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "sleep 60",
        "trap '' TERM; sleep 60",
        "printf half; sleep 60",
        "exec 1>&-; sleep 60",
        "while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
        "read x; echo s; read x; sleep 60",
        "read x; echo s; read x; echo v; sleep 60",
        "read x; echo s; read x; echo v; exec 1>&-; sleep 60",
        "read x; echo s; read x; while :; do echo vvvvvvvvvvvvvvvvvvvvvvvvvv; done",
    ],
)
def test_helpers_that_hang(scram: Home, script: str) -> None:
    with start(scram, SCRAMPROGRAM=scram.script(script), AUTHTIMEOUT="1") as talk:
        found = talk.ask(first())
        if found == b"334 cw==":
            found = talk.ask(b64("final"))
        assert found == TEMPORARY
        talk.ask(b"QUIT")
        assert talk.ended().children == []


@pytest.mark.slow
def test_what_is_there_at_the_deadline() -> None:
    """Who was stopped until then himself has still to look."""
    child = Conversation([b"echo", b"s"], {b"PATH": os.fsencode(os.environ["PATH"])}, 100)
    assert child.status(time.monotonic() + PATIENCE) == 0
    assert child.hear(time.monotonic()) == b"s"
    assert child.hear(time.monotonic()) is None
    child.close()


@pytest.mark.slow
def test_a_helper_that_is_not_there(scram: Home) -> None:
    with start(scram, SCRAMPROGRAM="/no/such/helper") as talk:
        assert talk.ask(first()) == TEMPORARY


@pytest.mark.slow
def test_what_the_helper_inherits(scram: Home) -> None:
    dump = scram.path / "dump"
    program = scram.script(
        f"(cd /proc/$$/fd; for fd in *; do echo $fd $(readlink $fd); done; env) >{dump};"
        " echo to the log >&2; exit 1"
    )
    scram.environ.update(SCRAMPROGRAM=program, RELAYCLIENT="", AUTHUSER="boss", KEYFILE="/key")
    with start(scram) as talk:
        assert talk.ask(first()) == FAILED
        talk.ask(b"QUIT")
        assert "to the log" in talk.ended().log
    lines = dump.read_text().splitlines()
    fds = {int(line.split()[0]): line.split()[-1] for line in lines if line[:1].isdigit()}
    script = {fd for fd, target in fds.items() if target.endswith(".0")}
    assert set(fds) - script <= {0, 1, 2, 3}
    assert fds[0].startswith("pipe:")
    names = {line.partition("=")[0] for line in lines}
    assert not names & {"RELAYCLIENT", "AUTHUSER", "KEYFILE"} and "TCPREMOTEIP" in names
