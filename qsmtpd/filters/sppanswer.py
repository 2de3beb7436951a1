"""What a plugin of qmail-spp has written: commands, one a line, of a letter and its argument.

    A          no further plugin in this session
    N          no further plugin for this command of SMTP
    O          the same, and qmail's own check is left out
    E text     this reply, with its code
    R text     the same, and the connection is closed
    D          the connection is closed
    LM text, LR text, LD text
               this reply to the next MAIL, RCPT or DATA
    P text     a line in front of the reply
    H line     a line for the header
    C address  takes the place of the sender or the recipient
    S name=value, U name
               sets or unsets a variable for the programs that follow

What stands behind one of the first six is not read.  Source: the documentation of
qmail-spp 0.42.
"""

from __future__ import annotations

from ..decision import Decision, check_header_line, defer, drop, is_status, reject

ACCEPT, NEXT, OK, ERROR, REJECT, DROP = b"A", b"N", b"O", b"E", b"R", b"D"
_ALONE, _WITH_TEXT = (ACCEPT, NEXT, OK, DROP), (ERROR, REJECT)
#: Of L: at which command it is said.
LATER = b"M", b"R", b"D"
LINE_LIMIT = 998  # bytes of a line of a header (RFC 5322, 2.1.1)
CLOSING = drop(b"closing the connection", 421, b"4.7.0")


class Answer:
    """All of it.  `end` is the last command, b"" where there is none of these, `text` its text.

    `changed` are variables, None for one that is to be unset; `address` is that of C, or None.
    """

    __slots__ = ("end", "text", "printed", "later", "header", "address", "changed")

    def __init__(self) -> None:
        self.end = b""
        self.text = b""
        self.printed: list[bytes] = []
        self.later: list[tuple[bytes, bytes]] = []
        self.header: list[bytes] = []
        self.address: bytes | None = None
        self.changed: dict[bytes, bytes | None] = {}

    @property
    def decision(self) -> Decision | None:
        """The refusal that E, R or D is, with what was printed in front of it; else None."""
        if self.end in _WITH_TEXT:
            return refusal([*self.printed, self.text], self.end == REJECT)
        if self.end != DROP:
            return None
        try:
            return refusal(self.printed, True)
        except ValueError:
            return CLOSING


def parse(output: bytes) -> Answer:
    """What a plugin has written.  Raises ValueError: what is no command, or has no sense."""
    found = Answer()
    for line in output.split(b"\n"):
        line = line.removesuffix(b"\r")
        letter, rest = line[:1], line[1:]
        if not line:
            continue
        if b"\0" in line:
            raise ValueError("a NUL")
        if letter in _ALONE and not rest.strip(b" \t"):
            found.end = letter
            break
        if letter in _WITH_TEXT:
            found.end, found.text = letter, rest
            break
        if letter == b"L" and rest[:1] in LATER:
            refusal([rest[1:]])
            found.later.append((rest[:1], rest[1:]))
        elif letter == b"P":
            found.printed.append(rest)
        elif letter == b"H":
            _add_line(found.header, rest)
        elif letter == b"C":
            found.address = rest
        elif letter == b"S" and b"=" in rest[1:]:
            name, _, value = rest.partition(b"=")
            if not name:
                raise ValueError("a variable without a name")
            found.changed[name] = value
        elif letter == b"U" and rest and b"=" not in rest:
            found.changed[rest] = None
        else:
            raise ValueError("no command")
    for line in found.header:
        try:
            check_header_line(line)
        except ValueError:
            raise ValueError("what is no line of a header") from None
    if found.end in _WITH_TEXT:
        refusal([found.text])
    return found


def _add_line(header: list[bytes], line: bytes) -> None:
    """A line, or one more of the last one where it begins with a blank."""
    if len(line) > LINE_LIMIT:
        raise ValueError("a line of a header that is too long")
    if line[:1] in (b" ", b"\t") and header:
        header[-1] += b"\n" + line
    else:
        header.append(line)


def refusal(lines: list[bytes], close: bool = False) -> Decision:
    """Lines of a reply, each with its code; that of the last one holds.

    Raises ValueError where it is none of a refusal.
    """
    code, texts, status = 0, [], b""
    for line in lines:
        number, text = split(line)
        code = number or code
        word, _, rest = text.partition(b" ")
        if is_status(word):
            status, text = word, rest
        texts.append(text)
    if not lines or not 400 <= code < 600 or (number := split(lines[-1])[0]) != code or not number:
        raise ValueError("no code of a refusal, 400 to 599")
    if status:
        status = b"%d" % (code // 100) + status[1:]
    make = drop if close or code == 421 else reject if code >= 500 else defer
    return make(b"\n".join(texts), code, status)


def split(line: bytes) -> tuple[int, bytes]:
    """(the code of a line of a reply, or 0; its text)"""
    number, between = line[:3], line[3:4]
    if len(number) == 3 and number.isdigit() and between in (b"", b" ", b"-"):
        return int(number), line[4:]
    return 0, line
