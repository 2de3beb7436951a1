"""TLS in this process: pyOpenSSL over memory buffers.

OpenSSL never sees a descriptor: what comes from the client is put into one
buffer, what OpenSSL wants to send is taken from another, so sockets and pipes
both work and every wait has our deadline.
"""

from __future__ import annotations

from time import monotonic

from OpenSSL import SSL, crypto

from ..facts import Tls
from ..net.descriptors import CHUNK, Gone, Timeout
from .errors import HandshakeFailed, WithoutText, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..net.transport import Transport

RECORD = 16384  # bytes of text in a TLS record, at most (RFC 8446, 5.1)
#: Between two bytes of text so often is something read, and so many bytes of it,
#: at most: a record in small segments, session tickets and key updates need less.
TURNS, CIPHERTEXT = 256, 65536
ALERT_TIME = 5.0  # seconds in which a client has to take an alert


class TlsTransport:
    """The transport of a channel through TLS, over another transport."""

    __slots__ = ("_tls", "_below", "_late", "heard", "verified", "problem")

    def __init__(self, context: SSL.Context, below: Transport) -> None:
        self._tls = SSL.Connection(context, None)
        self._below = below
        self._late = b""  # what goes out with the next reply
        self.heard = False  # has anything come?
        self.verified: list[int] = []  # an error number, or 0, for each certificate looked at
        self.problem: str | None = None  # why a name did not get its certificate
        self._tls.set_app_data(self)  # for the callbacks in context.py
        self._tls.set_accept_state()

    def handshake(self, deadline: float) -> None:
        """Raises Gone, Timeout or HandshakeFailed.  An alert is sent where OpenSSL has one."""
        begun = False
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                if begun and monotonic() >= deadline:
                    raise Timeout from None  # always more, and never enough
                begun = True
                self._send(deadline)
                self._receive(deadline)
                continue
            except Exception as error:  # a callback's exception comes through as it is
                self._send_alert(deadline)
                raise HandshakeFailed(explain(error)) from error
            self._late = self._outgoing()
            if self._tls.get_protocol_version_name() != "TLSv1.3":
                self._send(deadline)
            # Else it is tickets (RFC 8446, 4.6.1), which nobody waits for.  Sent by
            # themselves they would hold up the next reply until the client has
            # confirmed them, which it may do 40 ms later (RFC 896, RFC 1122 4.2.3.2).
            return

    def facts(self) -> Tls:
        """What was agreed, and who the client is."""
        tls = Tls(
            protocol=self._tls.get_protocol_version_name().encode("ascii"),
            cipher=(self._tls.get_cipher_name() or "").encode("ascii"),
            sni=self._tls.get_servername(),
            group=self._group(),
        )
        if self.problem is not None:
            tls.remarks.append(self.problem)
        presented = self._tls.get_peer_certificate()
        if presented is None:
            return tls
        tls.fingerprint = _sha256(crypto.dump_certificate(crypto.FILETYPE_ASN1, presented))
        # Verified: OpenSSL looked at the chain and found nothing wrong with any of it.
        if self.verified and not any(self.verified):
            tls.addresses = _addresses(presented)
        else:
            from .authorities import why_not

            tls.unverified = why_not(self.verified)
        return tls

    def _group(self) -> bytes | None:
        """The group of the key exchange; None where pyOpenSSL (before 26.0) or OpenSSL
        (before 3.2) cannot say it, or where there was none, as with RSA in TLS 1.2.
        """
        try:
            return (self._tls.get_group_name() or "").encode("ascii") or None
        except (AttributeError, NotImplementedError, UnicodeEncodeError):
            return None

    def read(self, deadline: float) -> bytes:
        """Up to CHUNK bytes of text; b"" at a proper end, Gone where it is cut off.

        Raises Timeout as well, or WithoutText.
        """
        parts: list[bytes] = []
        size = turns = ciphertext = 0
        try:
            while size <= CHUNK - RECORD:
                try:
                    part = self._tls.recv(RECORD)
                except SSL.WantReadError:
                    if parts:
                        break
                    if turns >= TURNS or ciphertext >= CIPHERTEXT:
                        raise WithoutText from None
                    if turns and monotonic() >= deadline:
                        raise Timeout from None
                    self._answer(deadline)
                    ciphertext += self._receive(deadline)
                    turns += 1
                    continue
                parts.append(part)
                size += len(part)
        except SSL.ZeroReturnError:
            pass  # close_notify
        except SSL.Error as error:
            self._send_alert(deadline)
            raise Gone from error
        self._answer(deadline)
        return b"".join(parts)

    def write(self, data: bytes, deadline: float) -> None:
        """Send all of it.  Raises Gone or Timeout."""
        view = memoryview(data)
        while view:  # never with nothing: OpenSSL takes an empty write for an error
            try:
                view = view[self._tls.send(view[:RECORD]) :]
            except SSL.Error as error:
                self._send_alert(deadline)
                raise Gone from error
            self._send(deadline)

    def close(self, deadline: float) -> None:
        """Send close_notify, and do not wait for the client's.  Raises Gone or Timeout."""
        try:
            self._tls.shutdown()
        except SSL.Error:
            return  # there was an error before: nothing to say
        self._send(deadline)

    def drain(self, wait: bool, rate: int) -> None:
        """Let the client come to its end; what it still sends is not decrypted."""
        self._below.drain(wait, rate)

    def _outgoing(self) -> bytes:
        """What OpenSSL wants to send."""
        parts: list[bytes] = []
        try:
            while True:
                parts.append(self._tls.bio_read(CHUNK))
        except SSL.WantReadError:
            return b"".join(parts)

    def _send(self, deadline: float) -> None:
        """Pass on what OpenSSL wants to send, in one write, and what is late before it."""
        data = self._late + self._outgoing()
        self._late = b""
        if data:
            self._below.write(data, deadline)

    def _answer(self, deadline: float) -> None:
        """While reading: what OpenSSL has to say to the client's, as to a KeyUpdate."""
        data = self._outgoing()
        if data:
            data, self._late = self._late + data, b""
            try:
                self._below.write(data, deadline)
            except Timeout as error:
                raise Gone from error  # half a record: nothing behind it would be understood

    def _receive(self, deadline: float) -> int:
        """Give OpenSSL what comes next; how many bytes that is."""
        data = self._below.read(deadline)
        if not data:
            raise Gone  # without close_notify: cut off
        self.heard = True
        size = len(data)
        while data:
            data = data[self._tls.bio_write(data) :]
        return size

    def _send_alert(self, deadline: float) -> None:
        """After a fatal error: OpenSSL has said why, to the client (RFC 8446, 6.2)."""
        try:
            self._send(min(deadline, monotonic() + ALERT_TIME))
        except (Gone, Timeout):
            pass


def _sha256(data: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(data).hexdigest().encode("ascii")


def _addresses(certificate: crypto.X509) -> tuple[bytes, ...]:
    """The e-mail addresses in the subjectAltName of a certificate."""
    from cryptography import x509

    try:
        parsed = certificate.to_cryptography()
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(name.encode() for name in names.get_values_for_type(x509.RFC822Name))
    except Exception:
        # It has none, or OpenSSL can read it and cryptography cannot, which
        # fails in many ways.  What cannot be read gives no right.
        return ()
