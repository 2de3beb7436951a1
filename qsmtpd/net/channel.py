"""The channel: the only owner of what carries the client's bytes, and of unread ones.

Bytes that have arrived and were not yet used are in one buffer, here; STARTTLS
discards them here and nowhere else.  Output waits until the next read that
would block, so that the replies to a pipelined group leave in one write
(RFC 2920, 3.2).  Every wait has a deadline on the monotonic clock.
"""

from __future__ import annotations

from time import monotonic

from .. import waits
from ..facts import Lost
from .descriptors import CHUNK, Gone, Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .transport import Transport

#: Of a command line that is too long, at most this is skipped (bytes).
SKIP_LIMIT = 16 * 1024 * 1024
TIMEOUT = 1200.0  # seconds; qmail-smtpd's
DAY = 86400.0
GOODBYE = 5.0  # seconds
START = 64  # bytes of a line that is too long that LineTooLong holds
NOTHING: dict[bytes, int] = {}


class SessionOver(Timeout):
    """The session as a whole took too long."""


class LineTooLong(Exception):
    """A line beyond its limit, with its `start`; what is left of it is skipped."""

    def __init__(self, start: bytes) -> None:
        super().__init__()
        self.start = start


class Channel:
    """Lines and chunks from the client, replies to it.

    `timeout` (seconds) bounds each read of data, each whole line and each
    write; `session` bounds all of it together; `rate` is for what comes after the
    end.  `helper`: another process stands between us and the client.  Methods that
    wait raise Gone, Timeout or SessionOver, and those that read, Shutdown.  Tests
    bring a clock and a sleep (seconds) of their own.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "timeout",
        "rate",
        "bare_lf",
        "helper",
        "transport",
        "_input",
        "_searched",
        "_skipped",
        "_output",
        "_end",
        "_data_start",
        "_data_bytes",
        "_data_rate",
        "_clock",
        "_sleep",
    )

    def __init__(
        self,
        transport: Transport,
        timeout: float = TIMEOUT,
        session: float = DAY,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], None] = waits.sleep,
    ) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.timeout = timeout
        self.rate = 500
        self.bare_lf = False  # has a line, returned or skipped, ended in LF without CR?
        self.helper = False
        self.transport = transport
        self._input = bytearray()
        self._searched = 0  # bytes at the beginning of the input that hold no LF
        self._skipped = 0  # bytes thrown away of a line that is too long
        self._output: list[bytes] = []
        self._clock = clock
        self._sleep = sleep
        self._end = clock() + session
        self._data_start = 0.0
        self._data_bytes = 0
        self._data_rate = 0

    def limit(
        self, timeout: float, session: float, rate: int = 500, since: float | None = None
    ) -> None:
        """Set the bounds (seconds, and bytes per second); the session's counts from now.

        Or from `since`, a time on the monotonic clock.
        """
        self.timeout = timeout
        self.rate = rate
        self._end = (self._clock() if since is None else since) + session

    # -- output ------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Queue bytes for the client; they leave with the next flush."""
        self._output.append(data)

    def flush(self) -> None:
        """Send what is queued."""
        output = self._output
        if output:
            data = output[0] if len(output) == 1 else b"".join(output)
            self._output = []
            deadline = self._clock() + self.timeout
            if deadline > self._end:
                deadline = self._end
            try:
                self.transport.write(data, deadline)
            except Timeout as error:
                if self._clock() >= self._end:
                    raise SessionOver from error
                waits.check()
                raise Gone from error  # who does not read will not read an excuse either
            self.bytes_out += len(data)

    def close(self) -> None:
        """Send what is queued, and the transport's own goodbye, which has little time."""
        self.flush()
        try:
            self.transport.close(self._clock() + min(self.timeout, GOODBYE))
        except Timeout as error:
            raise Gone from error

    def drain(self, clean: bool) -> None:
        """Nothing more will be said: let the client come to its end.  Raises nothing.

        Not after a `clean` end with nothing unread, unless there is a helper.
        """
        wait = self.helper or not clean or bool(self._input)
        self.transport.drain(wait, 0 if self.helper else self.rate)

    def pause(self, seconds: float) -> None:
        """Send what is queued, then let the client wait."""
        self.flush()
        self._sleep(max(0.0, min(seconds, self._end - self._clock())))

    def speaks(self, seconds: float) -> bool:
        """Send what is queued; has any input come, or does some come in time (seconds)?

        The end of the input is none.
        """
        self.flush()
        if not self._input:
            try:
                self._input += self._read(min(self._clock() + seconds, self._end))
            except SessionOver:
                raise
            except (Timeout, Gone):
                return False
        return True

    # -- input -------------------------------------------------------------

    def line(self, limit: int, longer: dict[bytes, int] = NOTHING) -> bytes:
        """The next line, with its LF.  The whole of it has to come in `timeout`.

        `longer` has other limits for lines that begin with certain bytes, in
        upper or lower case.

        Raises LineTooLong as soon as more than `limit` bytes stand before the
        CRLF; the next call then skips the rest of that line, in flat memory,
        and raises Lost where it has no end.
        """
        waits.check()  # what has come already is not looked at, either
        deadline = self._deadline()
        if self._skipped:
            self._skip(deadline)
        elif not self._input:
            data = self._read(deadline)
            if data.find(b"\n") == len(data) - 1 and len(data) <= limit:
                # Nearly always: one line, and the client waits for the answer.
                self.bare_lf = self.bare_lf or data[-2:-1] != b"\r"
                return data
            self._input += data
        while True:
            found = self._input.find(b"\n", self._searched)
            if found >= 0:
                self._searched = 0
                length = found - (found > 0 and self._input[found - 1] == 0x0D)
                self.bare_lf = self.bare_lf or length == found
                if length > limit and length > self._other_limit(longer):
                    start = bytes(self._input[:START])
                    del self._input[: found + 1]
                    raise LineTooLong(start)
                line = bytes(self._input[: found + 1])
                del self._input[: found + 1]
                return line
            # One byte more may be the CR of the line end.
            if len(self._input) > max(limit, self._other_limit(longer)) + 1:
                start = bytes(self._input[:START])
                self._skipped = len(self._input) - 1
                del self._input[:-1]  # the last one may be that CR, too
                self._searched = 0
                raise LineTooLong(start)
            self._searched = len(self._input)
            self._input += self._read(deadline)

    def _other_limit(self, longer: dict[bytes, int]) -> int:
        for prefix, limit in longer.items():
            if self._input[: len(prefix)].upper() == prefix:
                return limit
        return 0

    def starts_with(self, prefixes: Mapping[int, Iterable[bytes]]) -> bytes | None:
        """The one of these prefixes, by their first bytes, that the input begins with, or None.

        Waits only as long as the bytes that have come leave it open, and are no line: for
        whoever has sent a line may wait for an answer.
        """
        deadline = self._clock() + self.timeout
        if not self._input:
            self._input += self._read(deadline)
        candidates = prefixes.get(self._input[0])
        while candidates:
            for prefix in candidates:
                if self._input.startswith(prefix):
                    return prefix
            start = bytes(self._input)
            if b"\n" in start:
                break
            candidates = [prefix for prefix in candidates if prefix.startswith(start)]
            if candidates:
                self._input += self._read(deadline)
        return None

    def start_data(self, rate: int) -> None:
        """From here on chunk() wants `rate` bytes per second, once `timeout` has passed.

        So does line(), for a message in chunks, until end_data().
        """
        self._data_start = self._clock()
        self._data_bytes = 0
        self._data_rate = rate

    def end_data(self) -> None:
        """There is no message under way any more."""
        self._data_rate = 0

    def chunk(self, most: int = CHUNK) -> bytes:
        """The bytes that are there, or the next ones to come: at least one, and at most `most`."""
        waits.check()
        if not self._input:
            data = self._read(self._deadline())
            data, self._input = data[:most], bytearray(data[most:])
        else:
            data = bytes(self._input[:most])
            del self._input[:most]
            self._searched = 0
        self._data_bytes += len(data)
        return data

    def unread(self, data: bytes) -> None:
        """Give back the end of a chunk: it is the next input."""
        self._input[:0] = data
        self._searched = 0

    @property
    def pending(self) -> int:
        """How many bytes were read and not used."""
        return len(self._input)

    def discard(self) -> int:
        """Throw away all that was read and not used; return how many bytes."""
        discarded = len(self._input)
        self._drop_input()
        self._skipped = 0
        return discarded

    def change_transport(self, transport: Transport) -> None:
        """From here on the bytes come and go another way.

        What came the old way must have been discarded, and replies flushed.
        """
        assert not self._input and not self._output
        self.transport = transport

    # -- inside ------------------------------------------------------------

    def _deadline(self) -> float:
        """Until when the next line, or the next bytes of a message, must have come."""
        deadline = self._clock() + self.timeout
        if self._data_rate:
            earned = self._data_bytes / self._data_rate
            deadline = min(deadline, self._data_start + max(self.timeout, earned))
        return deadline

    def _drop_input(self) -> None:
        self._input = bytearray()
        self._searched = 0

    def _skip(self, deadline: float) -> None:
        while True:
            found = self._input.find(b"\n")
            if found >= 0:
                self.bare_lf = self.bare_lf or self._input[found - 1] != 0x0D
                del self._input[: found + 1]
                self._skipped = 0
                return
            self._skipped += len(self._input) - 1
            del self._input[:-1]
            if self._skipped > SKIP_LIMIT:
                flood = Lost()
                flood.end = "line-without-end"
                raise flood
            self._input += self._read(deadline)

    def _read(self, deadline: float) -> bytes:
        if self._output:
            self.flush()
        if self._clock() >= self._end:
            raise SessionOver  # also for a client that has always more to say
        if (self._searched or self._skipped) and self._clock() >= deadline:
            raise Timeout  # likewise, within a line
        if deadline > self._end:
            deadline = self._end
        try:
            data = self.transport.read(deadline)
        except Timeout as error:
            if self._clock() >= self._end:
                raise SessionOver from error
            raise
        if not data:
            raise Gone
        self.bytes_in += len(data)
        return data
