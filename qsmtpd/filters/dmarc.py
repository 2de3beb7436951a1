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
For later plugins: envelope.notes["dmarc"], a Result of dmarcresult.py.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, decline, defer, reject
from ..net.dns.lookup import PASS, Dns
from ..smtp.dmarcrecord import NONE, QUARANTINE, REJECT
from . import dmarcresult
from .dmarcexempt import Exempt
from .said import said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Message
    from .dmarcresult import Result

OFF, DEFER = "off", "defer"
POLICIES = (NONE, REJECT, OFF)
NAME_LIMIT = 253  # bytes of a name in a reply
LINE = b"X-DMARC-Disposition"
WITHOUT_LINE = decline(remove={LINE: None})


class Plugin:
    """Evaluates DMARC, and follows the policy where it is told to.  Raises ControlError."""

    __slots__ = ("spool", "_name", "_log", "_follows", "_wants_author", "_exempt", "_dns")
    immune = ("relay", "auth", "listed")
    removes = True

    def __init__(self, settings: PluginSettings) -> None:
        self._name = settings.plugin
        self._log = settings.log
        policy = settings.choice("dmarcpolicy", "DMARCPOLICY", POLICIES)
        self._follows = policy == REJECT
        self._wants_author = settings.choice("dmarcfrom", "DMARCFROM", (PASS, REJECT)) == REJECT
        self._exempt = Exempt(settings)
        self._dns = Dns(settings) if policy != OFF else None
        # Else the result came too late for the header, and what is no From there was not seen.
        self.spool = policy != OFF

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        return WITHOUT_LINE if self._follows else DECLINED

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        if self._dns is None:
            return DECLINED
        from . import dmarcmessage  # now: not each session comes to a message

        found, authenticated = dmarcmessage.evaluate(self._dns, client, envelope, message)
        envelope.notes[self._name] = found
        if found.result == dmarcresult.PASS and (spf := envelope.notes.get("spf")) is not None:
            spf.excused = True  # RFC 9989, 7.1: by a signature, say
        found.disposition = self._disposition(found, self._dns.defers)
        if found.disposition != NONE:
            found.exempt = self._exempt.client(client.peer)
            found.exempt = found.exempt or self._exempt.domain([found.domain, *authenticated])
            if found.exempt:
                found.disposition = NONE
        if found.result not in (dmarcresult.PASS, dmarcresult.NO_POLICY):
            self._report(found)
        return _decision(found)

    def _disposition(self, found: Result, defers: bool) -> str:
        """What is to be done with the message, if nobody is exempt."""
        if not self._follows:
            return NONE
        if found.result == dmarcresult.FAIL:
            return found.policy
        if found.result == dmarcresult.TEMPERROR and found.may_reject and defers:
            return DEFER
        if found.result == dmarcresult.PERMERROR and not found.domain and self._wants_author:
            return REJECT
        return NONE

    def _report(self, found: Result) -> None:
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


def _decision(found: Result) -> Decision:
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
