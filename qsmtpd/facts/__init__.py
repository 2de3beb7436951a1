"""The data classes that all packages share; those of decisions and replies are in decision.py.

Those of rare.py are imported when they are asked for.
"""

from __future__ import annotations

from ..decision import Reply as Reply
from ..decision import Ruling as Ruling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .rare import Auth as Auth
    from .rare import Message as Message
    from .rare import Tls as Tls

NOTHING: dict[bytes, bytes] = {}
#: In the notes of a client: lines that stand in front of the next reply.
PREFACE = "preface"
#: At the end of a value or of an entry of a list they are not part of it.
BLANKS = b" \t\r"


def __getattr__(name: str) -> object:
    """A class of rare.py (PEP 562)."""
    if name in ("Auth", "Message", "Tls"):
        from . import rare

        return getattr(rare, name)
    raise AttributeError(name)


class Peer:
    """Who is there, as the UCSPI server says (see qsmtpd.net.ucspi).

    Addresses are canonical text or b"unknown"; what the server did not say is
    None, except for the names that a Received line cannot do without.
    `proxy` is the address of who has passed the connection on by a PROXY header;
    `anonymous`: it has not said whose that is, so `ip` is its own, and whatever is
    listed by that address is not meant for whom it stands.  `environ` is all that the
    UCSPI server said, or the header after it: the environment of this connection, for the
    programs that are started for it.
    """

    __slots__ = (
        "ip",
        "port",
        "host",
        "info",
        "local_ip",
        "local_port",
        "local_host",
        "relay",
        "environ",
        "proxy",
        "anonymous",
    )

    def __init__(
        self,
        ip: bytes = b"unknown",
        port: bytes | None = None,
        host: bytes = b"unknown",
        info: bytes | None = None,
        local_ip: bytes | None = None,
        local_port: bytes | None = None,
        local_host: bytes = b"unknown",
        relay: bytes | None = None,
        environ: Mapping[bytes, bytes] = NOTHING,
        proxy: bytes | None = None,
        anonymous: bool = False,
    ) -> None:
        self.ip = ip
        self.port = port
        self.host = host
        self.info = info
        self.local_ip = local_ip
        self.local_port = local_port
        self.local_host = local_host
        self.relay = relay  # RELAYCLIENT: None, or the suffix for every recipient
        self.environ = environ
        self.proxy = proxy
        self.anonymous = anonymous


class Counters:
    """What a connection has done so far.  This survives a fresh session.

    `recipients` counts the RCPTs that policy was asked about, `bad_recipients`
    those that it refused for good; `karma` is a score for plugins: below 0 is
    bad.  `start` is the monotonic time at which it began.
    """

    __slots__ = (
        "start",
        "commands",
        "errors",
        "junk",
        "unknown",
        "recipients",
        "bad_recipients",
        "auth_failures",
        "messages",
        "refused",
        "karma",
    )

    def __init__(self, start: float = 0.0) -> None:
        self.start = start
        self.commands = 0
        self.errors = 0
        self.junk = 0  # NOOP, RSET, VRFY, HELP
        self.unknown = 0  # unknown commands
        self.recipients = 0
        self.bad_recipients = 0
        self.auth_failures = 0
        self.messages = 0
        self.refused = 0  # 4xx and 5xx replies
        self.karma = 0

    def forgive(self) -> None:
        """An accepted message: both counts of abuse start anew."""
        self.errors = self.junk = 0


class Client:
    """What one session knows of its client; plugins are given this.

    It is built anew from the Peer when a session begins, and again after
    STARTTLS: nothing that was learnt in clear text survives (RFC 3207, 4.2),
    except for the counters.

    `pause` and `speaks` are what a plugin may do to the client; see there.
    `notes` are what plugins have found out about it, for those behind them: by the
    name of the plugin, or one that begins with it.
    """

    __slots__ = (
        "peer",
        "tls",
        "auth",
        "protocol",
        "helo",
        "esmtp",
        "relay",
        "listed",
        "counters",
        "notes",
        "pause",
        "speaks",
        "dry_run",
    )

    def __init__(
        self,
        peer: Peer,
        tls: Tls | None = None,
        counters: Counters | None = None,
        listed: bool = False,
    ) -> None:
        self.peer = peer
        self.tls = tls
        self.auth: Auth | None = None
        self.protocol = b"SMTP"  # or QMTP, or QMQP, which have no HELO
        self.helo: bytes | None = None  # the argument of HELO or EHLO, b"" if it had none
        self.esmtp = False  # greeted with EHLO
        #: None, or the suffix for every recipient: with it, every recipient is allowed.
        self.relay = peer.relay
        if self.relay is None and tls is not None and tls.listed:
            self.relay = b""
        self.listed = listed  # as immune against filters: see qsmtpd-filters(5)
        self.counters = counters or Counters()
        self.notes: dict[str, Any] = {}
        self.dry_run = False  # nothing will be queued: `qsmtpd --explain`, or a test
        #: pause(seconds): let the client wait.
        self.pause: Callable[[float], None] = _no_pause
        #: speaks(seconds): does it speak before it is spoken to?  Waits so long for it.
        self.speaks: Callable[[float], bool] = _is_silent

    def asked_for(self, recipient: bytes) -> bytes:
        """A recipient as the client has named it: without the suffix of RELAYCLIENT."""
        return recipient.removesuffix(self.relay or b"")


def _no_pause(seconds: float) -> None:
    """Where there is nobody to wait, as in a test."""


def _is_silent(seconds: float) -> bool:
    return False


class Envelope:
    """The sender and the recipients of the transaction under way.

    `parameters` are those of MAIL, names in upper case; a value is None where
    there is no `=`.  `size` is what SIZE= announced, in bytes, or 0.  `utf8`:
    SMTPUTF8 was asked for, and is to be had (RFC 6531).

    `is_ours(recipient)`: is it one of our domains?  relay says so where mail for
    others cannot be passed on in UTF-8; else None.  It may raise ControlError.

    `notes` are what plugins have found out about this transaction, as of a Client.
    """

    __slots__ = ("sender", "recipients", "parameters", "size", "utf8", "is_ours", "notes")

    def __init__(
        self,
        sender: bytes,
        parameters: dict[bytes, bytes | None] | None = None,
        size: int = 0,
        utf8: bool = False,
    ) -> None:
        self.sender = sender
        self.recipients: list[bytes] = []
        self.parameters = parameters or {}
        self.size = size
        self.utf8 = utf8
        self.is_ours: Callable[[bytes], bool] | None = None
        self.notes: dict[str, Any] = {}

    @property
    def leaves(self) -> bool:
        """Is there a recipient to whom it cannot be passed on in UTF-8?"""
        return self.is_ours is not None and not all(map(self.is_ours, self.recipients))

    @property
    def needs_utf8(self) -> bool:
        """Is the queue told of SMTPUTF8?  Not where all is ASCII, and some of it leaves."""
        is_ascii = self.sender.isascii() and b"".join(self.recipients).isascii()
        return self.utf8 and not (is_ascii and self.leaves)


class Outcome:
    """How a session ended: a word for the log, and the exit status of the process.

    `trouble`: a plugin did what none should, whatever the end was.
    """

    __slots__ = ("end", "status", "trouble")

    def __init__(self, end: str, status: int, trouble: bool = False) -> None:
        self.end = end
        self.status = status
        self.trouble = trouble


#: The end of a session in which there can be no plain text any more.
TLS_FAILED = "tls-failed"


class Lost(Exception):
    """The client is gone, or its time is over; nothing that a plugin can mend.

    `end` is the word for that in the log where there is nothing to say to it.
    """

    end = ""


class Shutdown(Lost):
    """Its time is over because this process has been asked to end."""


class ControlError(Exception):
    """A setting that cannot be read or makes no sense: its name, and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason
