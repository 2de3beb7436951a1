"""What --check says of programs, users, certificates and rules, and what a session then does."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cdbs import make_cdb
from certificates import Certificate
from child import Command
from harness import BIN, Home, Variables
from listeners import make_rules

from qsmtpd.config.files import ControlFiles
from qsmtpd.config.settings import Settings
from qsmtpd.diagnose.programs import why_not

pytestmark = pytest.mark.slow

CHECKPASSWORD = str(BIN / "qsmtpd-checkpassword")
MESSAGE = b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n"
NOBODY = 65534
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")


def check(home: Home, *arguments: str, **environ: Any) -> list[str]:
    """The lines of --check that are not ok; the exit status goes with them."""
    run = home.run(b"", "--check", *arguments, **environ)
    found = [line for line in run.out.decode().splitlines() if not line.startswith("ok: ")]
    assert run.status == any(line.startswith("wrong: ") for line in found)
    return found


def script(home: Home, first: str, mode: int = 0o755) -> Path:
    path = home.file("program", first, "\ncat >/dev/null; cat <&1 >/dev/null\n")
    path.chmod(mode)
    return path


# -- programs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda home: script(home, "#!/bin/sh"), None),
        (lambda home: script(home, "#! /bin/sh -e"), None),
        (lambda home: script(home, "#!/nonexistent/sh"), "wants /nonexistent/sh, which does not"),
        (lambda home: script(home, "#!"), "wants an interpreter, which does not exist"),
        (lambda home: script(home, ""), "is a script without a #! line"),
        (lambda home: script(home, "#!/bin/sh\r"), "has a CR at the end of its #! line"),
        (lambda home: script(home, "#!/bin/sh -e\r"), "has a CR at the end of its #! line"),
        (lambda home: script(home, "#!/usr/bin/env sh"), None),
        (lambda home: script(home, "#!/usr/bin/env -S sh -e"), None),
        (lambda home: script(home, "#!/usr/bin/env no-such"), "wants no-such, which env does not"),
        (lambda home: script(home, "#!/usr/bin/env sh -e"), "wants sh -e, which env does not"),
        (lambda home: script(home, "#!/bin/sh", 0o644), "is not executable"),
        (lambda home: home.path, "is not executable"),
        (lambda home: home.path / "none", "does not exist"),
        (lambda home: Path(f"{script(home, '#!/bin/sh')} argument"), "does not exist"),
    ],
)
def test_queue_programs(home: Home, make: Callable[[Home], Path], problem: str | None) -> None:
    """Wrong is what a message could not be handed to."""
    program = str(make(home))
    wrong = [] if problem is None else [f"wrong: queue program: {program} {problem}"]
    found = check(home, QMAILQUEUE=program)
    assert [line[: len(wrong[0])] for line in found] == wrong if wrong else found == []
    codes = home.run(MESSAGE, QMAILQUEUE=program).codes
    if wrong:  # before DATA's 354, or where an interpreter failed behind it
        assert 451 in codes[3:5]
    else:
        assert codes[3:5] == [354, 250]


def test_the_default_queue_program_is_missing(home: Home) -> None:
    path = home.path / "bin" / "qmail-queue"
    assert check(home, QMAILQUEUE=None) == [f"wrong: queue program: {path} does not exist"]


@ROOT_ONLY
@pytest.mark.parametrize(("mode", "wrong"), [(0o711, True), (0o755, False), (0o4711, False)])
def test_a_program_that_its_user_cannot_read(home: Home, mode: int, wrong: bool) -> None:
    """A script needs that; qmail-queue, with its set-user-ID bit, is none."""
    settings = Settings(ControlFiles(b"/nonexistent"), {})
    with tempfile.TemporaryDirectory() as folder:  # that of the test is not for others
        os.chmod(folder, 0o755)
        path = shutil.move(script(home, "#!/bin/sh", mode), folder)
        os.seteuid(NOBODY)
        try:
            problem = why_not(str(path), settings)
        finally:
            os.seteuid(0)
    assert (problem or "").startswith("is not readable") == wrong


def test_programs_that_are_asked_about_recipients(home: Home) -> None:
    program = script(home, "#!/nonexistent/sh")
    (problem,) = check(home, RCPTCHECK=str(program))
    assert problem.startswith(f"wrong: RCPTCHECK: {program} wants /nonexistent/sh")
    home.control("recipients", "!a.example", f"ok.example|{program} x", "b.example|nowhere-at-all")
    found = check(home)
    assert found[0].startswith(f"wrong: control/recipients: {program} wants /nonexistent/sh")
    assert found[1].startswith("wrong: control/recipients: nowhere-at-all is not to be found")


# -- qsmtpd-maildir ------------------------------------------------------------


def maildir(home: Home, path: str) -> tuple[list[str], int]:
    """What --check says, and the reply to a message."""
    environ: Variables = {"QMAILQUEUE": str(BIN / "qsmtpd-maildir"), "QSMTPD_MAILDIR": path}
    return check(home, **environ), home.run(MESSAGE, **environ).codes[4]


@pytest.mark.parametrize("content", ["", " ", "\n/bin/true"])
def test_no_program_that_is_asked_about_messages(home: Home, content: str) -> None:
    home.control("messagecheck", content)
    wrong = "wrong: control/messagecheck: has no program in its first line, so nobody is asked"
    assert check(home)[-1] == wrong
    assert check(home, MESSAGECHECK="") == []  # for some clients it is switched off


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("/nonexistent", "No such file or directory"),
        ("control/me", "Not a directory"),
        ("/proc", "No such file or directory"),
    ],
)
def test_no_place_for_the_files_of_messages(home: Home, folder: str, problem: str) -> None:
    """Where a filter wants one: a session would put everything off."""
    wrong = f"wrong: TMPDIR: {folder} takes no file of a message: {problem}"
    assert check(home, TMPDIR=folder) == []
    assert check(home, TMPDIR=folder, MESSAGECHECK="/bin/true") == [wrong]
    run = home.run(MESSAGE, TMPDIR=folder, MESSAGECHECK="/bin/true")
    assert b"451 trouble with the spool (#4.3.0)" in run.lines
    (home.path / "tmp").mkdir()
    assert check(home, TMPDIR="tmp", MESSAGECHECK="/bin/true") == []  # it is relative to home
    assert not list((home.path / "tmp").iterdir())


def test_a_full_disk_for_the_files_of_messages(home: Home) -> None:
    """ulimit -f is in 512-byte blocks in some shells, and in KB in others."""
    limited = home.script('ulimit -f 20 && exec "$QSMTPD" --check')
    environ = {**home.environ, "QSMTPD": str(BIN / "qsmtpd"), "MESSAGECHECK": "/bin/true"}
    done = subprocess.run([limited], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "wrong: TMPDIR: /tmp takes no file of a message: File too large\n" in done.stdout


def test_a_maildir_that_can_be_made(home: Home) -> None:
    for path in (str(home.path / "Maildir"), "relative", f"{home.path}/slash/"):
        assert maildir(home, path) == ([], 250)  # it is made
        assert maildir(home, path) == ([], 250)  # and is there
    assert (home.path / "relative" / "new").is_dir()


def test_a_maildir_that_cannot_be_made(home: Home) -> None:
    above = home.path / "none"
    assert maildir(home, f"{above}/Maildir") == (
        [f"wrong: QSMTPD_MAILDIR: {above}/Maildir cannot be made: {above} is no directory"],
        451,
    )
    file = home.file("file")
    assert maildir(home, str(file)) == ([f"wrong: QSMTPD_MAILDIR: {file} is no directory"], 451)
    (home.path / "half").mkdir()
    home.file("half/new")
    problem = f"wrong: QSMTPD_MAILDIR: {home.path}/half/new is no directory"
    assert maildir(home, f"{home.path}/half") == ([problem], 451)


def test_a_link_to_qsmtpd_maildir(home: Home) -> None:
    """As $QMAILHOME/bin/qmail-queue may be one."""
    link = home.path / "queue"
    link.symlink_to(BIN / "qsmtpd-maildir")
    assert check(home, QMAILQUEUE=str(link)) == [
        f"wrong: QSMTPD_MAILDIR: is not set, and {link} needs it"
    ]


# -- qsmtpd-checkpassword ------------------------------------------------------


def users(home: Home, *lines: str) -> None:
    home.control("smtpusers", *lines)


HASHED = "joe:scrypt:14:8:5:" + "00" * 16 + ":" + "00" * 32
SECRET = "ann:cram:736563726574"


@pytest.mark.parametrize(
    ("lines", "switch", "found"),
    [
        (None, "", ["wrong: control/smtpusers: is missing, so every login fails"]),
        ([], "", ["warning: control/smtpusers: has no users: see qsmtpd-checkpassword --add"]),
        (["joe"], "", ["wrong: control/smtpusers: line 1 is damaged"]),
        ([HASHED, SECRET], "", []),
        ([SECRET], "+cram", []),
        ([HASHED, SECRET], "cram", ["warning: control/smtpusers: has users without --cram, who"]),
        ([HASHED], "+cram", ["warning: control/smtpusers: has users without --cram, who"]),
        ([HASHED], "cram", ["wrong: control/smtpusers: has users without --cram, who"]),
    ],
)
def test_the_users_file(home: Home, lines: list[str] | None, switch: str, found: list[str]) -> None:
    if lines is not None:
        users(home, *lines)
    environ: Variables = {"SMTPAUTH": switch, "AUTHCLEAR": "1"}
    said = check(home, CHECKPASSWORD, "true", **environ)
    assert len(said) == len(found)
    assert all(line.startswith(start) for line, start in zip(said, found, strict=True)), said


def test_what_qsmtpd_checkpassword_runs(home: Home) -> None:
    users(home, SECRET)
    environ: Variables = {"SMTPAUTH": "", "AUTHCLEAR": "1", "AUTHDELAY": "0"}
    (wrong,) = check(home, CHECKPASSWORD, "no-such-program", **environ)
    assert wrong.startswith("wrong: checkpassword program: no-such-program, which ")
    login = b"EHLO x\r\nAUTH PLAIN AGFubgBzZWNyZXQ=\r\nQUIT\r\n"
    assert home.run(login, CHECKPASSWORD, "no-such-program", **environ).codes == [
        220,
        250,
        454,
        221,
    ]
    assert check(home, CHECKPASSWORD, "true", **environ) == []
    assert home.run(login, CHECKPASSWORD, "true", **environ).codes == [220, 250, 235, 221]


def test_qsmtpd_checkpassword_by_another_name(home: Home) -> None:
    """A link to it, and behind a program that starts another."""
    link = home.path / "checker"
    link.symlink_to(CHECKPASSWORD)
    missing = "wrong: control/smtpusers: is missing, so every login fails"
    for command in ([str(link), "true"], ["env", "X=y", CHECKPASSWORD, "true"]):
        assert check(home, *command, SMTPAUTH="", AUTHCLEAR="1") == [missing]


@pytest.mark.parametrize("switch", [{"SMTPAUTH": "!"}, {"REQUIRE_AUTH": "1"}])
def test_nobody_who_could_log_in(home: Home, switch: Variables) -> None:
    users(home)
    found = check(home, CHECKPASSWORD, "true", AUTHCLEAR="1", **switch)
    assert found == ["wrong: control/smtpusers: has no users: see qsmtpd-checkpassword --add"]


def test_a_host_name_that_was_forgotten(home: Home) -> None:
    """Then the subprogram would be asked, which says yes to everybody."""
    users(home, SECRET)
    environ: Variables = {"SMTPAUTH": "", "AUTHCLEAR": "1", "AUTHARGV": "host"}
    assert check(home, "mx.example", CHECKPASSWORD, "true", **environ) == []
    host, true = check(home, CHECKPASSWORD, "true", **environ)
    assert host.startswith(f"wrong: AUTHARGV: is host, so {CHECKPASSWORD} is no program")
    assert true.startswith("wrong: checkpassword program: true says yes to every password")


# -- certificates ----------------------------------------------------------------


def certificate(home: Home) -> list[str]:
    """All that --check says of servercert.pem."""
    path = str(home.control_dir / "servercert.pem")
    lines = home.run(b"", "--check").out.decode().replace(path, "PEM").splitlines()
    return [line for line in lines if "PEM" in line]


@pytest.mark.parametrize(
    ("days", "lines"),
    [
        (61, ["ok: PEM = mx.example, EC 256, 60 days left (certificate)"]),
        (15, ["ok: PEM = mx.example, EC 256, 14 days left (certificate)"]),
        (
            14,
            [
                "ok: PEM = mx.example, EC 256, 13 days left (certificate)",
                "warning: PEM: expires soon: 13 days left",
            ],
        ),
        (1, ["ok: PEM = mx.example, EC 256, 0 days left (certificate)", "warning: PEM: "]),
        (0, ["wrong: PEM: has expired on "]),
    ],
)
def test_a_certificate(home: Home, days: int, lines: list[str]) -> None:
    Certificate("mx.example", days=days).save(home.control_dir / "servercert.pem")
    found = certificate(home)
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True)), found


def test_a_chain_that_has_expired(home: Home) -> None:
    authority = Certificate("ca.example", days=0)
    leaf = Certificate("mx.example", kind="rsa", issuer=authority, address="x@y.example", days=90)
    (home.control_dir / "servercert.pem").write_bytes(leaf.pem + authority.pem + leaf.key_pem)
    good, bad = certificate(home)
    assert good == "ok: PEM = mx.example x@y.example, RSA 2048, 89 days left (certificate)"
    assert bad.startswith("wrong: PEM: the certificate ca.example of its chain has expired on ")


def test_a_name_of_sni_that_has_expired(home: Home) -> None:
    Certificate("mx.example", days=60).save(home.control_dir / "servercert.pem")
    folder = home.control_dir / "servercerts" / "mail.example"
    folder.mkdir(parents=True)
    Certificate("mail.example", days=0).save(folder / "servercert.pem")
    (wrong,) = check(home)
    assert wrong.startswith(f"wrong: {folder}/servercert.pem: has expired on ")


# -- what is left out, and what cannot be forged -------------------------------------


def test_quiet(home: Home) -> None:
    run = home.run(b"", "--check", "--quiet", DATABYTES="1000", MAXHOPS="x")
    assert run.status == 1
    assert run.out.decode().splitlines() == [
        f"ok: home = {home.path} (QMAILHOME)",
        "ok: me = mx.example (control/me)",
        "ok: errordelay = 0 (ERRORDELAY)",
        "ok: databytes = 1000 (DATABYTES)",
        "ok: rcpthosts = 2 entries (control/rcpthosts)",
        f"ok: QMAILQUEUE = {home.environ['QMAILQUEUE']} (environment)",
        "wrong: MAXHOPS: is 'x', which is not a number",
    ]


def test_quiet_with_a_checkpassword_program(home: Home) -> None:
    run = home.run(b"", "--check", "--quiet", "no-such-program", "true", SMTPAUTH="")
    assert b"wrong: checkpassword program: no-such-program is not to be found" in run.out


def test_a_value_says_one_line(home: Home) -> None:
    run = home.run(b"", "--check", RELAYCLIENT="@x\nwrong: forged\x1b[2J")
    assert b"ok: RELAYCLIENT = @x\\x0awrong: forged\\x1b[2J (environment)\n" in run.out
    assert run.status == 0


def test_recipients_without_an_entry(home: Home) -> None:
    home.control("recipients", "# nothing yet")
    make_cdb(home.control_dir / "validrcptto.cdb", {})
    assert check(home) == [
        "wrong: control/recipients: has no entry, so every recipient is refused",
        "wrong: control/validrcptto.cdb: has no key, so every recipient is refused",
    ]
    assert home.run(MESSAGE).codes[2] == 550
    assert check(home, RELAYCLIENT="") == []
    (home.control_dir / "recipients").unlink()
    make_cdb(home.control_dir / "validrcptto.cdb", {b"ok.example": b"", b"joe": b""})
    (wrong,) = check(home)
    assert wrong.endswith("the key 'ok.example' is no address; a domain begins with @")


def test_empty_cdbs_beside_lists(home: Home) -> None:
    home.control("rcpthosts")
    make_cdb(home.control_dir / "morercpthosts.cdb", {})
    assert check(home) == ["wrong: control/rcpthosts: has no entry, so every recipient is refused"]
    make_cdb(home.control_dir / "morercpthosts.cdb", {b"ok.example": b""})
    assert check(home) == []
    make_cdb(home.control_dir / "mailfromrules.cdb", {})
    (wrong,) = check(home, LOCALMFCHECK="!")
    assert wrong.startswith("wrong: control/mailfromrules: is missing or has no entry")


def test_morercpthosts_without_its_cdb(home: Home) -> None:
    home.control("morercpthosts", "b.example")
    (wrong,) = check(home)
    assert wrong.startswith("wrong: control/morercpthosts: is not read, only its morercpthosts.cdb")


def test_rcpthosts_without_an_entry(home: Home) -> None:
    home.control("rcpthosts", "# nothing yet", "")
    assert check(home) == ["wrong: control/rcpthosts: has no entry, so every recipient is refused"]
    assert check(home, RELAYCLIENT="") == []
    assert check(home, "cat", "true", SMTPAUTH="", AUTHCLEAR="1") == []


# -- rules -----------------------------------------------------------------------


def with_rules(home: Home, *rules: str, options: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """What qsmtpd-server --check says of these rules: its status and what is not ok."""
    cdb = make_rules(home.path / "rules.cdb", *rules)
    command: Command = [BIN / "qsmtpd-server", "--check", *options, "-x", cdb, "0", "25"]
    done = subprocess.run(command, env=home.environ, capture_output=True, text=True, check=False)
    return done.returncode, [x for x in done.stdout.splitlines() if not x.startswith("ok: python")]


def not_ok(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("ok: ")]


def test_each_rule_is_checked(home: Home) -> None:
    status, lines = with_rules(
        home,
        '127.:allow,RELAYCLIENT=""',
        '192.0.2.1:allow,DATABYTES="many"',
        '192.0.2.2:allow,QMAILQUEUE="/nonexistent/qq"',
        '192.0.2.3:allow,QSMTPD_PLUGINS="-nothing"',
        '192.0.2.4:deny,DATABYTES="x"',
        '192.0.2.5:allow,BADMAILFROM="x"',
        ":allow",
    )
    assert status == 1
    assert sorted(not_ok(lines)) == [
        "wrong: rule 192.0.2.1: DATABYTES: is 'many', which is not a number",
        "wrong: rule 192.0.2.2: queue program: /nonexistent/qq does not exist",
        "wrong: rule 192.0.2.3: QSMTPD_PLUGINS: takes out nothing, which is not there",
        "wrong: rule 192.0.2.5: BADMAILFROM: is not read: move its entries to badmailfrom, with"
        " re: before regular expressions",
    ]
    assert "ok: rule 127.: RELAYCLIENT =  (environment)" in lines
    assert (
        f"ok: rules = {home.path}/rules.cdb, of 6 clients; first is who has none of them (-x)"
        in lines
    )


def test_the_rule_for_all_others_is_the_base(home: Home) -> None:
    """What it sets need not be in the environment of the server, and is said once."""
    del home.environ["QMAILQUEUE"]
    queue = home.script("cat >/dev/null; cat <&1 >/dev/null")
    status, lines = with_rules(
        home, f'10.:allow,QMAILQUEUE="{queue}",DATABYTES="1"', f':allow,QMAILQUEUE="{queue}"'
    )
    assert (status, not_ok(lines)) == (0, [])
    assert [line for line in lines if "rule 10." in line] == [
        "ok: rule 10.: databytes = 1 (DATABYTES)"
    ]
    status, lines = with_rules(home, f'10.:allow,QMAILQUEUE="{queue}"')
    assert status == 1, "others have no rule, and so no queue program"
    status, lines = with_rules(
        home,
        f'10.:allow,QMAILQUEUE="{queue}"',
        f'11.:allow,QMAILQUEUE="{queue}",MAXHOPS="9"',
        ":deny",
    )
    assert (status, not_ok(lines)) == (0, [])
    assert f"ok: rules = {home.path}/rules.cdb, of 2 clients; first is 10. (-x)" in lines
    assert [x for x in lines if "rule 1" in x] == ["ok: rule 11.: maxhops = 9 (MAXHOPS)"]
    status, lines = with_rules(home, ":deny")
    assert (status, not_ok(lines)) == (
        1,
        [f"wrong: rules: {home.path}/rules.cdb refuses every client"],
    )


def test_rules_that_nobody_has(home: Home) -> None:
    """What refuses nobody, or lets nobody relay, though it says so."""
    keys = ["joe@10.0.0.1", "127.0.0.1/8", "10.3.*", "10.1", "10.300.", "=a.example."]
    good = ["10.0.0.1", "10.", "10.20.30.", "=mx.example", "=.example", "=", "::1", "2001:db8:"]
    cdb = home.path / "rules.cdb"
    make_cdb(cdb, {key.encode(): b"D\0" for key in keys + good} | {b"": b"+QMAILHOME=/x\0"})
    command: Command = [BIN / "qsmtpd-server", "--check", "-x", cdb, "0", "25"]
    done = subprocess.run(command, env=home.environ, capture_output=True, text=True, check=False)
    found = not_ok(done.stdout.splitlines())
    assert [line.split()[:3] for line in found[:6]] == [["wrong:", "rule:", key] for key in keys]
    assert found[6:] == ["wrong: rule:  sets QMAILHOME, which no rule can"]
    assert done.returncode == 1


def test_rules_for_names_that_nobody_looks_up(home: Home) -> None:
    rules = ("=mx.example:deny", ':allow,HELOCHECK="="')
    assert with_rules(home, *rules)[0] == 0
    status, lines = with_rules(home, *rules, options=("-H",))
    assert (status, not_ok(lines)) == (
        1,
        [
            "wrong: HELOCHECK: = refuses everybody, for -H looks up no name",
            "wrong: rule: =mx.example is for a host name, which -H does not look up",
        ],
    )


def test_rules_and_quiet(home: Home) -> None:
    status, lines = with_rules(home, '10.:allow,MAXHOPS="5"', ":allow", options=("--quiet",))
    assert status == 0
    assert "ok: rule 10.: maxhops = 5 (MAXHOPS)" in lines
    assert not any("(default)" in line or line.startswith("ok: user") for line in lines)


def test_rules_that_are_damaged(home: Home) -> None:
    cdb = make_rules(home.path / "rules.cdb", '127.:allow,RELAYCLIENT=""', ":allow")
    content = bytearray(cdb.read_bytes())
    content[2048:2052] = b"\xff\xff\xff\x7f"  # the length of the first key
    cdb.write_bytes(content)
    command: Command = [BIN / "qsmtpd-server", "--check", "-x", cdb, "0", "25"]
    done = subprocess.run(command, env=home.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"wrong: {cdb}: is damaged" in done.stdout
