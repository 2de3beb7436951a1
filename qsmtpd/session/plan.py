"""A plan: what follows from a configuration, made once for all the sessions that have it.

The cold child makes one for its only session, qsmtpd-server one for each distinct set of
settings: a session of either enters the same code.
"""

from __future__ import annotations

import posix as os

from ..config.session import SessionSettings
from ..config.settings import Settings
from ..facts import Client, ControlError, Counters
from ..log import Log
from ..net import ucspi
from ..policy.load import Plugins
from ..policy.stages import CONNECT, QUEUE
from ..tls.settings import EXTERNAL, IMPLICIT, OFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..config.files import ControlFiles
    from ..policy.spec import Entry
    from ..tls.provider import TlsProvider
    from .protocol import Conversation

#: For a session's last programs, plugins and words (seconds).
SPARE = 300.0


class Plan:
    """What sessions with the same settings have in common.  Raises ControlError.

    `environ` is their environment, but for what is of one connection alone.  `log`
    is theirs, one after the other.  `implicit`: a client speaks TLS from the first
    byte.  `unavailable` says why there is no `provider` of TLS where there should
    be one.  `first` are plugins in front of those that are set.  `clients` are those that
    the `protocol` is for, None: all.
    """

    __slots__ = (
        "environ",
        "protocol",
        "clients",
        "log",
        "settings",
        "implicit",
        "plugins",
        "provider",
        "unavailable",
        "_connects",
        "_delays",
        "_queue",
    )

    def __init__(
        self,
        protocol: type[Conversation],
        settings: SessionSettings,
        lookup: Settings,
        log: Log,
        first: Sequence[Entry] = (),
    ) -> None:
        self.environ = lookup.environ
        self.protocol = protocol
        self.clients = protocol.clients(lookup)
        self.log = log
        self.settings = settings
        self.implicit = settings.tls.mode == IMPLICIT
        log.form = settings.log_format
        self.plugins = Plugins(lookup, settings.policy, log, first)
        self.provider: TlsProvider | None = None
        self.unavailable: str | None = None
        self._connects: bool | None = None
        self._delays: list[tuple[Entry, float | None]] = []
        self._queue = 0.0

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

    def look_at(self, connects: bool = False) -> None:
        """What hold() and longest have to know of the plugins.

        `connects`: are there some from elsewhere at that stage?
        """
        self._connects = connects
        for entry in self.plugins.own():
            if CONNECT in entry.functions:
                plugin = getattr(entry.functions[CONNECT], "__self__", None)
                self._delays.append((entry, getattr(plugin, "silence", None)))
            if QUEUE in entry.functions:
                plugin = getattr(entry.functions[QUEUE], "__self__", None)
                self._queue = max(self._queue, getattr(plugin, "longest", 0.0))

    def hold(self, environ: Callable[[], Mapping[bytes, bytes]], named: bool) -> float | None:
        """For how long this client has to be silent before it is greeted (seconds).

        None: a process has to speak with it from the beginning.  environ() is the
        environment of its connection, `named`: with its name, where it has one.
        """
        if self._connects is None and not self.plugins.external:
            self.look_at()
        if (
            self._connects is not False
            or self.implicit
            or self.protocol.at_once
            or self.settings.tls.mode == EXTERNAL
        ):
            return None
        silence = 0.0
        if self._delays:
            immune = self.settings.immune
            if immune.by_name and not named:
                return None
            peer = ucspi.read_peer(environ())
            client = Client(peer, None, Counters(), immune.names(peer))
            for entry, seconds in self._delays:
                if not entry.skips(client):
                    if seconds is None:
                        return None
                    silence += seconds
        return silence

    def trusts(self, ip: bytes) -> bool:
        """Is the client of this address one that may have as many connections as it likes?"""
        known = self.clients is not None and ip in self.clients
        return known or b"RELAYCLIENT" in self.environ

    @property
    def longest(self) -> float:
        """How long a session takes at most, if all is as it should be (seconds)."""
        return self.settings.limits.session + self._queue + SPARE


class NoPlan:
    """In place of a plan: with these settings, nobody can be served, because of `error`."""

    __slots__ = ("protocol", "environ", "log", "implicit", "error")

    def __init__(
        self,
        protocol: type[Conversation],
        environ: Mapping[bytes, bytes],
        log: Log,
        implicit: bool,
        error: Exception,
    ) -> None:
        self.protocol = protocol
        self.environ = environ
        self.log = log
        self.implicit = implicit
        self.error = error


def make(
    protocol: type[Conversation],
    files: ControlFiles,
    environ: dict[bytes, bytes],
    checkpassword: Sequence[bytes],
) -> Plan | NoPlan:
    """The plan for sessions in this protocol with these settings, in QMAILHOME.  Raises nothing.

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
        plan = Plan(protocol, settings, lookup, log)
        plan.find_provider()
        return plan
    except Exception as error:
        implicit = settings is not None and settings.tls.mode == IMPLICIT
        return NoPlan(protocol, environ, log, implicit, error)


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
