"""What each filter adds to a session with one message: the tables of qsmtpd-filters(5), COST.

    make cost

Processor time, user and system, of a cold session and of a queue program that does
nothing; medians of sessions that alternate between all rows.  Of those that ask the DNS,
which is a server on loopback, or others, also how long a session takes; and both of warm
ones, in a process of qsmtpd-server that serves one after the other.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import milters
from cdbs import make_cdb
from daemons import Peer, clamd, http, policy, rspamd, spam, spamd, userdb
from dkim_signer import RsaKey, sign
from dns_server import DnsServer
from harness import Home
from listeners import Server

from bench.place import SOURCE
from qsmtpd.filters import greylistkey
from qsmtpd.policy.store import Record
from qsmtpd.policy.store.sqlite import SqliteStore

BIN = Path(sys.prefix) / "bin"
ROUNDS = int(os.environ.get("ROUNDS", "41"))
PLAIN = "none"
KEY = RsaKey(2048)
#: A key of 2048 bits, which is what most have.
SIGNED = sign(
    b"From: a@b.example\nDate: 1 Jan 2026 00:00:00 -0000\n\nhello\n",
    KEY,
    domain="b.example",
    headers="From:Date",
)
SESSION = (
    b"EHLO me.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n"
    b"%b.\r\nQUIT\r\n" % SIGNED.replace(b"\n", b"\r\n")
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
    me.example      A    127.0.0.1
    b.example       MX   10 me.example
    b.example       TXT  "v=spf1 include:spf.b.example -all"
    _dmarc.b.example  TXT  "v=DMARC1; p=reject"
    spf.b.example   TXT  "v=spf1 ip4:198.51.100.0/24 ip4:127.0.0.0/8 ip4:192.0.2.0/24 -all"
    1.2.0.192.in-addr.arpa  PTR  me.example
    1.0.0.127.in-addr.arpa  PTR  me.example
""" + KEY.record("s._domainkey.b.example")
WARM_SESSIONS = 50
Measure = Callable[[], tuple[float, float]]
Rows = dict[str, tuple[dict[str, str], dict[str, str]]]
#: Those that ask the DNS.
ASKING: Rows = {
    "helocheck, A": ({}, {"HELOCHECK": "A"}),
    "mfdnscheck": ({}, {"MFDNSCHECK": ""}),
    "fcrdns": ({}, {"FCRDNS": "note"}),
    "dnsbl, 1 list": ({"dnsbls": "bl0.example"}, {}),
    "dnsbl, 10 lists": ({"dnsbls": LISTS}, {}),
    "rhsbl, 1 list": ({"rhsbls": "bl0.example"}, {}),
    "spf, two records": ({}, {"SPFBEHAVIOR": "3"}),
    "dkim, a signature": ({}, {"DKIM": ""}),
    "dkim and authresults": ({}, {"DKIM": "", "AUTHRESULTS": ""}),
    "dmarc, and that": ({}, {"SPFBEHAVIOR": "3", "DMARCPOLICY": "reject"}),
    "all that ask the DNS": (
        {"dnsbls": LISTS, "rhsbls": "bl0.example", "dmarcpolicy": "reject"},
        {"HELOCHECK": "A", "MFDNSCHECK": "", "FCRDNS": "note", "SPFBEHAVIOR": "3"},
    ),
}
#: What rspamd says of the message.
VERDICT = http(b'{"action": "no action", "score": 0.1, "required_score": 15, "symbols": {}}')
#: Those that ask a daemon, which listens at QMAILHOME/daemon and answers by a script; or a program.
DAEMONS = {
    "dovecotusers": userdb(b"x@ok.example"),
    "policyserver": policy(lambda facts: b"DUNNO"),
    "clamd": clamd(lambda message: b"stream: OK\n"),
    "rspamd": rspamd(lambda head, message: VERDICT),
    "spamd": spamd(lambda head, message: spam(b"0.1")),
    "milter, which only looks": milters.script({}, 0),
    "milter, which adds a line": milters.script(
        {b"E": milters.packet(b"h", b"X-A", b"1") + milters.CONTINUE}, milters.ALL_ACTIONS
    ),
}
OTHERS: Rows = {
    "dovecotusers": ({"dovecotusers": "daemon"}, {}),
    "policyserver": ({"policyservers": "daemon"}, {}),
    "spp, a program at RCPT": ({"smtpplugins": "[rcpt]\n/bin/true"}, {}),
    "spp, a command for the shell": ({"smtpplugins": "[rcpt]\n:exit 0"}, {}),
    "clamd": ({"clamd": "daemon"}, {}),
    "messagecheck": ({"messagecheck": "/bin/true"}, {}),
    "rspamd": ({"rspamd": "daemon"}, {}),
    "spamd": ({"spamd": "daemon"}, {}),
    "milter, which only looks": ({"milters": "daemon"}, {}),
    "milter, which adds a line": ({"milters": "daemon"}, {}),
}
GREYLIST = {"GREYLIST": "", "QSMTPD_STORE": "store"}
SENDLIMITS = (
    {"sendlimits": "client:* messages=1000000/hour recipients=1000000/day"},
    {"RELAYCLIENT": "", "QSMTPD_STORE": "store"},
)
#: Of which the warm costs are measured, too.
WARM: Rows = {**ASKING, **OTHERS, "greylist": ({}, GREYLIST), "sendlimits": SENDLIMITS}
#: name -> (control files, variables)
ROWS: Rows = {
    PLAIN: ({}, {}),
    "karma": ({}, {"KARMALIMIT": "5"}),
    "clientlimit": ({}, {"CLIENTLIMIT": "9", "QSMTPD_STORE": "store"}),
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
    **OTHERS,
    "recipients, a program": ({"recipients": "*|true"}, {}),
    "rcptcheck": ({}, {"RCPTCHECK": "/bin/true"}),
    **ASKING,
    "greylist": ({}, GREYLIST),
    "sendlimits": SENDLIMITS,
    "unknown": ({}, {"MAXNOTIMPL": "5"}),
    "headers": ({"requiredheaders": "From"}, {}),
    "loop": ({"loopcheck": "1"}, {}),
    "badheaders, a pattern": ({"badheaders": "Subject: *x*"}, {}),
    "badattachments, a pattern": ({"badattachments": "*.exe"}, {}),
    "badmimetypes": ({"badmimetypes": "TVqQAAMAA"}, {"BADMIMETYPE": ""}),
    "badloadertypes": ({"badloadertypes": "TVqQA"}, {"BADLOADERTYPE": ""}),
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


def remember(path: Path) -> None:
    """A store in which both clients are known."""
    store = SqliteStore(os.fsencode(path), 1)
    store.deadline = time.monotonic() + 60
    known = Record(0, 1, int(time.time()) + 86400 * 36)
    for network in (b"192.0.2.0/24", b"127.0.0.0/24"):
        key = greylistkey.key(network, b"a@b.example", b"x@ok.example")
        store.update("greylist", [key], 0, lambda _: [known])
    store.close()


def cold(environ: dict[str, str]) -> tuple[float, float]:
    """Milliseconds of one session: of the processor, and until it has ended."""
    start = time.monotonic()
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
    return 1000 * (usage.ru_utime + usage.ru_stime), 1000 * (time.monotonic() - start)


def warm(server: Server) -> tuple[float, float]:
    """The same of a session of this server: the mean of some."""
    head, _, text = SESSION.partition(b"DATA\r\n")
    commands, text = head.split(b"\r\n")[:-1], text.removesuffix(b"\r\nQUIT\r\n")
    before, start = busy(server), time.monotonic()
    for _ in range(WARM_SESSIONS):
        with server.client() as client:
            client.reply()
            replies = client.answers(*commands, b"DATA", text, b"QUIT")
            assert replies[-2].startswith(b"250 ok "), replies
    seconds = time.monotonic() - start
    return (busy(server) - before) / 1e6 / WARM_SESSIONS, 1000 * seconds / WARM_SESSIONS


def busy(server: Server) -> int:
    """Nanoseconds of the processor that its processes have had, but not what they start."""
    return sum(
        int(Path(f"/proc/{worker}/schedstat").read_text().split()[0])
        for worker in server.children()
    )


def medians(
    rows: Mapping[str, Callable[[], tuple[float, float]]],
) -> dict[str, tuple[float, float]]:
    """Of each row, the medians of rounds that alternate."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, measure in rows.items():
            found[name].append(measure())
    return {
        name: (statistics.median(cpu for cpu, _ in all), statistics.median(ms for _, ms in all))
        for name, all in found.items()
    }


def main() -> None:
    """Measure, and print the tables."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        dns = stack.enter_context(DnsServer(ZONE))
        queue = Path(folder, "queue")
        subprocess.run(["cc", "-O2", "-o", queue, SOURCE], check=True)
        measures: dict[str, Measure] = {}
        for number, (name, (files, variables)) in enumerate(ROWS.items()):
            home = Path(folder, str(number))
            prepare(home, files)
            if variables is GREYLIST:
                remember(home / "store")
            if name in DAEMONS:
                stack.enter_context(Peer(DAEMONS[name], home / "daemon"))
            environ = {
                "PATH": os.environ["PATH"],
                "QMAILHOME": str(home),
                "QMAILQUEUE": str(queue),
                "PROTO": "TCP",
                "TCPREMOTEIP": "192.0.2.1",
                "DNSCACHEIP": dns.where,
                **variables,
            }
            measures[name] = partial(cold, environ)
        found = medians(measures)
        plain = found.pop(PLAIN)
        print(f"without any filter {plain[0]:.1f} ms; each adds:")
        for name in found:
            print(f".It {name} Ta {found[name][0] - plain[0]:.1f}")
        warmed = _warm(Path(folder), queue, dns, stack)
        first = warmed.pop(PLAIN)
        print(f"warm {first[0]:.2f} ms; and in time, cold {plain[1]:.1f}, warm {first[1]:.1f}:")
        for name in WARM:
            times = found[name][1] - plain[1], warmed[name][1] - first[1]
            print(
                f".It {name} Ta {warmed[name][0] - first[0]:.2f}  ({times[0]:.1f}, {times[1]:.1f})"
            )


def _warm(
    folder: Path, queue: Path, dns: DnsServer, stack: ExitStack
) -> dict[str, tuple[float, float]]:
    """The medians of warm sessions, of a server for each row."""
    servers = {}
    try:
        for number, (name, (files, variables)) in enumerate({PLAIN: ROWS[PLAIN], **WARM}.items()):
            path = folder / f"warm{number}"
            path.mkdir()
            home = Home(path)
            home.environ.update({"QMAILQUEUE": str(queue), "DNSCACHEIP": dns.where, **variables})
            for file, text in files.items():
                home.control(file, text)
            if variables is GREYLIST:
                remember(path / "store")
            if name in DAEMONS:
                stack.enter_context(Peer(DAEMONS[name], home.path / "daemon"))
            servers[name] = Server(home, "--sessions", "1000000", "--spare", "1")
        rows = {name: partial(warm, server) for name, server in servers.items()}
        for measure in rows.values():
            measure()
        return medians(rows)
    finally:
        for server in servers.values():
            server.__exit__()


if __name__ == "__main__":
    main()
