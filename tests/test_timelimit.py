"""The time limit of plugin code by itself: a timer, and what happens when it rings."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from qsmtpd.policy.timelimit import Overdue, TimeLimit

pytestmark = pytest.mark.slow


def left() -> float:
    """Seconds until the alarm; 0 where there is none."""
    return signal.getitimer(signal.ITIMER_REAL)[0]


def is_at_rest() -> bool:
    """Is nothing armed?"""
    return left() == 0 and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


@pytest.fixture
def limit() -> Iterator[TimeLimit]:
    limit = TimeLimit()
    yield limit
    limit.stop()
    assert is_at_rest()


def test_the_timer_is_armed_once_and_not_for_each_call(
    limit: TimeLimit, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed: list[float] = []
    arm = TimeLimit._arm

    def counted(self: TimeLimit, now: float, seconds: float) -> None:
        armed.append(seconds)
        arm(self, now, seconds)

    monkeypatch.setattr(TimeLimit, "_arm", counted)
    for _ in range(1000):
        assert limit.call(("p", "body"), 7.0, lambda: "done") == "done"
    assert armed == [7.0]
    limit.call(("p", "x"), 5.0, lambda: None)
    assert armed == [7.0, 5.0], "a shorter limit goes off sooner"
    limit.call(("p", "x"), 5.0, lambda: None)
    limit.call(("p", "x"), 12.0, lambda: None)
    assert armed == [7.0, 5.0, 12.0], "a longer one needs a later watchdog"


def test_what_a_plugin_asks_for_is_not_its_time(limit: TimeLimit) -> None:
    """It may let the client wait for longer than its own limit."""

    def plugin() -> str:
        limit.suspended(time.sleep, 0.5)
        return "paused"

    def hangs() -> None:
        plugin()
        time.sleep(60)

    assert limit.call(("p", "x"), 0.2, plugin) == "paused"
    with pytest.raises(Overdue):
        limit.call(("p", "x"), 0.2, hangs)


def test_an_alarm_that_comes_when_no_plugin_runs_is_nothing(limit: TimeLimit) -> None:
    limit.call(("p", "x"), 0.1, lambda: None)
    while not is_at_rest():
        signal.sigtimedwait([], 0.01)
    assert limit.call(("p", "x"), 5.0, lambda: 1) == 1


def test_an_alarm_that_comes_as_a_call_begins(limit: TimeLimit) -> None:
    """It is for an earlier call, and must not disarm the timer of this one."""

    class Slow:
        """The second call begins for longer than the first may take."""

        calls = 0

        def begin(self, plugin: str, hook: str, deadline: float) -> None:
            self.calls += 1
            if self.calls == 2:
                time.sleep(0.4)

        def end(self) -> None:
            pass

    slow = TimeLimit(noted=Slow())
    slow.call(("p", "x"), 0.2, lambda: None)
    with pytest.raises(Overdue):
        slow.call(("p", "x"), 0.9, time.sleep, 60)
    slow.stop()


def test_an_alarm_for_an_earlier_call(limit: TimeLimit) -> None:
    """The timer is still that of the first; the second one has all of its own time."""
    limit.call(("p", "x"), 0.3, lambda: None)
    started = time.monotonic()
    with pytest.raises(Overdue):
        limit.call(("p", "x"), 0.6, time.sleep, 60)
    assert time.monotonic() - started >= 0.6


@pytest.mark.parametrize("plugin", [lambda: signal.alarm(0), lambda: signal.alarm(1000)])
def test_a_plugin_that_uses_the_alarm(limit: TimeLimit, plugin: Callable[[], object]) -> None:
    def rude() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        plugin()

    limit.call(("p", "x"), 0.2, rude)
    assert is_at_rest(), "it is not the session that its alarm ends"
    with pytest.raises(Overdue):
        limit.call(("p", "x"), 0.2, time.sleep, 60)


def test_the_alarm(limit: TimeLimit) -> None:
    started = time.monotonic()
    with pytest.raises(Overdue):
        limit.call(("p", "x"), 0.1, time.sleep, 60)

    def swallow() -> str:
        try:
            time.sleep(60)
        except BaseException:
            pass
        return "all is well"

    with pytest.raises(Overdue):
        limit.call(("p", "x"), 0.1, swallow)
    assert time.monotonic() - started < 30
    assert limit.call(("p", "x"), 5, lambda: 1) == 1


def test_escape_is_not_interrupted_and_names_who_it_was(
    limit: TimeLimit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To say goodbye may take longer than until the next alarm."""
    monkeypatch.setattr("qsmtpd.policy.timelimit.GRACE", 0.1)
    escapes: list[tuple[str, str]] = []

    def escape(plugin: str, stage: str) -> None:
        escapes.append((plugin, stage))
        time.sleep(0.3)  # three alarms, and well before the watchdog
        raise SystemExit(1)

    def swallow() -> None:
        for _ in range(1):
            try:
                time.sleep(60)
            except Overdue:
                time.sleep(60)

    limit.escape = escape
    with pytest.raises(SystemExit):
        limit.call(("bad", "mail"), 1.0, swallow)
    assert escapes == [("bad", "mail")]


def test_code_that_never_comes_back_to_python() -> None:
    """No handler runs; the process ends, and says where it was."""
    program = (
        "from qsmtpd.policy import timelimit\n"
        "timelimit.GRACE = 0.1\n"
        "limit = timelimit.TimeLimit(traceback=2)\n"
        "import itertools\n"
        "limit.call(('p', 'x'), 0.1, sum, itertools.repeat(0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "in call" in done.stderr
