"""The parameters of Content-Type and Content-Disposition, and the names in them, as readers read.

RFC 2045 has quotation marks and comments, RFC 2231 pieces and charsets; mail has encoded words
inside quotation marks, values with blanks and without them, missing semicolons, and the same
parameter twice.  Readers differ in what they make of that.  So each parameter has all the
values that one of them may see, and a name is each file name that one of them may make of it.
"""

from __future__ import annotations

from .encodedword import decode_percent, decode_words, to_utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: So many parameters of a name, or pieces of one, are looked at in one field.
PARAMETERS_LIMIT = 100
#: Bytes of a name.  More is nothing that a file system takes.
NAME_LIMIT = 1000

_READINGS = 5  # of one value: see _values()
_DIGITS = 9  # of the number of a piece
_TOKEN = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
_CONTROLS = bytes([*range(32), 127])
_CONTROLS_BUT_TAB = _CONTROLS.replace(b"\t", b"")
_BLANKS = b" \t\n"
#: Characters that are not to be seen, or turn the direction of what is behind them: U+00AD,
#: U+061C, U+180E, U+200B to U+200F, U+202A to U+202E, U+2060 to U+206F and U+FEFF, in UTF-8.
_UNSEEN = tuple(
    chr(code).encode()
    for code in (0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F),
                 *range(0x2060, 0x2070), 0xFEFF)
)  # fmt: skip


class BeyondLimit(Exception):
    """There is more of something than is looked at; its argument says of what."""


class _Parameter:
    """One that was found: its name, the number of its piece or -1, and what its value may be."""

    __slots__ = ("name", "piece", "encoded", "values")

    def __init__(self, name: bytes, piece: int, encoded: bool, values: list[bytes]) -> None:
        self.name = name
        self.piece = piece
        self.encoded = encoded
        self.values = values


def texts(field: bytes) -> set[bytes]:
    """What readers may look at who look for parameters in a field."""
    # A reader may take the blanks of a fold for a part of the value, or not; may drop controls;
    # and may look into what it has decoded.
    unfolded = {field.replace(b"\n", b"")}
    if b"\n" in field:
        unfolded.add(b"".join(line.strip(b" \t") for line in field.split(b"\n")))
    unfolded |= {text.translate(None, _CONTROLS_BUT_TAB) for text in unfolded}
    unfolded |= {decode_words(text, joined) for text in unfolded for joined in (False, True)}
    return unfolded


def values(texts: Iterable[bytes], name: bytes) -> set[bytes]:
    """What readers may take for the value of this parameter (in lower case), decoded.

    Of `name`, those of `filename` as well.  Raises BeyondLimit.
    """
    found: set[bytes] = set()
    for text in texts:
        parameters = _find(text, name)
        for one in parameters:  # a piece, too, is all that some readers see
            found.update(_decoded(value, one.encoded) for value in one.values)
            if one.encoded:
                found.update(one.values)
        found |= _joined(parameters)
    return found


def bare(read: set[bytes]) -> bytes:
    """In lower case, without blanks, controls, quotation marks and, once more, comments."""
    found = {text.lower().translate(None, _CONTROLS + b' "\\') for text in read}
    return b";".join(found | {_without_comments(text) for text in found if b"(" in text})


def boundaries(texts: Iterable[bytes]) -> set[bytes]:
    """What readers may take for the boundary in a Content-Type.  Raises BeyondLimit."""
    found = values(texts, b"boundary")
    found |= {_until_nul(one) for one in found} | {one.translate(None, _CONTROLS) for one in found}
    found |= {one.strip(b"'") for one in found}
    return {one.strip(b" \t") for one in found} - {b""}


def readings(value: bytes) -> set[bytes]:
    """The file names that readers, and the systems behind them, may make of one value."""
    if len(value) > NAME_LIMIT:
        raise BeyondLimit("name too long")
    found = {value}
    for read in _READERS:
        found |= {read(name) for name in found}
    return found - {b""}


#: What a line begins with that may be followed by the name of a file; see inline().
INLINE = (b"begin", b"=ybegin ")


def inline(line: bytes) -> bytes | None:
    """The name in a line with which a file begins in a text; else None.

    That is `begin 644 name` of uuencode (readers take modes of any length, and blanks and no mode
    at all), `begin-base64 644 name`, and `=ybegin … name=name` of yEnc.
    """
    if line.startswith(b"=ybegin "):
        return line.partition(b" name=")[2].strip(_BLANKS) or None
    rest = line.removeprefix(b"begin").removeprefix(b"-base64")
    words = rest.split(None, 1)
    if not words or not rest.startswith((b" ", b"\t")):
        return None
    if not words[0].strip(b"01234567"):
        return words[1].strip(_BLANKS) if len(words) > 1 else b""
    return rest.strip(_BLANKS) if rest.startswith(b"  ") else None


# -- parameters --------------------------------------------------------------


def _find(text: bytes, name: bytes) -> list[_Parameter]:
    """Every place where the name stands, and a `=` behind it."""
    lower = text.lower()
    found: list[_Parameter] = []
    size = 0
    at = lower.find(name)
    while at >= 0:
        end = at + len(name)
        start = at - 4 if name == b"name" and lower[at - 4 : at] == b"file" and at >= 4 else at
        if start == 0 or lower[start - 1] not in _TOKEN:
            parameter, behind = _parameter(text, lower[start:end], end)
            size += behind - end
            if parameter is not None:
                found.append(parameter)
                size += sum(map(len, parameter.values))
            # What is no part of each other has the length of the field, in each reading.
            if len(found) > PARAMETERS_LIMIT or size > _READINGS * len(text):
                raise BeyondLimit("too many parameters")
        at = lower.find(name, end)
    return found


def _parameter(text: bytes, name: bytes, at: int) -> tuple[_Parameter | None, int]:
    """What begins behind its name: `*`, the number of a piece, `*`, and `=`; RFC 2231, 7.

    And where that ends, or where it is seen to be none.
    """
    piece, encoded = -1, False
    at = _behind_blanks(text, at + text.startswith(b'"', at))
    if text.startswith(b"*", at):
        end = at = _behind_blanks(text, at + 1)
        while text[end : end + 1].isdigit():
            end += 1
        digits = text[at:end]
        if digits:
            piece = int(digits.lstrip(b"0")[:_DIGITS] or b"0")
        end = _behind_blanks(text, end)
        encoded = not digits or text.startswith(b"*", end)
        at = _behind_blanks(text, end + (bool(digits) and encoded))
    if not text.startswith(b"=", at):
        return None, at
    at = _behind_blanks(text, at + 1)
    return _Parameter(name, piece, encoded, _values(text, at)), at


def _behind_blanks(text: bytes, at: int) -> int:
    """Where the blanks, and the comments, end that begin there."""
    while at < len(text):
        if text[at] in _BLANKS:
            at += 1
        elif text[at] == 0x28:  # (
            end = text.find(b")", at)
            if end < 0:
                return at
            at = end + 1
        else:
            break
    return at


def _values(text: bytes, at: int) -> list[bytes]:
    """What a value may be that begins there, the one of the RFC first."""
    end = text.find(b";", at)
    up_to_semicolon = text[at : len(text) if end < 0 else end].strip(_BLANKS)
    if not text.startswith(b'"', at):
        first = up_to_semicolon.split(None, 1)[:1]
        quotes = up_to_semicolon.replace(b'"', b"")
        found = [*first, up_to_semicolon, _without_comments(up_to_semicolon), quotes]
        found.append(text[at : _semicolon(text, at)].strip(_BLANKS))
    else:
        quoted, end = _quoted(text, at + 1)
        behind = text.find(b";", end)
        whole = text[at : len(text) if behind < 0 else behind]
        found = [
            quoted.replace(b"\\\\", b"\0").replace(b"\\", b"").replace(b"\0", b"\\"),
            quoted,
            whole.replace(b'"', b"").strip(_BLANKS),
            up_to_semicolon.replace(b'"', b""),
        ]
    return list(dict.fromkeys(found)) or [b""]


def _quoted(text: bytes, at: int) -> tuple[bytes, int]:
    """(what stands between the quotation marks, as it is written, where it ends)"""
    place = at
    while True:
        end = text.find(b'"', place)
        if end < 0:
            return text[at:], len(text)
        escapes = len(text[place:end]) - len(text[place:end].rstrip(b"\\"))
        if escapes % 2 == 0:
            return text[at:end], end + 1
        place = end + 1


def _semicolon(text: bytes, at: int) -> int:
    """Where the next semicolon is that is not between quotation marks, or the end."""
    quotes = 0
    while True:
        end = text.find(b";", at)
        if end < 0:
            return len(text)
        quotes += text.count(b'"', at, end)
        if quotes % 2 == 0:
            return end
        at = end + 1


def _without_comments(text: bytes) -> bytes:
    """Without what stands in parentheses."""
    parts, depth = [], 0
    for part in text.replace(b"(", b"\0(").replace(b")", b")\0").split(b"\0"):
        depth += part.startswith(b"(")
        if not depth:
            parts.append(part)
        depth = max(0, depth - part.endswith(b")"))
    return b"".join(parts).strip(_BLANKS)


def _decoded(value: bytes, encoded: bool) -> bytes:
    """A value, if encoded: charset'language'text (RFC 2231, 4)."""
    if not encoded:
        return value
    charset, quote, rest = value.partition(b"'")
    _, second, text = rest.partition(b"'")
    if not (quote and second):
        return decode_percent(value)
    return to_utf8(decode_percent(text), charset)


def _joined(parameters: list[_Parameter]) -> set[bytes]:
    """The values that are in pieces, put together by their numbers (RFC 2231, 3)."""
    found: set[bytes] = set()
    pieces = [one for one in parameters if one.piece >= 0]
    for name in {one.name for one in pieces}:
        own = [one for one in pieces if one.name == name]
        # Of two with the same number the first may count, the last, or both.
        first = {one.piece: one for one in reversed(own)}
        last = {one.piece: one for one in own}
        orders: dict[tuple[_Parameter, ...], None] = {}
        for chosen in (first.values(), last.values(), own):
            whole = tuple(sorted(chosen, key=lambda one: one.piece))
            gap = next((n for n, one in enumerate(whole) if one.piece != n), len(whole))
            orders |= {whole: None, whole[:gap]: None}
        for some in orders:
            for reading in range(max((len(one.values) for one in some), default=0)):
                found.add(_put_together(some, reading, 1))
            if sum(one.encoded for one in some) > 1:
                found.add(_put_together(some, 0, len(some)))
    return found


def _put_together(pieces: Iterable[_Parameter], reading: int, charsets: int) -> bytes:
    """In this reading; so many pieces, from the first one, may have a charset before them."""
    charset = b""
    parts = []
    for number, one in enumerate(pieces):
        value = one.values[min(reading, len(one.values) - 1)]
        if number < charsets and one.encoded and value.count(b"'") >= 2:
            charset, _, value = value.split(b"'", 2)
        parts.append(decode_percent(value) if one.encoded else value)
    return to_utf8(b"".join(parts), charset)


# -- names -------------------------------------------------------------------


def _joined_words(name: bytes) -> bytes:
    return decode_words(name, joined=True)


def _visible(name: bytes) -> bytes:
    """Without what is not to be seen, such as NULs and marks that turn the direction.

    And without bytes that are no text, which some drop.
    """
    name = name.translate(None, _CONTROLS)
    if not name.isascii():
        name = name.decode("utf-8", "ignore").replace("\ufffd", "").encode("utf-8")
        for mark in _UNSEEN:
            name = name.replace(mark, b"")
    return name


def _compatible(name: bytes) -> bytes:
    """With plain characters for wide ones and their like, as code pages of Windows have them."""
    if name.isascii():
        return name
    from unicodedata import normalize  # now: few names

    return normalize("NFKC", name.decode("utf-8", "replace")).encode("utf-8")


def _allowed(name: bytes) -> bytes:
    """Without the characters that no name may have, to Windows, and apostrophes around it."""
    return name.translate(None, b'<>:"/\\|?*').strip(b"' ")


def _cut(name: bytes) -> bytes:
    """As many systems take it: no more than 255 bytes."""
    return name[:255]


def _until_nul(name: bytes) -> bytes:
    return name.partition(b"\0")[0]


def _last_step(name: bytes) -> bytes:
    """The last step of a path."""
    return name.replace(b"\\", b"/").rpartition(b"/")[2]


def _without_stream(name: bytes) -> bytes:
    """Without what stands behind a colon: to Windows, a stream of the file before it."""
    return name.partition(b":")[0]


def _trimmed(name: bytes) -> bytes:
    """Without the dots and blanks around it, which Windows drops at the end."""
    return name.strip(b" \t\n").rstrip(b" .\t\n")


_READERS: Iterable[Callable[[bytes], bytes]] = (
    decode_words, _joined_words, decode_percent, _until_nul, _visible, _compatible, _last_step,
    _without_stream, _allowed, _cut, _trimmed,
)  # fmt: skip
