"""make demo: it works, and its last line and its advice are true."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from harness import ROOT


def demo(port: int, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/demo.py"), "--port", str(port), str(home)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


def test_a_message_is_shown(tmp_path: Path) -> None:
    home = tmp_path / "a home"
    done = demo(0, home)
    assert done.returncode == 0, done.stderr
    *_, advice, by_hand, _, last = done.stdout.splitlines()
    (stored,) = (home / "Maildir" / "new").iterdir()
    port = int(advice.rpartition("PORT=")[2])
    assert f"127.0.0.1', {port}" in by_hand
    assert last == f"Shown: a message sent to port {port} through STARTTLS is now in {stored}"
    assert stored.read_text() in done.stdout


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = demo(port, tmp_path)
    assert done.returncode == 1
    assert f"is port {port} in use?  Try make demo PORT=" in done.stderr
