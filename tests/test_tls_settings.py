"""Settings of TLS, and no setting of TLS stops plain mail."""

from __future__ import annotations

import os
import ssl
import subprocess

import pytest
from client import client_context
from harness import Home, Variables, needs
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from tls_home import SERVER_RSA

from qsmtpd.tls.ciphers import split

#: Can this pyOpenSSL choose the ciphers of TLS 1.3?  (25.2 and later.)
CHOOSES = hasattr(SSL.Context, "set_tls13_ciphersuites")
PLAIN = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<x@ok.example>\r\nDATA\r\n.\r\nQUIT\r\n"


def agreed(home: Home, version: ssl.TLSVersion) -> str:
    """The cipher that a client of this version comes to."""
    with home.talk() as talk:
        talk.reply()
        talk.starttls(client_context(version=version))
        cipher = talk.tls.cipher()
        talk.ask(b"QUIT")
    assert cipher is not None
    return cipher[0]


def warnings(home: Home) -> str:
    check = home.run(b"", "--check")
    assert check.status == 0, check.out
    lines = check.out.decode().splitlines()
    return "\n".join(line for line in lines if line.startswith("warning: "))


@pytest.mark.slow
def test_the_output_of_openssl_ciphers(inside: Home) -> None:
    """A line of over 1000 bytes, with names of TLS 1.3 and many that need what is not there."""
    done = subprocess.run([needs("openssl"), "ciphers", "ALL"], capture_output=True, check=True)
    assert len(done.stdout) > 1000
    (inside.control_dir / "tlsserverciphers").write_bytes(done.stdout)
    assert agreed(inside, ssl.TLSVersion.TLSv1_2).startswith("ECDHE-ECDSA-")
    assert agreed(inside, ssl.TLSVersion.TLSv1_3).startswith("TLS_")
    assert inside.run(PLAIN).codes[-2:] == [250, 221]
    said = warnings(inside)
    assert "DHE-RSA-AES256-GCM-SHA384" in said.partition("(there are no parameters for DHE")[0]
    assert "(there are no shared secrets)" in said
    assert "ECDHE-RSA-AES256-GCM-SHA384" in said.partition("(there is no certificate with")[0]


@pytest.mark.slow
def test_a_list_of_several_lines(inside: Home) -> None:
    """As the qmail-tls patch reads it; blanks, a CR and OpenSSL's other separators do no harm."""
    inside.control(
        "tlsserverciphers",
        "# ours",
        "ECDHE-ECDSA-AES128-GCM-SHA256 \t",
        "",
        "TLS_CHACHA20_POLY1305_SHA256\r",
        "ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-ECDSA-CHACHA20-POLY1305;!MD5\r",
    )
    assert agreed(inside, ssl.TLSVersion.TLSv1_2) == "ECDHE-ECDSA-AES128-GCM-SHA256"
    if CHOOSES:
        assert agreed(inside, ssl.TLSVersion.TLSv1_3) == "TLS_CHACHA20_POLY1305_SHA256"
    assert "never used" not in warnings(inside)


NAMES = (
    *("HIGH:NO-SUCH:TLS_NO_SUCH", "TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    "!SRP",
)


@pytest.mark.slow
def test_ciphers_that_are_never_used(inside: Home) -> None:
    inside.control("tlsserverciphers", *NAMES)
    said = warnings(inside)
    unknown = "NO-SUCH, TLS_NO_SUCH" if CHOOSES else "NO-SUCH"
    assert f"never used: {unknown} (OpenSSL does not know them" in said
    assert ("those of TLS 1.3 are dropped" in said) != CHOOSES
    assert "never used: ECDHE-RSA-AES128-GCM-SHA256 (there is no certificate" in said
    SERVER_RSA.save(inside.control_dir / "servercert2.pem")
    assert "ECDHE-RSA" not in warnings(inside)
    inside.control("tlsminimum", "TLSv1.3")
    assert "(they are for older versions than tlsminimum)" in warnings(inside)


@given(st.lists(st.sampled_from(["TLS_AES_128_GCM_SHA256", "AES128-SHA", "!MD5", "HIGH", ""])))
def test_every_name_is_in_one_of_two_lists(names: list[str]) -> None:
    for separator in (":", " ", ",", ";", "\t", "::", ":\r:"):
        new, old = split(separator.join(names).encode())
        assert [name for name in names if name.startswith("TLS_")] == [n.decode() for n in new]
        kept = [name for name in names if name and not name.startswith("TLS_")]
        assert kept == [n.decode() for n in old]


def test_a_library_that_cannot_choose_for_tls13() -> None:
    """pyOpenSSL before 25.2: those names are dropped, and that is said."""
    from qsmtpd.tls.ciphers import choose

    class Context:
        ciphers = b""

        def set_cipher_list(self, text: bytes) -> None:
            self.ciphers = text

    context = Context()
    remark = choose(context, b"TLS_AES_128_GCM_SHA256:AES128-SHA", False)  # type: ignore[arg-type]
    assert context.ciphers == b"AES128-SHA"
    assert remark is not None and "dropped" in remark


BROKEN: list[tuple[Variables, dict[str, str]]] = [
    ({"TLSCIPHERS": "A" * 20_000}, {}),
    ({"TLSCIPHERS": "A\x01"}, {}),
    ({"TLSCIPHERS": "NO-SUCH"}, {}),
    ({"TLSMINIMUM": "SSLv2"}, {}),
    ({"TLSTIMEOUT": "soon"}, {}),
    ({"TLSALPN": "h2"}, {}),
    ({"STARTTLSINJECTION": "welcome"}, {}),
    ({"SERVERCERT": "A" * 2000}, {}),
    ({"QSMTPD_TLS": "startls"}, {}),
    ({}, {"tlsminimum": "1.2"}),
    ({}, {"tlstimeout": ""}),
    ({}, {"tlsserverciphers": "x" * 20_000}),
    ({}, {"servercert.pem": "nonsense"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("environ", "files"), BROKEN, ids=lambda value: str(value)[:30])
def test_no_setting_stops_plain_mail(
    inside: Home, environ: Variables, files: dict[str, str]
) -> None:
    for name, text in files.items():
        inside.control(name, text)
    run = inside.run(PLAIN.replace(b"MAIL", b"STARTTLS\r\nMAIL"), **environ)
    assert run.codes[2] in (454, 502)
    assert run.codes[-2:] == [250, 221] and len(inside.messages()) == 1
    assert run.event("tls")["verdict"] == "unavailable"
    check = inside.run(b"", "--check", **environ)
    assert check.status == 0 and b"warning: tls: " in check.out
    # Where TLS is required nothing else is to be had.
    check = inside.run(b"", "--check", FORCETLS="1", **environ)
    assert check.status == 1
    run = inside.run(PLAIN, FORCETLS="1", **environ)
    assert run.codes == [421] or run.codes[2] == 530
    assert len(inside.messages()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["servercert.pem", "serverkey.pem", "tlsminimum", "tlsclients"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "nowhere"])
def test_what_is_no_file_stops_no_mail(inside: Home, name: str, kind: str) -> None:
    """And nobody waits for it."""
    path = inside.control_dir / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    run = inside.run(PLAIN)
    assert run.codes[-2:] == [250, 221]
    assert b"STARTTLS" not in run.out or name == "tlsclients"


@pytest.mark.slow
def test_a_key_far_behind_its_certificate(inside: Home) -> None:
    """Comments, and a chain: the key need not be in the first part of the file."""
    path = inside.control_dir / "servercert.pem"
    before, begin, key = path.read_bytes().partition(b"-----BEGIN PRIVATE KEY")
    path.write_bytes(before + b"# x\n" * 50_000 + begin + key)
    assert path.stat().st_size > 200_000
    assert agreed(inside, ssl.TLSVersion.TLSv1_3).startswith("TLS_")
