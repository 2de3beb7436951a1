"""What filters remember from one session to the next, and across processes.

A store keeps records by their keys, in tables: KINDS.  It does one thing, update(): read
some records and write what becomes of them, as one step that nobody comes between; what
they mean is for its users, as counts.py and filters/greylist.py.  SQLite has that as a
transaction (sqlite.py); a Redis-protocol server has it as WATCH and EXEC (redis.py).

    self._store = Access(settings, "pass")                 # where a filter is made
    try:                                                   # in a hook
        value = self._store.ask(client, lambda store: count(store, now, counters))
    except Unavailable:
        ...                                                # what the filter does without

A store is opened with the first question, so in the process that asks, and never by a
dry run.  No question raises anything but Unavailable, or waits beyond the session's budget.
"""

from __future__ import annotations

from time import monotonic, time

from ...facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Protocol, TypeVar

    from ...config.settings import PluginSettings, Settings
    from ...facts import Client
    from .address import Server

    T = TypeVar("T")
    #: What becomes of some records: None is one that is not there; the same object is one
    #: that stays as it is.  It may be called more than once, so it changes nothing itself.
    Change = Callable[[Sequence["Record | None"]], Sequence["Record | None"]]

#: The tables.  Where the store is full, records of the first go, those first that end first.
GREYLIST, COUNTS, CLIENTS = KINDS = ("greylist", "counts", "clients")
#: Of their keys, what is before the first NUL is who it is, and what is behind it no secret.
NAMED = (COUNTS, CLIENTS)
FILE, VARIABLE, USUAL = "store", "QSMTPD_STORE", b"/var/lib/qsmtpd/store"
LOCAL, PREFIX, KEY = "storelocal", "storeprefix", "storekey"
#: How the keys of an installation begin on a server, and of what that is made.
USUAL_PREFIX, PREFIX_LIMIT = b"qsmtpd", 64
_PREFIX = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-{}"
#: Bytes of a secret (BLAKE2 takes no more).
SECRET_LEAST, SECRET_MOST = 16, 64
#: How long a session may wait for its store in all (seconds).
USUAL_BUDGET, MOST_BUDGET = 3, 60
#: An answer within so long is none that was waited for (seconds).
PROMPT = 0.05
#: How large it may get (MB of 1,048,576 bytes).
USUAL_SIZE, MOST_SIZE = 256, 65536
#: A key has at most so many bytes.
KEY_LIMIT = 512
#: In the notes of a client: the seconds that its session has waited for the store.
SPENT = "store.seconds"


class Record:
    """What is kept by a key.  Times are seconds since 1970, as time() has them.

    `since` is when it began, and `ends` from when on it is as if it were not there;
    `count` is a number.  What they mean is for the user of the table.
    """

    __slots__ = ("since", "count", "ends")

    def __init__(self, since: int, count: int, ends: int) -> None:
        self.since = since
        self.count = count
        self.ends = ends


class Trouble(Exception):
    """A store cannot say: `word` is for the log, `reason` says more of it.

    The words: busy (others have had it all the time, or it has not answered in time), missing,
    denied, readonly, full, corrupt, foreign (it is something else), failed (anything else).
    """

    def __init__(self, word: str, reason: str) -> None:
        super().__init__(word, reason)
        self.word = word
        self.reason = reason


class Unavailable(Exception):
    """The store could not say; that is in the log."""


if TYPE_CHECKING:

    class Store(Protocol):
        """Where records are kept.  Every method raises Trouble, and nothing else.

        `deadline` (monotonic seconds) is until when the next one may wait.  What it has
        open in this process now: `descriptors` of files, so many, and these `sockets`.
        """

        deadline: float

        @property
        def descriptors(self) -> int: ...

        @property
        def sockets(self) -> Sequence[int]: ...

        def update(
            self, kind: str, keys: Sequence[bytes], now: int, change: Change
        ) -> list[Record | None]:
            """What change() makes of the records of these keys, which is then kept.

            All of it is one step.  Where it changes nothing, nothing is written.  A record
            that has ended is None; the keys are different ones, of KEY_LIMIT at most.
            """

        def look(self, kind: str, keys: Sequence[bytes], now: int) -> list[Record | None]:
            """The records of these keys as they are."""

        def records(self, kind: str, now: int) -> Iterable[tuple[bytes, Record]]:
            """All records of a table, by their keys, in the order of these."""

        def remove(self, kind: str, keys: Sequence[bytes] | None = None) -> int:
            """Forget these, or all; how many there were."""

        def close(self) -> None:
            """Let go of what is open; a later question opens it again."""


class NothingKept:
    """Of a store for a dry run: what becomes of its records is said, and not kept."""

    __slots__ = ()

    if TYPE_CHECKING:

        def look(self, kind: str, keys: Sequence[bytes], now: int) -> list[Record | None]: ...

    def update(
        self, kind: str, keys: Sequence[bytes], now: int, change: Change
    ) -> list[Record | None]:
        return [*change(self.look(kind, keys, now))]


class StoreSettings:
    """Which store, and its limits.  Raises ControlError.

    `server` is where it is, or None.  `path` is that of the file: of the store, or else
    of what this machine keeps for itself while there is trouble with the server.
    """

    __slots__ = ("path", "budget", "size", "server", "prefix", "secret")

    def __init__(self, settings: Settings) -> None:
        given = settings.line(FILE, VARIABLE)
        if given == b"":
            raise ControlError(place_of(settings), "is empty, and names no file")
        self.server: Server | None = None
        self.prefix, self.secret = USUAL_PREFIX, b""
        path = given or USUAL
        if b":" in path:
            self._find_server(settings, path)
        if self.server is not None:
            local = settings.line(LOCAL, "STORELOCAL")
            if local == b"":
                what = "is empty, and names no file"
                raise ControlError(place_of(settings, LOCAL, "STORELOCAL"), what)
            path = local or USUAL
        self.path = path if path.startswith(b"/") else settings.files.home + b"/" + path
        self.budget = settings.number(
            "storetimeout", "STORETIMEOUT", USUAL_BUDGET, least=1, most=MOST_BUDGET
        )
        self.size = settings.number("storesize", "STORESIZE", USUAL_SIZE, least=1, most=MOST_SIZE)

    def _find_server(self, settings: Settings, given: bytes) -> None:
        """Raises ControlError."""
        from .address import parse

        try:
            self.server = parse(given)
        except ValueError as error:
            raise ControlError(place_of(settings), str(error)) from error
        if self.server is None:
            return
        prefix = settings.line(PREFIX, "STOREPREFIX")
        if prefix is not None:
            if not 0 < len(prefix) <= PREFIX_LIMIT or prefix.strip(_PREFIX):
                what = f"is no word of 1 to {PREFIX_LIMIT} letters, digits and ._-{{}}"
                raise ControlError(place_of(settings, PREFIX, "STOREPREFIX"), what)
            self.prefix = prefix
        secret = settings.line(KEY)
        if secret is not None:
            if not SECRET_LEAST <= len(secret) <= SECRET_MOST:
                what = f"has not {SECRET_LEAST} to {SECRET_MOST} bytes"
                raise ControlError("control/" + KEY, what)
            self.secret = secret

    @property
    def identity(self) -> tuple[object, ...]:
        """What two that are the same store have in common."""
        server = self.server
        if server is None:
            return self.path, self.size
        return server.name, server.user, server.password, self.prefix, self.secret

    @property
    def share(self) -> float:
        """The seconds that a session may wait for the store.

        Of a server that is half of all, so that there is time for what stands in for it.
        """
        return self.budget if self.server is None else self.budget / 2

    def of_this_machine(self) -> StoreSettings:
        """The same, of the file of this machine."""
        found = StoreSettings.__new__(StoreSettings)
        for name in self.__slots__:
            setattr(found, name, getattr(self, name))
        found.server = None
        return found


def place_of(settings: Settings, file: str = FILE, variable: str = VARIABLE) -> str:
    """What errors call a setting; without a name, the one that says where the store is."""
    found = settings.text(file, variable)
    return "control/" + file if found is None else found[0]


class Access:
    """What a filter asks the store by.  Raises ControlError.

    All filters of a configuration share one store.  `then` is for the log: what the
    filter does where the store cannot say.  `local`: it is the file of this machine,
    which stands in for a shared store; `is_shared`: it is a store of several machines.
    """

    __slots__ = ("is_shared", "then", "_store", "_settings", "_log", "_who")

    def __init__(self, settings: PluginSettings, then: str, local: bool = False) -> None:
        found = StoreSettings(settings.without_options())
        self._settings = found.of_this_machine() if local else found
        self.is_shared = self._settings.server is not None
        self.then = then
        self._log = settings.log
        self._who = settings.plugin + "-local" * local
        kept = settings.files.kept
        key = (FILE, *self._settings.identity)
        if key not in kept:
            kept[key] = _Lazy(self._settings)
        lazy = kept[key]
        assert isinstance(lazy, _Lazy)
        self._store = lazy

    def ask(self, client: Client, question: Callable[[Store], T], quiet: bool = False) -> T:
        """What the store says to this, within what is left of the session's time.

        In a dry run it says what it would, and keeps nothing.
        Raises Unavailable: then the log has said so, at most once a minute, unless `quiet`.
        """
        spent = client.notes.get(SPENT, 0.0)
        begun = monotonic()
        failed = True
        share = self._settings.share
        try:
            if spent >= share:
                raise Trouble("busy", f"has taken {share:g} seconds of the session")
            if client.dry_run:
                store = open_store(self._settings, read_only=True)
            else:
                store = self._store.get()
            store.deadline = begun + share - spent
            answer = question(store)
            failed = False
            return answer
        except Trouble as error:
            if not quiet:
                self._say(error, client.dry_run)
            raise Unavailable from error
        finally:
            # Else who asks often enough would have used it up.
            if failed or monotonic() - begun > PROMPT:
                client.notes[SPENT] = spent + monotonic() - begun

    def _say(self, error: Trouble, dry_run: bool) -> None:
        from .once import is_due

        # A dry run writes nothing, and whoever has asked for it is to see why.
        if dry_run or is_due(self._settings.path, self._who, time()):
            self._log(store=error.word, reason=error.reason, then=self.then)


class _Lazy:
    """A store, when somebody asks for it, and only in the process that has asked."""

    __slots__ = ("_settings", "_store", "_pid")

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._store: Store | None = None
        self._pid = 0

    def get(self) -> Store:
        """The store of this process."""
        import posix

        pid = posix.getpid()
        if self._store is None or pid != self._pid:
            # One of the process that has forked this one is left alone: to close it would be
            # to use it (https://www.sqlite.org/howtocorrupt.html, 2.6).
            if self._store is not None:
                _of_others.append(self._store)
            self._store, self._pid = open_store(self._settings), pid
        return self._store

    @property
    def descriptors(self) -> int:
        """Of this process; see Store."""
        return 0 if self._store is None else self._store.descriptors

    @property
    def sockets(self) -> Sequence[int]:
        """The same."""
        return () if self._store is None else self._store.sockets


_of_others: list[Store] = []


def open_store(settings: StoreSettings, read_only: bool = False) -> Store:
    """The store that settings name.  Nothing is opened before it is asked.

    `read_only`: nothing is made or kept of what an update() says.  Raises Trouble.
    """
    where = "SQLite"
    try:
        if settings.server is not None:
            where = settings.server.name
            from .redis import ReadOnlyRedis, RedisStore

            what = settings.server, settings.prefix, settings.secret
            return ReadOnlyRedis(*what) if read_only else RedisStore(*what)
        from .sqlite import ReadOnlyStore, SqliteStore
    except (ImportError, OSError) as error:  # a Python without it, or no descriptor to be had
        raise Trouble("failed", f"{where} cannot be loaded: {error}") from error

    return (ReadOnlyStore if read_only else SqliteStore)(settings.path, settings.size)
