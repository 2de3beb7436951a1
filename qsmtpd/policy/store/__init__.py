"""What filters remember from one session to the next, and across processes.

A store keeps records by their keys, in tables: KINDS.  It does one thing, update(): read
some records and write what becomes of them, as one step that nobody comes between; what
they mean is for its users, as counts.py and filters/greylist.py.  SQLite has that as a
transaction (sqlite.py); a Redis-protocol server has it as WATCH and EXEC.

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

    T = TypeVar("T")
    #: What becomes of some records: None is one that is not there; the same object is one
    #: that stays as it is.  It may be called more than once, so it changes nothing itself.
    Change = Callable[[Sequence["Record | None"]], Sequence["Record | None"]]

#: The tables.  Where the store is full, records of the first go, those first that end first.
GREYLIST, COUNTS = KINDS = ("greylist", "counts")
FILE, VARIABLE, USUAL = "store", "QSMTPD_STORE", b"/var/lib/qsmtpd/store"
#: How long a session may wait for its store in all (seconds).
USUAL_BUDGET, MOST_BUDGET = 3, 60
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

    The words: busy (others have had it all the time), missing, denied, readonly, full,
    corrupt, foreign (it is something else), failed (anything else).
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

        `deadline` (monotonic seconds) is until when the next one may wait; `descriptors`,
        how many of this process it has open now.
        """

        deadline: float

        @property
        def descriptors(self) -> int: ...

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


class StoreSettings:
    """Which store, and its limits.  Raises ControlError."""

    __slots__ = ("path", "budget", "size")

    def __init__(self, settings: Settings) -> None:
        given = settings.line(FILE, VARIABLE)
        if given == b"":
            raise ControlError(place_of(settings), "is empty, and names no file")
        path = given or USUAL
        self.path = path if path.startswith(b"/") else settings.files.home + b"/" + path
        self.budget = settings.number(
            "storetimeout", "STORETIMEOUT", USUAL_BUDGET, least=1, most=MOST_BUDGET
        )
        self.size = settings.number("storesize", "STORESIZE", USUAL_SIZE, least=1, most=MOST_SIZE)


def place_of(settings: Settings) -> str:
    """What errors call the setting that says where the store is."""
    found = settings.text(FILE, VARIABLE)
    return "control/" + FILE if found is None else found[0]


class Access:
    """What a filter asks the store by.  Raises ControlError.

    All filters of a configuration share one store.  `then` is for the log: what the
    filter does where the store cannot say.
    """

    __slots__ = ("_store", "_settings", "_then", "_log", "_plugin")

    def __init__(self, settings: PluginSettings, then: str) -> None:
        plain = settings.without_options()
        self._settings = StoreSettings(plain)
        self._then = then
        self._log = settings.log
        self._plugin = settings.plugin
        kept = settings.files.kept
        key = (FILE, self._settings.path, self._settings.size)
        if key not in kept:
            kept[key] = _Lazy(self._settings)
        found = kept[key]
        assert isinstance(found, _Lazy)
        self._store = found

    def ask(self, client: Client, question: Callable[[Store], T]) -> T:
        """What the store says to this, within what is left of the session's time.

        In a dry run it says what it would, and keeps nothing.
        Raises Unavailable: then the log has said so, at most once a minute.
        """
        spent = client.notes.get(SPENT, 0.0)
        begun = monotonic()
        try:
            if spent >= self._settings.budget:
                raise Trouble("busy", f"has taken {self._settings.budget} seconds of the session")
            if client.dry_run:
                store = open_store(self._settings, read_only=True)
            else:
                store = self._store.get()
            store.deadline = begun + self._settings.budget - spent
            return question(store)
        except Trouble as error:
            self._say(error, client.dry_run)
            raise Unavailable from error
        finally:
            client.notes[SPENT] = spent + monotonic() - begun

    def _say(self, error: Trouble, dry_run: bool) -> None:
        from .once import is_due

        # A dry run writes nothing, and whoever has asked for it is to see why.
        if dry_run or is_due(self._settings.path, self._plugin, time()):
            self._log(store=error.word, reason=error.reason, then=self._then)


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


_of_others: list[Store] = []


def open_store(settings: StoreSettings, read_only: bool = False) -> Store:
    """The store that settings name.  Nothing is opened before it is asked.

    `read_only`: nothing is made or kept of what an update() says.  Raises Trouble.
    """
    try:
        from .sqlite import ReadOnlyStore, SqliteStore
    except (ImportError, OSError) as error:  # a Python without it, or no descriptor to be had
        raise Trouble("failed", f"SQLite cannot be loaded: {error}") from error

    return (ReadOnlyStore if read_only else SqliteStore)(settings.path, settings.size)
