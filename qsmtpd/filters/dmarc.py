"""dmarc: messages whose author's domain does not vouch for them (DMARC, RFC 9989).

Configuration: control/dmarcpolicy or DMARCPOLICY: `none`, the result is found and nothing
refused; `reject`, what the domain of the author wants to be refused is, and what it wants to
be quarantined has a line in its header; or `off`.
control/dmarcexempt: whose mail is refused never, see dmarcexempt.py.
control/dmarcfrom or DMARCFROM: `pass`, or `reject`: with DMARCPOLICY=reject, a message whose
From has not the domain of exactly one author is refused, too.
What the DNS does not say: dnstrouble and the others of net/dns/.

It needs the results of the filters spf and dkim, which are asked before it.
Replies: `550 message rejected by the DMARC policy of a.com (#5.7.26)`, `554 message has more
than one From (#5.6.0)` (or what else is wrong), `451 sorry, I cannot check DMARC of a.com, try
again later (#4.7.0)`.
Log keys: by=dmarc; event=plugin with result, domain, policy, published, disposition, exempt,
reason, of other results than pass and none.
A line X-DMARC-Disposition that a message brings is removed.
For later plugins: envelope.notes["dmarc"], a Result of dmarcevaluation.py.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, decline, defer, reject
from ..net.dns.lookup import PASS, Dns
from ..smtp import author
from ..smtp.dmarcrecord import NONE, QUARANTINE, REJECT
from . import dmarcevaluation as dmarc
from .dmarcexempt import Exempt
from .said import said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Message

OFF, DEFER = "off", "defer"
POLICIES = (NONE, REJECT, OFF)
NAME_LIMIT = 253  # bytes of a name in a reply
LITERAL = b"an address and no domain in From"
UNCHECKED = b"neither SPF nor DKIM was checked"
HEADER_TOO_LONG = b"a header that is too long"
LINE = b"X-DMARC-Disposition"
WITHOUT_LINE = decline(remove={LINE: None})


class Plugin:
    """Evaluates DMARC, and follows the policy where it is told to.  Raises ControlError."""

    __slots__ = ("spool", "_name", "_log", "_follows", "_wants_author", "_exempt", "_dns")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._name = settings.plugin
        self._log = settings.log
        policy = settings.choice("dmarcpolicy", "DMARCPOLICY", POLICIES)
        self._follows = policy == REJECT
        self._wants_author = settings.choice("dmarcfrom", "DMARCFROM", (PASS, REJECT)) == REJECT
        self._exempt = Exempt(settings)
        self._dns = Dns(settings) if policy != OFF else None
        self.spool = self._follows  # else it would be too late for a line in the header

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        return WITHOUT_LINE if self._follows else DECLINED

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        if self._dns is None:
            return DECLINED
        vouching = _identifiers(envelope)
        found = _evaluate(self._dns, client, message, vouching)
        envelope.notes[self._name] = found
        if found.result == dmarc.PASS and (spf := envelope.notes.get("spf")) is not None:
            spf.excused = True  # RFC 9989, 7.1: by a signature, say
        found.disposition = self._disposition(found, self._dns.defers)
        if found.disposition != NONE:
            sure = [one.domain for one in vouching or () if one.sure]
            found.exempt = self._exempt.client(client.peer)
            found.exempt = found.exempt or self._exempt.domain([found.domain, *sure])
            if found.exempt:
                found.disposition = NONE
        if found.result not in (dmarc.PASS, dmarc.NO_POLICY):
            self._report(found)
        return _decision(found)

    def _disposition(self, found: dmarc.Result, defers: bool) -> str:
        """What is to be done with the message, if nobody is exempt."""
        if not self._follows:
            return NONE
        if found.result == dmarc.FAIL:
            return found.policy
        if found.result == dmarc.TEMPERROR and found.may_reject and defers:
            return DEFER
        if found.result == dmarc.PERMERROR and not found.domain and self._wants_author:
            return REJECT
        return NONE

    def _report(self, found: dmarc.Result) -> None:
        assert self._dns is not None
        for answer in found.trouble:
            self._dns.log_trouble(answer)
        self._log(
            result=found.result,
            domain=found.domain or None,
            policy=found.policy or None,
            published=found.published or None,
            disposition=found.disposition,
            exempt=found.exempt or None,
            reason=found.reason or None,
        )


def _evaluate(
    dns: Dns, client: Client, message: Message, vouching: list[dmarc.Identifier] | None
) -> dmarc.Result:
    from ..net.dns.message import domain

    written, problem = author.author_domain(_from_lines(message))
    if not message.whole_header and problem != author.SEVERAL_FIELDS:
        problem = HEADER_TOO_LONG  # there may be another one
    if problem:
        return dmarc.Result(dmarc.PERMERROR, reason=problem)
    if written.startswith(b"["):
        return dmarc.Result(dmarc.NO_POLICY, reason=LITERAL)
    name = domain(written)
    if name is None:
        return dmarc.Result(dmarc.PERMERROR, reason=author.UNREADABLE)
    found = dmarc.evaluate(lambda *asked: dns.ask(client, *asked), name, vouching or ())
    if found.result == dmarc.FAIL and vouching is None:
        # Whoever has switched the others off does not want all mail to be refused.
        found.result, found.reason = dmarc.PERMERROR, UNCHECKED
    return found


def _from_lines(message: Message) -> list[bytes]:
    """The value of each From, also of one behind a bare CR, where other programs may see it."""
    found = message.values(b"from")
    for _, value in message.header:
        for line in value.split(b"\r")[1:]:
            name, colon, rest = line.partition(b":")
            if colon and name.strip(b" \t\n").lower() == b"from":
                found.append(rest)
    return found


def _identifiers(envelope: Envelope) -> list[dmarc.Identifier] | None:
    """The domains that SPF and DKIM have authenticated, or could have; None: nobody has looked."""
    from ..net.dns.message import domain

    spf, dkim = envelope.notes.get("spf"), envelope.notes.get("dkim")
    if spf is None and dkim is None:
        return None
    said = [(dmarc.SPF, spf.verdict)] if spf is not None and spf.verdict is not None else []
    said += [(dmarc.DKIM, one) for one in dkim or ()]
    found = []
    for method, one in said:
        if one.result in (dmarc.PASS, dmarc.TEMPERROR) and (name := domain(one.domain)) is not None:
            found.append(dmarc.Identifier(method, name, one.result == dmarc.PASS))
    return found


def _decision(found: dmarc.Result) -> Decision:
    name = said(found.domain, NAME_LIMIT)
    if found.disposition == DEFER:
        text = b"sorry, I cannot check DMARC of %b, try again later"
        return defer(text % name, 451, b"4.7.0")
    if found.disposition == REJECT and not found.domain:
        return reject(b"message has " + found.reason, 554, b"5.6.0")
    if found.disposition == REJECT:
        text = b"message rejected by the DMARC policy of %b"
        return reject(text % name, 550, b"5.7.26")
    words = [found.result.encode("ascii"), found.domain, found.reason]
    reason = b" ".join(filter(None, words))
    if found.disposition == QUARANTINE:
        return decline(reason, above=[LINE + b": quarantine (%b)" % found.domain])
    return decline(reason)
