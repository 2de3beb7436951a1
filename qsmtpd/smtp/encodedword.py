"""Text of a header in other charsets: encoded words (RFC 2047) and %XX (RFC 2231) -> UTF-8.

Readers are lenient here, so this is: a word counts inside quotation marks as well, and with
blanks in it, and what makes no sense stays as it is.  What it takes is in proportion to the text.
"""

from __future__ import annotations

from binascii import Error, a2b_base64
from encodings import normalize_encoding
from encodings.aliases import aliases

#: What the names of the charsets begin with that are decoded.  Python has codecs besides that
#: are none, or take longer for long texts than in proportion.
_CHARSETS = (
    "ascii", "big5", "cp", "ebcdic", "euc", "gb", "hz", "ibm", "iso", "johab", "koi8", "ks_c",
    "latin", "mac", "ms", "shift", "sjis", "tis", "us-ascii", "utf", "windows-",
)  # fmt: skip
#: The modules of Python's codecs: those of which there are aliases, and the others.
_CODECS = frozenset(aliases.values()).union(
    ("cp1006", "cp720", "cp737", "cp856", "cp874", "cp875", "koi8_t", "koi8_u"),
    ("mac_arabic", "mac_croatian", "mac_farsi", "mac_romanian", "utf_8_sig"),
)
_CHARSET_LIMIT = 40  # bytes of its name
_HEX = b"0123456789abcdefABCDEF"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(byte for byte in range(256) if byte not in _BASE64)


def decode_words(text: bytes, joined: bool = False) -> bytes:
    """The text with its encoded words decoded; blanks between two of them are none of it.

    `joined`: what neighbours of the same charset and encoding say is put together before it is
    decoded, for some cut in the middle of a character, or of four letters of base64.
    """
    at = text.find(b"=?")
    if at < 0:
        return text
    parts = [text[:at]]
    kept: list[bytes] = []  # what the words say that are not decoded yet
    charset = kind = b""
    while at >= 0:
        word = _word(text, at)
        if kept and not (word and joined and word[:2] == (charset, kind)):
            parts.append(_decode(charset, kind, b"".join(kept)))
            kept = []
        if word is None:
            parts.append(b"=?")
            end = at + 2
        else:
            charset, kind, said, end = word
            kept.append(said)
        at = text.find(b"=?", end)
        gap = text[end : len(text) if at < 0 else at]
        if at < 0 or gap.strip(b" \t\n"):
            if kept:
                parts.append(_decode(charset, kind, b"".join(kept)))
                kept = []
            parts.append(gap)
    return b"".join(parts)


def decode_percent(text: bytes) -> bytes:
    """The text with each %XX as the byte that it stands for."""
    first, *rest = text.split(b"%")
    parts = [first]
    for part in rest:
        if len(part) >= 2 and part[0] in _HEX and part[1] in _HEX:
            parts.append(bytes.fromhex(part[:2].decode("ascii")) + part[2:])
        else:
            parts.append(b"%" + part)
    return b"".join(parts)


def to_utf8(text: bytes, charset: bytes) -> bytes:
    """Text in this charset as UTF-8; unchanged where the charset is not known."""
    name = charset.strip(b" \t\"'")[:_CHARSET_LIMIT].decode("ascii", "replace").lower()
    name = name.removeprefix("x-").removeprefix("cs")
    if "utf-7" in name or "utf7" in name:  # as in unicode-1-1-utf-7
        name = "utf-7"
    elif name in ("utf-16", "utf16") and text[::2].count(0) > text[1::2].count(0):
        name = "utf-16-be"  # RFC 2781, 4.3; most others take what has no mark for the other one
    if not name.startswith(_CHARSETS) or not _is_known(name):
        return text
    try:
        return text.decode(name, "replace").encode("utf-8", "replace")
    except (LookupError, ValueError):
        return text


def _is_known(name: str) -> bool:
    """Has Python such a codec?  It keeps each name for good that it has looked for in vain."""
    plain = normalize_encoding(name)
    return plain in aliases or plain in _CODECS


def _word(text: bytes, at: int) -> tuple[bytes, bytes, bytes, int] | None:
    """(charset, encoding, text, end) of the word that begins there, if it is one."""
    charset_end = text.find(b"?", at + 2, at + 2 + 2 * _CHARSET_LIMIT)
    kind = text[charset_end + 1 : charset_end + 3].lower()
    start = charset_end + 3
    if charset_end < 0 or kind not in (b"b?", b"q?"):
        return None
    # `?=` may begin with the `?` behind the kind, where there is nothing between.
    end = text.find(b"?=", start)
    if end < 0:
        end = len(text)
    charset = text[at + 2 : charset_end].partition(b"*")[0]  # RFC 2231, 5: a language
    return charset.lower(), kind, text[start:end], min(end + 2, len(text))


def _decode(charset: bytes, kind: bytes, text: bytes) -> bytes:
    return to_utf8((_base64 if kind == b"b?" else _quoted)(text), charset)


def _base64(text: bytes) -> bytes:
    letters = text.translate(None, _NOT_BASE64)
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    try:
        return a2b_base64(letters + b"=" * (-len(letters) % 4))
    except Error:
        return text


def _quoted(text: bytes) -> bytes:
    # The same as %XX, with another mark.
    marked = text.replace(b"_", b" ").replace(b"%", b"%25").replace(b"=", b"%")
    return decode_percent(marked)
