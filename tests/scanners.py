"""Scanners of Debian's, started by a test: clamd, spamd and rspamd, each with rules of its own.

They are no services: each has a folder and sockets of its own, asks no network, and ends with
the test.  Their own rules know EICAR or GTUBE, and a subject with `spammy` in it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from client import PATIENCE
from harness import needs, wait_for
from tools import UNPACKED

#: In two pieces, or a scanner would take this file away.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


class Scanner:
    """One of them, running; a context manager.

    `folder` is its own, `socket` the path of its socket, `address` the same as our settings
    have it.
    """

    program = ""
    #: What is sent, and how the answer begins where it is ready.
    PING, PONG = b"", b""

    def __init__(self) -> None:
        self._path = needs(self.program)
        # Not below the folders of pytest, whose paths are too long for a socket's.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.program}-"))
        self.folder.chmod(0o755)
        self.socket = self.folder / "socket"
        self.address = f"unix:{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self) -> list[str]:
        """Write its configuration; its arguments."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [self._path, *self.configure()]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            try:
                client.connect(os.fspath(self.socket))
            except OSError:
                return False
            client.sendall(self.PING)
            return client.recv(100).startswith(self.PONG)

    def log(self) -> str:
        """What it has said."""
        return (self.folder / "output").read_text()

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

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)


class Clamd(Scanner):
    """ClamAV's daemon, whose only signature is EICAR; it takes no stream beyond `stream`."""

    program = "clamd"
    PING, PONG = b"zPING\0", b"PONG\0"
    #: What it calls it.
    VIRUS = "Eicar-Test-Signature.UNOFFICIAL"

    def __init__(self, stream: str = "1M") -> None:
        super().__init__()
        self._stream = stream

    def configure(self) -> list[str]:
        signatures = self.folder / "signatures"
        signatures.mkdir(exist_ok=True)
        name = self.VIRUS.removesuffix(".UNOFFICIAL")
        (signatures / "test.ndb").write_text(f"{name}:0:*:{EICAR.hex()}\n")
        configuration = self.folder / "clamd.conf"
        configuration.write_text(
            f"LocalSocket {self.socket}\nLocalSocketMode 666\nForeground yes\nMaxThreads 2\n"
            f"DatabaseDirectory {signatures}\nTemporaryDirectory {self.folder}\n"
            f"StreamMaxLength {self._stream}\nPidFile {self.folder}/pid\n"
        )
        return ["-c", str(configuration)]


class Spamd(Scanner):
    """SpamAssassin's daemon: GTUBE has the score 1000, a subject with `spammy` 7, of 5.

    T_CLIENT is true where it knows the client's address, 192.0.2.1.
    """

    program = "spamd"
    PING, PONG = b"PING SPAMC/1.5\r\n\r\n", b"SPAMD/1.5 0 PONG"
    RULES = r"""
required_score 5
use_bayes 0
util_rb_tld com org net example
report_safe 0
header T_SPAMMY Subject =~ /spammy/
describe T_SPAMMY The subject says so
score T_SPAMMY 7
clear_trusted_networks
trusted_networks 192.0.2.9
header T_CLIENT X-Spam-Relays-Untrusted =~ /^\[ ip=192\.0\.2\.1 /
describe T_CLIENT The client of tests
score T_CLIENT 0.01
body GTUBE /XJS\*C4JDBQADN1\.NSBN3\*2IDNEN\*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL\*C\.34X/
describe GTUBE Generic Test for Unsolicited Bulk Email
score GTUBE 1000
"""

    def configure(self) -> list[str]:
        rules = self.folder / "rules"
        rules.mkdir(exist_ok=True)
        (rules / "init.pre").write_text("loadplugin Mail::SpamAssassin::Plugin::Check\n")
        (rules / "local.cf").write_text(self.RULES)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        sockets = [f"--socketpath={self.socket}", "--socketmode=666"]
        children = ["--max-children=1", "--min-children=1"]
        local = ["--local", "--nouser-config", f"--configpath={rules}", f"--siteconfigpath={rules}"]
        return [*local, *sockets, *children, "--syslog=stderr", *user]


class Rspamd(Scanner):
    """Rspamd, which adds header lines; `milter` is the socket of its milter.

    It rejects GTUBE; a subject with `spammy` in it has 7 points, one with `hello` 1;
    `reject` and `add header` are from 15 and from 6.  One with `later` in it is a soft
    reject, one with `nowhere` is discarded, for one with `rename` it has another, and of
    one with `gone` it wants X-Gone removed.
    """

    program = "rspamd"
    PING, PONG = b"GET /ping HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "
    CONFIGURATION = """
options {{
    pidfile = "{folder}/pid"; tempdir = "{folder}"; hs_cache_dir = "{folder}/";
    cache_file = "{folder}/cache"; history_file = "{folder}/history";
    dynamic_conf = "{folder}/dynamic"; control_socket = "{folder}/control mode=0600";
    url_tld = "{folder}/tld"; filters = ""; explicit_modules = []; local_addrs = [];
    dns {{ nameserver = "127.0.0.1:1"; timeout = 1s; retransmits = 1; sockets = 1; }}
}}
logging {{ type = "console"; level = "info"; }}
actions {{
    reject = 15; add_header = 6; greylist = 4;
    discard = {{ flags = ["no_threshold"]; }}
}}
worker "normal" {{ bind_socket = "{folder}/socket mode=0666"; count = 1; }}
worker "rspamd_proxy" {{
    bind_socket = "{folder}/milter mode=0666"; count = 1; milter = yes; timeout = 30s;
    upstream "local" {{ default = yes; self_scan = yes; }}
}}
lua = "{folder}/rules.lua";
modules {{ path = "{share}/plugins/milter_headers.lua"; }}
milter_headers {{
    use = ["x-spamd-bar", "x-spam-level", "x-spam-status", "x-spamd-result"];
    skip_local = false; skip_authenticated = false;
}}
"""
    RULES = """
local function subject(word)
  return function(task) return (task:get_subject() or ''):find(word) ~= nil end
end
for word, score in pairs({ hello = 1.0, spammy = 7.0 }) do
  rspamd_config:register_symbol({
    name = 'T_' .. word:upper(), score = score, callback = subject(word) })
end
local function act(word, action, message)
  rspamd_config:register_symbol({
    name = 'T_' .. word:upper(), type = 'prefilter', callback = function(task)
      if subject(word)(task) then task:set_pre_result(action, message) end
    end })
end
act('later', 'soft reject', 'Come back later')
act('nowhere', 'discard', 'Nobody wants it')
act('rename', 'rewrite subject', 'Another subject')
rspamd_config:register_symbol({ name = 'T_GONE', type = 'postfilter', callback = function(task)
  if subject('gone')(task) then
    task:set_milter_reply({ remove_headers = { ['X-Gone'] = 0 } })
  end
end })
"""

    def __init__(self) -> None:
        super().__init__()
        self.milter = f"unix:{self.folder}/milter"

    def configure(self) -> list[str]:
        unpacked = UNPACKED / "rspamd"
        share = (unpacked if unpacked.exists() else Path("/")) / "usr/share/rspamd"
        (self.folder / "tld").write_text("com\norg\nnet\nexample\n")
        (self.folder / "rules.lua").write_text(self.RULES)
        text = self.CONFIGURATION.format(folder=self.folder, share=share)
        (self.folder / "rspamd.conf").write_text(text)
        variables = (f"LUALIBDIR={share}/lualib", f"SHAREDIR={share}")
        named = [word for variable in variables for word in ("--var", variable)]
        # Without a change of user, for a test may have none to change to.
        return ["--no-fork", "--insecure", "-c", f"{self.folder}/rspamd.conf", *named]
