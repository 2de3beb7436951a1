"""For `qsmtpd --check`: entries of lists, and keys of cdbs, that can never match."""

from __future__ import annotations

from ..config.settings import BYTE_ORDER_MARK, shown
from ..filters.wildmat import is_wild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_INVISIBLE = "has a control character or an invisible one"
_DOTS = "has a dot too many"
#: Zero-width joiners, which U-labels may have (RFC 5892, A.1 and A.2).
_JOINERS = "\u200c\u200d"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BLANK = "has a blank in it: a comment stands on a line of its own"
_NO_PATTERN = "is no pattern: .example.org is all below example.org"
#: What stands in no domain.  Bytes that are not ASCII, and address literals, a client may say.
_NOT_IN_DOMAIN = frozenset(b"!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~")
#: Of these lists, and their cdbs, so many characters of base64 at the beginning of an entry count.
SIGNATURES = {"badmimetypes": 9, "badloadertypes": 5}
#: The keys of these are recipients: the file or variable that names the cdb.
RECIPIENTS = ("recipients", "validrcptto.cdb", "VALIDRCPTTO_CDB")
_DOMAIN_LIMIT = 255  # bytes (RFC 5321, 4.5.3.1.2)


def problem(file: str, number: int, entry: bytes) -> str | None:
    """Why this entry of a list, in the line of this number, can never match; None if it can."""
    if number == 1 and entry.startswith(BYTE_ORDER_MARK):
        return "begins with a byte-order mark, which is part of it"
    judge = _LISTS.get(file)
    if judge is None:
        return None
    said = _INVISIBLE if _is_invisible(entry) else judge(entry)
    return None if said is None else f"{shown(entry)} {said}"


def key_problem(file: str, key: bytes) -> str | None:
    """The same for a key of the cdb of this name."""
    said: str | None
    length = SIGNATURES.get(file.removesuffix(".cdb"))
    if length is not None:
        said = _signature(key, length)
        if said is None and len(key) > length:
            said = f"has more than {length} characters"
    elif file == "recipients" and not key.startswith(b":"):
        said = "does not begin with a colon"
    elif file in RECIPIENTS[1:] and b"@" not in key and b"." in key:
        said = "is no address; a domain begins with @"
    elif key != key.lower():
        said = "has capitals, and names are looked for in lower case"
    else:
        said = _domain(key) if file == "morercpthosts.cdb" else None
    return None if said is None else f"the key {shown(key)} {said}"


def _is_invisible(entry: bytes) -> bool:
    """Has it what is not to be seen: line ends of another system, UTF-16, U+00A0, U+200B ...?"""
    text = entry.decode("utf-8", "replace")
    return not all(c.isprintable() or c in "\t" + _JOINERS for c in text)


def _domain(entry: bytes) -> str | None:
    if _is_invisible(entry):  # a key of a cdb
        return _INVISIBLE
    if b" " in entry or b"\t" in entry:
        return _BLANK
    if b"@" in entry:
        return "has a @: a domain is wanted"
    if b"*" in entry:
        return _NO_PATTERN
    if not entry.startswith(b"[") and not _NOT_IN_DOMAIN.isdisjoint(entry):
        return "is no domain"
    if entry.endswith(b".") or b".." in entry:
        return _DOTS
    return "is longer than a domain can be" if len(entry) > _DOMAIN_LIMIT else None


def _address(entry: bytes) -> str | None:
    """An entry of badmailfrom, badrcptto or their like."""
    name = entry.removeprefix(b"!")
    if name.startswith(b"re:"):
        return None
    _, at, domain = name.rpartition(b"@")
    if b" " in domain or b"\t" in domain:
        return _BLANK
    if name[:1] in (b" ", b"\t", b"<") or name[:7].lower() == b"mailto:":
        return "is no address as it is without < and > and all else around it"
    if at and not is_wild(name):
        qualified = name.startswith(b"@") and domain.endswith((b"-", b"=", b"+"))
        return _sender_domain(domain[:-1] if qualified else domain)
    if not at and b"." in name and not is_wild(name) and name[:1] not in (b"~", b"?"):
        return "is no address; a domain begins with @"
    return None


def _sender_domain(domain: bytes) -> str | None:
    if domain.startswith(b"."):
        return "has a domain that begins with a dot: all below it is @*.example.org"
    if (said := _domain(domain)) is not None:
        return said if said == _DOTS else "has a domain that is none"
    return None


def _name(entry: bytes) -> str | None:
    """An entry of badhelo: a client may call itself whatever it wants, but hardly so."""
    if entry.removeprefix(b"!")[:1] in (b".", b"@", b"<"):
        return "is no name: all below one is *.example.org"
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
    if key.startswith(b"=") and b"*" in key:
        return "has a key that is no pattern: =.example.org is all below example.org"
    if b"." in key and not key.endswith(b".") and not key.strip(b"0123456789."):
        from ..net.ip import canonical  # now: few have such a list

        if canonical(key) != key:
            return "has a key that is no address; the beginning of one ends in a dot"
    for value in values.split(b","):
        if b" " in value or b"\t" in value:
            return _BLANK
        if b"*" in value:
            return "has a value that is no pattern: @example.org is the whole domain"
        if b"." in value and b"@" not in value:
            return "has a value that is no address: a domain is written @example.org"
    return None


def _signature(entry: bytes, length: int) -> str | None:
    """An entry, or a key, of a list of pieces of base64."""
    if len(entry) < length:
        return f"has less than {length} characters"
    return "has what is no base64" if entry[:length].strip(_BASE64) else None


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


def _header_line(entry: bytes) -> str | None:
    """An entry of badheaders."""
    name = entry.removeprefix(b"!")
    if name.startswith(b"re:") or b"*" in name[:2]:
        return None
    before, colon, value = name.partition(b":")
    if not colon and not is_wild(name):
        return "is no line of a header, as Subject: *"
    if colon and not is_wild(before) and value[:1] not in (b" ", b"*", b"[", b"?", b"\\"):
        return "has no space behind the colon"
    return None


def _file_name(entry: bytes) -> str | None:
    """An entry of badattachments."""
    name = entry.removeprefix(b"!")
    if name.startswith(b".") and not is_wild(name):
        return "is a whole name: all that end so are *" + name.decode("ascii", "replace")
    if b"/" in name and not name.startswith(b"re:"):
        return "has a /, and a name is the last step of a path"
    return None


def _hub(entry: bytes) -> str | None:
    """A line of qmqpservers."""
    from ..net.qmqp import parse_hub  # now: few have such a list

    try:
        parse_hub(entry)
    except ValueError as error:
        return str(error)
    return None


_LISTS: dict[str, Callable[[bytes], str | None]] = {
    "rcpthosts": _domain,
    "badmailfrom": _address,
    "badrcptto": _address,
    "greylistexemptfrom": _address,
    "greylistexemptto": _address,
    "badhelo": _name,
    "recipients": _rule,
    "mailfromrules": _senders,
    "immune": _immune,
    "qmqpservers": _hub,
    "badmimetypes": lambda entry: _signature(entry, SIGNATURES["badmimetypes"]),
    "badloadertypes": lambda entry: _signature(entry, SIGNATURES["badloadertypes"]),
    "badheaders": _header_line,
    "badattachments": _file_name,
}
