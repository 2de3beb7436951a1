"""What holds for every test: signals, levels, fixtures."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from child import Child
from client import PATIENCE
from filters import close_logs
from harness import PROGRAMS, Home
from hypothesis import settings
from scram_home import ANN, BOB, JOE, PROGRAM, SEED
from tls_home import S6, SERVER, SSLSERVER, Start
from ucspitls import Helper

# No deadline: beside other tests on a busy machine an example takes any time.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile("fast", deadline=None, max_examples=30)
settings.register_profile("long", deadline=None, max_examples=20_000)
settings.load_profile("default")

#: What a caller may have made us ignore: nohup HUP, sh for a job in the background INT and QUIT.
SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGALRM,
    signal.SIGCHLD,
)


def pytest_configure() -> None:
    """What a test starts blocks and ignores no signal, whatever was inherited."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            # This process goes on without heeding it; a handler is not inherited through exec.
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make slow, or long, what is not in a sample."""
    seen: Counter[str] = Counter()
    for item in items:
        sample = item.get_closest_marker("sample")
        if sample is not None:
            test = item.nodeid.partition("[")[0]
            fast, slow = (*sample.args, 1)[:2]
            if seen[test] % fast:
                item.add_marker("long" if seen[test] % slow else "slow")
            seen[test] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests have measured, which they give by record_property."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if report.when == "call":
                terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """The logs of filters that a test has made in this process end with it."""
    yield
    close_logs()


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters in this process ask a DNS server once, also where it is stopped for some seconds."""
    monkeypatch.setattr("qsmtpd.net.dns.exchange.FIRST_WAIT", PATIENCE)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A QMAILHOME with me and rcpthosts, and the oracle as its queue program."""
    home = Home(tmp_path)
    yield home
    home.end()


@pytest.fixture
def of_nobody() -> Iterator[Home]:
    """A home that this user can read (pytest's folders are ours alone); a queue that says who."""
    path = Path(tempfile.mkdtemp())
    home = Home(path)
    path.chmod(0o777)
    home.environ["QMAILQUEUE"] = home.script(
        f"cat >/dev/null; (id -u; id -g; id -G) >{path}/seen; cat <&1 >/dev/null"
    )
    yield home
    home.end()
    shutil.rmtree(path)


@pytest.fixture
def inside(home: Home) -> Home:
    """A home with a certificate."""
    SERVER.save(home.control_dir / "servercert.pem")
    return home


@pytest.fixture
def submission(home: Home) -> Home:
    """AUTH is switched on, with the stand-in for checkpassword; also in clear, to be simple."""
    SERVER.save(home.control_dir / "servercert.pem")
    home.environ.update(
        SMTPAUTH="", AUTHCLEAR="1", AUTHDELAY="0", SEEN=str(home.path / "seen"), MAXERRORS="100"
    )
    home.arguments = [str(PROGRAMS / "checker"), "true"]
    return home


@pytest.fixture
def scram(submission: Home) -> Home:
    """joe has SCRAM, ann CRAM-MD5 and bob neither; joe's PLAIN is asked of the same file."""
    submission.control("smtpusers", SEED, JOE, ANN, BOB)
    submission.arguments = [str(PROGRAM), "true"]
    submission.environ.update(
        AUTHMECHANISMS="SCRAM-SHA-256 PLAIN LOGIN",
        SCRAMPROGRAM=f"{PROGRAM} --scram",
        MAXAUTHFAILURES="100",
    )
    return submission


@pytest.fixture(params=["inside", "sslserver", "s6"])
def provider(request: pytest.FixtureRequest, home: Home) -> Start:
    """Starts a session in which STARTTLS is done by qsmtpd itself, or by a helper of each kind."""
    path = SERVER.save(home.path / "certificate")
    if request.param == "inside":
        SERVER.save(home.control_dir / "servercert.pem")

    def start(**environ: Any) -> Child:
        if request.param == "inside":
            return home.talk(**environ)
        report = SSLSERVER if request.param == "sslserver" else S6
        return home.talk(helper=Helper(path, report), **{"UCSPITLS": "", **environ})

    return start
