"""qsmtpd-qmqpc --check."""

from __future__ import annotations

from typing import Any

import pytest
from daemons import Line
from harness import Home, Variables
from hubs import NOTHING_THERE, QMQPC, Hub, check, says, silent
from netstrings import ns


@pytest.mark.slow
def test_check(home: Home) -> None:
    with Hub(script=silent) as hub:
        home.control("qmqpservers", hub.where)
        assert check(home) == (0, [])
        assert f"ok: hub = {hub.where} (it takes a connection)" in check(home, ok=True)[1]
        assert "ok: qmqpctimeout = 480 (default)" in check(home, ok=True)[1]
        home.control("qmqpservers", NOTHING_THERE, hub.where)
        dead = (
            f"warning: control/qmqpservers: {NOTHING_THERE} cannot be reached: Connection refused"
        )
        assert check(home) == (0, [dead])
    none = "wrong: control/qmqpservers: names no hub that can be reached"
    code, lines = check(home)
    assert code == 1 and lines[0] == dead and lines[-1] == none
    home.control("qmqpservers", "a:x", "192.0.2.1", "192.0.2.300")
    code, (line, other) = check(home)
    assert code == 1 and line.startswith("wrong: control/qmqpservers: line 1: 'a:x' has no port")
    assert other.startswith("wrong: control/qmqpservers: line 3: '192.0.2.300' is no whole")
    (home.control_dir / "qmqpservers").unlink()
    code, (line,) = check(home)
    assert code == 1 and line.startswith("wrong: control/qmqpservers: is missing")


@pytest.mark.slow
def test_check_of_a_hub_that_takes_nothing_from_here(home: Home) -> None:
    """It says so, also after a second; or it closes, as tcpserver does by a rule."""

    def late(line: Line) -> None:
        line.wait_for_end()
        line.say(ns(b"Dnot for you 5.7.1"))

    with Hub(script=late) as hub:
        home.control("qmqpservers", hub.where)
        for script in (late, says(ns(b"Dnot for you 5.7.1"))):
            hub.script = script
            code, lines = check(home)
            assert code == 1 and lines[0].endswith("refuses this client: Dnot for you 5.7.1")
        hub.script = lambda line: None
        code, lines = check(home)
        assert code == 1 and "closes the connection at once" in lines[0]


@pytest.mark.slow
def test_check_of_other_settings(home: Home) -> None:
    with Hub(script=silent) as hub:
        home.control("qmqpservers", hub.where)
        assert check(home, QMQPCORDER="x")[0] == 1
        assert check(home, QMQPCTIMEOUT="x")[0] == 1
        assert check(home, TMPDIR="/nonexistent")[0] == 1
        assert check(home, QMQPCORDER="rotated") == (0, [])


@pytest.mark.slow
def test_check_of_a_front_end(home: Home) -> None:
    environ: Variables = {"QMAILQUEUE": str(QMQPC)}

    def said(**more: Any) -> list[str]:
        lines = home.run(b"", "--check", **environ, **more).out.decode().splitlines()
        return [line for line in lines if not line.startswith("ok: ")]

    (line,) = said()
    assert line.startswith("wrong: control/qmqpservers: is missing")
    with Hub(script=silent) as hub:
        home.control("qmqpservers", hub.where)
        assert said() == []
        (line,) = said(QUEUETIMEOUT="480")
        assert line.startswith("warning: qmqpctimeout: is 480, no less than queuetimeout")
    assert said()[-1] == "wrong: control/qmqpservers: names no hub that can be reached"
