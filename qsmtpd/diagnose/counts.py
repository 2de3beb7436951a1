"""`qsmtpd --counts`: who has sent how much, for people or as JSON; and forgetting it.

A name is shown as text that no terminal takes for anything else: a byte or a character that
cannot be seen is `\\xNN`, and so is a backslash.  A name is given as it is shown.  A shared
store does not know whose a count is: there it is a digest, unless its name was asked for.
"""

from __future__ import annotations

import os
from itertools import groupby, islice
from time import monotonic, time

from ..config.files import ControlFiles
from ..config.session import PolicySettings
from ..config.settings import Settings
from ..facts import ControlError
from ..filters.sendlimits import counter_name
from ..filters.sendlimitsfile import (
    CLIENT,
    KINDS,
    MESSAGES,
    RECIPIENTS,
    USER,
    WINDOWS,
    Rules,
    one_client,
    user_key,
)
from ..log import Log
from ..policy.store import COUNTS, StoreSettings, Trouble, open_store
from ..policy.store.counts import Counter, listed, look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ..policy.store import Store
    from ..policy.store.counts import Counted

USAGE = """\
usage: qsmtpd --counts [--json] [[user:]NAME|client:ADDRESS ...]
       qsmtpd --counts --reset [user:]NAME|client:ADDRESS ...
       qsmtpd --counts --reset --all
"""
#: Rows of the table that are aligned together; there may be a million.
BLOCK = 1000
HEAD = ("who", "window", "messages", "recipients", "more in")
RESET, ALL, JSON = b"--reset", b"--all", b"--json"
HIDDEN = b"#"


def show_counts(environ: Mapping[bytes, bytes], home: bytes, arguments: Sequence[bytes]) -> int:
    """Print or reset what the store has counted; the exit status.

    0: done; 1: of somebody to be reset nothing was counted; 111: it cannot be done.
    Raises OSError where it cannot be printed.
    """
    reset = [*arguments[1:]] if [*arguments[:1]] == [RESET] else []
    as_json = [*arguments[:1]] == [JSON]
    names = [] if reset else [*arguments[as_json:]]
    if any(name[:1] == b"-" for name in [*names, *reset] if name != ALL or names) or (
        ALL in reset and len(reset) > 1
    ):
        os.write(2, USAGE.encode())
        return 111
    lookup = Settings(ControlFiles(home), environ)
    path = b""
    try:
        found = StoreSettings(lookup)
        path = found.path
        store = open_store(found, read_only=True)  # which makes none
        store.deadline = monotonic() + found.budget
        if reset:
            if found.server is None:
                next(iter(store.records(COUNTS, 0)), None)  # Trouble, where there is none
            store.close()
            store = open_store(found)
            store.deadline = monotonic() + found.budget
            return _reset(store, reset)
        rows = _rows(store, found.budget, _rules(lookup), int(time()), names)
        if as_json:
            _print_json(rows)
        else:
            _print_table(rows)
        store.close()
    except ControlError as error:
        return _fail(f"{error.name}: {error.reason}")
    except ValueError:
        return _fail("one of these is no name")
    except Trouble as error:
        if found.server is not None:  # which is in the reason
            return _fail(f"{error.reason} ({error.word})")
        owner = _owner(path) if error.word in ("denied", "readonly") else ""
        return _fail(f"{shown(path)}: {error.word}: {error.reason}{owner}")
    return 0


class Row:
    """What somebody has sent in a window, with the limits.

    `values` (None: it is not counted) and `limits` (None: there is none) are by kind;
    `more_in`: in how many seconds there is room again, or None where there is some.
    """

    __slots__ = ("who", "window", "values", "limits", "more_in")

    def __init__(
        self, who: bytes, span: int, found: Mapping[bytes, Counted], limits: Mapping[bytes, int]
    ) -> None:
        self.who = shown(who)
        self.window = WINDOWS[span].decode()
        values = {kind: found[kind].value for kind in found}
        self.values = {kind: values.get(kind, 0 if kind in limits else None) for kind in KINDS}
        self.limits = {kind: limits.get(kind) for kind in KINDS}
        full = [kind for kind, most in limits.items() if values.get(kind, 0) >= most > 0]
        self.more_in = max((found[kind].left for kind in full), default=None)

    def cells(self) -> tuple[str, ...]:
        """As in the table."""
        return (
            self.who,
            self.window,
            *(_of(self.values[kind], self.limits[kind]) for kind in KINDS),
            "-" if self.more_in is None else _duration(self.more_in),
        )

    def facts(self) -> dict[str, str | int | None]:
        """As in JSON."""
        return {
            "who": self.who,
            "window": self.window,
            "messages": self.values[MESSAGES],
            "messages_limit": self.limits[MESSAGES],
            "recipients": self.values[RECIPIENTS],
            "recipients_limit": self.limits[RECIPIENTS],
            "more_in": self.more_in,
        }


def shown(who: bytes) -> str:
    """A name for a terminal."""
    text = who.decode("utf-8", "surrogateescape")
    return "".join(
        char
        if char.isprintable() and char != "\\"
        else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        for char in text
    )


def read(text: bytes) -> bytes:
    """A name as it is shown -> what it is.  Raises ValueError."""
    first, *others = text.split(b"\\x")
    found = [first]
    for other in others:
        digits = other[:2].lower()
        if len(digits) != 2 or digits.strip(b"0123456789abcdef"):
            raise ValueError(text)
        found += [bytes([int(digits, 16)]), other[2:]]
    return b"".join(found)


# -- inside ------------------------------------------------------------------


def _rules(lookup: Settings) -> Rules | None:
    """The limits, where the filter is on.  Raises ControlError."""
    for spec in PolicySettings(lookup).plugins:
        if spec.plugin == "sendlimits":
            return Rules(lookup.for_plugin(spec.name, spec.options, Log(2)))
    return None


def _rows(
    store: Store, budget: int, rules: Rules | None, now: int, names: Sequence[bytes]
) -> Iterator[Row]:
    """Of these names, or of all.  Raises Trouble, or ValueError of what is no name."""
    counts = _of_names(store, now, names) if names else listed(store, now)
    for who, counted in groupby(counts, lambda each: each[0].rpartition(b"\0")[0]):
        found: dict[int, dict[bytes, Counted]] = {span: {} for span in WINDOWS}
        for name, span, what in counted:
            kind = name.rpartition(b"\0")[2]
            if span in found and kind in KINDS and what.value:
                found[span][kind] = what
        # Whom a shared store hides may be anybody.
        limits = () if rules is None or who.startswith(HIDDEN) else rules.of_key(who)
        for span, values in found.items():
            if values:
                most = {limit.kind: limit.most for limit in limits if limit.span == span}
                yield Row(who, span, values, most)
        store.deadline = monotonic() + budget


def _of_names(
    store: Store, now: int, names: Sequence[bytes]
) -> Iterator[tuple[bytes, int, Counted]]:
    """As listed() says it."""
    for name in names:
        for who in _meant(read(name)):
            counters = _counters_of(who)
            for counter, what in zip(counters, look(store, now, counters), strict=True):
                yield counter.name, counter.span, what


def _print_table(rows: Iterable[Row]) -> None:
    rows = iter(rows)
    head: list[tuple[str, ...]] = [HEAD]
    while block := head + [row.cells() for row in islice(rows, BLOCK)]:
        widths = [max(map(len, column)) for column in zip(*block, strict=True)]
        if len(block) == 1 and head:
            _print("nothing is counted")
            return
        for who, window, *numbers in block:
            aligned = [cell.rjust(width) for cell, width in zip(numbers, widths[2:], strict=True)]
            _print("  ".join([who.ljust(widths[0]), window.ljust(widths[1]), *aligned]))
        head = []


def _print_json(rows: Iterable[Row]) -> None:
    import json

    between = '{"counts": [\n'
    for row in rows:
        _print(between + json.dumps(row.facts()), end="")
        between = ",\n"
    _print("\n]}" if between.startswith(",") else '{"counts": []}')


def _reset(store: Store, names: Sequence[bytes]) -> int:
    """Raises Trouble."""
    if ALL in names:
        store.remove(COUNTS)
        _print("nothing is counted any more")
        return 0
    status = 0
    for name in names:
        try:
            meant = read(name)
            forgotten = sum(_forget(store, who) for who in _meant(meant))
        except ValueError:
            status = 1
            _print(f"no name: {shown(name)}")
            continue
        status = status if forgotten else 1
        _print(f"{'reset' if forgotten else 'nothing was counted'}: {shown(meant)}")
    return status


def _meant(name: bytes) -> list[bytes]:
    """Who is meant: a client, and the network as which it is counted, or a user."""
    if name.startswith(HIDDEN):  # as a shared store shows them
        return [name]
    if not name.startswith(CLIENT):
        return [user_key(name.removeprefix(USER))]
    return [*dict.fromkeys((name, CLIENT + one_client(name.removeprefix(CLIENT))))]


def _forget(store: Store, who: bytes) -> int:
    """How many records there were of them.  Raises Trouble."""
    return store.remove(COUNTS, [key for counter in _counters_of(who) for key in counter.keys])


def _counters_of(who: bytes) -> list[Counter]:
    return [Counter(counter_name(kind, who), span) for kind in KINDS for span in WINDOWS]


def _of(value: int | None, limit: int | None) -> str:
    if value is None:
        return "-"
    return str(value) if limit is None else f"{value}/{limit}"


def _duration(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _owner(path: bytes) -> str:
    """Whose the store is, where that is not who asks."""
    import pwd

    try:
        user = os.stat(path).st_uid
    except OSError:
        return ""
    if user == os.geteuid():
        return ""
    try:
        return f" (it belongs to {pwd.getpwuid(user).pw_name})"
    except KeyError:
        return f" (it belongs to user {user})"


def _print(text: str, end: str = "\n") -> None:
    os.write(1, (text + end).encode("utf-8", "backslashreplace"))


def _fail(text: str) -> int:
    os.write(2, f"qsmtpd: {text}\n".encode("utf-8", "backslashreplace"))
    return 111
