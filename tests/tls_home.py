"""What the tests of TLS share."""

from __future__ import annotations

from collections.abc import Callable

from certificates import Certificate
from child import Child

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
Start = Callable[..., Child]


HASH = b"SHA256:" + SERVER.fingerprint.encode()
