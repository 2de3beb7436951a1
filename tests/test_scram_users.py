"""Entries for SCRAM in a file of users, and what --check says of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import Any

import pytest
from child import Command
from harness import BIN, Home
from scram_home import (
    ANN,
    BOB,
    FAILED,
    ITERATIONS,
    JOE,
    PASSWORD,
    PROGRAM,
    SEED,
    b64,
    client,
    edit,
    log_in,
    start,
)

from qsmtpd.checkpassword import users
from qsmtpd.config.files import ControlFiles
from qsmtpd.config.session import AuthSettings
from qsmtpd.config.settings import Settings
from qsmtpd.diagnose.auth import check_auth
from qsmtpd.diagnose.report import Report

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_adding_and_removing(scram: Home) -> None:
    path = scram.control_dir / "smtpusers"
    path.unlink()
    assert edit(scram, "--add", "ann", text=PASSWORD).returncode == 0
    assert b"seed" not in path.read_bytes()
    assert edit(scram, "--add", "--scram", "joe", text=PASSWORD).returncode == 0
    seed = path.read_bytes().splitlines()[0]
    assert seed.startswith(b":seed:") and len(seed) == 6 + 64
    assert edit(scram, "--list").stdout == b"ann:scrypt\njoe:scram\n"
    assert PASSWORD.encode() not in path.read_bytes()
    assert PASSWORD.encode().hex().encode() not in path.read_bytes()
    with start(scram) as talk:
        assert log_in(talk, client())[:3] == b"235"
    assert edit(scram, "--add", "--scram", "joe", text="another").returncode == 0
    with start(scram) as talk:
        assert log_in(talk, client()) == FAILED
        assert log_in(talk, client(password="another"))[:3] == b"235"
    # The seed stays, or who is made up would change.
    assert edit(scram, "--remove", "joe").returncode == 0
    assert edit(scram, "--add", "--scram", "sue", text=PASSWORD).returncode == 0
    assert path.read_bytes().splitlines()[0] == seed


@pytest.mark.slow
def test_passwords_that_are_not_ascii(scram: Home) -> None:
    """Each client sends its own spelling; SASLprep makes one of them (RFC 4013)."""
    composed, apart, wide = "p\xe4ss\xa0\u2163", "pa\u0308ss IV", "\uff50a\u0308ss I\uff36"
    assert edit(scram, "--add", "--scram", "joe", text=apart).returncode == 0
    for password in (composed, apart, wide):
        with start(scram) as talk:
            assert log_in(talk, client(password=password))[:3] == b"235"
        with start(scram) as talk:
            assert talk.ask(b"AUTH PLAIN " + b64(f"\0joe\0{password}"))[:3] == b"235"
    for other in (b"p\xe4ss IV", "p\xe4ss iv".encode(), "p\xe4ss\u0007IV".encode()):
        with start(scram) as talk:
            assert talk.ask(b"AUTH PLAIN " + b64(b"\0joe\0" + other)) == FAILED


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("name", "password", "said"),
    [
        ("joe", "\u0627\x31", "this password: SASLprep refuses it"),  # RFC 4013, 3
        ("joe", "\ue000", "this password: SASLprep refuses it"),
        ("joe", "\udcff", "this password: SASLprep refuses it"),
        ("joe", "\xad", "this password: SASLprep refuses it"),  # nothing is left of it
        ("jose\u0301", "x", "this name: SASLprep changes it"),
        ("\ue000", "x", "this name: SASLprep changes it"),
        ("a:b", "x", "a name has 1 to 255 bytes, no colon and no control character"),
        ("joe", "", "no password"),
    ],
    ids=ascii,
)
def test_what_clients_cannot_say(scram: Home, name: str, password: str, said: str) -> None:
    before = (scram.control_dir / "smtpusers").read_bytes()
    done = edit(scram, "--add", "--scram", name, text=password)
    assert done.returncode == 1
    assert said.encode() in done.stderr or password == ""
    assert (scram.control_dir / "smtpusers").read_bytes() == before


@pytest.mark.slow
def test_without_the_library(scram: Home) -> None:
    """What is ASCII needs none; the rest is refused, to nobody else's harm."""
    assert edit(scram, "--add", "bob", text="p\xe4ss").returncode == 0
    assert edit(scram, "--add", "--scram", "sue", text="p\xe4ss").returncode == 0
    code = (
        "import sys; sys.modules['scramp'] = None; from qsmtpd.checkpassword import main;"
        "main.main(sys.argv[1:])"
    )

    def run(*arguments: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
        command: Command = ["sh", "-c", 'exec 3<&0; exec "$@"', "sh", BIN / "python3", "-c", code]
        return subprocess.run(
            [*command, *arguments], input=text, capture_output=True, env=scram.environ, check=False
        )

    done = run("--add", "--scram", "joe", text="p\xe4ss".encode())
    assert done.returncode == 1 and b"what is not ASCII takes Python's scramp: " in done.stderr
    assert run("--add", "--scram", "joe", text=b"secret").returncode == 0
    assert run("true", text=b"joe\0secret\0").returncode == 0
    done = run("true", text="bob\0p\xe4ss\0".encode())
    assert done.returncode == 0 and b"for users of SCRAM it takes Python's scramp" in done.stderr
    assert run("true", text="sue\0p\xe4ss\0".encode()).returncode == 1


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([SEED, JOE, ANN, BOB], {"scrypt": 1, "pbkdf2_hmac": 1}),
        ([SEED, JOE, ANN], {"pbkdf2_hmac": 1}),
        ([ANN, BOB], {"scrypt": 1}),
        ([ANN], {"scrypt": 1}),
    ],
)
@pytest.mark.parametrize("password", [b"secret", b"wrong!", "p\xe4ss".encode(), b"\xff"])
def test_each_user_costs_the_same(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], expected: dict[str, int], password: bytes
) -> None:
    """Whoever it is, and whatever the password: one slow hash of each kind in the file."""
    known = users.parse("".join(line + "\n" for line in lines).encode())
    count: dict[str, int] = {}
    real = hashlib.pbkdf2_hmac

    def scrypt(*arguments: Any, **options: Any) -> bytes:
        count["scrypt"] = count.get("scrypt", 0) + 1
        return bytes(31) + b"x"

    def pbkdf2_hmac(name: str, text: bytes, salt: bytes, iterations: int) -> bytes:
        count["pbkdf2_hmac"] = count.get("pbkdf2_hmac", 0) + 1
        return real(name, text, salt, min(iterations, ITERATIONS))  # quick

    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", pbkdf2_hmac)
    for user in (b"joe", b"ann", b"bob", b"nobody", b""):
        count.clear()
        right = users.accepts_password(known, user, password)
        assert right == (password == b"secret" and user in known and user != b"bob")
        assert count == expected


# -- the check -------------------------------------------------------------


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("entries", "program", "said"),
    [
        ([SEED, JOE], None, None),
        ([SEED, JOE, ANN], None, b"warning: control/smtpusers: has users without --scram"),
        ([ANN], None, b"wrong: control/smtpusers: has users without --scram"),
        ([], None, b"warning: control/smtpusers: has no users"),
        (None, None, b"wrong: control/smtpusers: is missing"),
        ([SEED], None, b"warning: control/smtpusers: has no users"),
        ([JOE], None, b"wrong: control/smtpusers: has no line :seed:, so all SCRAM fails"),
        ([SEED, JOE], "", b"wrong: scramprogram: there is no program, and SCRAM-SHA-256 needs it"),
        ([SEED, JOE], "no-such", b"wrong: scramprogram: no-such is not to be found in PATH"),
        ([SEED, JOE], str(PROGRAM), b"wrong: scramprogram: is qsmtpd-checkpassword without --sc"),
        ([SEED, JOE], "/bin/true", b"wrong: scramprogram: /bin/true says yes"),
    ],
)
def test_the_check(
    scram: Home, entries: list[str] | None, program: str | None, said: bytes | None
) -> None:
    scram.environ["AUTHMECHANISMS"] = "SCRAM-SHA-256"
    if program is not None:
        scram.environ["SCRAMPROGRAM"] = program
    if entries is None:
        (scram.control_dir / "smtpusers").unlink()
    else:
        scram.control("smtpusers", *entries)
    done = scram.run(b"", "--check")
    assert done.status == (said is not None and said.startswith(b"wrong"))
    assert said is None or said in done.out


@pytest.mark.parametrize("front", ["env ", ""])
def test_the_check_where_the_helper_has_the_file_to_itself(
    scram: Home, monkeypatch: pytest.MonkeyPatch, front: str
) -> None:
    """Behind sudo it may run as another user: that this one cannot read it is not wrong then."""
    access = os.access

    def is_allowed(path: Any, *how: Any, **more: Any) -> bool:
        return not os.fsencode(path).endswith(b"smtpusers") and access(path, *how, **more)

    monkeypatch.setattr(os, "access", is_allowed)
    settings = Settings(
        ControlFiles(os.fsencode(scram.path)),
        {
            b"PATH": b"/usr/bin:/bin",
            b"SMTPAUTH": b"",
            b"AUTHMECHANISMS": b"SCRAM-SHA-256",
            b"SCRAMPROGRAM": f"{front}{PROGRAM} --scram".encode(),
        },
    )
    report = Report()
    check_auth(report, settings, AuthSettings(settings), None, False)
    assert list(report.lines["wrong"]) == []
    said = any("smtpusers: is not for this user" in line for line in report.lines["warning"])
    assert said == (front != "")


@pytest.mark.slow
def test_the_helper_of_our_own_is_the_default(scram: Home) -> None:
    del scram.environ["SCRAMPROGRAM"]
    scram.environ["PATH"] = f"{BIN}:{scram.environ['PATH']}"
    with start(scram) as talk:
        assert log_in(talk, client())[:3] == b"235"
