"""spf: senders whose domain does not let the client send its mail (RFC 7208).

Configuration: control/spfbehavior or SPFBEHAVIOR, a number, as in the SPF patches for
qmail; each does what those before it do, too:

    0  nothing is checked
    1  the results are in the header, as Received-SPF
    2  what cannot be found out for now is put off
    3  fail is refused
    4  softfail is refused
    5  neutral is refused
    6  all but pass is refused

control/spfpermerror or SPFPERMERROR: `pass`, or `reject`: a record that makes no sense
is refused, from 3 on.  control/spfstage or SPFSTAGE: `rcpt`, or `data_post`: a refusal
is said at the end of the message, unless a plugin has by then set `excused` of the
results.  What the DNS does not say: dnstrouble and the others of net/dns/.

Two names are checked, that of HELO and that of the sender; a bounce has only the first.
Of HELO's results fail and softfail are refused as if they were the sender's.
Replies: `550 sorry, a.com does not let 192.0.2.1 send its mail (#5.7.23)`, with what
the domain says of it (exp=), `550 sorry, the SPF record of a.com makes no sense
(#5.7.24)`, `451 sorry, I cannot check the SPF record of a.com (#4.4.3)`.
Log keys: by=spf; event=plugin with identity, domain, result, problem.
For later plugins: envelope.notes["spf"], a Results.
"""

from __future__ import annotations

from time import process_time

from ..decision import DECLINED, REFUSALS, Decision, decline, defer, reject
from ..net.dns.lookup import PASS, Dns
from . import spflibrary
from .said import PRINTABLE, said
from .spfresult import Verdict, without_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Message

MARK, PUT_OFF, REFUSE_FAIL, REFUSE_SOFTFAIL, REFUSE_NEUTRAL, REFUSE_ALL = range(1, 7)
#: From which behaviour on a result is refused.
REFUSED = {
    "fail": REFUSE_FAIL,
    "softfail": REFUSE_SOFTFAIL,
    "neutral": REFUSE_NEUTRAL,
    "none": REFUSE_ALL,
    "permerror": REFUSE_ALL,
}
AT_RCPT, AT_DATA_POST = STAGES = ("rcpt", "data_post")
UNKNOWN = b"unknown"
NAME_LIMIT, VALUE_LIMIT = 255, 320  # bytes: of a domain, of an address (RFC 5321, 4.5.3.1)
#: In the notes of a client: what evaluating records has cost; and how much that may be in a
#: session.  A record takes a millisecond; ten that are made for it, half a second.
SPENT, SECONDS_LIMIT = "spf.seconds", 5.0

#: RFC 5322, 3.2.3: of a value that is a dot-atom.
_ATEXT = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~"
_COMMENTS = {
    "pass": b"%b designates %b as permitted sender",
    "fail": b"%b does not designate %b as permitted sender",
    "softfail": b"%b probably does not designate %b as permitted sender",
    "neutral": b"%b does not say whether %b is permitted sender",
    "none": b"%b has no SPF record, client is %b",
    "temperror": b"error in looking up the SPF record of %b, client is %b",
    "permerror": b"error in the SPF record of %b, client is %b",
}


class Results:
    """What was found out about a transaction.

    `helo` and `mailfrom` are a Verdict, or None where there was no name to check, as of
    the sender of a bounce.  `lines` are for the header.  `decision` is what the filter
    makes of them; with `excused` it refuses nothing at the end of the message.
    """

    __slots__ = ("helo", "mailfrom", "lines", "decision", "excused")

    def __init__(self, helo: Verdict | None, mailfrom: Verdict | None) -> None:
        self.helo = helo
        self.mailfrom = mailfrom
        self.lines: list[bytes] = []
        self.decision = DECLINED
        self.excused = False

    @property
    def verdict(self) -> Verdict | None:
        """That of the sender, or of HELO where the sender is null: what DMARC looks at."""
        return self.mailfrom or self.helo


def Plugin(settings: PluginSettings) -> _Filter:
    """The filter; with a second hook where it refuses later.  Raises ControlError."""
    stage = settings.choice("spfstage", "SPFSTAGE", STAGES)
    return _Filter(settings) if stage == AT_RCPT else _LateFilter(settings)


class _Filter:
    """Refuses senders by SPF, at RCPT."""

    __slots__ = ("_name", "_behavior", "_permerror", "_dns", "_log")
    immune = ("relay", "auth", "listed")

    def __init__(self, settings: PluginSettings) -> None:
        self._name = settings.plugin
        self._log = settings.log
        self._behavior = settings.number("spfbehavior", "SPFBEHAVIOR", 0, most=6, empty=0)
        self._permerror = settings.choice("spfpermerror", "SPFPERMERROR", (PASS, "reject")) != PASS
        self._dns: Dns | None = None
        if self._behavior:
            self._dns = Dns(settings)
            spflibrary.expect()

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        found = self._found(client, envelope)
        return DECLINED if found is None else found.decision

    def _found(self, client: Client, envelope: Envelope) -> Results | None:
        """The results of a transaction, which are the same for each recipient; None of none."""
        if self._dns is None or client.peer.ip == UNKNOWN:
            return None
        found: Results | None = envelope.notes.get(self._name)
        if found is None:
            found = _check(self._dns, client, envelope)
            found.lines = _lines(client, envelope, found)
            found.decision = self._judge(self._dns, client, found)
            self._log_problems(found)
            envelope.notes[self._name] = found  # now: what has failed does not count
        return found

    def _judge(self, dns: Dns, client: Client, found: Results) -> Decision:
        for verdict in (found.helo, found.mailfrom):
            if verdict is None:
                continue
            is_main = verdict is found.verdict
            if self._refuses(verdict.result, is_main):
                return _refusal(verdict, client.peer.ip)
            may_defer = self._behavior >= PUT_OFF and dns.defers
            if verdict.result == "temperror" and is_main and may_defer:
                text = b"sorry, I cannot check the SPF record of %b, try again later"
                return defer(text % said(verdict.domain, NAME_LIMIT), 451, b"4.4.3")
        return decline(above=found.lines)

    def _refuses(self, result: str, is_main: bool) -> bool:
        """Is this result refused?  Of HELO beside a sender less is."""
        if not is_main and result not in ("fail", "softfail"):
            return False
        if result == "permerror" and self._permerror and self._behavior >= REFUSE_FAIL:
            return True
        return result in REFUSED and self._behavior >= REFUSED[result]

    def _log_problems(self, found: Results) -> None:
        for verdict in (found.helo, found.mailfrom):
            if verdict is not None and verdict.problem:
                self._log(
                    identity=verdict.identity,
                    domain=verdict.domain,
                    result=verdict.result,
                    problem=said(verdict.problem),
                )


class _LateFilter(_Filter):
    """Refuses at the end of the message what nobody has excused until then."""

    __slots__ = ()

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        found = self._found(client, envelope)
        return DECLINED if found is None else decline(above=found.lines)

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        found: Results | None = envelope.notes.get(self._name)
        if found is None or found.excused or found.decision.verdict not in REFUSALS:
            return DECLINED
        return found.decision


def _check(dns: Dns, client: Client, envelope: Envelope) -> Results:
    """Ask both domains about the client."""
    from ..net.dns.message import mail_domain

    local, at, sender = envelope.sender.rpartition(b"@")
    heard = (client.helo or b"").rstrip(b" ")
    helo, mailfrom = mail_domain(heard), mail_domain(sender)
    names = [name for name in (helo, mailfrom) if name is not None]
    texts = dict(zip(names, dns.ask(client, *((name, "TXT") for name in names)), strict=True))

    def check(identity: str, local: bytes, name: bytes | None, text: bytes) -> Verdict:
        if name is None:
            return Verdict(identity, text.translate(PRINTABLE)[:VALUE_LIMIT])
        found = without_record(identity, name, texts[name])
        if found is not None:
            return found
        spent = client.notes.get(SPENT, 0.0)
        if spent > SECONDS_LIMIT:
            return Verdict(identity, name, "temperror", problem=b"too much work for a session")
        from . import spfquery  # now: to load the library takes longer than a session

        before = process_time()
        peer = client.peer
        subject = spfquery.Subject(peer.ip, local, name, helo or heard, peer.local_host)
        found = spfquery.check_host(dns.resolver(client), identity, subject)
        client.notes[SPENT] = spent + process_time() - before
        return found

    return Results(
        check("helo", b"postmaster", helo, heard) if heard else None,
        check("mailfrom", local or b"postmaster", mailfrom, sender) if envelope.sender else None,
    )


def _refusal(verdict: Verdict, ip: bytes) -> Decision:
    domain = said(verdict.domain or b"nobody", NAME_LIMIT)
    if verdict.result == "permerror":
        text = b"sorry, the SPF record of %b makes no sense" % domain
        return reject(text, 550, b"5.7.24")
    if verdict.result != "fail":
        text = b"sorry, %b does not say that %b may send its mail" % (domain, ip)
        return reject(text, 550, b"5.7.23")
    text = b"sorry, %b does not let %b send its mail" % (domain, ip)
    if verdict.explanation:
        text += b": " + said(verdict.explanation)
    return reject(text, 550, b"5.7.23")


def _lines(client: Client, envelope: Envelope, found: Results) -> list[bytes]:
    """Received-SPF of the sender, and of HELO where that says something (RFC 7208, 9.1)."""
    verdicts = [found.mailfrom, found.helo]
    return [
        _line(client, envelope, verdict)
        for verdict in verdicts
        if verdict is not None and (verdict is found.verdict or verdict.result != "none")
    ]


def _line(client: Client, envelope: Envelope, verdict: Verdict) -> bytes:
    from ..smtp.received import clean

    peer = client.peer
    about = clean(verdict.domain or b"nobody"), peer.ip
    first = (
        b"receiver=" + _value(peer.local_host),
        b"client-ip=" + _value(peer.ip),
        b"identity=" + verdict.identity.encode("ascii"),
    )
    more = [b"helo=" + _value(client.helo or b""), b"envelope-from=" + _value(envelope.sender)]
    if verdict.mechanism:
        more.append(b"mechanism=" + _value(verdict.mechanism))
    if verdict.problem:
        more.append(b"problem=" + _value(verdict.problem))
    head = b"Received-SPF: %b\n  (%b: %b)" % (
        verdict.result.encode("ascii"),
        clean(peer.local_host),
        _COMMENTS[verdict.result] % about,
    )
    return b";\n  ".join([head + b"\n  " + b"; ".join(first), *more])


def _value(text: bytes) -> bytes:
    """A value of Received-SPF: as it is, where it is a dot-atom, or in quotation marks."""
    text = text[:VALUE_LIMIT].translate(PRINTABLE)
    if text and all(part and not part.strip(_ATEXT) for part in text.split(b".")):
        return text
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
