"""A store on a Redis-protocol server (Redis, Valkey): for several machines.

A record is a string, "since count ends", which the server forgets when it ends; a step is
WATCH, MGET and, where something changes, MULTI, SET, EXEC: where another has come between, it
is done again.  What is sent is sent once: only a question that changes nothing is asked
again, on a new connection where the one that was kept has died.

Whose a record is cannot be read by others on that server: see _name().

Not by the library `redis`: its import takes ten times the CPU time of a cold session,
and its time limit is one of each read, its answers without one of their size.
"""

from __future__ import annotations

import posix as os
from _blake2 import blake2b
from time import monotonic

from ... import waits
from ...facts import Shutdown
from ...net.daemon import CLOSED, TIMEOUT, TOO_LONG, Daemon, Ended, NoAnswer
from ...net.resp import Failure, Nonsense, command, read_reply
from . import NAMED, NothingKept, Record, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ...net.resp import Reply
    from . import Change
    from .address import Server

#: After a failure of the network nobody is asked for so long (seconds): the next sessions of
#: this process do not wait again.
PAUSE = 10.0
#: A connection that nobody has used for so long is not trusted any more (seconds): what is
#: between may have forgotten it, and would answer nothing.
IDLE = 60.0
#: Another one has come between: pauses before the next attempt, growing (seconds).
_FIRST, _LONGEST = 0.001, 0.05
#: Bytes that replies may have: in all, and for each key that is asked for.
_ROOM, _PER_KEY = 65536, 128
#: A listing asks for so many keys at once, and SCAN looks at about so many.
BATCH = 500
#: And ends after so many times.
_SCANS = 100_000
_DIGEST, _MARK, _HEX = 16, b"#", b"0123456789abcdef"
_NUMBER = 19  # digits
#: The first word of an error reply, and what it is for our log.
_WORDS = {
    b"LOADING": "busy", b"BUSY": "busy", b"MASTERDOWN": "busy", b"TRYAGAIN": "busy",
    b"NOAUTH": "denied", b"WRONGPASS": "denied", b"NOPERM": "denied",
    b"READONLY": "readonly", b"MISCONF": "readonly", b"NOREPLICAS": "readonly",
    b"OOM": "full",
    b"MOVED": "foreign", b"ASK": "foreign", b"CLUSTERDOWN": "foreign", b"CROSSSLOT": "foreign",
    b"WRONGTYPE": "foreign",
}  # fmt: skip


class RedisStore:
    """See Store in __init__.py.  `prefix` begins every key; `secret`: see _name().

    `sockets` are the descriptors that stay open.
    """

    __slots__ = (
        *("deadline", "_server", "_prefix", "_secret", "_daemon", "_used"),
        *("_pause_until", "_failure"),
    )
    descriptors = 0  # of files

    def __init__(self, server: Server, prefix: bytes, secret: bytes = b"") -> None:
        self.deadline = 0.0
        self._server = server
        self._prefix = prefix
        self._secret = secret
        self._daemon: Daemon | None = None
        self._used = 0.0
        self._pause_until = 0.0
        self._failure = Trouble("failed", "")

    @property
    def sockets(self) -> list[int]:
        return [] if self._daemon is None else [self._daemon.fileno()]

    def update(
        self, kind: str, keys: Sequence[bytes], now: int, change: Change
    ) -> list[Record | None]:
        names = [self._name(kind, key) for key in keys]
        pause = _FIRST
        while True:
            # What was watched for a step that changed nothing is not watched any more.
            *_, found = self.ask([(b"UNWATCH",), (b"WATCH", *names), (b"MGET", *names)], len(names))
            records = self._records(found, len(names), now)
            becomes = change(records)
            writes: list[tuple[bytes, ...]] = []
            for name, old, new in zip(names, records, becomes, strict=True):
                if new is not old:
                    writes.append(_write(name, new, now))
            if not writes:
                return [*becomes]
            *_, done = self.ask([(b"MULTI",), *writes, (b"EXEC",)], len(writes), bound=True)
            if done is not None:
                self._expect_no_failure(self._list(done, len(writes)))
                return [*becomes]
            if monotonic() + pause > self.deadline:
                raise self._trouble("busy", "others have changed the same all the time")
            waits.sleep(pause * _fraction())
            pause = min(2 * pause, _LONGEST)

    def look(self, kind: str, keys: Sequence[bytes], now: int) -> list[Record | None]:
        names = [self._name(kind, key) for key in keys]
        (found,) = self.ask([(b"MGET", *names)], len(names))
        return self._records(found, len(names), now)

    def records(self, kind: str, now: int) -> Iterator[tuple[bytes, Record]]:
        """Names are hidden in them: `#`, and hexadecimal digits.

        As long as what is asked for at once takes no longer than the deadline was away, it
        goes on.
        """
        budget = self.deadline - monotonic()
        names = sorted(self._names(kind))
        start = len(self._begin(kind))
        for place in range(0, len(names), BATCH):
            batch = names[place : place + BATCH]
            self.deadline = monotonic() + budget
            (found,) = self.ask([(b"MGET", *batch)], len(batch))
            for name, record in zip(batch, self._records(found, len(batch), now), strict=True):
                if record is not None:
                    yield _MARK + name[start:], record

    def remove(self, kind: str, keys: Sequence[bytes] | None = None) -> int:
        budget = self.deadline - monotonic()
        names = [*self._names(kind)] if keys is None else [self._name(kind, key) for key in keys]
        removed = 0
        for place in range(0, len(names), BATCH):
            self.deadline = monotonic() + budget
            (number,) = self.ask([(b"DEL", *names[place : place + BATCH])], 0)
            removed += number if isinstance(number, int) else 0
        return removed

    def close(self) -> None:
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.close()

    def ask(
        self, commands: Sequence[tuple[bytes, ...]], keys: int, bound: bool = False
    ) -> list[Reply]:
        """The replies to these commands, of which none is an error.  Raises Trouble.

        `keys`: of so many there are values in them.  `bound`: they belong to those before,
        so only the same connection will do.
        """
        if monotonic() < self._pause_until:
            raise Trouble(self._failure.word, self._failure.reason)
        wire = [command(*words) for words in commands]
        room = _ROOM + _PER_KEY * keys
        try:
            replies = self._kept(wire, room, bound)
            if replies is None:
                self.close()
                first = self._first_words()
                self._daemon = Daemon(self._server.address, self._left(), room)
                replies = self._talk(self._daemon, [*first, *wire], len(first))
        except Shutdown as error:
            self.close()
            raise Trouble("busy", "this process is asked to end") from error
        except NoAnswer as error:
            raise self._failed(error) from error
        self._used = monotonic()
        return replies

    # -- inside ------------------------------------------------------------

    def _kept(self, wire: list[bytes], room: int, bound: bool) -> list[Reply] | None:
        """The same by the connection that there is; None where it cannot be used any more."""
        daemon = self._daemon
        good = daemon is not None and (bound or monotonic() - self._used < IDLE)
        if daemon is None or not good or not daemon.renew(self._left(), room):
            if bound:
                raise Ended(CLOSED)
            return None
        try:
            return self._talk(daemon, wire)
        except Ended:
            if bound:
                raise
            return None

    def _talk(self, daemon: Daemon, wire: list[bytes], first: int = 0) -> list[Reply]:
        """The replies, but for those to the `first` words."""
        daemon.send(b"".join(wire))
        # What is said to the first words may quote the password.
        try:
            replies = [read_reply(daemon) for _ in wire]
        except Nonsense:
            if first:
                raise Nonsense("answers nonsense") from None
            raise
        for each in replies[:first]:
            if isinstance(each, Failure):
                word = _WORDS.get(each.word, "failed")
                raise self._trouble(word, "refuses the user, the password or the database")
        self._expect_no_failure(replies[first:])
        return replies[first:]

    def _records(self, reply: Reply, number: int, now: int) -> list[Record | None]:
        """So many records, which have not ended."""
        values = self._list(reply, number)
        records = [None if value is None else self._record(value) for value in values]
        return [None if record is None or record.ends <= now else record for record in records]

    def _record(self, value: Reply) -> Record:
        parts = value.split(b" ") if isinstance(value, bytes) else []
        digits = [part[1:] if part[:1] == b"-" else part for part in parts]
        if len(parts) != 3 or not all(each.isdigit() and len(each) <= _NUMBER for each in digits):
            raise self._trouble("foreign", "has a value that is no record")
        return Record(*map(int, parts))

    def _list(self, reply: Reply, number: int) -> list[Reply]:
        if not isinstance(reply, list) or len(reply) != number:
            raise self._strange()
        return reply

    def _strange(self) -> Trouble:
        return self._trouble("foreign", "answers something else than it was asked for")

    def _expect_no_failure(self, replies: Iterable[Reply]) -> None:
        """Raises Trouble, of the first of those that are errors."""
        for each in replies:
            if isinstance(each, Failure):
                raise self._trouble(_WORDS.get(each.word, "failed"), each.text)

    def _trouble(self, word: str, reason: str) -> Trouble:
        """With the server in front; the next question finds no connection of this one."""
        self.close()
        return Trouble(word, f"{self._server.name}: {reason}")

    def _first_words(self) -> list[bytes]:
        server = self._server
        words = []
        if server.password is not None:
            user = [server.user] if server.user else []
            words.append(command(b"AUTH", *user, server.password))
        if server.database:
            words.append(command(b"SELECT", b"%d" % server.database))
        return words

    def _left(self) -> float:
        left = self.deadline - monotonic()
        if left <= 0:
            raise Trouble("busy", "there is no time left for it")
        return left

    def _failed(self, error: NoAnswer) -> Trouble:
        word = "failed" if self._daemon is not None else "missing"
        if isinstance(error, Nonsense) or str(error) == TOO_LONG:
            word = "foreign"
        elif str(error) == TIMEOUT:
            word = "busy"
        self._pause_until = monotonic() + PAUSE
        self._failure = self._trouble(word, str(error))
        return self._failure

    def _begin(self, kind: str) -> bytes:
        """How the names of a table begin."""
        return b"%b:%b:" % (self._prefix, kind.encode("ascii"))

    def _name(self, kind: str, key: bytes) -> bytes:
        """What a key is called on the server: whose it is, is a digest.

        With a secret nobody can find out by trying whom it stands for; without one, who
        tries all addresses can.
        """
        who, nul, rest = key.partition(b"\0") if kind in NAMED else (key, b"", b"")
        if who[:1] == _MARK and len(who) == 1 + 2 * _DIGEST and not who[1:].strip(_HEX):
            hidden = who[1:]  # as records() says it
        else:
            hidden = blake2b(who, digest_size=_DIGEST, key=self._secret).hexdigest().encode()
        return b"%b%b%b%b" % (self._begin(kind), hidden, nul, rest)

    def _names(self, kind: str) -> set[bytes]:
        """Of all records of a table."""
        budget = self.deadline - monotonic()
        names: set[bytes] = set()
        seen: set[bytes] = set()
        begin = self._begin(kind)
        cursor, pattern = b"0", begin + b"*"
        while True:
            self.deadline = monotonic() + budget
            words = b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % BATCH
            # Where the table of the server is being enlarged, it gives more than it was asked for.
            (said,) = self.ask([words], 16 * BATCH)
            following, found = self._list(said, 2)
            if not isinstance(following, bytes) or not isinstance(found, list):
                raise self._strange()
            names.update(
                each for each in found if isinstance(each, bytes) and each.startswith(begin)
            )
            cursor = following
            if cursor == b"0":
                return names
            if cursor in seen or len(seen) > _SCANS:
                raise self._strange()  # or it would have no end
            seen.add(cursor)


class ReadOnlyRedis(NothingKept, RedisStore):
    """The same for a dry run."""

    __slots__ = ()

    def look(self, kind: str, keys: Sequence[bytes], now: int) -> list[Record | None]:
        try:
            return super().look(kind, keys, now)
        finally:
            self.close()


def _write(name: bytes, record: Record | None, now: int) -> tuple[bytes, ...]:
    """The command that makes this of a record.

    When it ends is said as a time from now: so the server's clock is not asked.
    """
    if record is None or record.ends <= now:
        return b"DEL", name
    value = b"%d %d %d" % (record.since, record.count, record.ends)
    return b"SET", name, value, b"PX", b"%d" % ((record.ends - now) * 1000)


def _fraction() -> float:
    """From 1/2 to 1, so that not all come again at once."""
    return 0.5 + int.from_bytes(os.urandom(1)) / 512
