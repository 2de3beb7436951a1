"""The boundaries between the parts of a message (RFC 2046, 5.1.1), and lines that may be one."""

from __future__ import annotations

from .mimename import BeyondLimit

COUNT_LIMIT = 1000
LENGTH_LIMIT = 256  # bytes (RFC 2046, 5.1.1: 70)


class Boundaries:
    """Those of one message that have been named so far."""

    __slots__ = ("_known", "_lengths", "_starts")

    def __init__(self) -> None:
        self._known: dict[bytes, bool] = {}  # boundary -> of a digest?
        self._lengths: list[int] = []  # the greatest first
        self._starts: set[bytes] = set()  # what they begin with, as long as the shortest one

    def add(self, boundary: bytes, digest: bool) -> None:
        """One more; `digest`: of a multipart/digest.  Raises BeyondLimit."""
        if len(boundary) > LENGTH_LIMIT:
            raise BeyondLimit("boundary too long")
        if boundary not in self._known and len(self._known) >= COUNT_LIMIT:
            raise BeyondLimit("too many multiparts")
        self._known[boundary] = digest or self._known.get(boundary, False)
        if len(boundary) not in self._lengths:
            self._lengths = sorted([*self._lengths, len(boundary)], reverse=True)
            shortest = self._lengths[-1]
            self._starts = {one[:shortest] for one in self._known}
        else:
            self._starts.add(boundary[: self._lengths[-1]])

    def is_of_digest(self, boundary: bytes) -> bool:
        """Is it that of a multipart/digest?"""
        return self._known.get(boundary, False)

    def longest(self, text: bytes) -> bytes | None:
        """The longest one with which this begins."""
        for length in self._lengths:
            if length <= len(text) and text[:length] in self._known:
                return text[:length]
        return None

    def next_line(self, text: bytes, at: int, any_of_them: bool) -> int:
        """Where the next line begins that may separate parts, from here on, or the end.

        `any_of_them`: of those that begin with `--`.
        """
        if not self._starts and not any_of_them:
            return len(text)
        length = self._lengths[-1] if self._lengths else 0
        at = at if text.startswith(b"--", at) else text.find(b"\n--", at) + 1 or len(text)
        while at < len(text):
            if any_of_them:
                break
            # Most lines that begin with `--` are told by the first look.
            if text[at + 2 : at + 2 + length] in self._starts and (
                self.longest(text[at + 2 : at + 2 + self._lengths[0]]) is not None
            ):
                break
            at = text.find(b"\n--", at) + 1 or len(text)
        return at
