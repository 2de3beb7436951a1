"""The log: one line per decision, on descriptor 2, for multilog.

A line is `key=value` pairs.  A value with a byte outside 33..126, or with `=`
or `"`, or an empty one, is quoted: `"`, then \\xNN for what is not printable
ASCII and for `"` and `\\`, then `"`.  So a client can forge neither a line nor a
field.  The keys are in qsmtpd(8) and are an interface.

Logging never blocks and never fails.  A line that cannot be written is dropped,
and the next one that can says how many were (`dropped=`).
"""

from __future__ import annotations

import posix as os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping
    from typing import Protocol

_ONE_LINE = b"?" * 32 + bytes(range(32, 127)) + b"?" * 129  # 256 bytes: what each becomes
#: Likewise: a value that this changes cannot stand within quotes as it is; this, without them.
_PRINTABLE = _ONE_LINE.replace(b'"', b"?").replace(b"\\", b"?")
_PLAIN = _PRINTABLE.replace(b" ", b"?").replace(b"=", b"?")
#: LOGFORMAT -> the events that a plugin logs in that form instead, the words that
#: its readers look for, anywhere in any line, and that plugin.
FORMATS: dict[str, tuple[frozenset[str], tuple[bytes, ...], str]] = {
    "qsmtpd": (frozenset(), (), ""),
    "spamcontrol": (frozenset(("refused", "auth")), (b"accept", b"reject"), "spamcontrollog"),
}
#: A longer value is cut; `...` then stands at its end.
VALUE_LIMIT = 256
#: Of a write, which a descriptor that polls writable takes at once (POSIX: PIPE_BUF).
WRITE_LIMIT = 4096
#: Of a line, without an LF before and behind it.
LINE_LIMIT = WRITE_LIMIT - 2
_LF = 10
#: Of so many values a log remembers how they stand in a line.
_KNOWN_LIMIT = 100
_NONE, _OTHERS = -1, -2  # of terminals

if TYPE_CHECKING:

    class Output(Protocol):
        """Where lines go, without waiting."""

        def write(self, line: bytes) -> bool:
            """Write one line, given without its LF; False where that cannot be."""


class Descriptor:
    """Lines go to a descriptor, which others share: so it is not made non-blocking."""

    __slots__ = ("_fd", "_poll", "_stump", "_terminal")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._stump = False  # the end of the line before is missing: the disk was full
        self._terminal: int | None = None

    def settle(self) -> None:
        """Open what this will want, before the descriptors of this process are looked at."""
        if self._terminal is None:
            self._terminal = _terminal(self._fd)

    def write(self, line: bytes) -> bool:
        """Write one line, of at most LINE_LIMIT bytes; see Output."""
        text = b"\n" + line + b"\n" if self._stump else line + b"\n"
        if self._terminal is None:
            self.settle()
        written = 0
        try:
            if self._terminal is None or self._terminal == _NONE:
                if self._is_writable():
                    written = os.write(self._fd, text)
            elif self._terminal >= 0:
                written = os.write(self._terminal, text)
            else:
                while written < len(text) and self._is_writable():
                    written += os.write(self._fd, text[written : written + 1])
        except OSError:
            pass
        if written:
            self._stump = text[written - 1] != _LF
        return written == len(text)

    def _is_writable(self) -> bool:
        ready = self._poll.poll(0)
        return bool(ready and ready[0][1] & select.POLLOUT)


def _terminal(fd: int) -> int:
    """A terminal that polls writable takes one byte: so a descriptor of our own, non-blocking.

    Or _NONE where this is no terminal, _OTHERS where it is another user's.
    """
    if not os.isatty(fd):
        return _NONE
    try:
        return os.open(os.ttyname(fd), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return _OTHERS


#: What is for descriptor 2 goes here.
_standard: Output = Descriptor(2)


def redirect(output: Output) -> Output:
    """From here on what is for descriptor 2 goes elsewhere; returns where it went before."""
    global _standard
    before, _standard = _standard, output
    return before


def settle() -> None:
    """See Descriptor.settle(); for descriptor 2."""
    if isinstance(_standard, Descriptor):
        _standard.settle()


def write(line: bytes) -> bool:
    """One line of any form for descriptor 2, without its LF; see Output."""
    return _standard.write(line[:LINE_LIMIT])


class Log:
    """Writes lines to descriptor `fd`; the `common` fields stand on every line.

    `form` is one of FORMATS: what is logged in another form is not written here.
    """

    __slots__ = ("_write_line", "_common", "_known", "dropped", "form")

    def __init__(self, fd: int = 2, **common: bytes | str | int) -> None:
        self._write_line = write if fd == 2 else Descriptor(fd).write
        self._common = _fields(common, ())
        self._known: dict[bytes, bytes] = {}  # value -> as it stands in a line
        self.dropped = 0
        self.form = "qsmtpd"

    def begin(self, pid: int, ip: bytes) -> None:
        """Another session: this process, with a client of this address."""
        self._common = b" pid=%d ip=%b" % (pid, ip)  # it is one, or `unknown` (net/ucspi.py)

    def line(self, event: str, tail: bytes = b"", /, **fields: bytes | str | int | None) -> None:
        """Write one line; fields that are None are left out.

        `tail` stands behind them: what needs no quotes, each with a blank before it.
        """
        silenced, words, _ = FORMATS[self.form]
        if event in silenced:
            return
        if self.dropped:
            fields["dropped"] = self.dropped
        start = b"event=%b%b" % (event.encode(), self._common)
        if fields:
            start += _fields(fields, words, LINE_LIMIT - len(start) - len(tail))
        if self._write_line(start + tail):
            self.dropped = 0
        else:
            self.dropped += 1

    def quoted(self, value: bytes) -> bytes:
        """A value as it stands in a line, for its tail; one that is there again and again."""
        found = self._known.get(value)
        if found is None:
            found = _quote(value, FORMATS[self.form][1])
            if len(self._known) < _KNOWN_LIMIT:
                self._known[value] = found
        return found

    def raw(self, text: bytes) -> None:
        """Write one line of another form, without its LF; what it must not hold is `?` then."""
        if not self._write_line(text[:LINE_LIMIT].translate(_ONE_LINE)):
            self.dropped += 1


def log_hang(log: Log, plugin: str, hook: str) -> None:
    """The line of a plugin that does not stop at its time limit, and so ends the session."""
    log.line("trouble", error="Overdue", reason="does not stop", plugin=plugin, hook=hook)


def log_trouble(
    log: Log,
    error: BaseException,
    file: str | None = None,
    **fields: bytes | str,
) -> None:
    """One line for an exception that should not be: what it is and where it came from.

    `file` is where somebody would look first: its last line on the way counts.
    """
    trace, where, found = error.__traceback__, None, False
    # Where an alarm went off counts, not the handler that raised (policy/timelimit.py).
    while trace is not None and trace.tb_frame.f_code.co_name != "_on_alarm":
        name = trace.tb_frame.f_code.co_filename
        if name == file or not found:
            where = f"{name}:{trace.tb_lineno}"
        found = found or name == file
        trace = trace.tb_next
    reason = message(error)
    log.line("trouble", error=type(error).__name__, reason=reason, where=where, **fields)


def message(error: BaseException) -> str:
    """What an exception says; one of a plugin's may not know that itself."""
    try:
        return str(error)
    except Exception:
        return "cannot say what is wrong"


def places(text: bytes, words: tuple[bytes, ...]) -> set[int]:
    """Where these words, given in small letters, begin in a text; case does not matter."""
    found = set()
    text = text.lower()
    for word in words:
        at = text.find(word)
        while at >= 0:
            found.add(at)
            at = text.find(word, at + 1)
    return found


def _fields(
    fields: Mapping[str, bytes | str | int | None], words: tuple[bytes, ...], most: int = LINE_LIMIT
) -> bytes:
    """These fields, a blank before each, in at most so many bytes: it is cut between fields."""
    parts = []
    for key, value in fields.items():
        if value is not None:
            quoted = _quote(value, words if key != "verdict" else ())
            field = b" %b=%b" % (key.encode(), quoted)
            most -= len(field)
            if most < 0:
                break
            parts.append(field)
    return b"".join(parts)


def _quote(value: bytes | str | int, words: tuple[bytes, ...] = ()) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode("ascii", "backslashreplace")
    if raw and not words and raw.translate(_PLAIN) == raw and len(raw) <= VALUE_LIMIT:
        return raw  # nearly always
    end = b'"'
    if len(raw) > VALUE_LIMIT:
        raw, end = raw[:VALUE_LIMIT], b'..."'
    hidden = places(raw, words) if words else None
    if not hidden:
        if raw and raw.translate(_PLAIN) == raw and end == b'"':
            return raw
        if raw.translate(_PRINTABLE) == raw:
            return b'"%b%b' % (raw, end)
    return b'"%b%b' % (b"".join(_escaped(raw, hidden or ())), end)


def _escaped(raw: bytes, hidden: Container[int]) -> Iterator[bytes]:
    for place, byte in enumerate(raw):
        plain = _PRINTABLE[byte] == byte and place not in hidden
        yield bytes((byte,)) if plain else b"\\x%02x" % byte
