"""dkimresult: what became of the DKIM signatures of a message (RFC 6376), for other filters."""

from __future__ import annotations

PASS, FAIL, POLICY, NEUTRAL = "pass", "fail", "policy", "neutral"
TEMPERROR, PERMERROR = "temperror", "permerror"
#: RFC 8601, 2.7.1; `none` is of a message without a signature.
RESULTS = (PASS, FAIL, POLICY, NEUTRAL, TEMPERROR, PERMERROR)


class Signature:
    """One signature: envelope.notes["dkim"] is a list of these, in the order of the header.

    The list is empty where there is no signature, and missing where nobody looked.
    `result` is one of RESULTS.  Of the signature's tags, b"" where there is none or it makes
    no sense: `domain` (d=) in lower case, with A-labels; `selector` (s=); `algorithm` (a=) in
    lower case; `digest`, the first 8 characters of b=.  `reason` is why it is no pass, in ASCII.
    `testing`: the key says that its domain is only testing DKIM (t=y).
    """

    __slots__ = ("result", "domain", "selector", "algorithm", "digest", "reason", "testing")

    def __init__(
        self,
        result: str,
        domain: bytes = b"",
        selector: bytes = b"",
        algorithm: bytes = b"",
        digest: bytes = b"",
        reason: str = "",
        testing: bool = False,
    ) -> None:
        self.result = result
        self.domain = domain
        self.selector = selector
        self.algorithm = algorithm
        self.digest = digest
        self.reason = reason
        self.testing = testing
