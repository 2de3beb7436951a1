"""The filter for fail2ban, by fail2ban's own tester: whom it would ban, and whom not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from harness import ROOT, Home, needs

FILTER = ROOT / "man/examples/fail2ban/filter.d/qsmtpd.conf"

pytestmark = pytest.mark.interop

REFUSED = (
    "event=auth pid=123 ip=%s verdict=refused mechanism=PLAIN user=%s "
    'reply="535 authentication failed (#5.7.1)"'
)
FORGED = "event=auth pid=1 ip=198.51.100.7 verdict=refused mechanism=PLAIN"

#: What multilog, syslog, the journal, splogger, or nobody writes in front.
PREFIXES = [
    "",
    "@400000006740c1c51dcd6500 ",
    "Nov 22 23:59:42 mx qsmtpd[123]: ",
    "2026-11-22T23:59:42.123456+00:00 mx qsmtpd[123]: ",
    "Nov 22 23:59:42 mx smtpd: 1795391982.123456 ",
]


def banned(tmp_path: Path, *lines: str) -> list[str]:
    """The addresses that the filter finds in these lines."""
    log = tmp_path / "log"
    log.write_text("".join(line + "\n" for line in lines))
    command: list[str | Path] = [needs("fail2ban-regex"), "--raw", "--out", "ip", log, FILTER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ERROR" not in done.stdout + done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_who_is_refused_is_found(tmp_path: Path, prefix: str) -> None:
    ips = ["192.0.2.1", "2001:db8::1"]
    users = ["joe", '"a b\\x22 ip=198.51.100.7"', f'" {FORGED} "', '""']
    lines = [REFUSED % (ip, user) for ip in ips for user in users]
    lines += ["event=auth pid=123 ip=192.0.2.2 verdict=refused"]
    found = banned(tmp_path, *(prefix + line for line in lines))
    assert found == [*["192.0.2.1"] * 4, *["2001:db8::1"] * 4, "192.0.2.2"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_who_sends_auth_where_there_is_none_is_found(home: Home, prefix: str) -> None:
    session = b"EHLO x\r\nAUTH LOGIN\r\nauth plain AGpvZQBzZWNyZXQ=\r\nETRN x\r\nQUIT\r\n"
    log = home.run(session, TCPREMOTEIP="192.0.2.7").log
    assert banned(home.path, *(prefix + line for line in log.splitlines())) == ["192.0.2.7"] * 2


@pytest.mark.parametrize("prefix", PREFIXES)
def test_who_is_not_refused_is_not_found(tmp_path: Path, prefix: str) -> None:
    lines = [
        "event=auth pid=123 ip=192.0.2.1 verdict=accepted mechanism=PLAIN user=joe",
        "event=auth pid=123 ip=192.0.2.1 verdict=temporary mechanism=PLAIN user=joe",
        "event=auth pid=123 ip=192.0.2.1 verdict=refusedly mechanism=PLAIN user=joe",
        f'event=auth pid=123 ip=192.0.2.1 verdict=accepted user="{FORGED}"',
        'event=refused pid=1 ip=192.0.2.1 command=AUTH reply="538 auth not available" helo=x',
        'event=refused pid=1 ip=192.0.2.1 command=? reply="502 unimplemented" helo="command=AUTH"',
        "event=rcpt pid=123 ip=192.0.2.1 verdict=refused rcpt=joe",
        f'event=session pid=123 ip=192.0.2.1 end=quit helo="{FORGED}"',
        f'event=session helo="x: {FORGED}"',
        f"x=y z: {FORGED}",
        "event=auth pid=123 ip=- verdict=refused mechanism=PLAIN user=joe",
    ]
    assert banned(tmp_path, *(prefix + line for line in lines)) == []
