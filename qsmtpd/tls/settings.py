"""The settings of TLS, and which of its files are there."""

from __future__ import annotations

import posix as os

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from OpenSSL import SSL

    from ..config.files import ControlFiles
    from ..config.settings import Settings
    from ..facts import Tls

AUTO, OFF, STARTTLS, IMPLICIT = "auto", "off", "starttls", "implicit"
UCSPI, EXTERNAL = "ucspi", "external"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
KEYS = (
    b"-----BEGIN PRIVATE KEY-----",
    b"-----BEGIN RSA PRIVATE KEY-----",
    b"-----BEGIN EC PRIVATE KEY-----",
)
_OF_NOTHING = (
    b"0" * 64,
    b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # SHA-256 of b""
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
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    text = os.read(fd, 1 << 17)
                finally:
                    os.close(fd)
            except OSError as error:
                return f"{name}: {error.strerror}"
            if marks is KEYS and b"ENCRYPTED" in text:
                return f"{name}: is encrypted, and there is nobody to ask"
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
        if _is_there(certificate):
            pairs.append(Pair(certificate, key if _is_there(key) else certificate))
    return pairs


class TlsSettings:
    """What an administrator has said of TLS.  Raises ControlError."""

    __slots__ = (
        "mode",
        "required",
        "client_required",
        "refuse_injection",
        "timeout",
        "ciphers",
        "minimum",
        "require_alpn",
        "pairs",
        "names",
        "client_ca",
        "client_crl",
        "descriptors",
        "kept",
        "_clients",
    )

    def __init__(self, settings: Settings) -> None:
        switch = settings.variable("UCSPITLS")
        self.required = settings.flag("FORCETLS") or switch in (b"!", b"@")
        self.client_required = switch == b"@"
        injection = settings.choice("starttlsinjection", "STARTTLSINJECTION", ("discard", "refuse"))
        self.refuse_injection = injection == "refuse"
        self.timeout = settings.number("tlstimeout", "TLSTIMEOUT", 60, least=1)
        self.ciphers = settings.line("tlsserverciphers", "TLSCIPHERS")
        self.minimum = settings.choice(
            "tlsminimum", "TLSMINIMUM", ("TLSv1.2", "TLSv1.3", "TLSv1.1", "TLSv1")
        )
        self.require_alpn = settings.choice("tlsalpn", "TLSALPN", ("any", "smtp")) == "smtp"
        self.pairs = _pairs(settings)
        self.names = settings.files.path("servercerts")
        self.client_ca = _if_there(settings.files, "clientca.pem")
        self.client_crl = _if_there(settings.files, "clientcrl.pem")
        self._clients = frozenset(_client(entry) for entry in settings.lines("tlsclients") or ())
        self.descriptors = ucspi_descriptors(settings)
        self.mode = self._choose(settings)
        self.kept = settings.files.kept  # a warm server's contexts (see context.py)

    def _choose(self, settings: Settings) -> str:
        switch = settings.variable("UCSPITLS")
        words = (AUTO, OFF, STARTTLS, IMPLICIT, UCSPI, EXTERNAL)
        mode = settings.choice(None, "QSMTPD_TLS", words)
        if mode == AUTO:
            if settings.flag("SMTPS"):
                mode = IMPLICIT
            elif switch not in (None, b"-") and self.descriptors is not None:
                mode = UCSPI
            elif _says_tls(settings):
                mode = EXTERNAL
            else:
                mode = STARTTLS if self.pairs else OFF
        if switch == b"-" and mode in (STARTTLS, UCSPI):
            return OFF
        return mode

    def identity(self) -> tuple[object, ...]:
        """All that a context is made from: equal ones make equal contexts."""
        return (
            tuple((pair.certificate, pair.key) for pair in self.pairs),
            self.ciphers,
            self.minimum,
            self.require_alpn,
            self.names,
            self.client_ca,
            self.client_crl,
        )

    def kept_context(self) -> SSL.Context | None:
        """The context that a warm server has built for such settings, or None."""
        if not self.kept:
            return None
        # What is kept at such a place is a context.
        return self.kept.get((self.identity(), b""))  # type: ignore[return-value]

    @property
    def lists_clients(self) -> bool:
        """Is anybody in control/tlsclients?"""
        return bool(self._clients)

    def judge(self, tls: Tls) -> Tls:
        """Say of a client's certificate whether control/tlsclients names it."""
        # An address without @ is none: it could have the form of a fingerprint.
        tls.listed = tls.fingerprint in self._clients or any(
            b"@" in address and address.lower() in self._clients for address in tls.addresses
        )
        return tls


def fingerprint(text: bytes) -> bytes | None:
    """The SHA-256 of a certificate in hex, in lower case; None for what cannot be one.

    Of no certificate some programs say all zeros (s6-tlsd-io with BearSSL), and
    who takes the hash of nothing has a hash, too.
    """
    text = text.lower()
    if len(text) != 64 or text.strip(b"0123456789abcdef") or text in _OF_NOTHING:
        return None
    return text


def _pairs(settings: Settings) -> list[Pair]:
    certificate = settings.line(None, "SERVERCERT")
    if certificate is None:
        if not any(settings.files.lists(name) for name in ("servercert.pem", "servercert2.pem")):
            return []
        return find_pairs(settings.files.home + b"/control")
    return [Pair(certificate, settings.line(None, "SERVERKEY") or certificate)]


def _is_there(path: bytes) -> bool:
    """Is it, be it a link that leads nowhere?"""
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def _if_there(files: ControlFiles, name: str) -> bytes | None:
    path = files.path(name)
    return path if files.lists(name) and _is_there(path) else None


def _client(entry: bytes) -> bytes:
    """An entry of tlsclients: an address, or `sha256:` and a fingerprint, colons allowed."""
    if entry[:7].lower() == b"sha256:":
        known = fingerprint(entry[7:].replace(b":", b""))
        if known is None:
            raise _bad_client(entry, "is no SHA-256 fingerprint of a certificate")
        return known
    if b"@" not in entry:
        raise _bad_client(entry, "is neither an address nor begins with sha256:")
    return entry.lower()


def _bad_client(entry: bytes, what: str) -> ControlError:
    shown = entry[:80].decode("ascii", "backslashreplace")
    return ControlError("control/tlsclients", f"{shown!r} {what}")


def _says_tls(settings: Settings) -> bool:
    """Does a front end that we know say that the connection is encrypted?

    sslserver and s6-tlsd both set these two; one alone is somebody's leftover.
    """
    protocol = settings.variable("SSL_PROTOCOL") or b""
    return protocol.startswith((b"TLSv1", b"SSLv3")) and bool(settings.variable("SSL_CIPHER"))


def ucspi_descriptors(settings: Settings) -> tuple[int, int, int] | None:
    """(control, read, write) of UCSPI-TLS, or None unless all three are open (ucspi-tls(2))."""
    found = []
    for name in ("SSLCTLFD", "SSLREADFD", "SSLWRITEFD"):
        text = settings.variable(name) or b""
        if not 0 < len(text) <= 6 or not text.isdigit() or int(text) < 3:
            return None
        try:
            os.fstat(int(text))
        except OSError:
            return None
        found.append(int(text))
    return found[0], found[1], found[2]
