"""SPF's check_host() (RFC 7208, 4): by the library pyspf, which asks our resolver.

Imported when it is needed.

Of the library only the evaluation of records is used.  Its own lookups are replaced, as
is its idea of who the sender is: that splits an address at the first `@`.  A record is
anybody's: what the library cannot make sense of is a permanent error.
"""

from __future__ import annotations

from ..facts import ControlError, Lost
from ..net.dns.message import NAME_LIMIT
from ..net.dns.message import domain as asked_name
from . import spflibrary
from .spfresult import FAIL, PERMERROR, TEMPERROR, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..net.dns.resolver import Resolver

spf = spflibrary.load()
_Evaluation: Any = spf.query

# The library's time grows by the square of a length: a term of 4 KB takes half a second.
#: Records have a few hundred bytes, and should have no more than 512 (RFC 7208, 3.4).
RECORD_LIMIT = 4096  # bytes
#: A term has a name, of 253 bytes at most, which macros make shorter if anything.
TERM_LIMIT = 300  # bytes
EXPLANATION_LIMIT = 1000  # bytes, before it is expanded
#: The maximum of names of a client that are looked up (RFC 7208, 4.6.4).
POINTERS_LIMIT = 10


class Subject:
    """Whom the records are asked about: all that their macros can name.

    `address` is the client's; `local` and `domain` are the parts of the sender, or
    `postmaster` and the name of HELO; `helo` is that; `receiver` is us.
    """

    __slots__ = ("address", "local", "domain", "helo", "receiver")

    def __init__(
        self, address: bytes, local: bytes, domain: bytes, helo: bytes, receiver: bytes
    ) -> None:
        self.address = _text(address)
        self.local = _text(local)
        self.domain = _text(domain)
        self.helo = _text(helo)
        self.receiver = _text(receiver)


def check_host(resolver: Resolver, identity: str, subject: Subject) -> Verdict:
    """Evaluate the record of the subject's domain, a name with two labels or more."""
    query = _Query(resolver, subject)
    domain = subject.domain.encode("ascii")
    try:
        result, _, _ = query.check()
        problem = getattr(query, "prob", "") if result in (TEMPERROR, PERMERROR) else ""
        mechanism = query.mechanism or ""
        explanation = (query.explanation() or "") if result == FAIL else ""
    except (Lost, ControlError):
        raise
    except Exception as error:  # a number with 5000 digits, say
        return Verdict(identity, domain, PERMERROR, problem=type(error).__name__.encode("ascii"))
    texts = (text.encode("ascii", "replace") for text in (mechanism, problem, explanation))
    return Verdict(identity, domain, result, *texts)


class _Query(_Evaluation):  # type: ignore[misc]
    """One evaluation."""

    def __init__(self, resolver: Resolver, subject: Subject) -> None:
        sender = f"{subject.local}@{subject.domain}"
        super().__init__(subject.address, sender, subject.helo, receiver=subject.receiver)
        self.l, self.o, self.d = subject.local, subject.domain, subject.domain
        self._resolver = resolver
        self._depth = 0
        #: Where the explanation is, and the domain whose record says so.
        self._explained: tuple[str, str] | None = None

    def explanation(self) -> str | None:
        """What the domain says to who has failed: its exp= (RFC 7208, 6.2)."""
        if self._explained is None:
            return None
        place, self.d = self._explained
        try:
            found: str | None = super().get_explanation(place)
        except spf.TempError:
            return None
        return found

    # -- what the library calls ----------------------------------------------

    def check1(self, record: str, domain: str, depth: int) -> Any:
        """A record: that of the domain, of one that it includes (deeper), or redirects to."""
        outer, self._depth = self._depth, depth
        if depth == 0:
            self._explained = None  # that of a redirect counts (RFC 7208, 6.2)
        try:
            return super().check1(record, domain, depth)
        finally:
            self._depth = outer

    def get_explanation(self, place: str) -> None:
        """The library asks for it before it knows the result: only noted."""
        if self._depth == 0:
            self._explained = place, self.d

    def dns(
        self, name: str, kind: str, cnames: object = None, ignore_void: bool = False
    ) -> list[Any]:
        """The records of this name and type."""
        while len(name) > NAME_LIMIT and "." in name:
            name = name.partition(".")[2]  # what macros have made too long (RFC 7208, 7.3)
        asked = asked_name(name.encode("ascii")) if name.isascii() else None  # RFC 8616, 4
        if asked is None:
            return []
        (answer,) = self._resolver.ask((asked, kind))
        if answer.trouble:
            raise spf.TempError(f"DNS {answer.trouble}", name)
        found = [value for record in answer.records for value in _values(kind, record)]
        if not found and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError("Too many lookups without an answer")
        return found

    def validated_ptrs(self) -> list[str]:
        """The names of the client that lead back to it; errors are none (RFC 7208, 5.5)."""
        found = []
        try:
            names = self.dns_ptr(self.i)[:POINTERS_LIMIT]
        except spf.TempError:
            return []
        for name in names:
            try:
                if self.cidrmatch(self.dns_a(name, self.A), self.cidrmax):
                    found.append(name)
            except spf.TempError:
                continue
        return found


def _values(kind: str, record: Any) -> list[Any]:
    """A record of an answer as the library has it; none where it has nothing for it."""
    if kind == "TXT":
        if not spf.RE_SPF.match(record):
            return [(record,)] if len(record) <= EXPLANATION_LIMIT else []
        if len(record) > RECORD_LIMIT:
            raise spf.PermError(f"Record longer than {RECORD_LIMIT} bytes")
        if any(len(term) > TERM_LIMIT for term in record.split(b" ")):
            raise spf.PermError(f"Term longer than {TERM_LIMIT} bytes")
        return [(record,)]
    if kind == "MX":
        preference, name = record
        return [(preference, _text(name))]
    return [_text(record)]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
