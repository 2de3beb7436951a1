"""validrcptto: refuses recipients that are not in jms1's validrcptto.cdb.

Configuration: control/validrcptto.cdb, or the cdb that VALIDRCPTTO_CDB names,
relative to QMAILHOME; where that is empty nobody is refused.  Keys are in
lower case, and the first of these that is there decides:

    joe-list-x@example.org         the address
    joe-list-default@example.org   its beginning to a `-`, from the last one on,
    joe-default@example.org        and `default` behind it
    @example.org                   its domain

Data that begin with `-` say no, all others yes; where there is none of these
keys it is no.  A recipient without a domain is looked for as it is, and
`postmaster` is always taken (RFC 5321, 4.5.1).  REPLY_MAILBOX adds to the reply.
Replies: `550 sorry, no mailbox by that name (#5.7.1)`, not to clients that may
relay.
Log keys: by=validrcptto.

jms1's qmail-smtpd says 553, and 421 to the tenth such recipient: for that there
are tarpit and karma.  It reads the file only where VALIDRCPTTO_CDB names it.
"""

from __future__ import annotations

from ..decision import DECLINED, Decision, reject
from ..smtp.address import spellings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.cdb import Cdb
    from ..config.settings import Settings
    from ..facts import Client, Envelope

FILE, VARIABLE = "validrcptto.cdb", "VALIDRCPTTO_CDB"
NO = b"-"
BREAK = b"-"  # qmail's conf-break


class Plugin:
    """Looks recipients up.  Raises ControlError."""

    __slots__ = ("_settings", "_path", "_cdb", "_refusal")
    immune = ("relay",)

    def __init__(self, settings: Settings) -> None:
        text = settings.worded(b"sorry, no mailbox by that name", "REPLY_MAILBOX")
        self._refusal = reject(text, 550, b"5.7.1")
        self._settings = settings
        self._path = settings.line(None, VARIABLE)
        self._cdb: Cdb | None = None
        if self._path is None:
            self._cdb = settings.cdb(FILE)
        elif self._path:  # it is used when it is needed, but missed at once
            settings.expect_cdb(VARIABLE, self._path)

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        addresses = spellings(recipient, envelope.utf8)
        if self._cdb is None and self._path:
            self._cdb = self._settings.cdb_at(VARIABLE, self._path)
        if self._cdb is None or addresses == (b"postmaster",):
            return DECLINED
        for same in zip(*map(keys, addresses), strict=True):
            for key in same:
                data = self._cdb.get(key)
                if data is not None:
                    return self._refusal if data.startswith(NO) else DECLINED
        return self._refusal


def keys(address: bytes) -> Iterator[bytes]:
    """The keys at which an address, in lower case, is looked for, in their order."""
    yield address
    box, at, domain = address.rpartition(b"@")
    if at:
        while BREAK in box:
            box = box.rpartition(BREAK)[0]
            yield box + BREAK + b"default" + at + domain
        yield at + domain
