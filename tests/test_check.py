"""qsmtpd --check says what is wrong, and whether mail would flow."""

from __future__ import annotations

from typing import Any

import pytest
from cdbs import make_cdb
from certificates import Certificate
from harness import BIN, Home, Variables

from qsmtpd.diagnose.noted import _shown

SERVER = Certificate("mx.example")


def check(home: Home, **environ: Any) -> tuple[int, list[str]]:
    run = home.run(b"", "--check", **environ)
    return run.status, run.out.decode().splitlines()


def test_all_is_well(home: Home) -> None:
    home.control("databytes", "1000")
    status, lines = check(home, MAXHOPS="50")
    assert status == 0
    assert all(line.startswith("ok: ") for line in lines), lines
    assert "ok: databytes = 1000 (control/databytes)" in lines
    assert "ok: maxhops = 50 (MAXHOPS)" in lines
    assert "ok: timeoutsmtpd = 1200 (default)" in lines
    assert "ok: rcpthosts = 2 entries (control/rcpthosts)" in lines


def test_an_empty_list_of_what_is_looked_for(home: Home) -> None:
    """Its filter is on, and finds nothing."""
    names = ["badattachments", "badheaders", "badloadertypes", "badmimetypes"]
    for name in names:
        home.control(name, "# none yet")
    make_cdb(home.control_dir / "badmimetypes.cdb", {})
    status, lines = check(home, BADMIMETYPE="", BADLOADERTYPE="")
    assert status == 0
    for name in names[:3]:
        assert f"warning: control/{name}: has no entry, so nothing is looked for" in lines
    said = "warning: control/badmimetypes.cdb: has no key, so nothing is looked for"
    assert said in lines, lines


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"redis://hunter2@127.0.0.1", "...@127.0.0.1"),
        (b"redis://:hunter2@127.0.0.1/3", "redis://:...@127.0.0.1/3"),
        (b"redis://joe:hun:t@er2@127.0.0.1", "redis://joe:...@127.0.0.1"),
        (b"unix://joe:hunter2@/run/redis?db=3", "unix://joe:...@/run/redis?db=3"),
        (b"unix:joe:hunter2@/run/redis", "...@/run/redis"),
        (b"unix:hunter2@/run/redis", "...@/run/redis"),
        (b"unix://hunter2@/run/redis", "...@/run/redis"),
        (b"redis:/:hunter2@127.0.0.1", "...@127.0.0.1"),
        (b"redis:hunter2@127.0.0.1", "...@127.0.0.1"),
        (b"redis//joe:hunter2@127.0.0.1", "...@127.0.0.1"),
        (b"redis//hunter2@127.0.0.1", "...@127.0.0.1"),
        (b"valkey/hunter2@127.0.0.1", "...@127.0.0.1"),
        (b"REDIS://hunter2@127.0.0.1", "...@127.0.0.1"),
        (b"redis://127.0.0.1", "redis://127.0.0.1"),
        (b"unix:/run/redis", "unix:/run/redis"),
        (b"/var/lib/store@mx", "/var/lib/store@mx"),
    ],
)
def test_what_is_secret_in_an_address(value: bytes, shown: str) -> None:
    """Also where somebody has mistaken how it is written."""
    assert _shown("store", value) == shown


@pytest.mark.parametrize("address", ["redis://hunter2@127.0.0.1", "unix:joe:hunter2@/run/redis"])
@pytest.mark.parametrize("place", ["control/store", "QSMTPD_STORE"])
def test_no_password_is_said(home: Home, address: str, place: str) -> None:
    home.environ["GREYLIST"] = ""
    if place == "QSMTPD_STORE":
        home.environ[place] = address
    else:
        home.control("store", address)
    run = home.run(b"", "--check")
    said = run.out.decode()
    assert run.status == 1 and f"wrong: {place}: has no " in said, said
    assert "hunter2" not in said + run.log
    assert f"ok: store = ...@{address.partition('@')[2]} ({place})" in said, said


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"DATABYTES": "1k"}, "wrong: DATABYTES: is '1k', which is not a number"),
        ({"BARELF": "maybe"}, "wrong: BARELF: is 'maybe', none of reject, reject-all, normalize"),
        ({"QMAILQUEUE": "/nonexistent/qq"}, "wrong: queue program: /nonexistent/qq does not exist"),
        ({"QMAILQUEUE": "/etc/passwd"}, "wrong: queue program: /etc/passwd is not executable"),
        ({"QMAILQUEUE": "/tmp"}, "wrong: queue program: /tmp is not executable"),
    ],
)
def test_wrong_variables(home: Home, environ: Variables, line: str) -> None:
    status, lines = check(home, **environ)
    assert status == 1
    assert line in lines


def test_wrong_files(home: Home) -> None:
    (home.control_dir / "me").unlink()
    (home.control_dir / "rcpthosts").unlink()
    (home.control_dir / "badmailfrom").mkdir()
    home.control("databytes", "x")
    home.control("morercpthosts.cdb", "x")
    status, lines = check(home)
    assert status == 1
    assert "wrong: control/me: is missing" in lines
    assert "wrong: control/rcpthosts: is missing, so every recipient is refused" in lines
    assert "wrong: control/databytes: is 'x', which is not a number" in lines
    assert any(line.startswith("wrong: control/badmailfrom: ") for line in lines)
    # A client that may relay needs no rcpthosts.
    problems = [line for line in check(home, RELAYCLIENT="")[1] if not line.startswith("ok")]
    assert not any("rcpthosts" in line for line in problems)
    home.control("rcpthosts", "ok.example")
    assert "wrong: control/morercpthosts.cdb: is no cdb, or still being written" in check(home)[1]


def test_white_space_at_an_end(home: Home) -> None:
    home.control("rcpthosts", "# ours\r", "ok.example\r", "b.example \t", *["c.example "] * 20)
    home.control("databytes", "7\t\r")
    status, lines = check(home, MAXHOPS="9 ")
    assert status == 0
    what = "ends in white space, which is not part of it"
    for where in ("control/rcpthosts: line 2 ", "control/databytes: line 1 ", "MAXHOPS: "):
        assert f"warning: {where}{what}" in lines
    assert "warning: control/rcpthosts: and 12 more like these" in lines
    assert "ok: databytes = 7 (control/databytes)" in lines
    home.control("rcpthosts", "ok.example\r")
    run = home.run(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nQUIT\r\n")
    assert run.codes == [220, 250, 250, 221]


def test_white_space_in_what_is_no_setting_of_a_file(home: Home) -> None:
    program = home.path / "qsmtpd-maildir"
    program.symlink_to(BIN / "qsmtpd-maildir")
    folder = home.path / "Maildir"
    home.environ |= {"QMAILQUEUE": str(program), "QSMTPD_MAILDIR": f"{folder} \t"}
    home.environ |= {"RELAYCLIENT": "@x.example \r", "QMAILHOME": f"{home.path} "}
    status, lines = check(home)
    assert status == 0
    for name in ("QSMTPD_MAILDIR", "RELAYCLIENT", "QMAILHOME"):
        assert f"warning: {name}: ends in white space, which is not part of it" in lines
    run = home.run(b"MAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n\r\n.\r\nQUIT\r\n")
    assert run.codes == [220, 250, 250, 354, 250, 221]
    (message,) = folder.glob("new/*")
    assert b"Delivered-To: x@ok.example@x.example\n" in message.read_bytes()


def test_a_memory_limit_below_the_floor(home: Home) -> None:
    for kilobytes in (15000, 18000):
        limited = home.script(f'ulimit -v {kilobytes} && exec "$QSMTPD" --check')
        run = home.run(b"", program=limited, QSMTPD=str(home.program("qsmtpd")))
        assert run.status == 1
        assert b"wrong: address space" in run.out or b"wrong: memory: " in run.out
        assert "Traceback" not in run.log


@pytest.mark.slow
def test_the_memory_that_a_session_needs_is_enough_for_the_check(home: Home) -> None:
    """The floor of CAVEATS in qsmtpd(8), as `softlimit -m` sets it."""
    home.control("rcpthosts", "ok.example", "bücher.example", "xn--bcher-kva.example")
    for kilobytes, checked in ((20508, False), (23000, False), (32768, True)):
        limited = home.script(
            f'ulimit -v {kilobytes}; ulimit -d {kilobytes}; exec "$QSMTPD" ${{CHECK-}}'
        )
        program = str(home.program("qsmtpd"))
        run = home.run(b"", program=limited, QSMTPD=program, CHECK="--check")
        assert "Traceback" not in run.log and b"wrong: " not in run.out and run.status == 0
        assert (b"warning: control/smtputf8: is not checked: that wants" in run.out) != checked
        run = home.run(b"", program=limited, QSMTPD=program, CHECK="--check", SMTPUTF8="off")
        assert b"warning: " not in run.out and run.status == 0
        text = "MAIL FROM:<ü@bücher.example> SMTPUTF8\r\nRCPT TO:<x@bücher.example>\r\nQUIT\r\n"
        run = home.run(text.encode(), program=limited, QSMTPD=program)
        assert run.codes == [220, 250, 250, 221]


def test_no_home(home: Home) -> None:
    status, lines = check(home, QMAILHOME="/nonexistent")
    assert status == 1
    assert lines == ["wrong: /nonexistent: No such file or directory"]
    run = home.run(b"", QMAILHOME="/nonexistent")
    assert run.lines == [b"421 unable to read controls (#4.3.0)"]
    assert run.status == 1


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"FORCETLS": "1"}, "wrong: FORCETLS, UCSPITLS: want TLS, and there is none"),
        ({"SMTPAUTH": "!"}, "wrong: SMTPAUTH: AUTH is only for TLS, and there is none"),
        ({"SMTPAUTH": ""}, "warning: SMTPAUTH: AUTH is only for TLS, and there is none"),
        ({"LOCALMFCHECK": "!"}, "wrong: control/mailfromrules: is missing"),
        ({"QMAILQUEUE": str(BIN / "qsmtpd-maildir")}, "wrong: QSMTPD_MAILDIR: is not set"),
    ],
)
def test_what_fits_together_badly(home: Home, environ: Variables, line: str) -> None:
    run = home.run(b"", "--check", "cat", "true", **environ)
    assert any(found.startswith(line) for found in run.out.decode().splitlines()), run.out
    assert run.status == line.startswith("wrong")


def test_certificates(home: Home) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    home.control("tlsclients", "me@b.example")
    folder = home.control_dir / "servercerts"
    for name in ("one.example", "Two.example", "empty.example", "dot.example."):
        (folder / name).mkdir(parents=True)
    (folder / "one.example" / "servercert.pem").write_bytes(b"nonsense")
    for name in ("Two.example", "dot.example."):
        SERVER.save(folder / name / "servercert.pem")
    status, lines = check(home)
    text = "\n".join(line for line in lines if line.startswith("warning"))
    assert status == 0, lines
    assert "ok: tls = starttls (see qsmtpd-tls(7))" in lines
    for part in ("servercerts/one.example: ", "servercerts/Two.example: is never used"):
        assert "warning: " + part in text
    assert "warning: servercerts/empty.example: is never used" in text
    assert "warning: servercerts/dot.example.: is never used" in text
    assert "warning: control/tlsclients: nobody is asked" in text
    Certificate("old", days=0).save(home.control_dir / "servercert.pem")
    assert any("has expired" in line for line in check(home)[1])


def test_too_little_memory_for_tls(home: Home) -> None:
    SERVER.save(home.control_dir / "servercert.pem")
    limited = home.script('ulimit -v 40000 && exec "$QSMTPD" --check')
    run = home.run(b"", program=limited, QSMTPD=str(home.program("qsmtpd")))
    assert "Traceback" not in run.log
    assert run.status == 1
    assert b"wrong: address space" in run.out


def test_each_answer_is_given_once(home: Home) -> None:
    """What switches a filter on is asked for by several; a value that is wrong is not ok."""
    status, lines = check(home, POSTPONE="x", MAXNOTIMPL="q", LOGFORMAT="spamcontrol")
    assert status == 1
    said = [line for line in lines if line.startswith("ok: ") and " plugins = " not in line]
    names = [line.split()[1] for line in said]
    assert len(names) == len(set(names)), lines
    assert not any(line.startswith(("ok: MAXNOTIMPL", "ok: postpone = x")) for line in lines)
    wrong = [line for line in lines if line.startswith("wrong: ")]
    assert wrong == [
        "wrong: POSTPONE: is 'x', none of none, rcpt, data",
        "wrong: MAXNOTIMPL: is 'q', which is not a number",
    ]
    home.control("plugins", "nosuch")
    _, lines = check(home, POSTPONE="x")
    assert any(line.startswith("wrong: control/plugins: nosuch: ") for line in lines)


def test_a_switch_that_is_none_of_its_words(home: Home) -> None:
    for value in ("", "1", "!", "-"):
        assert b"UCSPITLS: is" not in home.run(b"", "--check", UCSPITLS=value).out
    said = home.run(b"", "--check", UCSPITLS="require").out
    assert b"warning: UCSPITLS: is 'require': TLS is offered, and not required" in said


def test_a_filter_that_cannot_be_made_hides_no_other(home: Home) -> None:
    home.control("badhelo", "re:(")
    home.control("badmailfrom", "re:[")
    said = home.run(b"", "--check", TARPITCOUNT="x", TARPITDELAY="1").out
    for where in (b"control/badhelo: line 1", b"control/badmailfrom: line 1", b"TARPITCOUNT: "):
        assert b"wrong: " + where in said
