"""Signed messages in whole sessions: what is checked is what is delivered, and who says so."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from dkim_signer import Ed25519Key, RsaKey, sign
from dns_server import DnsServer
from harness import Home, needs, wait_for
from listeners import Server

pytestmark = pytest.mark.slow

MESSAGE = (
    b"From: Joe <joe@a.com>\nTo: you\nSubject:  a \t b\n\tc \n"
    b"Date: Thu, 26 Nov 2026 23:00:00 +0000\nMessage-ID: <1@a.com>\n\n"
    b"Hello  you \t\n.\n..dots\n\n  x\t \n\n\n"
)
NAME = "s._domainkey.a.com"
FORMS = ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"]
RSA, ED25519 = RsaKey(2048), Ed25519Key()
KEYS: dict[str, Any] = {"rsa": RSA, "ed25519": ED25519}
WAYS = ["DATA", "BDAT", "BDAT in pieces"]
CHECKED: dict[str, Any] = {"DKIM": "", "AUTHRESULTS": "", "DNSTIMEOUT": "20"}


def commands(text: bytes, way: str, *before: str) -> bytes:
    """A session that sends a message."""
    wire = text.replace(b"\n", b"\r\n")
    lines = ["EHLO client.example", *before, "MAIL FROM:<joe@a.com>", "RCPT TO:<x@ok.example>"]
    start = "".join(line + "\r\n" for line in lines).encode()
    if way == "DATA":
        dotted = re.sub(rb"(?m)^\.", b"..", wire)
        return start + b"DATA\r\n" + dotted + b".\r\nQUIT\r\n"
    size = len(wire) if way == "BDAT" else 7
    pieces = [wire[place : place + size] for place in range(0, len(wire), size)]
    chunks = [b"BDAT %d\r\n" % len(piece) + piece for piece in pieces]
    return start + b"".join(chunks) + b"BDAT 0 LAST\r\nQUIT\r\n"


def deliver(home: Home, text: bytes, key: Any, way: str = "DATA", **environ: str) -> bytes:
    """What the queue program gets, with this key in the DNS."""
    with DnsServer(key.record(NAME)) as dns:
        run = home.run(commands(text, way), **{**CHECKED, "DNSCACHEIP": dns.where, **environ})
    assert run.codes[-1] == 221 and run.codes[-2] == 250, run.out
    return home.messages()[-1].text


def results(text: bytes) -> list[bytes]:
    """The lines of the Authentication-Results on top, which stands above our Received."""
    above, received, _ = text.partition(b"Received: from client.example")
    assert received and above.startswith(b"Authentication-Results: mx.example;\n")
    assert above.count(b"Authentication-Results") == 1
    return re.sub(rb"\n\s+", b" ", above).strip().split(b"; ")[1:]


def verified(text: bytes, key: Any) -> bool:
    """The word of another library about what was delivered."""
    record = quoted_text(key.record(NAME))
    found: bool = dkim.verify(text, dnsfunc=lambda name, timeout=0: record)
    return found


def quoted_text(line: str) -> bytes:
    return "".join(re.findall('"([^"]*)"', line)).encode()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_by_cryptography_alone(home: Home, kind: str, forms: str, way: str) -> None:
    key = KEYS[kind]
    text = sign(MESSAGE, key, forms=forms)
    delivered = deliver(home, text, key, way)
    assert delivered.endswith(b"\n" + text)
    (result,) = results(delivered)
    assert result.startswith(
        b"dkim=pass header.d=a.com header.s=s header.a=" + key.algorithm.encode()
    )
    assert verified(delivered, key)


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("kind", KEYS)
def test_one_flipped_bit(home: Home, kind: str, forms: str) -> None:
    key = KEYS[kind]
    text = sign(MESSAGE, key, forms=forms)
    for part in (b"Joe", b"Hello", b"dots"):
        changed = text.replace(part, part[:-1] + bytes((part[-1] ^ 1,)))
        delivered = deliver(home, changed, key)
        (result,) = results(delivered)
        assert result.startswith(b"dkim=fail "), result
        assert not verified(delivered, key)


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_by_dkimpy(home: Home, kind: str, forms: str, tmp_path: Path) -> None:
    key = KEYS[kind]
    form = PrivateFormat.TraditionalOpenSSL if kind == "rsa" else PrivateFormat.Raw
    encoding = Encoding.PEM if kind == "rsa" else Encoding.Raw
    private = key.private.private_bytes(encoding, form, NoEncryption())
    if kind == "ed25519":
        import base64

        private = base64.b64encode(private)
    header, _, body = forms.partition("/")
    signature = dkim.sign(
        MESSAGE,
        b"s",
        b"a.com",
        private,
        canonicalize=(header.encode(), body.encode()),
        signature_algorithm=key.algorithm.encode(),
    )
    text = signature.replace(b"\r\n", b"\n") + MESSAGE
    (result,) = results(deliver(home, text, key))
    assert result.startswith(b"dkim=pass header.d=a.com"), result


@pytest.fixture
def opendkim(tmp_path: Path) -> Iterator[Callable[[Any, str], Path]]:
    """Starts Debian's opendkim, which signs with a key in some form; its socket."""
    started: list[subprocess.Popen[bytes]] = []

    def start(key: Any, forms: str) -> Path:
        file, socket = tmp_path / "key", tmp_path / "socket"
        file.write_bytes(
            key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        file.chmod(0o600)
        settings = tmp_path / "opendkim.conf"
        settings.write_text(
            f"Mode s\nDomain a.com\nSelector s\nKeyFile {file}\nCanonicalization {forms}\n"
            f"SignatureAlgorithm {key.algorithm}\nSocket local:{socket}\n"
            f"InternalHosts {tmp_path}/hosts\nSyslog no\nPidFile {tmp_path}/pid\n"
            "RequireSafeKeys no\n"
        )
        (tmp_path / "hosts").write_text("192.0.2.0/24\n")
        command = [needs("opendkim"), "-f", "-x", str(settings)]
        started.append(subprocess.Popen(command))
        wait_for(lambda: socket.exists() or started[-1].poll() is not None)
        assert socket.exists()
        return socket

    yield start
    for process in started:
        process.terminate()
        process.wait()


@pytest.mark.interop
@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_by_opendkim(
    home: Home, opendkim: Callable[[Any, str], Path], kind: str, forms: str, way: str
) -> None:
    """It signs as our milter; what it has signed comes again, and is checked."""
    key = KEYS[kind]
    home.control("milters", f"unix:{opendkim(key, forms)}")
    run = home.run(commands(MESSAGE, way))
    assert run.codes[-2:] == [250, 221], run.out
    signed = home.messages()[-1].text
    assert signed.count(b"DKIM-Signature: v=1; a=" + key.algorithm.encode()) == 1
    (home.control_dir / "milters").unlink()
    delivered = deliver(home, signed, key, way)
    assert delivered.endswith(b"\n" + signed)
    (result,) = results(delivered)
    if kind == "ed25519" and forms.startswith("simple/"):
        # What OpenDKIM 2.11 makes then fits no message: dkimpy says so, too.
        assert result.startswith(b"dkim=fail "), result
        assert not verified(signed, key)
        return
    assert result.startswith(b"dkim=pass header.d=a.com"), result
    changed = signed.replace(b"dots", b"dotz")
    (result,) = results(deliver(home, changed, key, way))
    assert result.startswith(b"dkim=fail "), result


@pytest.mark.interop
@pytest.mark.parametrize("forms", FORMS)
def test_a_signature_by_debians_dkimpy(home: Home, forms: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(
        RSA.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    header, _, body = forms.partition("/")
    command = [needs("dkimsign"), "s", "a.com", str(file), "--hcanon", header, "--bcanon", body]
    signed = subprocess.run(command, input=MESSAGE, capture_output=True, check=True).stdout
    signature = signed.replace(b"\r\n", b"\n").partition(b"From: ")[0]
    (result,) = results(deliver(home, signature + MESSAGE, RSA))
    assert result.startswith(b"dkim=pass header.d=a.com"), result


FORGED = (
    b"Authentication-Results: mx.example; dkim=pass header.d=bank.example\n"
    b'authentication-RESULTS : (a\n comment)\n "MX.example" 1; spf=pass\n'
    b"Authentication-Results: mx.other; dkim=pass\n"
    b"Subject: forged\rAuthentication-Results: mx.example; dkim=pass\n"
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("checked", [True, False])
def test_what_others_say_in_our_name(home: Home, checked: bool, way: str) -> None:
    """With the message held back in a file, and as it streams."""
    text = FORGED + sign(MESSAGE, ED25519)
    delivered = deliver(home, text, ED25519, way, QSMTPD_PLUGINS="" if checked else "-dkim")
    _, _, rest = delivered.partition(b"Received: from client.example")
    assert b"mx.example; dkim=pass" not in rest and b"MX.example" not in rest
    assert rest.endswith(
        b"\nAuthentication-Results: mx.other; dkim=pass\nSubject: forged\r\n"
        + sign(MESSAGE, ED25519).partition(b" b=")[0]
        + delivered[delivered.index(b" b=", delivered.index(b"DKIM-Signature:")) :]
    )
    if checked:
        (result,) = results(delivered)
        assert result.startswith(b"dkim=pass header.d=a.com"), result
    else:
        assert delivered.startswith(b"Received: from client.example")


def test_each_removal_is_logged(home: Home) -> None:
    run = home.run(commands(FORGED + MESSAGE, "DATA"), AUTHRESULTS="")
    lines = [line for line in run.events("plugin") if line["plugin"] == "authresults"]
    assert [line["removed"] for line in lines] == [
        "Authentication-Results", "authentication-RESULTS", "Authentication-Results",
    ]  # fmt: skip
    assert lines[0]["value"] == "mx.example; dkim=pass header.d=bank.example"


def test_a_signature_over_what_is_removed_fails(home: Home) -> None:
    """What is checked are the bytes that are delivered."""
    text = sign(FORGED + MESSAGE, ED25519, headers="From:Authentication-Results")
    (result,) = results(deliver(home, text, ED25519))
    assert result.startswith(b"dkim=pass"), result  # over the last one: that of mx.other
    forged = b"Authentication-Results: mx.example; x=y\n"
    text = sign(forged + MESSAGE, ED25519, headers="From:Authentication-Results")
    (result,) = results(deliver(home, text, ED25519))
    assert result.startswith(b"dkim=fail"), result


def test_all_that_is_known_is_in_one_line(home: Home) -> None:
    text = sign(MESSAGE, ED25519)
    zone = (
        ED25519.record(NAME),
        'a.com TXT "v=spf1 ip4:192.0.2.1 -all"',
        '_dmarc.a.com TXT "v=DMARC1; p=reject"',
        "1.2.0.192.in-addr.arpa PTR client.example",
        "client.example A 192.0.2.1",
    )
    with DnsServer("\n".join(zone)) as dns:
        more = {"SPFBEHAVIOR": "3", "DMARCPOLICY": "reject", "FCRDNS": "note"}
        environ = {**CHECKED, **more, "DNSCACHEIP": dns.where}
        run = home.run(commands(text, "DATA"), **environ)
        assert run.codes[-2:] == [250, 221], run.out
        found = home.messages()[-1].text
        above = re.sub(rb"\n\s+", b" ", found.partition(b"Received: ")[0]).split(b"\n")
        (line,) = [line for line in above if line.startswith(b"Authentication-Results")]
        words = [part.partition(b" ")[0] for part in line.split(b"; ")[1:]]
        assert words == [b"iprev=pass", b"spf=pass", b"spf=none", b"dkim=pass", b"dmarc=pass"]
        assert b"dmarc=pass header.from=a.com" in line
        # And without anything that holds the message back but dmarc.
        changed = text.replace(b"Hello", b"Hallo")
        environ |= {"DMARCPOLICY": "none", "QSMTPD_PLUGINS": "-dkim"}
        assert home.run(commands(changed, "BDAT"), **environ).codes[-2:] == [250, 221]
        assert b"dmarc=pass" in home.messages()[-1].text.partition(b"Received: ")[0]


def test_in_warm_processes(home: Home) -> None:
    """One after the other, in turn; nothing of a message is left for the next one."""
    with DnsServer(RSA.record(NAME)) as dns:
        home.environ |= {**CHECKED, "DNSCACHEIP": dns.where}
        with Server(home, "--sessions", "100") as server:
            for count, text in enumerate((sign(MESSAGE, RSA), MESSAGE, sign(MESSAGE, RSA)), 1):
                with server.client() as client:
                    client.reply()
                    *lines, _ = commands(text, "BDAT").split(b"BDAT ", 1)[0].split(b"\r\n")
                    client.answers(*lines)
                    wire = text.replace(b"\n", b"\r\n")
                    client.send(b"BDAT %d LAST\r\n" % len(wire) + wire)
                    assert client.reply().startswith(b"250 ok")
                    assert client.ask(b"QUIT") == b"221 mx.example"
                wait_for(lambda count=count: len(home.messages()) == count)  # type: ignore[misc]
    found = [message.text.partition(b"Received: ")[0] for message in home.messages()]
    assert [b"dkim=pass" in text for text in found] == [True, False, True]
    assert b"dkim=none" in found[1]


def test_clients_that_are_not_checked(home: Home) -> None:
    """Their messages are in no file, either: a program that reads as they come gets them."""
    text = sign(MESSAGE, ED25519)
    delivered = deliver(home, text, ED25519, RELAYCLIENT="", TMPDIR="/nonexistent")
    assert delivered.startswith(b"Received: from client.example")
    delivered = deliver(home, MESSAGE, ED25519, IMMUNE="1", TMPDIR="/nonexistent")
    assert delivered.startswith(b"Received: from client.example")


def test_what_was_added_is_in_the_log(home: Home) -> None:
    text = b"From: joe@a.com\n\nhello\n"
    with DnsServer('a.com TXT "v=spf1 -all"') as dns:
        environ: dict[str, Any] = {**CHECKED, "DNSCACHEIP": dns.where, "SPFBEHAVIOR": "1"}
        run = home.run(commands(text, "DATA"), **environ)
        names = b"Received-SPF,Authentication-Results"
        assert run.event("message")["added"].encode() == names
        above = home.messages()[-1].text.partition(b"Received: from ")[0]
        assert re.findall(rb"(?m)^([\w-]+):", above) == names.split(b",")
        run = home.run(commands(text, "BDAT"), RELAYCLIENT="", SUBMISSIONHEADER="fill", **environ)
        assert run.event("message")["added"] == "Date,Message-ID"
        run = home.run(commands(text, "DATA"))
        assert "added" not in run.event("message")


def test_what_check_says(home: Home) -> None:
    def said(**environ: Any) -> list[str]:
        lines = home.run(b"", "--check", **environ).out.decode().splitlines()
        return [line for line in lines if "cryptography" in line or line.startswith("wrong")]

    (library,) = said(DKIM="")
    assert library.startswith("ok: Python's cryptography = ")
    assert said(DKIM="0") == []
    assert said(DKIM="33")[0].startswith("wrong: DKIM: ")
    home.control("plugins", "authresults", "dkim dkim=4", "dmarc dmarcpolicy=none")
    library, *wrong = said()
    assert sorted([library, *wrong])[1:] == [
        f"wrong: control/plugins: has {name} behind authresults, which then has no result of it"
        for name in ("dkim", "dmarc")
    ]
