"""The structure of a message (MIME, RFC 2045 to 2049), found while the message streams by.

For who has to know what is attached: the names of files, and the base64 text of each part.  It
sees what some reader may see.  So a line that begins with a boundary separates parts wherever
it stands, also where the multipart has ended that it belongs to; each of two fields of the same
name counts; in the header of a part, what is no header line, and a line of blanks, may be its
body already, and all behind it; a bare CR ends a line; NULs are nothing.  Nothing is nested for
it: a boundary is one that was named before, and to some reader it is not, so that the base64
goes on in which its line stands.

Memory is bounded by the limits below, and time by the length of the message: beyond a limit the
rest is not looked at.  What is found does not depend on how the message is cut.
"""

from __future__ import annotations

from .boundary import Boundaries
from .header import is_name
from .mimename import INLINE, BeyondLimit, bare, boundaries, inline, readings, texts, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    #: Is given a piece of the text of a part in base64, as it is; first, b"" where one begins.
    Listener = Callable[[bytes], object]

SEPARATORS_LIMIT = 2000  # lines that separate parts
FIELD_LIMIT = 16 * 1024  # bytes of a field that says something of a part, with its folds
HEADERS_LIMIT = 512 * 1024  # bytes of the headers of parts, and of messages in the message
WORDS_LIMIT = 5000  # encoded words in these
#: Readings of names, and bytes of all of them.
NAMES_LIMIT, NAMES_SIZE_LIMIT = 2000, 64 * 1024
#: So much of a line is looked at for what it begins with (bytes).
LINE_LIMIT = 4096
#: What comes in smaller pieces (bytes) is put together.
BATCH = 16 * 1024

TYPE, DISPOSITION, ENCODING = b"content-type", b"content-disposition", b"content-transfer-encoding"
#: The whole value of these is a name, to Thunderbird.
NAMES = (b"content-name", b"x-sun-data-name")
_FIELDS = {name: name for name in (TYPE, DISPOSITION, ENCODING, *NAMES)}
_CONTROLS = bytes([*range(32), 127])
_BLANKS = (b" ", b"\t")
#: So much of the base64 of a part is its beginning (characters, padding included).
BEGINNING = 64
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_NOT_BASE64 = bytes(byte for byte in range(256) if byte not in _BASE64)


class MimeScanner:
    """Feed it the body of a message with this header; then finish().

    `header` are its lines, (name, value); `broken`: the header has ended with a line that is
    none, with which the body begins.
    `names` are the names of files, in every reading (see mimename.readings()); `beginnings`, the
    first characters of the base64 of each part, without all others.  Each of `listeners` is shown
    the text of the parts in base64.  `beyond` is b"", or which limit was in the way.
    """

    __slots__ = (
        "names", "beginnings", "listeners", "beyond", "_open", "_header", "_broken", "_pieces",
        "_size", "_held", "_held_cr", "_in_line", "_dropped", "_in_header", "_field", "_value",
        "_field_size", "_headers_size", "_words", "_unnamed", "_typed", "_nested", "_base64",
        "_boundaries", "_guess", "_separators", "_digest", "_seen", "_names_size",
    )  # fmt: skip

    def __init__(self, header: Iterable[tuple[bytes, bytes]], broken: bool = False) -> None:
        self.names: set[bytes] = set()
        self.beginnings: set[bytes] = set()
        # Those that have to grow.  What follows is the same for all of them: they are few.
        self._open: set[bytes] = set()
        self.listeners: list[Listener] = []
        self.beyond = b""
        self._header: Iterable[tuple[bytes, bytes]] | None = header
        self._broken = broken
        self._pieces: list[bytes] = []  # not looked at yet
        self._size = 0  # of these
        self._held = b""  # the beginning of a line
        self._held_cr = False  # and there was a CR behind it
        self._in_line = False  # the beginning of the line has been looked at
        self._dropped = False  # the rest of it is nothing
        self._in_header = False
        self._field: bytes | None = None  # the name of the field under way, if it is wanted
        self._value: list[bytes] = []
        self._field_size = 0
        self._headers_size = self._words = 0
        self._unnamed = False  # a line before in this header is none of it, to some reader
        self._typed = self._nested = self._base64 = False  # what the header of this part says
        self._boundaries = Boundaries()
        self._guess = False  # a multipart without a boundary: the next line with -- has it
        self._separators = 0
        self._digest = False  # this part is one of a digest
        self._seen: set[bytes] = set()  # values whose readings are in `names`
        self._names_size = 0

    def feed(self, text: bytes) -> None:
        """More of the body."""
        if self.beyond:
            return
        self._pieces.append(text)
        self._size += len(text)
        if self._size >= BATCH:
            self._look(False)

    def finish(self) -> None:
        """There is no more of it."""
        if not self.beyond:
            self._look(True)

    # -- lines ---------------------------------------------------------------

    def _look(self, last: bool) -> None:
        text = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        try:
            if self._header is not None:
                self._start(self._header)
                self._header = None
            text = self._held + self._with_lf(text, last)
            end = text.rfind(b"\n") + 1
            lines, self._held = text[:end], text[end:]
            if last and (self._held or (self._in_line and not lines)):  # a line without an end
                lines, self._held = text + b"\n", b""
            if lines:
                self._lines(lines)
            if not self._in_line:
                self._held = _without_nuls(self._held)
            if len(self._held) > LINE_LIMIT:  # what a line begins with is in its first part
                held, self._held = self._held, b""
                self._part_of_line(held)
            if last:
                self._end_of_field()
                self.beginnings |= self._open
        except BeyondLimit as limit:
            self.beyond = str(limit).encode("ascii")
            self._held, self._value = b"", []

    def _with_lf(self, text: bytes, last: bool) -> bytes:
        """The text with the CR before it, and without those at its end."""
        if self._held_cr:
            text = b"\r" + text
        self._held_cr = not last and text.endswith(b"\r")
        return _with_lf(text.rstrip(b"\r") if self._held_cr else text)

    def _lines(self, text: bytes) -> None:
        """Whole lines; the first one may be the rest of one."""
        at = 0
        if self._in_line:
            at = text.find(b"\n") + 1
            self._rest_of_line(text[:at])
            self._in_line = False
        if b"\0" in text:
            text, at = b"\n".join(map(_without_nuls, text[at:].split(b"\n"))), 0
        while at < len(text):
            if self._in_header:
                end = text.find(b"\n", at) + 1
                self._line(text[at:end])
            else:
                end = self._boundaries.next_line(text, at, self._guess)
                if end > at:
                    self._content(text[at:end])
                    self._grow(text[at:end])
                if end < len(text):
                    at, end = end, text.find(b"\n", end) + 1
                    self._line(text[at:end])
            at = end

    def _part_of_line(self, text: bytes) -> None:
        """A part of a line that is longer than what is looked at for what it begins with."""
        if self._in_line:
            self._rest_of_line(text)
        else:
            self._in_line = True
            self._line(text)

    def _line(self, text: bytes) -> None:
        """A line with its end, or more than LINE_LIMIT bytes of one from its beginning."""
        self._dropped = False
        if text.startswith(b"--"):
            self._end_of_field()  # which may have named the boundary
            self._dropped = self._is_separator(text[:LINE_LIMIT])
        if not self._dropped:
            (self._header_line if self._in_header else self._content)(text)
        self._grow(text)

    def _rest_of_line(self, text: bytes) -> None:
        self._grow(text)
        if self._dropped:
            return
        if self._field is not None:
            self._add_to_field(text.removesuffix(b"\n"))
        if self._unnamed or not self._in_header:
            self._tell(text)

    # -- headers ---------------------------------------------------------------

    def _start(self, header: Iterable[tuple[bytes, bytes]]) -> None:
        self._in_header = True
        odd = False  # where it has lines that are none to some, each is looked at
        for name, value in header:
            odd = odd or b"\r" in value or _has_line_of_blanks(value)
            if not odd:
                self._see(_FIELDS.get(name.lower()), value)
                continue
            for line in _with_lf(name + b":" + value).split(b"\n"):
                self._line((line or b" ") + b"\n")  # not its end: there is more of it
        self._end_of_field()
        if not self._broken:
            self._body_begins()

    def _header_line(self, line: bytes) -> None:
        """One of the header of a part, with its line end, or the beginning of a long one."""
        self._headers_size += min(len(line), LINE_LIMIT)
        if self._headers_size > HEADERS_LIMIT:
            raise BeyondLimit("too many header lines")
        if line.startswith(_BLANKS):
            if not self._unnamed and not line[:LINE_LIMIT].strip(b" \t\n"):
                if self._field is not None:
                    self._see(self._field, b"".join(self._value))
                self._body_may_begin()
            if self._field is not None:
                self._add_to_field(b"\n" + line.removesuffix(b"\n"))
            if self._unnamed:
                self._content(line)
            return
        self._end_of_field()
        if line == b"\n":
            self._body_begins()
            return
        name, colon, _ = line[:LINE_LIMIT].partition(b":")
        name = name.translate(None, _CONTROLS).rstrip(b" ")
        if not colon and len(line) > LINE_LIMIT and is_name(name):  # a colon may come
            raise BeyondLimit("header line too long")
        if not colon or not is_name(name):
            self._body_may_begin()
        else:
            self._field = _FIELDS.get(name.lower())
            if self._field is not None:
                self._add_to_field(line.partition(b":")[2].removesuffix(b"\n"))
        if self._unnamed:
            self._content(line)

    def _body_may_begin(self) -> None:
        """To some reader, the header has ended before, or with, this line."""
        if not self._unnamed:
            self._unnamed = True
            self._begin()

    def _add_to_field(self, text: bytes) -> None:
        self._field_size += len(text)
        if self._field_size > FIELD_LIMIT:
            raise BeyondLimit("header line too long")
        self._value.append(text)

    def _end_of_field(self) -> None:
        if self._field is not None:
            self._see(self._field, b"".join(self._value))
        self._field, self._value, self._field_size = None, [], 0

    def _see(self, name: bytes | None, value: bytes) -> None:
        """What a field says of the part."""
        if name is None:
            return
        if len(value) > FIELD_LIMIT:
            raise BeyondLimit("header line too long")
        self._words += value.count(b"=?")
        if self._words > WORDS_LIMIT:
            raise BeyondLimit("too many encoded words")
        if name in NAMES:
            self._add_name(value.replace(b"\n", b"").strip(b" \t"))
            return
        read = texts(value)
        if name == ENCODING:
            self._base64 = self._base64 or b"base64" in bare(read)
            return
        for one in values(read, b"name"):
            self._add_name(one)
        if name == TYPE:
            self._see_type(read)

    def _see_type(self, read: set[bytes]) -> None:
        kind = bare(read)
        self._typed = True
        self._nested = self._nested or b"message/" in kind
        found = boundaries(read)
        if b"x-sun-attachment" in kind:
            found.add(b"-" * 8)
        for boundary in found:
            self._boundaries.add(boundary, b"multipart/digest" in kind)
        # Not all readers know those of RFC 2231.
        none = not found or b"boundary*" in kind
        self._guess = self._guess or (b"multipart/" in kind and none)

    def _add_name(self, value: bytes) -> None:
        if value in self._seen:
            return
        self._seen.add(value)
        for name in readings(value):
            if name not in self.names:
                self.names.add(name)
                self._names_size += len(name)
        if len(self._seen) + len(self.names) > NAMES_LIMIT or self._names_size > NAMES_SIZE_LIMIT:
            raise BeyondLimit("too many names")

    # -- parts -------------------------------------------------------------------

    def _is_separator(self, line: bytes) -> bool:
        """If this line, which begins with --, separates parts: a part has begun."""
        text = line[2:].rstrip(b" \t\n")
        boundary = self._boundaries.longest(text)
        exact = boundary is not None and text in (boundary, boundary + b"--")
        if boundary is None:
            if not self._guess:
                return False
            exact, boundary = True, text.removesuffix(b"--")
            self._guess = not boundary
            if boundary:
                self._boundaries.add(boundary, False)
        self._separators += 1
        if self._separators > SEPARATORS_LIMIT:
            raise BeyondLimit("too many parts")
        self._digest = self._boundaries.is_of_digest(boundary)
        self._in_header = True
        self._unnamed = self._typed = self._nested = False
        # To a reader who compares all of the line, the part before goes on.
        self._base64 = self._base64 and not exact
        return True

    def _body_begins(self) -> None:
        # That of a message in it; but where it is in base64, the text of a part to others.
        self._in_header = self._nested or (self._digest and not self._typed)
        self._typed = self._nested = self._digest = False
        self._unnamed = self._in_header and self._base64
        self._begin()

    def _content(self, text: bytes) -> None:
        """Lines of the body of a part, or the beginning of one."""
        self._tell(text)
        for mark in INLINE:  # also where it is base64 to some reader: to another it is not
            at = 0 if text.startswith(mark) else text.find(b"\n" + mark) + 1 or len(text)
            while at < len(text):
                end = text.find(b"\n", at, at + LINE_LIMIT)
                name = inline(text[at : at + LINE_LIMIT if end < 0 else end])
                if name is not None:
                    if not name and end < 0:
                        raise BeyondLimit("name too long")
                    self._add_name(name)
                at = text.find(b"\n" + mark, at) + 1 or len(text)

    def _begin(self) -> None:
        """What follows may be the text of a part."""
        if self._base64:
            self._open.add(b"")
            self._tell(b"")

    def _grow(self, text: bytes) -> None:
        """Of any kind: to some reader, it belongs to the base64 whose beginning is not complete."""
        if not self._open:
            return
        more = text.translate(None, _NOT_BASE64)
        if more:
            grown = {(one + more[:BEGINNING])[:BEGINNING] for one in self._open}
            self._open = {one for one in grown if len(one) < BEGINNING}
            self.beginnings |= grown - self._open

    def _tell(self, text: bytes) -> None:
        if self._base64:
            for listener in self.listeners:
                listener(text)


def _without_nuls(line: bytes) -> bytes:
    """The same, if it may separate parts, to whom NULs are nothing."""
    line = line.lstrip(b"\0")
    return line.replace(b"\0", b"") if line.startswith(b"-") else line


def _has_line_of_blanks(value: bytes) -> bool:
    """Is one of its lines, but for the first, blanks alone?"""
    return b"\n" in value and any(not line.strip(b" \t") for line in value.split(b"\n")[1:])


def _with_lf(text: bytes) -> bytes:
    """A CR ends a line, but several of them, and those before LF, do not end a second one."""
    if b"\r" not in text:
        return text
    while b"\r\r" in text:
        text = text.replace(b"\r\r", b"\r")
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
