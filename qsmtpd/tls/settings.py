"""The settings of TLS, and which of its files are there."""

from __future__ import annotations

import posix as os

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ..config.files import ControlFiles
    from ..config.settings import Settings
    from ..facts import Tls
    from .pairs import Pair
    from .server_context import ServerContext

    T = TypeVar("T")

AUTO, OFF, STARTTLS, IMPLICIT = "auto", "off", "starttls", "implicit"
UCSPI, EXTERNAL = "ucspi", "external"
MODES = (AUTO, OFF, STARTTLS, IMPLICIT, UCSPI, EXTERNAL)
CIPHERS_LIMIT = 16384  # bytes; `openssl ciphers` prints some 2,000
OLD_VERSIONS = ("TLSv1.1", "TLSv1")
VERSIONS = ("TLSv1.2", "TLSv1.3", *OLD_VERSIONS)


class TlsSettings:
    """What an administrator has said of TLS.

    What cannot be used never stops plain mail: `problem` says why there is no
    TLS then, and `remarks` what is wrong with the list of clients, which leaves
    out what it is about.  Raises ControlError where TLS is required.
    """

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
        "problem",
        "remarks",
        "clients",
    )

    def __init__(self, settings: Settings) -> None:
        switch = settings.variable("UCSPITLS")
        self.required = settings.flag("FORCETLS") or switch in (b"!", b"@")
        self.client_required = switch == b"@"
        wrong: list[ControlError] = []

        def ask(read: Callable[[], T], otherwise: T) -> T:
            return settings.optional(read, otherwise, wrong)

        choice = settings.choice
        actions = ("discard", "refuse")
        injection = ask(lambda: choice("starttlsinjection", "STARTTLSINJECTION", actions), "")
        self.refuse_injection = injection == "refuse"
        self.timeout = ask(lambda: settings.number("tlstimeout", "TLSTIMEOUT", 60, least=1), 60)
        self.ciphers = ask(lambda: _ciphers(settings), None)
        self.minimum = ask(lambda: choice("tlsminimum", "TLSMINIMUM", VERSIONS), VERSIONS[0])
        alpn = ask(lambda: choice("tlsalpn", "TLSALPN", ("any", "smtp")), "")
        self.require_alpn = alpn == "smtp"
        none: list[Pair] = []
        self.pairs = ask(lambda: _pairs(settings), none)
        self.names = settings.files.path("servercerts")
        self.client_ca = _if_there(settings.files, "clientca.pem")
        self.client_crl = _if_there(settings.files, "clientcrl.pem")
        self.descriptors = ucspi_descriptors(settings)
        mode = ask(lambda: choice(None, "QSMTPD_TLS", MODES), AUTO)
        # Who sets something wants TLS, and is told that there is none.
        self.mode = self._choose(settings, mode, bool(self.pairs or wrong))
        if wrong and self.required and self.mode != EXTERNAL:
            raise wrong[0]
        self.problem = f"{wrong[0].name}: {wrong[0].reason}" if wrong else None
        wrong = []
        self.clients = _clients(settings, wrong)
        self.remarks = [(error.name, error.reason) for error in wrong]
        self.kept = settings.files.kept  # a warm server's contexts (see context.py)

    def _choose(self, settings: Settings, mode: str, wanted: bool) -> str:
        switch = settings.variable("UCSPITLS")
        if mode == AUTO:
            if settings.flag("SMTPS"):
                mode = IMPLICIT
            elif switch not in (None, b"-") and self.descriptors is not None:
                mode = UCSPI
            elif _says_tls(settings):
                mode = EXTERNAL
            else:
                mode = STARTTLS if wanted else OFF
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

    def kept_context(self) -> ServerContext | None:
        """The context that a warm server has built for such settings, or None."""
        if not self.kept:
            return None
        # What is kept at such a place is a context.
        return self.kept.get((self.identity(), b""))  # type: ignore[return-value]

    def judge(self, tls: Tls) -> Tls:
        """Say of a client's certificate whether control/tlsclients names it."""
        # An address without @ is none: it could have the form of a fingerprint.
        names = [name.lower() for name in tls.addresses if b"@" in name]
        if tls.fingerprint is not None:
            names.insert(0, tls.fingerprint)
        users = [self.clients[name] for name in names if name in self.clients]
        tls.listed = bool(users)
        tls.user = next(filter(None, users), None)
        tls.remarks += [f"{name}: {reason}" for name, reason in self.remarks]
        if not tls.listed and tls.unverified is not None:
            tls.remarks.append(tls.unverified)
        return tls


def _pairs(settings: Settings) -> list[Pair]:
    certificate, files = settings.line(None, "SERVERCERT"), settings.files
    if certificate is None:
        if not any(files.lists(name) for name in ("servercert.pem", "servercert2.pem")):
            return []
        from .pairs import find_pairs

        return _once(files, "pairs", lambda: find_pairs(files.home + b"/control"))
    from .pairs import Pair

    return [Pair(certificate, settings.line(None, "SERVERKEY") or certificate)]


def _ciphers(settings: Settings) -> bytes | None:
    """The cipher list; the lines of the file are joined, as the qmail-tls patch does it."""
    where, text = "TLSCIPHERS", settings.variable("TLSCIPHERS")
    if text is None:
        where, lines = "control/tlsserverciphers", settings.lines("tlsserverciphers")
        text = None if lines is None else b":".join(lines)
    if text is not None and len(text) > CIPHERS_LIMIT:
        raise ControlError(where, "is too long")
    if text is not None and any(byte < 32 and byte not in b"\t\r" for byte in text):
        raise ControlError(where, "has a control character")
    return text


def _if_there(files: ControlFiles, name: str) -> bytes | None:
    return _once(files, name, lambda: files.path(name) if files.has(name) else None)


def _once(files: ControlFiles, what: str, look: Callable[[], T]) -> T:
    """What look() sees, once for all who share these files: a server's sessions see the same."""
    if what not in files.kept:
        files.kept[what] = look()
    return files.kept[what]  # type: ignore[return-value]  # what is kept here is a T


def _clients(settings: Settings, wrong: list[ControlError]) -> dict[bytes, bytes]:
    """Who is in control/tlsclients, as clients.parse()."""
    entries = settings.optional(lambda: settings.lines("tlsclients"), None, wrong)
    if not entries:
        return {}
    from .clients import parse

    return parse(settings, entries, wrong)


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
