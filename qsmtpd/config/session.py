"""What a session allows: every setting but those of TLS and of the plugins.

They are here, and not in the rooms that they are for, because most sessions
enter none of those: what is not imported costs a cold start nothing.
"""

from __future__ import annotations

from ..facts import ControlError
from ..smtp import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Peer
    from ..tls.settings import TlsSettings
    from .settings import Settings

AUTH_LIMIT = 12288  # bytes of a response in base64 (RFC 4954, 4)


class Limits:
    """What a session allows.  Raises ControlError."""

    __slots__ = (
        "greeting",
        "localiphost",
        "timeout",
        "session",
        "line",
        "address",
        "recipients",
        "soft_errors",
        "max_errors",
        "error_delay",
        "max_junk",
        "data",
        "tls",
        "auth",
    )

    def __init__(self, settings: Settings, tls: TlsSettings, auth: AuthSettings) -> None:
        self.tls = tls
        self.auth = auth
        me = settings.line("me")
        greeting = settings.line("smtpgreeting")
        localiphost = settings.line("localiphost")
        self.localiphost = me if localiphost is None else localiphost
        self.timeout = settings.number("timeoutsmtpd", "TIMEOUTSMTPD", 1200, least=1)
        self.session = settings.number("sessiontimeout", "SESSION_TIMEOUT", 86400, least=1)
        self.line = settings.number("maxcmdlen", "MAXCMDLEN", 2048, least=512)
        self.address = settings.number("maxaddrlen", "MAXADDRLEN", 900, least=256)
        self.recipients = settings.number("maxrecipients", "MAXRECIPIENTS", 1000, least=1)
        self.soft_errors = settings.number("softerrors", "SOFTERRORS", 10)
        self.max_errors = settings.number("maxerrors", "MAXERRORS", 20)
        self.error_delay = settings.number("errordelay", "ERRORDELAY", 1)
        self.max_junk = settings.number("maxjunk", "MAXJUNK", 100)
        self.data = DataSettings(settings)
        if me is None and greeting is None:
            raise ControlError("control/me", "is missing")
        self.greeting = greeting or me or b""


class DataSettings:
    """The limits of a message.  Raises ControlError."""

    __slots__ = ("databytes", "max_hops", "min_rate", "bare_lf", "fill_header", "too_big")

    def __init__(self, settings: Settings) -> None:
        self.databytes = settings.number("databytes", "DATABYTES", 0)
        self.max_hops = settings.number("maxhops", "MAXHOPS", 100, least=1)
        self.min_rate = settings.number("mindatarate", "MINDATARATE", 500)
        fill = settings.choice("submissionheader", "SUBMISSIONHEADER", ("leave", "fill"))
        self.fill_header = fill == "fill"
        self.bare_lf = settings.choice("barelf", "BARELF", ("reject", "reject-all", "normalize"))
        self.too_big = replies.TOO_BIG
        if b"REPLY_MAXSIZE" in settings.environ:
            from .wording import worded

            text, _, status = replies.TOO_BIG.rpartition(b" ")
            self.too_big = worded(settings, text, "REPLY_MAXSIZE") + b" " + status


class QueueSettings:
    """Which program, its environment and its limits.  Raises ControlError."""

    __slots__ = (
        "program",
        "error_fd",
        "write_timeout",
        "timeout",
        "environ",
        "announce",
        "exits",
        "content",
    )

    def __init__(self, settings: Settings) -> None:
        environ = settings.environ
        #: No search in PATH, no arguments; relative to QMAILHOME, our cwd.
        self.program = environ.get(b"QMAILQUEUE") or settings.controls.home + b"/bin/qmail-queue"
        self.error_fd = settings.number("errorfd", "ERROR_FD", 6, least=2)
        if self.error_fd > 9:
            raise ControlError("ERROR_FD", "is no descriptor from 2 to 9")
        self.write_timeout = settings.number("queuewritetimeout", "QUEUEWRITETIMEOUT", 300, least=1)
        self.timeout = settings.number("queuetimeout", "QUEUETIMEOUT", 540, least=1)
        self.announce = settings.choice("queueenv", "QUEUEENV", ("none", "spamcontrol"))
        whose = ("stock", "spamcontrol", "indimail", "sagredo")
        self.exits = settings.choice("queueexits", "QUEUEEXITS", whose)
        self.content = b""  # what is added to the refusal of a content
        if self.exits == "spamcontrol":
            from .wording import worded

            self.content = worded(settings, b"", "REPLY_CONTENT")
        self.environ = environ


class AuthSettings:
    """Whether, how and by whom clients are authenticated.  Raises ControlError.

    `command` is the checkpassword program with its arguments, from our own
    command line.
    """

    __slots__ = (
        "mechanisms",
        "required",
        "in_clear",
        "command",
        "host",
        "krysztof",
        "timeout",
        "delay",
        "max_failures",
        "hide",
        "environ",
    )

    def __init__(self, settings: Settings, command: list[bytes], peer: Peer) -> None:
        self.mechanisms, self.required = _switch(settings.line(None, "SMTPAUTH"))
        in_clear = settings.line("authclear", "AUTHCLEAR")
        self.in_clear = in_clear is not None and in_clear != b"0"
        self.host = peer.local_host
        with_host = settings.choice("authargv", "AUTHARGV", ("program", "host"))
        if with_host == "host" and command:
            self.host, *command = command
        self.command = command
        if not command:
            self.mechanisms = ()  # nobody to ask
        order = settings.choice("cramorder", "CRAMORDER", ("response", "challenge"))
        self.krysztof = order == "challenge"
        self.timeout = settings.number("authtimeout", "AUTHTIMEOUT", 30, least=1)
        self.delay = settings.number("authdelay", "AUTHDELAY", 5)
        self.max_failures = settings.number("maxauthfailures", "MAXAUTHFAILURES", 3, least=1)
        hide = settings.line("authhide", "AUTHHIDE")
        self.hide = hide is not None and hide != b"0"
        self.environ = settings.environ


def _switch(text: bytes | None) -> tuple[tuple[bytes, ...], bool]:
    """SMTPAUTH in SPAMCONTROL's values -> mechanisms in the order announced, and: required?"""
    if text is None or text == b"-":
        return (), False
    required = text.startswith(b"!")
    word = text[1:] if required else text
    if not word:
        return (b"LOGIN", b"PLAIN"), required
    if word.startswith(b"+cram"):
        return (b"LOGIN", b"PLAIN", b"CRAM-MD5"), required
    if word.startswith(b"cram"):
        return (b"CRAM-MD5",), required
    raise ControlError("SMTPAUTH", "is none of '', -, cram, +cram, !, !cram, !+cram")
