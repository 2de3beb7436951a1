"""What a session allows: its own settings, and those of the rooms that it uses."""

from __future__ import annotations

from .commands.data import DataSettings
from .facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .auth import AuthSettings
    from .control import Settings
    from .tls.settings import TlsSettings


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
