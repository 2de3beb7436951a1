"""dmarcresult: what DMARC (RFC 9989) says of a message, for other filters."""

from __future__ import annotations

from ..smtp.dmarcrecord import NONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..net.dns.message import Answer

#: RFC 9989, 9.1.  NO_POLICY: nobody has published one.
PASS, FAIL, NO_POLICY = "pass", "fail", "none"
TEMPERROR, PERMERROR = "temperror", "permerror"
RESULTS = (PASS, FAIL, NO_POLICY, TEMPERROR, PERMERROR)


class Result:
    """What was found: envelope.notes["dmarc"].

    `result` is one of RESULTS, `domain` the author's, with A-labels, or b"" where there is
    not exactly one; `published` is the domain whose record it was, or b""; `policy` what that
    wants of a message that fails: `none`, `quarantine`, `reject`, or "" where that cannot be
    told.  `may_reject`: it could not be told whether it passes, and what is known of the
    policy could be reject.  `reason` says what stood in the way, in ASCII, or b"";
    `trouble` has what the DNS could not tell.

    `disposition` is what the filter has done: `none`, `quarantine`, `reject` or `defer`;
    `exempt`, the entry of dmarcexempt for which that is less than the policy wants, or b"".
    """

    __slots__ = (
        *("result", "domain", "published", "policy", "may_reject", "reason", "trouble"),
        *("disposition", "exempt"),
    )

    def __init__(self, result: str, domain: bytes = b"", reason: bytes = b"") -> None:
        self.result = result
        self.domain = domain
        self.published = b""
        self.policy = ""
        self.may_reject = False
        self.reason = reason
        self.trouble: list[Answer] = []
        self.disposition = NONE
        self.exempt = b""
