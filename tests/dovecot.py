"""A Dovecot of a test's own: its master and its auth process, and no other service."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest
from client import PATIENCE
from harness import needs, wait_for
from tools import UNPACKED

CONFIGURATION = """
base_dir = {home}/run
state_dir = {home}/state
libexec_dir = {root}/usr/lib/dovecot
mail_plugin_dir = {root}/usr/lib/dovecot/modules
import_environment = TZ LD_LIBRARY_PATH
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
log_path = {home}/log
protocols =
ssl = no
auth_mechanisms = plain login cram-md5 scram-sha-256 anonymous
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {home}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {home}/users
  default_fields = uid=nobody gid=nogroup home=/nonexistent
}}
service auth {{
  unix_listener {home}/auth {{
    mode = 0666
  }}
  unix_listener {home}/auth-userdb {{
    mode = 0600
    user = nobody
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0
  }}
}}
"""


class Dovecot:
    """It knows these users, with passwd-file's extra fields; a context manager.

    `auth` and `users` are the addresses of its sockets.
    """

    def __init__(self, *users: str) -> None:
        self._doveconf = needs("doveconf")
        if os.geteuid() != 0:
            pytest.skip("Dovecot's master is for root")
        unpacked = UNPACKED / "dovecot-core"
        self._root = str(unpacked) if unpacked.exists() else ""
        # Not below the folders of pytest, whose paths are too long for a socket's.
        self._home = home = Path(tempfile.mkdtemp(prefix="dovecot-"))
        home.chmod(0o755)
        (home / "users").write_text("".join(user + "\n" for user in users))
        text = CONFIGURATION.format(home=home, root=self._root)
        (home / "dovecot.conf").write_text(text)
        self.auth = f"unix:{home}/auth"
        self.users = f"{home}/auth-userdb"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        # dovecot(1) itself would look for doveconf where it is installed.
        configuration = ["-c", f"{self._home}/dovecot.conf"]
        dovecot = [f"{self._root}/usr/sbin/dovecot", "-F", *configuration]
        master = ["-f", "service=master", *configuration, "-m", "master", "-e", *dovecot]
        self._process = subprocess.Popen([self._doveconf, *master], stdin=subprocess.DEVNULL)
        wait_for((self._home / "run" / "master.pid").exists)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def restart(self) -> None:
        """End it and start it anew."""
        self.stop()
        self.start()

    def suspend(self) -> int:
        """Its auth process, which there is once it has been asked, does nothing more; its pid."""
        (pid,) = wait_for(self._auth_processes)
        os.kill(pid, signal.SIGSTOP)
        return pid

    def kill(self) -> None:
        """Its auth process ends where it stands; the master will start another one."""
        (pid,) = wait_for(self._auth_processes)
        os.kill(pid, signal.SIGKILL)

    def _auth_processes(self) -> list[int]:
        assert self._process is not None
        master = self._process.pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
        return [pid for pid, name in names.items() if name == "auth"]

    def log(self) -> str:
        """What it has logged."""
        return (self._home / "log").read_text()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._home)
