"""Dovecot's authentication protocol: each answer, and what is none."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from client import PATIENCE
from daemons import AUTH_HELLO as HELLO
from daemons import USERDB_HELLO as USERS
from daemons import Line as Connection
from daemons import Peer, userdb
from hypothesis import given
from hypothesis import strategies as st

from qsmtpd.net import dovecotauth
from qsmtpd.net.daemon import NoAnswer, parse_address
from qsmtpd.net.dovecot import Line, Users, unescape
from qsmtpd.net.dovecotauth import Authentication, Said, said

pytestmark = pytest.mark.slow

SHORT = 0.2  # seconds, for who does not answer


# -- lines -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (b"", b""),
        (b"joe", b"joe"),
        (b"a\1tb\1nc\1rd\0011e\0010f", b"a\tb\nc\rd\1e\0f"),
        (b"\1x\1\1", b"x\1"),
        (b"x\1", b"x"),
        (b"\xff=\xfe", b"\xff=\xfe"),
    ],
)
def test_escapes(field: bytes, text: bytes) -> None:
    assert unescape(field) == text


@given(st.binary())
def test_what_is_escaped_comes_back(text: bytes) -> None:
    """As Dovecot's str_tabescape() writes it."""
    names = {0: b"0", 1: b"1", 9: b"t", 10: b"n", 13: b"r"}
    escaped = b"".join(b"\1" + names[c] if c in names else bytes((c,)) for c in text)
    assert not {0, 9, 10, 13} & set(escaped)
    assert unescape(escaped) == text


@given(st.binary().filter(lambda line: b"\n" not in line))
def test_any_line(line: bytes) -> None:
    found = Line(line)
    assert found.command is not None and len(found.fields) <= line.count(b"\t")
    assert all(b"=" not in word for word in found.words)


def test_a_line() -> None:
    line = Line(b"OK\t7\tuser=joe\tproxy\thost=a=b\tuser=ann\t=x")
    assert (line.command, line.id, line.words) == (b"OK", 7, {b"proxy"})
    assert line.values == {b"user": b"joe", b"host": b"a=b", b"": b"x"}
    for text in (b"OK", b"OK\t", b"OK\tx", b"OK\t+1", b"OK\t 1", b"OK\t1_0", b"OK\t" + b"1" * 11):
        assert Line(text).id is None


# -- answers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "challenge", "user", "temporary", "code", "claimed"),
    [
        (b"CONT\t1\t", b"", None, False, b"", b""),
        (b"CONT\t1", b"", None, False, b"", b""),
        (b"CONT\t1\tVXNlcm5hbWU6", b"Username:", None, False, b"", b""),
        (b"OK\t1\tuser=joe", None, b"joe", False, b"", b""),
        (b"OK\t1\tx\tuser=J\xc3\xb6e@x\tuid=0", None, b"J\xc3\xb6e@x", False, b"", b""),
        (b"FAIL\t1", None, None, False, b"", b""),
        (b"FAIL\t1\tuser=joe", None, None, False, b"", b"joe"),
        (b"FAIL\t1\tuser=joe\ttemp", None, None, True, b"temp_fail", b"joe"),
        (b"FAIL\t1\tcode=temp_fail", None, None, True, b"temp_fail", b""),
        (b"FAIL\t1\ttemp\tcode=x", None, None, True, b"x", b""),
        (b"FAIL\t1\tauthz", None, None, False, b"authz_fail", b""),
        (b"FAIL\t1\tuser_disabled", None, None, False, b"user_disabled", b""),
        (b"FAIL\t1\tcode=pass_expired\tuser=a", None, None, False, b"pass_expired", b"a"),
        (b"FAIL\t1\tpass_expired\ttemp", None, None, True, b"temp_fail pass_expired", b""),
        (b"FAIL\t1\treason=temp", None, None, False, b"", b""),
        (b"FAIL\t1\tuser=a\x01nb", None, None, False, b"", b""),
    ],
)
def test_answers(
    line: bytes,
    challenge: bytes | None,
    user: bytes | None,
    temporary: bool,
    code: bytes,
    claimed: bytes,
) -> None:
    found = said(line)
    assert found.challenge == challenge
    assert found.user == user
    assert (found.temporary, found.code, found.claimed) == (temporary, code, claimed)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"OK",
        b"OK\t1",
        b"OK\t1\tuser=",
        b"OK\t1\tuser",
        b"OK\t1\tuser=a\x01tb",
        b"OK\t1\tuser=a\x7f",
        b"OK\t2\tuser=joe",
        b"OK\t01x\tuser=joe",
        b"ok\t1\tuser=joe",
        b"CONT\t1\t!!!",
        b"CONT\t1\tVXNlcm5hbWU6\tx",
        b"CONT\t1\tVXNl cm5h",
        b"FAIL\t7",
        b"NOTFOUND\t1",
        b"USER\t1\tjoe",
        b"220 mx.example ESMTP",
    ],
)
def test_what_is_no_answer(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what it says is for nobody
        said(line)


@given(st.binary() | st.binary().map(lambda rest: b"OK\t1\tuser=" + rest))
def test_only_ok_lets_in(line: bytes) -> None:
    try:
        found = said(line)
    except ValueError:
        return
    assert (found.user is not None) == line.startswith(b"OK\t")
    if found.user is not None:
        assert found.user and found.challenge is None and found.user.isascii() in (True, False)
        assert not any(byte < 32 or byte == 127 for byte in found.user)


# -- the handshake -----------------------------------------------------------


def shake(text: bytes) -> tuple[bytes, ...]:
    lines = iter(text.split(b"\n"))
    return dovecotauth.handshake(lambda: next(lines))


def test_mechanisms() -> None:
    assert shake(HELLO) == (b"PLAIN", b"LOGIN", b"SCRAM-SHA-256")
    before = (
        b"VERSION\t1\t1\nSPID\t7\nCUID\t1\nCOOKIE\tab\nMECH\tcram-md5\tdictionary\nNEW\tx\nDONE\n"
    )
    assert shake(before) == (b"CRAM-MD5",)  # in the order of the documentation
    assert shake(b"VERSION\t1\nDONE\n") == ()


@pytest.mark.parametrize(
    "line",
    [
        b"MECH\tANONYMOUS\tanonymous",  # it would let everybody in
        b"MECH\tAPOP\tprivate\tdictionary",
        b"MECH\tEXTERNAL",
        b"MECH",
        b"MECH\t",
        b"MECH\tA B",
        b"MECH\tPLAIN\r",
        b"MECH\tA\xff",
        b"MECH\t" + b"A" * 21,
    ],
)
def test_what_no_client_is_offered(line: bytes) -> None:
    assert shake(b"VERSION\t1\t1\n" + line + b"\nDONE\n") == ()


def test_the_line_of_ehlo_has_an_end() -> None:
    many = b"".join(b"MECH\tA%05d\n" % number for number in range(10_000))
    found = shake(b"VERSION\t1\t1\n" + many + b"DONE\n")
    assert 400 - 7 <= len(b" ".join(found)) <= 400


@pytest.mark.parametrize(
    "text",
    [
        b"\n",
        b"VERSION\n",
        b"VERSION\t2\t0\nDONE\n",
        b"VERSION\t11\t0\nDONE\n",
        b"VERSIONS\t1\t0\nDONE\n",
        b"DONE\n",
        b"VERSION\t1\t1\n\nDONE\n",
        b"VERSION\t1\t1\nVERSION\t1\t1\nDONE\n",
        b"220 mx.example ESMTP\r\n",
    ],
)
def test_no_handshake(text: bytes) -> None:
    with pytest.raises(NoAnswer, match="^talks nonsense$"):
        shake(text)


@given(st.binary(max_size=2000))
def test_any_handshake(text: bytes) -> None:
    try:
        found = shake(b"VERSION\t1\t1\n" + text + b"\nDONE\n")
    except NoAnswer:
        return
    for name in found:
        assert name.decode("ascii").replace("-", "").replace("_", "").isalnum()


# -- the auth socket ---------------------------------------------------------


def ask(tmp_path: Path, script: Callable[[Connection], None], seconds: float = PATIENCE) -> Said:
    """PLAIN, with an initial response."""
    with Peer(script, tmp_path / "auth") as peer:
        exchange = Authentication(parse_address(peer.address.encode()), seconds)
        return exchange.begin(b"PLAIN", [b"secured=tls"], b"\0joe\0secret")


def test_an_exchange(tmp_path: Path) -> None:
    heard: list[list[bytes]] = []

    def script(line: Connection) -> None:
        line.say(HELLO)
        heard.append([line.hear() for _ in range(3)])
        line.say(b"CONT\t1\tYQ==\n")
        heard.append([line.hear()])
        line.say(b"OK\t1\tuser=joe\n")

    with Peer(script, tmp_path / "auth") as peer:
        exchange = Authentication(parse_address(peer.address.encode()), PATIENCE)
        assert b"PLAIN" in exchange.mechanisms
        assert exchange.begin(b"X", [b"nologin", b"rip=192.0.2.1"], None).challenge == b"a"
        assert exchange.go_on(b"").user == b"joe"
        exchange.close()
    (version, cpid, auth), (cont,) = heard
    assert version == b"VERSION\t1\t1\n"
    assert cpid.startswith(b"CPID\t") and cpid[5:-1].isdigit()
    assert auth == b"AUTH\t1\tX\tservice=smtp\tnologin\trip=192.0.2.1\n"
    assert cont == b"CONT\t1\t\n"


@pytest.mark.parametrize("response", [b"", b"\0joe\0secret", b"\xff" * 9000])
def test_the_initial_response_comes_last(tmp_path: Path, response: bytes) -> None:
    heard: list[bytes] = []

    def script(line: Connection) -> None:
        line.say(HELLO)
        heard.extend(line.hear() for _ in range(3))
        line.say(b"FAIL\t1\n")

    with Peer(script, tmp_path / "auth") as peer:
        Authentication(parse_address(peer.address.encode()), PATIENCE).begin(b"X", [], response)
    assert heard[2].endswith(b"\tresp=" + base64.b64encode(response) + b"\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "closed the connection"),
        (b"VERSION\t1\t1\nMECH\tPLA", "closed the connection"),
        (b"x" * 10_000_000, "answers too long"),
        (b"VERSION\t1\t1\n" + b"MECH\tPLAIN\n" * 1_000_000, "answers too long"),
        (b"220 mx.example ESMTP\r\n", "talks nonsense"),
        (HELLO, "closed the connection"),
        (HELLO + b"OK\t1\tus", "closed the connection"),
        (HELLO + b"OK\t1\n", "talks nonsense"),
        (HELLO + b"OK\t2\tuser=joe\n", "talks nonsense"),
        (HELLO + b"\n", "talks nonsense"),
        (HELLO + b"x" * 10_000_000, "answers too long"),
        (HELLO + b"OK\t1\tuser=" + b"x" * 70_000 + b"\n", "answers too long"),
    ],
    ids=range(12),
)
def test_no_answer(tmp_path: Path, text: bytes, reason: str) -> None:
    def script(line: Connection) -> None:
        if text.startswith(HELLO):
            line.say(HELLO)
            for _ in range(3):
                line.hear()
        line.say(text.removeprefix(HELLO))

    with pytest.raises(NoAnswer, match=f"^({reason}|Connection reset by peer|Broken pipe)$"):
        ask(tmp_path, script)


@pytest.mark.parametrize(
    "text", [b"", b"VERSION\t1\t1\n", HELLO[:-1], HELLO, HELLO + b"OK\t1\tuser=joe"]
)
def test_who_does_not_go_on(tmp_path: Path, text: bytes) -> None:
    def script(line: Connection) -> None:
        line.say(text)
        line.wait_for_end()

    with pytest.raises(NoAnswer, match="^timeout$"):
        ask(tmp_path, script, SHORT)


# -- the userdb socket -------------------------------------------------------


def test_users(tmp_path: Path) -> None:
    with Peer(userdb(b"joe"), tmp_path / "auth-userdb") as peer:
        users = Users(parse_address(peer.address.encode()), PATIENCE)
        assert [users.knows(name) for name in (b"joe", b"ann", b"joe", b"\xff")] == [1, 0, 1, 0]
        assert users.is_open()
        with pytest.raises(NoAnswer, match="^has a problem: no\\tdatabase$"):
            users.knows(b"bad")
        assert not users.is_open()
        assert peer.connections == 1


def test_a_dovecot_that_was_restarted(tmp_path: Path) -> None:
    with Peer(userdb(b"joe"), tmp_path / "auth-userdb") as peer:
        address = parse_address(peer.address.encode())
        users = Users(address, PATIENCE)
        assert users.knows(b"joe")
        peer.restart()
        assert not users.is_open()
        assert Users(address, PATIENCE).knows(b"joe")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "closed the connection"),
        (HELLO, "is no userdb socket"),
        (b"VERSION\t2\t0\nSPID\t1\n", "talks nonsense"),
        (b"x" * 10_000_000, "answers too long"),
        (USERS, "closed the connection"),
        (USERS + b"USER\t1\tjo", "closed the connection"),
        (USERS + b"USER\t2\tjoe\n", "talks nonsense"),
        (USERS + b"NOTFOUND\n", "talks nonsense"),
        (USERS + b"OK\t1\n", "talks nonsense"),
        (USERS + b"FAIL\t1\n", "has a problem"),
        (USERS + b"USER\t1\t" + b"x" * 10_000_000, "answers too long"),
    ],
    ids=range(11),
)
def test_no_answer_about_a_user(tmp_path: Path, text: bytes, reason: str) -> None:
    def script(line: Connection) -> None:
        if text.startswith(USERS):
            line.say(USERS)
            line.hear()
            line.hear()
        line.say(text.removeprefix(USERS))

    with (
        Peer(script, tmp_path / "auth-userdb") as peer,
        pytest.raises(NoAnswer, match=f"^({reason}|Connection reset by peer|Broken pipe)$"),
    ):
        Users(parse_address(peer.address.encode()), PATIENCE).knows(b"joe")
