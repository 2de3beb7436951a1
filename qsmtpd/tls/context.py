"""The OpenSSL context for TLS in this process: certificates, versions, ciphers, SNI, ALPN."""

from __future__ import annotations

import os

from . import ciphers
from .errors import Unavailable, explain
from .pairs import Pair, find_pairs
from .server_context import ServerContext
from .settings import OLD_VERSIONS, TlsSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from OpenSSL import SSL

#: The maximum number of contexts for names that are made before the first connection.
NAMES_LIMIT = 1000
#: Names that may become part of a path: a host name, and nothing else.
_HOST = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-.")


def keep(settings: TlsSettings) -> ServerContext:
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
    for name in _names(settings):
        try:
            _keep_name(settings, name)
        except Unavailable as error:
            wrong.append((name, error))
    return wrong


def _names(settings: TlsSettings) -> list[bytes]:
    try:
        return sorted(os.listdir(settings.names))[:NAMES_LIMIT]
    except OSError:
        return []


def first_end(settings: TlsSettings) -> str | None:
    """For a server: when the first of the certificates that it keeps expires, and which one."""
    from OpenSSL import crypto

    pairs = list(settings.pairs)
    for name in _names(settings):
        if (settings.identity(), name) in settings.kept:
            pairs += find_pairs(settings.names + b"/" + name)
    ends = []
    for pair in pairs:
        path = os.fsdecode(pair.certificate)
        try:
            with open(pair.certificate, "rb") as stream:
                certificate = crypto.load_certificate(crypto.FILETYPE_PEM, stream.read())
        except (OSError, crypto.Error):
            continue  # replaced since a moment ago
        ends.append(((certificate.get_notAfter() or b"").decode("ascii"), path))
    if not ends:
        return None
    end, path = min(ends)
    return f"{end[:4]}-{end[4:6]}-{end[6:8]} ({path})"


def _keep_name(settings: TlsSettings, name: bytes) -> ServerContext | None:
    """The context for a name of SNI, or None where it has no certificate."""
    place = (settings.identity(), name)
    context = settings.kept.get(place)
    if context is None:
        pairs = find_pairs(settings.names + b"/" + name)
        if not pairs:
            return None
        context = settings.kept[place] = build(settings, pairs)
    return context  # type: ignore[return-value]  # what is kept is a context


def build(settings: TlsSettings, pairs: list[Pair] | None = None) -> ServerContext:
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
    built = ServerContext(context)
    _set_version(context, settings)
    _set_ciphers(built, settings)
    for pair in settings.pairs if pairs is None else pairs:
        _add(context, pair)
    if settings.client_ca is not None:
        from .authorities import ask_for_certificates

        built.wrong += ask_for_certificates(context, settings.client_ca, settings.client_crl)
        built.remarks += [f"{name}: {reason}" for name, reason in built.wrong]
    if pairs is None:
        if not settings.pairs:
            raise Unavailable("there is no certificate")
        context.set_tlsext_servername_callback(lambda c: _choose(c, settings))
        context.set_alpn_select_callback(lambda c, offers: _select(offers, settings.require_alpn))
    return built


def _set_version(context: SSL.Context, settings: TlsSettings) -> None:
    from OpenSSL import SSL

    versions = {
        "TLSv1": SSL.TLS1_VERSION,
        "TLSv1.1": SSL.TLS1_1_VERSION,
        "TLSv1.2": SSL.TLS1_2_VERSION,
        "TLSv1.3": SSL.TLS1_3_VERSION,
    }
    context.set_min_proto_version(versions[settings.minimum])


def _set_ciphers(built: ServerContext, settings: TlsSettings) -> None:
    from OpenSSL import SSL

    old_versions = settings.minimum in OLD_VERSIONS
    try:
        remark = ciphers.choose(built.context, settings.ciphers or b"", old_versions)
    except SSL.Error as error:
        raise Unavailable(f"tlsserverciphers: {explain(error)}") from error
    if remark is not None:
        built.remarks.append(f"tlsserverciphers: {remark}")


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
        named = _keep_name(settings, name)
        if named is not None:
            connection.set_context(named.context)
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
