"""Command line -> verb and argument (RFC 5321, 4.1.1, as qmail-smtpd reads it)."""

from __future__ import annotations

#: What none of these is, may be meant for BDAT.
_PLAIN = frozenset(b"HELO EHLO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP STARTTLS AUTH".split())


class BareLF(Exception):
    """A LF without a CR before it, in a command or in a message, where that is not allowed."""


def content(line: bytes) -> bytes:
    """A command or a response without its line end, and without the blanks and tabs before that.

    One CR before the LF belongs to the line end.  RFC 5321, 4.1.1, wants white
    space there to be tolerated: clients send `AUTH LOGIN ` and mean no more than
    `AUTH LOGIN`.
    """
    if line.endswith(b"\n"):
        line = line[:-1]
        if line.endswith(b"\r"):
            line = line[:-1]
    return line.rstrip(b" \t")


def parse_command(line: bytes) -> tuple[bytes, bytes]:
    """Split a line, with or without its line end, into verb and argument.

    The verb is what stands before the first space, in upper case; only the
    space separates, a TAB is part of the verb.  Spaces before the argument
    are skipped.  But what anybody could mean for BDAT is one, with all of it as
    an argument that makes no sense: bytes may follow it that are no commands.
    """
    line = content(line)
    verb, _, argument = line.partition(b" ")
    # bytes.upper() knows ASCII only, so no foreign letter turns into a verb.
    verb = verb.upper()
    if verb in _PLAIN:
        return verb, argument.lstrip(b" ")
    start = line.lstrip(b" \t")
    if verb != b"BDAT" and start[:4].upper() == b"BDAT" and not start[4:5].isalnum():
        return b"BDAT", start
    return verb, argument.lstrip(b" ")
