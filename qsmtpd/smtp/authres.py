"""The header field Authentication-Results (RFC 8601): who wrote one, and how one is written."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = b"Authentication-Results"
#: In so many bytes of a value it has to be said who wrote it.
READ_LIMIT = 2000
#: Of a value that we write (bytes), before it is quoted: of an address (RFC 5321, 4.5.3.1).
VALUE_LIMIT = 320
_FOLD = 76  # bytes of a line, if that can be
_BLANKS = b" \t\r\n"
#: No identifier of a server has one of these: so nobody knows what a reader makes of it.
_NEVER = bytes((*range(33), 127)) + b'=?"\\(),<>@'
_TOKEN = frozenset(range(33, 127)) - frozenset(b'()<>@,;:\\"/[]?=')  # RFC 2045, 5.1
_ATOM = frozenset(range(33, 127)) - frozenset(b'()<>@,;:\\"[]')  # RFC 5322, 3.2.3, with dots
_PRINTABLE = bytes(byte if 32 <= byte < 127 else 0x3F for byte in range(256))


def claimed(value: bytes) -> set[bytes]:
    """Who may have written a field of this value, in lower case: each way to read it.

    Comments and quotation marks do not count, nor does what stands behind a slash, as some
    programs write it.  Empty: it cannot be read up to there.
    """
    plain, spaced = _before_results(value[:READ_LIMIT])
    if plain is None:
        return set()
    words = plain.split()
    if len(words) > 1 and words[-1].isdigit():
        words.pop()  # the version
    found = {*spaced.split()[:1], *words[:1], b"".join(words)}
    names = {name.partition(b"/")[0].rstrip(b".").lower() for name in found}
    if b"" in names or any(name.translate(None, _NEVER) != name for name in names):
        return set()
    return names


def _before_results(text: bytes) -> tuple[bytes | None, bytes]:
    """What stands before the first semicolon, without comments, and with a blank for each.

    None where a comment or quotation has no end.
    """
    plain, spaced = bytearray(), bytearray()
    depth, quoted, escaped = 0, False, False
    for byte in text:
        char = bytes((byte,))
        if escaped:
            escaped = False
        elif char == b"\\" and (depth or quoted):
            escaped = True
            continue
        elif char == b'"' and not depth:
            quoted = not quoted
            continue
        elif char == b"(" and not quoted:
            depth += 1
            spaced += b" "
            continue
        elif char == b")" and depth:
            depth -= 1
            continue
        elif char == b";" and not depth and not quoted:
            return bytes(plain), bytes(spaced)
        if not depth:
            plain.append(byte)
            spaced.append(byte)
    if depth or quoted or len(text) == READ_LIMIT:
        return None, b""
    return bytes(plain), bytes(spaced)


class Result:
    """One result: `method` and `word`, as in `spf=pass`; a `reason` and a `comment`, which may
    be empty; and properties, as in (b"smtp.mailfrom", b"a.com").  All may be anybody's.
    """

    __slots__ = ("method", "word", "reason", "comment", "properties")

    def __init__(
        self,
        method: str,
        word: str,
        properties: Iterable[tuple[str, bytes]] = (),
        reason: bytes = b"",
        comment: bytes = b"",
    ) -> None:
        self.method = method
        self.word = word
        self.properties = list(properties)
        self.reason = reason
        self.comment = comment

    def parts(self) -> list[bytes]:
        """What it is written as; a fold may stand between these."""
        parts = [f"{self.method}={self.word}".encode("ascii")]
        if self.comment:
            parts.append(_comment(self.comment))
        if self.reason:
            parts.append(b"reason=" + _quoted(self.reason))
        return parts + [name.encode("ascii") + b"=" + _value(v) for name, v in self.properties]


def line(server: bytes, results: Iterable[Result]) -> bytes:
    """The field by this server, folded, without its line end."""
    lines = [NAME + b": " + server]
    for result in results:
        lines[-1] += b";"
        lines.append(b" ")
        for part in result.parts():
            if len(lines[-1]) > 1 and len(lines[-1]) + len(part) >= _FOLD:
                lines.append(b"   ")
            lines[-1] += b" " + part
    return b"\n".join(lines)


def _value(text: bytes) -> bytes:
    """A token, an address as it is, or in quotation marks."""
    text = text[:VALUE_LIMIT]
    local, at, domain = text.rpartition(b"@")
    if text and _TOKEN.issuperset(text):
        return text
    if at and local and domain and _ATOM.issuperset(local) and _TOKEN.issuperset(domain):
        return text
    return _quoted(text)


def _quoted(text: bytes) -> bytes:
    text = text[:VALUE_LIMIT].translate(_PRINTABLE)
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _comment(text: bytes) -> bytes:
    for special in (b"\\", b"(", b")"):
        text = text.replace(special, b"?")
    return b"(" + text[:VALUE_LIMIT].translate(_PRINTABLE) + b")"
