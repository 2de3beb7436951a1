"""dkim, dmarc and spf in whole sessions: who has signed a message decides, and who sends it not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import pytest
from dkim_signer import Ed25519Key, RsaKey, sign
from dns_server import DnsServer
from harness import Home
from listeners import Server

pytestmark = pytest.mark.slow

KEY, OTHER = RsaKey(), Ed25519Key()
ZONE = f"""
    _dmarc.bank.example    TXT  "v=DMARC1; p=reject"
    _dmarc.strict.example  TXT  "v=DMARC1; p=reject; adkim=s"
    {KEY.record("s._domainkey.bank.example")}
    {KEY.record("s._domainkey.mail.bank.example")}
    {KEY.record("s._domainkey.mail.strict.example")}
    {OTHER.record("s._domainkey.list.example")}
    slow._domainkey.bank.example  DO  servfail
    bank.example           TXT  "v=spf1 ip4:198.51.100.1 -all"
    list.example           TXT  "v=spf1 ip4:192.0.2.1 -all"
"""
TEXT = b"From: Bank <x@bank.example>\nTo: x@ok.example\nSubject: x\nDate: x\n\nhello\n"
REJECTED = b"550 message rejected by the DMARC policy of bank.example (#5.7.26)"
NOT_LET = b"550 sorry, bank.example does not let 192.0.2.1 send its mail (#5.7.23)"
PUT_OFF = b"451 sorry, I cannot check DMARC of bank.example, try again later (#4.7.0)"


def of(domain: str) -> bytes:
    return TEXT.replace(b"bank.example", domain.encode())


MESSAGES = {
    # name -> (sender, message, reply)
    "signed": ("x@bank.example", sign(TEXT, KEY, "bank.example"), b"250 ok"),
    "signed by a subdomain": ("x@bank.example", sign(TEXT, KEY, "mail.bank.example"), b"250 ok"),
    "changed": (
        "x@bank.example",
        sign(TEXT, KEY, "bank.example").replace(b"hello", b"Hello"),
        REJECTED,
    ),
    "unsigned": ("x@bank.example", TEXT, REJECTED),
    "of a list": ("x@list.example", sign(TEXT, OTHER, "list.example"), REJECTED),
    "signed by both": (
        "x@list.example",
        sign(sign(TEXT, KEY, "bank.example"), OTHER, "list.example"),
        b"250 ok",
    ),
    "strict": (
        "x@list.example",
        sign(of("strict.example"), KEY, "mail.strict.example"),
        REJECTED.replace(b"bank", b"strict"),
    ),
    "no key to be had": ("x@list.example", sign(TEXT, KEY, "bank.example", "slow"), PUT_OFF),
    "without a policy": ("x@bank.example", sign(of("other.example"), KEY, "bank.example"), NOT_LET),
    "two authors": (
        "x@list.example",
        sign(TEXT.replace(b"From:", b"From: y@list.example,"), KEY, "bank.example"),
        b"250 ok",
    ),
}


@pytest.fixture(scope="module")
def dns() -> Iterator[DnsServer]:
    with DnsServer(ZONE) as server:
        yield server


def commands(sender: str, message: bytes, chunks: bool) -> bytes:
    wire = message.replace(b"\n", b"\r\n")
    head = f"EHLO relay.example\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<x@ok.example>\r\n".encode()
    if chunks:
        half = len(wire) // 2
        parts = b"BDAT %d\r\n%b" % (half, wire[:half])
        return head + parts + b"BDAT %d LAST\r\n%b" % (len(wire) - half, wire[half:]) + b"QUIT\r\n"
    return head + b"DATA\r\n" + wire + b".\r\nQUIT\r\n"


@pytest.mark.parametrize("name", list(MESSAGES))
@pytest.mark.parametrize("chunks", [False, True], ids=["DATA", "BDAT"])
def test_forwarded(home: Home, dns: DnsServer, name: str, chunks: bool) -> None:
    sender, message, said = MESSAGES[name]
    run = home.run(
        commands(sender, message, chunks),
        DKIM="",
        DMARCPOLICY="reject",
        SPFBEHAVIOR="3",
        SPFSTAGE="data_post",
        AUTHRESULTS="mx.example",
        DNSCACHEIP=dns.where,
    )
    reply = run.out.splitlines()[-2]
    assert reply.startswith(b"250 ok ") if said == b"250 ok" else reply == said
    stored = [one.text for one in home.messages()]
    assert bool(stored) == (said == b"250 ok")
    for text in stored:
        assert text.endswith(message)
        (results,) = re.findall(rb"^Authentication-Results: (.*\n(?:\s.*\n)*)", text, re.MULTILINE)
        if name == "two authors":
            assert b'dmarc=permerror reason="addresses of several domains in From"' in results
        else:
            assert b"dmarc=pass header.from=bank.example policy.dmarc=reject" in results


def test_messages_one_after_the_other_in_warm_processes(home: Home, dns: DnsServer) -> None:
    """Nothing that was found out of a message is left for the next one, by DATA or BDAT."""
    forged = b"550 sorry, bank.example does not let 127.0.0.1 send its mail (#5.7.23)"
    told = [
        (MESSAGES["signed"][1], b"x@bank.example", b"250 ok "),
        (TEXT, b"x@list.example", REJECTED),
        (MESSAGES["signed"][1], b"", b"250 ok "),
        (TEXT, b"", REJECTED),
        (b"To: x\n\nhello\n", b"", b"250 ok "),
        (of("other.example"), b"x@bank.example", forged),
    ]
    home.environ |= {"DKIM": "", "DMARCPOLICY": "reject", "DNSCACHEIP": dns.where}
    home.environ |= {"SPFBEHAVIOR": "3", "SPFSTAGE": "data_post"}
    with Server(home, "--sessions", "100") as server:
        for _ in range(2):
            with server.client() as client:
                client.reply()
                client.ask(b"EHLO relay.example")
                for (text, sender, said), chunk in product(told, (False, True)):
                    client.ask(b"MAIL FROM:<%b>" % sender)
                    client.ask(b"RCPT TO:<x@ok.example>")
                    wire = text.replace(b"\n", b"\r\n")
                    if chunk:
                        client.send(b"BDAT %d LAST\r\n" % len(wire) + wire)
                    else:
                        client.ask(b"DATA")
                        client.send(wire + b".\r\n")
                    assert client.reply().startswith(said)
