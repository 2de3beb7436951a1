"""The date of a Date line -> seconds since 1970 (RFC 5322, 3.3 and 4.3).

Written here because importing email.utils costs a cold start 19 ms, and nearly
every message has a Date.  It is about as lenient: the words are known by what they
look like, so that the order of ctime() is read as well.
"""

from __future__ import annotations

from .header import unfold

#: Bytes of a value; more is no date.
LIMIT = 200
_MONTHS = b"jan feb mar apr may jun jul aug sep oct nov dec".split()


def parse_date(value: bytes) -> int | None:
    """The seconds since 1970, or None for what is no date.

    A zone in letters counts as UTC, which is at most half a day off.
    """
    if len(value) > LIMIT:
        return None
    day = month = year = clock = None
    zone = 0
    for word in _without_comments(unfold(value)).replace(b",", b" ").split():
        if b":" in word:
            clock = _clock(word) if clock is None else None
            if clock is None:
                return None
        elif word.isdigit():
            if day is None and len(word) <= 2:
                day = int(word)
            elif year is None and len(word) <= 4:
                year = _year(word)
            else:
                return None
        elif word[:1] in b"+-" and len(word) == 5 and word[1:].isdigit():
            zone = int(word[:1] + b"1") * (int(word[1:3]) * 3600 + int(word[3:]) * 60)
        elif month is None and word[:3].lower() in _MONTHS:
            month = _MONTHS.index(word[:3].lower()) + 1
    if day is None or month is None or year is None or clock is None:
        return None
    if not 1 <= day <= 31:
        return None
    return _days(year, month, day) * 86400 + clock - zone


def _without_comments(text: bytes) -> bytes:
    """Without `(…)`, of which some do not end."""
    while b"(" in text:
        before, _, comment = text.partition(b"(")
        text = before + b" " + comment.partition(b")")[2]
    return text


def _clock(word: bytes) -> int | None:
    """`hh:mm` or `hh:mm:ss`, in seconds."""
    parts = word.split(b":")
    if len(parts) not in (2, 3) or not all(0 < len(p) <= 2 and p.isdigit() for p in parts):
        return None
    hour, minute, second = [int(part) for part in (*parts, b"0")[:3]]
    if hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        return None
    return hour * 3600 + minute * 60 + second


def _year(word: bytes) -> int:
    """Years of two and three digits are those of RFC 5322, 4.3."""
    year = int(word)
    if len(word) == 4:
        return year
    return year + (2000 if len(word) <= 2 and year < 50 else 1900)


def _days(year: int, month: int, day: int) -> int:
    """Days from 1 January 1970 in the Gregorian calendar; a year begins in March."""
    if month < 3:
        year -= 1
        month += 12
    return (
        365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day - 719469
    )
