"""All settings of a session, read in one place.

Nothing in them is of one client, so sessions with the same configuration can
share them.  They are here, and not where they are used, because most sessions
enter few of those modules: what is not imported costs a cold start nothing.
"""

from __future__ import annotations

from ..decision import reject
from ..facts import ControlError, Reply
from ..log import FORMATS
from ..policy.spec import ALWAYS, BUILT_IN, NOBODY_ACCEPTS, POSTPONE, VARIABLE, PluginSpec
from ..smtp import replies
from ..tls.settings import TlsSettings
from .settings import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..facts import Peer, Tls
    from ..net.dovecotauth import Server
    from ..net.proxyhosts import ProxySettings
    from .settings import Settings

#: SMTPUTF8 (RFC 6531): for our own domains alone, for every recipient, not at all.
UTF8_LOCAL, UTF8_ON, UTF8_OFF = "local", "on", "off"
#: The greatest value that LIMITS can say (RFC 9422, 3: six digits).
SAYABLE_LIMIT = 999_999
QUIT = "quit"  # the end of a session in the log
AUTH_LIMIT = 12288  # bytes of a response in base64 (RFC 4954, 4)


class SessionSettings:
    """The settings of a session: load() them."""

    __slots__ = (
        "me",
        "greeting",
        "greeting_line",
        "hello",
        "goodbye",
        "_ehlo",
        "localiphost",
        "log_format",
        "limits",
        "data",
        "utf8",
        "tls",
        "auth",
        "policy",
        "immune",
        "chunking",
        "enhanced",
    )
    #: What they consist of, each to be made from the lookup alone.
    PARTS: tuple[Callable[[Settings], object], ...]

    def __init__(self, settings: Settings, checkpassword: Sequence[bytes]) -> None:
        self.log_format = settings.choice(None, "LOGFORMAT", tuple(FORMATS))
        self.tls = TlsSettings(settings)
        self.auth = AuthSettings(settings, checkpassword)
        me = self.me = settings.line("me")
        greeting = settings.line("smtpgreeting")
        localiphost = settings.line("localiphost")
        self.localiphost = me if localiphost is None else localiphost
        self.limits = Limits(settings)
        self.data = DataSettings(settings)
        self.utf8 = smtputf8(settings)
        if not (me or greeting):
            what = "is missing" if me is None else "has no name in its first line"
            raise ControlError("control/me", what)
        self.greeting = greeting or me or b""
        self.greeting_line = b"220 %b ESMTP\r\n" % self.greeting
        self.hello = Reply(250, b"", self.greeting)
        self.goodbye = Reply(221, b"", self.greeting, end=QUIT)
        self._ehlo: dict[tuple[bool, tuple[bytes, ...]], Reply] = {}
        self.policy = PolicySettings(settings)
        if not any(spec.plugin == FORMATS[self.log_format][2] for spec in self.policy.plugins):
            self.log_format = "qsmtpd"  # the plugin that writes the other form is switched off
        self.immune = ImmuneClients(settings)
        proxy_settings(settings)  # nobody is served where it cannot be told who sends headers
        self.chunking = settings.choice("chunking", "CHUNKING", ("on", "off")) == "on"
        codes = settings.choice("enhancedstatuscodes", "ENHANCEDSTATUSCODES", ("off", "on"))
        self.enhanced = codes == "on"  # RFC 2034

    def in_form(self, reply: Reply) -> Reply:
        """The reply with its enhanced status code where this configuration has it."""
        return reply.enhanced() if self.enhanced else reply

    def ehlo(
        self, starttls: bool, mechanisms: tuple[bytes, ...], more: Sequence[bytes] = ()
    ) -> Reply:
        """The answer to EHLO: with STARTTLS, these mechanisms of AUTH, and lines of plugins."""
        if not more and (starttls, mechanisms) in self._ehlo:
            return self._ehlo[starttls, mechanisms]
        lines = [self.greeting, b"PIPELINING", b"8BITMIME"]
        if self.chunking:
            lines.append(b"CHUNKING")
        if self.enhanced:
            lines.append(b"ENHANCEDSTATUSCODES")
        if self.limits.recipients <= SAYABLE_LIMIT:
            lines.append(b"LIMITS RCPTMAX=%d" % self.limits.recipients)
        lines.append(b"SIZE %d" % self.data.databytes)  # 0: no limit (RFC 1870, 3)
        if self.utf8 != UTF8_OFF:
            lines.append(b"SMTPUTF8")
        if starttls:
            lines.append(b"STARTTLS")
        if mechanisms:
            lines.append(b"AUTH " + b" ".join(mechanisms))
        reply = Reply(250, b"", b"\n".join([*lines, *more]))
        if not more:
            self._ehlo[starttls, mechanisms] = reply
        return reply

    @classmethod
    def load(cls, settings: Settings, checkpassword: Sequence[bytes] = ()) -> SessionSettings:
        """Read them all.  Raises ControlError.

        `checkpassword` is the program with its arguments that AUTH asks, if
        there is one.
        """
        return cls(settings, checkpassword)


def smtputf8(settings: Settings) -> str:
    """UTF8_LOCAL, UTF8_ON or UTF8_OFF.  Raises ControlError."""
    return settings.choice("smtputf8", "SMTPUTF8", (UTF8_LOCAL, UTF8_ON, UTF8_OFF))


def proxy_settings(settings: Settings) -> ProxySettings | None:
    """Who sends PROXY headers, or None where nobody does.  Raises ControlError."""
    if not (settings.is_set("PROXYHOSTS") or settings.files.has("proxyhosts")):
        return None
    from ..net.proxyhosts import ProxySettings

    return ProxySettings(settings)


class Limits:
    """How much and how long.  Raises ControlError."""

    __slots__ = (
        "timeout",
        "session",
        "line",
        "address",
        "recipients",
        "soft_errors",
        "max_errors",
        "error_delay",
        "max_junk",
    )

    def __init__(self, settings: Settings) -> None:
        self.timeout = settings.number("timeoutsmtpd", "TIMEOUTSMTPD", 1200, least=1)
        self.session = settings.number("sessiontimeout", "SESSION_TIMEOUT", 86400, least=1)
        self.line = settings.number("maxcmdlen", "MAXCMDLEN", 2048, least=512)
        self.address = settings.number("maxaddrlen", "MAXADDRLEN", 900, least=256)
        self.recipients = settings.number("maxrecipients", "MAXRECIPIENTS", 1000, least=1)
        self.soft_errors = settings.number("softerrors", "SOFTERRORS", 10)
        self.max_errors = settings.number("maxerrors", "MAXERRORS", 20)
        self.error_delay = settings.number("errordelay", "ERRORDELAY", 1)
        self.max_junk = settings.number("maxjunk", "MAXJUNK", 100)


class ImmuneClients:
    """The clients that filters leave alone: `immunity` in qsmtpd-filters(5).  Raises ControlError.

    The variable IMMUNE, set and not `0`, means all; control/immune has one
    entry a line: an address, the beginning of one that ends in `.` or `:`, or a
    `.` and the end of the client's name (TCPREMOTEHOST).
    """

    __slots__ = ("_all", "_entries")

    def __init__(self, settings: Settings) -> None:
        self._all = settings.flag("IMMUNE")
        self._entries = [entry.lower() for entry in settings.lines("immune") or ()]

    @property
    def by_name(self) -> bool:
        """May it depend on the client's name who is one of them?"""
        return not self._all and any(entry.startswith(b".") for entry in self._entries)

    def names(self, peer: Peer) -> bool:
        """Is this client one of them?"""
        if peer.anonymous:
            return False
        if not self._entries:
            return self._all
        host = peer.host.lower()
        return self._all or any(
            entry == peer.ip
            or (entry.startswith(b".") and host.endswith(entry))
            or (entry.endswith((b".", b":")) and peer.ip.startswith(entry))
            for entry in self._entries
        )


class DataSettings:
    """The limits of a message.  Raises ControlError."""

    __slots__ = ("databytes", "max_hops", "min_rate", "bare_lf", "fill_header", "too_big")

    def __init__(self, settings: Settings) -> None:
        self.databytes = settings.number("databytes", "DATABYTES", 0, empty=0)
        self.max_hops = settings.number("maxhops", "MAXHOPS", 100, least=1)
        self.min_rate = settings.number("mindatarate", "MINDATARATE", 500)
        fill = settings.choice("submissionheader", "SUBMISSIONHEADER", ("leave", "fill"))
        self.fill_header = fill == "fill"
        self.bare_lf = settings.choice("barelf", "BARELF", ("reject", "reject-all", "normalize"))
        usual = replies.TOO_BIG
        text = settings.worded(usual.text, "REPLY_MAXSIZE")
        self.too_big: Reply = usual if text == usual.text else Reply(usual.code, usual.status, text)


class QueueSettings:
    """Which queue program, and its limits.  Raises ControlError."""

    __slots__ = (
        "program",
        "error_fd",
        "write_timeout",
        "timeout",
        "announce",
        "exits",
        "content",
    )

    def __init__(self, settings: Settings) -> None:
        #: No search in PATH, no arguments; relative to QMAILHOME, our cwd.
        default = settings.files.home + b"/bin/qmail-queue"
        self.program = settings.variable("QMAILQUEUE") or default
        self.error_fd = settings.number("errorfd", "ERROR_FD", 6, least=2, most=9)
        self.write_timeout = settings.number("queuewritetimeout", "QUEUEWRITETIMEOUT", 300, least=1)
        self.timeout = settings.number("queuetimeout", "QUEUETIMEOUT", 540, least=1)
        self.announce = settings.choice("queueenv", "QUEUEENV", ("none", "spamcontrol"))
        whose = ("stock", "spamcontrol", "indimail", "sagredo")
        self.exits = settings.choice("queueexits", "QUEUEEXITS", whose)
        self.content = b""  # what is added to the refusal of a content
        if self.exits == "spamcontrol":
            self.content = settings.worded(b"", "REPLY_CONTENT")


class AuthSettings:
    """Whether, how and by whom clients are authenticated.  Raises ControlError.

    `command` is the checkpassword program with its arguments, from our own
    command line; `programs` has it by whom a mechanism asks (see sasl).
    `mechanisms` are those for which there is somebody to ask; with `dovecot`, the
    auth socket that is then asked, those that are named, or none: all that it has.
    """

    __slots__ = (
        "mechanisms",
        "required",
        "in_clear",
        "command",
        "programs",
        "host",
        "krysztof",
        "timeout",
        "delay",
        "max_failures",
        "hide",
        "dovecot",
    )

    def __init__(self, settings: Settings, command: Sequence[bytes] = ()) -> None:
        self.mechanisms, self.required = _switch(settings.line(None, "SMTPAUTH"))
        if settings.number(None, "REQUIRE_AUTH", 0):  # jms1's, and qmailtoaster's
            if not settings.is_set("SMTPAUTH"):
                self.mechanisms, self.required = _switch(b"!")
            elif not self.mechanisms:
                raise ControlError("REQUIRE_AUTH", "is set, and SMTPAUTH=- switches AUTH off")
            self.required = True
        in_clear = settings.line("authclear", "AUTHCLEAR")
        self.in_clear = in_clear is not None and in_clear != b"0"
        self.host: bytes | None = None  # in challenges; None: the Peer's name for us
        with_host = settings.choice("authargv", "AUTHARGV", ("program", "host"))
        if with_host == "host" and command:
            self.host, *command = command
        self.command = list(command)
        self.programs = {"checkpassword": self.command}
        self.dovecot: Server | None = None
        if self.mechanisms and (
            settings.is_set("DOVECOTAUTH") or settings.files.has("dovecotauth")
        ):
            from ..net import dovecotauth

            self.dovecot = dovecotauth.server_of(settings)
        if self.dovecot is not None:
            from . import mechanisms

            self.mechanisms = mechanisms.of_dovecot(settings, self.mechanisms, self.command)
        elif self.mechanisms and (
            settings.is_set("AUTHMECHANISMS") or settings.files.has("authmechanisms")
        ):
            from . import mechanisms

            self.mechanisms = mechanisms.available(settings, self.mechanisms, self.programs)
        elif not command:
            self.mechanisms = ()  # nobody to ask
        order = settings.choice("cramorder", "CRAMORDER", ("response", "challenge"))
        self.krysztof = order == "challenge"
        self.timeout = settings.number("authtimeout", "AUTHTIMEOUT", 30, least=1)
        self.delay = settings.number("authdelay", "AUTHDELAY", 5)
        self.max_failures = settings.number("maxauthfailures", "MAXAUTHFAILURES", 3, least=1)
        hide = settings.line("authhide", "AUTHHIDE")
        self.hide = hide is not None and hide != b"0"

    def offered(self, tls: Tls | None) -> tuple[bytes, ...] | None:
        """The mechanisms that a client can use now, in the order announced.

        None: all that Dovecot has.
        """
        if tls is None and not self.in_clear:
            return ()
        if self.dovecot is not None and not self.mechanisms:
            return None
        if b"EXTERNAL" in self.mechanisms and (tls is None or tls.user is None):
            return tuple(name for name in self.mechanisms if name != b"EXTERNAL")
        return self.mechanisms


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
    what = "none of '', -, cram, +cram, !, !cram, !+cram"
    raise ControlError("SMTPAUTH", f"is {shown(text)}, {what}")


class PolicySettings:
    """What is set of plugins.  Raises ControlError.

    `plugins` are those of a session, in order; `external`: some did not come
    with this program; `postpone` says until when they
    keep a refusal to themselves where their line does not; `refusal` is the
    decision on a recipient whom nobody accepts.
    """

    __slots__ = ("plugins", "external", "postpone", "refusal")

    def __init__(self, settings: Settings) -> None:
        self.plugins = plugin_specs(settings)
        self.external = any(spec.plugin not in BUILT_IN for spec in self.plugins)
        self.postpone = settings.choice("postpone", "POSTPONE", POSTPONE)
        text = settings.worded(NOBODY_ACCEPTS.text, "REPLY_NOGATEWAY")
        self.refusal = NOBODY_ACCEPTS
        if text != NOBODY_ACCEPTS.text:
            self.refusal = reject(text, NOBODY_ACCEPTS.code, NOBODY_ACCEPTS.status)


def plugin_specs(settings: Settings) -> list[PluginSpec]:
    """The plugins of a session, in order.  Raises ControlError."""
    on = [name for name in BUILT_IN if is_on(name, settings)]
    written = settings.lines("plugins")
    words = settings.variable(VARIABLE)
    if written is None and words is None:
        return [PluginSpec(name, {}, "") for name in on]
    from ..policy import lines

    return lines.combined(settings, on, written or [], words or b"")


def is_on(name: str, settings: Settings) -> bool:
    """Does a control file or a variable switch this built-in plugin on?  Raises ControlError."""
    return name in ALWAYS or bool(switches(name, settings))


def switches(name: str, settings: Settings) -> list[str]:
    """The files and variables that do."""
    files, variables = BUILT_IN[name]
    found = [variable for variable in variables if settings.is_set(variable)]
    return found + ["control/" + file for file in files if settings.files.has(file)]


SessionSettings.PARTS = (
    Limits,
    DataSettings,
    TlsSettings,
    AuthSettings,
    PolicySettings,
    ImmuneClients,
    proxy_settings,
)
