"""qsmtpd-checkpassword: the interface on fd 3, the file of users, and its editing."""

from __future__ import annotations

import hashlib
import hmac
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from client import PATIENCE
from harness import BIN, Home, needs, wait_until_read
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.checkpassword import users
from qsmtpd.checkpassword.main import parse_login
from qsmtpd.config.files import SIZE_LIMIT
from qsmtpd.facts import ControlError
from qsmtpd.smtp.sasl import scram

PROGRAM = BIN / "qsmtpd-checkpassword"
PASSWORD = b"correct horse \xc3\xa4"
CHALLENGE = b"<1896.697170952@mx.example>"

#: A quick hash, made here by the standard library alone; and one user of each kind.
SALT = bytes(range(16))
KEY = hashlib.scrypt(PASSWORD, salt=SALT, n=1 << 10, r=8, p=1, dklen=32)
JOE = b"joe:scrypt:10:8:1:%b:%b\n" % (SALT.hex().encode(), KEY.hex().encode())
ANN = b"ann:cram:%b\n" % PASSWORD.hex().encode()

SUE = b"sue:scram:4096:%b:%b:%b\n" % ((b"00" * 16, b"00" * 32, b"11" * 32))
SEED = b":seed:%b\n" % (b"5e" * 32)
ALL = SEED + JOE + ANN + SUE

#: Runs a program with what is its standard input on fd 3.
ON_FD_3 = ["sh", "-c", 'exec 3<&0 </dev/null "$@"', "sh"]


def response(secret: bytes, challenge: bytes = CHALLENGE) -> bytes:
    """What a client of CRAM-MD5 says (RFC 2195)."""
    return hmac.new(secret, challenge, hashlib.md5).hexdigest().encode()


@pytest.fixture
def smtpusers(home: Home) -> Path:
    """control/smtpusers with joe, who is hashed, and ann, who has a secret."""
    path = home.control_dir / "smtpusers"
    path.write_bytes(JOE + ANN)
    return path


def check(home: Home, login: bytes, *program: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """Run it with these bytes on fd 3."""
    done = subprocess.run(
        [*ON_FD_3, PROGRAM, *(program or ("echo", "yes"))],
        input=login,
        capture_output=True,
        env=home.environ,
        timeout=PATIENCE,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert PASSWORD not in done.stderr
    assert (done.stdout == b"yes\n") == (done.returncode == 0) or program
    return done


def edit(
    home: Home, *arguments: str | bytes, text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run it with an option; `text` is its standard input."""
    done = subprocess.run(
        [PROGRAM, *arguments],
        input=text,
        capture_output=True,
        env=home.environ,
        timeout=PATIENCE,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("login", "status"),
    [
        (b"joe\0" + PASSWORD + b"\0\0", 0),
        (b"joe\0" + PASSWORD + b"\0", 0),  # SPAMCONTROL without CRAM
        (b"joe\0" + PASSWORD + b"\0Y123456\0", 0),  # a timestamp, to be ignored
        (b"joe\0" + PASSWORD + b"\0\0more\0data", 0),
        (b"ann\0" + PASSWORD + b"\0\0", 0),
        (b"joe\0" + PASSWORD + b"x\0\0", 1),
        (b"joe\0" + PASSWORD[:-1] + b"\0\0", 1),
        (b"ann\0" + PASSWORD + b"x\0\0", 1),
        (b"joe\0\0\0", 1),
        (b"ann\0\0\0", 1),
        (b"\0\0\0", 1),
        (b"\0" + PASSWORD + b"\0\0", 1),
        (b"JOE\0" + PASSWORD + b"\0\0", 1),
        (b"nobody\0" + PASSWORD + b"\0\0", 1),
        (b"joe:scrypt\0" + PASSWORD + b"\0\0", 1),
        # What the file says of a user is not the user's password.
        (b"ann\0" + PASSWORD.hex().encode() + b"\0\0", 1),
        (b"joe\0" + KEY + b"\0\0", 1),
        (b"joe\0" + KEY.hex().encode() + b"\0\0", 1),
        # CRAM-MD5, the response first and the response last.
        (b"ann\0" + response(PASSWORD) + b"\0" + CHALLENGE + b"\0", 0),
        (b"ann\0" + CHALLENGE + b"\0" + response(PASSWORD) + b"\0", 0),
        (b"ann\0" + CHALLENGE + b"\0" + response(PASSWORD) + b"\0" + b"\1\0", 0),
        (b"ann\0" + response(PASSWORD).upper() + b"\0" + CHALLENGE + b"\0", 0),
        (b"ann\0" + response(b"x") + b"\0" + CHALLENGE + b"\0", 1),
        (b"ann\0" + CHALLENGE + b"\0" + response(b"x") + b"\0", 1),
        (b"ann\0" + response(PASSWORD) + b"\0" + b"<2@mx.example>\0", 1),
        (b"nobody\0" + response(b"nobody") + b"\0" + CHALLENGE + b"\0", 1),
        (b"nobody\0" + response(b"") + b"\0" + CHALLENGE + b"\0", 1),
        # No mechanism takes what is right for another.
        (b"ann\0" + response(PASSWORD) + b"\0\0", 1),
        (b"ann\0" + PASSWORD + b"\0" + CHALLENGE + b"\0", 1),
        (b"joe\0" + PASSWORD + b"\0" + CHALLENGE + b"\0", 1),
        (b"joe\0" + response(PASSWORD) + b"\0" + CHALLENGE + b"\0", 1),
        (b"joe\0" + response(KEY) + b"\0" + CHALLENGE + b"\0", 1),
        (b"ann\0" + CHALLENGE + b"\0" + CHALLENGE + b"\0", 1),
        (b"ann\0\0" + CHALLENGE + b"\0", 1),
        # Long, and then too long.
        (b"joe\0" + b"x" * 16000 + b"\0\0", 1),
        (b"joe\0" + PASSWORD + b"\0\0" + b"x" * 16384, 1),
        # Not a login.
        (b"", 2),
        (b"joe", 2),
        (b"joe\0", 2),
        (b"joe\0" + PASSWORD, 2),
    ],
)
def test_logins(home: Home, smtpusers: Path, login: bytes, status: int) -> None:
    assert check(home, login).returncode == status


def test_misuse(home: Home, smtpusers: Path) -> None:
    assert edit(home).returncode == 2
    assert edit(home, "true").returncode == 2  # no fd 3
    assert edit(home, "--remove").returncode == 2
    assert edit(home, "--add", "--cram").returncode == 2
    assert edit(home, "--password", "joe").returncode == 2
    assert b"--cram" in edit(home, "--help").stdout
    assert edit(home, "--version").stdout.startswith(b"qsmtpd-checkpassword ")
    writer = subprocess.run([PROGRAM, "true"], env=home.environ, check=False, pass_fds=[2])
    assert writer.returncode == 2


def test_a_program_that_cannot_be_run_is_no_yes(home: Home, smtpusers: Path) -> None:
    login = b"joe\0" + PASSWORD + b"\0\0"
    assert check(home, login, "no-such-program").returncode == 111
    assert check(home, login, "sh", "-c", "exit 3").returncode == 3


def test_the_program_gets_the_name_and_nothing_else(home: Home, smtpusers: Path) -> None:
    """What another process can see of it: no password, no fd 3, nothing ignored."""
    look = (
        "cat /proc/$$/environ /proc/$$/cmdline; readlink /proc/$$/fd/3; grep SigIgn /proc/$$/status"
    )
    for name in (b"joe", b"ann"):
        done = check(home, name + b"\0" + PASSWORD + b"\0\0", "sh", "-c", look)
        assert b"USER=" + name + b"\0" in done.stdout
        assert PASSWORD not in done.stdout
        assert b"pipe:" not in done.stdout
        ignored = int(done.stdout.rpartition(b"SigIgn:\t")[2], 16)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # of the others, who starts us decides
            assert not ignored & 1 << (number - 1)


def test_killed_while_it_checks(home: Home, smtpusers: Path) -> None:
    """It waits for the end of its descriptor, is killed, and has said nothing."""
    with subprocess.Popen(
        [*ON_FD_3, PROGRAM, "echo", "yes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=home.environ,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(b"joe\0" + PASSWORD + b"\0\0")
        wait_until_read(child.stdin)
        child.kill()
        assert child.wait(PATIENCE) == -signal.SIGKILL
        assert child.stdout.read() == b""


@pytest.mark.slow
@pytest.mark.parametrize(
    "damaged",
    [
        b"\n",
        b"# a comment\n",
        b"joe\n",
        b"joe:\n",
        b":cram:6162\n",
        b"joe:cram:\n",
        b"joe:cram:616\n",
        b"joe:cram:6162:\n",
        b"joe:cram:00\n",
        b"joe:cram: 6162\n",
        b"joe:plain:6162\n",
        b"joe:CRAM:6162\n",
        b"joe:cram:6162",
        b"joe:cram:6162\r\n",
        b"joe:cram:6162\njoe:cram:6163\n",
        b"j\x07oe:cram:6162\n",
        b"j" * 256 + b":cram:6162\n",
        b"joe:cram:" + b"61" * 1025 + b"\n",
        JOE[:-1],
        JOE[:-2] + b"\n",
        JOE[:-3] + b"\n",
        JOE.replace(b":10:", b":9:"),
        JOE.replace(b":10:", b":21:"),
        JOE.replace(b":10:", b":+10:"),
        JOE.replace(b":8:", b":7:"),
        JOE.replace(b":8:", b":08:"),
        JOE.replace(b":1:", b":0:"),
        JOE.replace(b":1:", b":99999:"),
        JOE.replace(b":1:", b":"),
    ],
)
def test_a_damaged_file_lets_nobody_in(home: Home, smtpusers: Path, damaged: bytes) -> None:
    """Whosever line it is; and no edit overwrites it."""
    smtpusers.write_bytes(ANN + damaged)
    done = check(home, b"ann\0" + PASSWORD + b"\0\0")
    assert done.returncode == 111
    assert b"control/smtpusers: " in done.stderr
    assert PASSWORD.hex().encode() not in done.stderr
    assert edit(home, "--remove", "ann").returncode == 111
    assert edit(home, "--list").returncode == 111
    assert smtpusers.read_bytes() == ANN + damaged


@pytest.mark.slow
def test_a_file_that_is_not_there_or_not_readable(home: Home) -> None:
    login = b"joe\0" + PASSWORD + b"\0\0"
    assert check(home, login).returncode == 111
    (home.control_dir / "smtpusers").symlink_to("smtpusers")  # root reads what has no rights
    assert check(home, login).returncode == 111
    assert edit(home, "--add", "joe", text=b"x\n").returncode == 111
    assert (home.control_dir / "smtpusers").is_symlink()


@pytest.mark.slow
def test_an_unknown_user_costs_as_much(home: Home, smtpusers: Path) -> None:
    edit(home, "--add", "known", text=PASSWORD + b"\n")

    def seconds(name: bytes) -> float:
        start = os.times()
        check(home, name + b"\0wrong\0\0")
        end = os.times()
        return end.children_user - start.children_user

    spent = {name: min(seconds(name) for _ in range(3)) for name in (b"known", b"ann", b"nobody")}
    assert max(spent.values()) < 1.5 * min(spent.values()), spent


@pytest.mark.slow
def test_adding_changing_removing(home: Home) -> None:
    path = home.control_dir / "smtpusers"
    assert edit(home, "--list").stdout == b""
    assert edit(home, "--add", "joe", text=PASSWORD + b"\n").returncode == 0
    assert edit(home, "--add", "--cram", "ann", text=b"first").returncode == 0
    assert edit(home, "--add", "--cram", "ann", text=PASSWORD + b"\nignored\n").returncode == 0
    assert edit(home, "--list").stdout == b"ann:cram\njoe:scrypt\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in path.read_bytes()
    assert check(home, b"joe\0" + PASSWORD + b"\0\0").returncode == 0
    assert check(home, b"ann\0" + PASSWORD + b"\0\0").returncode == 0
    assert check(home, b"ann\0first\0\0").returncode == 1
    assert check(home, b"ann\0" + CHALLENGE + b"\0" + response(PASSWORD) + b"\0").returncode == 0
    # A user who loses CRAM-MD5 loses the secret.
    assert edit(home, "--add", "ann", text=PASSWORD + b"\n").returncode == 0
    assert PASSWORD.hex().encode() not in path.read_bytes()
    assert edit(home, "--remove", "ann").returncode == 0
    assert edit(home, "--remove", "ann").returncode == 1
    assert edit(home, "--list").stdout == b"joe:scrypt\n"
    assert [p.name for p in home.control_dir.iterdir() if "smtpusers" in p.name] == ["smtpusers"]


@pytest.mark.slow
def test_two_equal_passwords_look_different(home: Home) -> None:
    for name in ("a", "b"):
        edit(home, "--add", name, text=PASSWORD)
    first, second = (home.control_dir / "smtpusers").read_bytes().splitlines()
    assert first.split(b":")[5:] != second.split(b":")[5:]


@pytest.mark.parametrize("password", [b"", b"\n", b"a\r\n", b"a\0b\n", b"x" * 1025, b"x" * 9999])
def test_passwords_that_are_refused(home: Home, smtpusers: Path, password: bytes) -> None:
    assert edit(home, "--add", "joe", text=password).returncode == 1
    assert smtpusers.read_bytes() == JOE + ANN


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [b"a b", b"joe@example.org", b"J\xc3\xb6\xff", b"#", b"=\"'\\", b"x" * 255]
)
def test_odd_names(home: Home, name: bytes) -> None:
    assert edit(home, "--add", "--cram", name, text=PASSWORD).returncode == 0
    assert edit(home, "--list").stdout == name + b":cram\n"
    done = check(home, name + b"\0" + PASSWORD + b"\0\0", "printenv", "USER")
    assert done.stdout == name + b"\n"


@pytest.mark.parametrize("name", [b"", b"a:b", b"a\nb", b"a\x7f", b"x" * 256])
def test_names_that_are_refused(home: Home, smtpusers: Path, name: bytes) -> None:
    assert edit(home, "--add", name, text=PASSWORD).returncode == 1
    assert edit(home, "--remove", name).returncode == 1
    assert smtpusers.read_bytes() == JOE + ANN


@pytest.mark.slow
def test_owner_and_mode_stay(home: Home, smtpusers: Path) -> None:
    smtpusers.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(smtpusers, 4711, 4712)
    before = smtpusers.stat()
    (home.control_dir / "smtpusers.tmp").write_bytes(b"of an edit that was killed")
    assert edit(home, "--add", "x", text=PASSWORD).returncode == 0
    after = smtpusers.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert after.st_ino != before.st_ino


def test_a_link_stays_one(home: Home, smtpusers: Path) -> None:
    """The file it leads to is replaced, where that lies, by --add (new and known) and --remove."""
    folder = home.path / "etc"
    folder.mkdir()
    target = smtpusers.rename(folder / "users")
    (folder / "link").symlink_to("users")
    smtpusers.symlink_to("../etc/link")
    for arguments in (["--add", "--cram", "x"], ["--add", "--cram", "x"], ["--remove", "x"]):
        before = target.stat()
        assert edit(home, *arguments, text=PASSWORD).returncode == 0
        assert target.stat().st_ino != before.st_ino
        assert target.stat().st_mode == before.st_mode
        assert smtpusers.is_symlink() and (folder / "link").is_symlink()
    assert target.read_bytes() == ANN + JOE
    assert sorted(path.name for path in folder.iterdir()) == ["link", "users"]
    assert list(home.control_dir.glob("smtpusers*")) == [smtpusers]


def test_a_link_into_a_folder_that_is_not_there(home: Home) -> None:
    smtpusers = home.control_dir / "smtpusers"
    smtpusers.symlink_to("../etc/users")
    done = edit(home, "--add", "--cram", "x", text=PASSWORD)
    assert (done.returncode, smtpusers.is_symlink()) == (111, True)
    assert b"control/smtpusers: " in done.stderr


def test_too_long_a_login_says_why(home: Home, smtpusers: Path) -> None:
    done = check(home, b"joe\0" + b"x" * 16384 + b"\0")
    assert done.returncode == 1
    assert done.stderr == b"qsmtpd-checkpassword: the login is longer than 16384 bytes\n"


def test_two_at_once(home: Home) -> None:
    """Of users who are added at the same time none is lost."""
    children = []
    for number in range(8):
        child = subprocess.Popen(
            [PROGRAM, "--add", "--cram", f"user{number}"],
            stdin=subprocess.PIPE,
            env=home.environ,
        )
        children.append(child)
    for child in children:
        child.communicate(PASSWORD, timeout=PATIENCE)
        assert child.returncode == 0
    assert len(edit(home, "--list").stdout.splitlines()) == 8


def on_terminal(home: Home, *answers: bytes) -> tuple[int, bytes]:
    """Add joe by hand, each answer at its prompt; return the status and what was to be seen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(PROGRAM, [str(PROGRAM), "--add", "joe"], home.environ)
    seen = b""
    try:
        for answer in answers:
            while not seen.endswith(b": "):
                seen += os.read(terminal, 4096)
            os.write(terminal, answer)
            seen += b"\n"
        while part := os.read(terminal, 4096):
            seen += part
    except OSError:
        pass  # how a terminal ends
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


@pytest.mark.slow
def test_prompts_on_a_terminal(home: Home, smtpusers: Path) -> None:
    status, seen = on_terminal(home, b"new one\n", b"new one\n")
    assert status == 0
    assert b"Password: " in seen and b"Again: " in seen and b"new one" not in seen
    assert check(home, b"joe\0new one\0\0").returncode == 0


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((b"first!\n", b"second!\n"), b"the two are not the same"),
        ((b"\n", b"\n"), b"a password has 1 to 1024 bytes and no control character"),
        ((b"first!\xe4\n",), b"the password is not in the encoding of the terminal"),
        ((b"\x04",), b"no password"),
        ((b"\x03",), b"interrupted: nothing is changed"),
        ((b"first!\n", b"\x03"), b"interrupted: nothing is changed"),
    ],
)
def test_prompts_that_end_without_a_password(
    home: Home, smtpusers: Path, answers: tuple[bytes, ...], said: bytes
) -> None:
    status, seen = on_terminal(home, *answers)
    assert status == 1
    # The prompt, or what the terminal makes of a key, is on a line of its own.
    assert seen.splitlines()[-1] == b"qsmtpd-checkpassword: " + said
    assert b"first!" not in seen and b"second!" not in seen
    assert smtpusers.read_bytes() == JOE + ANN


def test_an_edit_that_fails_changes_nothing(home: Home, smtpusers: Path) -> None:
    """A file may not grow beyond 512 bytes: what a full disk does, without being root."""
    smtpusers.write_bytes(ANN + JOE + b"x:cram:" + b"61" * 200 + b"\n")
    before = smtpusers.read_bytes()
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", PROGRAM, "--add", "--cram", "y"],
        input=b"x" * 400,
        capture_output=True,
        env=home.environ,
        check=False,
    )
    assert done.returncode == 111
    assert smtpusers.read_bytes() == before
    assert not (home.control_dir / "smtpusers.tmp").exists()


@pytest.mark.slow
@pytest.mark.parametrize("call", ["openat", "flock", "fchmod", "write", "fsync", "renameat"])
def test_every_failing_call(home: Home, smtpusers: Path, call: str) -> None:
    """Whichever call fails: the old file or the new one, and no 0 without the new one."""
    smtpusers.chmod(0o640)
    trace = home.path / "trace"
    here = ["-P", str(home.control_dir), "-P", str(smtpusers), "-P", f"{smtpusers}.tmp"]
    for nth in range(1, 10):
        smtpusers.write_bytes(JOE)
        inject = f"inject={call}:error=EIO:when={nth}"
        done = subprocess.run(
            [
                needs("strace"),
                "-f",
                "-qq",
                "-o",
                trace,
                "-e",
                inject,
                *here,
                PROGRAM,
                "--add",
                "--cram",
                "ann",
            ],
            input=PASSWORD,
            capture_output=True,
            env=home.environ,
            check=False,
        )
        assert smtpusers.read_bytes() in ((JOE, ANN + JOE) if done.returncode else (ANN + JOE,))
        assert not smtpusers.with_suffix(".tmp").exists()
        if "INJECTED" not in trace.read_text():
            assert nth > 1 and done.returncode == 0
            return
        assert done.returncode == 111
    pytest.fail("the last call was never reached")


NAMES = st.binary(min_size=1, max_size=255).filter(users.is_name)
SECRETS = st.binary(min_size=1, max_size=64).filter(users.is_secret).map(users.Secret)
HASHES = st.builds(
    users.Hashed,
    st.tuples(st.integers(10, 20), st.integers(8, 32), st.integers(1, 32)),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
)


KEYS = st.builds(
    users.Scram,
    st.builds(
        scram.Keys,
        st.integers(4096, 1_000_000),
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=32, max_size=32),
    ),
)


@given(
    st.dictionaries(NAMES, SECRETS | HASHES | KEYS),
    st.just(b"") | st.binary(min_size=32, max_size=32),
)
def test_what_is_written_is_read(entries: dict[bytes, users.Entry], seed: bytes) -> None:
    known = users.Users(entries)
    known.seed = seed
    content = users.serialize(known)
    again = users.parse(content)
    assert again.seed == seed
    assert users.serialize(again) == content
    assert {name: entry.fields() for name, entry in again.items()} == {
        name: entry.fields() for name, entry in known.items()
    }


@given(st.binary(max_size=200), st.integers(0, len(ALL)), st.integers(0, 3))
def test_any_file_is_read_or_refused(junk: bytes, start: int, less: int) -> None:
    """Never another exception; and what is read has names and entries as they must be."""
    content = ALL[:start] + junk + ALL[start + less :]
    try:
        known = users.parse(content)
    except ControlError as error:
        assert error.name == "control/smtpusers"
        return
    assert content.count(b"\n") == len(known) + (known.seed != b"")
    assert all(users.is_name(name) for name in known)
    # The same users, but for the case of digits and the order of lines.
    assert sorted(users.serialize(known).lower().split(b"\n")) == sorted(
        content.lower().split(b"\n")
    )


@given(
    st.binary().filter(lambda text: b"\0" not in text),
    st.sampled_from([response(PASSWORD), b"<1@x>", b"<>", PASSWORD, b""]),
)
def test_a_client_cannot_choose_what_the_fields_mean(word: bytes, word2: bytes) -> None:
    """Whatever it says in place of its response, the challenge is ours and is not its answer."""
    for answer in (word, word2):
        assert parse_login(b"u\0" + answer + b"\0\0") == (b"u", answer, b"")
        first = parse_login(b"u\0" + answer + b"\0" + CHALLENGE + b"\0")
        assert first == (b"u", answer, CHALLENGE)
        _, said, challenge = parse_login(b"u\0" + CHALLENGE + b"\0" + answer + b"\0")
        assert (said, challenge) == (answer, CHALLENGE) or said == CHALLENGE


@pytest.mark.slow
def test_an_edit_whose_result_could_not_be_read(home: Home, smtpusers: Path) -> None:
    """control/smtpusers has at most 4 MB, like every control file."""
    lines = [b"u%04d:cram:%b\n" % (n, b"61" * 1024) for n in range(2036)]
    text = b"".join(lines)
    line = b"new:cram:62\n"
    left = SIZE_LIMIT - len(text) - len(line) - len(b"last:cram:\n")
    assert 0 < left < 2048
    text += b"last:cram:" + b"61" * (left // 2) + b"\n"
    smtpusers.write_bytes(text)
    done = edit(home, "--add", "--cram", "new", text=b"bbbb\n")
    assert done.returncode == 1 and b"4194304 bytes" in done.stderr
    assert smtpusers.read_bytes() == text
    assert edit(home, "--add", "--cram", "new", text=b"b\n").returncode == 0
    assert len(smtpusers.read_bytes()) in (SIZE_LIMIT, SIZE_LIMIT - 1)
    assert check(home, b"new\0b\0\0").returncode == 0
    assert edit(home, "--remove", "new").returncode == 0
