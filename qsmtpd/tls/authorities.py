"""Who may certify clients: control/clientca.pem and clientcrl.pem, and what OpenSSL says of them.

What is wrong with these files takes TLS from nobody: it is said, and then no
client has a verified certificate.
"""

from __future__ import annotations

from OpenSSL import SSL, crypto

from ..config.files import read_regular
from ..facts import ControlError
from .errors import explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cryptography import x509

CERTIFICATE, CRL = b"CERTIFICATE", b"X509 CRL"
#: What reading such a file may raise.
_UNUSABLE = (ControlError, crypto.Error, SSL.Error, ValueError, TypeError)
#: The names of our authorities go into one message of the handshake, and no more
#: than this of them (bytes): it has to be shorter than 64 KB (RFC 8446, 4.2.4).
NAMES_LIMIT = 32768
#: Of the errors in openssl/x509_vfy.h, those that a client's certificate comes to.
_REASONS = {
    2: "the certificate of an issuer is missing",
    3: "there is no revocation list of its issuer",
    4: "the signature cannot be read",
    7: "the signature is wrong",
    8: "the signature of the revocation list is wrong",
    9: "it is not valid yet",
    10: "it has expired",
    11: "the revocation list is not valid yet",
    12: "the revocation list has expired",
    18: "it is self-signed",
    19: "it is signed by an authority that is not in clientca.pem",
    20: "it is signed by an authority that is not in clientca.pem",
    21: "it is signed by an authority that is not in clientca.pem",
    23: "it is revoked",
    24: "an issuer is no authority",
    26: "it is not meant for clients",
    66: "its key is too weak",
    67: "the key of an issuer is too weak",
    68: "a signature is too weak",
}


def ask_for_certificates(
    context: SSL.Context, ca: bytes, crl: bytes | None
) -> list[tuple[str, str]]:
    """Have clients asked for a certificate, and see whether one of these has signed it.

    `ca` and `crl` are paths.  Returns what is wrong with which of the files.
    """
    wrong = []
    store = context.get_cert_store()
    assert store is not None
    try:
        authorities = [
            crypto.load_certificate(crypto.FILETYPE_PEM, part)
            for part in parts("clientca.pem", ca, CERTIFICATE)
        ]
        names = 0
        for authority in authorities:
            store.add_cert(authority)
            # Their names help a client that has several certificates.
            names += len(authority.get_subject().der())
            if names <= NAMES_LIMIT:
                context.add_client_ca(authority)
    except _UNUSABLE as error:
        wrong.append(("clientca.pem", _reason(error)))
    if crl is not None:
        # Of each authority in the chain; and without a list nobody is verified.
        flags = crypto.X509StoreFlags
        store.set_flags(flags.CRL_CHECK | flags.CRL_CHECK_ALL)
        try:
            for revoked in [_load_crl(part) for part in parts("clientcrl.pem", crl, CRL)]:
                store.add_crl(revoked)
        except _UNUSABLE as error:
            wrong.append(("clientcrl.pem", _reason(error)))
    # A certificate that is not good does not end the handshake: it gives no
    # right.  A callback that says yes makes OpenSSL forget the error, so it is
    # remembered with the connection (see openssl.py).
    context.set_verify(SSL.VERIFY_PEER, _remember)
    return wrong


def why_not(errors: list[int]) -> str:
    """Why a client's certificate is not verified, from OpenSSL's numbers for its chain."""
    for error in errors:
        if error:
            return "the client's certificate is not verified: " + _REASONS.get(
                error, f"OpenSSL's error {error}"
            )
    return "the client's certificate is not verified"


def parts(name: str, path: bytes, kind: bytes) -> list[bytes]:
    """The PEM blocks of this kind in a file.  Raises ControlError, where there is none, too."""
    text = read_regular(name, path) or b""
    begin, end = b"-----BEGIN " + kind + b"-----", b"-----END " + kind + b"-----"
    found = []
    for block in text.split(begin)[1:]:
        inside, mark, _ = block.partition(end)
        if not mark:
            raise ControlError(name, "is cut off")
        found.append(begin + inside + end + b"\n")
    if not found:
        raise ControlError(name, f"holds no {kind.decode('ascii')}")
    return found


def _load_crl(part: bytes) -> x509.CertificateRevocationList:
    if hasattr(crypto, "load_crl"):  # pyOpenSSL before 24.3, with an object of its own
        return crypto.load_crl(crypto.FILETYPE_PEM, part)  # type: ignore[no-any-return]
    from cryptography import x509

    return x509.load_pem_x509_crl(part)


def _remember(
    connection: SSL.Connection, certificate: object, error: int, depth: int, ok: int
) -> bool:
    connection.get_app_data().verified.append(error)  # 0: this one is good
    if error:
        _empty_error_queue()
    return True


def _empty_error_queue() -> None:
    """Have OpenSSL forget what is wrong with a certificate that we let pass.

    Of a wrong signature an error stays in its queue, and OpenSSL before 3.2 takes
    that for the outcome of the next call that wants to read (SSL_get_error(3)).
    pyOpenSSL empties the queue when it raises an exception, and only then.
    """
    try:
        crypto.load_certificate(crypto.FILETYPE_PEM, b"")
    except crypto.Error:
        pass


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ControlError) else explain(error)
