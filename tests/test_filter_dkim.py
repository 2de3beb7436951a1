"""The filter dkim: signatures of an independent signer, and what is wrong with them."""

from __future__ import annotations

import base64
import functools
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time, time
from typing import Any

import pytest
from dkim_signer import Ed25519Key, RsaKey, body_form, quoted, sign
from dns_server import DnsServer
from filters import build, client, logged
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from qsmtpd.facts import ControlError, Envelope, Message
from qsmtpd.filters.dkimresult import RESULTS, Signature
from qsmtpd.filters.dkimsignature import SignatureField, Unverified
from qsmtpd.smtp import taglist
from qsmtpd.smtp.canonical import BodyHash

MESSAGE = (
    b"Received: by somebody\nFrom: Joe <joe@a.com>\nTo: you\nSubject:  a \t b\n\tc \n"
    b"Date: Thu, 26 Nov 2026 23:00:00 +0000\n\nHello  you \t\n\n  x\t \n \n\n"
)
FORMS = [
    "simple/simple",
    "simple/relaxed",
    "relaxed/simple",
    "relaxed/relaxed",
    "relaxed",
    "Simple",
]
NAME = "s._domainkey.a.com"


@functools.cache
def rsa() -> RsaKey:
    return RsaKey()


@functools.cache
def ed25519() -> Ed25519Key:
    return Ed25519Key()


def check(
    home: Path, text: bytes, *zone: str, log: int | None = None, **environ: str
) -> list[Signature]:
    """The results of a message, where this is the DNS."""
    with DnsServer("\n".join(zone)) as dns, tempfile.TemporaryFile(buffering=0) as file:
        seconds = "1" if any(line.endswith("silent") for line in zone) else "20"
        variables = {"DKIM": "", "DNSCACHEIP": dns.where, "DNSTIMEOUT": seconds, **environ}
        plugin = build("dkim", home, log, **variables)
        file.write(text)
        message, envelope = Message(), Envelope(b"joe@a.com")
        message.file = file
        assert plugin.data_post(client(), envelope, message).verdict == "decline"
        found: list[Signature] = envelope.notes["dkim"]
        return found


def one(home: Path, text: bytes, *zone: str) -> tuple[str, str]:
    """The result of the one signature that there is, and the reason."""
    (found,) = check(home, text, *zone)
    return found.result, found.reason


# -- what passes ---------------------------------------------------------------


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("make", [rsa, ed25519])
def test_signatures_that_fit(tmp_path: Path, make: Callable[[], RsaKey], forms: str) -> None:
    key = make()
    text = sign(MESSAGE, key, forms=forms)
    (found,) = check(tmp_path, text, key.record(NAME))
    assert (found.result, found.reason, found.testing) == ("pass", "", False)
    assert (found.domain, found.selector) == (b"a.com", b"s")
    assert found.algorithm == key.algorithm.encode()
    written = re.sub(rb"\s", b"", text.partition(b" b=")[2])
    assert len(found.digest) == 8 and written.startswith(found.digest)


@pytest.mark.parametrize(
    "body", [b"", b"\n", b"\n\n\n", b" \t\n \n", b"x", b" x \t", b"\r\n", b"\t"]
)
@pytest.mark.parametrize("forms", FORMS[:4])
def test_odd_bodies(tmp_path: Path, body: bytes, forms: str) -> None:
    text = sign(b"From: a@a.com\n\n" + body, ed25519(), forms=forms)
    assert one(tmp_path, text, ed25519().record(NAME)) == ("pass", "")


@pytest.mark.parametrize("forms", FORMS[:4])
def test_a_message_without_a_body(tmp_path: Path, forms: str) -> None:
    text = sign(b"From: a@a.com\n\n", ed25519(), forms=forms)
    assert one(tmp_path, text[:-1], ed25519().record(NAME)) == ("pass", "")


#: RFC 8463, appendix A; also RFC 6376's message.
RFC = b"""DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"""
RFC_ZONE = (
    "brisbane._domainkey.football.example.com TXT "
    '"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="',
    "test._domainkey.football.example.com TXT "
    + quoted(
        "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5q"
        "hdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4h"
        "stT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
    ),
)


def test_the_example_of_rfc_8463(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        found = check(tmp_path, RFC, *RFC_ZONE, log=file.fileno())
    assert [(one.result, one.selector) for one in found] == [
        ("pass", b"brisbane"),
        ("pass", b"test"),
    ]
    said = [(line["result"], line["domain"], line["algorithm"]) for line in logged(log)]
    assert said == [
        ("pass", "football.example.com", "ed25519-sha256"),
        ("pass", "football.example.com", "rsa-sha256"),
    ]


def test_any_other_byte_of_the_example_is_no_pass(tmp_path: Path) -> None:
    """But for blanks, which the relaxed form does not count, and what is not signed."""
    start = RFC.index(b"From: ")
    with DnsServer("\n".join(RFC_ZONE)) as dns, tempfile.TemporaryFile(buffering=0) as file:
        plugin = build("dkim", tmp_path, DKIM="", DNSCACHEIP=dns.where)
        who = client()
        for place in range(start, len(RFC) - 1):
            changed = RFC[:place] + bytes((RFC[place] ^ 1,)) + RFC[place + 1 :]
            file.seek(0)
            file.write(changed)
            message, envelope = Message(), Envelope(b"")
            message.file = file
            plugin.data_post(who, envelope, message)
            results = {found.result for found in envelope.notes["dkim"]}
            assert "pass" not in results, RFC[place - 10 : place + 10]
            assert results <= {"fail", "permerror"}  # the latter: no header line any more


def test_headers_are_taken_from_below(tmp_path: Path) -> None:
    key = ed25519()
    text = sign(MESSAGE, key, headers="From:Subject:From")
    assert one(tmp_path, text, key.record(NAME)) == ("pass", "")
    assert one(tmp_path, b"Subject: other\n" + text, key.record(NAME)) == ("pass", "")
    assert one(tmp_path, b"From: other\n" + text, key.record(NAME))[0] == "fail"
    below = text.replace(b"Date: ", b"Subject: other\nDate: ")
    assert one(tmp_path, below, key.record(NAME))[0] == "fail"


@pytest.mark.parametrize("second", [b"From: boss@b.com\n", b"FROM :\n x\n", b"From: a@a.com\n"])
@pytest.mark.parametrize("below", [False, True])
def test_a_second_from_has_to_be_signed(tmp_path: Path, second: bytes, below: bool) -> None:
    """Readers may show that one (RFC 6376, 8.15)."""
    key = ed25519()
    text = sign(MESSAGE, key)
    changed = text.replace(b"To: you", second + b"To: you") if below else second + text
    assert one(tmp_path, changed, key.record(NAME)) == ("permerror", "a From line is not signed")
    text = sign(second + MESSAGE, key, headers="From:To")
    assert one(tmp_path, text, key.record(NAME))[0] == "permerror"
    text = sign(second + MESSAGE, key, headers="From:To:From")
    assert one(tmp_path, text, key.record(NAME)) == ("pass", "")


def test_a_signature_is_not_over_itself(tmp_path: Path) -> None:
    """Where it names such fields, others are meant (RFC 6376, 3.7)."""
    key = ed25519()
    inner = sign(MESSAGE, key)
    text = sign(inner, key, headers="From:DKIM-Signature", selector="t")
    zone = key.record(NAME), key.record(NAME.replace("s.", "t."))
    assert [found.result for found in check(tmp_path, text, *zone)] == ["pass", "pass"]


@pytest.mark.parametrize("top", [b"", b"From joe@a.com Thu Nov 26 23:00:00 2026\n"])
def test_a_line_of_mbox_on_top(tmp_path: Path, top: bytes) -> None:
    text = top + sign(MESSAGE, ed25519(), forms="simple/simple")
    assert one(tmp_path, text, ed25519().record(NAME)) == ("pass", "")


def test_names_with_u_labels(tmp_path: Path) -> None:
    text = sign(
        MESSAGE, ed25519(), domain="b\u00fccher.example", more=" i=joe@b\u00fccher.example;"
    )
    (found,) = check(tmp_path, text, ed25519().record("s._domainkey.xn--bcher-kva.example"))
    assert (found.result, found.domain) == ("pass", b"xn--bcher-kva.example")


# -- what does not -------------------------------------------------------------

NOW = int(time())
#: What sign() is told -> the result, and what is in the reason.
SIGNED = {
    "future": ({"more": f" t={NOW + 3600};"}, "policy", "of the future"),
    "a clock that is wrong": ({"more": f" t={NOW + 200};"}, "pass", ""),
    "expired": ({"more": f" x={NOW - 3600};"}, "policy", "expired"),
    "not yet expired": ({"more": f" t={NOW}; x={NOW + 36000};"}, "pass", ""),
    "expires too early": ({"more": " t=5; x=5;"}, "neutral", "before it begins"),
    "a time of 13 digits": ({"more": " x=1234567890123;"}, "neutral", "x= is no number"),
    "a time that is none": ({"more": " t=-1;"}, "neutral", "t= is no number"),
    "no From": ({"headers": "To:Subject"}, "permerror", "From"),
    "a name that is none": ({"headers": "From:T o"}, "neutral", "h="),
    "a name missing": ({"headers": "From::To"}, "neutral", "h="),
    "i= elsewhere": ({"more": " i=@b.com;"}, "permerror", "i="),
    "i= that only ends so": ({"more": " i=@aa.com;"}, "permerror", "i="),
    "i= without an @": ({"more": " i=a.com;"}, "permerror", "i="),
    "i= below": ({"more": " i=joe@x.a.com;"}, "pass", ""),
    "another way to the key": ({"more": " q=http;"}, "neutral", "q="),
    "two ways to the key": ({"more": " q=http : dns/txt;"}, "pass", ""),
    "unknown tags": ({"more": " zz=9; _a=;".replace("_a", "a_1")}, "pass", ""),
    "a tag twice": ({"more": " d=a.com;"}, "neutral", "list of tags"),
    "a tag without a name": ({"more": " =1;"}, "neutral", "list of tags"),
    "a tag that is none": ({"more": " 9=1;"}, "neutral", "list of tags"),
    "a tag without a value": ({"more": " nothing;"}, "neutral", "list of tags"),
    "an empty tag": ({"more": ";"}, "neutral", "list of tags"),
    "a control character": ({"more": " z=\x01;"}, "neutral", "list of tags"),
    "forms": ({"forms": "relaxed/none"}, "neutral", "c="),
    "SHA-1": ({"algorithm": "rsa-sha1"}, "permerror", "rsa-sha1"),
    "no domain": ({"domain": "com"}, "neutral", "d="),
    "a domain that is none": ({"domain": "a..com"}, "neutral", "d="),
    "an odd domain": ({"domain": "a(b).com"}, "neutral", "d="),
    "an address": ({"domain": "192.0.2.1"}, "neutral", "d="),
    "no selector": ({"selector": ""}, "neutral", "no s="),
    "an odd selector": ({"selector": "a/b"}, "neutral", "s="),
    "a long selector": ({"selector": "a" * 64}, "neutral", "s="),
    "a name that is too long": ({"domain": "a." * 120 + "com"}, "neutral", "s="),
    "no key there": ({"selector": "none"}, "permerror", "there is no key"),
    "part of the body": ({"length": 5}, "policy", "bytes of the body are not signed"),
    "all of the body": ({"length": 17, "forms": "relaxed/relaxed"}, "pass", ""),
    "more than the body": ({"length": 18, "forms": "relaxed/relaxed"}, "fail", "shorter"),
    "too long": ({"more": " z=" + "x" * 17000 + ";"}, "neutral", "too long"),
}


@pytest.mark.parametrize("case", SIGNED)
def test_signatures(tmp_path: Path, case: str) -> None:
    how, result, reason = SIGNED[case]
    found = one(tmp_path, sign(MESSAGE, rsa(), **how), rsa().record(NAME))  # type: ignore[arg-type]
    assert found[0] == result, found
    assert reason in found[1]


@pytest.mark.parametrize("tag", ["v", "a", "b", "bh", "d", "h", "s"])
@pytest.mark.parametrize("value", [None, b"", b" ", b"?"])
def test_tags_that_have_to_be_there(tmp_path: Path, tag: str, value: bytes | None) -> None:
    text = sign(MESSAGE, ed25519())
    pattern = rb"(?s)(:|;)\s*%b=[^;]*?(;|\nReceived)" % tag.encode()
    new = rb"\1 \2" if value is None else rb"\1 %b=%b\2" % (tag.encode(), value)
    changed, count = re.subn(pattern, new, text, count=1)
    assert count == 1
    changed = changed.replace(b"; ;", b";").replace(b": ;", b": ")
    result, reason = one(tmp_path, changed, ed25519().record(NAME))
    words = ("permerror", "From") if (tag, value) == ("h", b"?") else ("neutral", "")
    assert result == words[0], reason
    assert words[1] in reason


def der(tag: int, body: bytes) -> bytes:
    size = len(body)
    raw = size.to_bytes(3, "big").lstrip(b"\0")
    return bytes((tag, size) if size < 128 else (tag, 0x80 | len(raw), *raw)) + body


def odd_key(bits: int, exponent: int = 65537) -> str:
    """p= of a key with these numbers (RFC 8017, A.1.1), which nobody has a private one of."""
    numbers = ((1 << bits) - 1, exponent)
    parts = (der(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in numbers)
    return base64.b64encode(der(0x30, b"".join(parts))).decode()


#: The key's record, with p= at its end -> the result, and what is in the reason.
KEYS = {
    "no version": ("k=rsa", "pass", ""),
    "nothing else": ("", "pass", ""),
    "another version": ("v=DKIM2", "permerror", "no key"),
    "testing": ("v=DKIM1; t=y", "pass", ""),
    "not below": ("v=DKIM1; t=y:s", "pass", ""),
    "notes": ("v=DKIM1; n=what=ever", "pass", ""),
    "another algorithm": ("v=DKIM1; k=ed25519", "permerror", "another algorithm"),
    "an unknown algorithm": ("v=DKIM1; k=x", "permerror", "another algorithm"),
    "another hash": ("v=DKIM1; h=sha1", "permerror", "another hash"),
    "two hashes": ("v=DKIM1; h=sha1 : SHA256", "pass", ""),
    "another service": ("v=DKIM1; s=tlsrpt", "permerror", "not for mail"),
    "two services": ("v=DKIM1; s=tlsrpt:email", "pass", ""),
    "all services": ("v=DKIM1; s=*", "pass", ""),
    "a tag twice": ("v=DKIM1; k=rsa; k=rsa", "permerror", "no key"),
}


@pytest.mark.parametrize("case", KEYS)
def test_records(tmp_path: Path, case: str) -> None:
    tags, result, reason = KEYS[case]
    text = quoted(f"{tags}; p={rsa().public()}".removeprefix("; "))
    (found,) = check(tmp_path, sign(MESSAGE, rsa()), f"{NAME} TXT {text}")
    assert found.result == result, found.reason
    assert reason in found.reason
    assert found.testing == ("t=y" in tags and result == "pass")


#: p= -> the result, and what is in the reason.
PUBLIC = {
    "revoked": ("", "permerror", "revoked"),
    "no base64": ("?", "permerror", "makes no sense"),
    "half of a character": ("AAAAA", "permerror", "makes no sense"),
    "garbage": ("AAAA", "permerror", "makes no sense"),
    "512 bits": (odd_key(512), "policy", "512 bits, too few"),
    "1023 bits": (odd_key(1023), "policy", "1023 bits, too few"),
    "1024 bits, of somebody else": (odd_key(1024), "fail", "does not fit"),
    "8192 bits, of somebody else": (odd_key(8192), "fail", "does not fit"),
    "16384 bits": (odd_key(16384), "policy", "16384 bits, too many"),
    "a long record": (odd_key(65536), "permerror", "no key"),
    "a long exponent": (odd_key(2048, (1 << 2040) + 1), "policy", "exponent"),
    "no exponent": (odd_key(1024, 0), "permerror", "makes no sense"),
}


@pytest.mark.parametrize("case", PUBLIC)
def test_keys(tmp_path: Path, case: str) -> None:
    public, result, reason = PUBLIC[case]
    zone = f"{NAME} TXT {quoted('v=DKIM1; p=' + public)}"
    before = process_time()
    found = one(tmp_path, sign(MESSAGE, rsa()), zone)
    assert process_time() - before < 2
    assert found[0] == result, found
    assert reason in found[1]


def test_the_form_of_older_keys(tmp_path: Path) -> None:
    """An RSAPublicKey alone (RFC 8017), as RFC 6376 has it in its text."""
    zone = f"{NAME} TXT {quoted('p=' + rsa().public('PKCS1'))}"
    assert one(tmp_path, sign(MESSAGE, rsa()), zone) == ("pass", "")


def test_a_key_that_is_not_for_names_below(tmp_path: Path) -> None:
    record = ed25519().record(NAME, "k=ed25519; t=s")
    assert one(tmp_path, sign(MESSAGE, ed25519(), more=" i=@a.com;"), record) == ("pass", "")
    result, reason = one(tmp_path, sign(MESSAGE, ed25519(), more=" i=@x.a.com;"), record)
    assert (result, "not for names below" in reason) == ("permerror", True)


def test_several_records_at_a_name(tmp_path: Path) -> None:
    text = sign(MESSAGE, rsa())
    other = f'{NAME} TXT "v=DKIM1; k=rsa; p="'
    spf = f'{NAME} TXT "v=spf1 -all"'
    assert one(tmp_path, text, spf, other, rsa().record(NAME)) == ("pass", "")
    assert one(tmp_path, text, spf, other, other)[0] == "permerror"
    assert one(tmp_path, text, spf)[1] == "there is no key"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["servfail", "silent", "refused"])
def test_a_dns_that_does_not_say(tmp_path: Path, what: str) -> None:
    result, reason = one(tmp_path, sign(MESSAGE, rsa()), f"{NAME} DO {what}")
    assert result == "temperror"
    assert reason.startswith("DNS ")


def test_a_name_that_is_an_alias(tmp_path: Path) -> None:
    zone = f"{NAME} CNAME key.b.com", ed25519().record("key.b.com")
    assert one(tmp_path, sign(MESSAGE, ed25519()), *zone) == ("pass", "")


# -- hostile -------------------------------------------------------------------


def test_five_hundred_signatures(tmp_path: Path) -> None:
    text = sign(MESSAGE, ed25519())
    field = text[: text.index(b"Received: ")]
    log = tmp_path / "log"
    before = process_time()
    with log.open("wb") as file:
        found = check(tmp_path, field * 499 + text, ed25519().record(NAME), log=file.fileno())
    assert process_time() - before < 5
    assert [one.result for one in found] == ["pass"] * 8 + ["neutral"] * 492
    assert {one.reason for one in found[8:]} == {"not checked"}
    assert logged(log)[-1]["unchecked"] == "492"
    assert len(check(tmp_path, field * 2 + text, ed25519().record(NAME), DKIM="1")) == 3


@pytest.mark.parametrize(
    "top",
    [
        b"no header line\n",
        b"X: " + b"x" * 300_000 + b"\n",
        b"X: y\n" * 10_000,
        b"A:\n b\n" * 200_000,
    ],
    ids=["no header line", "a long line", "many lines", "many folds"],
)
def test_headers_that_cannot_be_checked(tmp_path: Path, top: bytes) -> None:
    """Below it is a line that is none, or more than is looked at."""
    text = sign(MESSAGE, ed25519())
    place = text.index(b"Received: ")
    before = process_time()
    result, reason = one(tmp_path, text[:place] + top + text[place:], ed25519().record(NAME))
    assert process_time() - before < 5
    assert (result, "no end, or a line" in reason) == ("permerror", True)


def test_what_is_signed_often_costs_no_more(tmp_path: Path) -> None:
    """A header of 200 KB, eight signatures that name all of its fields often."""
    header = b"From: a@a.com\n" + b"X: " + b" \t" * 10_000 + b"\n" + b"X: y\n" * 900
    text = header + b"\n" + b"x\n"
    for _ in range(8):
        text = sign(
            text, ed25519(), headers="From:" + "X:" * 50 + "X", more=" z=" + "x" * 9_000 + ";"
        )
    before = process_time()
    results = [found.result for found in check(tmp_path, text, ed25519().record(NAME))]
    assert process_time() - before < 5
    assert results == ["pass"] * 8


@pytest.mark.slow
@pytest.mark.parametrize("piece", [b"\n", b" ", b" \n", b"x", b"\t \r\n", b"\0"])
def test_a_body_of_some_megabytes(tmp_path: Path, piece: bytes) -> None:
    """In a time and with memory that are those of its length."""
    import tracemalloc

    body = piece * (3_000_000 // len(piece)) + b"end\n"
    text = b"From: a@a.com\n\n" + body
    text = sign(sign(text, ed25519()), ed25519(), forms="relaxed/simple")
    with tempfile.TemporaryFile(buffering=0) as file, DnsServer(ed25519().record(NAME)) as dns:
        file.write(text)
        del text, body
        plugin = build("dkim", tmp_path, DKIM="", DNSCACHEIP=dns.where)
        message, envelope = Message(), Envelope(b"")
        message.file = file
        before = process_time()
        tracemalloc.start()
        plugin.data_post(client(), envelope, message)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert [found.result for found in envelope.notes["dkim"]] == ["pass", "pass"]
    assert process_time() - before < 10
    assert most < 8_000_000


# -- properties ----------------------------------------------------------------

BODIES = st.sampled_from([b"\n", b" ", b"\t", b"x", b" \n", b"\n\n", b"a  b"])
PIECES = st.sampled_from([b"\n", b" ", b"\t", b"x", b"\r", b" \n", b"\n\n\n", b"ab  c", b"\xff"])


@settings(deadline=None, database=None)
@given(st.lists(PIECES, max_size=20), st.lists(st.integers(0, 60), max_size=5), st.integers(0, 30))
def test_forms_of_a_body_however_it_is_cut(
    pieces: list[bytes], cuts: list[int], length: int
) -> None:
    import hashlib

    text = b"".join(pieces)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for relaxed in (False, True):
        form = body_form(text.replace(b"\n", b"\r\n"), "relaxed" if relaxed else "simple")
        found = BodyHash(relaxed, (None, length))
        for start, end in zip(places, [*places[1:], len(text)], strict=True):
            found.feed(text[start:end])
        assert found.digest() == hashlib.sha256(form).digest()
        assert found.digest(length) == hashlib.sha256(form[:length]).digest()
        assert found.size == len(form)


TAGS = st.sampled_from(
    [
        *("v=1", "a=rsa-sha256", "a=ed25519-sha256", "b=AAAA", "bh=AAAA", "d=a.com", "s=s"),
        *("h=From", "c=relaxed/relaxed", "l=5", "t=1", "x=99999999999", "i=@a.com", "q=dns/txt"),
        *("b=", "=", "d=\u00fc.example", "\n ", "v=1;v=1", " ", "x=9" * 30, "l=" + "9" * 76),
    ]
)


@settings(deadline=None, database=None)
@given(
    st.one_of(
        st.lists(TAGS, max_size=14).map(lambda tags: ";".join(tags).encode()),
        st.binary(max_size=200),
    )
)
def test_whatever_a_signature_says(text: bytes) -> None:
    field = b"DKIM-Signature:" + text.replace(b"\n", b"\n ") + b"\n"
    found = SignatureField([(b"dkim-signature", field), (b"from", b"From: x\n")], 0, time())
    assert found.problem is None or found.problem.result in RESULTS
    if found.problem is None:
        assert found.signed([(b"dkim-signature", field)], lambda *_: b"")
    for name in (found.domain, found.key_name):
        assert re.fullmatch(rb"[a-z0-9_.-]*", name)


RECORDS = st.one_of(
    st.binary(max_size=300),
    st.tuples(
        st.sampled_from([b"v=DKIM1;", b"", b"k=ed25519;", b"t=y:s;", b"s=*;", b"h=sha256;"]),
        st.binary(max_size=200).map(base64.b64encode),
    ).map(lambda parts: parts[0] + b"p=" + parts[1]),
)


@settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(RECORDS, max_size=6), st.binary(max_size=300))
def test_whatever_a_record_says(records: list[bytes], signature: bytes) -> None:
    from qsmtpd.filters import dkimkey

    field = SignatureField([(b"dkim-signature", RFC.partition(b"From:")[0])], 0, time())
    for field.algorithm in (b"rsa-sha256", b"ed25519-sha256"):
        field.signature = signature
        try:
            found = dkimkey.keys(records, field)
            dkimkey.verify(found, field, b"x" * 32)
        except Unverified as problem:
            assert problem.result in RESULTS
        else:
            raise AssertionError("a signature by chance?")


@given(st.binary(max_size=60))
def test_lists_of_tags(text: bytes) -> None:
    found = taglist.parse(text)
    if found is not None:
        again = b";".join(name + b"=" + value for name, value in found.items())
        assert taglist.parse(again) == found
    assert taglist.parse(taglist.without_value(b"a=1; b =\n x ;c=2", b"b")) == {
        b"a": b"1",
        b"b": b"",
        b"c": b"2",
    }


# -- settings ------------------------------------------------------------------


def test_who_is_not_checked(tmp_path: Path) -> None:
    plugin = build("dkim", tmp_path, DKIM="0")
    assert plugin.spool is False
    envelope = Envelope(b"")
    assert plugin.data_post(client(), envelope, Message()).verdict == "decline"
    assert envelope.notes == {}
    assert build("dkim", tmp_path, DKIM="").immune == ("relay", "auth", "listed")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsmtpd.filters.libraries._there", set())
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr("site.main", lambda: None)  # it would put that right
    with pytest.raises(ControlError, match="cryptography.*is not there"):
        build("dkim", tmp_path, DKIM="")
    assert build("dkim", tmp_path, DKIM="0").spool is False


def test_a_library_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "qsmtpd.filters.dkimkey", raising=False)
    monkeypatch.delattr("qsmtpd.filters.dkimkey", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ControlError, match="cryptography.*cannot be imported"):
        check(tmp_path, sign(MESSAGE, ed25519()), ed25519().record(NAME))


@settings(
    deadline=None,
    database=None,
    max_examples=settings().max_examples // 2,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_another_library_says_the_same(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """dkimpy, of messages that were signed and then, perhaps, changed."""
    import dkim

    home = tmp_path_factory.mktemp("home")
    (home / "control").mkdir()
    forms = data.draw(st.sampled_from(FORMS[:4]))
    body = b"".join(data.draw(st.lists(BODIES, max_size=8)))
    text = sign(b"From: a@a.com\nX:  y\n\tz \nTo: b\n\n" + body + b"\n", ed25519(), forms=forms,
                headers="From:X:To:To")  # fmt: skip
    # Without a line end at its end dkimpy forgets that blanks there do not count
    place = data.draw(st.integers(text.index(b"From: "), len(text) - 1))
    change = data.draw(st.sampled_from([b"", b"", b" ", b"x", b"\n", b"\t"]))
    text = text[:place] + change + text[place:]
    record = re.sub(r'^.*TXT "|"$', "", ed25519().record(NAME)).encode()
    try:
        theirs = dkim.verify(text, dnsfunc=lambda name, timeout=0: record)
    except dkim.DKIMException:  # a line that is none of a header
        theirs = False
    # A blank before the colon does not count (RFC 6376, 3.4.2); to dkimpy it is no header line.
    assume(not re.search(rb"(?m)^\w+[ \t]+:", text.partition(b"\n\n")[0]))
    result, reason = one(home, text, ed25519().record(NAME))
    assert (result == "pass") is theirs, (text, reason)


def test_a_message_without_a_signature(tmp_path: Path) -> None:
    assert check(tmp_path, MESSAGE) == []
    assert check(tmp_path, b"") == []
    assert check(tmp_path, b"\n") == []


@pytest.fixture(autouse=True)
def control(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir(exist_ok=True)
