"""The macros that go with a command: which, unless the milter names them itself, and their values.

The names are Postfix's defaults (milter_connect_macros and so on), and for connect also
what Postfix has and sends when it is told to.
"""

from __future__ import annotations

from ... import __version__
from .protocol import CONNECT, DATA, END, END_OF_HEADER, HELO, MAIL, RCPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...facts import Client, Envelope

NAMES: Mapping[bytes, Sequence[bytes]] = {
    CONNECT: (
        *(b"j", b"daemon_name", b"daemon_addr", b"v", b"_"),
        *(b"client_addr", b"client_name", b"client_port", b"client_ptr"),
    ),
    HELO: (b"tls_version", b"cipher"),
    MAIL: (
        *(b"i", b"auth_type", b"auth_authen", b"auth_author"),
        *(b"mail_addr", b"mail_host", b"mail_mailer"),
    ),
    RCPT: (b"i", b"rcpt_addr", b"rcpt_host", b"rcpt_mailer"),
    DATA: (b"i",),
    END_OF_HEADER: (b"i",),
    END: (b"i",),
}
UNKNOWN = b"unknown"
VERSION = b"qsmtpd " + __version__.encode("ascii")


def of_client(client: Client) -> dict[bytes, bytes]:
    """What is known of a client."""
    peer = client.peer
    known: dict[bytes, bytes | None] = {
        b"j": peer.local_host,
        b"daemon_name": peer.local_host,
        b"daemon_addr": peer.local_ip,
        b"daemon_port": peer.local_port,
        b"v": VERSION,
        b"_": b"%b [%b]" % (peer.host, peer.ip),
        b"client_addr": peer.ip,
        b"client_name": peer.host,
        b"client_port": peer.port,
        b"client_ptr": peer.host,
        b"tls_version": None if client.tls is None else client.tls.protocol,
        b"cipher": None if client.tls is None else client.tls.cipher,
        b"auth_type": None if client.auth is None else client.auth.mechanism,
        b"auth_authen": None if client.auth is None else client.auth.user,
    }
    return {name: value for name, value in known.items() if value is not None}


def of_envelope(
    client: Client, envelope: Envelope, id: bytes, recipient: bytes | None = None
) -> dict[bytes, bytes]:
    """What is known of a transaction, whose `id` this is, and of a recipient."""
    sender = envelope.sender
    known = {
        b"i": id,
        b"mail_addr": sender,
        b"mail_host": sender.rpartition(b"@")[2],
        b"mail_mailer": b"smtp",
    }
    if recipient is not None:
        known[b"rcpt_addr"] = recipient
        known[b"rcpt_host"] = recipient.rpartition(b"@")[2]
        known[b"rcpt_mailer"] = b"local" if client.relay is None else b"smtp"
    return known


def chosen(
    command: bytes, symbols: Mapping[bytes, Sequence[bytes]], known: Mapping[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """Those that go with a command, as far as they are known."""
    names = symbols.get(command, NAMES.get(command, ()))
    return [(name, known[name]) for name in names if name in known]
