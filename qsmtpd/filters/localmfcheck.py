"""localmfcheck: which senders a client that may relay can use.

Configuration: the variable LOCALMFCHECK, with SPAMCONTROL's values: empty, the
sender's domain has to be in rcpthosts; a domain, it has to be that one; `=`,
the sender has to be the user's name (of AUTH, else TCPREMOTEINFO); `?`, an
address of the client's verified certificate; `!`, what control/mailfromrules
says.  That file has lines `key:value,…`, where a value is an address or
`@domain` and the key the first of these that is there: user, user@ip,
user@=host, ip, =host, the ip's prefixes that end in a dot or a colon, =. and the
host's suffixes, `=`.  control/mailfromrules.cdb may have more.  The null sender is
always allowed: it is nobody's.
Replies: `553 sorry, invalid sender address specified (#5.7.1)`, at RCPT, with
the text of REPLY_SENDERINVALID before the status.
Log keys: by=localmfcheck.
"""

from __future__ import annotations

from ..config.settings import shown
from ..decision import DECLINED, Decision, reject
from ..facts import ControlError
from ..net.prefixes import prefixes
from ..smtp.address import entry_forms, spellings
from .rcpthosts import Domains

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..facts import Client, Envelope

WORDS = (b"=", b"?", b"!")
NOT_IN_DOMAIN = frozenset(b" \t@*=?!,")
INVALID = reject(b"sorry, invalid sender address specified", 553, b"5.7.1")


class Plugin:
    """Refuses senders that are not the client's own.  Raises ControlError."""

    __slots__ = ("_rule", "_domains", "_hosts", "_invalid", "_rules", "_cdb")

    def __init__(self, settings: Settings) -> None:
        rule = settings.line(None, "LOCALMFCHECK") or b""
        if rule not in WORDS and (rule.startswith(b".") or not NOT_IN_DOMAIN.isdisjoint(rule)):
            raise ControlError("LOCALMFCHECK", f"is {shown(rule)}, none of = ? ! and no domain")
        self._rule = rule
        self._domains = entry_forms(rule)
        self._hosts = Domains(settings) if rule == b"" else None
        self._invalid = INVALID
        text = settings.worded(INVALID.text, "REPLY_SENDERINVALID")
        if text != INVALID.text:
            self._invalid = reject(text, INVALID.code, INVALID.status)
        self._rules: dict[bytes, bytes] = {}
        self._cdb = None
        if rule == b"!":
            self._rules = _parse(settings, settings.lines("mailfromrules") or [])
            self._cdb = settings.cdb("mailfromrules.cdb")

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        if client.relay is None or not envelope.sender:
            return DECLINED
        senders = spellings(envelope.sender, envelope.utf8)
        allowed = any(self._allowed(client, sender) for sender in senders)
        return DECLINED if allowed else self._invalid

    def _allowed(self, client: Client, sender: bytes) -> bool:
        domain = sender.rpartition(b"@")[2]
        if self._hosts is not None:
            return b"@" in sender and domain in self._hosts
        if self._rule == b"=":
            return sender in entry_forms(_user(client) or b"")
        if self._rule == b"?":
            addresses = client.tls.addresses if client.tls is not None else ()
            return any(sender in entry_forms(address) for address in addresses)
        if self._rule == b"!":
            return _matches(sender, self._values(client))
        return b"@" in sender and domain in self._domains

    def _values(self, client: Client) -> bytes:
        for key in _keys(client):
            found = self._rules.get(key)
            if found is None and self._cdb is not None:
                found = self._cdb.get(key)
            if found is not None:
                return found
        return b""


def _user(client: Client) -> bytes | None:
    return client.auth.user if client.auth is not None else client.peer.info


def _parse(settings: Settings, lines: list[bytes]) -> dict[bytes, bytes]:
    rules: dict[bytes, bytes] = {}
    for line in lines:
        key, colon, values = line.rpartition(b":")
        if not colon:
            raise settings.bad_entry("mailfromrules", line, "has no colon")
        rules.setdefault(key.lower(), b",".join(entry_forms(values)))
    return rules


def _keys(client: Client) -> list[bytes]:
    user, ip, host = _user(client), client.peer.ip, client.peer.host
    if client.peer.anonymous:
        return [*([] if user is None else [user.lower()]), b"="]
    keys = [] if user is None else [user, user + b"@" + ip, user + b"@=" + host]
    keys += [ip, b"=" + host]
    keys += prefixes(ip)
    labels = host.split(b".")
    keys += [b"=." + b".".join(labels[n:]) for n in range(1, len(labels))]
    return [key.lower() for key in (*keys, b"=")]


def _matches(sender: bytes, values: bytes) -> bool:
    """Is the sender one of these addresses, or in one of these domains?"""
    for value in values.lower().split(b","):
        if value.startswith(b"@"):
            if sender.endswith(value):
                return True
        elif value and sender == value:
            return True
    return False
