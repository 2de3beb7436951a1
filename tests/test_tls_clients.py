"""Client certificates: who may relay by one, and who may not."""

from __future__ import annotations

import pytest
from certificates import Certificate
from client import client_context
from harness import Home
from tls_home import AUTHORITY


@pytest.mark.parametrize(
    ("listed", "signed", "revoked", "relay"),
    [
        ("fingerprint", True, False, True),
        ("fingerprint", False, False, True),  # pinned: who signed it does not matter
        ("address", True, False, True),
        ("address", False, False, False),  # anybody can certify an address to himself
        ("address", True, True, False),
        ("other", True, False, False),  # a good certificate by itself gives no right
        ("none", True, False, False),
    ],
)
def test_client_certificates(
    inside: Home, listed: str, signed: bool, revoked: bool, relay: bool
) -> None:
    client = Certificate("client", issuer=AUTHORITY if signed else None, address="me@b.example")
    (inside.control_dir / "clientca.pem").write_bytes(AUTHORITY.pem)
    if revoked:
        crl = AUTHORITY.revocation_list(client)
        (inside.control_dir / "clientcrl.pem").write_bytes(crl)
    entry = {
        "fingerprint": "SHA256:" + client.fingerprint.upper(),
        "address": "Me@b.example",
        "other": "you@b.example",
    }.get(listed)
    if entry:
        inside.control("tlsclients", "# who may relay", entry)
    path = client.save(inside.path / "client.pem")
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(client_context(path))
        assert talk.ask(b"MAIL FROM:<a@b>") == b"250 ok"
        assert talk.ask(b"RCPT TO:<x@no.example>")[:3] == (b"250" if relay else b"553")
        talk.ask(b"QUIT")
        log = talk.ended().event("tls")
    assert log["fingerprint"] == client.fingerprint
    assert log.get("listed") == ("yes" if relay else None)


def test_no_certificate_is_asked_for_without_an_authority(inside: Home) -> None:
    path = Certificate("client").save(inside.path / "client.pem")
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(client_context(path))
        talk.ask(b"QUIT")
        assert "fingerprint" not in talk.ended().event("tls")


def test_a_good_list_is_no_danger_to_others(inside: Home) -> None:
    good, bad = (Certificate("client", issuer=AUTHORITY, address=f"{n}@x.y") for n in "gb")
    (inside.control_dir / "clientca.pem").write_bytes(AUTHORITY.pem)
    (inside.control_dir / "clientcrl.pem").write_bytes(AUTHORITY.revocation_list(bad))
    inside.control("tlsclients", "g@x.y", "b@x.y")
    path = good.save(inside.path / "client.pem")
    with inside.talk() as talk:
        talk.reply()
        talk.starttls(client_context(path))
        talk.ask(b"MAIL FROM:<a@b>")
        assert talk.ask(b"RCPT TO:<x@no.example>") == b"250 ok"


@pytest.mark.parametrize("entry", ["sha256:abc", "nonsense", "sha256:" + "g" * 64])
def test_a_bad_list_of_clients(inside: Home, entry: str) -> None:
    inside.control("tlsclients", entry)
    assert inside.run(b"").lines == [b"421 unable to read controls (#4.3.0)"]


def test_a_certificate_that_cannot_be_parsed_gives_no_right() -> None:
    from qsmtpd.tls import openssl as module

    class Odd:
        def to_cryptography(self) -> object:
            raise RuntimeError("7 is not a valid X509 version")

    assert module._addresses(Odd()) == ()  # type: ignore[arg-type]
