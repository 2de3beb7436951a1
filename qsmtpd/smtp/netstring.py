"""Netstrings (https://cr.yp.to/proto/netstrings.txt), as strict as they are meant.

`5:hello,`: the length in decimal digits without leading zeros, a colon, so many bytes, a
comma.  Pure: nothing is read here, and nothing is allocated by a length that somebody claims.
"""

from __future__ import annotations

from ..facts import Lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Malformed(Lost):
    """These bytes are no netstring: what follows cannot be told from anything else."""

    end = "netstring"


class TooLong(Malformed):
    """The length of a netstring is more than can be wanted."""

    end = "netstring-size"


def encode(text: bytes) -> bytes:
    """The netstring that holds this text."""
    return b"%d:%b," % (len(text), text)


def head_limit(most: int) -> int:
    """How many bytes may stand in front of a text of at most so many."""
    return len(b"%d:" % most)


def parse_head(head: bytes, most: int) -> tuple[int, int] | None:
    """(the length of the text, how many bytes stand before it); None where more has to come.

    `head` are at least the first bytes.  Raises Malformed, or TooLong where there are more
    than `most` bytes of text, as soon as that is seen.
    """
    digits, colon, _ = head[: head_limit(most)].partition(b":")
    if not colon and not digits:
        return None
    if not digits.isdigit() or (digits[0] == 0x30 and len(digits) > 1):
        raise Malformed
    if len(digits) >= head_limit(most):  # it is longer than `most` is
        raise TooLong
    if not colon:
        return None
    length = int(digits)
    if length > most:
        raise TooLong
    return length, len(digits) + 1


def split(data: bytes) -> Iterator[bytes]:
    """The texts of the netstrings that these bytes consist of.  Raises Malformed."""
    place, end = 0, len(data)
    while place < end:
        start = data[place : place + head_limit(end)]
        try:
            found = parse_head(start, end)
        except TooLong:
            raise Malformed from None  # longer than what it is in
        if found is None:
            raise Malformed
        length, used = found
        place += used
        if data[place + length : place + length + 1] != b",":
            raise Malformed
        yield data[place : place + length]
        place += length + 1
