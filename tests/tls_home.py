"""What the tests of TLS share."""

from __future__ import annotations

from collections.abc import Callable

from certificates import Certificate
from conversation import Conversation

AUTHORITY = Certificate("authority.example")
SERVER = Certificate("mx.example")
SERVER_RSA = Certificate("mx.example", "rsa")
SSLSERVER = (
    b"SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=TLS_AES_256_GCM_SHA384\0SSL_VERSION_INTERFACE=ucspi-ssl\0\0"
)
S6 = (
    b"SSL_PROTOCOL=TLSv1.3\0SSL_CIPHER=TLS_AES_256_GCM_SHA384\0SSL_TLS_SNI_SERVERNAME\0"
    b"SSL_PEER_CERT_HASH\0SSL_PEER_CERT_SUBJECT\0\0"
)
Open = Callable[..., Conversation]


def deliver(conversation: Conversation) -> None:
    """A message, from MAIL to its 250."""
    assert conversation.ask(b"MAIL FROM:<a@b>") == b"250 ok"
    assert conversation.ask(b"RCPT TO:<x@ok.example>") == b"250 ok"
    assert conversation.ask(b"DATA") == b"354 go ahead"
    assert conversation.ask(b"Subject: x\r\n\r\nhi\r\n.").startswith(b"250 ok ")


HASH = b"SHA256:" + SERVER.fingerprint.encode()
