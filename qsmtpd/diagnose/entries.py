"""For `qsmtpd --check`: entries of lists, and keys of cdbs, that can never match."""

from __future__ import annotations

from ..config.settings import BYTE_ORDER_MARK, shown
from ..filters.wildmat import is_wild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BLANK = "has a blank in it: a comment stands on a line of its own"
_NO_PATTERN = "is no pattern: .example.org is all below example.org"
#: What stands in no domain.  Bytes that are not ASCII, and address literals, a client may say.
_NOT_IN_DOMAIN = frozenset(b"!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~")
_DOMAIN_LIMIT = 255  # bytes (RFC 5321, 4.5.3.1.2)


def problem(file: str, number: int, entry: bytes) -> str | None:
    """Why this entry of a list, in the line of this number, can never match; None if it can."""
    if number == 1 and entry.startswith(BYTE_ORDER_MARK):
        return "begins with a byte-order mark, which is part of it"
    judge = _LISTS.get(file)
    said = None if judge is None else judge(entry)
    return None if said is None else f"{shown(entry)} {said}"


def key_problem(file: str, key: bytes) -> str | None:
    """The same for a key of the cdb of this name."""
    said: str | None
    if file == "recipients" and not key.startswith(b":"):
        said = "does not begin with a colon"
    elif key != key.lower():
        said = "has capitals, and names are looked for in lower case"
    else:
        said = _domain(key) if file == "morercpthosts.cdb" else None
    return None if said is None else f"the key {shown(key)} {said}"


def _domain(entry: bytes) -> str | None:
    if b" " in entry or b"\t" in entry:
        return _BLANK
    if b"@" in entry:
        return "has a @: a domain is wanted"
    if b"*" in entry:
        return _NO_PATTERN
    if not entry.startswith(b"[") and not _NOT_IN_DOMAIN.isdisjoint(entry):
        return "is no domain"
    return "is longer than a domain can be" if len(entry) > _DOMAIN_LIMIT else None


def _address(entry: bytes) -> str | None:
    """An entry of badmailfrom or badrcptto."""
    name = entry.removeprefix(b"!")
    if name.startswith(b"re:"):
        return None
    _, at, domain = name.rpartition(b"@")
    if b" " in domain or b"\t" in domain:
        return _BLANK
    if not at and b"." in name and not is_wild(name) and name[:1] not in (b"~", b"?"):
        return "is no address; a domain begins with @"
    return None


def _name(entry: bytes) -> str | None:
    """An entry of badhelo: a client may call itself whatever it wants."""
    return _BLANK if b" #" in entry or b"\t#" in entry else None


def _rule(entry: bytes) -> str | None:
    """A line of recipients; what it asks is looked for by the filter."""
    if entry.startswith(b"!"):
        name = entry[1:]
        if name[:1] == b".":
            return "is of one domain, which does not begin with a dot"
        return None if name == b"*" else _domain(name)
    marks = [place for place in (entry.find(b":"), entry.find(b"|")) if place >= 0]
    name = entry[: min(marks, default=0)]
    return None if name == b"*" else _domain(name[1:] if name[:1] in (b"@", b".") else name)


def _senders(entry: bytes) -> str | None:
    """A line of mailfromrules."""
    key, _, values = entry.rpartition(b":")
    if key != key.strip(b" \t"):
        return "has a blank at an end of its key"
    for value in values.split(b","):
        if b" " in value or b"\t" in value:
            return _BLANK
        if b"*" in value:
            return "has a value that is no pattern: @example.org is the whole domain"
        if b"." in value and b"@" not in value:
            return "has a value that is no address: a domain is written @example.org"
    return None


def _immune(entry: bytes) -> str | None:
    """An entry of immune."""
    entry = entry.lower()
    if entry.startswith(b"."):
        return _domain(entry)
    if entry.endswith((b".", b":")):
        good = not entry.strip(b"0123456789abcdef.:")
    else:
        from ..net.ip import canonical  # now: few have such a list

        good = canonical(entry) == entry
    return None if good else "is no address, beginning of one, or end of a name"


_LISTS: dict[str, Callable[[bytes], str | None]] = {
    "rcpthosts": _domain,
    "badmailfrom": _address,
    "badrcptto": _address,
    "badhelo": _name,
    "recipients": _rule,
    "mailfromrules": _senders,
    "immune": _immune,
}
