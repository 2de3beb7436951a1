"""Addresses in UTF-8 (RFC 6531), and their domains in both forms (RFC 5890).

A domain is written with U-labels, `bücher.example`, or with A-labels,
`xn--bcher-kva.example`: it is the same one.  Both are compared in lower case
and in Unicode's normalization form C, which RFC 5891 (5.2) wants to be there
before.  Whether a label is one at all, says IDNA2008, by the library `idna`.
"""

from __future__ import annotations

from functools import lru_cache
from unicodedata import normalize

from ..facts import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

#: What is in no address: the controls (C0, DEL, C1), the separators of lines and
#: paragraphs, and what turns the direction of the text around it and shows
#: another address than there is.
FORBIDDEN = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029))) | frozenset(
    map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))
)
LABEL_LIMIT = 63  # characters; an A-label is longer than its U-label (RFC 5890, 2.3.2.1)
LABELS_LIMIT = 127  # of a name of 255 bytes (RFC 1035, 2.3.4)
A_LABEL = "xn--"


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
    _, at, domain = address.rpartition(b"@")
    if at and _is_international(domain.lower()):
        _to_ascii(_labels(domain), library())


def folded(text: bytes) -> str:
    """In lower case and normalization form C.  Raises ValueError where it is no UTF-8."""
    return normalize("NFC", text.decode("utf-8").lower())


@lru_cache(maxsize=100)  # several filters ask, for each recipient
def forms(domain: bytes) -> tuple[bytes, ...]:
    """A domain in lower case: as it is written, with U-labels and with A-labels."""
    given = domain.lower()
    if not _is_international(given):
        return (given,)
    try:
        labels = _labels(given)
        idna = library()
        found = (given, _to_unicode(labels, idna).encode("utf-8"), _to_ascii(labels, idna))
    except ValueError:  # it was never checked: only as it is written
        return (given,)
    return tuple(dict.fromkeys(found))


def spellings(address: bytes) -> tuple[bytes, ...]:
    """An address in lower case: as it is written, and with its domain in each form."""
    box, at, domain = address.rpartition(b"@")
    if not at:
        box, domain = domain, b""
    boxes = [box.lower()]
    if not box.isascii():
        try:
            boxes.append(folded(box).encode("utf-8"))
        except ValueError:
            pass
    return tuple(dict.fromkeys(one + at + form for form in forms(domain) for one in boxes))


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
        what = f"wants Python's idna, which cannot be imported: {error}"
        raise ControlError("control/smtputf8", what) from error
    return idna


def _is_international(domain: bytes) -> bool:
    return not domain.isascii() or A_LABEL.encode() in domain


def _labels(domain: bytes) -> list[str]:
    """The labels of a domain, folded.  Raises ValueError."""
    labels = folded(domain).split(".")
    if len(labels) > LABELS_LIMIT:
        raise ValueError("has too many labels")
    return labels


def _to_ascii(labels: list[str], idna: ModuleType) -> bytes:
    """With A-labels.  Raises ValueError.  What is ASCII needs not be a host's name."""
    found = []
    for label in labels:
        if not label.isascii():
            if len(label) > LABEL_LIMIT:
                raise ValueError("has a label that is too long")
            label = idna.alabel(label).decode("ascii")
        found.append(label)
    return ".".join(found).encode("ascii")


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
