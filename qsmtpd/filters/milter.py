"""milter: other people's filters that speak Sendmail's milter protocol, as Postfix asks them.

Configuration: control/milters, one a line, `ADDRESS [name=] [timeout=] [content_timeout=]
[fail=]`: inet:HOST:PORT or unix:PATH; what the log calls it; how long connecting, and each
command, may take (30 seconds); how long all of the content of a message may take, with its
end (300); and what holds where it gives no answer: defer, pass or refuse.
They are asked in the order of the lines, and each sees what those before have changed.
A message is held back in a file where one of them may still change it.
Clients that may relay are shown to them as well; `milter immune=relay,auth` in
control/plugins changes that.
A quarantine is a line `X-Quarantine: REASON` in the header.
Replies: what a milter says; `550 Command rejected (#5.7.1)`; `451 Service unavailable - try
again later (#4.7.1)`; where it refuses the connection, 554 or 421, and the connection ends;
`451 a mail filter gives no answer now (#4.3.0)` or `554 a mail filter gives no answer
(#5.3.0)` where it gives none.
Log keys: by=milter; milter=, and id=, which is its macro `i`, with verdict= and at= where it
refuses, changes= where it has changed something, result= where it gives no answer.
"""

from __future__ import annotations

import posix as os
from time import time

from ..config.settings import number
from ..decision import DECLINED, Decision, discard
from ..net.daemonlist import entries
from ..net.milter import protocol
from ..net.milter.asked import Asked
from ..net.milter.edit import Edit, Version
from ..net.milter.macros import of_client, of_envelope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.settings import PluginSettings
    from ..facts import Client, Envelope, Message
    from ..net.daemonlist import Listed

FILE = "milters"
TIMEOUT, CONTENT_TIMEOUT, MOST = 30, 300, 3600  # seconds


class Plugin:
    """Asks milters.  Raises ControlError."""

    __slots__ = ("settings", "milters")

    def __init__(self, settings: PluginSettings) -> None:
        self.settings = settings
        self.milters = [(one, _content(settings, one)) for one in listed(settings)]

    def for_session(self) -> Session:
        return Session(self)


def listed(settings: PluginSettings) -> list[Listed]:
    """The lines of control/milters.  Raises ControlError."""
    return entries(settings, FILE, TIMEOUT, (b"content_timeout",))


def _content(settings: PluginSettings, one: Listed) -> float:
    where = f"control/{settings.list_file(FILE)}: content_timeout"
    given = one.options.get(b"content_timeout")
    return CONTENT_TIMEOUT if given is None else number(where, given, 1, MOST)


class Session:
    """The same for one session."""

    __slots__ = ("_asked", "_id", "_discarded", "_said", "_streams", "_shown")

    def __init__(self, plugin: Plugin) -> None:
        log = plugin.settings.log
        self._asked = [Asked(line, content, log) for line, content in plugin.milters]
        self._id = b""
        self._forget()

    def _forget(self) -> None:
        self._discarded: Asked | None = None  # who wants this message to be taken and forgotten
        self._said: Decision | None = None  # against the body, which is said at the end
        self._streams: Message | None = None  # it is shown while it passes
        self._shown = False  # its header was

    @property
    def spool(self) -> bool:
        """Can one of them still change this message?"""
        return self._discarded is None and any(one.wants_file for one in self._active())

    def _active(self) -> list[Asked]:
        return [one for one in self._asked if one.is_active]

    # -- the connection ----------------------------------------------------

    def helo(self, client: Client, name: bytes) -> Decision:
        """The first time, of the connection as well: for who says nothing, nobody is asked."""
        for one in self._asked:
            decision = one.greet(client, again=True)
            if decision is not None and one.failed is None:
                return decision
        return DECLINED

    def unknown(self, client: Client, line: bytes) -> Decision:
        for one in self._asked:
            decision = one.greet(client)
            if decision is None:
                decision = one.ask(protocol.UNKNOWN, protocol.encode(line))
            if decision is not None and one.failed is None:
                return decision
            if self._is_discarded(one):  # the message under way, if there is one
                break
        return DECLINED

    def disconnect(self, client: Client) -> None:
        for one in self._asked:
            one.quit()

    # -- a transaction -----------------------------------------------------

    def mail(self, client: Client, envelope: Envelope) -> Decision:
        self.reset(client)
        self._id = b"%X%05X" % (int(time() * 1_000_000), os.getpid() & 0xFFFFF)
        parameters = [
            name if value is None else name + b"=" + value
            for name, value in envelope.parameters.items()
        ]
        data = protocol.encode(protocol.path(envelope.sender), *parameters)
        known = {**of_client(client), **of_envelope(client, envelope, self._id)}
        for one in self._asked:
            decision = one.greet(client)
            if decision is None:
                one.id, one.known = self._id, dict(known)
                decision = one.begin(data)
            if decision is not None or self._is_discarded(one):
                return decision or DECLINED
        return DECLINED

    def rcpt(self, client: Client, envelope: Envelope, recipient: bytes) -> Decision:
        recipient = client.asked_for(recipient)
        known = of_envelope(client, envelope, self._id, recipient)
        return self._ask(protocol.RCPT, protocol.encode(protocol.path(recipient)), known)

    def data(self, client: Client, envelope: Envelope) -> Decision:
        return self._ask(protocol.DATA, b"", {})

    def _ask(self, command: bytes, data: bytes, known: Mapping[bytes, bytes]) -> Decision:
        if self._discarded is not None:
            return DECLINED
        for one in self._asked:
            if one.failed is not None:
                return one.failed
            if one.is_active:
                one.known.update(known)
                decision = one.ask(command, data)
                if decision is not None or self._is_discarded(one):
                    return decision or DECLINED
        return DECLINED

    def _is_discarded(self, one: Asked) -> bool:
        if one.discards:
            self._discarded = one
        return one.discards

    def reset(self, client: Client) -> None:
        for one in self._asked:
            one.reset()
        self._forget()

    # -- a message ---------------------------------------------------------

    def header(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        if self._discarded is None and not self.spool and self._active():
            self._streams = message
        return DECLINED

    def body(self, client: Client, envelope: Envelope, chunk: bytes) -> None:
        self._show(chunk)

    def _show(self, chunk: bytes) -> None:
        """The header, when it lacks what others have removed from it, and then the body."""
        message = self._streams
        if message is None or self._discarded is not None or self._said is not None:
            return
        for one in self._active():
            self._said = None if self._shown else one.show_header(message.header, 0)
            self._said = self._said or one.show_body(chunk)
            if self._said is not None or self._is_discarded(one):
                break
        self._shown = True

    def data_post(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        decision = DECLINED
        if self._streams is None and self._discarded is None:
            decision = self._show_file(client, envelope, message)
        elif not self._shown:
            self._show(b"")
        if self._streams is not None and self._discarded is None and self._said is None:
            for one in self._active():
                self._said = one.end()
                if self._said is not None or self._is_discarded(one):
                    break
        if self._said is not None:
            return self._said
        if self._discarded is not None:
            return discard(b"by the milter " + self._discarded.line.name)
        return decision

    def _show_file(self, client: Client, envelope: Envelope, message: Message) -> Decision:
        """Each sees, from the file, what those before have made."""
        active = self._active()
        if not active or message.file is None:
            return DECLINED
        facts = message.file, message.size, envelope.sender, envelope.recipients
        made = Version(*facts, suffix=client.relay or b"")
        edits = []
        for one in active:
            edit = Edit(made, message)
            said = one.show_file(edit)
            if said is not None:
                return said
            if self._is_discarded(one):
                return DECLINED
            if edit.holds:
                made = edit.finished()
                edits.append((one, edit))
        for one, edit in edits:
            one.log_changes(edit)
        if not made.recipients:
            return discard(b"milters have deleted all recipients")
        return made.decision(envelope)
