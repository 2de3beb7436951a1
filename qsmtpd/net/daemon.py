"""A conversation with a daemon: over a UNIX or TCP socket, as the side that asks.

An address is as Postfix writes it: `unix:PATH`, `inet:HOST:PORT`, or the path alone.
All waits of a conversation have one time limit together, its answers one limit of
bytes, and the connection is never opened anew in the middle.
"""

from __future__ import annotations

import posix as os
import select
from time import monotonic

from .. import waits
from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Iterable
    from typing import NoReturn

    from ..config.settings import Settings

UNIX, INET, INET6 = "unix", "inet", "inet6"
#: Bytes of a path in sockaddr_un, with a NUL behind it (unix(7)).
PATH_LIMIT = 108
LOCALHOST = b"127.0.0.1"
_CHUNK = 65536  # bytes per read
#: How often a UNIX socket is tried whose queue of connections is full (seconds): there is
#: nothing to wait for (connect(2), EAGAIN).
_AGAIN = 0.01
CLOSED, TIMEOUT, TOO_LONG = "closed the connection", "timeout", "answers too long"
#: A verdict on the beginning of a message is none on the message.
EARLY = "answers before it has all of the message"


class NoAnswer(Exception):
    """The daemon cannot be reached, or gives no answer: str() says why, for the log."""


class Ended(NoAnswer):
    """It has closed the connection, or the connection has failed."""


class Address:
    """Where a daemon listens: `family` is UNIX, INET or INET6, `target` what connect() takes.

    `text` is as it was given.
    """

    __slots__ = ("text", "family", "target")

    def __init__(self, text: bytes, family: str, target: bytes | tuple[str, int]) -> None:
        self.text = text
        self.family = family
        self.target = target


def parse_address(text: bytes) -> Address:
    """An address of text without control characters; a relative path is one of the cwd.

    A host is an IP address, an IPv6 one in brackets, or `localhost`: a name would have to be
    looked up, without a deadline.  Raises ValueError, which says what is wrong.
    """
    kind, colon, rest = text.partition(b":")
    if colon and kind == b"inet":
        return _inet(text, rest)
    path = rest if colon and kind == b"unix" else text
    if not path:
        raise ValueError("names no socket")
    if len(path) >= PATH_LIMIT:
        raise ValueError(f"has a path of more than {PATH_LIMIT - 1} bytes")
    return Address(text, UNIX, path)


def _inet(text: bytes, rest: bytes) -> Address:
    import _socket  # socket.py costs several milliseconds

    host, _, port = rest.rpartition(b":")
    if not (0 < len(port) <= 5 and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("has no port from 1 to 65535 at its end")
    if host == b"localhost":
        host = LOCALHOST
    family, number = INET, _socket.AF_INET
    if host[:1] == b"[" and host[-1:] == b"]":
        family, number, host = INET6, _socket.AF_INET6, host[1:-1]
    try:
        name = host.decode("ascii")
        _socket.inet_pton(number, name)
    except (OSError, ValueError):
        raise ValueError("has no IP address, IPv6 in brackets, and no localhost") from None
    return Address(text, family, (name, int(port)))


def address_of(settings: Settings, file: str, variable: str) -> Address | None:
    """The address in a setting; None where it is not set, or the variable is empty.

    Raises ControlError.
    """
    text = settings.line(file, variable)
    if text is None:
        return None
    where, _ = settings.text(file, variable) or (variable, b"")
    if not text and where == variable:  # for some clients it is switched off
        return None
    try:
        return parse_address(text)
    except ValueError as error:
        raise ControlError(where, str(error)) from error


class Daemon:
    """A connection to a daemon.  Methods that wait raise NoAnswer or Shutdown.

    `seconds` is what all waits may take together, connecting included; what others do
    between them does not count.  `most` is how many bytes all answers may have.  After
    NoAnswer it is closed.  renew() begins another conversation on the same connection.
    `sent` is how many bytes were sent in all.
    """

    __slots__ = ("sent", "_socket", "_poll", "_left", "_room", "_input", "_committed")

    def __init__(self, address: Address, seconds: float, most: int) -> None:
        import _socket

        self.sent = 0
        self._committed = False
        self._left = seconds
        self._room = most
        self._input = bytearray()
        self._poll = select.poll()
        family = {UNIX: _socket.AF_UNIX, INET: _socket.AF_INET, INET6: _socket.AF_INET6}
        kind = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK
        try:
            self._socket: Socket = _socket.socket(family[address.family], kind)
        except OSError as error:
            raise NoAnswer(_reason(error)) from error
        try:
            self._poll.register(self._socket, select.POLLIN)
            if address.family != UNIX:
                self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            self._connect(address.target, _socket.SO_ERROR, _socket.SOL_SOCKET)
        except OSError as error:
            self.close()
            raise NoAnswer(_reason(error)) from error
        except BaseException:
            self.close()
            raise

    def _connect(self, target: bytes | tuple[str, int], option: int, level: int) -> None:
        """Raises OSError as well."""
        while True:
            try:
                self._socket.connect(target)
                return
            except BlockingIOError as error:
                if isinstance(target, tuple):
                    break  # it is under way
                if self._left <= 0:
                    raise NoAnswer(TIMEOUT) from error
            waits.check()
            began = monotonic()
            waits.sleep(min(_AGAIN, self._left))
            self._left -= monotonic() - began
        self._wait(select.POLLOUT)
        status = self._socket.getsockopt(level, option)
        if status:
            raise OSError(status, os.strerror(status))

    def renew(self, seconds: float, most: int) -> bool:
        """A new conversation on this connection: can there be one?

        Not where the daemon has closed it, or has said what nobody has asked.
        """
        self._left = seconds
        self._room = most
        if self._input or self._socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        try:
            return not poll.poll(0)
        except OSError:
            return False

    def commit(self) -> None:
        """What is sent from here on may be queued there: it is waited for, as for a queue program.

        A request to end cuts nothing short any more: there is no Shutdown.
        """
        self._committed = True

    def send(self, data: bytes) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            self._wait(select.POLLOUT)
            try:
                view = view[self._send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self._fail(_reason(error), Ended)

    def offer(self, parts: Iterable[bytes]) -> bool:
        """Send these, as long as it listens: False where it has spoken, or ended, before the last.

        What it has said can then be read.
        """
        for part in parts:
            view = memoryview(part)
            while view:
                self._wait(select.POLLIN | select.POLLOUT)
                if self._input or not self._silent():
                    return False
                try:
                    view = view[self._send(view) :]
                except BlockingIOError:
                    continue
                except OSError:  # read() says why, behind what there still is to read
                    return False
        return True

    def _send(self, view: memoryview) -> int:
        number = self._socket.send(view)
        self.sent += number
        return number

    def line(self) -> bytes:
        """The next line, without its LF."""
        searched = 0
        while True:
            found = self._input.find(b"\n", searched)
            if found >= 0:
                line = bytes(self._input[:found])
                del self._input[: found + 1]
                return line
            searched = len(self._input)
            if not self._read():
                self._fail(CLOSED, Ended)

    def exactly(self, number: int) -> bytes:
        """The next `number` bytes."""
        while len(self._input) < number:
            if len(self._input) + self._room < number:
                self._fail(TOO_LONG)
            if not self._read():
                self._fail(CLOSED, Ended)
        data = bytes(self._input[:number])
        del self._input[:number]
        return data

    def rest(self) -> bytes:
        """All that comes until the daemon closes the connection."""
        while self._read():
            pass
        data = bytes(self._input)
        self._input.clear()
        return data

    def keeps_still(self, seconds: float) -> bool:
        """Does it say nothing, and not close, for so long?  Raises Shutdown."""
        self._poll.modify(self._socket, select.POLLIN)
        deadline = monotonic() + seconds
        while True:
            late = monotonic() >= deadline  # we may have been stopped: one look more
            waits.check()
            if waits.wait(self._poll, deadline):
                return False
            if late:
                return True

    def end_input(self) -> None:
        """Nothing more is sent; what it says can still be read."""
        try:
            self._socket.shutdown(1)  # SHUT_WR
        except OSError:
            pass  # as of offer()

    def fileno(self) -> int:
        """Its descriptor; below 0 where it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection, whatever was under way."""
        self._socket.close()

    def _read(self) -> bool:
        """Read what comes next; False at the end."""
        while True:
            self._wait(select.POLLIN)
            data = self._receive()
            if data is not None:
                return bool(data)

    def _silent(self) -> bool:
        """Has it nothing to say, not even that it ends?"""
        return self._receive() is None

    def _receive(self) -> bytes | None:
        """What has come, which is kept; None where nothing has."""
        try:
            data = self._socket.recv(min(_CHUNK, self._room + 1))
        except BlockingIOError:
            return None
        except OSError as error:
            self._fail(_reason(error), Ended)
        self._room -= len(data)
        if self._room < 0:
            self._fail(TOO_LONG)
        self._input += data
        return data

    def _wait(self, event: int) -> None:
        """Wait until this can go on."""
        if self._socket.fileno() < 0:
            raise Ended(CLOSED)
        began = monotonic()
        deadline = began + self._left
        try:
            self._poll.modify(self._socket, event)
            while True:
                if self._committed:
                    deadline = waits.verdict(deadline)
                else:
                    waits.check()
                if monotonic() > deadline:  # who is always ready must not evade it
                    self._fail(TIMEOUT)
                if self._socket.fileno() in waits.wait(self._poll, deadline):
                    return
        except OSError as error:
            self._fail(_reason(error))
        finally:
            self._left -= monotonic() - began

    def _fail(self, reason: str, kind: type[NoAnswer] = NoAnswer) -> NoReturn:
        self.close()
        raise kind(reason)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
