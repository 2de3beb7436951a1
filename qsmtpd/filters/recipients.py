"""recipients: refuses recipients that have no mailbox here.

Configuration: control/recipients, of SPAMCONTROL, one rule a line; without the
file every recipient is taken.  A domain says who is asked, `:` a cdb and `|` a
program:

    example.org:users/recipients.cdb   example.org and all domains below it
    @example.org:users/recipients.cdb  example.org alone
    .example.org:users/recipients.cdb  the domains below it alone
    example.org|program arguments      a program of checkpassword's kind
    *:cdb, *|program, cdb              any domain
    !example.org                       takes every recipient of that one domain
    !*                                 takes every recipient of a domain that no
                                       other line names

The rules of a recipient are asked in the order of the file; the first that
knows it takes it, and where none does it is refused.  Paths are relative to
QMAILHOME; a program without a slash is looked for in PATH.  In a cdb the key is
`:` and the address in lower case, as qmail-recipients, setforward and
newaliases write it, or that with a NUL behind it; data do not matter.  A
program reads the address and three NULs on descriptor 3 and answers by its exit
status: 0 yes, 1 no.  Who has `joe@example.org` takes `joe-list@example.org` as
well (qmail's extension addresses), in a cdb also by the key `:joe-@example.org`.
A recipient without a domain is looked for as one of `localhost`; `postmaster`
is always taken (RFC 5321, 4.5.1).
Variables: RECIPIENTS450, set to anything: refuse for now; REPLY_MAILBOX: text
that is added to the refusal; RECIPIENTSTIMEOUT: how long a program
may take, 20 seconds.
Replies: `550 sorry, no mailbox by that name (#5.7.1)`, with RECIPIENTS450 `450
sorry, mailbox currently unavailable (#4.2.1)`; `421 unable to check recipients
(#4.3.0)`, and the connection is closed, where a program gave no answer: by any
other exit status, a signal, or its time.  A cdb that is damaged, and anything
that is missing, is `421 unable to read controls (#4.3.0)`.
Log keys: by=recipients; program=, result= and to= of one that gave no answer.

Not as in SPAMCONTROL: its code matches the ends of names without regard to
labels (notexample.org matches example.org), takes a missing cdb for an empty
one and a program that crashed for a no; `!*` there depends on its place; for
extensions its code knows `joe-@` only, its README says `joe@`: here both count.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, defer, drop, reject
from ..smtp.address import boxes, entry_forms, forms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.cdb import Cdb
    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope

    #: (the client's right to relay, the program, the address) -> does it know that?
    Known = dict[tuple[bytes | None, ...], bool]

FILE = "control/recipients"
UNABLE = drop(b"unable to check recipients", 421, b"4.3.0")
#: The maximum number of answers of programs that are remembered.
MEMORY = 1000
BREAK = b"-"  # qmail's conf-break


class NoAnswer(Exception):
    """A program did not say whether it knows the recipient."""


class Rule:
    """One line that asks: whom, and about which domains.  Raises ValueError."""

    __slots__ = ("_names", "cdb", "command")

    def __init__(self, line: bytes) -> None:
        colon, bar = line.find(b":"), line.find(b"|")
        marks = [mark for mark in (colon, bar) if mark >= 0]
        mark = min(marks, default=-1)
        self._names = entry_forms(b"*" if mark < 0 else line[:mark])
        target = line[mark + 1 :]
        self.command = target.split() if marks and mark == bar else []
        self.cdb = b"" if marks and mark == bar else target
        if self._names[0] in (b"", b"@", b".") or not (self.cdb or self.command):
            raise ValueError("names no domain, or not whom to ask")

    def names(self, domain: bytes) -> bool:
        """Is it about this domain (in lower case), and not about any?"""
        return any(_is_named(domain, name) for name in self._names)

    @property
    def any(self) -> bool:
        """Is it about every domain?"""
        return self._names == (b"*",)


def _is_named(domain: bytes, name: bytes) -> bool:
    if name.startswith(b"@"):
        return domain == name[1:]
    if name.startswith(b"."):
        return domain.endswith(name)
    return domain == name or domain.endswith(b"." + name)


class Plugin:
    """Asks about recipients.  Raises ControlError."""

    __slots__ = (
        "_settings",
        "_rules",
        "_open",
        "_pass_unlisted",
        "_refusal",
        "_timeout",
        "_cdbs",
    )
    immune = ("relay",)

    def __init__(self, settings: PluginSettings) -> None:
        lines = settings.lines("recipients")
        self._settings = settings
        self._open = frozenset(
            form for line in lines or () if line[:1] == b"!" for form in entry_forms(line[1:])
        )
        if b"" in self._open:
            raise settings.bad_entry("recipients", b"!", "is of no domain")
        self._pass_unlisted = lines is None or b"*" in self._open
        self._rules = []
        for line in lines or ():
            if line[:1] != b"!":
                try:
                    self._rules.append(Rule(line))
                except ValueError as error:
                    raise settings.bad_entry("recipients", line, str(error)) from error
        self._cdbs: dict[bytes, Cdb] = {}
        if settings.line(None, "RECIPIENTS450") is None:
            text = settings.worded(b"sorry, no mailbox by that name", "REPLY_MAILBOX")
            self._refusal = reject(text, 550, b"5.7.1")
        else:
            text = settings.worded(b"sorry, mailbox currently unavailable", "REPLY_MAILBOX")
            self._refusal = defer(text, 450, b"4.2.1")
        self._timeout = settings.number(None, "RECIPIENTSTIMEOUT", 20, least=1)
        # Each is used when it is needed, but missed at once.
        for rule in self._rules:
            if rule.cdb:
                settings.expect_cdb(FILE, rule.cdb)
            elif b"/" in rule.command[0]:
                settings.expect_program(FILE, rule.command[0])

    def for_session(self) -> Session:
        return Session(self)

    def judge(self, client: Client, envelope: Envelope, recipient: bytes, known: Known) -> Decision:
        """What the rules say of a recipient; `known` is what the programs have answered."""
        if recipient.lower() == b"postmaster":
            return DECLINED
        address = recipient if b"@" in recipient else recipient + b"@localhost"
        box, _, domain = address.rpartition(b"@")
        domains = forms(domain, envelope.utf8)
        names = boxes(box, envelope.utf8)
        if not self._open.isdisjoint(domains):
            return DECLINED
        listed = False
        for rule in self._rules:
            named = not rule.any and any(map(rule.names, domains))
            listed = listed or named
            if named or rule.any:
                try:
                    found = any(
                        self._asks(rule, name, form, client, known)
                        for form in domains
                        for name in names
                    )
                except NoAnswer:
                    return UNABLE
                if found:
                    return DECLINED
        return DECLINED if self._pass_unlisted and not listed else self._refusal

    def _asks(self, rule: Rule, box: bytes, domain: bytes, client: Client, known: Known) -> bool:
        address = box + b"@" + domain
        short, dash, _ = box.partition(BREAK)
        extended = bool(short and dash)
        if rule.command:
            return self._program(rule, address, client, known) or (
                extended and self._program(rule, short + b"@" + domain, client, known)
            )
        keys = [address, short + BREAK + b"@" + domain, short + b"@" + domain]
        cdb = self._cdb(rule.cdb)
        for key in keys if extended else keys[:1]:
            key = b":" + key.lower()
            if key in cdb or key + b"\0" in cdb:
                return True
        return False

    def _program(self, rule: Rule, address: bytes, client: Client, known: Known) -> bool:
        question = (client.relay, *rule.command, address)
        found = known.get(question)
        if found is None:
            from ..child.query import ask
            from ..child.spawn import client_environ

            environ = client_environ(client)
            answer = ask(rule.command, environ, self._timeout, address + b"\0\0\0", search=True)
            if answer.status not in (0, 1):
                self._settings.log(program=rule.command[0], result=answer.how, to=address)
                raise NoAnswer
            if len(known) >= MEMORY:
                known.clear()
            found = known[question] = answer.status == 0
        return found

    def _cdb(self, path: bytes) -> Cdb:
        cdb = self._cdbs.get(path)
        if cdb is None:
            cdb = self._cdbs[path] = self._settings.cdb_at(FILE, path)
        return cdb


class Session:
    """Remembers what the programs have answered."""

    __slots__ = ("_plugin", "_known")

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._known: Known = {}

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        return self._plugin.judge(client, envelope, recipient, self._known)
