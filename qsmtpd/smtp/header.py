"""The header of a message -> its lines (RFC 5322, 2.2 and 3.6).

Pure, like the rest of this package.  What is no header line ends the header, as it
does for qmail, sendmail and Postfix: what follows is body, whatever it looks
like.  The one exception is the mbox line `From ` (or `>From `) that some
programs leave at the top; it is skipped.
"""

from __future__ import annotations

#: Of a longer header this much counts as header (bytes); the rest is body.
HEADER_LIMIT = 256 * 1024
#: The maximum number of lines that are parsed, with those of folded values.
LINE_LIMIT = 10_000
#: ftext (RFC 5322, 3.6.8): what a name consists of.
_NAME = bytes(byte for byte in range(33, 127) if byte != 0x3A)
_MBOX = (b"From ", b">From ")


def parse_header(text: bytes) -> list[tuple[bytes, bytes]]:
    """The header, with LF line ends -> (name, value) of each line, in their order.

    See split_header().
    """
    return split_header(text)[0]


def split_header(text: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """The same, and how many bytes of the text that is.

    The header ends at an empty line, at what is no header line, or where `text` does;
    the last value may then have been cut.  A name is as it was written, without
    the blanks that the obsolete syntax allows before the colon (RFC 5322, 4.5);
    a value lacks one space behind the colon and keeps its folds: LF and blank.
    """
    lines = text.split(b"\n", LINE_LIMIT)[:LINE_LIMIT]
    size = 0
    if is_mbox_line(lines[0]):
        size = len(lines.pop(0)) + 1
    header: list[tuple[bytes, bytes]] = []
    name, parts = b"", [b""]
    for line in lines:
        if line.startswith((b" ", b"\t")) and name:
            parts.append(line)
            size += len(line) + 1
            continue
        if name:
            header.append((name, b"\n".join(parts)))
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if not colon or not is_name(name):
            return header, size
        parts = [value.removeprefix(b" ")]
        size += len(line) + 1
    if name:
        header.append((name, b"\n".join(parts)))
    return header, min(size, len(text))


def is_mbox_line(line: bytes) -> bool:
    """Is it `From ` or `>From `, which only the first line may be, and not the field `From :`?"""
    return line.startswith(_MBOX) and not line[5:].lstrip(b" \t").startswith(b":")


def header_of(start: bytes) -> tuple[bytes, int]:
    """The beginning of a message, of over HEADER_LIMIT bytes if it has them -> its header.

    And where the body begins: behind the empty line, or with what is no header line.
    """
    end = (b"\n" + start).find(b"\n\n", 0, HEADER_LIMIT + 2)
    text = start[: HEADER_LIMIT if end < 0 else end]
    length = split_header(text)[1]
    return text[:length], length + (end >= 0 and length == len(text))


def is_name(name: bytes) -> bool:
    """May a header line have this name?"""
    return bool(name) and not name.translate(None, _NAME)


def unfold(value: bytes) -> bytes:
    """A value as one line (RFC 5322, 2.2.3), without blanks at its ends."""
    return value.replace(b"\n", b"").strip(b" \t")


def count_hops(header: bytes) -> int:
    """How many servers a message has passed: its Received and Delivered… lines (qmail-smtpd)."""
    lines = b"\n" + header.lower()
    return lines.count(b"\nreceived") + lines.count(b"\ndelivered")


def add_missing(header: bytes, lines: dict[bytes, bytes]) -> bytes:
    """The header with those of these lines that it lacks, at its end (RFC 6409, 8).

    `lines` maps the name of a line, in lower case, to the whole line with its
    LF.  What does not begin with a header line is no header, and left alone.
    """
    if header:
        first, colon, _ = header.partition(b"\n")[0].partition(b":")
        if not colon or not is_name(first.rstrip(b" \t")):
            return header
    names = {line.partition(b":")[0].rstrip(b" \t").lower() for line in header.split(b"\n")}
    missing = b"".join(line for name, line in lines.items() if name not in names)
    gap = b"\n" if missing and header and not header.endswith(b"\n") else b""
    return header + gap + missing
