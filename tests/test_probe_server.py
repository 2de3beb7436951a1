"""starttls-probe against servers: each check finds its fault, and no other cries wolf."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from math import inf
from time import monotonic

import pytest
from probe_servers import Faults, serving
from probing import check, findings, probe, stall, target

from qsmtpd.probe import connection, runner
from qsmtpd.probe.check import Rating, exit_status
from qsmtpd.probe.checks import CHECKS, FIRST, smuggling
from qsmtpd.probe.listen import kinds
from qsmtpd.probe.probe import Probe
from qsmtpd.probe.protocol import Reply

Survivors = Callable[[list[bytes]], bytes]
SAFE, VULNERABLE, ODD, UNTESTED = Rating


def _all(reads: list[bytes]) -> bytes:
    """What stands behind STARTTLS."""
    return re.split(rb"STARTTLS\r\n", b"".join(reads), maxsplit=1)[1]


def _if_one_segment(reads: list[bytes]) -> bytes:
    whole = len(reads) == 1 and reads[0].startswith(b"STARTTLS\r\nEHLO injected.invalid\r\nNOOP")
    return _all(reads) if whole else b""


def _if_split(reads: list[bytes]) -> bytes:
    return _all(reads) if len(reads) == 2 and reads[0] == b"STARTTLS\r" else b""


def _if_pipelined(reads: list[bytes]) -> bytes:
    return _all(reads) if reads and reads[0].startswith(b"EHLO") else b""


def _half_line(reads: list[bytes]) -> bytes:
    return _all(reads).rpartition(b"\n")[2]


def _from(verb: bytes) -> Survivors:
    def survivors(reads: list[bytes]) -> bytes:
        rest = _all(reads)
        return rest[rest.find(verb) :] if verb in rest else b""

    return survivors


def _if_chunk(reads: list[bytes]) -> bytes:
    return _from(b"EHLO")(reads) if b"BDAT" in reads[-1] else b""


def _if_data(reads: list[bytes]) -> bytes:
    return _from(b"MAIL")(reads) if b"DATA" in reads[-1].split(b"\r\n") else b""


def _when_there(survivors: Survivors) -> Survivors:
    return lambda reads: survivors(reads) if reads else b""


#: All whose bytes the server reads before the handshake.
INJECTIONS_DISCARDED = [
    check.name for check in CHECKS if check.injection and check.name != "inject-late"
]

ONE_FAULT = {
    "sound": (Faults(), {}),
    "sound, refuses an injection": (Faults(refuses_injection=b"503 no"), {}),
    "sound, wants no EHLO": (Faults(wants_helo=False), {}),
    "keeps a segment": (
        Faults(survivors=_if_one_segment),
        {"inject-segment": VULNERABLE, "reply-offset": UNTESTED},
    ),
    "keeps a second read": (Faults(survivors=_if_split), {"inject-split": VULNERABLE}),
    "keeps what comes late": (Faults(keeps_late_text=True), {"inject-late": VULNERABLE}),
    "reads groups ahead": (Faults(survivors=_if_pipelined), {"inject-pipelined": VULNERABLE}),
    "keeps half a line": (Faults(survivors=_half_line), {"inject-half-line": VULNERABLE}),
    "keeps AUTH": (Faults(survivors=_from(b"AUTH PLAIN")), {"inject-auth": VULNERABLE}),
    "keeps a message": (Faults(survivors=_if_data), {"inject-data": VULNERABLE}),
    "keeps a chunk": (Faults(survivors=_if_chunk), {"inject-bdat": VULNERABLE}),
    "has no chunks": (Faults(chunking=False), {}),
    "does not read refused chunks": (Faults(leaves_chunks=True), {"bdat-commands": VULNERABLE}),
    "keeps chunks": (Faults(keeps=frozenset({"chunks"})), {"state-bdat": VULNERABLE}),
    "complains inside TLS": (
        Faults(complaint=b"500 what was that?"),
        {"reply-offset": VULNERABLE, **dict.fromkeys(INJECTIONS_DISCARDED, ODD)},
    ),
    "greets again": (Faults(greets_again=True), {"reply-offset": VULNERABLE}),
    "keeps EHLO": (Faults(keeps=frozenset({"helo"})), {"state-helo": VULNERABLE}),
    "keeps MAIL": (Faults(keeps=frozenset({"mail"})), {"state-transaction": VULNERABLE}),
    "announces STARTTLS again": (Faults(announces_again=True), {"starttls-again": ODD}),
    "takes STARTTLS twice": (Faults(takes_second=True), {"starttls-twice": ODD}),
    "takes an argument": (Faults(takes_argument=True), {"starttls-argument": ODD}),
    "announces AUTH": (Faults(auth_in_clear=b"PLAIN"), {"auth-in-clear": VULNERABLE}),
    "takes AUTH": (Faults(takes_auth_in_clear=True), {"auth-in-clear": VULNERABLE}),
    "announces CRAM-MD5": (Faults(auth_in_clear=b"CRAM-MD5"), {"auth-in-clear": ODD}),
    "goes on in clear": (Faults(goes_on_in_clear=True), {"clear-after-failure": VULNERABLE}),
    "complains in clear": (Faults(complains_in_clear=True), {"clear-after-failure": ODD}),
    "takes TLS 1.0": (Faults(oldest=ssl.TLSVersion.TLSv1), {"tls-versions": ODD}),
    "takes nothing newer": (
        Faults(oldest=ssl.TLSVersion.TLSv1, newest=ssl.TLSVersion.TLSv1_1),
        {"tls-versions": VULNERABLE},
    ),
    "expired": (Faults(certificate=kinds.EXPIRED), {"certificate": ODD}),
    "another name": (Faults(certificate=kinds.WRONG_NAME), {"certificate": ODD}),
    "ends data at LF": (
        Faults(ends_of_data=(b"\r\n.\r\n", b"\n.\n")),
        {"smuggle-lf-dot-lf": VULNERABLE, "smuggle-crlf-dot-lf": VULNERABLE},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("faults, expected", ONE_FAULT.values(), ids=ONE_FAULT)
def test_one_fault(faults: Faults, expected: dict[str, Rating]) -> None:
    faults.survivors = _when_there(faults.survivors)
    with serving(faults) as server:
        results = probe(server.port)
    assert findings(results) == expected, [
        (result.name, result.finding.reason) for result in results
    ]
    assert exit_status(results) == (1 if VULNERABLE in expected.values() else 0)


def test_a_handshake_that_stands_still() -> None:
    with serving(Faults(handshake_timeout=0.1)) as server:
        assert stall(server.port) is SAFE
    with serving(Faults()) as server:
        assert stall(server.port, slow=0.3) is VULNERABLE


class Impatient(connection.Connection):
    """Inside TLS it waits for nothing long."""

    def _deadline(self) -> float:
        return min(super()._deadline(), monotonic() + 0.3 if self.tls else inf)


def test_silence_after_an_injection_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing may have carried out everything."""
    faults = Faults(survivors=lambda reads: b"HANG\r\n" if reads else b"")
    control: list[Reply] = []
    with serving(faults) as server:
        FIRST.run(Probe(target(server.port), control))
        monkeypatch.setattr(connection, "Connection", Impatient)
        result = runner._run(check("inject-segment"), Probe(target(server.port), control))
    assert result.finding.verdict is UNTESTED
    assert exit_status([result]) == 2


@pytest.mark.parametrize("name, sequence", smuggling.SEQUENCES)
def test_each_end_of_data(name: str, sequence: bytes) -> None:
    """A server that takes this for the end, too, has taken two messages."""
    with serving(Faults(ends_of_data=(sequence, b"\r\n.\r\n"))) as server:
        result = list(runner.run(target(server.port), [check(f"smuggle-{name}")]))[1]
        assert len(server.messages) == 2
    assert result.finding.verdict is VULNERABLE
    assert "messages accepted: 2" in result.finding.reason


def test_a_second_message_that_is_refused_is_smuggled_all_the_same() -> None:
    """Text that is carried out as commands is the fault, whatever comes of them."""
    with serving(Faults(ends_of_data=(b"\n.\n", b"\r\n.\r\n"), messages=1)) as server:
        result = list(runner.run(target(server.port), [check("smuggle-lf-dot-lf")]))[1]
    assert result.finding.verdict is VULNERABLE
    assert "messages accepted: 1" in result.finding.reason
