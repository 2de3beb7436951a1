"""A plan: what follows from a configuration, made once for all the sessions that have it.

The cold child makes one for its only session, qsmtpd-server one for each distinct set of
settings: a session of either enters the same code.
"""

from __future__ import annotations

import posix as os

from ..config.session import SessionSettings
from ..config.settings import Settings
from ..facts import ControlError
from ..log import Log
from ..policy.load import Plugins
from ..tls.settings import EXTERNAL, IMPLICIT, OFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..config.files import ControlFiles
    from ..policy.spec import Entry
    from ..tls.provider import TlsProvider


class Plan:
    """What sessions with the same settings have in common.  Raises ControlError.

    `environ` is their environment, but for what is of one connection alone.  `log`
    is theirs, one after the other.  `implicit`: a client speaks TLS from the first
    byte.  `unavailable` says why there is no `provider` of TLS where there should
    be one.  `first` are plugins in front of those that are set.
    """

    __slots__ = ("environ", "log", "settings", "implicit", "plugins", "provider", "unavailable")

    def __init__(
        self, settings: SessionSettings, lookup: Settings, log: Log, first: Sequence[Entry] = ()
    ) -> None:
        self.environ = lookup.environ
        self.log = log
        self.settings = settings
        self.implicit = settings.tls.mode == IMPLICIT
        log.form = settings.log_format
        self.plugins = Plugins(lookup, settings.policy, log, first)
        self.provider: TlsProvider | None = None
        self.unavailable: str | None = None

    def find_provider(self) -> None:
        """Have TLS, ready to be used where the first byte needs it; or say why not."""
        if self.settings.tls.mode in (OFF, EXTERNAL):
            return
        from ..tls import provider
        from ..tls.errors import Unavailable

        try:
            found = provider.find(self.settings.tls)
            if found is not None and self.implicit:
                found.prepare()
            self.provider = found
        except Unavailable as error:
            self.unavailable = str(error)


class NoPlan:
    """In place of a plan: with these settings, nobody can be served, because of `error`."""

    __slots__ = ("environ", "log", "implicit", "error")

    def __init__(
        self, environ: Mapping[bytes, bytes], log: Log, implicit: bool, error: Exception
    ) -> None:
        self.environ = environ
        self.log = log
        self.implicit = implicit
        self.error = error


def make(
    files: ControlFiles, environ: dict[bytes, bytes], checkpassword: Sequence[bytes]
) -> Plan | NoPlan:
    """The plan for these settings, in QMAILHOME.  Raises nothing.

    `checkpassword` is the program with its arguments that AUTH asks, if there
    is one.  What stands in `environ` and is none of it is removed.
    """
    log = Log()
    settings: SessionSettings | None = None
    try:
        lookup = enter(files, environ)
        settings = SessionSettings.load(lookup, checkpassword)
        if settings.tls.mode != EXTERNAL:
            # Nobody in front of us does TLS: what says so is a leftover, or a lie.
            for name in [name for name in environ if name.startswith(b"SSL_")]:
                del environ[name]
        plan = Plan(settings, lookup, log)
        plan.find_provider()
        return plan
    except Exception as error:
        implicit = settings is not None and settings.tls.mode == IMPLICIT
        return NoPlan(environ, log, implicit, error)


def enter(files: ControlFiles, environ: Mapping[bytes, bytes]) -> Settings:
    """Go to QMAILHOME, as qmail's programs do and the queue program expects.

    Returns the lookup of settings there.  Raises ControlError.
    """
    try:
        os.chdir(files.home)
    except OSError as error:
        name = files.home.decode("ascii", "backslashreplace")
        raise ControlError(name, error.strerror or "cannot be entered") from error
    return Settings(files, environ)
