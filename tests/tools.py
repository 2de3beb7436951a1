"""Gets the programs of Debian that a level of tests needs: tools.py check|test|interop|long|bench.

A package that brings a service is not installed but unpacked below build/peers.  The others
are installed (by root), unless a package would be removed for them; what will be installed
is printed first, and no service is started.  Where this cannot be done, the one line that
does it is printed; the tests that need what is missing are then skipped, except in CI
(CI=true), where they fail.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Level -> program -> the Debian packages that have it.
CHECK = {"mandoc": "mandoc"}
TEST = {
    **CHECK,
    "tcpserver": "ucspi-tcp",
    "strace": "strace",
    "openssl": "openssl",
    "cdb": "tinycdb",
}
INTEROP = {
    **TEST,
    "/usr/bin/python3": "python3",  # fail2ban's
    "/usr/lib/python3/dist-packages/OpenSSL/SSL.py": "python3-openssl",
    "/usr/share/doc/python3-venv": "python3-venv",
    "clamav-milter": "clamav-milter",
    "clamd": "clamav-daemon",
    "curl": "curl",
    "dkimsign": "python3-dkim",
    "dnsmasq": "dnsmasq-base",
    "doveconf": "dovecot-core",
    "execlineb": "execline",
    "exim4": "exim4-daemon-light",
    "fdmove": "execline",
    "fail2ban-regex": "fail2ban",
    "haproxy": "haproxy",
    "inetd": "openbsd-inetd",
    "msmtp": "msmtp",
    "multilog": "daemontools",
    "node": "nodejs",
    "npm": "npm",
    "qmqp": "nullmailer",
    "qmqp-sink": "postfix",
    "qmqp-source": "postfix",
    "qmqpfront-qmail": "mailfront",
    "qmtpfront-qmail": "mailfront",
    "policyd-spf": "postfix-policyd-spf-python",
    "postfix-policyd-spf-perl": "postfix-policyd-spf-perl",
    "postfwd1": "postfwd",
    "postgrey": "postgrey",
    "opendkim": "opendkim",
    "opendmarc": "opendmarc",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
    "rspamd": "rspamd",
    "s6-envuidgid": "s6",
    "smtp-source": "postfix",
    "socat": "socat",
    "spamass-milter": "spamass-milter",
    "spamc": "spamc",
    "spamd": "spamd",
    "stunnel4": "stunnel4",
    "swaks": "swaks libnet-ssleay-perl",  # for its TLS
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "tcpsvd": "ipsvd",
    "unbound": "unbound",
    "xinetd": "xinetd",
}
BENCH = {
    "tcpserver": "ucspi-tcp",
    "smtp-source": "postfix",
    "smtp-sink": "postfix",
    "smtpfront-qmail": "mailfront",
    "qmqp-source": "postfix",
    "qmqpfront-qmail": "mailfront",
    "qpsmtpd-forkserver": "qpsmtpd",
    "strace": "strace",
}
LONG = {name: INTEROP[name] for name in (*TEST, "haproxy", "redis-cli", "redis-server")}
LEVELS = {"check": CHECK, "test": TEST, "interop": INTEROP, "long": LONG, "bench": BENCH}
#: What is unpacked: it brings a service, conflicts with what may be installed, or supervises.
PEERS = {
    *("dnsmasq-base", "dovecot-core", "exim4-daemon-light", "fail2ban", "openbsd-inetd"),
    *("clamav-daemon", "clamav-milter", "opendkim", "opendmarc", "spamass-milter"),
    *("haproxy", "nullmailer", "postfix", "rspamd", "spamd", "stunnel4", "unbound", "xinetd"),
    *("redis-server", "redis-tools"),
    *("daemontools", "execline", "ipsvd", "s6", "systemd"),
    "python3-dkim",
    *("postfix-policyd-spf-perl", "postfix-policyd-spf-python", "postfwd", "postgrey"),
}

#: Libraries of npm, for interop: below build/peers, of exactly this version.
NPM = {"mailauth": "7.1.0"}

ROOT = Path(__file__).resolve().parent.parent
UNPACKED = ROOT / "build" / "peers"
APT = ["apt-get", "-q=2", "-o", "DPkg::Lock::Timeout=120"]


def find(program: str) -> str | None:
    """The path of a program, also where only root's PATH has it, or of an unpacked one.

    What has a slash in it is a file, or a folder, of a package that has no program.
    """
    if "/" in program:
        return program if os.path.exists(program) else None
    path = [os.environ["PATH"], "/usr/sbin", "/sbin", str(UNPACKED / "bin")]
    return shutil.which(program, path=os.pathsep.join(path))


def missing(tools: dict[str, str]) -> dict[str, str]:
    """Those of the programs that are not here, with their packages."""
    return {program: packages for program, packages in tools.items() if find(program) is None}


def simulate(packages: list[str]) -> tuple[list[str], list[str]]:
    """Which packages an installation of these would add, and which it would remove.

    Raises CalledProcessError, with apt's words in `stderr`, if there is no way to install them.
    """
    done = subprocess.run(
        ["apt-get", "install", "-s", "--no-install-recommends", *packages],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    # An upgrade has the old version in brackets behind the name.
    added = re.findall(r"^Inst (\S+) \(", done.stdout, re.MULTILINE)
    return added, re.findall(r"^(?:Remv|Purg) (\S+)", done.stdout, re.MULTILINE)


def unpack(program: str, package: str) -> None:
    """A package, and what it depends on and is not installed, below UNPACKED.

    The program then is a script there, bin/PROGRAM, so that it finds its libraries.
    """
    where = UNPACKED / package
    if not where.exists():
        download = where.with_suffix(".debs")
        shutil.rmtree(download, ignore_errors=True)
        download.mkdir(parents=True)
        packages = simulate([package])[0] or [package]
        # Its user _apt may not be able to enter the folder, which it then says at length.
        command = [*APT, "-o", "APT::Sandbox::User=root", "download", *packages]
        subprocess.run(command, cwd=download, check=True)
        part = where.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        for file in sorted(download.glob("*.deb")):
            subprocess.run(["dpkg", "-x", file, part], check=True)
        shutil.rmtree(download)
        part.rename(where)
    # That of execline in usr/bin is a script for one that is installed.
    folders = ["usr/lib/execline/bin", "usr/lib/nullmailer"]
    folders += ["usr/sbin", "usr/bin", "sbin", "bin"]
    path = next(path for path in (where / name / program for name in folders) if path.exists())
    environ = {}
    shared = [file for file in where.rglob("*.so*") if re.search(r"\.so(\.|$)", file.name)]
    if libraries := sorted({library.parent for library in shared}):
        environ["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
    if (modules := where / "usr/lib/python3/dist-packages").exists():
        environ["PYTHONPATH"] = str(modules)
    command = [str(path)]
    with path.open("rb") as opened:
        first = opened.readline(200)
    if first.startswith(b"#!") and b"perl" in first:  # with -T it heeds no PERL5LIB
        own = [*where.glob("usr/share/perl5"), *where.glob("usr/lib/*/perl5/*")]
        command = [*first[2:].decode().split(), *(f"-I{folder}" for folder in own), *command]
    script = UNPACKED / "bin" / program
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        "#!/bin/sh\n"
        + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items())
        + f'exec {shlex.join(command)} "$@"\n'
    )
    script.chmod(0o755)


def unpack_npm(library: str, version: str) -> None:
    """A library of npm, and what it depends on, below UNPACKED; none of its scripts is run."""
    UNPACKED.mkdir(parents=True, exist_ok=True)
    options = ["--prefix", str(UNPACKED), "--ignore-scripts", "--no-save", "--no-audit"]
    command = ["npm", "install", "--silent", "--no-fund", *options, f"{library}@{version}"]
    subprocess.run(command, cwd=UNPACKED, check=True)


@contextmanager
def no_services() -> Iterator[None]:
    """While it lasts no package may start its service: we only want the programs.

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


def install(packages: list[str]) -> None:
    """Install them, as root; SystemExit if that would remove a package."""
    added, removed = simulate(packages)
    if removed:
        sys.exit(
            f"Nothing was installed: for {' '.join(packages)} apt-get would remove "
            f"{' '.join(removed)}.  Install them by hand, or run this elsewhere."
        )
    print("installing these packages of Debian:", *added, flush=True)
    with no_services():
        subprocess.run(
            [*APT, "install", "-y", "--no-remove", "--no-install-recommends", *packages],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdout=subprocess.DEVNULL,
            check=True,
        )


def main() -> None:
    """Get what is missing, or say how."""
    level = sys.argv[1]
    wanted = missing(LEVELS[level])
    if not wanted:
        return
    peers = {program: package for program, package in wanted.items() if package in PEERS}
    packages = sorted({name for value in wanted.values() for name in value.split()} - PEERS)
    debian = shutil.which("apt-get") is not None
    root = os.geteuid() == 0
    if not debian or (packages and not root):
        names = packages if debian else sorted({*packages, *peers.values()})
        print(f"make {level} lacks some programs; on Debian, as root, this installs them:")
        print("  apt-get install", *names)
    if not debian:
        return
    try:
        if root:
            subprocess.run([*APT, "update"], stdout=subprocess.DEVNULL, check=False)
            if packages:
                install(packages)
        for program, package in peers.items():
            print(f"unpacking {package} below {UNPACKED.relative_to(ROOT)}/", flush=True)
            unpack(program, package)
    except subprocess.CalledProcessError as error:
        print(error, error.stderr or "", "(what is missing is left out)", file=sys.stderr)


def get_libraries() -> None:
    """Those of npm."""
    for library, version in NPM.items():
        if not (UNPACKED / "node_modules" / library).exists():
            print(f"unpacking {library} {version} of npm below {UNPACKED.relative_to(ROOT)}/")
            try:
                unpack_npm(library, version)
            except (OSError, subprocess.CalledProcessError) as error:
                print(error, "(what is missing is left out)", file=sys.stderr)


if __name__ == "__main__":
    main()
    if sys.argv[1] == "interop":
        get_libraries()
