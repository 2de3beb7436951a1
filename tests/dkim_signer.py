"""Signs messages (DKIM, RFC 6376) by cryptography alone, with forms made by regular expressions.

    key = RsaKey()
    text = sign(message, key, domain="a.com", selector="s")     # LF line ends
    zone = key.record("s._domainkey.a.com")                     # for dns_server.py

Nothing of it is from the program under test.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HEADERS = "From:To:Subject:Date"


class RsaKey:
    """A key of RSA."""

    algorithm = "rsa-sha256"

    def __init__(self, bits: int = 1024) -> None:
        self.private = rsa.generate_private_key(65537, bits)

    def public(self, form: str = "SubjectPublicKeyInfo") -> str:
        """p= of its record."""
        key = self.private.public_key()
        public = PublicFormat.PKCS1 if form == "PKCS1" else PublicFormat.SubjectPublicKeyInfo
        return base64.b64encode(key.public_bytes(Encoding.DER, public)).decode()

    def record(self, name: str, tags: str = "v=DKIM1; k=rsa") -> str:
        """A line of a zone."""
        return f"{name} TXT {quoted(f'{tags}; p={self.public()}')}"

    def signature(self, digest: bytes, text: bytes, algorithm: str) -> bytes:
        """The signature of a text."""
        form: Any = hashes.SHA1() if algorithm == "rsa-sha1" else hashes.SHA256()
        return self.private.sign(text, padding.PKCS1v15(), form)


class Ed25519Key:
    """A key of Ed25519 (RFC 8463)."""

    algorithm = "ed25519-sha256"

    def __init__(self) -> None:
        self.private = ed25519.Ed25519PrivateKey.generate()

    def public(self) -> str:
        raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return base64.b64encode(raw).decode()

    def record(self, name: str, tags: str = "v=DKIM1; k=ed25519") -> str:
        return f'{name} TXT "{tags}; p={self.public()}"'

    def signature(self, digest: bytes, text: bytes, algorithm: str) -> bytes:
        return self.private.sign(digest)


def quoted(text: str) -> str:
    """A text of a TXT record in strings of at most 255 bytes."""
    return " ".join(f'"{text[place : place + 200]}"' for place in range(0, len(text), 200))


def relaxed_field(field: bytes) -> bytes:
    name, _, value = field.partition(b":")
    value = re.sub(rb"[ \t]+", b" ", re.sub(rb"\r\n", b"", value)).strip(b" ")
    return name.strip(b" \t").lower() + b":" + value


def body_form(body: bytes, form: str) -> bytes:
    """A body with CRLF as it is hashed (RFC 6376, 3.4.3 and 3.4.4)."""
    if form == "relaxed":
        body = re.sub(rb"[ \t]+", b" ", body)
        body = re.sub(rb" (?=\r\n|\Z)", b"", body)
    end = len(body)
    while body[end - 2 : end] == b"\r\n":
        end -= 2
    body = body[:end]
    return b"" if not body and form == "relaxed" else body + b"\r\n"


def sign(
    message: bytes,
    key: Any,
    domain: str = "a.com",
    selector: str = "s",
    forms: str = "relaxed/relaxed",
    headers: str = HEADERS,
    algorithm: str | None = None,
    length: int | None = None,
    more: str = "",
    head: str = "DKIM-Signature: ",
) -> bytes:
    """The message, LF line ends, with a signature on top; `more` are more tags."""
    algorithm = algorithm or key.algorithm
    header, _, body = message.partition(b"\n\n")
    fields = re.split(rb"\n(?![ \t])", header)
    header_form, _, form = forms.partition("/")
    hashed = body_form(body.replace(b"\n", b"\r\n"), form or "simple")
    hashed = hashed if length is None else hashed[:length]
    hash_form = hashlib.sha1 if algorithm == "rsa-sha1" else hashlib.sha256
    digest = base64.b64encode(hash_form(hashed).digest()).decode()
    own = (
        f"{head}v=1; a={algorithm}; c={forms}; d={domain}; s={selector};{more}\n"
        + (f" l={length};" if length is not None else "")
        + f" h={headers};\n\tbh={digest};\n b="
    ).encode()
    texts = []
    left = list(fields)
    for name in headers.lower().encode().split(b":"):
        named = [f for f in left if f.partition(b":")[0].strip(b" \t").lower() == name.strip()]
        if named:
            texts.append(named[-1])
            left.reverse()
            left.remove(named[-1])
            left.reverse()
    crlf = [text.replace(b"\n", b"\r\n") for text in (*texts, own)]
    if header_form == "relaxed":
        crlf = [relaxed_field(text) for text in crlf]
    text = b"\r\n".join(crlf)
    signature = key.signature(hash_form(text).digest(), text, algorithm)
    folded = re.sub(rb"(.{60})", rb"\1\n ", base64.b64encode(signature)).rstrip(b"\n ")
    return own + folded + b"\n" + message
