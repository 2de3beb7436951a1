"""The machines of man/examples/many on this one: 192.0.2.N is 127.0.2.N, each part can be killed.

Configurations are the files of the examples, but for addresses, ports, users and small limits.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

from child import session_members
from client import PATIENCE, Client
from harness import BIN, Home, needs, wait_for
from listeners import make_rules
from ports import free_port
from proxying import v2
from run import Run
from test_examples import EXAMPLES, Place, controls

FRONTS = {"mx1": "127.0.2.21", "mx2": "127.0.2.22", "mx3": "127.0.2.23"}
HUBS = {"hub1": "127.0.2.11", "hub2": "127.0.2.12"}
BALANCER, STORE = "127.0.2.10", "127.0.2.30"
PARTS = ("store", "haproxy", *FRONTS, *HUBS)
PASSWORD = "replace-this-password"
#: Seconds for which somebody unknown waits, and recipients within an hour: in tests.
GREYLIST, LIMIT = 2, 25


class Part:
    """A service, with all its processes; its log goes on from start to start."""

    def __init__(
        self, name: str, command: list[str], environ: dict[str, str], log: Path, at: tuple[str, int]
    ) -> None:
        self.name, self.log, self.at = name, log, at
        self._command, self._environ = command, environ
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: list[int] = []
        self._seen = 0
        self.kills: Counter[str] = Counter()
        self.started = 0.0

    def start(self) -> None:
        """Until it accepts a connection."""
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._sessions.append(self._process.pid)
        wait_for(self._listens)
        self.started = time.monotonic()

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(self.at, PATIENCE, (self.at[0], 0)).close()
        except ConnectionRefusedError:
            return False
        return True

    def kill(self) -> None:
        """All of its processes in one moment, as where a machine loses its power."""
        while members := [pid for each in self._sessions for pid in session_members(each)]:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in members:
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        pass
            self._reap()
        self._sessions.clear()

    def kill_first(self) -> None:
        """Only the process that was started; what it has started goes on."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def kill_other(self) -> bool:
        """One of the others by chance: of sessions, or a queue program; False: there is none."""
        assert self._process is not None
        others = [pid for pid in session_members(self._process.pid) if pid != self._process.pid]
        try:
            os.kill(random.choice(others), signal.SIGKILL)
        except (IndexError, ProcessLookupError):
            return False
        return True

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(PATIENCE)
            self._process = None

    def said(self, text: bytes) -> bool:
        """Is that in its log, since it was started?"""
        with self.log.open("rb") as log:
            log.seek(self._seen)
            return text in log.read()


class Cluster:
    """All parts; a context manager, within which they run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.smtp, self.qmqp, self.redis = free_port(), free_port(), free_port()
        self.fronts = {name: self._place(name) for name in FRONTS}
        self.hubs = {name: self._place(name) for name in HUBS}
        parts = [self._haproxy()]
        parts += [self._front(name, place) for name, place in self.fronts.items()]
        parts += [self._hub(name, place) for name, place in self.hubs.items()]
        self.parts = {part.name: part for part in [*parts, self._store()]}

    def _place(self, name: str) -> Place:
        (self.path / name).mkdir()
        return Place(Home(self.path / name))

    def _haproxy(self) -> Part:
        text = (EXAMPLES / "haproxy/haproxy.cfg").read_text()
        # TLS from the first byte is a service of its own at the front ends: not here.
        for name in ("\nfrontend smtps\n", "\nbackend smtps\n"):
            before, found, after = text.partition(name)
            assert found
            text = before + "\n" + after.partition("\n\n")[2]
        # Our clients say by a header of theirs what addresses they have.
        text = changed(text, "0.0.0.0:25\n", f"{BALANCER}:{self.smtp} accept-proxy\n")
        text = changed(text, "    bind :::25 v6only\n", "")
        for address in FRONTS.values():
            there = address.replace("127.0", "192.0")
            text = changed(text, f"{there}:25 ", f"{address}:{self.smtp} source {BALANCER} ")
        path = self.path / "haproxy.cfg"
        path.write_text(text)
        command = [needs("haproxy"), "-db", "-f", str(path)]
        return self._part("haproxy", command, (BALANCER, self.smtp))

    def _front(self, name: str, place: Place) -> Part:
        home, at = place.home, (FRONTS[name], self.smtp)
        hubs = [(a.replace("127.0", "192.0"), f"{a}:{self.qmqp}") for a in HUBS.values()]
        controls(home, "hubs/front/control", *hubs, ("mx1.", f"{name}."))
        for path in (EXAMPLES / "many/control").iterdir():
            text = path.read_text().replace("192.0.2.10\n", f"{BALANCER}\n")
            text = text.replace("192.0.2.30\n", f"{STORE}:{self.redis}\n")
            text = text.replace("300\n", f"{GREYLIST}\n").replace("=1000/", f"={LIMIT}/")
            home.file(f"control/{path.name}", text).chmod(0o600)
        lines = (EXAMPLES / "daemontools/tcp.smtp").read_text().splitlines()
        rules = make_rules(home.path / "rules.cdb", *lines)
        run = place.adapt(
            "hubs/front/run",
            ("0 smtp", f"{at[0]} {self.smtp}"),
            ("mx1.", f"{name}."),
            ("/etc/tcp.smtp.cdb", str(rules)),
            ("-u qmaild ", ""),
        )
        environ = {**place.environ, "STORELOCAL": self._local(place)}
        return self._part(name, [str(run)], at, environ)

    def _hub(self, name: str, place: Place) -> Part:
        at = (HUBS[name], self.qmqp)
        # To a hub all processes of this machine have one address.
        clients = [(f"192.0.2.2{n}", f"127.0.0.{n}") for n in (1, 2, 3)]
        controls(place.home, "hubs/hub/control", *clients, ("hub1.", f"{name}."))
        run = place.adapt(
            "qmqp/run",
            ("0 628", f"{at[0]} {self.qmqp}"),
            ("hub.example", f"{name}.example"),
            ("-u qmaild ", ""),
        )
        environ = {
            **place.environ,
            "QMAILQUEUE": str(BIN / "qsmtpd-maildir"),
            "QSMTPD_MAILDIR": str(self.maildir(name)),
        }
        return self._part(name, [str(run)], at, environ)

    def _store(self) -> Part:
        folder = self.path / "redis"
        folder.mkdir()
        text = (EXAMPLES / "many/redis.conf").read_text()
        text = changed(text, "192.0.2.30\nport 6379\n", f"{STORE}\nport {self.redis}\n")
        (folder / "redis.conf").write_text(f"{text}dir {folder}\n")
        command = [needs("redis-server"), str(folder / "redis.conf")]
        return self._part("store", command, (STORE, self.redis))

    def _part(
        self,
        name: str,
        command: list[str],
        at: tuple[str, int],
        environ: dict[str, str] | None = None,
    ) -> Part:
        environ = environ or {"PATH": os.environ["PATH"]}
        return Part(name, command, environ, self.path / f"{name}.log", at)

    def maildir(self, hub: str) -> Path:
        return self.path / hub / "Maildir"

    def __enter__(self) -> Cluster:
        try:
            for name in sorted(PARTS, reverse=True):
                self.parts[name].start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in self.parts.values():
            part.kill()

    def check(self, front: str) -> Run:
        """What `qsmtpd --check` says of a front end."""
        place = self.fronts[front]
        return place.home.run(b"", "--check", QMAILQUEUE=None, STORELOCAL=self._local(place))

    @staticmethod
    def _local(place: Place) -> str:
        return str(place.home.path / "store")

    def serves(self, name: str) -> bool:
        """Has the part done something for a client since it was started?"""
        if name == "haproxy":
            return True
        if name == "store":
            return self.ask("INFO", "commandstats").count(b"cmdstat_exec:") > 0
        return self.parts[name].said(b"verdict=accepted")

    def ask(self, *words: str) -> bytes:
        """What the store answers, by its own client."""
        command = [needs("redis-cli"), "-h", STORE, "-p", str(self.redis), *words]
        environ = {"REDISCLI_AUTH": PASSWORD, "PATH": os.environ["PATH"]}
        return subprocess.run(command, env=environ, capture_output=True, check=False).stdout

    def client(self, address: str) -> Client:
        """A client that has this address, at the balancer."""
        client = Client(socket.create_connection((BALANCER, self.smtp), PATIENCE, (BALANCER, 0)))
        client.send(v2(0x11, address, "192.0.2.10", 40000, 25))
        return client


def changed(text: str, old: str, new: str) -> str:
    """With another text in place of one that has to be there once."""
    assert text.count(old) == 1, old
    return text.replace(old, new)
