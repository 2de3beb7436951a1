"""dmarcmessage: whose a message says to be, who vouches for it, and what DMARC makes of that.

Imported with the first message.
"""

from __future__ import annotations

from ..net.dns.message import domain, host_domain
from ..smtp import author
from .dmarcevaluation import DKIM, SPF, Identifier, evaluate_domain
from .dmarcresult import FAIL, NO_POLICY, PASS, PERMERROR, TEMPERROR, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facts import Client, Envelope, Message
    from ..net.dns.lookup import Dns

LITERAL = b"an address and no domain in From"
UNCHECKED = b"neither SPF nor DKIM was checked"
HEADER_TOO_LONG = b"a header that is too long"
#: So much of a message is searched for a From (bytes): more than is shown as header.
SEARCHED = 512 * 1024
_FROM = b"from"


def evaluate(
    dns: Dns, client: Client, envelope: Envelope, message: Message
) -> tuple[Result, list[bytes]]:
    """The result, and the domains that SPF and DKIM have authenticated."""
    identifiers = _identifiers(envelope)
    authenticated = [one.domain for one in identifiers or () if one.sure]
    name, result = _author(message)
    if result is None:
        result = evaluate_domain(lambda *asked: dns.ask(client, *asked), name, identifiers or ())
        if result.result == FAIL and identifiers is None:
            # Whoever has switched the others off does not want all mail to be refused.
            result.result, result.reason = PERMERROR, UNCHECKED
    return result, authenticated


def _author(message: Message) -> tuple[bytes, Result | None]:
    """The author's domain as it is asked about, or what the result is without one."""
    fields = _from_fields(message)
    if fields is None:
        return b"", Result(PERMERROR, reason=HEADER_TOO_LONG)
    written, problem = author.author_domain(fields)
    if problem:
        return b"", Result(PERMERROR, reason=problem)
    if written.startswith(b"["):
        from ..net.ip import is_literal

        if is_literal(written):
            return b"", Result(NO_POLICY, reason=LITERAL)
    name = host_domain(written)  # not =?utf-8?q?bank?=.example, which some programs decode
    if name is None:
        return b"", Result(PERMERROR, reason=author.UNREADABLE)
    return name, None


def _from_fields(message: Message) -> list[bytes] | None:
    """The values of all that may be taken for a From; None where there is no end of a header.

    Who shows the message may find one also behind a line that is none of a header, or a bare
    CR.  So all counts up to the first empty line, where the message is in a file.
    """
    if message.file is None:
        if not message.whole_header:
            return None
        text = b"".join(b"%b:%b\n" % line for line in message.header)
    else:
        text = b"\n" + message.file.read(SEARCHED)
        end = text.find(b"\n\n")
        if end < 0 and len(text) > SEARCHED:
            return None
        text = text[1 : end if end >= 0 else len(text)]
    found: list[list[bytes]] = []  # joined at the end, for one may have 100,000 folds
    is_from = False
    for line in text.split(b"\n"):
        is_fold = line.startswith((b" ", b"\t"))
        if is_fold and is_from:
            found[-1].append(line)
        first, *hidden = line.split(b"\r")
        is_from = is_from and is_fold
        if _is_from(first):
            is_from = True
            found.append([line.partition(b":")[2]])
        found += [[part.partition(b":")[2]] for part in hidden if _is_from(part)]
    return [b"\n".join(lines) for lines in found]


def _is_from(line: bytes) -> bool:
    name, colon, _ = line.partition(b":")
    return bool(colon) and name.rstrip(b" \t").lower() == _FROM


def _identifiers(envelope: Envelope) -> list[Identifier] | None:
    """The domains that SPF and DKIM have authenticated, or could have; None: nobody has looked."""
    spf, dkim = envelope.notes.get("spf"), envelope.notes.get("dkim")
    if spf is None and dkim is None:
        return None
    said = [(SPF, spf.verdict)] if spf is not None and spf.verdict is not None else []
    said += [(DKIM, one) for one in dkim or ()]
    found = []
    for method, one in said:
        if one.result in (PASS, TEMPERROR) and (name := domain(one.domain)) is not None:
            found.append(Identifier(method, name, one.result == PASS))
    return found
