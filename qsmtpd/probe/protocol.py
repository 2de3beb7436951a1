"""The protocols that the probe speaks, and their replies.

A check names the protocols it is made for (check.py), so that one for POP3 or
IMAP can stand in the same list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .connection import LINE_LIMIT, Babble, Connection

#: RFC 5321, 4.2: three digits, then a hyphen if more lines follow.  A bare LF
#: ends a line too: we are to test servers, not to refuse them.
_REPLY_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])([^\n]{0,%d}?))?\r?\n" % LINE_LIMIT)
#: No reply has more lines than this.
_REPLY_LINES = 200


@dataclass(frozen=True)
class Protocol:
    """What differs between the protocols that share SMTP's commands and replies."""

    name: str
    hello: bytes  # the command that asks for the list of extensions
    port: int


SMTP = Protocol("smtp", b"EHLO", 25)
LMTP = Protocol("lmtp", b"LHLO", 24)  # RFC 2033, 4.1


@dataclass(frozen=True)
class Reply:
    """A reply: its code, and the text of each line without code and line end."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def positive(self) -> bool:
        """2xx or 3xx (RFC 5321, 4.2.1)."""
        return self.code < 400

    def keywords(self) -> dict[bytes, bytes]:
        """What a greeting command's reply announces: KEYWORD -> parameters.

        The first line is the server's name (RFC 5321, 4.1.1.1).
        """
        found: dict[bytes, bytes] = {}
        for line in self.lines[1:]:
            keyword, _, parameters = line.upper().partition(b" ")
            if keyword.startswith(b"AUTH="):  # spelled so before RFC 2554
                keyword, parameters = b"AUTH", keyword[5:] + b" " + parameters
            found[keyword] = found.get(keyword, b"") + b" " + parameters
        return found

    def __str__(self) -> str:
        return str(self.code)


def read_reply(connection: Connection) -> Reply:
    """The next reply.  Raises Babble where it is none, or another Trouble."""
    lines: list[bytes] = []
    codes = set()
    while len(lines) < _REPLY_LINES:
        match = _REPLY_LINE.fullmatch(connection.line())
        if match is None:
            raise Babble("its answer is not a reply of this protocol")
        codes.add(match[1])
        lines.append(match[3] or b"")
        if match[2] != b"-":
            if len(codes) > 1:
                raise Babble("the lines of its reply have different codes")
            return Reply(int(match[1]), tuple(lines))
    raise Babble(f"a reply of more than {_REPLY_LINES} lines")
