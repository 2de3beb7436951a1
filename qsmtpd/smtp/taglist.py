"""Lists of tags, `name=value; name=value`, as of a DKIM-Signature and its key (RFC 6376, 3.2)."""

from __future__ import annotations

#: Blanks, and the line ends of folds.
FWS = b" \t\n"
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_IN_NAMES = _LETTERS + b"0123456789_"
#: No value has one of these; bytes of UTF-8 may be in it (RFC 8616, 3).
_CONTROLS = bytes(byte for byte in (*range(32), 127) if byte not in FWS)


def parse(text: bytes) -> dict[bytes, bytes] | None:
    """Name -> value, without blanks around it; None where it is no such list.

    A tag that is there twice makes it none; case matters in names.
    """
    tags: dict[bytes, bytes] = {}
    parts = text.split(b";")
    if not parts[-1].strip(FWS):
        parts.pop()
    for part in parts:
        name, equals, value = part.partition(b"=")
        name = name.strip(FWS)
        if not equals or name in tags or not name or name[0] not in _LETTERS:
            return None
        if name.translate(None, _IN_NAMES) or value.translate(None, _CONTROLS) != value:
            return None
        tags[name] = value.strip(FWS)
    return tags


def words(value: bytes) -> list[bytes]:
    """The entries of a value that is a list with colons, in lower case."""
    return [word.strip(FWS).lower() for word in value.split(b":")]


def without_value(text: bytes, tag: bytes) -> bytes:
    """The list with nothing, not even blanks, as the value of this tag."""
    parts = text.split(b";")
    for number, part in enumerate(parts):
        name, equals, _ = part.partition(b"=")
        if equals and name.strip(FWS) == tag:
            parts[number] = name + equals
    return b";".join(parts)
