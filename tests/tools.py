"""Installs the programs that the tests need beside Python (root on Debian).

Elsewhere it prints the one line that does it; the tests that need what is
missing are then skipped, except in CI (CI=true), where they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess

#: program -> Debian package
TOOLS = {
    "tcpserver": "ucspi-tcp",
    "svc": "daemontools",
    "strace": "strace",
    "swaks": "swaks",
    "smtp-source": "postfix",
    "mandoc": "mandoc",
    "msmtp": "msmtp",
    "openssl": "openssl",
    "stunnel4": "stunnel4",
    "socat": "socat",
}


def find(program: str) -> str | None:
    """The path of a program, also where only root's PATH has it."""
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def missing_packages() -> list[str]:
    """The Debian packages of the programs that are not here."""
    return sorted({package for program, package in TOOLS.items() if find(program) is None})


def main() -> None:
    """Install what is missing, or say how."""
    packages = missing_packages()
    if not packages:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print("some tests want more programs; on Debian, as root:")
        print("  apt-get install", *packages)
        return
    print("installing for the tests:", *packages)
    # No daemon of these packages may start: we only want their programs.
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ["apt-get", "-q=2", "-o", "DPkg::Lock::Timeout=120"]
    subprocess.run([*apt, "update"], env=environ, stdout=subprocess.DEVNULL, check=False)
    subprocess.run(
        [*apt, "install", "-y", "--no-install-recommends", *packages],
        env=environ,
        stdout=subprocess.DEVNULL,
        check=False,
    )


if __name__ == "__main__":
    main()
