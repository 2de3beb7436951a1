"""What each filter adds to a cold session with one message: the table of qsmtpd-filters(5), COST.

    make cost

Processor time, user and system, of the session and of a queue program that does
nothing; medians of sessions that alternate between all rows.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
from contextlib import ExitStack
from pathlib import Path

from cdbs import make_cdb
from daemons import Peer, userdb
from dns_server import DnsServer

from bench.place import SOURCE

BIN = Path(sys.prefix) / "bin"
ROUNDS = 41
PLAIN = "none"
SESSION = (
    b"EHLO me.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n"
    b"From: a@b.example\r\nDate: 1 Jan 2026 00:00:00 -0000\r\n\r\nhello\r\n.\r\nQUIT\r\n"
)
PLUGIN = """
    from qsmtpd.decision import DECLINED

    class Plugin:
        def __init__(self, settings):
            pass
        def rcpt(self, client, envelope, recipient):
            return DECLINED
"""
MANY = "\n".join(f"@host{n}.example" for n in range(1000))
FEW = "\n".join(f"@host{n}.example" for n in range(5))
LISTS = "\n".join(f"bl{n}.example" for n in range(10))
#: What a DNS server on this machine says to those who ask it; see dns_server.py.
ZONE = """
    me.example      A    192.0.2.1
    b.example       MX   10 me.example
    b.example       TXT  "v=spf1 include:spf.b.example -all"
    spf.b.example   TXT  "v=spf1 ip4:198.51.100.0/24 ip4:192.0.2.0/24 -all"
    1.2.0.192.in-addr.arpa  PTR  me.example
"""
#: name -> (control files, variables)
ROWS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    PLAIN: ({}, {}),
    "karma": ({}, {"KARMALIMIT": "5"}),
    "greetdelay (0 seconds)": ({}, {"GREETDELAY": "0"}),
    "rblsmtpd": ({}, {"RBLSMTPD": ""}),
    "helocheck": ({"badhelo": FEW}, {}),
    "badmailfrom, 5 entries": ({"badmailfrom": FEW}, {}),
    "badmailfrom, 1000 entries": ({"badmailfrom": MANY}, {}),
    "badmailfrom, a pattern": ({"badmailfrom": "*@*.host.example"}, {}),
    "badmailfrom, an expression": ({"badmailfrom": "re:.*@(.*\\.)?host\\.example"}, {}),
    "localmfcheck": ({}, {"LOCALMFCHECK": ""}),
    "badrcptto, 5 entries": ({"badrcptto": FEW}, {}),
    "tarpit": ({}, {"TARPITCOUNT": "50"}),
    "bouncecheck": ({}, {"BOUNCECHECK": "1"}),
    "recipients, a cdb": ({"recipients": "control/users.cdb", "users.cdb": ":x@ok.example"}, {}),
    "validrcptto": ({"validrcptto.cdb": "x@ok.example"}, {}),
    "dovecotusers": ({"dovecotusers": "userdb"}, {}),
    "recipients, a program": ({"recipients": "*|true"}, {}),
    "rcptcheck": ({}, {"RCPTCHECK": "/bin/true"}),
    "mfdnscheck": ({}, {"MFDNSCHECK": ""}),
    "fcrdns": ({}, {"FCRDNS": "note"}),
    "dnsbl, 1 list": ({"dnsbls": "bl0.example"}, {}),
    "dnsbl, 10 lists": ({"dnsbls": LISTS}, {}),
    "rhsbl, 1 list": ({"rhsbls": "bl0.example"}, {}),
    "spf, two records": ({}, {"SPFBEHAVIOR": "3"}),
    "unknown": ({}, {"MAXNOTIMPL": "5"}),
    "headers": ({"requiredheaders": "From"}, {}),
    "loop": ({"loopcheck": "1"}, {}),
    "spamcontrollog": ({}, {"LOGFORMAT": "spamcontrol"}),
    "a plugin of your own": ({"plugins": "mine"}, {}),
}


def prepare(home: Path, files: dict[str, str]) -> None:
    """A QMAILHOME with these control files."""
    (home / "control").mkdir(parents=True)
    (home / "plugins").mkdir()
    (home / "plugins/mine.py").write_text(textwrap.dedent(PLUGIN))
    (home / "plugins/mine.py").chmod(0o644)
    for name, text in {"me": "mx.example", "rcpthosts": "ok.example", **files}.items():
        path = home / "control" / name
        if name.endswith(".cdb"):
            make_cdb(path, {text.encode(): b""})
        else:
            path.write_text(text + "\n")


def cpu(environ: dict[str, str]) -> float:
    """Milliseconds of one session."""
    child = subprocess.Popen(
        [BIN / "qsmtpd"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(SESSION)
    child.stdin.close()
    replies = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert b"\r\n250 ok " in replies and child.returncode == 0, replies
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Measure, and print the table."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        queue = Path(folder, "queue")
        subprocess.run(["cc", "-O2", "-o", queue, SOURCE], check=True)
        dns = stack.enter_context(DnsServer(ZONE))
        environs = {}
        for number, (name, (files, variables)) in enumerate(ROWS.items()):
            home = Path(folder, str(number))
            prepare(home, files)
            if name == "dovecotusers":
                stack.enter_context(Peer(userdb(b"x@ok.example"), home / "userdb"))
            environs[name] = {
                "PATH": os.environ["PATH"],
                "QMAILHOME": str(home),
                "QMAILQUEUE": str(queue),
                "PROTO": "TCP",
                "TCPREMOTEIP": "192.0.2.1",
                "DNSCACHEIP": dns.where,
                **variables,
            }
        found: dict[str, list[float]] = {name: [] for name in ROWS}
        for _ in range(ROUNDS):
            for name, environ in environs.items():
                found[name].append(cpu(environ))
    plain = statistics.median(found.pop(PLAIN))
    print(f"without any filter {plain:.1f} ms; each adds:")
    for name, values in found.items():
        print(f".It {name} Ta {statistics.median(values) - plain:.1f}")


if __name__ == "__main__":
    main()
