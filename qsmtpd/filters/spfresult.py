"""spfresult: what SPF says of a client, and what can be said without the library."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..net.dns.message import Answer

PASS, FAIL, SOFTFAIL, NEUTRAL = "pass", "fail", "softfail", "neutral"
NONE, TEMPERROR, PERMERROR = "none", "temperror", "permerror"
RESULTS = (PASS, FAIL, SOFTFAIL, NEUTRAL, NONE, TEMPERROR, PERMERROR)


class Verdict:
    """What a domain says of a client that uses it.

    `identity` is `mailfrom` or `helo`, `domain` the one that was asked about, `result`
    one of RESULTS; `mechanism`, the term of the record that decided, or b"";
    `problem`, what is wrong, or b""; `explanation`, what the domain has to say to who
    failed, or b"".  The last three are anybody's.
    """

    __slots__ = ("identity", "domain", "result", "mechanism", "problem", "explanation")

    def __init__(
        self,
        identity: str,
        domain: bytes,
        result: str = NONE,
        mechanism: bytes = b"",
        problem: bytes = b"",
        explanation: bytes = b"",
    ) -> None:
        self.identity = identity
        self.domain = domain
        self.result = result
        self.mechanism = mechanism
        self.problem = problem
        self.explanation = explanation


def without_record(identity: str, domain: bytes, answer: Answer) -> Verdict | None:
    """The verdict of a domain that has no record, by what its TXT records are; else None."""
    if answer.trouble:
        problem = f"DNS {answer.trouble}".encode("ascii", "replace")
        return Verdict(identity, domain, TEMPERROR, problem=problem)
    if any(map(_is_record, answer.records)):
        return None
    return Verdict(identity, domain)


def _is_record(text: bytes) -> bool:
    """Does it begin with the version, and a blank or nothing behind that (RFC 7208, 4.5)?"""
    version, _, _ = text.partition(b" ")
    return version.lower() == b"v=spf1"
