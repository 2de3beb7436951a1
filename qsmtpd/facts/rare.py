"""The data classes that only sessions with TLS, with AUTH or with a message need."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from ..decision import Spool


class Tls:
    """What is known of the encryption of a session.

    Of a client certificate, `fingerprint` is its SHA-256 in lower-case hex;
    `addresses` are the e-mail addresses that a verified one certifies, so they
    are empty for one that was not.  `listed`: control/tlsclients names it;
    `user` is the user that is named there, if one is.
    `unverified` is why a certificate was not, if that is known; `remarks` are
    for the log: what is not as configured.
    """

    __slots__ = (
        "protocol",
        "cipher",
        "group",
        "sni",
        "fingerprint",
        "addresses",
        "listed",
        "user",
        "unverified",
        "remarks",
    )

    def __init__(
        self,
        protocol: bytes | None = None,
        cipher: bytes | None = None,
        sni: bytes | None = None,
        fingerprint: bytes | None = None,
        addresses: tuple[bytes, ...] = (),
        group: bytes | None = None,
    ) -> None:
        self.protocol = protocol  # b"TLSv1.3"
        self.cipher = cipher  # OpenSSL's name; that of TLS 1.3 ciphers is IANA's too
        self.group = group  # of the key exchange, as OpenSSL calls it; None: not known
        self.sni = sni
        self.fingerprint = fingerprint
        self.addresses = addresses
        self.listed = False
        self.user: bytes | None = None
        self.unverified: str | None = None
        self.remarks: list[str] = []


class Auth:
    """Who the client has shown to be, and by which SASL mechanism."""

    __slots__ = ("user", "mechanism")

    def __init__(self, user: bytes, mechanism: bytes) -> None:
        self.user = user
        self.mechanism = mechanism


class Message:
    """A message, as far as it has been seen.

    `header` are its lines as (name, value): the name as it was written, the
    value without the space behind the colon, still folded, with LF line ends.
    `whole_header` says that this is all of them, and not just the beginning of
    a header without an end; `broken_header`, that it ends in a line that is none of a header,
    with which the body then begins.  `size` (bytes) and `hops` are final at the stage
    data_post, where `file`, for who asks for it, is the whole message from its
    first line, open for reading, our own Received not in it, and replacement()
    a file for another message in its place.  `first` is then what will stand in front of
    it, with LF line ends: our Received, and what plugins have added up to there.
    `is_held`: nothing of it goes on before data_post, so even then there may be header lines.
    """

    __slots__ = ("header", "whole_header", "broken_header", "size", "hops", "file", "first")
    is_held = False

    def __init__(
        self, header: Sequence[tuple[bytes, bytes]] = (), whole_header: bool = True
    ) -> None:
        self.header = header
        self.whole_header = whole_header
        self.broken_header = False
        self.size = 0
        self.hops = 0
        self.file: BinaryIO | None = None
        self.first = b""

    def rewind(self) -> None:
        """Put `file` back to its beginning, for whoever is shown it next."""
        if self.file is not None:
            self.file.seek(0)

    def replacement(self) -> Spool:
        """A file for another message in the place of this one; ValueError where it is in none."""
        raise ValueError("the message is in no file")

    def values(self, name: bytes) -> list[bytes]:
        """The values of all header lines of this name, in whatever case."""
        if not isinstance(name, bytes):
            raise TypeError("the name of a header line is bytes")
        name = name.lower()
        return [value for found, value in self.header if found.lower() == name]
