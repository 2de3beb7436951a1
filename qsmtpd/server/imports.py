"""What sessions import when they come to it: the server has it before, so that no process imports.

That takes time, and after an upgrade of the package it would be code that does not fit.
Only what the settings want: each megabyte that the server has costs a process that is
forked from it 0.1 to 0.2 ms (November 2026).
"""

from __future__ import annotations

import os

from ..config.session import UTF8_LOCAL, UTF8_ON
from ..policy.stages import BODY, DATA_POST, HEADER
from ..smtp import utf8
from ..smtp.sasl import MECHANISMS, SCRAM
from ..tls.settings import IMPLICIT, OFF, STARTTLS
from .user import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..config.session import AuthSettings
    from ..session.plan import Plan
    from .options import Options

#: What a session may import from.
_FOLDERS = (
    *("child", "config", "facts", "filters", "net", "net.dns", "net.milter", "policy"),
    *("policy.store", "session", "smtp", "smtp.sasl", "tls"),
)
#: Whatever is set.
_ALWAYS = (
    "fcntl",
    "qsmtpd.child.queue",
    "qsmtpd.config.cdb",
    "qsmtpd.net.drain",
    "qsmtpd.net.ip",
    "qsmtpd.session.chunks",
    "qsmtpd.session.data",
    "qsmtpd.smtp.asciiheader",
    "qsmtpd.smtp.chunk",
    "qsmtpd.smtp.utf8",
)
#: Where something looks at messages.
_INSPECTION = ("qsmtpd.session.inspection", "qsmtpd.session.removals", "qsmtpd.policy.spool")
_PLUGINS = (
    *("faulthandler", "tempfile", "qsmtpd.policy.backend", "qsmtpd.policy.external"),
    *("qsmtpd.policy.lines", "qsmtpd.policy.running", "qsmtpd.policy.timelimit"),
)
_AUTH = (
    *("qsmtpd.facts.rare", "qsmtpd.session.auth", "qsmtpd.session.dovecot"),
    "qsmtpd.smtp.sasl.relay",
)
_SCRAM = ("hashlib", "hmac", "qsmtpd.child.conversation", "qsmtpd.smtp.sasl.scram")
_TLS = (
    *("binascii", "hashlib", "qsmtpd.session.starttls", "qsmtpd.tls.external"),
    "qsmtpd.tls.provider",
)
_OPENSSL = ("OpenSSL.crypto", "cryptography.x509", "qsmtpd.tls.context", "qsmtpd.tls.openssl")
_DNS = ("qsmtpd.net.dns.lookup", "qsmtpd.net.dns.resolver")
_PROGRAM = ("qsmtpd.child.query",)
_STORE = (
    *(f"qsmtpd.policy.store.{name}" for name in ("address", "once", "redis", "sqlite")),
    "qsmtpd.filters.greylistkey",
)
#: Charsets that mail often has.  All that Python knows are 2 MB: those import theirs.
_CHARSETS = (
    *(f"encodings.cp{number}" for number in (1250, 1251, 1252, 1254)),
    *(f"encodings.iso8859_{number}" for number in (2, 9, 15)),
    *("encodings.koi8_r", "encodings.utf_7", "encodings.utf_16_be", "encodings.utf_16_le"),
    *(f"encodings.{name}" for name in ("big5", "gb2312", "gb18030", "gbk")),
    *(f"encodings.{name}" for name in ("euc_kr", "iso2022_jp", "shift_jis")),
)
_MIME = ("unicodedata", "qsmtpd.smtp.mime", *_CHARSETS)
#: QMTP and QMQP hold messages back.
_PACKAGES = ("qsmtpd.policy.spool",)
#: What --check imports late of Python's own.
_CHECK = ("_strptime", "calendar", "encodings.charmap")
#: What filters load with their first client, or their first message.
_FILTERS = {
    "authresults": ("qsmtpd.net.dns.message", "qsmtpd.smtp.authres"),
    "badattachments": _MIME,
    "badheaders": ("qsmtpd.smtp.encodedword", *_MIME),
    "badloadertypes": _MIME,
    "badmimetypes": _MIME,
    "clientlimit": _STORE,
    "dkim": (
        *("hashlib", "qsmtpd.filters.dkimkey", "qsmtpd.filters.dkimsignature"),
        *("qsmtpd.smtp.canonical", *_DNS),
    ),
    "dmarc": ("qsmtpd.filters.dmarcmessage", *_DNS),
    "dnsbl": _DNS,
    "fcrdns": _DNS,
    "greylist": ("qsmtpd.filters.clientlist", "qsmtpd.net.dns.message", *_STORE),
    "headers": ("qsmtpd.smtp.date",),
    "helocheck": _DNS,
    "messagecheck": _PROGRAM,
    "mfdnscheck": _DNS,
    "qmqpqueue": ("qsmtpd.filters.qmqpbackend", "qsmtpd.policy.spool"),
    "rcptcheck": _PROGRAM,
    "recipients": _PROGRAM,
    "rhsbl": _DNS,
    "rspamd": ("binascii", "json", "qsmtpd.smtp.remover"),
    "sendlimits": ("unicodedata", *_STORE),
    "spf": ("qsmtpd.filters.spfquery", *_DNS),
    "spp": _PROGRAM,
}


def at_start(options: Options) -> None:
    """Before the change of user: all there is where that user could import nothing later.

    That is twice the memory, and HUP may switch on whatever there is.  With --check it
    is what that imports, too.
    """
    _import(_ALWAYS)
    if (options.uid, options.gid) == (None, None) or _can_read(options):
        return
    _try(_load_library)
    for tables in (_PLUGINS, _SCRAM, _TLS, _OPENSSL, *_FILTERS.values()):
        _try_each(tables)
    _try_each(_ours(_FOLDERS))
    _try(_import_idna)
    if options.check:
        _try_each((*_CHECK, *_ours(("diagnose",))))


def _ours(folders: Iterable[str]) -> Iterator[str]:
    """All modules of these."""
    top = os.path.dirname(os.path.dirname(__file__))
    for folder in folders:
        for name in sorted(os.listdir(os.path.join(top, *folder.split(".")))):
            if name.endswith(".py"):
                yield f"qsmtpd.{folder}.{name.removesuffix('.py')}"


def of(made: Plan) -> None:
    """What the sessions of a plan want, but for their libraries.  Raises ControlError."""
    settings = made.settings
    if made.plugins.external:
        _import(_PLUGINS)
    own = made.plugins.own()
    looks = any(stage in entry.functions for entry in own for stage in (HEADER, BODY, DATA_POST))
    if looks or made.plugins.external:
        _import(_INSPECTION)
    if made.protocol.name != b"SMTP":
        _import(_PACKAGES)
    if settings.tls.mode != OFF:
        _import(_TLS)
    if settings.auth.mechanisms or settings.auth.dovecot is not None:
        _import(_of_auth(settings.auth))
    for spec in settings.policy.plugins:
        _try_each(_FILTERS.get(spec.plugin, ()))


def _of_auth(auth: AuthSettings) -> list[str]:
    names = [*_AUTH]
    for mechanism in filter(None, map(MECHANISMS.get, auth.mechanisms)):
        names.append(f"qsmtpd.smtp.sasl.{mechanism.file}")
        if mechanism.asks == SCRAM:
            names += _SCRAM
    return names


def for_tls(made: Plan) -> None:
    """The same for TLS in this process.  Raises Unavailable."""
    if made.settings.tls.mode in (STARTTLS, IMPLICIT):
        _load_library()
        _import(_OPENSSL)


def for_utf8(made: Plan) -> None:
    """The same for addresses in UTF-8.  Raises ControlError where the library is not there.

    Where only our own domains are to have them, which is the default, few clients do: the
    first one's process imports the library, with tables of more than a megabyte.
    """
    if made.settings.utf8 == UTF8_ON:
        _import_idna()


def while_serving(made: Plan) -> None:
    """All of that for a rule that is new.  What cannot be had, who wants it says so."""
    for load in (of, for_tls, for_utf8):
        _try(load, made)


def _load_library() -> None:
    from ..tls.provider import load_library

    load_library()


def _import_idna() -> None:
    """With what it imports when it is used: its tables, and the codec punycode."""
    utf8.forms("b\u00fccher.example".encode())


def expect_utf8(made: Plan) -> None:
    """Raises ControlError where that first one would find no library."""
    if made.settings.utf8 == UTF8_LOCAL and not _works(utf8.library):
        utf8.library()


def _can_read(options: Options) -> bool:
    """Can the user of -u read this package, and Python?"""

    def read() -> None:
        become(options)
        for file in (__file__, os.__file__):
            os.listdir(os.path.dirname(file))  # as import does
            os.close(os.open(file, os.O_RDONLY))

    return _works(read)


def _works(what: Callable[[], object]) -> bool:
    """Does this raise nothing?  Tried in a process of its own; False where there is none, too."""
    try:
        pid = os.fork()
        if pid == 0:
            try:
                what()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0
    except OSError:
        return False


def _try_each(names: Iterable[str]) -> None:
    for name in names:
        _try(__import__, name)


def _try(load: Callable[..., object], *what: object) -> None:
    try:
        load(*what)
    except Exception:
        pass  # a library that is not there, or is broken: who wants it, says so


def _import(names: Iterable[str]) -> None:
    for name in names:
        __import__(name)
