"""Control files that list daemons: one a line, `ADDRESS [option=value ...]`.

The address is as Postfix writes it (see daemon.py).  Each list has the options

    name      what the daemon is called in the log; else its address
    timeout   how long a conversation with it may take (seconds)
    fail      what holds where it gives no answer: defer, pass or refuse

and may have others of its own.
"""

from __future__ import annotations

from ..config.settings import BYTE_ORDER_MARK
from ..decision import DECLINED, defer, reject
from .daemon import parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..config.settings import Settings
    from ..decision import Decision
    from .daemon import Address

#: What holds where a daemon gives no answer; the first is what holds if nothing is said.
DEFER, PASS, REFUSE = FAILURES = (b"defer", b"pass", b"refuse")
#: Each is asked by every client.
ENTRIES_LIMIT = 50
NAME_LIMIT = 64  # bytes
TIMEOUT_LIMIT = 3600  # seconds

_FAILED: dict[bytes, Decision] = {
    DEFER: defer(b"a mail filter gives no answer now", 451, b"4.3.0"),
    PASS: DECLINED,
    REFUSE: reject(b"a mail filter gives no answer", 554, b"5.3.0"),
}


class Listed:
    """A line: see above.  `options` are those of its list, each with the value it was given."""

    __slots__ = ("address", "name", "timeout", "fail", "options")

    def __init__(
        self,
        address: Address,
        name: bytes,
        timeout: float,
        fail: bytes,
        options: Mapping[bytes, bytes],
    ) -> None:
        self.address = address
        self.name = name
        self.timeout = timeout
        self.fail = fail
        self.options = options

    @property
    def failed(self) -> Decision:
        """What holds where it gives no answer."""
        return failed(self.fail)


def failed(fail: bytes) -> Decision:
    """What holds where there is no answer, by one of the words."""
    return _FAILED[fail]


def entries(
    settings: Settings,
    file: str,
    timeout: float,
    options: Iterable[bytes] = (),
    check: Callable[[Listed], object] | None = None,
) -> list[Listed]:
    """The lines of a control file; `timeout` holds where none is said.  Raises ControlError.

    `options` are the names of those that lines of this file may have besides; `check` is
    given each line, and raises ValueError where a value makes no sense.
    """
    found: list[Listed] = []
    for line in settings.lines(file) or ():
        try:
            if len(found) == ENTRIES_LIMIT:
                raise ValueError(f"is one more than {ENTRIES_LIMIT}")
            new = parse(line, timeout, options)
            if any(new.name == other.name for other in found):
                raise ValueError("has the name of another: name= gives it one of its own")
            if check is not None:
                check(new)
            found.append(new)
        except ValueError as error:
            raise settings.bad_entry(file, line, str(error)) from error
    return found


def parse(line: bytes, timeout: float, options: Iterable[bytes] = ()) -> Listed:
    """One line, as of entries().  Raises ValueError, saying what is wrong with it."""
    if any(byte < 32 and byte != 9 or byte == 127 for byte in line):
        raise ValueError("has a control character")
    if line.startswith(BYTE_ORDER_MARK):
        raise ValueError("begins with a byte-order mark")
    text, *words = [word for word in line.replace(b"\t", b" ").split(b" ") if word] or [b""]
    address = parse_address(text)
    said: dict[bytes, bytes] = {}
    for word in words:
        key, equals, value = word.partition(b"=")
        if not equals or not value:
            raise ValueError("has a word that is no option=value")
        if key not in (b"name", b"timeout", b"fail", *options):
            raise ValueError("has an option that there is not")
        if key in said:
            raise ValueError("has an option twice")
        said[key] = value
    name = said.pop(b"name", text)
    if name is not text and not (len(name) <= NAME_LIMIT and all(33 <= b < 127 for b in name)):
        raise ValueError(f"has a name that is not of 1 to {NAME_LIMIT} printable characters")
    seconds = said.pop(b"timeout", None)
    if seconds is not None:
        if not (len(seconds) <= 4 and seconds.isdigit() and 0 < int(seconds) <= TIMEOUT_LIMIT):
            raise ValueError(f"has a timeout that is no number from 1 to {TIMEOUT_LIMIT}")
        timeout = int(seconds)
    fail = said.pop(b"fail", DEFER)
    if fail not in FAILURES:
        raise ValueError("has a fail= that is none of defer, pass, refuse")
    return Listed(address, name, timeout, fail, said)
