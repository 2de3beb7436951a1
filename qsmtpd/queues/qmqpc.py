"""qsmtpd-qmqpc: a qmail-queue-compatible program that hands the message to a hub, by QMQP.

The hubs are those of control/qmqpservers.  It exits 0 only when one has said that it has the
message.  The next one is tried only while nothing of the message was sent: what was sent may be
queued there, whatever we hear of it.
"""

from __future__ import annotations

import posix as os

from ..config.files import ControlFiles, home, temporary
from ..config.settings import Settings
from ..facts import ControlError
from ..net import qmqp
from ..net.daemon import TIMEOUT, Daemon, NoAnswer
from .interface import (
    BAD_ENVELOPE,
    BUG,
    CHUNK,
    COMMUNICATION_FAILED,
    CONNECT_REJECTED,
    CONNECT_TIMEOUT,
    CUSTOM_TEXT,
    ENVELOPE,
    MESSAGE,
    NO_CONFIGURATION,
    NO_FILE,
    NO_NETWORK,
    PUT_OFF,
    READ_ERROR,
    REJECTED,
    NotQueued,
    addresses,
    checked,
    chunks,
    nameless,
    run,
    say,
    tell,
    write,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

NAME = "qsmtpd-qmqpc"
#: A longer message waits in a file.
HELD_LIMIT = 256 * 1024  # bytes
#: qmail-queue's convention for the text on the error descriptor.
TEXT_LIMIT = 255  # bytes

USAGE = """\
usage: qsmtpd-qmqpc         hand the message on fd 0 with the envelope on fd 1 to a hub
       qsmtpd-qmqpc --check say what is set, and whether the hubs can be reached
       qsmtpd-qmqpc --help | --version
"""


def main(arguments: list[str]) -> NoReturn:
    """The program."""
    run(NAME, USAGE, arguments, _work)


def _work(arguments: list[str]) -> int:
    environ = os.environ
    if arguments == ["--check"]:
        from ..diagnose.hubs import check  # now: a message does not want it

        return check(environ)
    if arguments:
        raise NotQueued(NO_CONFIGURATION, f"unknown argument {arguments[0]!r}")
    try:
        settings = Settings(ControlFiles(home(environ)), environ)
        hubs = qmqp.HubSettings(settings)
        channel = _channel(settings.number("errorfd", "ERROR_FD", 6, least=2, most=9))
    except ControlError as error:
        raise NotQueued(NO_CONFIGURATION, f"{error.name}: {error.reason}") from error
    request = Request()
    request.read(MESSAGE, ENVELOPE)
    return hand_over(request, hubs, channel)


def _channel(fd: int) -> int:
    """This descriptor, if it is the pipe for a text that whoever started us may have made; or -1.

    It has to be asked before there are descriptors of our own.
    """
    try:
        kind = os.fstat(fd).st_mode & 0o170000
    except OSError:
        return -1
    return fd if kind == 0o010000 else -1  # S_ISFIFO()


class Request:
    """What a hub is sent: the message, sender and recipients, each as a netstring, all in one.

    The lengths stand in front, so all has to be there before: in memory, or in a file without a
    name in TMPDIR, else /tmp.  Methods raise NotQueued.
    """

    __slots__ = ("_held", "_file", "_size", "_message_size")

    def __init__(self) -> None:
        self._held = bytearray()
        self._file = -1
        self._size = 0
        self._message_size = 0

    def read(self, message: int, envelope: int) -> None:
        """Read both descriptors to their ends."""
        for chunk in chunks(message):
            self._add(chunk)
        self._message_size = self._size
        recipients = -1
        self._add(b",")
        for address in addresses(envelope):
            self._add(b"%d:%b," % (len(address), address))
            recipients += 1
        if recipients < 1:  # QMQP has no request without one
            raise NotQueued(BAD_ENVELOPE, "the envelope has no recipient")

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        self._held += data
        if len(self._held) > HELD_LIMIT:
            if self._file < 0:
                what = "cannot make a file in " + temporary().decode("ascii", "backslashreplace")
                self._file = checked(NO_FILE, what, nameless, temporary())
            write(self._file, self._held)
            self._held.clear()

    def parts(self) -> Iterator[bytes]:
        """The request."""
        inner = b"%d:" % self._message_size
        start = b"%d:%b" % (len(inner) + self._size, inner)
        end = bytes(self._held) + b","
        place = 0
        while self._file >= 0 and (part := self._read(place)):
            place += len(part)
            yield start + part
            start = b""
        if place + len(end) != self._size + 1:
            raise NotQueued(READ_ERROR, "the file of the message is not what it was")
        yield start + end

    def _read(self, place: int) -> bytes:
        return checked(READ_ERROR, "cannot read", os.pread, self._file, CHUNK, place)


def hand_over(request: Request, settings: qmqp.HubSettings, channel: int) -> int:
    """Hand it to one of the hubs; the exit code.  Raises NotQueued.

    `channel` is the descriptor for the text of a hub that refuses, or -1.
    """
    deadline = qmqp.Deadline(settings)
    log = _Log(channel)
    failed = CONNECT_TIMEOUT
    for hub in qmqp.in_order(settings.hubs, settings.order):
        if not deadline.left():
            return CONNECT_TIMEOUT
        try:
            places = hub.addresses(deadline.to_connect())
        except NoAnswer as error:
            log.line(hub.text, f"is not found: {error}")
            failed = NO_NETWORK
            continue
        for place in places:
            if not deadline.left():
                return CONNECT_TIMEOUT
            try:
                daemon = Daemon(place, deadline.to_connect(), qmqp.ANSWER_LIMIT)
            except NoAnswer as error:
                log.line(place.text, f"cannot be reached: {error}")
                failed = CONNECT_TIMEOUT if str(error) == TIMEOUT else CONNECT_REJECTED
                continue
            try:
                daemon.renew(deadline.left(), qmqp.ANSWER_LIMIT)
                is_sent = daemon.offer(request.parts())
                if not is_sent:  # nor does the hub wait for the rest
                    daemon.end_input()
                verdict, text = qmqp.read_answer(daemon.exactly)
            except NoAnswer as error:
                if daemon.sent:
                    log.line(place.text, f"fails after {daemon.sent} bytes: {error}")
                    return COMMUNICATION_FAILED
                log.line(place.text, f"fails before anything was sent: {error}")
                failed = CONNECT_REJECTED
                continue
            finally:
                daemon.close()
            return _judge(log, place.text, verdict, text, is_sent)
    return failed


def _judge(log: _Log, hub: bytes, verdict: bytes, text: bytes, is_sent: bool) -> int:
    """The exit code for what a hub has answered."""
    if verdict == qmqp.TAKEN:
        if not is_sent:  # so it has not all of it
            log.line(hub, "says that it has the message, before it was sent")
            return COMMUNICATION_FAILED
        log.line(hub, "has it:", text)
        return 0
    code = {qmqp.REJECTED: REJECTED, qmqp.PUT_OFF: PUT_OFF}.get(verdict, BUG)
    log.line(hub, "rejects it:" if code == REJECTED else "puts it off:", text)
    return CUSTOM_TEXT if log.pass_on(verdict, text) else code


class _Log:
    """Where we say what happens: the log, and the channel for the text of a hub.

    Where that is descriptor 2, there is no log: all that is said is for the client.
    """

    __slots__ = ("_channel",)

    def __init__(self, channel: int) -> None:
        self._channel = channel

    def line(self, hub: bytes, what: str, text: bytes = b"") -> None:
        """A line about a hub, with what it has said."""
        if self._channel != 2:
            said = " " + _printable(text)[:TEXT_LIMIT] if text else ""
            say(f"{NAME}: {_printable(hub)} {what}{said}")

    def pass_on(self, verdict: bytes, text: bytes) -> bool:
        """Give the text of a refusal to whoever started us; False where that cannot be done."""
        if self._channel < 0 or len(text) < 2:  # fewer than three bytes are no text
            return False
        return tell(self._channel, (verdict + text)[:TEXT_LIMIT])


def _printable(text: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in text)
