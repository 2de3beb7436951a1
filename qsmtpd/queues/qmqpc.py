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
from ..net.qmqp import HubSettings
from ..net.qmqphandover import PUT_OFF, REJECTED, TAKEN, Outcome, Request, hand_over
from ..policy.held import Held, is_full
from .interface import (
    BAD_ENVELOPE,
    CUSTOM_TEXT,
    ENVELOPE,
    MESSAGE,
    NO_CONFIGURATION,
    NO_FILE,
    READ_ERROR,
    WRITE_ERROR,
    NotQueued,
    addresses,
    chunks,
    run,
    say,
    tell,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

NAME = "qsmtpd-qmqpc"
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
        hubs = HubSettings(settings)
        channel = _channel(settings.number("errorfd", "ERROR_FD", 6, least=2, most=9))
    except ControlError as error:
        raise NotQueued(NO_CONFIGURATION, f"{error.name}: {error.reason}") from error
    log = _Log(channel)
    try:
        request = _read(MESSAGE, ENVELOPE)
    except OSError as error:
        raise _no_room(error) from error
    try:
        outcome = hand_over(request, hubs, log.line)
    except OSError as error:
        raise NotQueued(READ_ERROR, f"cannot read: {error.strerror}") from error
    return _exit_code(outcome, log)


def _no_room(error: OSError) -> NotQueued:
    """What is wrong with the file of a long message."""
    if is_full(error):
        return NotQueued(WRITE_ERROR, f"cannot write: {error.strerror}")
    place = temporary().decode("ascii", "backslashreplace")
    return NotQueued(NO_FILE, f"cannot make a file in {place}: {error.strerror}")


def _channel(fd: int) -> int:
    """This descriptor, if it is the pipe for a text that whoever started us may have made; or -1.

    It has to be asked before there are descriptors of our own.
    """
    try:
        kind = os.fstat(fd).st_mode & 0o170000
    except OSError:
        return -1
    return fd if kind == 0o010000 else -1  # S_ISFIFO()


def _read(message: int, envelope: int) -> Request:
    """What both descriptors have, to their ends.  Raises NotQueued."""
    request = Request(Held())
    for chunk in chunks(message):
        request.message(chunk)
    recipients = -1

    def counted() -> Iterator[bytes]:
        nonlocal recipients
        for address in addresses(envelope):
            recipients += 1
            yield address

    request.envelope(counted())
    if recipients < 1:  # QMQP has no request without one
        raise NotQueued(BAD_ENVELOPE, "the envelope has no recipient")
    return request


def _exit_code(outcome: Outcome, log: _Log) -> int:
    """The exit code for what has become of it."""
    if outcome.code == TAKEN:
        log.line(outcome.hub, "has it:", outcome.text)
    elif outcome.code in (REJECTED, PUT_OFF):
        refused = outcome.code == REJECTED
        log.line(outcome.hub, "rejects it:" if refused else "puts it off:", outcome.text)
        if log.pass_on(b"D" if refused else b"Z", outcome.text):
            return CUSTOM_TEXT
    return outcome.code


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
        said = (verdict + text)[:TEXT_LIMIT]
        if self._channel < 0 or len(said) < 3 or not any(32 < byte < 127 for byte in said[1:]):
            return False  # qmail-smtpd makes no text of so little, and qsmtpd none of blanks
        return tell(self._channel, said)


def _printable(text: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in text)
