"""QMQP as the side that hands over: the hubs of control/qmqpservers, and what one answers.

The protocol is https://cr.yp.to/proto/qmqp.html.
"""

from __future__ import annotations

import posix as os
from time import monotonic

from ..config.settings import BYTE_ORDER_MARK
from ..facts import ControlError
from ..smtp.netstring import Malformed, parse_head
from .daemon import INET, INET6, TIMEOUT, Address, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..config.settings import Settings

FILE = "qmqpservers"
PORT = 628
#: Each may be tried for every message.
HUBS_LIMIT = 50
LISTED, ROTATED = ORDERS = ("listed", "rotated")
#: The text of an answer: more than any hub says (bytes).
TEXT_LIMIT = 99_999
#: An answer, and what one read can bring behind it (bytes).
ANSWER_LIMIT = TEXT_LIMIT + 2 * 65536
#: What the first byte of an answer says.
TAKEN, PUT_OFF, REJECTED = b"K", b"Z", b"D"
NO_ANSWER = "gives an answer that is none of QMQP"
_NAME_LIMIT = 253  # bytes, as of every domain name
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class Hub:
    """A line of control/qmqpservers: `host` is a name, or an IP address; `text` is for the log."""

    __slots__ = ("text", "host", "port", "family")

    def __init__(self, text: bytes, host: str, port: int, family: str | None) -> None:
        self.text = text
        self.host = host
        self.port = port
        self.family = family  # that of the address; None: a name

    def addresses(self, seconds: float) -> list[Address]:
        """Where it listens; a name is looked up, for so long.  Raises NoAnswer."""
        if self.family is not None:
            return [Address(self.text, self.family, (self.host, self.port))]
        return _look_up(self, seconds)


class HubSettings:
    """The hubs, and how they are asked.  Raises ControlError."""

    __slots__ = ("hubs", "order", "timeout", "connect_timeout")

    def __init__(self, settings: Settings) -> None:
        self.hubs = hubs(settings)
        self.order = settings.choice("qmqpcorder", "QMQPCORDER", ORDERS)
        #: Less than queuetimeout: who is killed cannot say what became of the message.
        self.timeout = settings.number("qmqpctimeout", "QMQPCTIMEOUT", 480, least=1)
        self.connect_timeout = settings.number("qmqpcconnect", "QMQPCCONNECT", 10, least=1)


def hubs(settings: Settings) -> list[Hub]:
    """The lines of control/qmqpservers.  Raises ControlError, also where there is none."""
    found: list[Hub] = []
    lines = settings.lines(FILE) or []
    if len(lines) > HUBS_LIMIT:
        raise ControlError("control/" + FILE, f"has {len(lines)} entries, more than {HUBS_LIMIT}")
    for line in lines:
        try:
            found.append(parse_hub(line))
        except ValueError as error:
            raise settings.bad_entry(FILE, line, str(error)) from error
    if not found:
        raise ControlError("control/" + FILE, "is missing or has no entry: there is no hub")
    return found


def parse_hub(line: bytes) -> Hub:
    """ADDRESS, NAME, ADDRESS:PORT, NAME:PORT, [IPv6] or [IPv6]:PORT, an IPv6 address also alone.

    Raises ValueError, saying what is wrong with it.
    """
    if line.startswith(BYTE_ORDER_MARK):
        raise ValueError("begins with a byte-order mark")
    host, colon, digits = line, b"", b""
    if line[:1] == b"[":
        host, bracket, rest = line[1:].partition(b"]")
        if not bracket or (rest and rest[:1] != b":"):
            raise ValueError("has a [ without its ], or something between ] and the port")
        colon, digits = rest[:1], rest[1:]
        if not _is_address(INET6, host):
            raise ValueError("has no IPv6 address in its brackets")
        return Hub(line, host.decode("ascii"), _port(colon, digits), INET6)
    if line.count(b":") == 1:
        host, colon, digits = line.partition(b":")
    elif b":" in line:
        if not _is_address(INET6, line):
            raise ValueError("is no IPv6 address; with a port it is [ADDRESS]:PORT")
        return Hub(b"[%b]" % line, line.decode("ascii"), PORT, INET6)
    port = _port(colon, digits)
    if _is_address(INET, host):
        return Hub(line, host.decode("ascii"), port, INET)
    labels = host.removesuffix(b".").split(b".")
    if not all(labels) or len(host) > _NAME_LIMIT or not _LETTERS.issuperset(host):
        raise ValueError("is no address and no name, with or without :PORT behind it")
    # What the system's resolver would take for a part of an address (inet_aton(3)).
    if labels[-1].isdigit() or labels[-1][:2].lower() == b"0x":
        raise ValueError("is no whole IPv4 address")
    return Hub(line, host.decode("ascii"), port, None)


def _port(colon: bytes, digits: bytes) -> int:
    if not colon:
        return PORT
    if not (0 < len(digits) <= 5 and digits.isdigit() and 0 < int(digits) < 65536):
        raise ValueError("has no port from 1 to 65535 behind its colon")
    return int(digits)


def _is_address(family: str, host: bytes) -> bool:
    import _socket

    try:
        number = _socket.AF_INET if family == INET else _socket.AF_INET6
        _socket.inet_pton(number, host.decode("ascii"))
    except (OSError, ValueError):
        return False
    return True


def _look_up(hub: Hub, seconds: float) -> list[Address]:
    """By the system's resolver, so /etc/hosts counts; in a thread, for it has no deadline."""
    import _socket
    import _thread

    found: list[Any] = []
    error = "has no address"
    done = _thread.allocate_lock()
    done.acquire()

    def ask() -> None:
        nonlocal error
        try:
            found.extend(_socket.getaddrinfo(hub.host, hub.port, 0, _socket.SOCK_STREAM))
        except OSError as failed:
            error = failed.strerror or str(failed)
        except UnicodeError:
            error = "is no name"
        done.release()

    try:
        _thread.start_new_thread(ask, ())
    except RuntimeError:
        raise NoAnswer("no thread can be started") from None
    if not done.acquire(timeout=min(max(seconds, 0.0), _thread.TIMEOUT_MAX)):
        raise NoAnswer(TIMEOUT)
    families = {_socket.AF_INET: INET, _socket.AF_INET6: INET6}
    addresses = []
    for number, _, _, _, (host, port, *_) in found:
        if number in families:
            where = b"[%b]" if number == _socket.AF_INET6 else b"%b"
            text = b"%b (%b)" % (hub.text, where % host.encode("ascii"))
            addresses.append(Address(text, families[number], (host, port)))
    if not addresses:
        raise NoAnswer(error)
    return addresses


def in_order(hubs: list[Hub], order: str) -> list[Hub]:
    """The order in which they are tried: as listed, or from a random one on, and round."""
    if order == LISTED or len(hubs) == 1:
        return hubs
    # Not by the process id: where each message takes an even number of processes, half are left.
    first = int.from_bytes(os.urandom(4), "big") % len(hubs)
    return hubs[first:] + hubs[:first]


class Deadline:
    """The seconds that all hubs may take together, and each to be reached."""

    __slots__ = ("_end", "_connect")

    def __init__(self, settings: HubSettings) -> None:
        self._end = monotonic() + settings.timeout
        self._connect = settings.connect_timeout

    def left(self) -> float:
        """For the rest."""
        return max(0.0, self._end - monotonic())

    def to_connect(self) -> float:
        """For one address."""
        return min(self._connect, self.left())


def read_answer(exactly: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """The answer: TAKEN, PUT_OFF or REJECTED, and the text behind it.

    It is one netstring, of which exactly(n) reads n bytes.  Raises NoAnswer where it is none, or
    says none of these, and what exactly() raises.  What follows it is not read: a hub that has
    said that it has the message, has it.
    """
    head = b""
    try:
        while (found := parse_head(head, TEXT_LIMIT)) is None:
            head += exactly(1)
    except Malformed:
        raise NoAnswer(NO_ANSWER) from None
    text = exactly(found[0] + 1)
    if text[-1:] != b"," or text[:1] not in (TAKEN, PUT_OFF, REJECTED):
        raise NoAnswer(NO_ANSWER)
    return text[:1], text[1:-1]
