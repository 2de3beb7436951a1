"""qsmtpd --check says what is wrong, and whether mail would flow."""

from __future__ import annotations

import pytest
from harness import Home


def check(home: Home, **environ: str | None) -> tuple[int, list[str]]:
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


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"DATABYTES": "1k"}, "wrong: DATABYTES: is not a number"),
        ({"BARELF": "maybe"}, "wrong: BARELF: is none of reject, reject-all, normalize"),
        ({"QMAILQUEUE": "/nonexistent/qq"}, "wrong: queue program: /nonexistent/qq does not exist"),
        ({"QMAILQUEUE": "/etc/passwd"}, "wrong: queue program: /etc/passwd is not executable"),
        ({"QMAILQUEUE": "/tmp"}, "wrong: queue program: /tmp is not executable"),
    ],
)
def test_wrong_variables(home: Home, environ: dict[str, str], line: str) -> None:
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
    assert "wrong: control/databytes: is not a number" in lines
    assert any(line.startswith("wrong: control/badmailfrom: ") for line in lines)
    # A client that may relay needs no rcpthosts.
    assert not any("rcpthosts" in line for line in check(home, RELAYCLIENT="")[1])
    home.control("rcpthosts", "ok.example")
    assert "wrong: control/morercpthosts.cdb: is no cdb" in check(home)[1]


def test_carriage_returns(home: Home) -> None:
    home.control("rcpthosts", "ok.example\r")
    status, lines = check(home)
    assert status == 0
    assert "warning: control/rcpthosts: has a CR, which counts as part of its line" in lines


def test_a_memory_limit_below_the_floor(home: Home) -> None:
    limited = home.script('ulimit -v 18000 && exec "$QSMTPD" --check')
    run = home.run(b"", program=limited, QSMTPD=str(home.program("qsmtpd")))
    assert run.status == 1
    assert b"wrong: address space" in run.out


def test_no_home(home: Home) -> None:
    status, lines = check(home, QMAILHOME="/nonexistent")
    assert status == 1
    assert lines == ["wrong: /nonexistent: No such file or directory"]
    run = home.run(b"", QMAILHOME="/nonexistent")
    assert run.lines == [b"421 unable to read controls (#4.3.0)"]
    assert run.status == 1
