"""DMARC (RFC 9989): the policy that there is for the domain of an author, and what it says.

A policy is found by walking up the DNS from a name to the root (4.10).  All names of a walk
are asked about at once: that takes as long as one question, and of the answers those count
that the walk comes to.
"""

from __future__ import annotations

from ..smtp.dmarcrecord import REJECT, Record, is_record, read
from .dmarcresult import FAIL, NO_POLICY, PASS, PERMERROR, TEMPERROR, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..net.dns.message import Answer

    #: As Resolver.ask().
    Ask = Callable[..., list[Answer]]

SPF, DKIM = "spf", "dkim"
#: A walk jumps from a longer name to its last seven labels (4.10, step 4).
LABELS_LIMIT = 7


class Identifier:
    """A domain that SPF or DKIM has authenticated; `sure`: not, where that cannot be told."""

    __slots__ = ("method", "domain", "sure")

    def __init__(self, method: str, domain: bytes, sure: bool = True) -> None:
        self.method = method
        self.domain = domain
        self.sure = sure


def evaluate_domain(ask: Ask, author: bytes, identifiers: Sequence[Identifier]) -> Result:
    """DMARC for this domain of an author; all names are as message.domain() returns them."""
    walk = _Walk(ask, author)
    result = Result(NO_POLICY, author)
    applied = walk.policy()
    own = applied is not None and applied[0] == author
    if walk.trouble and not own:
        is_vouched_for = any(one.sure and one.domain == author for one in identifiers)
        if is_vouched_for and applied is not None and not applied[1].problem:
            result.result = PASS  # whichever record it is that applies
            return result
        result.result, result.trouble = TEMPERROR, walk.trouble
        result.may_reject = any(record.may_reject for _, record in walk.found)
        return result
    if applied is None:
        return result
    result.published, record = applied
    if record.problem:
        result.result, result.reason = PERMERROR, record.problem
        return result
    result.result = FAIL
    for one in identifiers:
        aligned = _is_aligned(ask, walk, record, one, result)
        if aligned:
            result.result, result.reason, result.trouble = PASS, b"", []
            break
        if aligned is None:
            result.result = TEMPERROR
    wanted = record.p if own else record.sp
    if not own and record.has_np and record.np != record.sp:
        # 3.2.13: there is no such name.  Of a CNAME, its target does not matter.
        (answer,) = ask((author, "CNAME"))
        if answer.no_name:
            wanted = record.np
        elif answer.trouble:
            if result.result != PASS:
                result.result = TEMPERROR
                result.trouble.append(answer)
                result.may_reject = record.may_reject and REJECT in (record.sp, record.np)
            return result
    result.policy = record.applied(wanted)
    result.may_reject = result.result == TEMPERROR and result.policy == REJECT
    return result


class _Walk:
    """A tree walk (4.10): `found` has the records, of the longest name first.

    It ends at a record that says what an organization is; `trouble` is what could not be
    told before that.
    """

    __slots__ = ("start", "found", "trouble")

    def __init__(self, ask: Ask, start: bytes) -> None:
        self.start = start
        self.found: list[tuple[bytes, Record]] = []
        self.trouble: list[Answer] = []
        names = walked(start)
        for name, answer in zip(
            names, ask(*((b"_dmarc." + name, "TXT") for name in names)), strict=True
        ):
            if answer.trouble:
                self.trouble.append(answer)
            texts = list(filter(is_record, answer.records))
            if len(texts) == 1:  # of several none counts
                record = read(texts[0])
                self.found.append((name, record))
                if record.psd != "u":
                    break

    def organization(self) -> bytes:
        """The Organizational Domain of the name where it began (4.10.2)."""
        if not self.found:
            return self.start
        name, record = self.found[-1]
        if record.psd != "y":
            return name
        # One label below a public suffix; of that itself, where the walk began there, none is.
        labels = self.start.split(b".")
        return b".".join(labels[-name.count(b".") - 2 :])

    def policy(self) -> tuple[bytes, Record] | None:
        """The record that applies to that name, and where it is (4.10.1)."""
        if not self.found:
            return None
        records = dict(self.found)
        for name in (self.start, self.organization()):
            if name in records:
                return name, records[name]
        return self.found[-1]  # of the public suffix: it has psd=y


def walked(name: bytes) -> list[bytes]:
    """The names of which a walk wants records: itself and those above it, eight at most."""
    labels = name.split(b".")
    above = labels[1:] if len(labels) <= LABELS_LIMIT else labels[-LABELS_LIMIT:]
    return [name, *(b".".join(above[place:]) for place in range(len(above)))]


def _is_aligned(
    ask: Ask, author: _Walk, record: Record, identifier: Identifier, result: Result
) -> bool | None:
    """Is this the author's domain, or one of the same organization?  None: who can tell?"""
    is_strict = record.strict_spf if identifier.method == SPF else record.strict_dkim
    aligned: bool | None = identifier.domain == author.start
    if not aligned and not is_strict:
        organization = author.organization()
        # An organization is above all of its names, so most need no walk; but where that of
        # the author is not sure, only what has another end is none of it.
        above = organization if not author.trouble else organization.rpartition(b".")[2]
        if identifier.domain == above or identifier.domain.endswith(b"." + above):
            walk = _Walk(ask, identifier.domain)
            trouble = author.trouble + walk.trouble
            result.trouble += trouble
            aligned = None if trouble else walk.organization() == organization
    if identifier.sure or aligned is False:
        return aligned
    result.reason = result.reason or b"%b could not be checked" % identifier.method.encode("ascii")
    return None
