"""Who takes part, and how each is started."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools import find

from bench.place import Place

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = ROOT / ".venv" / "bin"
#: More than the most connections that are held, and those that bring mail meanwhile.
LIMIT = "700"
BACKLOG = "200"
#: More than the most clients that are held.
HOLD = "11000"

COLD = "tcpserver qsmtpd"
WARM = "qsmtpd-server"
ONE = "qsmtpd-server --sessions 1"
ONE_TLS = "qsmtpd-server --sessions 1, TLS"
FLOOR = "bare Python"
MAILFRONT = "tcpserver smtpfront-qmail"
QPSMTPD = "qpsmtpd-forkserver"
AIOSMTPD = "aiosmtpd"
SINK = "smtp-sink"


@dataclass(frozen=True)
class Contestant:
    """A server that can be started on a port of 127.0.0.1."""

    name: str
    about: str
    #: (place, port) -> command and environment
    start: Callable[[Place, int], tuple[list[str], dict[str, str]]]
    #: Programs it needs, and Python modules.
    needs: tuple[str, ...] = ()
    module: str | None = None
    package: str | None = None
    #: Whether it offers STARTTLS.
    tls: bool = False
    #: Whether it hands messages to the queue program, and knows whose mail it takes.
    queues: bool = True
    #: Whether more than a few clients can be connected at a time.
    many: bool = True
    #: The same as `start`, for as many clients as there are that say nothing.
    hold: Callable[[Place, int], tuple[list[str], dict[str, str]]] | None = None

    def missing(self) -> str | None:
        """What is not installed here."""
        for program in self.needs:
            if find(program) is None:
                return program
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return self.module
        return None

    def version(self) -> str:
        """Its version, as its package says."""
        if self.module is not None:
            return importlib.metadata.version(self.module)
        if self.package is not None:
            return debian_version(self.package)
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or importlib.metadata.version("qsmtpd")


def debian_version(package: str) -> str:
    """The version of an installed package of Debian's, or "not Debian's"."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not Debian's"
    return done.stdout.strip() or "not Debian's"


def _path(program: str) -> str:
    return find(program) or program


def tcpserver(port: int, program: str) -> list[str]:
    """tcpserver as all have it, with this program."""
    options = ["-HRQ", "-l", "mx.example", "-c", LIMIT, "-b", BACKLOG]
    return [_path("tcpserver"), *options, "127.0.0.1", str(port), program]


def _cold(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    return tcpserver(port, str(BIN / "qsmtpd")), place.environ(place.tls)


def _warm(place: Place, port: int, home: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    # As tcpserver has it above: the name of the client is not looked for.
    options = ["-HRQ", "-l", "mx.example", "-c", LIMIT, "-b", BACKLOG, *more]
    command = [str(BIN / "qsmtpd-server"), *options, "127.0.0.1", str(port)]
    return command, place.environ(home)


def _hold(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    """Clients have many addresses, and no limit for each."""
    return _warm(place, port, place.tls, "-C", "0", "--hold", HOLD)


def _mailfront(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    return tcpserver(port, _path("smtpfront-qmail")), place.environ(place.plain)


def _qpsmtpd(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    """It wants a user that is not root, and a directory of settings."""
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    config = place.path / "qpsmtpd"
    spool = config / "spool"
    if not config.exists():
        spool.mkdir(parents=True)
        spool.chmod(0o700)
        os.chown(spool, user.pw_uid, user.pw_gid)
        files = " ".join([str(place.certificate)] * 3)
        for name, text in {
            "me": "mx.example",
            "rcpthosts": "ok.example",
            "plugin_dirs": f"/usr/share/qpsmtpd/plugins\n{config}",
            "plugins": f"no_rdns\ntls {files}\nrcpt_ok\nqueue/qmail-queue",
            "spool_dir": str(spool),
        }.items():
            (config / name).write_text(text + "\n")
        shutil.copy(Path(__file__).with_name("no_rdns"), config)
    options = ["-H", "-l", "127.0.0.1", "-p", str(port), "-u", user.pw_name, "-c", LIMIT]
    environ = {**place.environ(place.plain), "QPSMTPD_CONFIG": str(config)}
    return [_path("qpsmtpd-forkserver"), *options, "-m", LIMIT], environ


def _aiosmtpd(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    program = str(Path(__file__).with_name("aiosmtpd_server.py"))
    command = [sys.executable, program, str(port), str(place.queue), str(place.certificate)]
    return command, place.environ(place.plain)


def _bare(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    program = str(Path(__file__).with_name("bare_server.py"))
    command = [sys.executable, "-I", "-S", program, str(port), str(place.queue)]
    return command, place.environ(place.plain)


def _sink(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    command = [_path("smtp-sink"), *user, "-m", LIMIT, f"127.0.0.1:{port}", BACKLOG]
    return command, place.environ(place.plain)


CONTESTANTS = [
    Contestant(COLD, "qsmtpd under tcpserver, with a certificate", _cold, ("tcpserver",), tls=True),
    Contestant(
        WARM,
        "100 sessions per process, which is the default; with a certificate; no lookups",
        lambda place, port: _warm(place, port, place.tls),
        tls=True,
        hold=_hold,
    ),
    Contestant(
        ONE,
        "one session per process, no certificate",
        lambda place, port: _warm(place, port, place.plain, "--sessions", "1"),
    ),
    Contestant(
        ONE_TLS,
        "one session per process, with a certificate: pyOpenSSL is loaded",
        lambda place, port: _warm(place, port, place.tls, "--sessions", "1"),
        tls=True,
    ),
    Contestant(
        MAILFRONT,
        "Debian's mailfront, whose only STARTTLS is that of UCSPI-TLS, which tcpserver has not",
        _mailfront,
        ("tcpserver", "smtpfront-qmail"),
        package="mailfront",
    ),
    Contestant(
        QPSMTPD,
        "Debian's qpsmtpd with the plugins tls, rcpt_ok, queue/qmail-queue; no lookups",
        _qpsmtpd,
        ("qpsmtpd-forkserver",),
        package="qpsmtpd",
        tls=True,
    ),
    Contestant(
        AIOSMTPD,
        "one process, with a handler that starts the queue program",
        _aiosmtpd,
        module="aiosmtpd",
        tls=True,
    ),
    Contestant(
        FLOOR,
        "the floor of a server in Python: four processes that know no limit, no error and no log",
        _bare,
        many=False,
    ),
    Contestant(
        SINK,
        "stores nothing, refuses nothing, starts no queue program",
        _sink,
        ("smtp-sink",),
        package="postfix",
        queues=False,
    ),
]
