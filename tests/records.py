"""TLS records of every kind, which no TLS library would send: RFC 8446, with nothing of qsmtpd."""

from __future__ import annotations

import _socket
import hashlib
import hmac
import ssl
from pathlib import Path

from client import client_context
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ALERT, HANDSHAKE, TEXT = 21, 22, 23
KEY_UPDATE = b"\x18\0\0\x01"  # and a byte: is one wanted in return?


def context(keys: Path) -> ssl.SSLContext:
    """A client's, with TLS 1.3, that writes its secrets to a file."""
    made = client_context(version=ssl.TLSVersion.TLSv1_3)
    made.keylog_filename = str(keys)
    return made


class Records:
    """What a client sends behind the library's back; the library then can only read.

    `keys` is the file of its context; it must have sent `sent` records of text.
    """

    def __init__(self, tls: ssl.SSLSocket, keys: Path, sent: int = 0) -> None:
        assert tls.cipher()[0] == "TLS_AES_256_GCM_SHA384"  # type: ignore[index]
        lines = [line.split() for line in keys.read_text().splitlines()]
        (secret,) = [words[2] for words in lines if words[0] == "CLIENT_TRAFFIC_SECRET_0"]
        self._tls = tls
        self._use(bytes.fromhex(secret))
        self._number = sent

    def record(self, kind: int, text: bytes) -> bytes:
        """One record (5.2)."""
        inner = text + bytes((kind,))
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        number = self._number.to_bytes(12, "big")
        nonce = bytes(a ^ b for a, b in zip(self._iv, number, strict=True))
        self._number += 1
        return head + self._cipher.encrypt(nonce, inner, head)

    def key_update(self, wanted: bool) -> bytes:
        """A KeyUpdate; what comes after it is encrypted with the new key (4.6.3)."""
        record = self.record(HANDSHAKE, KEY_UPDATE + bytes((wanted,)))
        self._use(_expand(self._secret, b"traffic upd", 48))
        return record

    def send(self, data: bytes) -> bool:
        """Past the library; False: the other side is gone."""
        try:
            _socket.socket.sendall(self._tls, data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(_expand(secret, b"key", 32))
        self._iv = _expand(secret, b"iv", 12)
        self._number = 0


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (7.1), up to one block."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0"
    return hmac.digest(secret, info + b"\x01", hashlib.sha384)[:size]
