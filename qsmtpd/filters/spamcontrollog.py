"""spamcontrollog: the log in SPAMCONTROL's format, for those who have programs that read it.

Configuration: the variable LOGFORMAT; `spamcontrol` is on, `qsmtpd` the default.
It decides nothing: it writes a line about what was decided, in place of the
event=refused and event=auth lines (see qsmtpd(8) for the form):

    qmail-smtpd: pid PID Action::Type::Condition P:… S:ip:host H:helo F:from T:to

Unlike SPAMCONTROL it lets no client forge a field or a line: in what a client
has said, every byte outside 33..126 and `'` is a `?`, and so is the first letter
of `Accept` and `Reject`, which its readers look for anywhere in a line.
Replies: none of its own.
Log keys: none.
"""

from __future__ import annotations

from posix import getpid

from ..log import FORMATS, places
from ..smtp import replies
from ..smtp.received import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Ruling

FORM = "spamcontrol"
WORDS = FORMATS[FORM][1]
#: Bytes of an address, and of every other field.
ADDRESS_LIMIT = 900
FIELD_LIMIT = 255

_SAFE = bytes(b if 33 <= b < 127 and b != 0x27 else 0x3F for b in range(256))
_NAME = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"
_WORD = bytes(b if b in _NAME else 0x5F for b in range(256))  # else `_`

#: Who refused -> what SPAMCONTROL calls that.
PLUGINS = {
    "default": b"SNDR::Invalid_Relay",
    "relay": b"SNDR::Invalid_Relay",
    "rcpthosts": b"SNDR::Invalid_Relay",
    "helocheck": b"SNDR::Bad_Helo",
    "badmailfrom": b"ORIG::Bad_Mailfrom",
    "localmfcheck": b"ORIG::Invalid_Mailfrom",
    "mfdnscheck": b"ORIG::DNS_MF",
    "badrcptto": b"RCPT::Bad_Rcptto",
    "tarpit": b"RCPT::Toomany_Rcptto",
    "recipients": b"RCPT::Failed_Rcptto",
    "validrcptto": b"RCPT::Failed_Rcptto",
    "dovecotusers": b"RCPT::Failed_Rcptto",
    "rcptcheck": b"RCPT::Failed_Rcptto",
    "badmimetypes": b"DATA::Bad_MIME",
    "badloadertypes": b"DATA::Bad_Loader",
    "badattachments": b"DATA::MIME_Attach",
}
#: The type of a refusal by any other plugin, whose name is the condition.
TYPES = {
    "connect": b"SNDR",
    "helo": b"SNDR",
    "starttls": b"TLS",
    "auth": b"AUTH",
    "mail": b"ORIG",
    "rcpt": b"RCPT",
    "data": b"DATA",
    "header": b"DATA",
    "body": b"DATA",
    "data_post": b"DATA",
    "queue": b"DATA",
    "queue_pre": b"DATA",
}
OTHER_TYPE = b"SMTP"
#: The same for qsmtpd's own refusals.
OWN = {
    replies.TLS_REQUIRED: b"TLS::missing",
    replies.CERTIFICATE_REQUIRED: b"TLS::missing",
    replies.AUTH_REQUIRED: b"AUTH::missing",
    replies.AUTH_NEEDS_TLS: b"TLS::missing",
    replies.TLS_UNAVAILABLE: b"TLS::unavailable",
    replies.TOO_MANY_RECIPIENTS: b"RCPT::Toomany_Rcptto",
    replies.TOO_MANY_HOPS: b"SMTP::Toomany_Hops",
    replies.UTF8_HEADER: b"SNDR::Invalid_Relay",
}
#: The exit status of SPAMCONTROL's queue programs, where QUEUEEXITS says that it is theirs.
CONTENT = {
    b"32": b"DATA::Virus_Infected",
    b"33": b"DATA::Spam_Message",
    b"34": b"DATA::MIME_Attach",
}
INVALID_CONTENT = b"sorry, invalid message content"


class Plugin:
    """Writes SPAMCONTROL's lines.  Raises ControlError."""

    __slots__ = ("log", "accepted_relay")

    def __init__(self, settings: PluginSettings) -> None:
        on = settings.choice(None, "LOGFORMAT", tuple(FORMATS)) == FORM
        self.log = settings.raw_log if on else None
        # With it, who may relay has shown to own the sender.
        owner = settings.line(None, "LOCALMFCHECK") is not None
        self.accepted_relay = b"ORIG::Local_Sender" if owner else b"SNDR::Relay_Client"

    def for_session(self) -> Session:
        return Session(self)


class Session:
    """Remembers who sends to whom."""

    __slots__ = ("_plugin", "_sender", "_recipient")

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._sender = self._recipient = b""  # the first one that was accepted

    def ok(self, client: Client, ruling: Ruling) -> None:
        stage, plugin = ruling.stage, _plain_name(ruling.plugin)
        if stage == "mail":
            self._sender, self._recipient = ruling.about, b""
        elif stage == "rcpt":
            self._recipient = self._recipient or ruling.about
            what = self._plugin.accepted_relay if plugin == "relay" else b"RCPT::Rcpthosts_Rcptto"
            self._write(b"Accept::" + what, client, self._transaction(client, ruling))
        elif stage == "auth":
            how = client.auth.mechanism if client.auth is not None else b"unknown"
            self._write(b"Accept::AUTH::" + _mechanism(how), client, _user(ruling))
        elif stage == "starttls":
            fingerprint = client.tls.fingerprint if client.tls is not None else None
            shown = b"none" if fingerprint is None else b"sha256:" + fingerprint
            cipher = ruling.about.translate(_WORD) or b"unknown"
            self._write(b"Accept::TLS::" + cipher, client, b" != '" + shown + b"'", b"ESMTPS")

    def deny(self, client: Client, ruling: Ruling) -> None:
        what = b"Reject::" + _refused(ruling)
        if ruling.stage == "auth" and ruling.about:
            self._write(what, client, _user(ruling))
        else:
            self._write(what, client, self._transaction(client, ruling))

    def _transaction(self, client: Client, ruling: Ruling) -> bytes:
        """The fields of who sends what to whom, as far as that is known."""
        sender = recipient = b""
        if ruling.stage == "mail":
            sender = ruling.about
        elif ruling.stage == "rcpt":
            sender, recipient = self._sender, ruling.about
        elif TYPES.get(ruling.stage) == b"DATA":
            sender, recipient = self._sender, self._recipient
        if ruling.answer == replies.MAIL_FIRST:
            sender = recipient = b""
        helo = b"unknown" if client.helo is None else client.helo
        return b" H:%b F:%b T:%b" % (
            _safe(helo),
            _safe(sender, ADDRESS_LIMIT),
            _safe(recipient, ADDRESS_LIMIT),
        )

    def _write(self, what: bytes, client: Client, rest: bytes, keyword: bytes = b"") -> None:
        log = self._plugin.log
        if log is None:
            return
        keyword = keyword or protocol(client)
        place = client.peer.ip + b":" + _safe(client.peer.host)
        log(b"qmail-smtpd: pid %d %b P:%b S:%b%b" % (getpid(), what, keyword, place, rest))


def _refused(ruling: Ruling) -> bytes:
    """Type and condition of a refusal."""
    kind = TYPES.get(ruling.stage, OTHER_TYPE)
    if ruling.plugin:
        if ruling.answer == replies.PLUGIN_TROUBLE:
            return kind + b"::Plugin_Trouble"
        name = _plain_name(ruling.plugin)
        own = name.encode("ascii", "replace").translate(_WORD)
        return PLUGINS.get(name) or kind + b"::" + own[:1].upper() + own[1:]
    answer = ruling.answer
    if answer in OWN:
        return OWN[answer]
    if ruling.code == 552:  # its text may be the administrator's
        return b"DATA::Invalid_Size"
    if answer is not None and answer.code == 554 and answer.text.startswith(INVALID_CONTENT):
        return CONTENT.get(ruling.detail, b"DATA::Invalid_Content")
    if ruling.stage == "auth" and ruling.detail:
        return b"AUTH::" + _mechanism(ruling.detail)
    if answer is not None and answer.error:
        return b"SMTP::Syntax_Error"
    return kind + (b"::Queue" if kind == b"DATA" else b"::Refused")


def _plain_name(plugin: str) -> str:
    """Of a plugin's name, or of why nobody granted, what says which plugin it is."""
    return plugin.rpartition("/")[2].partition(":")[0].removesuffix(".py")


def _mechanism(name: bytes) -> bytes:
    return name.lower().translate(_WORD)


def _user(ruling: Ruling) -> bytes:
    return b" ?= '" + _safe(ruling.about) + b"'"


def _safe(text: bytes, limit: int = FIELD_LIMIT) -> bytes:
    text = text[:limit].translate(_SAFE)
    hidden = places(text, WORDS)
    if hidden:
        text = bytes(0x3F if place in hidden else byte for place, byte in enumerate(text))
    return text
