"""What the tests themselves rest on: signals as they expect them, and programs of Debian."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tools
from conftest import SIGNALS
from harness import ROOT

ALL = f"""
import subprocess

def test_status():
    status = subprocess.check_output(["cat", "/proc/self/status"], text=True)
    fields = dict(line.split(":\\t", 1) for line in status.splitlines())
    assert int(fields["SigBlk"], 16) == 0
    assert int(fields["SigIgn"], 16) & {sum(1 << (number - 1) for number in SIGNALS)} == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "1"])
def test_inherited_signals(tmp_path: Path, processes: str) -> None:
    """From sh, `nohup make test &` ignores three; who starts it may also block some."""
    (tmp_path / "test_it.py").write_text(ALL)
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-p", "conftest", "-n", processes]
    ignore = 'trap "" HUP INT QUIT TERM ALRM CHLD'
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
    try:
        done = subprocess.run(
            ["sh", "-c", f'{ignore}; exec "$@"', "sh", *command, tmp_path],
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert "1 passed" in done.stdout, done.stdout


# -- programs of Debian ------------------------------------------------------


class Debian:
    """A root user's machine whose only programs are apt-get and dpkg, which do as they are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.peers = folder / "peers of tests"
        folder.joinpath("bin").mkdir()
        self.simulation = ""
        self.program("dpkg", 'mkdir -p "$3/usr/sbin"; cp "$2" "$3/usr/sbin/a-server"\n')
        monkeypatch.setenv("PATH", str(folder / "bin"))
        monkeypatch.setattr(tools, "ROOT", folder)
        monkeypatch.setattr(tools, "UNPACKED", self.peers)
        monkeypatch.setattr(tools, "no_services", contextlib.nullcontext)
        monkeypatch.setattr(os, "geteuid", lambda: 0)

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text("#!/bin/sh\nPATH=/usr/bin:/bin\n" + text)
        path.chmod(0o755)

    def get(self, simulation: str, **missing: str) -> list[str]:
        """Get packages (program=package) where a simulation says this; what apt-get was asked."""
        self.program(
            "apt-get",
            f"echo \"$*\" >>'{self.folder}/asked'\n"
            f"case $* in *' -s '*) printf '%s' '{simulation}' ;;\n"
            "*download*) echo 'echo peer \"$@\"' >x.deb; chmod 755 x.deb ;; esac\n",
        )
        wanted = {name.replace("_", "-"): package for name, package in missing.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(tools.LEVELS, "interop", wanted)
            patch.setattr(sys, "argv", ["tools.py", "interop"])
            tools.main()
        asked = self.folder / "asked"
        return asked.read_text().splitlines() if asked.exists() else []


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Debian:
    return Debian(tmp_path, monkeypatch)


def test_no_package_is_removed(debian: Debian) -> None:
    with pytest.raises(SystemExit) as stopped:
        debian.get(
            "Remv ours [1.0]\nInst lib (2)\nInst swaks (3 x [all])\n",
            a_client="swaks libnet-ssleay-perl",
        )
    said = str(stopped.value)
    assert said.startswith("Nothing was installed: ")
    assert "apt-get would remove ours." in said
    asked = debian.folder.joinpath("asked").read_text().splitlines()
    assert [" -s " in line or line.endswith(" update") for line in asked] == [True, True]


def test_it_is_said_what_will_be_installed(
    debian: Debian, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = debian.get("Inst lib (2 x)\nInst old [1] (2 x)\nInst socat (3 x)\n", a_client="socat")
    assert capfd.readouterr().out == "installing these packages of Debian: lib socat\n"
    assert asked[-1].endswith(" install -y --no-remove --no-install-recommends socat")


def test_a_package_with_a_service_is_unpacked(
    debian: Debian, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever it conflicts with: nothing of the machine is changed."""
    asked = debian.get("Remv exim4 [4]\nInst lib (2 x)\nInst postfix (3 x)\n", a_server="postfix")
    assert [line.rpartition("User=root ")[2] for line in asked][-1] == "download lib postfix"
    assert not any(" install -y" in line for line in asked)
    assert capfd.readouterr().out == "unpacking postfix below peers of tests/\n"
    found = tools.find("a-server")
    assert found == str(debian.peers / "bin" / "a-server")
    assert subprocess.check_output([found, "a b"]) == b"peer a b\n"


def test_who_is_not_root_is_told(
    debian: Debian, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert debian.get("", a_client="swaks libnet-ssleay-perl", another="socat") == []
    assert capfd.readouterr().out.splitlines()[-1] == (
        "  apt-get install libnet-ssleay-perl socat swaks"
    )


def test_every_service_is_known() -> None:
    """What brings one is unpacked, so it must be alone in its entry."""
    entries = [packages for level in tools.LEVELS.values() for packages in level.values()]
    assert all(entry in tools.PEERS for entry in entries if tools.PEERS & set(entry.split()))
