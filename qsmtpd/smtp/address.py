"""The address grammar of MAIL and RCPT, with qmail-smtpd's tolerance.

RFC 5321 (4.1.2) wants `FROM:<path>`.  qmail-smtpd has always taken a path
without brackets, a missing terminator and any bytes inside, and its users'
clients rely on that; what it rejects is only what would not fit its queue.
"""

from __future__ import annotations

_NO_VALUE = frozenset((*range(33), 0x3D, 127))


def parse_path(argument: bytes) -> tuple[bytes, bytes]:
    """The argument of MAIL or RCPT -> address, and what stands behind the path.

    With a `<` the path ends at `>`; without, it begins behind the first `:`
    and ends at a space.  A source route (`@a,@b:`) is dropped.  Quotes and
    backslashes are resolved: the address is as the queue wants it, unquoted.
    """
    bracket = argument.find(b"<")
    if bracket >= 0:
        terminator = b">"
        path = argument[bracket + 1 :]
    else:
        terminator = b" "
        path = argument.partition(b":")[2].lstrip(b" ")
    if path.startswith(b"@"):
        path = path.partition(b":")[2]
    if 0x22 not in path and 0x5C not in path:  # neither quotes nor backslashes
        address, _, rest = path.partition(terminator)
        return address, rest
    return _unquote(path, terminator[0])


def _unquote(path: bytes, terminator: int) -> tuple[bytes, bytes]:
    address = bytearray()
    escaped = quoted = False
    for index, byte in enumerate(path):
        if escaped:
            address.append(byte)
            escaped = False
        elif byte == terminator and not quoted:
            return bytes(address), path[index + 1 :]
        elif byte == 0x5C:  # backslash: the next byte stands for itself
            escaped = True
        elif byte == 0x22:  # double quote: begins or ends a quoted string
            quoted = not quoted
        else:
            address.append(byte)
    return bytes(address), b""


def parse_parameters(text: bytes) -> dict[bytes, bytes | None]:
    """What follows a path -> {KEYWORD: value or None} (RFC 5321, 4.1.2).

    Raises ValueError for what is no `keyword` or `keyword=value`, and for a
    keyword given twice.  Bytes over 127 in a value are for the caller to judge.
    """
    parameters: dict[bytes, bytes | None] = {}
    for word in text.split(b" "):
        if not word:
            continue
        name, equals, value = word.partition(b"=")
        keyword = name.upper()
        # esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
        if not keyword.replace(b"-", b"").isalnum() or keyword.startswith(b"-"):
            raise ValueError(word)
        # esmtp-value = 1*(%d33-60 / %d62-126 / UTF8-non-ascii): the last is RFC 6531's (3.3)
        if equals and (not value or not _NO_VALUE.isdisjoint(value)):
            raise ValueError(word)
        if keyword in parameters:
            raise ValueError(word)
        parameters[keyword] = value if equals else None
    return parameters


def parse_size(value: bytes | None) -> int:
    """The value of SIZE= in bytes: 1 to 20 digits (RFC 1870, 3); else ValueError."""
    if value is None or not 1 <= len(value) <= 20 or not value.isdigit():
        raise ValueError(value)
    return int(value)


def check_xtext(value: bytes | None) -> None:
    """The value of AUTH= (RFC 4954, 5; RFC 3461, 4): `<>` or xtext; else ValueError.

    What it decodes to may hold no control character: there is a program at
    the other end of every address.
    """
    if value is None:
        raise ValueError(value)
    for part in value.split(b"+")[1:]:
        code = part[:2]
        if len(code) != 2 or code.strip(b"0123456789ABCDEF") or int(code, 16) < 32:
            raise ValueError(value)


def split_literal(address: bytes) -> tuple[bytes, bytes] | None:
    """`box@[192.0.2.1]` or `box@[IPv6:…]` -> (b"box", b"192.0.2.1"), else None.

    The part in brackets is returned as it stands, without `IPv6:`; whether it
    is an address at all is for the reader to find out (RFC 5321, 4.1.3).
    """
    box, at, domain = address.rpartition(b"@")
    if not at or not (domain.startswith(b"[") and domain.endswith(b"]")):
        return None
    inside = domain[1:-1]
    if inside[:5].upper() == b"IPV6:":
        inside = inside[5:]
    return box, inside


def spellings(address: bytes, utf8: bool) -> tuple[bytes, ...]:
    """An address as it may stand in a list: in lower case.

    `utf8`, as of the envelope: with its domain in both forms as well; see
    smtp/utf8.py.  A domain that is preceded by `@` is such an address, too.
    """
    if not utf8:
        return (address.lower(),)
    from . import utf8 as unicode

    return unicode.spellings(address)


def boxes(box: bytes, utf8: bool) -> tuple[bytes, ...]:
    """The same of what is before the `@`, but as it is written, too."""
    if not utf8:
        return (box,)
    from . import utf8 as unicode

    return unicode.boxes(box)


def entry_forms(entry: bytes) -> tuple[bytes, ...]:
    """An entry of a list as spellings() are compared with it: in lower case, and in form C."""
    if entry.isascii():
        return (entry.lower(),)
    from . import utf8 as unicode

    return unicode.entry_forms(entry)


def forms(domain: bytes, utf8: bool) -> tuple[bytes, ...]:
    """The same of a domain without an `@`."""
    if not utf8:
        return (domain.lower(),)
    from . import utf8 as unicode

    return unicode.forms(domain)
