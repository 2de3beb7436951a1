"""Policy servers of Debian's, started by a test: postgrey, postfwd and both policyd-spf.

They are no services: each has a folder and a socket of its own, and ends with the test.
The policyd-spf are programs that speak on descriptors 0 and 1, so tcpserver listens for them;
what they ask the DNS, a server of dns_server.py answers.
"""

from __future__ import annotations

import getpass
import grp
import os
import signal
import socket
import subprocess
from pathlib import Path

from client import PATIENCE
from harness import needs, wait_for
from scanners import Scanner
from tools import UNPACKED

PING = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=SMTP\nhelo_name=check.invalid\n"
    b"sender=\nrecipient=nobody@check.invalid\nclient_address=127.0.0.1\nclient_name=localhost\n"
    b"instance=ping\n\n"
)


class PolicyServer(Scanner):
    """One of them, running; a context manager.  `address` is as control/policyservers has it."""

    PING, PONG = PING, b"action="

    def user(self) -> list[str]:
        """The options by which it stays the user that it is."""
        return [f"--user={getpass.getuser()}", f"--group={grp.getgrgid(os.getgid()).gr_name}"]


class Postgrey(PolicyServer):
    """Puts off whom it does not know for a second."""

    program = "postgrey"

    def configure(self) -> list[str]:
        # Its whitelists are of /etc/postgrey, which an unpacked package has not.
        return [
            f"--unix={self.socket}",
            f"--dbdir={self.folder}",
            "--delay=1",
            "--whitelist-clients=/dev/null",
            "--whitelist-recipients=/dev/null",
            "--auto-whitelist-clients=0",
            *self.user(),
        ]


class Postfwd(PolicyServer):
    """Has these rules; it becomes a daemon, whose process it writes to a file."""

    program = "postfwd1"

    def __init__(self, rules: str) -> None:
        super().__init__()
        self._rules = rules

    def configure(self) -> list[str]:
        (self.folder / "rules").write_text(self._rules)
        return [
            "--daemon",
            f"--file={self.folder}/rules",
            "--proto=unix",
            f"--port={self.socket}",
            f"--pidfile={self.folder}/pid",
            "--nodns",
            *self.user(),
        ]

    def start(self) -> None:
        with (self.folder / "output").open("ab") as output:
            command = [self._path, *self.configure()]
            subprocess.run(command, stdout=output, stderr=output, check=True, timeout=PATIENCE)
        wait_for(self._listens)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            try:
                client.connect(os.fspath(self.socket))
            except OSError:
                return False
            client.sendall(self.PING)
            return client.recv(100).startswith(self.PONG)

    def stop(self) -> None:
        pid_file = self.folder / "pid"
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text())
        # By TERM it waits for those that are connected.
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        pid_file.unlink(missing_ok=True)


class Behind:
    """A program that speaks on descriptors 0 and 1, behind tcpserver; a context manager."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self._command = command
        self._environ = {**os.environ, **environ}
        self._port = "0"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"inet:127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [needs("tcpserver"), "-1HRl0", "127.0.0.1", self._port, *self._command]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=self._environ)
        assert self._process.stdout is not None
        self._port = self._process.stdout.readline().decode().strip()

    def stop(self) -> None:
        """End it, and those that still speak with somebody: they see the end of their input."""
        assert self._process is not None and self._process.stdout is not None
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Behind:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def spf_python(folder: Path, dns: str) -> Behind:
    """policyd-spf in Python, which is told of this DNS server (address:port)."""
    needs("policyd-spf")
    configuration = folder / "policyd-spf.conf"
    configuration.write_text(
        "debugLevel = 0\nTestOnly = 1\nHELO_reject = Fail\nMail_From_reject = Fail\n"
        "PermError_reject = False\nTempError_Defer = True\nskip_addresses = 127.0.0.0/8\n"
    )
    host, port = dns.rsplit(":", 1)
    # It has no setting for that but /etc/resolv.conf.
    code = (
        "import sys, DNS\nDNS.DiscoverNameServers = lambda *_: None\n"
        f"DNS.defaults.update(server=[{host!r}], port={port})\n"
        f"sys.argv = ['policyd-spf', {str(configuration)!r}]\n"
        "from spf_engine.policyd_spf import main\nmain()\n"
    )
    modules = UNPACKED / "postfix-policyd-spf-python/usr/lib/python3/dist-packages"
    environ = {"PYTHONPATH": str(modules)} if modules.exists() else {}
    return Behind(["/usr/bin/python3", "-c", code], environ)


def spf_perl(folder: Path, dns: str) -> Behind:
    """The same in Perl."""
    host, port = dns.rsplit(":", 1)
    environ = {"RES_NAMESERVERS": host, "RES_OPTIONS": f"port:{port}"}
    return Behind([needs("postfix-policyd-spf-perl")], environ)
