"""The test suite of RFC 7208, as it was published, through the filter and a real DNS server.

It is in the source distribution of pyspf, from which it is taken at the time of the test;
its licence is in there, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dns_server import DnsServer
from filters import build
from harness import CI, ROOT

from qsmtpd.facts import Client, Envelope, Peer
from qsmtpd.net.ip import canonical

pytestmark = pytest.mark.interop

VERSION = "2.0.14"
PLACE = ROOT / "build" / "pyspf"
SUITE = f"pyspf-{VERSION}/test/rfc7208-tests.yml"
#: How many tests it has.
TESTS = 203
#: What the suite writes where the explanation is the receiver's own.
OURS = "DEFAULT"


def suite() -> Path:
    """The file; the test is skipped where it cannot be had, in CI it fails."""
    path = PLACE / SUITE
    if not path.exists():
        PLACE.mkdir(parents=True, exist_ok=True)
        wanted = ["download", "--no-deps", "--no-binary", ":all:", "-d", str(PLACE)]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "--disable-pip-version-check",
                *wanted,
                f"pyspf=={VERSION}",
            ],
            capture_output=True,
            timeout=100,
        )
        if done.returncode:
            assert not CI, done.stderr
            pytest.skip("pyspf's source distribution cannot be had")
        with tarfile.open(PLACE / f"pyspf-{VERSION}.tar.gz") as archive:
            member = archive.extractfile(SUITE)
            assert member is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(member.read())
    return path


def fill(dns: DnsServer, zone: dict[str, list[Any]]) -> None:
    """The zone of a scenario.  Its SPF records stand for TXT, unless there is one.

    TIMEOUT is what is said of the types of a name that are not there: here, an error.
    """
    for name, records in zone.items():
        items = [item for record in records if record != "TIMEOUT" for item in record.items()]
        has_text = any(type == "TXT" for type, _ in items)
        for type, value in items:
            if value == "NONE" or (type == "SPF" and has_text):
                continue
            values = value if isinstance(value, list) else [value]
            if type in ("TXT", "SPF"):
                dns.add(name, "TXT", *(text.encode() for text in values))
            else:
                dns.add(name, type, *values)
        if "TIMEOUT" in records and not any(value != "NONE" and t == "TXT" for t, value in items):
            dns.do(name, "servfail")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def test_the_suite(tmp_path: Path, log: int) -> None:
    """Each of its tests is a transaction; none of them fails."""
    yaml = pytest.importorskip("yaml")
    (tmp_path / "control").mkdir()
    tested, wrong = 0, []
    for scenario in yaml.safe_load_all(suite().read_bytes()):
        with DnsServer() as dns:
            fill(dns, scenario["zonedata"])
            plugin = build("spf", tmp_path, log, DNSCACHEIP=dns.where, SPFBEHAVIOR="3")
            for name, test in scenario["tests"].items():
                tested += 1
                ip = canonical(test["host"].encode())
                assert ip is not None
                client = Client(Peer(ip=ip, local_host=b"receiver.example"))
                client.helo = (test["helo"] or "").encode()
                envelope = Envelope((test["mailfrom"] or "").encode())
                plugin.rcpt(client, envelope, b"x@ok.example")
                verdict = envelope.notes["spf"].verdict
                expected = test["result"] if isinstance(test["result"], list) else [test["result"]]
                said = (verdict.explanation.decode() or OURS) if verdict.result == "fail" else None
                if verdict.result not in expected or test.get("explanation", said) != said:
                    wrong.append((name, test, verdict.result, said, verdict.problem))
    assert wrong == []
    assert tested == TESTS
