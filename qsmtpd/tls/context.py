"""The OpenSSL context for TLS in this process: certificates, versions, ciphers, SNI, ALPN."""

from __future__ import annotations

import os

from . import Unavailable
from .settings import Pair, TlsSettings, find_pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from OpenSSL import SSL, crypto

#: The maximum number of contexts for names that are made before the first connection.
NAMES_LIMIT = 1000
#: Names that may become part of a path: a host name, and nothing else.
_HOST = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-.")
_CRL_END = b"-----END X509 CRL-----"


def keep(settings: TlsSettings) -> SSL.Context:
    """The context of these settings, built once for all who share `settings.kept`.

    Raises Unavailable.
    """
    context = settings.kept_context()
    if context is None:
        context = build(settings)
        settings.kept[settings.identity(), b""] = context
    return context


def keep_names(settings: TlsSettings) -> list[tuple[bytes, Unavailable]]:
    """For a server: have the contexts of SNI as well; what is wrong with which."""
    wrong = []
    try:
        names = sorted(os.listdir(settings.names))[:NAMES_LIMIT]
    except OSError:
        return []
    for name in names:
        try:
            _keep_name(settings, name)
        except Unavailable as error:
            wrong.append((name, error))
    return wrong


def _keep_name(settings: TlsSettings, name: bytes) -> SSL.Context | None:
    """The context for a name of SNI, or None where it has no certificate."""
    place = (settings.identity(), name)
    context = settings.kept.get(place)
    if context is None:
        pairs = find_pairs(settings.names + b"/" + name)
        if not pairs:
            return None
        context = settings.kept[place] = build(settings, pairs)
    return context  # type: ignore[return-value]  # what is kept is a context


def build(settings: TlsSettings, pairs: list[Pair] | None = None) -> SSL.Context:
    """A context with these pairs (default: the settings').  Raises Unavailable.

    `pairs` are for a name of SNI: OpenSSL takes only certificates, keys and
    the client's verification from such a context, all else from the first.
    """
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    # A cold child serves one connection: a ticket or a cached session would
    # never meet its context again.  A warm process must not resume what another
    # has begun: who the client is, is found out anew each time.  (pyOpenSSL
    # cannot turn off the two stateful tickets of TLS 1.3; they are of no use.)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    try:
        _set_versions_and_ciphers(context, settings)
        for pair in settings.pairs if pairs is None else pairs:
            _add(context, pair)
        if settings.client_ca is not None:
            _ask_for_a_certificate(context, settings.client_ca, settings.client_crl)
    except (SSL.Error, OSError, ValueError) as error:
        raise Unavailable(explain(error)) from error
    except (AttributeError, TypeError) as error:
        raise Unavailable(f"pyOpenSSL is too old for what is configured: {error}") from error
    if pairs is None:
        if not settings.pairs:
            raise Unavailable("there is no certificate")
        context.set_tlsext_servername_callback(lambda c: _choose(c, settings))
        context.set_alpn_select_callback(lambda c, offers: _select(offers, settings.require_alpn))
    return context


def _set_versions_and_ciphers(context: SSL.Context, settings: TlsSettings) -> None:
    from OpenSSL import SSL

    versions = {
        "TLSv1": SSL.TLS1_VERSION,
        "TLSv1.1": SSL.TLS1_1_VERSION,
        "TLSv1.2": SSL.TLS1_2_VERSION,
        "TLSv1.3": SSL.TLS1_3_VERSION,
    }
    context.set_min_proto_version(versions[settings.minimum])
    # OpenSSL keeps the ciphers of TLS 1.3 apart; they all begin with TLS_.
    names = (settings.ciphers or b"").split(b":")
    new = b":".join(name for name in names if name.startswith(b"TLS_"))
    old = b":".join(name for name in names if name and not name.startswith(b"TLS_"))
    if new:
        context.set_tls13_ciphersuites(new)
    if settings.minimum in ("TLSv1", "TLSv1.1"):
        # OpenSSL 3 and later do these only at security level 0.
        old = (old or b"DEFAULT") + b":@SECLEVEL=0"
    if old:
        context.set_cipher_list(old)


def _add(context: SSL.Context, pair: Pair) -> None:
    from OpenSSL import SSL

    problem = pair.problem()
    if problem is not None:
        raise Unavailable(problem)
    try:
        context.use_certificate_chain_file(os.fsdecode(pair.certificate))
        context.use_privatekey_file(os.fsdecode(pair.key))
        context.check_privatekey()
    except SSL.Error as error:
        raise Unavailable(f"{os.fsdecode(pair.certificate)}: {explain(error)}") from error


def _ask_for_a_certificate(context: SSL.Context, ca: bytes, crl: bytes | None) -> None:
    from OpenSSL import SSL, crypto

    context.load_verify_locations(os.fsdecode(ca))
    # The names of the authorities that we know, for a client with several certificates.
    with open(ca, "rb") as stream:
        for authority in _certificates(stream.read()):
            context.add_client_ca(authority)
    if crl is not None:
        from cryptography import x509

        store = context.get_cert_store()
        assert store is not None
        flags = crypto.X509StoreFlags
        store.set_flags(flags.CRL_CHECK | flags.CRL_CHECK_ALL)  # intermediate ones as well
        with open(crl, "rb") as stream:
            for part in stream.read().split(_CRL_END)[:-1]:
                store.add_crl(x509.load_pem_x509_crl(part + _CRL_END + b"\n"))
    # A certificate that is not good does not end the handshake: it gives no
    # right.  A callback that says yes makes OpenSSL forget the error, so it is
    # remembered with the connection (see openssl.py).
    context.set_verify(SSL.VERIFY_PEER, _remember)


def _certificates(pem: bytes) -> list[crypto.X509]:
    from cryptography import x509
    from OpenSSL import crypto

    return [
        crypto.X509.from_cryptography(certificate)
        for certificate in x509.load_pem_x509_certificates(pem)
    ]


def _remember(
    connection: SSL.Connection, certificate: object, error: int, depth: int, ok: int
) -> bool:
    connection.get_app_data().verified.append(error)  # 0: this one is good
    return True


def _choose(connection: SSL.Connection, settings: TlsSettings) -> None:
    """SNI: the certificate of the name that the client asks for, if we have one.

    Any other name gets the default certificate: clients send odd names, and
    opportunistic ones do not look at it.  This must not raise: pyOpenSSL would
    print it and end the handshake.
    """
    name = folder(connection.get_servername() or b"")
    if name is None:
        return
    try:
        context = _keep_name(settings, name)
        if context is not None:
            connection.set_context(context)
    except Unavailable as error:
        connection.get_app_data().problem = f"{name.decode('ascii')}: {error}"


def folder(name: bytes) -> bytes | None:
    """Which folder of servercerts is for this name of SNI; None where it is no host name.

    RFC 6066, 3 wants it without a dot at its end; some clients send one.
    """
    name = name.lower().removesuffix(b".")
    if not 0 < len(name) <= 253 or not _HOST.issuperset(name):
        return None
    return None if name.startswith(b".") or name.endswith(b".") else name


def _select(offers: list[bytes], required: bool) -> bytes | SSL._NoOverlappingProtocols:
    """ALPN (RFC 7301): `smtp` where it is offered.  Raises to refuse the handshake."""
    from OpenSSL import SSL

    if b"smtp" in offers:
        return b"smtp"
    if required:
        # Raising, not returning b"", makes OpenSSL send no_application_protocol.
        raise Unavailable("the client offers other protocols by ALPN, not smtp")
    return SSL.NO_OVERLAPPING_PROTOCOLS


def explain(error: Exception) -> str:
    """One line: pyOpenSSL's errors hold a list of (library, function, reason)."""
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(reason[-1]) for reason in reasons) or str(error) or type(error).__name__
