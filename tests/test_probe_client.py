"""starttls-probe --listen against clients: each scenario finds its fault, and only that."""

from __future__ import annotations

import base64
import errno
import select
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from client import PATIENCE
from probe_clients import PASSWORD, USER, Client, Faults
from probe_servers import CERTIFICATES

from qsmtpd.probe.check import Rating, Result, exit_status
from qsmtpd.probe.evidence import Evidence
from qsmtpd.probe.listen.scenarios import SCENARIOS, Scenario
from qsmtpd.probe.listen.server import Manner, _accept, listen, play

SAFE, VULNERABLE, ODD, UNTESTED = Rating
#: Whoever is asked to wait for an answer to see whether it can, has `withhold`.
MANNER = Manner(timeout=PATIENCE, wait=PATIENCE, withhold=0.2)


@pytest.fixture
def authority(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    path.write_bytes(CERTIFICATES.authority)
    return str(path)


def play_all(
    serve: Callable[[int], object],
    manner: Manner = MANNER,
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> list[Result]:
    """The results of these scenarios; `serve(port)` is called, in a thread, for each connection."""
    results = []
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        connections = manner.connections * len(scenarios)
        thread = threading.Thread(target=lambda: [serve(port) for _ in range(connections)])
        thread.start()
        results = list(play(listener, scenarios, CERTIFICATES, manner))
        thread.join()
    return results


def findings(results: list[Result]) -> dict[str, Rating]:
    """All verdicts that are not safe."""
    return {
        result.name: result.finding.verdict
        for result in results
        if result.finding.verdict is not SAFE
    }


NEED_TLS = {
    *("sound", "response-injection", "no-auth-after-tls"),
    *("wrong-name", "expired", "self-signed"),
}
BAD_CERTIFICATES = ("wrong-name", "expired", "self-signed")

ONE_FAULT = {
    "sound": (Faults(), {}),
    "keeps its buffer": (Faults(keeps_buffer=True), {"response-injection": VULNERABLE}),
    "keeps what was announced": (
        Faults(keeps_keywords=True),
        {"response-injection": VULNERABLE, "no-auth-after-tls": VULNERABLE},
    ),
    "password without STARTTLS": (
        Faults(in_clear="stripped", password_in_clear=True),
        {"stripped": VULNERABLE},
    ),
    "mail without STARTTLS": (Faults(in_clear="stripped"), {"stripped": ODD}),
    "goes on when refused": (Faults(in_clear="refused"), {"refused": ODD}),
    "password when refused": (
        Faults(in_clear="refused", password_in_clear=True),
        {"refused": VULNERABLE},
    ),
    "believes an early answer": (Faults(in_clear="early"), {"stripped": ODD, "preauth": ODD}),
    "does not look at the name": (Faults(checks_name=False), {"wrong-name": VULNERABLE}),
    "takes any certificate": (
        Faults(checks_certificate=False),
        dict.fromkeys(BAD_CERTIFICATES, VULNERABLE),
    ),
    "opportunistic": (
        Faults(opportunistic=True),
        {"no-auth-after-tls": UNTESTED, **dict.fromkeys(BAD_CERTIFICATES, ODD)},
    ),
    "looks at the name after the handshake": (Faults(looks_late=True), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("faults, expected", ONE_FAULT.values(), ids=ONE_FAULT)
def test_one_fault(faults: Faults, expected: dict[str, Rating], authority: str) -> None:
    # Who goes on without an answer does so at once, or after it was stopped.
    manner = replace(MANNER, withhold=PATIENCE) if faults.keeps_buffer else MANNER
    results = play_all(lambda port: Client(port, authority, faults).send(), manner)
    assert findings(results) == expected, [
        (result.name, result.finding.reason) for result in results
    ]
    assert exit_status(results) == (1 if VULNERABLE in expected.values() else 0)


def one(name: str) -> tuple[Scenario, ...]:
    return tuple(scenario for scenario in SCENARIOS if scenario.name == name)


def test_strict_makes_going_on_in_clear_a_fault(authority: str) -> None:
    client = Faults(in_clear="stripped")
    manner = replace(MANNER, strict=True)
    results = play_all(lambda port: Client(port, authority, client).send(), manner, one("stripped"))
    assert findings(results) == {"stripped": VULNERABLE}


def test_who_does_not_trust_the_authority_cannot_be_tested(authority: str) -> None:
    results = play_all(lambda port: Client(port, None, Faults()).send())
    assert findings(results) == dict.fromkeys(NEED_TLS, UNTESTED)
    assert exit_status(results) == 2


@pytest.mark.parametrize("late", [False, True])
def test_who_knows_the_server_by_another_name_cannot_be_tested(authority: str, late: bool) -> None:
    """It leaves every certificate: that it leaves a bad one, too, says nothing."""
    client = Faults(name="other.invalid", looks_late=late)
    results = play_all(lambda port: Client(port, authority, client).send())
    assert findings(results) == dict.fromkeys(NEED_TLS, UNTESTED)
    assert "see --name and --ca" in results[0].finding.reason or not late


def test_who_gives_nothing_in_peace_is_not_called_safe(authority: str) -> None:
    client = Faults(idle=True)
    results = play_all(lambda port: Client(port, authority, client).send())
    untested = ("stripped", "refused", "no-auth-after-tls", "preauth")
    assert findings(results) == dict.fromkeys(untested, UNTESTED)
    # What it says to a bad certificate says that it took it.
    client = Faults(idle=True, checks_certificate=False)
    results = play_all(lambda port: Client(port, authority, client).send())
    expected = {**dict.fromkeys(untested, UNTESTED), **dict.fromkeys(BAD_CERTIFICATES, ODD)}
    assert findings(results) == expected


@pytest.mark.slow
def test_no_client() -> None:
    manner = Manner(wait=0.05)
    with listen("127.0.0.1", 0) as listener:
        results = list(play(listener, SCENARIOS, CERTIFICATES, manner))
    assert set(findings(results).values()) == {UNTESTED}
    assert exit_status(results) == 2


@pytest.mark.slow
def test_who_leaves_at_once_cannot_be_tested() -> None:
    def leave(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.recv(4096)

    verdicts = findings(play_all(leave, replace(MANNER, wait=0.2)))
    assert verdicts == dict.fromkeys((scenario.name for scenario in SCENARIOS), UNTESTED)
    # To leave at the sight of an early answer is right, as far as that is known.
    assert findings(play_all(leave, MANNER, one("preauth"))) == {}


def test_who_is_no_client_uses_up_no_scenario(authority: str) -> None:
    came = iter((b"", b"GET / HTTP/1.0\r\n\r\n", b"QUIT\r\n"))

    def serve(port: int) -> None:
        for line in came:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                sock.recv(4096)
                sock.sendall(line)
        Client(port, authority, Faults()).send()

    results = play_all(serve, MANNER, one("sound"))
    assert findings(results) == {}


def test_no_second_hello(authority: str) -> None:
    """Whoever asks for nothing inside TLS has no list that it could believe: odd, no more."""
    client = Faults(no_second_hello=True)
    results = play_all(lambda port: Client(port, authority, client).send())
    assert findings(results)["no-auth-after-tls"] is VULNERABLE
    client = Faults(no_second_hello=True, opportunistic=True)
    results = play_all(lambda port: Client(port, authority, client).send(), MANNER, one("sound"))
    assert findings(results) == {}
    results = play_all(
        lambda port: Client(port, authority, client).send(), MANNER, one("no-auth-after-tls")
    )
    assert findings(results) == {"no-auth-after-tls": ODD}


def test_a_second_connection_belongs_to_the_scenario(authority: str) -> None:
    """Who tries again in clear after a bad certificate has sent its mail in clear."""
    clients = iter((Faults(), Faults(in_clear="always")))

    def send(port: int) -> None:
        faults = next(clients)
        if faults.in_clear:
            _in_clear(port)
        else:
            Client(port, authority, faults).send()

    manner = replace(MANNER, connections=2, again=PATIENCE)
    results = play_all(send, manner, one("self-signed"))
    assert findings(results) == {"self-signed": ODD}


def _in_clear(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"HELO client.invalid\r\nMAIL FROM:<>\r\nQUIT\r\n")
        while sock.recv(4096):
            pass


HOSTILE = {
    "garbage": bytes(range(256)) * 100,
    "an endless line": b"x" * 100_000,
    "endless commands": b"NOOP\r\n" * 100_000,
    "silence": b"",
    "TLS at once": b"\x16\x03\x01\x02\x00" + b"x" * 512,
    "garbage for a handshake": b"STARTTLS\r\n" + b"\x16\x03\x01\x02\x00" + b"\xff" * 512,
    "endless AUTH": b"AUTH PLAIN\r\n" + b"=" * 100_000,
    "AUTH that gives up": b"AUTH LOGIN\r\n*\r\nQUIT\r\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_clients(data: bytes) -> None:
    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            try:
                sock.sendall(data)
                while sock.recv(4096):
                    pass
            except OSError:
                pass

    results = play_all(send, Manner(timeout=0.2, wait=2, withhold=0.05), one("response-injection"))
    assert findings(results) == {"response-injection": UNTESTED} or data.startswith(b"STARTTLS")


def test_passwords_are_not_shown(authority: str) -> None:
    client = Faults(in_clear="stripped", password_in_clear=True)
    results = play_all(lambda port: Client(port, authority, client).send())
    assert b"AUTH PLAIN (secret)" in shown(results)
    assert base64.b64encode(b"\0" + USER + b"\0" + PASSWORD) not in shown(results)


def say(*lines: bytes) -> Callable[[int], None]:
    """A client that says this in clear, whatever is answered."""

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            for line in lines:
                sock.recv(4096)
                sock.sendall(line + b"\r\n")
            while sock.recv(4096):
                pass

    return send


def shown(results: list[Result]) -> bytes:
    return b"".join(entry.data for result in results for entry in result.evidence.entries())


@pytest.mark.parametrize(
    "lines",
    [
        (b"AUTH XOAUTH2 c2VjcmV0", b"QUIT"),
        (b"auth oauthbearer c2VjcmV0", b"QUIT"),
        (b"AUTH PLAIN c2VjcmV0", b"QUIT"),
        (b"AUTH PLAIN", b"c2VjcmV0", b"QUIT"),
        (b"AUTH LOGIN", b"dXNlcg==", b"c2VjcmV0", b"QUIT"),
        (b"AUTH LOGIN c2VjcmV0", b"*", b"QUIT"),
    ],
)
@pytest.mark.parametrize("scenario", ["stripped", "refused"])
def test_credentials_in_clear(lines: tuple[bytes, ...], scenario: str) -> None:
    results = play_all(say(b"EHLO x", *lines), MANNER, one(scenario))
    assert findings(results) == {scenario: VULNERABLE}
    assert b"c2VjcmV0" not in shown(results)
    assert b"(secret)" in shown(results)
    assert shown(results).endswith(b"QUIT\r\n221 starttls-probe.invalid\r\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        (b"AUTH CRAM-MD5", b"c2VjcmV0", b"QUIT"),  # refused; it goes on all the same
        (b"AUTH PLAIN\r\nc2VjcmV0\r\nQUIT",),
        (b"AUTH LOGIN\r\nc2VjcmV0\r\nc2VjcmV0\r\nQUIT",),
        (b"AUTH LOGIN\r\nc2Vj\rcmV0\r\nc2VjcmV0\r\nQUIT",),
        (b"QUIT\r\nAUTH PLAIN c2VjcmV0",),
        (b"AUTH PLAIN c2Vj" + b"cmV0" * 4000, b"QUIT"),  # longer than any line
    ],
)
def test_secrets_of_other_shapes_are_not_shown(lines: tuple[bytes, ...]) -> None:
    def send(port: int) -> None:
        try:
            say(b"EHLO x", *lines)(port)
        except OSError:
            pass

    results = play_all(send, MANNER, one("stripped"))
    assert b"cmV0" not in shown(results)
    assert b"(secret)" in shown(results) or lines[0].startswith(b"QUIT")


def test_only_whole_tokens_are_hidden() -> None:
    evidence = Evidence()
    evidence.hide(b"user")
    evidence.add("peer", "clear", b"535 user: no such superuser\r\n")
    evidence.add("probe", "clear", b"MAIL FROM:<author@example.invalid>\r\n")
    (reply, mail) = (entry.data for entry in evidence.entries())
    assert reply == b"535 (secret): no such superuser\r\n"
    assert mail == b"MAIL FROM:<author@example.invalid>\r\n"


def test_no_descriptor_for_a_client() -> None:
    """accept() fails at once, again and again: that is not asked without a pause."""

    class Listener:
        calls = 0

        def settimeout(self, seconds: float) -> None:
            assert 0 <= seconds <= 0.3

        def accept(self) -> tuple[socket.socket, object]:
            self.calls += 1
            raise OSError(errno.EMFILE, "Too many open files")

    listener = Listener()
    assert _accept(listener, 0.3) is None  # type: ignore[arg-type]
    assert 1 < listener.calls < 7


def test_who_is_there_when_the_time_is_over() -> None:
    """We may have been stopped until then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert _accept(listener, 0) is None
        with socket.create_connection(listener.getsockname()):
            assert select.select([listener], [], [], PATIENCE)[0]
            client = _accept(listener, 0)
            assert client is not None
            client.close()
