"""The nouns that every room shares.  This file imports nothing."""

from __future__ import annotations


class Peer:
    """Who is there, as the UCSPI server says (see qsmtpd.ucspi).

    Addresses are canonical text or b"unknown"; what the server did not say is
    None, except for the names that a Received line cannot do without.
    """

    __slots__ = ("ip", "port", "host", "info", "local_ip", "local_port", "local_host", "relay")

    def __init__(
        self,
        ip: bytes = b"unknown",
        port: bytes | None = None,
        host: bytes = b"unknown",
        info: bytes | None = None,
        local_ip: bytes | None = None,
        local_port: bytes | None = None,
        local_host: bytes = b"unknown",
        relay: bytes | None = None,
    ) -> None:
        self.ip = ip
        self.port = port
        self.host = host
        self.info = info
        self.local_ip = local_ip
        self.local_port = local_port
        self.local_host = local_host
        self.relay = relay  # RELAYCLIENT: None, or the suffix for every recipient


class Tls:
    """What is known of the encryption of a session.

    Of a client certificate, `fingerprint` is its SHA-256 in lower-case hex;
    `addresses` are the e-mail addresses that a verified one certifies, so they
    are empty for one that was not.  `listed`: control/tlsclients names it.
    `problem` is for the log: what is not as configured.
    """

    __slots__ = ("protocol", "cipher", "sni", "fingerprint", "addresses", "listed", "problem")

    def __init__(
        self,
        protocol: bytes | None = None,
        cipher: bytes | None = None,
        sni: bytes | None = None,
        fingerprint: bytes | None = None,
        addresses: tuple[bytes, ...] = (),
    ) -> None:
        self.protocol = protocol  # b"TLSv1.3"
        self.cipher = cipher  # OpenSSL's name; that of TLS 1.3 ciphers is IANA's too
        self.sni = sni
        self.fingerprint = fingerprint
        self.addresses = addresses
        self.listed = False
        self.problem: str | None = None


class Auth:
    """Who the client has shown to be, and by which SASL mechanism."""

    __slots__ = ("user", "mechanism")

    def __init__(self, user: bytes, mechanism: bytes) -> None:
        self.user = user
        self.mechanism = mechanism


class Client:
    """What one session knows of its client; plugins are given this.

    It is built anew from the Peer when a session begins, and again after
    STARTTLS: nothing that was learnt in clear text survives (RFC 3207, 4.2).
    """

    __slots__ = ("peer", "tls", "auth", "helo", "esmtp", "relay")

    def __init__(self, peer: Peer, tls: Tls | None = None) -> None:
        self.peer = peer
        self.tls = tls
        self.auth: Auth | None = None
        self.helo: bytes | None = None  # the argument of HELO or EHLO, b"" if it had none
        self.esmtp = False  # greeted with EHLO
        self.relay = peer.relay
        if self.relay is None and tls is not None and tls.listed:
            self.relay = b""


class Envelope:
    """The sender and the recipients of the transaction under way."""

    __slots__ = ("sender", "recipients")

    def __init__(self, sender: bytes) -> None:
        self.sender = sender
        self.recipients: list[bytes] = []


class Outcome:
    """How a session ended: a word for the log, and the exit status of the process."""

    __slots__ = ("end", "status")

    def __init__(self, end: str, status: int) -> None:
        self.end = end
        self.status = status


class ControlError(Exception):
    """A setting that cannot be read or makes no sense: its name, and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason
