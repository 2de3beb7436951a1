"""What keeps a check from a verdict."""

from __future__ import annotations

#: The exit status after an error of the probe's own.
UNEXPECTED = 3


class CouldNotTest(Exception):
    """A check has no answer; the text says why."""


def unexpected(error: BaseException) -> str:
    """A sentence about an error that nothing here has foreseen."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = "" if where is None else f" ({where.tb_frame.f_code.co_name}, line {where.tb_lineno})"
    said = str(error).encode("ascii", "backslashreplace").decode()
    what = type(error).__name__ + (f": {said}" if said else "")
    return f"an error of starttls-probe itself, which says nothing of the peer: {what}{place}"
