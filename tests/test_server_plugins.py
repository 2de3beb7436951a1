"""Plugins from elsewhere that end a process of qsmtpd-server, or never come back."""

from __future__ import annotations

import mmap

import pytest
from harness import Home, wait_for
from listeners import Server, mail
from plugin_lines import limited
from run import parse_log

from qsmtpd.policy.running import Running
from qsmtpd.server.deaths import log_death

pytestmark = pytest.mark.slow

PASSED, TO_COME = 0.001, 1e12  # deadlines
EXITED_WITH_1 = 1 << 8


def test_what_is_running() -> None:
    page = mmap.mmap(-1, Running.SIZE)
    running = Running(page)
    assert Running.read(page) is None
    running.begin("a/longer/name:2", "data_post", 12.5)
    assert Running.read(page) == (b"a/longer/name:2", b"data_post", 12.5)
    running.begin("mine", "rcpt", 13.5)
    assert Running.read(page) == (b"mine", b"rcpt", 13.5)
    running.end()
    assert Running.read(page) is None


def test_names_that_do_not_fit() -> None:
    page = mmap.mmap(-1, Running.SIZE)
    Running(page).begin("m\u00fc" * 5000, "x" * 5000, 1.0)
    assert Running.read(page) == (b"m?" * 250, b"x" * 500, 1.0)


@pytest.mark.parametrize(
    ("code", "deadline", "error", "end"),
    [
        (EXITED_WITH_1, PASSED, "Hang", "plugin-hangs"),
        (EXITED_WITH_1, TO_COME, "Exit", "plugin-exits"),
        (0, PASSED, "Exit", "plugin-exits"),
        (9, PASSED, "Exit", "plugin-exits"),
    ],
)
@pytest.mark.parametrize(("protocol", "proto"), [(b"SMTP", None), (b"QMTP", "QMTP")])
def test_log_of_a_death(
    capfd: pytest.CaptureFixture[str],
    code: int,
    deadline: float,
    error: str,
    end: str,
    protocol: bytes,
    proto: str | None,
) -> None:
    page = mmap.mmap(-1, Running.SIZE)
    running = Running(page)
    running.begin("mine", "rcpt", deadline)
    log_death(page, code, 4711, b"192.0.2.1", protocol)
    trouble, session = map(parse_log, capfd.readouterr().err.splitlines())
    assert (trouble["event"], trouble["error"]) == ("trouble", error)
    assert (trouble["plugin"], trouble["hook"]) == ("mine", "rcpt")
    assert (session["event"], session["end"], session.get("proto")) == ("session", end, proto)
    for line in (trouble, session):
        assert (line["pid"], line["ip"]) == ("4711", "192.0.2.1")
    running.end()
    log_death(page, code, 4711, b"192.0.2.1", protocol)
    said = capfd.readouterr().err
    if code == 9:
        killed = parse_log(said.rstrip())
        assert (killed["event"], killed["end"]) == ("session", "process-killed")
        assert killed.get("proto") == proto
        assert (killed["pid"], killed["ip"], killed["signal"]) == ("4711", "192.0.2.1", "9")
    else:
        assert said == ""


@pytest.mark.parametrize(
    "options", [("--sessions", "1"), ("--spare", "2"), ("--sessions", "100")], ids=str
)
@pytest.mark.parametrize(
    ("how", "error", "end"),
    [
        ("compute", "Hang", "plugin-hangs"),
        ("leave", "Exit", "plugin-exits"),
        ("swallow", "Overdue", "plugin-hangs"),  # which the worker says itself
    ],
)
def test_a_worker_that_ends_within_a_plugin(
    home: Home, options: tuple[str, ...], how: str, error: str, end: str
) -> None:
    """The log names plugin, hook, process and client, once; the server serves on."""
    home.plugin(
        "mine",
        f"""
        import itertools, os, time
        from qsmtpd.decision import DECLINED

        def _compute(): sum(itertools.repeat(0))
        def _leave(): os._exit(1)
        def _swallow():
            while True:
                try: time.sleep(600)
                except BaseException: pass

        def mail(client, envelope):
            if envelope.sender == b"x@x.example":
                _{how}()
            return DECLINED
        """,
    )
    home.control("plugins", "mine timeout=1")
    with Server(home, *options, run=limited("mail", how, "qsmtpd.server")) as server:
        mail(server.port)
        with server.client() as client:
            assert client.reply().startswith(b"220 ")
            client.ask(b"MAIL FROM:<x@x.example>")
        wait_for(lambda: len(server.events("session")) == 2 and server.busy() == 0)
        mail(server.port)
        wait_for(lambda: len(server.events("session")) == 3)
        (trouble,) = server.events("trouble")
        (session,) = [line for line in server.events("session") if line["end"] == end]
        assert trouble["error"] == error
        assert (trouble["plugin"], trouble["hook"]) == ("mine", "mail")
        assert trouble["ip"] == session["ip"] == "127.0.0.1"
        assert trouble["pid"] == session["pid"] != str(server.pid)
