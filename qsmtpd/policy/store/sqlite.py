"""A store in a file, by SQLite: for all processes of one machine.

The journal is a write-ahead log (https://www.sqlite.org/wal.html), synchronous=NORMAL: after
a loss of power the last records may be missing, and the file is sound.  Whoever reads
waits for nobody, and nothing that is only looked at takes the lock of those who write.

The file is looked at before each step: one that was deleted or replaced is opened anew.
No descriptor of it is opened but by SQLite, for to close one would end the locks of this
process (https://www.sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import _sqlite3 as sqlite  # sqlite3 imports datetime for what is not used here
import errno
import posix as os
from time import monotonic

from ... import waits
from . import COUNTS, GREYLIST, KINDS, NothingKept, Record, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    from . import Change

    T = TypeVar("T")

#: In the header of the file: whose it is ("qsmt"), and the version of its tables.
APPLICATION, VERSION = 0x71736D74, 1
PAGE = 4096  # bytes
PAGES_PER_MB = 1024 * 1024 // PAGE
#: With each step that writes, so many that have ended go; and where the store is full, so many
#: that have not for each that comes: one more than it, so that there will be room again.
SWEPT, EVICTED = 32, 2
#: SQLite empties the log when it is four times as long, but not where every process ends with
#: its session: the first one to open the file forgets how much of the log was copied.
LOG_LIMIT = 1024 * 1024  # bytes
#: So many are asked for by one statement; and a listing reads so many at once, so that it keeps
#: no writer from tidying up.
BATCH = 500
#: SQLite waits so long for others at once, and is asked again.  Its pauses grow from 1 ms on,
#: to 25 within this time and to 100 beyond: among 50 processes who pauses so long has no turn.
WAIT = 0.1  # seconds
#: Between two attempts of ours: there are locks for which SQLite does not wait (seconds).
PAUSE = 0.005
#: Its main file, the log, and the index of that.
_OPEN = 3
#: inode(7)
_TYPE, _REGULAR, _LINK = 0o170000, 0o100000, 0o120000
_UNRESERVED = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/"

#: Result codes (https://www.sqlite.org/rescode.html), and the word for each; BUSY: try again.
_BUSY = (5, 6, 15)  # BUSY, LOCKED, PROTOCOL
_MOVED = 1032  # READONLY_DBMOVED
_TRUNCATED = 522  # IOERR_SHORT_READ
_WORDS = {3: "denied", 8: "readonly", 11: "corrupt", 13: "full", 14: "denied", 26: "corrupt"}
_ERRNOS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "readonly",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
}

_TABLE = "CREATE TABLE {0} (key BLOB PRIMARY KEY, since INT, count INT, ends INT) WITHOUT ROWID"
_INDEX = "CREATE INDEX {0}_ends ON {0} (ends)"
_GET = {kind: f"SELECT key, since, count, ends FROM {kind} WHERE key IN (" for kind in KINDS}
_PUT = {kind: f"REPLACE INTO {kind} VALUES (?, ?, ?, ?)" for kind in KINDS}
_DELETE = {kind: f"DELETE FROM {kind} WHERE key = ?" for kind in KINDS}
_CLEAR = {kind: f"DELETE FROM {kind}" for kind in KINDS}
_SWEEP = {
    kind: f"DELETE FROM {kind} WHERE key IN "
    f"(SELECT key FROM {kind} WHERE ends <= ? ORDER BY ends LIMIT ?)"
    for kind in KINDS
}
_LIST = {
    kind: f"SELECT key, since, count, ends FROM {kind} "
    f"WHERE key > ? AND ends > ? ORDER BY key LIMIT {BATCH}"
    for kind in KINDS
}
_NEVER = 2**62  # later than all that ends


class SqliteStore:
    """See Store in __init__.py.  `path` is absolute; `size` how large it may get (MB)."""

    __slots__ = ("deadline", "_path", "_pages", "_connection", "_identity")
    sockets = ()

    def __init__(self, path: bytes, size: int) -> None:
        self.deadline = 0.0
        self._path = path
        self._pages = size * PAGES_PER_MB
        self._connection: sqlite.Connection | None = None
        self._identity = (0, 0)

    @property
    def descriptors(self) -> int:
        return 0 if self._connection is None else _OPEN

    def update(
        self, kind: str, keys: Sequence[bytes], now: int, change: Change
    ) -> list[Record | None]:
        def step(connection: sqlite.Connection) -> list[Record | None]:
            with _Transaction(connection, "BEGIN"):
                records = _get(connection, kind, keys, now)
            becomes = change(records)
            if all(new is old for new, old in zip(becomes, records, strict=True)):
                return [*becomes]
            with _Transaction(connection, "BEGIN IMMEDIATE"):
                records = _get(connection, kind, keys, now)
                becomes = change(records)
                self._write(connection, kind, keys, records, becomes, now)
            return [*becomes]

        return self._do(step)

    def look(self, kind: str, keys: Sequence[bytes], now: int) -> list[Record | None]:
        def step(connection: sqlite.Connection) -> list[Record | None]:
            return _get(connection, kind, keys, now)

        return self._do(step)

    def records(self, kind: str, now: int) -> Iterator[tuple[bytes, Record]]:
        last = b""

        def step(connection: sqlite.Connection) -> list[tuple[bytes, int, int, int]]:
            return connection.execute(_LIST[kind], (last, now)).fetchall()

        while found := self._do(step):
            for key, *numbers in found:
                if not isinstance(key, bytes) or key <= last:  # or it would have no end
                    raise Trouble("corrupt", "has a key that is none, or out of order")
                last = key
                yield key, _record(numbers)

    def remove(self, kind: str, keys: Sequence[bytes] | None = None) -> int:
        def step(connection: sqlite.Connection) -> int:
            with _Transaction(connection, "BEGIN IMMEDIATE"):
                if keys is None:
                    return connection.execute(_CLEAR[kind]).rowcount
                return sum(connection.execute(_DELETE[kind], (key,)).rowcount for key in keys)

        return self._do(step)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _close(connection)

    # -- inside ------------------------------------------------------------

    def _write(
        self,
        connection: sqlite.Connection,
        kind: str,
        keys: Sequence[bytes],
        records: Sequence[Record | None],
        becomes: Sequence[Record | None],
        now: int,
    ) -> None:
        """Within a transaction: what has changed, and a little of what has ended."""
        connection.execute(_SWEEP[kind], (now, SWEPT))
        if self._is_full(connection):
            evicted = 0
            for each in (GREYLIST, COUNTS):
                if not evicted:
                    evicted = connection.execute(
                        _SWEEP[each], (_NEVER, EVICTED * len(keys))
                    ).rowcount
        for key, old, new in zip(keys, records, becomes, strict=True):
            if new is None and old is not None:
                connection.execute(_DELETE[kind], (key,))
            elif new is not None and new is not old:
                connection.execute(_PUT[kind], (key, new.since, new.count, new.ends))

    def _is_full(self, connection: sqlite.Connection) -> bool:
        """Is there little left of the pages that it may have?"""
        used = _number(connection, "page_count") - _number(connection, "freelist_count")
        return used > self._pages - self._pages // 16

    def _do(self, step: Callable[[sqlite.Connection], T]) -> T:
        """step(connection), again while others keep it from that.  Raises Trouble."""
        while True:
            try:
                return step(self._connected())
            except sqlite.Error as error:
                code = getattr(error, "sqlite_errorcode", 0)
                again = code & 0xFF in _BUSY
                if not again:
                    self.close()
                    if code != _MOVED:
                        raise _trouble(code, error) from error
                if monotonic() + PAUSE + WAIT > self.deadline or waits.cut_short():
                    raise Trouble("busy", str(error)) from error
                waits.sleep(PAUSE)
            except (UnicodeDecodeError, OverflowError, MemoryError) as error:
                # SQLite's words on a damaged schema; a damaged record.
                self.close()
                word = "failed" if isinstance(error, MemoryError) else "corrupt"
                raise Trouble(word, type(error).__name__) from error
            except OSError as error:
                self.close()
                word = _ERRNOS.get(error.errno or 0, "failed")
                raise Trouble(word, error.strerror or "fails") from error

    def _connected(self) -> sqlite.Connection:
        """The connection to the file that is there now.  Raises OSError, Error, Trouble."""
        found = _identity(self._path)
        if self._connection is not None:
            if found == self._identity:
                return self._connection
            self.close()
        if found is None:
            found = _make(self._path)
        connection = _open(self._path, "rw")
        try:
            self._prepare(connection)
        except BaseException:
            _close(connection)
            raise
        self._connection, self._identity = connection, found
        if _size(self._path + b"-wal") > LOG_LIMIT:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return connection

    def _prepare(self, connection: sqlite.Connection) -> None:
        """See that it is a store, and ours; make one of an empty file."""
        if not _is_ours(connection):
            with _Transaction(connection, "BEGIN IMMEDIATE"):
                if not _is_ours(connection):
                    for kind in KINDS:
                        connection.execute(_TABLE.format(kind))
                        connection.execute(_INDEX.format(kind))
                    connection.execute(f"PRAGMA application_id = {APPLICATION}")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
        # Of a new one it is `delete`; to change that takes the file for itself alone.
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA max_page_count = {self._pages}")
        _get(connection, GREYLIST, [b""], 0)  # the log is opened with the first read


class ReadOnlyStore(NothingKept, SqliteStore):
    """The same for a dry run: no file is made, either."""

    __slots__ = ()

    def look(self, kind: str, keys: Sequence[bytes], now: int) -> list[Record | None]:
        try:
            return super().look(kind, keys, now)
        except _Missing:
            return [None for _ in keys]
        finally:
            self.close()  # now: what is closed does not come to be used after a fork

    def _connected(self) -> sqlite.Connection:
        if self._connection is None:
            if _identity(self._path) is None:
                raise _Missing("missing", "is not there")
            self._connection = _open(self._path, "ro")
            if not _is_ours(self._connection):
                raise _Missing("missing", "is empty")
        return self._connection


class _Missing(Trouble):
    """There is no store yet."""


def _open(path: bytes, mode: str) -> sqlite.Connection:
    name = "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02x}" for byte in path)
    name = f"file:{name}?mode={mode}"
    return sqlite.connect(name, timeout=WAIT, isolation_level=None, uri=True)


class _Transaction:
    """A transaction: kept where all went well, undone where not."""

    __slots__ = ("_connection", "_begin")

    def __init__(self, connection: sqlite.Connection, begin: str) -> None:
        self._connection = connection
        self._begin = begin

    def __enter__(self) -> None:
        self._connection.execute(self._begin)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _identity(path: bytes) -> tuple[int, int] | None:
    """(device, inode) of the file, or None where there is none.  Raises OSError, Trouble."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if found.st_mode & _TYPE != _REGULAR:
        raise Trouble("foreign", "is no regular file")
    return found.st_dev, found.st_ino


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _make(path: bytes) -> tuple[int, int]:
    """An empty file of mode 0600, whatever the umask; its identity.  Raises OSError, Trouble."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:  # now: by another process, or it is a link
        if os.lstat(path).st_mode & _TYPE == _LINK:
            raise Trouble("missing", "is a link that leads nowhere") from None
    else:
        try:
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
    found = _identity(path)
    if found is None:
        raise Trouble("missing", "was deleted")
    return found


def _is_ours(connection: sqlite.Connection) -> bool:
    """Is it a store?  False where it is empty.  Raises Trouble where it is something else."""
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return False
    if _number(connection, "application_id") != APPLICATION:
        raise Trouble("foreign", "is another program's database")
    version = _number(connection, "user_version")
    if version != VERSION:
        raise Trouble("foreign", f"has version {version} of its tables, not {VERSION}")
    return True


def _number(connection: sqlite.Connection, pragma: str) -> int:
    found = connection.execute("PRAGMA " + pragma).fetchone()[0]
    return found if isinstance(found, int) else -1


def _get(
    connection: sqlite.Connection, kind: str, keys: Sequence[bytes], now: int
) -> list[Record | None]:
    """The records of these keys, many by one statement: who counts asks for dozens."""
    found: dict[object, Record] = {}
    for start in range(0, len(keys), BATCH):
        some = keys[start : start + BATCH]
        command = _GET[kind] + ",".join("?" * len(some)) + ")"
        for key, *numbers in connection.execute(command, some):
            found[key] = _record(numbers)
    return [record if (record := found.get(key)) and record.ends > now else None for key in keys]


def _record(numbers: Sequence[object]) -> Record:
    since, count, ends = numbers
    if not (isinstance(since, int) and isinstance(count, int) and isinstance(ends, int)):
        raise Trouble("corrupt", "has a record that is none")
    return Record(since, count, ends)


def _close(connection: sqlite.Connection) -> None:
    try:
        connection.close()
    except sqlite.Error:
        pass  # it is as after a kill


def _trouble(code: int, error: Exception) -> Trouble:
    reason = str(error)
    if code & 0xFF == 14:
        reason += ": the file and its folder have to be writable"
    word = "corrupt" if code == _TRUNCATED else _WORDS.get(code & 0xFF, "failed")
    return Trouble(word, reason)
