"""A real client that sends in chunks: exim4, which tries BDAT wherever it is announced."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Home, needs, wait_for
from listeners import Server
from tools import UNPACKED

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="exim4 changes its user"),
]

USER = 65533
CONFIGURATION = """
spool_directory = {folder}/spool
log_file_path = {folder}/spool/%slog
exim_path = {folder}/exim4
primary_hostname = me.example
tls_advertise_hosts =
begin routers
all:
  driver = manualroute
  route_list = * 127.0.0.1 byname
  self = send
  transport = smtp
begin transports
smtp:
  driver = smtp
  port = {port}
  hosts_require_tls = *
  tls_verify_certificates =
  hosts_try_chunking = *
  allow_localhost
"""
#: Debian's exim4 insists on a user of this name; for it alone, there is one.
RUN = """
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group &&
exec "$1/exim4" -C "$1/configuration" -odi -f a@b.example x@ok.example
"""


@pytest.fixture
def exim() -> Iterator[Path]:
    """A folder that its user can enter, with exim4 in it."""
    program = Path(needs("exim4"))
    unpacked = UNPACKED / "exim4-daemon-light/usr/sbin/exim4"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(unpacked if unpacked.exists() else program, folder / "exim4")
        (folder / "exim4").chmod(0o4755)
        passwd, group = (Path("/etc", file).read_text() for file in ("passwd", "group"))
        (folder / "passwd").write_text(f"{passwd}Debian-exim:x:{USER}:{USER}::/:/bin/false\n")
        (folder / "group").write_text(f"{group}Debian-exim:x:{USER}:\n")
        (folder / "spool").mkdir()
        os.chown(folder / "spool", USER, USER)
        yield folder


def test_a_message_in_chunks_through_tls(inside: Home, exim: Path) -> None:
    body = b"".join(b".%d\n" % number for number in range(20_000)) + b"no line end"
    with Server(inside) as server:
        text = CONFIGURATION.format(folder=exim, port=server.port)
        (exim / "configuration").write_text(text)
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", RUN, "sh", exim],
            input=b"From: a@b.example\nTo: x@ok.example\nSubject: chunks\n\n" + body,
            env={"PATH": os.environ["PATH"]},
            check=True,
            capture_output=True,
        )
        log = (exim / "spool/mainlog").read_text()
        wait_for(lambda: server.events("session"))
        assert " K C=" in log, log  # K: by CHUNKING
        (event,) = server.events("message")
        assert event["verdict"] == "accepted"
        assert int(event["chunks"]) >= 1
        assert server.events("tls")
    (message,) = inside.messages()
    assert message.body.partition(b"\n\n")[2] == body + b"\n"
