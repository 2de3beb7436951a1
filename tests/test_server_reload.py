"""HUP with something broken: all or nothing, and nobody is left in the dark."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certificates import Certificate
from client import Client, client_context
from harness import Home, wait_for
from listeners import Server, state
from tls_home import AUTHORITY, SERVER, SERVER_RSA

from qsmtpd.server.configuration import Configuration, Preloaded

pytestmark = pytest.mark.slow
GOOD = "from qsmtpd.decision import DECLINED\ndef mail(client, envelope):\n    return DECLINED\n"


@pytest.fixture
def complete(home: Home) -> Home:
    """A home with everything that a HUP reads."""
    control = home.control_dir
    (control / "servercert.pem").write_bytes(SERVER.pem + AUTHORITY.pem)
    (control / "serverkey.pem").write_bytes(SERVER.key_pem)
    folder = control / "servercerts" / "other.example"
    folder.mkdir(parents=True)
    Certificate("other.example", days=3).save(folder / "servercert.pem")
    (control / "clientca.pem").write_bytes(AUTHORITY.pem)
    (control / "clientcrl.pem").write_bytes(AUTHORITY.revocation_list())
    home.control("tlsclients", "me@b.example")
    home.control("smtpgreeting", "old.example")
    home.plugin("mine", GOOD)
    home.control("plugins", "mine", "rcpthosts")
    return home


def looks(client: Client, name: str = "mx.example") -> tuple[bytes, bytes | None]:
    """What a client sees: the greeting, and the certificate for a name."""
    greeting = client.reply()
    client.starttls(client_context(), name=name)
    certificate = client.tls.getpeercert(binary_form=True)
    client.ask(b"QUIT")
    return greeting, certificate


def seen(server: Server) -> list[tuple[bytes, bytes | None]]:
    result = []
    for name in ("mx.example", "other.example"):
        with server.client() as client:
            result.append(looks(client, name))
    return result


def cut(name: str) -> Callable[[Path], object]:
    return lambda control: (control / name).write_bytes((control / name).read_bytes()[:-30])


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda control: (control / name).write_bytes(content)


def remove(*names: str) -> Callable[[Path], object]:
    def unlink(control: Path) -> None:
        for name in names:
            (control / name).unlink()

    return unlink


def fifo(name: str) -> Callable[[Path], object]:
    def make(control: Path) -> None:
        (control / name).unlink()
        os.mkfifo(control / name)

    return make


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "certificate cut off": (cut("servercert.pem"), "servercert.pem: is cut off"),
    "key cut off": (cut("serverkey.pem"), "serverkey.pem: is cut off"),
    "key gone": (remove("serverkey.pem"), "holds no key"),
    "certificate empty": (write("servercert.pem", b""), "holds no certificate"),
    "certificate unreadable": (fifo("servercert.pem"), "is no regular file"),
    "another key": (write("serverkey.pem", SERVER_RSA.key_pem), "servercert.pem: "),
    "nonsense in PEM": (
        write("servercert.pem", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"),
        "servercert.pem: ",
    ),
    "number": (write("databytes", b"1k\n"), "control/databytes: "),
    "plugins": (write("plugins", b"nosuch\n"), "control/plugins: "),
    "plugin": (
        lambda control: (control.parent / "plugins" / "mine.py").write_text("def mail(:\n"),
        "SyntaxError",
    ),
    "version": (write("tlsminimum", b"SSLv3\n"), "control/tlsminimum: "),
    "ciphers": (write("tlsserverciphers", b"NO-SUCH\n"), "tlsserverciphers: "),
    "clients": (write("tlsclients", b"sha256:00\n"), "control/tlsclients: "),
    "clients unreadable": (fifo("tlsclients"), "control/tlsclients: "),
    "authority": (cut("clientca.pem"), "clientca.pem: is cut off"),
    "revocation list": (write("clientcrl.pem", b""), "clientcrl.pem: holds no X509 CRL"),
    "name": (
        write("servercerts/other.example/servercert.pem", b"nonsense"),
        "servercerts/other.example: ",
    ),
    "no name": (remove("me", "smtpgreeting"), "control/me: is missing"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_all_stays_as_it_was(complete: Home, what: str) -> None:
    """Not only what is broken: what has changed beside it waits for the next HUP as well."""
    damage, reason = BREAKS[what]
    with Server(complete, "--sessions", "9") as server:
        before = seen(server)
        complete.control("smtpgreeting", "new.example")
        damage(complete.control_dir)
        server.reload()
        (line,) = [line for line in server.said() if line.startswith("warning: not read anew: ")]
        assert reason in line
        assert "; all is as read on 20" in line
        assert "its first certificate to expire: 20" in line and "servercert.pem)" in line
        assert seen(server) == before
        assert [event["verdict"] for event in server.events("tls")] == ["on"] * 4
        assert server.events("control") == []


def test_mended(complete: Home) -> None:
    """The next HUP has everything new, and says no more of what was."""
    with Server(complete) as server:
        before = seen(server)
        key = (complete.control_dir / "serverkey.pem").read_bytes()
        complete.control("serverkey.pem", "nonsense")
        complete.control("smtpgreeting", "new.example")
        server.reload()
        assert seen(server) == before
        (complete.control_dir / "serverkey.pem").write_bytes(key)
        server.reload()
        assert server.said()[-9:].count("reading controls, plugins and certificates anew") == 1
        assert [greeting for greeting, _ in seen(server)] == [b"220 new.example ESMTP"] * 2


def test_it_is_said_again(complete: Home) -> None:
    """Every hour, here of 0.2 seconds, until it is mended."""
    start = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from qsmtpd.server import main, reload
reload.REMINDER = 0.2
main.main(sys.argv[1:])
"""
    root = Path(__file__).parent.parent
    with Server(complete, run=[sys.executable, "-c", start, root]) as server:
        complete.control("databytes", "x")
        server.signal(signal.SIGHUP)
        wait_for(lambda: server.log().count("not read anew: control/databytes") > 2)
        complete.control("databytes", "0")
        server.signal(signal.SIGHUP)
        wait_for(lambda: "reading controls" in server.log())
        assert server.log().rindex("not read anew") < server.log().index("reading controls")


def test_at_the_start_there_is_nothing_to_keep(home: Home) -> None:
    """An error as with a cold child, until a HUP, whatever else is wrong then."""
    home.control("databytes", "x")
    with Server(home) as server:
        with server.client() as client:
            assert client.reply() == b"421 unable to read controls (#4.3.0)"
        home.control("databytes", "0")
        home.control("servercert.pem", "nonsense")
        server.reload()
        with server.client() as client:
            assert client.reply() == b"220 mx.example ESMTP"


def test_what_was_wrong_before_keeps_nobody_from_a_reload(home: Home) -> None:
    home.control("servercert.pem", "nonsense")
    with Server(home) as server:
        home.control("me", "new.example")
        server.reload()
        with server.client() as client:
            assert client.reply() == b"220 new.example ESMTP"
        assert "not read anew" not in server.log()


def test_what_is_worse() -> None:
    def state(serves: bool, *problems: str) -> Configuration:
        plan: Any = SimpleNamespace(protocol=None)
        preloaded = Preloaded(None, plan, "")  # type: ignore[arg-type]
        preloaded.serves, preloaded.problems = serves, list(problems)
        return Configuration(None, {}, None, preloaded)  # type: ignore[arg-type]

    good, part, none = state(True), state(True, "a"), state(False, "b")
    assert part.worse_than(good) == ["a"]
    assert good.worse_than(part) == part.worse_than(part) == []
    assert none.worse_than(part) == ["b"]
    assert part.worse_than(none) == state(False, "c").worse_than(none) == []


def test_files_that_go_away_without_a_hup(complete: Home) -> None:
    """What is in memory serves on: certificates, keys and authorities are looked at on HUP."""
    with Server(complete) as server:
        before = seen(server)
        for name in ("servercert.pem", "serverkey.pem", "clientca.pem", "clientcrl.pem"):
            (complete.control_dir / name).unlink()
        (complete.control_dir / "servercert2.pem").write_bytes(b"nonsense")
        assert seen(server) == before


@pytest.mark.parametrize("asked", [None, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM])
def test_who_is_on_the_way_to_a_process_that_is_dismissed(home: Home, asked: int | None) -> None:
    """The process has the client still: it is served, or told where it is to end."""
    with Server(home) as server:
        server.session(b"NOOP", b"QUIT")
        wait_for(lambda: server.busy() == 0)
        (pid,) = server.children()
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: state(pid) == "T")
        with server.client() as client:
            client.reply()
            client.send(b"NOOP\r\n")
            wait_for(lambda: server.busy() == 1)
            server.reload()
            if asked is not None:
                os.kill(pid, asked)
            os.kill(pid, signal.SIGCONT)
            if asked is None:
                assert client.reply() == b"250 ok"
                client.quit()
            else:
                assert client.rest() == b"421 shutting down, try again later (#4.3.2)\r\n"
        event = wait_for(lambda: server.events("session")[1:])[0]
        assert (event["pid"], event["end"]) == (str(pid), "quit" if asked is None else "shutdown")
