"""The From of a message -> the domain of its author (RFC 5322, 3.4 and 3.6.2; RFC 9989, 5.3.1).

What a client is to show as the author is anybody's text.  It is read as the grammar has it,
with its obsolete forms, groups (RFC 6854) and UTF-8 (RFC 6532); one thing is taken besides,
because programs send it, and who wants to pass for somebody could: a display name with
characters in it that would have to be quoted, as in `Doe, J. <a@b.example>`, in
`[List] <a@b.example>` or in `a@b.example <c@d.example>`.  There the address is the one in
angle brackets.  What could be read in two ways otherwise, is not read at all.
"""

from __future__ import annotations

from .header import unfold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: A longer field is not read (bytes).
LENGTH_LIMIT = 10_000
NO_FIELD = b"no From"
SEVERAL_FIELDS = b"more than one From"
NO_ADDRESS = b"no address in From"
SEVERAL_DOMAINS = b"addresses of several domains in From"
UNREADABLE = b"a From that cannot be read"
TOO_LONG = b"a From that is too long"
_SPECIALS = b'()<>[]:;@\\,."'
_BLANKS = b" \t"
#: A token: what it is, one of `"` (quoted), `[` (a literal), a special, or `` for text; its bytes.
_QUOTED, _LITERAL, _TEXT = b'"', b"[", b""
_WORDS = frozenset((_QUOTED, _TEXT, b"."))

Token = tuple[bytes, bytes]


def author_domain(fields: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The values of all From lines -> (the domain, b"") or (b"", why there is not exactly one).

    The domain is as it was written, or a literal in brackets.
    """
    if len(fields) != 1:
        return b"", SEVERAL_FIELDS if fields else NO_FIELD
    if len(fields[0]) > LENGTH_LIMIT:
        return b"", TOO_LONG
    try:
        found = domains(fields[0])
    except ValueError:
        return b"", UNREADABLE
    if not found:
        return b"", NO_ADDRESS
    if len({domain.lower().removesuffix(b".") for domain in found}) > 1:
        return b"", SEVERAL_DOMAINS
    return found[0], b""


def domains(value: bytes) -> list[bytes]:
    """The domain of each address in a From, in their order.

    Raises ValueError where it is no list of mailboxes and groups.
    """
    text = unfold(value)
    if any(byte < 32 and byte != 9 or byte == 127 for byte in text):
        raise ValueError("has a control character")
    found: list[bytes] = []
    is_group = False
    for mailbox, end in _mailboxes(_tokens(text)):
        if end == b":":
            if is_group or not mailbox or not all(kind in _WORDS for kind, _ in mailbox):
                raise ValueError("a group in a group, or without a name that is one")
            is_group = True
            continue
        if not all(kind in _WORDS for kind, _ in mailbox):
            found.append(_domain(mailbox))
        if end == b";":
            if not is_group:
                raise ValueError("the end of a group that did not begin")
            is_group = False
    if is_group:
        raise ValueError("a group without an end")
    return found


def _tokens(text: bytes) -> list[Token]:
    """The tokens of a field, without its blanks and comments.  Raises ValueError."""
    tokens: list[Token] = []
    at, size = 0, len(text)
    while at < size:
        byte = text[at : at + 1]
        begin = at
        if byte in b" \t":
            at += 1
        elif byte == b"(":
            at = _behind_comment(text, at)
        elif byte == b'"':
            at = _behind(text, at, b'"')
            tokens.append((_QUOTED, text[begin:at]))
        elif byte == b"[":
            at = _behind(text, at, b"]")
            tokens.append((_LITERAL, text[begin:at]))
        elif byte in b")]\\":
            raise ValueError("stands where nothing began")
        elif byte in _SPECIALS:
            at += 1
            tokens.append((byte, byte))
        else:
            while at < size and text[at : at + 1] not in _SPECIALS + _BLANKS:
                at += 1
            tokens.append((_TEXT, text[begin:at]))
    return tokens


def _behind_comment(text: bytes, at: int) -> int:
    """Where the comment ends that begins here; comments are in comments."""
    depth = 0
    while at < len(text):
        byte = text[at : at + 1]
        depth += (byte == b"(") - (byte == b")")
        at += 2 if byte == b"\\" else 1
        if depth == 0:
            return at
    raise ValueError("a comment without an end")


def _behind(text: bytes, at: int, end: bytes) -> int:
    """Where the quoted string or the literal ends that begins here."""
    at += 1
    while at < len(text):
        byte = text[at : at + 1]
        if byte == end:
            return at + 1
        if byte == b"[" and end == b"]":
            raise ValueError("a literal in a literal")
        at += 2 if byte == b"\\" else 1
    raise ValueError("a quoted string or a literal without an end")


def _mailboxes(tokens: list[Token]) -> Iterable[tuple[list[Token], bytes]]:
    """The tokens of each mailbox, and what it ends in: `,` `;` `:` or nothing."""
    part: list[Token] = []
    in_angle = False
    for token in tokens:
        kind, _ = token
        if kind == b"<":
            in_angle = True
        elif kind == b">":
            in_angle = False
        if kind in (b",", b";", b":") and not in_angle:
            yield part, kind
            part = []
        else:
            part.append(token)
    yield part, b""


def _domain(tokens: list[Token]) -> bytes:
    """The domain of one mailbox.  Raises ValueError."""
    kinds = [kind for kind, _ in tokens]
    if b"<" in kinds or b">" in kinds:
        begin = kinds.index(b"<") if b"<" in kinds else -1
        if begin < 0 or kinds.index(b">") != len(kinds) - 1:
            raise ValueError("angle brackets that do not belong together")
        tokens = _without_route(tokens[begin + 1 : -1])
        kinds = [kind for kind, _ in tokens]
    if b"@" not in kinds:
        raise ValueError("no address")
    at = kinds.index(b"@")
    local, domain = kinds[:at], kinds[at + 1 :]
    if not local or not _WORDS.issuperset(local) or _has_neighbours(local):
        raise ValueError("no local part")
    if domain == [_LITERAL]:
        return tokens[-1][1]
    if domain[-1:] == [b"."]:  # the root: nobody writes it, and it means the same
        domain = domain[:-1]
    dots, words = domain[1::2], domain[::2]
    if len(words) == len(dots) or {*dots, b"."} != {b"."} or {*words, _TEXT} != {_TEXT}:
        raise ValueError("no domain")
    return b"".join(text for _, text in tokens[at + 1 :])


def _has_neighbours(kinds: list[bytes]) -> bool:
    """Do two words stand there without a dot between them?  (Some hosts have two dots.)"""
    return any(b"." not in pair for pair in zip(kinds, kinds[1:], strict=False))


def _without_route(tokens: list[Token]) -> list[Token]:
    """Without the hosts `@a,@b:` that once said by which way (RFC 5322, 4.4)."""
    kinds = [kind for kind, _ in tokens]
    if kinds[:1] in ([b"@"], [b","]):
        if b":" not in kinds:
            raise ValueError("a route without an end")
        end = kinds.index(b":")
        for host in b"".join(text for _, text in tokens[:end]).split(b","):
            if host and (not host.startswith(b"@") or host.count(b"@") > 1):
                raise ValueError("no route")
        tokens = tokens[end + 1 :]
    return tokens
