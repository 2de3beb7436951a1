"""Addresses in UTF-8 (RFC 6531), and their domains in both forms (RFC 5890).

A domain is written with U-labels, `bücher.example`, or with A-labels,
`xn--bcher-kva.example`: it is the same one.  Both are compared in lower case
and in Unicode's normalization form C, which RFC 5891 (5.2) wants to be there
before.  Whether a label is one at all, says IDNA2008, by the library `idna`.
"""

from __future__ import annotations

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, TypeVar

    T = TypeVar("T")

#: What is in no address: the controls (C0, DEL, C1), the separators of lines and
#: paragraphs, and what turns the direction of the text around it and shows
#: another address than there is.
FORBIDDEN = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029))) | frozenset(
    map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))
)
#: Characters; with A-labels it is longer than with U-labels (RFC 5890, 2.3.2.1).
LABEL_LIMIT, DOMAIN_LIMIT = 63, 253  # RFC 1035, 2.3.4: without the bytes that are in no text
A_LABEL = "xn--"
#: What is known of so many domains is kept: several filters ask, for each recipient.
_KNOWN_LIMIT = 100
_all_known: list[dict[bytes, Any]] = []
#: Of characters before this one a text is in form C.
COMBINING = "\u0300"


def _remembering(function: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """As functools.lru_cache, which would load a quarter of a megabyte in each process."""
    known: dict[bytes, T] = {}

    def ask(domain: bytes) -> T:
        if domain not in known:
            found = function(domain)
            if len(known) >= _KNOWN_LIMIT:
                known.clear()
            known[domain] = found
        return known[domain]

    _all_known.append(known)
    return ask


def forget() -> None:
    """Know nothing of any domain."""
    for known in _all_known:
        known.clear()


def check(text: bytes) -> None:
    """Is this UTF-8 (RFC 3629: no overlong form, no surrogate) without what is FORBIDDEN?

    Else ValueError.
    """
    if not FORBIDDEN.isdisjoint(text.decode("utf-8")):
        raise ValueError("has a control character")


def check_address(address: bytes) -> None:
    """The same, and a domain that is one (RFC 6531, 3.3); else ValueError.

    Raises ControlError where there is no library to see that.
    """
    check(address)
    domain = address.rpartition(b"@")[2] if b"@" in address else b""
    if _is_international(domain.lower()) and _with_a_labels(domain) is None:
        raise ValueError("has a domain that is none")


def folded(text: bytes) -> str:
    """In lower case and normalization form C.

    Raises ValueError where it is no UTF-8, or has a character that would be one
    of ASCII then: U+212A, the sign of the kelvin, is no k.
    """
    written = text.decode("utf-8")
    if max(written, default="") < COMBINING:
        return written.lower()
    from unicodedata import normalize  # now: few sessions want it

    if any(normalize("NFC", char.lower()).isascii() for char in set(written) if char >= COMBINING):
        raise ValueError("has a character that stands for one of ASCII")
    return normalize("NFC", written.lower())


def entry_forms(entry: bytes) -> tuple[bytes, ...]:
    """An entry of a list as addresses are compared with it: in lower case, and folded."""
    given = entry.lower()
    try:
        return tuple(dict.fromkeys((given, folded(entry).encode("utf-8"))))
    except ValueError:
        return (given,)


@_remembering
def forms(domain: bytes) -> tuple[bytes, ...]:
    """A domain in lower case: as it is written, with U-labels and with A-labels."""
    given = domain.lower()
    if not _is_international(given):
        return (given,)
    ascii = _with_a_labels(domain)
    if ascii is None:  # it was never checked: only as it is written
        return (given,)
    unicode = _to_unicode(_labels(domain), library()).encode("utf-8")
    return tuple(dict.fromkeys((given, unicode, ascii)))


def boxes(box: bytes) -> tuple[bytes, ...]:
    """A local part as it is written, and, where it is not ASCII, in lower case and form C."""
    return (box, *entry_forms(box)[1:])


def spellings(address: bytes) -> tuple[bytes, ...]:
    """An address in lower case: as it is written, and with its domain in each form."""
    box, at, domain = address.rpartition(b"@")
    if not at:
        box, domain = domain, b""
    return tuple(
        dict.fromkeys(one + at + form for form in forms(domain) for one in entry_forms(box))
    )


def library() -> ModuleType:
    """The library for IDNA2008.  Raises ControlError: what the setting promises wants it."""
    try:
        try:
            import idna
        except ImportError:
            # Our launcher started Python without site, and so without its packages.
            import site

            site.main()
            import idna
    except ImportError as error:
        what = f"cannot be imported, and SMTPUTF8 needs it, unless smtputf8 is off: {error}"
        raise ControlError("Python's idna", what) from error
    return idna


def _is_international(domain: bytes) -> bool:
    return not domain.isascii() or A_LABEL.encode() in domain


@_remembering
def _with_a_labels(domain: bytes) -> bytes | None:
    """The domain with A-labels, or None where it is none.  What is ASCII needs not be a host's."""
    idna = library()
    try:
        labels = _labels(domain)
        if not domain.isascii():
            labels = [label if label.isascii() else _a_label(label, idna) for label in labels]
            right = all(0 < len(label) <= LABEL_LIMIT for label in labels)
            if not right or len(".".join(labels)) > DOMAIN_LIMIT:
                return None
    except ValueError:
        return None
    return ".".join(labels).encode("ascii")


def _labels(domain: bytes) -> list[str]:
    """The labels of a domain, folded.  Raises ValueError."""
    text = folded(domain)
    if not domain.isascii() and len(text) > DOMAIN_LIMIT:
        raise ValueError("is too long")
    return text.split(".")


def _a_label(label: str, idna: ModuleType) -> str:
    """A U-label as an A-label.  Raises ValueError."""
    if len(label) > LABEL_LIMIT:
        raise ValueError("has a label that is too long")
    found: bytes = idna.alabel(label)
    return found.decode("ascii")


def _to_unicode(labels: list[str], idna: ModuleType) -> str:
    """With U-labels; an A-label that is none stays as it is."""
    found = []
    for label in labels:
        if label.startswith(A_LABEL) and len(label) <= LABEL_LIMIT:
            try:
                label = idna.ulabel(label)
            except ValueError:
                pass
        found.append(label)
    return ".".join(found)
