"""The log: one line per decision, on fd 2, for multilog.

A line is `key=value` pairs.  A value with a byte outside 33..126, or with `=`
or `"`, or an empty one, is quoted: `"`, then \\xNN for what is not printable
ASCII and for `"` and `\\`, then `"`.  So a client can forge neither a line nor a
field.  The keys are in qsmtpd(8) and are an interface.

Logging never blocks and never fails: others share fd 2, so it is not made
non-blocking; a line is one write of at most 4,096 bytes, which a descriptor
that polls writable takes at once.  A line that cannot be written is dropped,
and the next one that can says how many were (`dropped=`).
"""

from __future__ import annotations

import posix as os
import select

_PLAIN = frozenset(range(33, 127)) - frozenset(b'="\\')
#: A longer value is cut; `...` then stands at its end.
VALUE_LIMIT = 256
LINE_LIMIT = 4096


class Log:
    """Writes lines to descriptor `fd`; `common` fields stand on every line."""

    __slots__ = ("_fd", "_poll", "_common", "dropped")

    def __init__(self, fd: int = 2, **common: bytes | str | int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._common = common
        self.dropped = 0

    def line(self, event: str, **fields: bytes | str | int | None) -> None:
        """Write one line; fields that are None are left out."""
        pairs: dict[str, bytes | str | int | None] = {"event": event, **self._common, **fields}
        if self.dropped:
            pairs["dropped"] = self.dropped
        text = b""
        for key, value in pairs.items():
            if value is not None:
                word = key.encode() + b"=" + _quote(value)
                if len(text) + len(word) >= LINE_LIMIT:
                    break  # a line is cut between fields
                text += b" " + word if text else word
        text += b"\n"
        try:
            ready = self._poll.poll(0)
            if ready and ready[0][1] & select.POLLOUT and os.write(self._fd, text) == len(text):
                self.dropped = 0
                return
        except OSError:
            pass
        self.dropped += 1


def log_trouble(
    log: Log, error: BaseException, reason: str | None = None, **fields: bytes | str
) -> None:
    """One line for an exception that should not be: what it is and where it came from."""
    trace, where = error.__traceback__, None
    # Where an alarm went off counts, not what then raised (see policy/guard.py).
    while trace is not None and trace.tb_frame.f_code.co_name != "_fire":
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    reason = message(error) if reason is None else reason
    log.line("trouble", error=type(error).__name__, reason=reason, where=where, **fields)


def message(error: BaseException) -> str:
    """What an exception says; one of a plugin's may not know that itself."""
    try:
        return str(error)
    except Exception:
        return "cannot say what is wrong"


def _quote(value: bytes | str | int) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode("ascii", "backslashreplace")
    cut = len(raw) > VALUE_LIMIT
    raw = raw[:VALUE_LIMIT]
    if raw and not cut and _PLAIN.issuperset(raw):
        return raw
    if not all(32 <= byte < 127 for byte in raw) or b'"' in raw or b"\\" in raw:
        raw = b"".join(
            b"\\x%02x" % byte if not 32 <= byte < 127 or byte in b'"\\' else bytes((byte,))
            for byte in raw
        )
    return b'"' + raw + (b"..." if cut else b"") + b'"'
