"""scan: what the filters have in common that show a message to a scanner, at data_post.

A scanner is a line of their control file (net/daemonlist.py), with these options besides:

    size      how many bytes a message may have that is shown to it
    beyond    what holds for a larger one: pass, defer or refuse
    headers   yes or no: are lines added to the header, and such from outside removed?
"""

from __future__ import annotations

import posix as os

from ..decision import DECLINE, DECLINED, decline, defer, reject
from ..net.daemon import NoAnswer
from ..net.daemonlist import DEFER, PASS, REFUSE, entries
from .said import PRINTABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..config.settings import PluginSettings
    from ..decision import Decision
    from ..facts import Message
    from ..net.daemonlist import Listed

    Words = Mapping[bytes, tuple[bytes, ...]]

NONE: Words = {}
TIMEOUT = 60  # seconds
#: Bytes of the parts in which a message is sent.
CHUNK = 65536
SIZE_LIMIT = 10**12  # bytes
#: Of a field that is added: bytes of each of its lines (RFC 5322, 2.1.1: 998), and their number.
LINE_LIMIT, LINES_LIMIT = 900, 50
#: Whether a message is refused: as the scanner says, never, or from a score on.
VERDICT, NEVER = b"verdict", b"never"
SIZE, BEYOND, HEADERS, REJECT = b"size", b"beyond", b"headers", b"reject"

#: What holds for a message that is larger than what is scanned; the first is the default.
BEYOND_LIMIT: dict[bytes, Decision] = {
    PASS: DECLINED,
    DEFER: defer(b"message is too large to be checked now", 451, b"4.3.4"),
    REFUSE: reject(b"message is too large to be checked", 552, b"5.3.4"),
}


class Scanner:
    """A line of a control file.  Raises ValueError, which says what is wrong with it.

    `size` is the maximum in bytes; `beyond` what holds for a larger message.  `rejects`: does
    what the scanner says count for a refusal?  `score`: from which score on there is one,
    or None.
    """

    __slots__ = ("listed", "size", "beyond", "headers", "rejects", "score")

    def __init__(self, listed: Listed, size: int, verdict: bytes, own: Words) -> None:
        options = listed.options
        self.listed = listed
        for name, words in own.items():
            if words:
                _word(options, name, words)
        given = options.get(SIZE, b"%d" % size)
        if not (len(given) <= 20 and given.isdigit() and 0 < int(given) <= SIZE_LIMIT):
            raise ValueError(f"has a size that is no number from 1 to {SIZE_LIMIT}")
        self.size = int(given)
        self.beyond = BEYOND_LIMIT[_word(options, BEYOND, tuple(BEYOND_LIMIT))]
        self.headers = _word(options, HEADERS, (b"yes", b"no")) == b"yes"
        given = options.get(REJECT, verdict)
        self.rejects = given == VERDICT
        self.score = None if given in (VERDICT, NEVER) else _score(given)


def _score(text: bytes) -> float:
    from ..net.spamd import is_number

    if not is_number(text):
        raise ValueError("has a reject= that is none of verdict, never and a number")
    return float(text)


def _word(options: Mapping[bytes, bytes], name: bytes, words: tuple[bytes, ...]) -> bytes:
    """One of these, of which the first is the default."""
    given = options.get(name, words[0])
    if given not in words:
        which = b", ".join(words).decode("ascii")
        raise ValueError(f"has a {name.decode('ascii')}= that is none of {which}")
    return given


def scanners(
    settings: PluginSettings,
    file: str,
    size: int,
    own: Words = NONE,
    verdict: bytes = VERDICT,
) -> list[Scanner]:
    """Those of a control file; `size` and `verdict` hold where none is said.

    `own` are options of this file alone, each with the words that it takes, or () for any.
    Raises ControlError.
    """
    found: list[Scanner] = []

    def make(listed: Listed) -> None:
        found.append(Scanner(listed, size, verdict, own))

    entries(settings, file, TIMEOUT, (SIZE, BEYOND, HEADERS, *own), make)
    return found


def scan(
    settings: PluginSettings,
    scanners: list[Scanner],
    message: Message,
    ask: Callable[[Scanner, int, Iterator[bytes]], Decision],
) -> Decision:
    """What they make of a message: the first refusal, or all lines that they add.

    ask() is given a scanner, and the message by its size and its parts; it may raise NoAnswer.
    """
    assert message.file is not None
    size = os.fstat(message.file.fileno()).st_size
    lines: list[bytes] = []
    for scanner in scanners:
        name = scanner.listed.name
        if size > scanner.size:
            settings.log(server=name, result="too large", size=size)
            decision = scanner.beyond
        else:
            try:
                decision = ask(scanner, size, parts_of(message))
            except NoAnswer as error:
                settings.log(server=name, result=str(error))
                decision = scanner.listed.failed
        if decision.verdict != DECLINE:
            return decision
        lines += decision.header
    return decline(header=lines) if lines else DECLINED


def parts_of(message: Message) -> Iterator[bytes]:
    """A message that is in a file, wherever others have read to."""
    assert message.file is not None
    place = 0
    while part := os.pread(message.file.fileno(), CHUNK, place):
        place += len(part)
        yield part


def field(name: bytes, value: bytes) -> bytes:
    """A header field of what a daemon has said: printable ASCII, in lines that are not too long."""
    lines = [line.strip(b" \t\r") for line in value.split(b"\n", LINES_LIMIT)[:LINES_LIMIT]]
    shown = [line[:LINE_LIMIT].translate(PRINTABLE) for line in lines if line]
    return name + b": " + b"\n\t".join(shown)
