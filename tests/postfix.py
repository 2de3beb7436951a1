"""A Postfix of a test's own: a queue, an SMTP client, and where it is wanted a listener."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest
from client import PATIENCE
from harness import needs, wait_for
from ports import free_port
from tools import UNPACKED

QUEUE = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
    *("maildrop", "pid", "private", "public", "saved", "trace"),
)
MAIN = """
compatibility_level = 3.6
config_directory = {home}/conf
queue_directory = {home}/queue
data_directory = {home}/data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {root}/etc/postfix
import_environment = MAIL_CONFIG TZ LD_LIBRARY_PATH
export_environment = MAIL_CONFIG TZ LD_LIBRARY_PATH
mail_owner = nobody
setgid_group = users
default_privs = daemon
myhostname = sender.example
mydestination =
alias_maps =
local_recipient_maps =
inet_protocols = ipv4
smtputf8_autodetect_classes = all
smtp_tls_security_level = may
relayhost = [127.0.0.1]:{port}
maillog_file = {home}/data/log
maillog_file_prefixes = {home}
"""
MASTER = """
pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
discard unix - - n - - discard
error unix - - n - - error
retry unix - - n - - error
tlsmgr unix - - n 1000? 1 tlsmgr
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


#: With a listener, which takes all mail from this machine.
LISTENER = """
mynetworks = 127.0.0.0/8
smtpd_milters = {milters}
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_delay_open_until_valid_rcpt = no
"""


class Postfix:
    """Its master, with a home of its own, which sends everything to a port; a context manager.

    With `milters`, their addresses, it listens on `port`, a free one of 127.0.0.1; with `qmqp`
    it listens there for QMQP, from these addresses.  `more` are further lines of main.cf.
    """

    def __init__(
        self, port: int, milters: str | None = None, more: str = "", qmqp: str = ""
    ) -> None:
        needs("smtp-source")
        if os.geteuid() != 0:
            pytest.skip("Postfix's master is for root")
        root = UNPACKED / "postfix" if (UNPACKED / "postfix").exists() else Path("/")
        # Not below the folders of pytest: nobody else gets into them, not even `nobody`.
        self._home = home = Path(tempfile.mkdtemp(prefix="postfix-"))
        home.chmod(0o755)
        self._conf = home / "conf"
        self._log = home / "data" / "log"
        self._environ = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(
                sorted({str(path.parent) for path in root.rglob("*.so*")} if root.name else ())
            ),
            "MAIL_CONFIG": str(self._conf),
        }
        for folder in ("conf", "data", *(f"queue/{name}" for name in QUEUE)):
            (home / folder).mkdir(parents=True)
        for folder in ("data", *(f"queue/{name}" for name in QUEUE if name != "pid")):
            shutil.chown(home / folder, "nobody")
        root_path = "" if root == Path("/") else str(root)
        text = MAIN.format(home=home, root=root_path, port=port)
        master = MASTER
        self.port = free_port()
        if qmqp:
            text += f"qmqpd_authorized_clients = {qmqp}\n"
            master += f"127.0.0.1:{self.port} inet n - n - - qmqpd\n"
        if milters is not None:
            text += LISTENER.format(milters=milters)
            master += f"127.0.0.1:{self.port} inet n - n - - smtpd\n"
            master += "anvil unix - - n - 1 anvil\n"
        (self._conf / "main.cf").write_text(text + more)
        (self._conf / "master.cf").write_text(master)
        self._sendmail = f"{root_path}/usr/sbin/sendmail"
        self._process = subprocess.Popen(
            [f"{root_path}/usr/lib/postfix/sbin/master", "-d", "-c", str(self._conf)],
            env=self._environ,
            stdin=subprocess.DEVNULL,
        )

    def send(self, sender: str, recipient: str, text: str) -> str:
        """Put a message into the queue; the line of its log that says what became of it."""
        self.wait_until_ready()
        subprocess.run(
            [self._sendmail, "-C", str(self._conf), "-f", sender, recipient],
            input=text.encode(),
            env=self._environ,
            timeout=PATIENCE,
            check=True,
        )
        return self.outcome()

    def wait_until_ready(self) -> None:
        """It has made its sockets, and listens."""
        wait_for((self._home / "queue" / "public" / "qmgr").exists)

    def outcome(self) -> str:
        """The first line of its log that says what became of a message."""
        return wait_for(self._outcome)

    def _outcome(self) -> str | None:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return next((line for line in lines if " status=" in line), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        shutil.rmtree(self._home)
