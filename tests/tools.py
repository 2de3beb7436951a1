"""Installs the programs that the tests need beside Python (root on Debian).

With --bench: those of `make bench`, which are qsmtpd's peers.

Elsewhere it prints the one line that does it; the tests that need what is
missing are then skipped, except in CI (CI=true), where they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: program -> Debian package, or packages
TOOLS = {
    "tcpserver": "ucspi-tcp",
    "svc": "daemontools",
    "strace": "strace",
    "swaks": "swaks libnet-ssleay-perl",  # for its TLS
    "smtp-source": "postfix",
    "mandoc": "mandoc",
    "msmtp": "msmtp",
    "openssl": "openssl",
    "stunnel4": "stunnel4",
    "socat": "socat",
    "fail2ban-regex": "fail2ban",
    "cdb": "tinycdb",
}
BENCH = {
    "tcpserver": "ucspi-tcp",
    "smtp-source": "postfix",
    "smtpfront-qmail": "mailfront",
    "qpsmtpd-forkserver": "qpsmtpd",
}


def find(program: str) -> str | None:
    """The path of a program, also where only root's PATH has it."""
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def missing_packages(tools: dict[str, str]) -> list[str]:
    """The Debian packages of the programs that are not here."""
    wanted = [packages for program, packages in tools.items() if find(program) is None]
    return sorted({package for packages in wanted for package in packages.split()})


@contextmanager
def no_daemons() -> Iterator[None]:
    """While it lasts no package may start its daemon: we only want their programs.

    What asks this file is invoke-rc.d(8), and deb-systemd-invoke; 101 is "forbidden".
    """
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink()


def main() -> None:
    """Install what is missing, or say how."""
    bench = sys.argv[1:] == ["--bench"]
    packages = missing_packages(BENCH if bench else TOOLS)
    if not packages:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"{'the benchmark wants' if bench else 'some tests want'} more; on Debian, as root:")
        print("  apt-get install", *packages)
        return
    print("installing:", *packages)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q=2", "-o", "DPkg::Lock::Timeout=120"]
    with no_daemons():
        for step in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run([*apt, *step], env=environ, stdout=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    main()
