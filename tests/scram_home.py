"""What tests of SCRAM share: users of a file, and a client that is not ours."""

from __future__ import annotations

import base64
import subprocess

from child import Child
from client import PATIENCE
from harness import BIN, Home
from scramp import ScramClient, ScramMechanism

PROGRAM = BIN / "qsmtpd-checkpassword"
PASSWORD = "secret"
FAILED = b"535 authentication failed (#5.7.1)"
TEMPORARY = b"454 problem with child and I can't auth (#4.3.0)"
SALT, STORED, SERVER, ITERATIONS = ScramMechanism("SCRAM-SHA-256").make_auth_info(
    PASSWORD, iteration_count=4096, salt=bytes(range(16))
)
#: By an implementation that is not ours, and with few iterations.
JOE = ":".join(["joe", "scram", str(ITERATIONS), SALT.hex(), STORED.hex(), SERVER.hex()])
SEED = ":seed:" + "5e" * 32
ANN = "ann:cram:" + PASSWORD.encode().hex()
BOB = "bob:scrypt:10:8:1:" + "00" * 16 + ":" + "00" * 32


def client(user: str = "joe", password: str = PASSWORD, nonce: str | None = None) -> ScramClient:
    return ScramClient(["SCRAM-SHA-256"], user, password, c_nonce=nonce)


def b64(text: str | bytes) -> bytes:
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


def challenge(reply: bytes) -> str:
    """What stands behind 334."""
    assert reply.startswith(b"334 "), reply
    return base64.b64decode(reply[4:], validate=True).decode()


def first(user: str = "joe", header: str = "n,,", nonce: str = "abc") -> bytes:
    return b"AUTH SCRAM-SHA-256 " + b64(f"{header}n={user},r={nonce}")


def log_in(talk: Child, by: ScramClient, early: bool = True, header: str = "n,,") -> bytes:
    """A whole exchange, as far as it goes; the last reply."""
    begin = by.get_client_first().replace("n,,", header, 1)
    if early:
        reply = talk.ask(b"AUTH SCRAM-SHA-256 " + b64(begin))
    else:
        assert talk.ask(b"AUTH SCRAM-SHA-256") == b"334 "
        reply = talk.ask(b64(begin))
    if not reply.startswith(b"334"):
        return reply
    by.set_server_first(challenge(reply))
    reply = talk.ask(b64(by.get_client_final()))
    if not reply.startswith(b"334"):
        return reply
    by.set_server_final(challenge(reply))  # it raises for a server that has not the keys
    return talk.ask(b"")


def start(home: Home, **environ: str) -> Child:
    home.environ.update(environ)
    talk = home.talk(*home.arguments)
    talk.reply()
    return talk


def edit(home: Home, *arguments: str | bytes, text: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [PROGRAM, *arguments],
        input=text.encode("utf-8", "surrogateescape"),
        capture_output=True,
        env=home.environ,
        timeout=PATIENCE,
        check=False,
    )
