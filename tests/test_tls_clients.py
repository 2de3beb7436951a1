"""Client certificates: who may relay by one, and who may not."""

from __future__ import annotations

import os

import pytest
from certificates import Certificate
from client import client_context
from harness import Home
from tls_home import AUTHORITY


@pytest.mark.sample(4)
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


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["sha256:abc", "nonsense", "sha256:" + "g" * 64])
def test_a_bad_entry_is_left_out(inside: Home, entry: str) -> None:
    """Plain mail goes on, and so does everybody else who is listed; the log says it."""
    client = Certificate("client")
    inside.control("tlsclients", entry, f"sha256:{client.fingerprint}")
    (inside.control_dir / "clientca.pem").write_bytes(client.pem)
    assert inside.run(b"MAIL FROM:<>\r\nQUIT\r\n").codes == [220, 250, 221]
    shown = entry if len(entry) <= 40 else entry[:40] + "..."
    what = f"control/tlsclients: line 1: '{shown}' is "
    assert relays(inside, client) == (True, what)
    check = inside.run(b"", "--check")
    assert check.status == 1
    assert f"wrong: {what}".encode() in check.out


def relays(home: Home, client: Certificate) -> tuple[bool, str]:
    """May this client relay, and what does the log say of that?  (Of a long reason the half.)"""
    path = client.save(home.path / "client.pem")
    with home.talk() as talk:
        talk.reply()
        talk.starttls(client_context(path))
        talk.ask(b"MAIL FROM:<a@b>")
        allowed = talk.ask(b"RCPT TO:<x@no.example>")[:3] == b"250"
        talk.ask(b"QUIT")
        log = talk.ended().event("tls")
    assert log["verdict"] == "on"
    reason = log.get("reason", "")
    for half in ("is no SHA-256", "is neither"):
        reason = reason.partition(half)[0] + ("is " if half in reason else "")
    return allowed, reason


UNVERIFIED = "the client's certificate is not verified: "
OTHER = Certificate("other.example")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "reason", "warning"),
    [
        ("clientca.pem", b"", "clientca.pem: holds no CERTIFICATE", ""),
        ("clientca.pem", AUTHORITY.pem[:-30], "clientca.pem: is cut off", ""),
        ("clientca.pem", AUTHORITY.pem + OTHER.pem[:99], "clientca.pem: is cut off", ""),
        ("clientca.pem", None, "clientca.pem: is no regular file", ""),
        ("clientca.pem", OTHER.pem, UNVERIFIED + "it is signed by an authority that is not", ""),
        ("clientcrl.pem", b"", "clientcrl.pem: holds no X509 CRL", ""),
        ("clientcrl.pem", AUTHORITY.revocation_list()[:-30], "clientcrl.pem: is cut off", ""),
        ("clientcrl.pem", None, "clientcrl.pem: is no regular file", ""),
        (
            "clientcrl.pem",
            AUTHORITY.revocation_list(days=0),
            UNVERIFIED + "the revocation list has expired",
            "the list of CN=authority.example has expired",
        ),
        (
            "clientcrl.pem",
            OTHER.revocation_list(),
            UNVERIFIED + "there is no revocation list of its issuer",
            "has no list of CN=authority.example",
        ),
        (
            "clientcrl.pem",
            Certificate("authority.example").revocation_list(),
            UNVERIFIED + "the signature of the revocation list is wrong",
            "the list of CN=authority.example is not signed by it",
        ),
    ],
    ids=lambda value: value[:25] if isinstance(value, str) else "x",
)
def test_what_cannot_be_used_takes_rights_and_says_so(
    inside: Home, name: str, content: bytes | None, reason: str, warning: str
) -> None:
    """By address; who is listed by fingerprint keeps his, and TLS is there for all."""
    client = Certificate("client", issuer=AUTHORITY, address="me@b.example")
    inside.control("tlsclients", "me@b.example")
    (inside.control_dir / "clientca.pem").write_bytes(AUTHORITY.pem)
    assert relays(inside, client) == (True, "")
    path = inside.control_dir / name
    if content is None:
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    allowed, said = relays(inside, client)
    assert not allowed
    assert reason in said
    check = inside.run(b"", "--check")
    lines = [line for line in check.out.decode().splitlines() if line.startswith("warning: ")]
    expected = warning or ("" if UNVERIFIED in reason else reason)
    assert any(expected in line for line in lines), check.out
    inside.control("tlsclients", f"sha256:{client.fingerprint}")
    assert relays(inside, client)[0]


@pytest.mark.slow
def test_a_signature_that_is_wrong(inside: Home) -> None:
    """A certificate that claims to be the authority's ends nothing, and gives no right."""
    client = Certificate("client", issuer=Certificate("authority.example"), address="me@b.example")
    inside.control("tlsclients", "me@b.example")
    (inside.control_dir / "clientca.pem").write_bytes(AUTHORITY.pem)
    assert relays(inside, client) == (False, UNVERIFIED + "the signature is wrong")


@pytest.mark.slow
def test_an_authority_that_has_expired(inside: Home) -> None:
    old = Certificate("old.example", days=0)
    client = Certificate("client", issuer=old, address="me@b.example")
    inside.control("tlsclients", "me@b.example")
    (inside.control_dir / "clientca.pem").write_bytes(old.pem)
    allowed, said = relays(inside, client)
    assert not allowed and said == UNVERIFIED + "it has expired"
    assert b"warning: clientca.pem: CN=old.example has expired" in inside.run(b"", "--check").out


@pytest.mark.slow
def test_many_authorities(inside: Home) -> None:
    """Their names would not fit into a message of the handshake; all count."""
    many = b"".join(Certificate(f"x{n:0>50}.example").pem for n in range(800))
    client = Certificate("client", issuer=AUTHORITY, address="me@b.example")
    inside.control("tlsclients", "me@b.example")
    (inside.control_dir / "clientca.pem").write_bytes(many + AUTHORITY.pem)
    assert relays(inside, client) == (True, "")


def test_a_certificate_that_cannot_be_parsed_gives_no_right() -> None:
    from qsmtpd.tls import openssl as module

    class Odd:
        def to_cryptography(self) -> object:
            raise RuntimeError("7 is not a valid X509 version")

    assert module._addresses(Odd()) == ()  # type: ignore[arg-type]
