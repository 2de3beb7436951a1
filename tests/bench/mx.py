"""What each part of "An MX for today" (man/examples/README.md) adds to a session with one message.

Processor time of cold sessions and of warm ones, as in cost.py; a row has all parts of those
before it.  The message has 2 KB and a signature of RSA with 2048 bits, which fits.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import textwrap
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cdbs import make_cdb
from client import Client
from dkim_signer import RsaKey, sign
from dns_server import DnsServer
from harness import ROOT, Home
from listeners import Server
from tls_home import SERVER

from bench.cost import BIN, WARM_SESSIONS, Measure, busy, medians
from bench.place import SOURCE

CONTROL = ROOT / "man/examples/mx/control"
#: Each row, and the control files that it adds.
PARTS = {
    "me, rcpthosts, databytes": ("me", "rcpthosts", "databytes"),
    "recipients": ("recipients",),
    "dnsbls": ("dnsbls",),
    "fcrdns": ("fcrdns",),
    "spfbehavior": ("spfbehavior",),
    "dkim": ("dkim",),
    "dmarcpolicy, dmarcexempt": ("dmarcpolicy", "dmarcexempt"),
    "authresults": ("authresults",),
    "servercert.pem": (),
}
TLS = "servercert.pem"
KEY = RsaKey(2048)
ZONE = f"""
    mx.here     A    192.0.2.1
    mx.here     A    127.0.0.1
    1.2.0.192.in-addr.arpa  PTR  mx.here
    1.0.0.127.in-addr.arpa  PTR  mx.here
    b.example   TXT  "v=spf1 ip4:127.0.0.0/24 ip4:192.0.2.0/24 -all"
    _dmarc.b.example  TXT  "v=DMARC1; p=reject"
    {KEY.record("s._domainkey.b.example")}
"""
TEXT = "From: a@b.example\nTo: joe@example.org\nSubject: x\nDate: x\n\n"
MESSAGE = sign(TEXT.encode() + textwrap.fill("hello " * 250).encode() + b"\n", KEY, "b.example")
DATA = MESSAGE.replace(b"\n", b"\r\n") + b"."
COMMANDS = (b"EHLO mx.here", b"MAIL FROM:<a@b.example>", b"RCPT TO:<joe@example.org>", b"DATA")


def talk(client: Client, tls: bool) -> None:
    """One session."""
    client.reply()
    if tls:
        client.starttls()
    replies = client.answers(*COMMANDS, DATA, b"QUIT")
    assert replies[-2].startswith(b"250 ok "), replies


def cold(environ: dict[str, str], tls: bool) -> tuple[float, float]:
    """Milliseconds of the processor of one session, and 0."""
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        child = subprocess.Popen(
            [BIN / "qsmtpd"], stdin=fd, stdout=fd, stderr=subprocess.DEVNULL, env=environ
        )
    with Client(ours) as client:
        talk(client, tls)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return 1000 * (usage.ru_utime + usage.ru_stime), 0.0


def warm(server: Server, tls: bool) -> tuple[float, float]:
    """The same of a session of this server: the mean of some."""
    before = busy(server)
    for _ in range(WARM_SESSIONS):
        with server.client() as client:
            talk(client, tls)
    return (busy(server) - before) / 1e6 / WARM_SESSIONS, 0.0


def main() -> None:
    """Measure, and print the numbers: of all before it, and what each adds."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dns = stack.enter_context(DnsServer(ZONE))
        subprocess.run(["cc", "-O2", "-o", folder / "queue", SOURCE], check=True)
        measures: dict[str, Measure] = {}
        files: list[str] = []
        for number, (name, more) in enumerate(PARTS.items()):
            files += more
            path = folder / str(number)
            path.mkdir()
            home = Home(path)
            home.path.joinpath("users").mkdir()
            make_cdb(home.path / "users/recipients.cdb", {b":joe@example.org": b""})
            for file in files:
                shutil.copy(CONTROL / file, home.control_dir)
            if name == TLS:
                SERVER.save(home.control_dir / TLS)
            home.environ |= {"QMAILQUEUE": str(folder / "queue"), "DNSCACHEIP": dns.where}
            environ = {**home.environ, "PROTO": "TCP", "TCPREMOTEIP": "192.0.2.1"}
            measures["cold " + name] = partial(cold, environ, name == TLS)
            server = stack.enter_context(Server(home, "--sessions", "1000000", "--spare", "1"))
            measures["warm " + name] = partial(warm, server, name == TLS)
        for measure in measures.values():
            measure()
        found = medians(measures)
        before = 0.0, 0.0
        for name in PARTS:
            now = found["cold " + name][0], found["warm " + name][0]
            print(f"{name:26} {now[0] - before[0]:6.1f} {now[1] - before[1]:6.2f}   {now}")
            before = now


if __name__ == "__main__":
    main()
