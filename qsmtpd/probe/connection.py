"""One TCP connection: lines, segments and TLS, each byte written down as evidence.

Both sides of the program use it: the probe as a client, --listen as a server.
The peer may be hostile.  Every wait has a deadline on the monotonic clock, every
line and the whole of what is received have a limit.
"""

from __future__ import annotations

import socket
import ssl
import warnings
from time import monotonic, sleep
from typing import Any, NoReturn

from .evidence import CLEAR, PEER, PROBE, TLS, Evidence

CHUNK = 16384  # bytes per read: the largest TLS record (RFC 8446, 5.1)
#: The maximum of a line of the peer's (bytes), CRLF included.  RFC 5321, 4.5.3.1.5
#: allows a reply 512, RFC 4954, 4 an AUTH response 12288.
LINE_LIMIT = 12290
#: The maximum that is taken from one connection (bytes).
TOTAL_LIMIT = 1024 * 1024
#: So often what is there at a deadline is read all the same.
LATE = 100
#: Seconds between two segments, so that the peer reads them one by one.
GAP = 0.1
#: The maximum time of a connection, in timeouts of one answer.
PATIENCE = 6


class Trouble(Exception):
    """The conversation cannot go on; the text says why."""


class Closed(Trouble):
    """The peer closed or reset the connection."""


class Silent(Trouble):
    """The peer said nothing in time."""


class Babble(Trouble):
    """A line, or all the lines together, beyond the limit; or not a line of this protocol."""


class HandshakeFailed(Trouble):
    """TLS did not come about."""


class NotTls(HandshakeFailed):
    """The peer sent readable text, this, where its TLS record belongs."""

    def __init__(self, text: bytes) -> None:
        super().__init__("it sent text where its TLS record belongs")
        self.text = text


class Connection:
    """A connected socket, which it owns.

    `timeout` (seconds) bounds each line, each sending and each handshake;
    PATIENCE times that, all of them together.  Methods that wait raise Trouble.
    """

    def __init__(self, sock: socket.socket, evidence: Evidence, timeout: float) -> None:
        self.evidence = evidence
        self.timeout = timeout
        self._socket = sock
        self._end = monotonic() + PATIENCE * timeout
        self._buffer = bytearray()  # received, not used
        self._total = 0
        self._late = 0
        self._deaf = False  # the peer no longer takes what is sent to it
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # A segment is a segment: nothing of ours may be held back or joined.
        # Not every socket is TCP.
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                pass  # the peer has gone already, which the next read will say

    @property
    def layer(self) -> str:
        """CLEAR, or TLS after the handshake."""
        return CLEAR if self._tls is None else TLS

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, or None before the handshake."""
        return self._tls

    def literal(self) -> bytes:
        """Our end as an address literal (RFC 5321, 4.1.3): a name for EHLO that is true."""
        if self._socket.family not in (socket.AF_INET, socket.AF_INET6):
            return b"localhost"
        address = self._socket.getsockname()[0].partition("%")[0].encode()
        return b"[IPv6:%b]" % address if b":" in address else b"[%b]" % address

    def send(self, *segments: bytes) -> None:
        """Send each of these in a segment of its own."""
        for number, segment in enumerate(segments):
            if number:
                sleep(GAP)
            self.evidence.add(PROBE, self.layer, segment)
            if self._tls is None:
                self._put(segment)
            else:
                try:
                    self._tls.write(segment)
                except ssl.SSLError as error:
                    self._fail(Closed(f"TLS ended: {_reason(error)}"))
                self._put(self._outgoing.read())

    def line(self) -> bytes:
        """The next line of the peer's, with its LF."""
        self._look_at_the_clock()
        deadline = self._deadline()
        searched = 0
        while (found := self._buffer.find(b"\n", searched)) < 0:
            if len(self._buffer) >= LINE_LIMIT:
                self.write_off()
                raise Babble(f"a line of more than {LINE_LIMIT} bytes")
            searched = len(self._buffer)
            try:
                self._buffer += self._receive(deadline)
            except Trouble:
                self.write_off()
                raise
        line = bytes(self._buffer[: found + 1])
        del self._buffer[: found + 1]
        self.evidence.add(PEER, self.layer, line)
        return line

    def command(self) -> bytes:
        """The next line without its line end, CRLF or a bare LF."""
        return self.line().removesuffix(b"\n").removesuffix(b"\r")

    def comes(self, seconds: float) -> bool:
        """Does the peer send anything within this time (seconds)?  Raises Closed if it closes."""
        self._look_at_the_clock()
        if self._buffer:
            return True
        try:
            self._buffer += self._receive(min(monotonic() + seconds, self._end))
        except Silent:
            return False
        return True

    def wait_for_close(self, seconds: float) -> None:
        """Wait this long (seconds) for the peer to close: Closed.  What it sends is evidence."""
        deadline = monotonic() + seconds
        try:
            while True:
                self.evidence.add(PEER, self.layer, self._receive(deadline))
        except Silent:
            pass

    def write_off(self) -> bytes:
        """Take what was received and not used, as evidence; return it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        if rest:
            self.evidence.add(PEER, self.layer, rest)
        return rest

    def start_tls(
        self, context: ssl.SSLContext, server_side: bool = False, name: str | None = None
    ) -> None:
        """Shake hands; `name` is for SNI.  Raises HandshakeFailed or another Trouble.

        What the peer has sent in clear, and was not used, goes to TLS as it
        would have from the socket: a probe that dropped it would hide it.
        """
        deadline = self._deadline()
        tls = context.wrap_bio(self._incoming, self._outgoing, server_side, name)
        received = self.write_off()
        begun = False
        while True:
            # A TLS record begins with a byte from 20 to 24 (RFC 8446, 5.1), a
            # reply with a digit.  Behind the first byte anything may come.
            if received[:1].isdigit() and not begun:
                self.evidence.add(PEER, CLEAR, received)
                self._fail(NotTls(received))
            begun = begun or received != b""
            self._incoming.write(received)
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._put(self._outgoing.read())
                received = self._raw(deadline)
            except ssl.SSLError as error:
                self._goodbye()
                self._fail(HandshakeFailed(_reason(error)))
        self._put(self._outgoing.read())
        self._tls = tls
        cipher = tls.cipher()
        self.evidence.note(f"{tls.version()} {cipher[0] if cipher else ''}", TLS)

    def close(self) -> None:
        """Close it, with close_notify inside TLS (RFC 8446, 6.1), waiting for nothing."""
        self.write_off()
        if self._tls is not None:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it wants the peer's close_notify: not awaited
            self._goodbye()
        self._socket.close()

    # -- inside ------------------------------------------------------------

    def _look_at_the_clock(self) -> None:
        """Raise Silent at the end of the connection's time: a peer may say something for ever."""
        if monotonic() >= self._end:
            self._fail(Silent("the whole took too long"))

    def _deadline(self) -> float:
        return min(monotonic() + self.timeout, self._end)

    def _receive(self, deadline: float) -> bytes:
        """The next bytes, decrypted if need be; never b""."""
        if self._tls is None:
            return self._raw(deadline)
        while True:
            try:
                data = self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                self._put(self._outgoing.read())
                self._incoming.write(self._raw(deadline))
                continue
            except ssl.SSLError as error:
                self._fail(Closed(f"TLS ended: {_reason(error)}"))
            if data:
                return data
            self._fail(Closed("it closed the connection"))

    def _raw(self, deadline: float) -> bytes:
        """The next bytes of the socket; never b"".

        What is there at the deadline has come in time: we may have been stopped ourselves.
        """
        left = deadline - monotonic()
        self._late += left <= 0
        if self._late > LATE:
            self._fail(Silent("the whole took too long"))
        try:
            self._socket.settimeout(max(0.0, left))
            data = self._socket.recv(CHUNK)
        except (TimeoutError, BlockingIOError):
            self._fail(Silent("nothing came in time"))
        except OSError as error:
            self._fail(Closed(f"the connection failed: {error.strerror}"))
        if not data:
            self._fail(Closed("it closed the connection"))
        self._total += len(data)
        if self._total > TOTAL_LIMIT:
            self._fail(Babble(f"more than {TOTAL_LIMIT} bytes"))
        return data

    def _put(self, data: bytes) -> None:
        left = self._deadline() - monotonic()
        if left <= 0:
            self._fail(Silent("the whole took too long"))
        try:
            self._socket.settimeout(left)
            self._socket.sendall(data)
        except TimeoutError:
            self._fail(Silent("it does not read what is sent to it"))
        except OSError as error:
            # What it said before it went is still to be read.
            if not self._deaf:
                self.evidence.note(f"sending failed: {error.strerror}", self.layer)
            self._deaf = True

    def _goodbye(self) -> None:
        """Send what TLS has left to say, if it can be sent."""
        try:
            self._socket.settimeout(1)
            self._socket.sendall(self._outgoing.read())
        except OSError:
            pass

    def _fail(self, trouble: Trouble) -> NoReturn:
        self.evidence.note(str(trouble), self.layer)
        raise trouble


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name for what went wrong, such as TLSV1_ALERT_UNKNOWN_CA."""
    return error.reason or type(error).__name__


def connect(host: str, port: int, evidence: Evidence, timeout: float) -> Connection:
    """A connection to the first of the host's addresses that answers.  Raises Closed.

    The name is looked up with the system resolver's own time limits; an address
    has `timeout` (seconds), and all of them PATIENCE times that.
    """
    end = monotonic() + PATIENCE * timeout
    reason: object = "it has no address"
    try:
        for *kind, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            left = end - monotonic()
            if left <= 0:
                break
            try:
                return Connection(_connect(kind, address, min(timeout, left)), evidence, timeout)
            except OSError as error:
                reason = error.strerror or error
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
    raise Closed(f"no connection to {host} port {port}: {reason}")


def _connect(kind: list[Any], address: Any, timeout: float) -> socket.socket:
    sock = socket.socket(*kind)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client's TLS settings: any certificate, any cipher, this version or any.

    The probe wants to know what the peer does, so it is as lenient as OpenSSL
    allows; a sound peer is not.
    """
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    result.check_hostname = False
    result.verify_mode = ssl.CERT_NONE
    result.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        # Python warns of the old versions; they are what is asked for.
        warnings.simplefilter("ignore", DeprecationWarning)
        result.minimum_version = version or ssl.TLSVersion.MINIMUM_SUPPORTED
        result.maximum_version = version or ssl.TLSVersion.MAXIMUM_SUPPORTED
    return result
