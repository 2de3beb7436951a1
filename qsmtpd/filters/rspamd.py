"""rspamd: shows messages to rspamd, and does as it says.

Configuration: control/rspamd, the address of rspamd's normal worker and options, see scan.py
and net/daemonlist.py, and of this file:
reject: `verdict`, the default, what rspamd rejects is refused; a number, what has so many
points; `never`, nothing.
greylist: what its action of that name means, `pass`, the default, or `defer`.
settings: the name of settings of rspamd's (its Settings-ID).
Of size 50000000 bytes is the default, as of rspamd.
All clients are asked about; rspamd is told who has authenticated.
Header: the lines that rspamd wants added (its module milter_headers), its DKIM-Signature, and
`X-Spam: Yes` where its action is `add header`, or is to reject and that does not count; for
`rewrite subject` its Subject in place of all others; X-Quarantine for `quarantine`.  X-Spam and
X-Rspamd- lines from outside are removed, and those that rspamd wants removed.
Replies: `554 message is spam (#5.7.1)`; `451 try again later (#4.7.1)`; rspamd's own words in
their place, if it has any; what holds for a message that is larger, and where there is no answer.
Its action `discard`: the client is told 250, and nothing is queued.
Log keys: by=rspamd; server= and id=, by which rspamd's log knows the message, with action=,
score= and required=, or with result= where there was no answer.
"""

from __future__ import annotations

import posix as os
from time import time_ns

from ..decision import DECLINE, DECLINED, Changes, Decision, decline, defer, discard, reject
from ..net import rspamd
from ..net.daemon import NoAnswer
from ..smtp.header import is_name
from .said import said
from .scan import REJECT, field, parts_of, scan, scanners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Message
    from ..net.rspamd import Verdict
    from .scan import Scanner

    Fact = tuple[bytes, bytes]

FILE = "rspamd"
SIZE = 50_000_000
GREYLIST, SETTINGS = b"greylist", b"settings"
PASS, LATER = b"pass", b"defer"
OPTIONS = {REJECT: (), GREYLIST: (PASS, LATER), SETTINGS: ()}
REMOVED = {b"X-Spam*": None, b"X-Rspamd-*": None}
SPAM = b"X-Spam: Yes"
TEXT_LIMIT = 200  # bytes
#: Of a field that it adds, the bytes of its name; and how many there may be.
NAME_LIMIT, FIELDS_LIMIT = 100, 50
#: Bytes of UTF-8 in an encoded word, which has at most 75 characters (RFC 2047, 2).
WORD_LIMIT = 42

#: rspamd's actions.
NOTHING, GREY, ADD, REWRITE = b"no action", b"greylist", b"add header", b"rewrite subject"
SOFT_REJECT, HARD_REJECT, DISCARD = b"soft reject", b"reject", b"discard"
QUARANTINE = b"quarantine"
ACTIONS = (NOTHING, GREY, ADD, REWRITE, SOFT_REJECT, HARD_REJECT, DISCARD, QUARANTINE)


class Plugin:
    """Asks rspamd about messages.  Raises ControlError."""

    __slots__ = ("_settings", "scanners")
    spool = True
    removes = True

    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self.scanners = scanners(settings, FILE, SIZE, OPTIONS)

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        adds = any(scanner.headers for scanner in self.scanners)
        return decline(remove=REMOVED) if adds else DECLINED

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        told = list(_facts(client, envelope))
        gone: set[bytes] = set()

        def ask(scanner: Scanner, size: int, parts: Iterator[bytes]) -> Decision:
            found = self._ask(scanner, told, size, parts)
            envelope.notes[self._settings.plugin] = found
            decision = _decide(scanner, found)
            if scanner.headers and decision.verdict == DECLINE:
                gone.update(found.remove)
                if found.action == REWRITE and found.subject:
                    gone.add(b"subject")
            return decision

        decision = scan(self._settings, self.scanners, message, ask)
        if decision.verdict != DECLINE:
            return decision
        return decline(header=decision.header, changes=_without(message, gone))

    def _ask(
        self, scanner: Scanner, told: list[Fact], size: int, parts: Iterator[bytes]
    ) -> Verdict:
        listed = scanner.listed
        id = b"%x-%x" % (time_ns() // 1000, os.getpid())
        header = [*told, (b"Queue-Id", id)]
        if SETTINGS in listed.options:
            header.append((b"Settings-ID", listed.options[SETTINGS]))
        found = rspamd.check(listed.address, listed.timeout, size, header, parts)
        self._settings.log(
            server=listed.name,
            id=id,
            action=found.action,
            score=f"{found.score:.2f}",
            required=f"{found.required:.2f}",
        )
        return found


def _facts(client: Client, envelope: Envelope) -> Iterator[Fact]:
    """What rspamd is told of client and envelope."""
    peer = client.peer
    for name, value in (
        (b"IP", peer.ip),
        (b"Hostname", peer.host),
        (b"Helo", client.helo),
        (b"User", client.auth and client.auth.user),
        (b"MTA-Name", peer.local_host),
        (b"TLS-Version", client.tls and client.tls.protocol),
        (b"TLS-Cipher", client.tls and client.tls.cipher),
    ):
        if value and value != b"unknown":
            yield name, value
    yield b"From", b"<%b>" % envelope.sender
    for recipient in envelope.recipients:
        yield b"Rcpt", b"<%b>" % recipient


def _decide(scanner: Scanner, found: Verdict) -> Decision:
    """Raises NoAnswer for an action that we do not know."""
    action = found.action
    if action not in ACTIONS:
        raise NoAnswer("wants " + action.decode("ascii", "backslashreplace"))
    if scanner.score is None:
        rejects = action == HARD_REJECT and scanner.rejects
    else:
        rejects = found.score >= scanner.score
    text = said(found.text.strip(), TEXT_LIMIT)
    if rejects:
        return reject(text or b"message is spam", 554, b"5.7.1")
    if action == DISCARD:
        return discard(b"rspamd wants it")
    greylists = scanner.listed.options.get(GREYLIST) == LATER
    if action == SOFT_REJECT or (action == GREY and greylists):
        return defer(text or b"try again later", 451, b"4.7.1")
    return decline(header=_lines(found)) if scanner.headers else DECLINED


def _lines(found: Verdict) -> list[bytes]:
    """What is added to the header."""
    lines = [
        field(name, value)
        for name, value in found.add[:FIELDS_LIMIT]
        if is_name(name) and len(name) <= NAME_LIMIT
    ]
    lines += [field(b"DKIM-Signature", value) for value in found.signatures[:FIELDS_LIMIT]]
    if found.action == REWRITE and found.subject:
        lines.append(field(b"Subject", encoded(found.subject)))
    elif found.action in (ADD, REWRITE, HARD_REJECT):
        lines.append(SPAM)
    if found.action == QUARANTINE:  # as of a milter
        lines.append(field(b"X-Quarantine", found.text or b"rspamd wants it"))
    return lines


def encoded(text: bytes) -> bytes:
    """UTF-8 as it may stand in a header: in encoded words, where it is not ASCII (RFC 2047)."""
    if text.isascii():
        return text
    from binascii import b2a_base64

    words, word = [], b""
    for letter in text.decode("utf-8", "replace"):
        byte = letter.encode()
        if len(word) + len(byte) > WORD_LIMIT:
            words.append(word)
            word = b""
        word += byte
    words.append(word)
    return b"\n".join(b"=?UTF-8?B?%b?=" % b2a_base64(word, newline=False) for word in words)


def _without(message: Any, names: set[bytes]) -> Changes | None:
    """The message without these fields; None where it has none of them."""
    if not names & {name.lower() for name, _ in message.header}:
        return None
    from ..smtp.remover import FieldRemover

    new = message.replacement()
    remover = FieldRemover([("", name, None) for name in names if is_name(name)], _unheard)
    for part in parts_of(message):
        new.write(remover.feed(part))
    new.write(remover.feed(b"", True))
    return Changes(new)


def _unheard(owner: str, name: bytes, value: bytes) -> None:
    """That the message has changed is in the log."""
