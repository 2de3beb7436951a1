"""badmailfrom: senders whose mail is refused.

Configuration: control/badmailfrom, one entry a line; case does not matter, and
the last entry that matches decides:

    user@a.com   this address
    @a.com       every address in this domain
    *@*.a.com    a pattern, with * ? [a-z] [^a-z] \\x; one that begins with @ is
                 for the domain, any other for the whole address
    re:.*@a\\.com  a regular expression, which has to match the whole address
    !entry       takes back what the entries before it say of these senders
    @a.com-      the domain, where the client's host name is unknown
    @a.com=      the domain, where the client's host is not below a.com
    @a.com+      the domain, where the client may not relay
    ~a.com       other domains than a.com and those below it, where the client's
                 host is below a.com; the null sender never
    ?user@a.com  this address is never refused

The qualifiers - = + ~ take no pattern, and no entry with re: takes one.
REPLY_BADMAILFROM adds to the reply.
Replies: as in qmail-smtpd, MAIL is accepted and each RCPT refused with `553
sorry, your envelope sender is in my badmailfrom list (#5.7.1)`, that of a
client that may relay as well.
Log keys: by=badmailfrom.

These are SPAMCONTROL's entries, by what they are meant for.  Its code does
otherwise in places: there `-` never matches; `=` and `~` compare ends of text
and not labels, so that nota.com is below a.com; a short host name passes `=`;
`~a.com` refuses senders in sub.a.com; patterns mind the case, and `!` takes
back patterns only.  With a pattern behind it, `?` is part of that, as there.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..smtp.address import entry_forms, spellings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope

TEXT = b"sorry, your envelope sender is in my badmailfrom list"
#: An entry that is more than an address or a domain has one of these.
MARKS = (b"*", b"?", b"[", b"\\", b"!", b"~", b"-\n", b"=\n", b"+\n", b"re:")
UNKNOWN = b"unknown"


class Plugin:
    """Refuses listed senders, relay clients included.  Raises ControlError."""

    __slots__ = ("_names", "_rules", "_refusal")

    def __init__(self, settings: Settings) -> None:
        entries = settings.lines("badmailfrom") or []
        self._refusal = reject(settings.worded(TEXT, "REPLY_BADMAILFROM"), 553, b"5.7.1")
        self._names: frozenset[bytes] = frozenset()
        self._rules: _Rules | None = None
        text = b"\n".join(entries) + b"\n"
        if any(mark in text for mark in MARKS):
            self._rules = _Rules(settings, entries)
        else:
            self._names = frozenset(form for entry in entries for form in entry_forms(entry))

    def for_session(self) -> Session:
        return Session(self)

    def judge(self, client: Client, envelope: Envelope) -> Decision:
        """What holds for the sender of this envelope."""
        senders = spellings(envelope.sender, envelope.utf8)
        if self._rules is not None:
            listed = self._rules.refuse(client, senders)
        else:
            listed = any(s in self._names or _domain(s) in self._names for s in senders)
        return self._refusal if listed else DECLINED


class Session:
    """Judges a sender once: he is the same for every recipient."""

    __slots__ = ("_plugin", "_judged", "_decision")

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._judged: Envelope | None = None
        self._decision = DECLINED

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if envelope is not self._judged:
            self._judged = envelope
            # A plugin of qmail-spp may say so (see spp.py).
            spared = "spp.ok" in envelope.notes
            self._decision = DECLINED if spared else self._plugin.judge(client, envelope)
        return self._decision


class _Rules:
    """Entries of every kind.  Raises ControlError."""

    __slots__ = ("_listing", "_qualified", "_never")

    def __init__(self, settings: Settings, entries: list[bytes]) -> None:
        from .wildmat import EXPRESSION, Listing, is_wild

        self._never: set[bytes] = set()
        self._qualified = []  # (number, qualifier, the domain in its forms)
        plain = []
        for number, entry in enumerate(entries):
            kind, name = _qualifier(entry)
            if kind and name.startswith(EXPRESSION):
                what = "has both an expression and a qualifier"
                raise settings.bad_entry("badmailfrom", entry, what)
            if kind == b"?" and not is_wild(name):
                self._never.update(entry_forms(name))
            elif kind in (b"", b"?"):
                plain.append((number, entry))
            elif is_wild(name):
                what = "has both a pattern and a qualifier"
                raise settings.bad_entry("badmailfrom", entry, what)
            else:
                self._qualified += [(number, kind, entry_forms(name))]
        self._listing = Listing(settings, "badmailfrom", plain)

    def refuse(self, client: Client, senders: tuple[bytes, ...]) -> bool:
        """Is mail of this sender, in lower case and in all its spellings, refused?"""
        if not self._never.isdisjoint(senders):
            return False
        last, listed = self._listing.last_of(senders)
        domains = [domain[1:] for domain in map(_domain, senders) if domain]
        return listed or any(
            number > last and bool(domains) and _holds(kind, names, domains, client)
            for number, kind, names in self._qualified
        )


def _domain(sender: bytes) -> bytes:
    """The domain with its `@`; b"" where there is none."""
    _, at, domain = sender.rpartition(b"@")
    return at and at + domain


def _qualifier(entry: bytes) -> tuple[bytes, bytes]:
    """(the qualifier or b"", the name or domain that it is for)"""
    if entry[:1] in (b"?", b"~"):
        return entry[:1], entry[1:]
    if entry[:1] == b"@" and entry[-1:] in (b"-", b"=", b"+"):
        return entry[-1:], entry[1:-1]
    return b"", entry


def _holds(kind: bytes, names: tuple[bytes, ...], domains: list[bytes], client: Client) -> bool:
    """Does an entry with a qualifier refuse the senders of this domain, in whatever form?"""
    host = client.peer.host.lower()
    known = host != UNKNOWN
    if kind == b"~":
        is_own = any(_is_below(domain, names) for domain in domains)
        return known and _is_below(host, names) and not is_own
    if not any(name in domains for name in names):
        return False
    if kind == b"-":
        return not known
    if kind == b"=":
        return not (known and _is_below(host, names))
    return client.relay is None


def _is_below(name: bytes, domains: tuple[bytes, ...]) -> bool:
    """Is it this domain, in whatever form, or one below it?"""
    return any(name == domain or name.endswith(b"." + domain) for domain in domains)
