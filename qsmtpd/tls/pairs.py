"""Certificates and their keys, as files."""

from __future__ import annotations

from ..config.files import is_entry, read_regular
from ..facts import ControlError

CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
KEYS = (
    b"-----BEGIN PRIVATE KEY-----",
    b"-----BEGIN RSA PRIVATE KEY-----",
    b"-----BEGIN EC PRIVATE KEY-----",
)


class Pair:
    """A certificate with its chain, and its key: two paths, which may be one."""

    __slots__ = ("certificate", "key")

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self.certificate = certificate
        self.key = key

    def problem(self) -> str | None:
        """Why OpenSSL could not use it, as far as a look at the files tells; or None."""
        for path, marks in ((self.certificate, (CERTIFICATE,)), (self.key, KEYS)):
            name = path.decode("ascii", "backslashreplace")
            try:
                text = read_regular(name, path)
            except ControlError as error:
                return f"{name}: {error.reason}"
            if text is None:
                return f"{name}: No such file or directory"
            if marks is KEYS and b"ENCRYPTED" in text:
                return f"{name}: is encrypted, and there is nobody to ask"
            if text.count(b"-----BEGIN ") > text.count(b"-----END "):
                return f"{name}: is cut off"
            if not any(mark in text for mark in marks):
                return f"{name}: holds no {'key' if marks is KEYS else 'certificate'}"
        return None


def find_pairs(folder: bytes) -> list[Pair]:
    """The pairs in a folder: servercert.pem, and servercert2.pem of another key type.

    The key is in serverkey.pem or serverkey2.pem, or in the same file.
    """
    pairs = []
    for number in (b"", b"2"):
        certificate = folder + b"/servercert" + number + b".pem"
        key = folder + b"/serverkey" + number + b".pem"
        if is_entry(certificate):
            pairs.append(Pair(certificate, key if is_entry(key) else certificate))
    return pairs
