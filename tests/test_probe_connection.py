"""The probe's own reader and its TLS, on a pair of sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from certificates import Certificate
from hypothesis import given
from hypothesis import strategies as st
from probe_servers import CERTIFICATES

from qsmtpd.probe import connection, x509
from qsmtpd.probe.connection import Babble, Closed, Connection, NotTls, Silent, context
from qsmtpd.probe.evidence import Evidence
from qsmtpd.probe.listen.kinds import GOOD
from qsmtpd.probe.protocol import Reply, read_reply

TIMEOUT = 20.0
DER = ssl.PEM_cert_to_DER_cert(Certificate("localhost").pem.decode())


class Dribbling(Connection):
    """Sends TLS in pieces of seven bytes."""

    def _put(self, data: bytes) -> None:
        for at in range(0, len(data), 7):
            super()._put(data[at : at + 7])


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours, Evidence(), TIMEOUT), theirs


def test_a_handshake_may_come_in_any_pieces() -> None:
    """A digit inside a TLS record is not the beginning of a reply."""
    ours, theirs = socket.socketpair()
    client, server = Connection(ours, Evidence(), TIMEOUT), Dribbling(theirs, Evidence(), TIMEOUT)

    def serve() -> None:
        server.start_tls(CERTIFICATES.contexts[GOOD], server_side=True)
        server.send(b"answer to %b\r\n" % server.command())
        server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    client.start_tls(context(), name="localhost")
    client.send(b"question\r\n")
    assert client.command() == b"answer to question"
    with pytest.raises(Closed):
        client.line()
    client.close()
    thread.join()


def test_text_in_place_of_a_handshake(pair: tuple[Connection, socket.socket]) -> None:
    link, peer = pair
    peer.sendall(b"250 ok\r\n")
    with pytest.raises(NotTls) as caught:
        link.start_tls(context())
    assert caught.value.text == b"250 ok\r\n"


@pytest.mark.parametrize(
    "wire, reply",
    [
        (b"250 ok\r\n", Reply(250, (b"ok",))),
        (b"250\r\n", Reply(250, (b"",))),
        (b"250 ok\n", Reply(250, (b"ok",))),
        (b"250-a\r\n250-b\r\n250 c\r\n", Reply(250, (b"a", b"b", b"c"))),
        (b"250-a\r\n250\r\n", Reply(250, (b"a", b""))),
    ],
)
def test_replies(pair: tuple[Connection, socket.socket], wire: bytes, reply: Reply) -> None:
    link, peer = pair
    peer.sendall(wire)
    assert read_reply(link) == reply


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"650 ok\r\n",
        b" 250 ok\r\n",
        b"250_ok\r\n",
        b"+OK\r\n",
    ]
    + [b"250-a\r\n251 b\r\n", b"250-a\r\nb\r\n", b"x" * 20_000],
)
def test_no_replies(pair: tuple[Connection, socket.socket], wire: bytes) -> None:
    link, peer = pair
    peer.sendall(wire)
    with pytest.raises(Babble):
        read_reply(link)


def test_silence_and_an_end(pair: tuple[Connection, socket.socket]) -> None:
    link, peer = pair
    peer.sendall(b"250 half")
    link.timeout = 0.3
    with pytest.raises(Silent):
        link.line()
    link.timeout = TIMEOUT
    peer.close()
    with pytest.raises(Closed):
        link.line()
    assert b"250 half" in [entry.data for entry in link.evidence.entries()]


def test_what_is_there_at_the_deadline_has_come_in_time(
    pair: tuple[Connection, socket.socket],
) -> None:
    """Who was stopped for longer has not been left without an answer, nor with an open end."""
    link, peer = pair
    link.timeout = 0
    peer.sendall(b"250 ok\r\n")
    assert link.line() == b"250 ok\r\n"
    peer.close()
    with pytest.raises(Closed):
        link.wait_for_close(0)


def test_but_not_for_ever(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, peer = pair
    link.timeout = 0
    monkeypatch.setattr(connection, "CHUNK", 1)
    peer.sendall(b"x" * connection.LATE + b"\n")
    with pytest.raises(Silent):
        link.line()


@pytest.mark.slow
def test_who_says_something_for_ever_is_left_at_the_end_of_the_time() -> None:
    """However the probe listens, and however much is there already."""
    listening: list[Callable[[Connection], object]] = [
        Connection.line,
        lambda link: link.comes(60) and link.write_off(),
        lambda link: link.comes(60) and link.line(),
        read_reply,
    ]
    for listen in listening:
        ours, theirs = socket.socketpair()
        with theirs:
            link = Connection(ours, Evidence(), 0.02)
            theirs.setblocking(False)
            with pytest.raises(Silent):
                while True:
                    theirs.sendall(b"500 x\r\n")
                    listen(link)
            link.close()


def test_keywords() -> None:
    reply = Reply(250, (b"name", b"Size 1000", b"AUTH=LOGIN", b"auth PLAIN", b"STARTTLS"))
    keywords = reply.keywords()
    assert set(keywords) == {b"SIZE", b"AUTH", b"STARTTLS"}
    assert keywords[b"AUTH"].split() == [b"LOGIN", b"PLAIN"]


def test_a_certificate_that_is_none() -> None:
    text, faults = x509.describe(b"\x30\x82garbage", "localhost")
    assert "cannot be read" in text
    assert faults


@pytest.mark.parametrize("version", [3, 4, 0xFF])
def test_a_certificate_of_a_version_that_there_is_not(version: int) -> None:
    """OpenSSL takes it, and a server can show it."""
    other = DER.replace(b"\xa0\x03\x02\x01\x02", bytes((0xA0, 3, 2, 1, version)), 1)
    assert other != DER
    text, faults = x509.describe(other, "localhost")
    assert "cannot be read" in text
    assert faults and "version" in faults[0].lower()


def test_a_certificate_whose_name_has_no_text() -> None:
    """A BIT STRING in place of it: OpenSSL takes that, too."""
    other = DER.replace(b"\x0c\x09localhost", b"\x03\x09\0ocalhost", 1)  # of the issuer
    assert other != DER
    text, faults = x509.describe(other, "localhost")
    assert "cannot be read" in text
    assert faults and faults[0].startswith("TypeError: ")


@given(st.data())
def test_a_certificate_with_errors(data: st.DataObject) -> None:
    der = bytearray(DER)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    x509.describe(bytes(der), "localhost")  # raises nothing


def test_a_certificate_as_an_older_library_reads_it() -> None:
    """cryptography before 42 has its days without a zone."""

    class Old:
        not_valid_before = datetime(2026, 1, 2)
        not_valid_after = datetime(2026, 3, 4)

    first, last = x509._days(Old())  # type: ignore[arg-type]
    assert (first, last) == (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 3, 4, tzinfo=UTC))
