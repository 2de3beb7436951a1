"""The argument of BDAT."""

from __future__ import annotations


def parse(argument: bytes) -> tuple[int, bool] | None:
    """The argument of BDAT -> (size in bytes, is it the last chunk?) (RFC 3030, 2).

    None for everything but 1 to 20 digits and, behind one space, `LAST` in any case:
    nobody knows how many bytes follow.
    """
    size, space, last = argument.partition(b" ")
    if not (1 <= len(size) <= 20 and size.isdigit()) or (space and last.upper() != b"LAST"):
        return None
    return int(size), bool(space)
