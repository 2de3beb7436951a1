"""The ciphers of control/tlsserverciphers, as OpenSSL wants them: those of TLS 1.3 apart."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from OpenSSL import SSL

#: What may stand between two names: OpenSSL's separators (ciphers(1)), and white space.
_SEPARATORS = bytes.maketrans(b";, \t\r", b":::::")


def split(text: bytes) -> tuple[list[bytes], list[bytes]]:
    """(names of TLS 1.3, everything else) of a cipher list."""
    names = [name for name in text.translate(_SEPARATORS).split(b":") if name]
    # RFC 8446, B.4: these name no key exchange, so nothing is WITH anything.
    new = [name for name in names if name.startswith(b"TLS_") and b"_WITH_" not in name]
    return new, [name for name in names if name not in new]


def choose(context: SSL.Context, text: bytes, old_versions: bool) -> str | None:
    """Have the context use this cipher list; where no name is in it, OpenSSL's own.

    `old_versions`: TLS before 1.2 as well.  Returns what could not be done, or
    None.  Raises SSL.Error where OpenSSL knows none of the names.
    """
    new, old = split(text)
    remark = None
    if new and hasattr(context, "set_tls13_ciphersuites"):
        context.set_tls13_ciphersuites(b":".join(new))
    elif new:
        remark = "those of TLS 1.3 are dropped: pyOpenSSL before 25.2 cannot choose them"
    if old_versions:
        # OpenSSL 3 and later do these only at security level 0.
        old = [*(old or [b"DEFAULT"]), b"@SECLEVEL=0"]
    if old:
        context.set_cipher_list(b":".join(old))
    return remark
